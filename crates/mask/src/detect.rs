//! Secrets known by their format: where they begin, what they are made of, where they end.
//!
//! A format begins with a constant and goes on with characters of one class, so that a stream can be searched in linear time
//! with a bounded window: what may still become a secret waits, everything else passes.

use std::sync::LazyLock;

use regex::{Regex, bytes};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that is looked for in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Detector {
    /// Private keys in PEM or OpenPGP armour.
    PrivateKey,
    /// JSON Web Tokens (RFC 7519).
    Jwt,
    /// `Bearer` credentials (RFC 6750).
    Bearer,
    /// AWS access key ids.
    Aws,
    /// GitHub tokens.
    Github,
    /// GitLab tokens.
    Gitlab,
    /// Slack tokens.
    Slack,
    /// Stripe keys.
    Stripe,
    /// Google API keys, OAuth tokens and client secrets.
    Google,
    /// npm tokens.
    Npm,
    /// PyPI tokens.
    Pypi,
    /// JSON inside a message: what a server says about a request may echo its whole body. Not in streams.
    EchoedJson,
    /// Values of `data`, `stringData` and `env` that a validation message echoes, and long base64. Not in streams.
    EchoedValue,
}

impl Detector {
    /// Those that can work on a stream.
    pub(crate) const STREAMING: [Self; 11] = [
        Self::PrivateKey,
        Self::Jwt,
        Self::Bearer,
        Self::Aws,
        Self::Github,
        Self::Gitlab,
        Self::Slack,
        Self::Stripe,
        Self::Google,
        Self::Npm,
        Self::Pypi,
    ];

    /// Whether it can work on a stream, and not only on a whole string.
    pub(crate) fn streams(self) -> bool {
        Self::STREAMING.contains(&self)
    }
}

/// A format that begins with a constant.
pub(crate) struct Format {
    pub(crate) detector: Detector,
    pub(crate) prefix: &'static str,
    /// How much of the prefix is kept.
    pub(crate) kept: usize,
    pub(crate) class: fn(u8) -> bool,
    /// How many characters must follow the prefix.
    least: usize,
    valid: fn(&[u8]) -> bool,
}

/// A run longer than this counts as a secret without further check: nothing waits for more.
pub(crate) const LONGEST: usize = 16 << 10;

/// How a private key begins; the kind of key follows.
pub(crate) const PEM: &str = "-----BEGIN ";

const fn plain(detector: Detector, prefix: &'static str, class: fn(u8) -> bool, least: usize) -> Format {
    Format { detector, prefix, kept: 0, class, least, valid: |_| true }
}

static FORMATS: [Format; 35] = [
    Format { valid: is_jwt, ..plain(Detector::Jwt, "eyJ", token68, 20) },
    Format { kept: 7, valid: has_digit, ..plain(Detector::Bearer, "Bearer ", token68, 16) },
    Format { kept: 7, valid: has_digit, ..plain(Detector::Bearer, "bearer ", token68, 16) },
    Format { valid: |run| run.len() == 16, ..plain(Detector::Aws, "AKIA", upper, 16) },
    Format { valid: |run| run.len() == 16, ..plain(Detector::Aws, "ASIA", upper, 16) },
    plain(Detector::Github, "ghp_", alphanumeric, 30),
    plain(Detector::Github, "gho_", alphanumeric, 30),
    plain(Detector::Github, "ghu_", alphanumeric, 30),
    plain(Detector::Github, "ghs_", alphanumeric, 30),
    plain(Detector::Github, "ghr_", alphanumeric, 30),
    plain(Detector::Github, "github_pat_", word, 22),
    plain(Detector::Gitlab, "glpat-", word, 20),
    plain(Detector::Gitlab, "gldt-", word, 20),
    plain(Detector::Gitlab, "glrt-", word, 20),
    plain(Detector::Gitlab, "glcbt-", word, 20),
    plain(Detector::Gitlab, "glptt-", word, 20),
    plain(Detector::Slack, "xoxb-", word, 10),
    plain(Detector::Slack, "xoxp-", word, 10),
    plain(Detector::Slack, "xoxa-", word, 10),
    plain(Detector::Slack, "xoxr-", word, 10),
    plain(Detector::Slack, "xoxs-", word, 10),
    plain(Detector::Slack, "xoxe.", word, 10),
    plain(Detector::Slack, "xapp-", word, 10),
    plain(Detector::Stripe, "sk_live_", alphanumeric, 16),
    plain(Detector::Stripe, "rk_live_", alphanumeric, 16),
    plain(Detector::Stripe, "sk_test_", alphanumeric, 16),
    plain(Detector::Stripe, "rk_test_", alphanumeric, 16),
    plain(Detector::Stripe, "whsec_", token68, 16),
    plain(Detector::Google, "AIza", word, 35),
    plain(Detector::Google, "ya29.", word, 20),
    plain(Detector::Google, "GOCSPX-", word, 20),
    plain(Detector::Npm, "npm_", alphanumeric, 36),
    plain(Detector::Pypi, "pypi-AgE", word, 40),
    plain(Detector::Pypi, "pypi-AgN", word, 40),
    plain(Detector::PrivateKey, PEM, |_| false, 0),
];

