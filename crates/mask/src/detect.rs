//! Secrets known by their format: where they begin, what they are made of, where they end.
//!
//! A format begins with a constant and goes on with characters of one class, so that a stream can be searched in linear time
//! with a bounded window: what may still become a secret waits, everything else passes. What has no constant (e-mail
//! addresses, IBANs, numbers of cards) is short instead: see [`shape`].

mod echo;
mod glance;
pub(crate) mod judge;
pub(crate) mod shape;

pub(crate) use echo::echoes;
pub(crate) use glance::{finds, next_prefix};

use std::{ops::Range, sync::LazyLock};

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
    /// AWS access key ids, and secret access keys beside their name.
    Aws,
    /// GitHub tokens.
    Github,
    /// GitLab tokens.
    Gitlab,
    /// Slack tokens.
    Slack,
    /// Stripe keys.
    Stripe,
    /// Google API keys, OAuth tokens and client secrets. (The keys of service accounts are private keys.)
    #[serde(alias = "gcp")]
    Google,
    /// npm tokens.
    Npm,
    /// PyPI tokens.
    Pypi,
    /// Azure account keys, shared access keys and the signatures of shared access.
    Azure,
    /// Passwords in the URLs of databases, brokers and services: `scheme://user:password@host`.
    UrlPassword,
    /// What stands after `Authorization:`, of any scheme.
    Authorization,
    /// Values beside a name that says they are secret, such as `password=` or `"token": `, that are long enough or look random.
    HighEntropy,
    /// E-mail addresses.
    Email,
    /// International bank account numbers (ISO 13616).
    Iban,
    /// Numbers of payment cards.
    Card,
    /// JSON inside a message, or what Go prints of it: what a server says about a request may echo its whole body. Not in streams.
    EchoedJson,
    /// Values of `data`, `stringData` and `env` that a validation message echoes, and long base64. Not in streams.
    EchoedValue,
}

impl Detector {
    /// Those that can work on a stream.
    const STREAMING: [Self; 18] = [
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
        Self::Azure,
        Self::UrlPassword,
        Self::Authorization,
        Self::HighEntropy,
        Self::Email,
        Self::Iban,
        Self::Card,
    ];

    /// Those that find credentials, in streams too. What is only personal is not among them: who did something is what a
    /// record is for, and people's names are often addresses.
    pub(crate) fn of_credentials() -> impl Iterator<Item = Self> {
        Self::STREAMING.into_iter().filter(|detector| !shape::DETECTORS.contains(detector))
    }

    /// Whether it can work on a stream, and not only on a whole string.
    pub(crate) fn streams(self) -> bool {
        Self::STREAMING.contains(&self)
    }
}

/// Some detectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DetectorSet(u32);

impl DetectorSet {
    #[inline]
    pub(crate) fn contains(self, detector: Detector) -> bool {
        self.0 & (1 << detector as u32) != 0
    }

    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without(self, detectors: [Detector; 2]) -> Self {
        Self(self.0 & !Self::from_iter(detectors).0)
    }
}

impl FromIterator<Detector> for DetectorSet {
    fn from_iter<T: IntoIterator<Item = Detector>>(detectors: T) -> Self {
        Self(detectors.into_iter().fold(0, |set, detector| set | 1 << detector as u32))
    }
}

/// A format that begins with a constant.
pub(crate) struct Format {
    pub(crate) detector: Detector,
    pub(crate) prefix: &'static str,
    /// Whether letter case matters in the prefix (which is in lower case if not).
    exact: bool,
    /// Whether the prefix is kept, and all that stands before the secret.
    pub(crate) kept: bool,
    lead: Lead,
    /// How many characters must follow the prefix.
    least: usize,
    /// Which part of the run is the secret.
    secret: fn(&Run<'_>) -> Option<Range<usize>>,
}

/// What stands between the prefix and the run that may be a secret.
#[derive(Clone, Copy)]
enum Lead {
    /// Nothing; the run goes on while its characters are of this class.
    Nothing(Class),
    /// The prefix is a name: `=`, `:` or the like follows, and perhaps a quotation mark.
    Assigned(Class),
    /// The same, but what is in quotation marks goes on up to the closing one.
    AssignedText(Class),
}

pub(crate) type Class = fn(u8) -> bool;

/// What a prefix turns out to be followed by.
pub(crate) enum Opening {
    /// Nothing that could be a secret.
    Nothing,
    /// That is not known yet.
    More,
    /// A run that begins so many bytes later.
    Run { skip: usize, extent: Extent, bare: bool },
}

/// How far a run goes.
#[derive(Clone, Copy)]
pub(crate) enum Extent {
    Class(Class),
    /// Up to a quotation mark with no more backslashes before it than the opening one had.
    Quoted {
        mark: u8,
        escapes: usize,
    },
}

/// A run that may be a secret.
pub(crate) struct Run<'a> {
    pub(crate) bytes: &'a [u8],
    /// What comes after it; nothing at the end of the text.
    pub(crate) next: Option<u8>,
    /// Whether it stands after a colon without quotation marks, as do words of messages.
    pub(crate) bare: bool,
}

/// A run longer than this counts as a secret without further check: nothing waits for more.
pub(crate) const LONGEST: usize = 16 << 10;

/// How a private key begins; the kind of key follows.
pub(crate) const PEM: &str = "-----BEGIN ";

const fn plain(detector: Detector, prefix: &'static str, class: Class, least: usize) -> Format {
    let secret = judge::whole;
    Format { detector, prefix, exact: true, kept: false, lead: Lead::Nothing(class), least, secret }
}

const fn bearer(prefix: &'static str) -> Format {
    Format { kept: true, secret: judge::with_digit, ..plain(Detector::Bearer, prefix, token68, 16) }
}

const fn aws_id(prefix: &'static str) -> Format {
    Format { secret: judge::aws_id, ..plain(Detector::Aws, prefix, upper, 16) }
}

const fn named(detector: Detector, prefix: &'static str, lead: Lead, least: usize) -> Format {
    Format { exact: false, kept: true, lead, ..plain(detector, prefix, word, least) }
}

const fn aws_secret(prefix: &'static str) -> Format {
    Format { secret: judge::aws_secret, ..named(Detector::Aws, prefix, Lead::Assigned(base64), 40) }
}

const fn azure_key(prefix: &'static str) -> Format {
    Format { secret: judge::azure_key, ..named(Detector::Azure, prefix, Lead::Assigned(base64), 40) }
}

const fn url(prefix: &'static str) -> Format {
    let lead = Lead::Nothing(authority);
    Format { secret: judge::url_password, ..named(Detector::UrlPassword, prefix, lead, 5) }
}

const fn password(prefix: &'static str) -> Format {
    let lead = Lead::AssignedText(unquoted);
    Format { secret: judge::password, ..named(Detector::HighEntropy, prefix, lead, 8) }
}

const fn token(prefix: &'static str) -> Format {
    let lead = Lead::AssignedText(unquoted);
    Format { secret: judge::token, ..named(Detector::HighEntropy, prefix, lead, 16) }
}

/// Where two prefixes begin alike, the first that finds something decides.
static FORMATS: &[Format] = &[
    Format { secret: judge::jwt, ..plain(Detector::Jwt, "eyJ", token68, 20) },
    bearer("Bearer "),
    bearer("bearer "),
    aws_id("AKIA"),
    aws_id("ASIA"),
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
    aws_secret("secret_access_key"),
    aws_secret("secretaccesskey"),
    aws_secret("secret-access-key"),
    azure_key("accountkey"),
    azure_key("account_key"),
    azure_key("sharedaccesskey"),
    Format {
        secret: judge::azure_signature,
        ..named(Detector::Azure, "sig=", Lead::Nothing(token68_escaped), 43)
    },
    url("postgres://"),
    url("postgresql://"),
    url("mysql://"),
    url("mariadb://"),
    url("mongodb://"),
    url("mongodb+srv://"),
    url("redis://"),
    url("rediss://"),
    url("amqp://"),
    url("amqps://"),
    url("mssql://"),
    url("sqlserver://"),
    url("http://"),
    url("https://"),
    url("ftp://"),
    url("smtp://"),
    Format {
        secret: judge::authorization,
        ..named(Detector::Authorization, "authorization", Lead::AssignedText(line), 4)
    },
    password("password"),
    password("passwd"),
    password("passphrase"),
    password("_pass"),
    password("pwd"),
    token("secret"),
    token("token"),
    token("credential"),
    token("credentials"),
    token("api_key"),
    token("apikey"),
    token("api-key"),
    token("access_key"),
    token("accesskey"),
    token("access-key"),
    token("secret_key"),
    token("secretkey"),
    token("secret-key"),
    token("private_key"),
    token("privatekey"),
    token("private-key"),
    token("signing_key"),
    token("signingkey"),
    token("encryption_key"),
    token("encryptionkey"),
];

impl Format {
    /// No secret is shorter, its prefix included. (What is found by its shape may be: an e-mail address.)
    pub(crate) const SHORTEST: usize = 11;

    /// No prefix is longer.
    const LONGEST_PREFIX: usize = 17;