impl Format {
    /// No secret is shorter, its prefix included.
    pub(crate) const SHORTEST: usize = 11;

    /// The format whose prefix `bytes` begin with.
    pub(crate) fn at(bytes: &[u8]) -> Option<&'static Self> {
        FORMATS.iter().find(|format| bytes.starts_with(format.prefix.as_bytes()))
    }

    /// How many bytes at the end of `bytes` may be the beginning of a prefix.
    pub(crate) fn begun_at_end(bytes: &[u8]) -> usize {
        let longest = FORMATS.iter().map(|format| format.prefix.len()).max().unwrap_or_default();
        let from = bytes.len().saturating_sub(longest - 1);
        let begins = |tail: &[u8]| FORMATS.iter().any(|format| format.prefix.as_bytes().starts_with(tail));
        (from..bytes.len()).map(|at| &bytes[at..]).find(|tail| begins(tail)).map_or(0, <[u8]>::len)
    }

    /// How many bytes of `run`, which follows the prefix, are the secret's; `None` if it is none.
    pub(crate) fn length(&self, run: &[u8]) -> Option<usize> {
        // A full stop that ends a sentence is no part of a token.
        let trimmed = run.len() - run.iter().rev().take_while(|byte| **byte == b'.').count();
        (trimmed >= self.least && (self.valid)(&run[..trimmed])).then_some(trimmed)
    }
}

/// Where something begins, from `at` on, that a streaming detector should look at. What stands before passes all of them.
pub(crate) fn next_suspicion(bytes: &[u8], at: usize) -> Option<usize> {
    next_prefix(bytes, at)
}

/// Where the next prefix begins, from `at` on.
pub(crate) fn next_prefix(bytes: &[u8], at: usize) -> Option<usize> {
    static PREFIXES: LazyLock<Option<bytes::Regex>> = LazyLock::new(|| {
        let prefixes: Vec<_> = FORMATS.iter().map(|format| regex::escape(format.prefix)).collect();
        bytes::Regex::new(&prefixes.join("|")).ok()
    });
    match PREFIXES.as_ref() {
        Some(prefixes) => prefixes.find_at(bytes, at).map(|found| found.start()),
        // Never, as the tests show; but if it were, every place would be looked at.
        None => (at..bytes.len()).find(|at| Format::at(&bytes[*at..]).is_some()),
    }
}

fn alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