    /// The formats whose prefix `bytes` begin with.
    pub(crate) fn at(bytes: &[u8]) -> impl Iterator<Item = &'static Self> {
        Self::at_if(bytes, |_| true)
    }

    /// Those of detectors that are wanted, which are asked for first.
    fn at_if(bytes: &[u8], wanted: impl Fn(Detector) -> bool) -> impl Iterator<Item = &'static Self> {
        let at = move |format: &&Self| {
            wanted(format.detector) && bytes.len() >= format.prefix.len() && format.agrees(bytes)
        };
        Self::near(bytes).filter(at)
    }

    /// Whether `bytes` are no more than the beginning of a prefix.
    pub(crate) fn begins(bytes: &[u8]) -> bool {
        Self::begun_by(bytes).any(|format| bytes.len() < format.prefix.len())
    }

    /// How many bytes at the end of `bytes` may be the beginning of a prefix, or all of it.
    pub(crate) fn begun_at_end(bytes: &[u8]) -> usize {
        let from = bytes.len().saturating_sub(Self::LONGEST_PREFIX);
        let begun = |tail: &&[u8]| Self::begun_by(tail).any(|format| tail.len() <= format.prefix.len());
        (from..bytes.len()).map(|at| &bytes[at..]).find(begun).map_or(0, <[u8]>::len)
    }

    /// The formats whose prefix agrees with `bytes`, as far as the shorter one goes.
    fn begun_by(bytes: &[u8]) -> impl Iterator<Item = &'static Self> {
        Self::near(bytes).filter(move |format| format.agrees(bytes))
    }

    /// The few formats whose prefix may agree with `bytes`.
    fn near(bytes: &[u8]) -> impl Iterator<Item = &'static Self> {
        /// By the first three bytes, whatever their case: hardly any two formats meet there that do not begin alike.
        static SLOTS: LazyLock<Vec<Vec<&'static Format>>> = LazyLock::new(|| {
            let mut slots = vec![Vec::new(); 256];
            for format in FORMATS {
                let bytes = format.prefix.as_bytes();
                slots[slot([bytes[0], bytes[1], bytes[2]])].push(format);
            }
            slots
        });
        let (few, slot) = match bytes {
            [a, b, c, ..] => (&[][..], SLOTS[slot([*a, *b, *c])].as_slice()),
            _ => (FORMATS, &[][..]),
        };
        few.iter().chain(slot.iter().copied())
    }

    /// Whether what begins here, in a text of which nothing more comes, is a secret of this format, whose prefix is here.
    fn is_whole(&self, text: &[u8]) -> bool {
        let rest = &text[self.prefix.len()..];
        if self.prefix == PEM {
            return private_key_label(rest).is_some();
        }
        let Opening::Run { skip, extent, bare } = self.opening(rest) else { return false };
        let run = &rest[skip..];
        let (length, _) = extent.measure(run);
        let next = run.get(length).copied();
        length > LONGEST || self.secret(&Run { bytes: &run[..length], next, bare }).is_some()
    }

    /// Whether the prefix and `bytes` are the same as far as the shorter one goes.
    fn agrees(&self, bytes: &[u8]) -> bool {
        let length = bytes.len().min(self.prefix.len());
        let (prefix, bytes) = (&self.prefix.as_bytes()[..length], &bytes[..length]);
        if self.exact { prefix == bytes } else { prefix.eq_ignore_ascii_case(bytes) }
    }

    /// Whether something that stands right after `previous` may be meant.
    pub(crate) fn may_follow(&self, previous: Option<u8>) -> bool {
        let named = matches!(self.lead, Lead::Assigned(_) | Lead::AssignedText(_));
        match previous {
            // A name may be part of a longer one; but `checksum/secret` names no secret.
            Some(previous) if named => previous != b'/',
            Some(previous) => {
                !(previous.is_ascii_alphanumeric() || previous == b'_')
                    || !self.prefix.as_bytes()[0].is_ascii_alphanumeric()
            }
            None => true,
        }
    }

    /// What stands between the prefix and a run that may be a secret.
    pub(crate) fn opening(&self, rest: &[u8]) -> Opening {
        match self.lead {
            Lead::Nothing(class) => Opening::Run { skip: 0, extent: Extent::Class(class), bare: false },
            Lead::Assigned(class) => match assignment(rest) {
                Opening::Run { skip, bare, .. } => Opening::Run { skip, extent: Extent::Class(class), bare },
                other => other,
            },
            Lead::AssignedText(class) => match assignment(rest) {
                Opening::Run { skip, bare, extent: Extent::Class(_) } => {
                    Opening::Run { skip, extent: Extent::Class(class), bare }
                }
                other => other,
            },
        }
    }

    /// Which part of the run is the secret; `None` if it is none.
    pub(crate) fn secret(&self, run: &Run<'_>) -> Option<Range<usize>> {
        // A full stop that ends a sentence is no part of a token.
        let trimmed = run.bytes.len() - run.bytes.iter().rev().take_while(|byte| **byte == b'.').count();
        if trimmed < self.least {
            return None;
        }
        let next = if trimmed < run.bytes.len() { Some(b'.') } else { run.next };
        (self.secret)(&Run { bytes: &run.bytes[..trimmed], next, bare: run.bare })
    }
}