fn token68(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

fn has_digit(run: &[u8]) -> bool {
    run.iter().any(u8::is_ascii_digit)
}

/// What follows `eyJ`: three parts (RFC 7515), or five (RFC 7516).
fn is_jwt(run: &[u8]) -> bool {
    let dots = run.iter().filter(|byte| **byte == b'.').count();
    (dots == 2 || dots == 4) && run.iter().position(|byte| *byte == b'.') >= Some(6)
}

/// Where, in a whole message, values of a request are echoed. Ranges are in order and do not overlap.
pub(crate) fn echoes(text: &str, detector: Detector) -> Vec<std::ops::Range<usize>> {
    match detector {
        Detector::EchoedJson => echoed_json(text).into_iter().collect(),
        Detector::EchoedValue => echoed_values(text),
        _ => Vec::new(),
    }
}

/// From the first object that begins with a quoted key, to the last closing bracket, or to the end.
fn echoed_json(text: &str) -> Option<std::ops::Range<usize>> {
    static START: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r#"[\[{]\s*\{?\s*\\*""#).ok());
    let start = match START.as_ref() {
        Some(start) => start.find(text)?.start(),
        None => text.find(['{', '['])?,
    };
    let end = text.rfind(['}', ']']).filter(|end| *end > start).map_or(text.len(), |end| end + 1);
    Some(start..end)
}

fn echoed_values(text: &str) -> Vec<std::ops::Range<usize>> {
    static INVALID: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r#"(?:\b(?:data|stringData|env)\b[^:\s]*): (?:Invalid|Unsupported|Duplicate) value: (\\*"(?:[^"\\]|\\.)*"?)"#).ok()
    });
    static BASE64: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[A-Za-z0-9+/]{14,}={0,2}").ok());
    let (Some(invalid), Some(base64)) = (INVALID.as_ref(), BASE64.as_ref()) else {
        return std::iter::once(0..text.len()).collect();
    };
    let mut ranges: Vec<_> =
        invalid.captures_iter(text).filter_map(|found| Some(found.get(1)?.range())).collect();
    let encoded = base64.find_iter(text).filter(|found| looks_encoded(found.as_str()));
    ranges.extend(encoded.map(|found| found.range()));
    ranges.sort_by_key(|range| range.start);
    let mut last = 0;
    ranges.retain(|range| {
        let apart = range.start >= last;
        last = last.max(range.end);
        apart
    });
    ranges
}

/// base64 rather than a name in CamelCase, a path or a number: letters of both cases that no word would mix so.
fn looks_encoded(run: &str) -> bool {
    if run.ends_with('=') {
        return run.len().is_multiple_of(4);
    }
    let mut after_upper = false;
    let mut oddities = 0;
    for byte in run.bytes() {
        oddities += usize::from(byte.is_ascii_digit() || byte == b'+');
        oddities += usize::from(after_upper && byte.is_ascii_uppercase());
        after_upper = byte.is_ascii_uppercase();
    }
    run.len().is_multiple_of(4)
        && run.bytes().any(|byte| byte.is_ascii_uppercase())
        && run.bytes().any(|byte| byte.is_ascii_lowercase())
        && oddities * 8 >= run.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, detector: Detector, expected: &[&str]) {
        let found: Vec<_> = echoes(text, detector).into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn no_format_is_shorter_than_the_shortest() {
        let shortest = FORMATS.iter().map(|format| format.prefix.len() + format.least).min();
        assert_eq!(shortest, Some(Format::SHORTEST));
    }

    #[test]
    fn echoed_bodies_are_found() {
        let json = Detector::EchoedJson;
        check(
            r#"Object 'Kind' is missing in '{"apiVersion":"v1","data":{"p":"aHVudGVyMg=="}}'"#,
            json,
            &[r#"{"apiVersion":"v1","data":{"p":"aHVudGVyMg=="}}"#],
        );
        check(r#"bad body: [{"op":"add"}] sorry"#, json, &[r#"[{"op":"add"}]"#]);
        check(r#"cut off {\"data\":{\"p\":\"aHVu"#, json, &[r#"{\"data\":{\"p\":\"aHVu"#]);
        check(r#"secrets "db" is forbidden: User "x" cannot get [a b]"#, json, &[]);
    }

    #[test]
    fn echoed_values_are_found() {
        let value = Detector::EchoedValue;
        check(
            r#"Secret "db" is invalid: data[password]: Invalid value: "hunter2": too short"#,
            value,
            &[r#""hunter2""#],
        );
        check(r#"metadata.name: Invalid value: "Foo_Bar": must be lower case"#, value, &[]);
        check("illegal value aHVudGVyMmh1bnRlcjI= in body", value, &["aHVudGVyMmh1bnRlcjI="]);
        for harmless in [
            r#"secrets "db-password-very-long-name" not found"#,
            "certificatesigningrequests.certificates.k8s.io is forbidden",
            "ValidatingWebhookConfiguration and PersistentVolumeClaimTemplates",
            "no such path /apis/apps/v1/namespaces/default/deployments",
        ] {
            check(harmless, value, &[]);
        }
    }
}