fn slot(bytes: [u8; 3]) -> usize {
    let sum =
        bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_mul(29).wrapping_add(byte.to_ascii_lowercase()));
    usize::from(sum)
}

/// The length of `RSA PRIVATE KEY-----` and the like, if that follows [`PEM`].
pub(crate) fn private_key_label(rest: &[u8]) -> Option<usize> {
    let rest = &rest[..rest.len().min(LABEL + 5)];
    let label = rest.iter().take_while(|byte| in_label(**byte)).count();
    let is_key = memchr::memmem::find(&rest[..label], b"PRIVATE KEY").is_some();
    (is_key && rest[label..].starts_with(b"-----")).then_some(label + 5)
}

/// No label is longer.
pub(crate) const LABEL: usize = 96;

pub(crate) fn in_label(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' '
}

/// `=`, `: `, `": "`, `\":\"`, ` := '`, ` => `. Bounded: at most 18 bytes.
fn assignment(rest: &[u8]) -> Opening {
    let count = |at: usize, most: usize, class: Class| {
        rest[at..].iter().take(most).take_while(|byte| class(**byte)).count()
    };
    let blank: Class = |byte| byte == b' ' || byte == b'\t';
    let quotation: Class = |byte| byte == b'"' || byte == b'\'';
    let mut at = count(0, 4, |byte| byte == b'\\');
    at += count(at, 1, quotation);
    at += count(at, 3, blank);
    let signs = count(at, 2, |byte| byte == b':' || byte == b'=');
    let colon = rest.get(at) == Some(&b':');
    at += signs;
    if signs > 0 {
        at += count(at, 1, |byte| byte == b'>');
        at += count(at, 3, blank);
    }
    let escapes = count(at, 4, |byte| byte == b'\\');
    match rest.get(at + escapes) {
        None => Opening::More,
        Some(_) if signs == 0 => Opening::Nothing,
        Some(mark) if quotation(*mark) => Opening::Run {
            skip: at + escapes + 1,
            extent: Extent::Quoted { mark: *mark, escapes },
            bare: false,
        },
        Some(_) => Opening::Run { skip: at, extent: Extent::Class(unquoted), bare: colon },
    }
}

impl Extent {
    /// How many bytes the run has, and whether it has ended. No more than one byte over [`LONGEST`] is looked at.
    pub(crate) fn measure(self, bytes: &[u8]) -> (usize, bool) {
        let bytes = &bytes[..bytes.len().min(LONGEST + 1)];
        match self {
            Self::Class(class) => {
                let length = bytes.iter().take_while(|byte| class(**byte)).count();
                (length, length < bytes.len())
            }
            Self::Quoted { mark, escapes } => {
                let mut backslashes = 0;
                for (at, byte) in bytes.iter().enumerate() {
                    match *byte {
                        b'\\' => backslashes += 1,
                        b'\n' => return (at, true),
                        byte if byte == mark && escapes == 0 && backslashes % 2 == 0 => return (at, true),
                        byte if byte == mark && escapes > 0 && backslashes <= escapes => {
                            return (at - backslashes, true);
                        }
                        _ => backslashes = 0,
                    }
                }
                (bytes.len(), false)
            }
        }
    }

    /// How a run goes on that is too long to be looked at.
    pub(crate) fn rest(self) -> Class {
        match self {
            Self::Class(class) => class,
            Self::Quoted { mark: b'"', .. } => |byte| byte != b'"' && byte != b'\n',
            Self::Quoted { .. } => |byte| byte != b'\'' && byte != b'\n',
        }
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

fn token68_escaped(byte: u8) -> bool {
    token68(byte) || byte == b'%'
}

fn base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)
}

/// What may stand between `://` and the path. A password may have what should have been escaped.
fn authority(byte: u8) -> bool {
    unquoted(byte) && !b"/<>".contains(&byte)
}

/// A value without quotation marks.
fn unquoted(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && !b"\"'`\\".contains(&byte)
}

/// The rest of a line.
fn line(byte: u8) -> bool {
    byte != b'\n' && byte != b'\r'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_format_is_shorter_than_the_shortest() {
        let keys = FORMATS.iter().filter(|format| format.prefix != PEM);
        let shortest = keys.map(|format| format.prefix.len() + format.least).min();
        assert_eq!(shortest, Some(Format::SHORTEST));
        let longest = FORMATS.iter().map(|format| format.prefix.len()).max();
        assert_eq!(longest, Some(Format::LONGEST_PREFIX));
        assert!(FORMATS.iter().all(|format| format.prefix.len() >= 3));
    }
}
