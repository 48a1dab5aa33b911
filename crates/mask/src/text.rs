//! Plain text, masked as it streams by: logs, and what commands print.

use bytes::{Bytes, BytesMut};

use crate::{
    detect::{Format, LONGEST, PEM, next_prefix},
    piece::Piece,
    rules::TextPlan,
};

/// Replaces what the detectors of a [`TextPlan`] find, in a stream that is cut anywhere.
///
/// What cannot be part of a secret goes on at once; the end of a chunk that may be the beginning of one waits for more.
pub(crate) struct TextScan {
    plan: TextPlan,
    /// What waits: a suffix of what has been taken.
    held: Bytes,
    /// How much of `held` was handed on already, and is kept as the beginning of what may come.
    passed: usize,
    /// The byte before `held`.
    before: Option<u8>,
    inside: Inside,
    interactive: bool,
}

#[derive(Clone, Copy)]
enum Inside {
    Text,
    /// A private key, up to its last line.
    Key,
    /// A run that is too long to wait for: it goes on while its class does.
    Run(fn(u8) -> bool),
}

/// How long the line may be that ends a private key.
const FOOTER: usize = 96;

impl TextScan {
    pub(crate) fn new(plan: TextPlan) -> Self {
        Self { plan, held: Bytes::new(), passed: 0, before: None, inside: Inside::Text, interactive: false }
    }

    /// For terminals: a typed character is never held back because some secret begins with it. The constant with which a
    /// secret begins, which is no secret, may then have passed before the rest is replaced.
    pub(crate) fn interactive(mut self) -> Self {
        self.interactive = true;
        self
    }

    /// Takes a chunk and hands on what is safe.
    pub(crate) fn push(&mut self, chunk: Bytes, out: &mut Vec<Piece>) {
        self.scan(chunk, false, out);
    }

    /// Nothing more comes: hands on the rest.
    pub(crate) fn finish(&mut self, out: &mut Vec<Piece>) {
        self.scan(Bytes::new(), true, out);
    }

    /// How many values each rule replaced since it was last asked.
    pub(crate) fn take_counts(&mut self) -> Vec<(String, u64)> {
        self.plan.take_counts()
    }

    fn scan(&mut self, chunk: Bytes, last: bool, out: &mut Vec<Piece>) {
        let bytes = if self.held.is_empty() {
            chunk
        } else {
            let mut joined = BytesMut::with_capacity(self.held.len() + chunk.len());
            joined.extend_from_slice(&self.held);
            joined.extend_from_slice(&chunk);
            joined.freeze()
        };
        let mut cursor = Cursor { bytes: &bytes, at: 0, done: self.passed, out };
        let keep_from = loop {
            let wait = match self.inside {
                Inside::Text => self.in_text(&mut cursor, last),
                Inside::Key => self.in_key(&mut cursor, last),
                Inside::Run(class) => {
                    while bytes.get(cursor.at).is_some_and(|byte| class(*byte)) {
                        cursor.at += 1;
                    }
                    cursor.skip_to(cursor.at);
                    if cursor.at < bytes.len() {
                        self.inside = Inside::Text;
                        continue;
                    }
                    Some(bytes.len())
                }
            };
            if let Some(from) = wait {
                break from;
            }
        };
        cursor.pass_to(keep_from);
        // In a terminal what has begun passes, but is remembered.
        if self.interactive && matches!(self.inside, Inside::Text) && !last {
            let begun = Format::begun_at_end(&bytes[keep_from..]);
            if begun > 0 && keep_from + begun == bytes.len() {
                cursor.pass_to(bytes.len());
            }
        }
        self.passed = cursor.done.saturating_sub(keep_from);
        if let Some(before) = keep_from.checked_sub(1) {
            self.before = Some(bytes[before]);
        }
        self.held = bytes.slice(keep_from..);
    }

    /// Goes on to the next place where something changes (`None`), or says from where on bytes must wait.
    fn in_text(&mut self, cursor: &mut Cursor<'_>, last: bool) -> Option<usize> {
        let bytes = cursor.bytes;
        let Some(found) = next_prefix(bytes, cursor.at) else {
            let begun = if last { 0 } else { Format::begun_at_end(&bytes[cursor.at..]) };
            return Some(bytes.len() - begun);
        };
        cursor.at = found + 1;
        let format = Format::at(&bytes[found..])?;
        let previous = found.checked_sub(1).map(|at| bytes[at]).or(self.before);
        let inside_word = previous.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !self.plan.looks_for(format.detector)
            || (inside_word && format.prefix.as_bytes()[0].is_ascii_alphanumeric())
        {
            return None;
        }
        let start = found + format.prefix.len();
        if format.prefix == PEM {
            return self.private_key(cursor, found, start, last);
        }
        let length =
            bytes[start..].iter().take(LONGEST + 1).take_while(|byte| (format.class)(**byte)).count();
        if length > LONGEST {
            cursor.replace(found + format.kept..start + length, self.plan.redacted(format.detector));
            self.inside = Inside::Run(format.class);
        } else if start + length == bytes.len() && !last {
            return Some(found);
        } else if let Some(length) = format.length(&bytes[start..start + length]) {
            let secret = found + format.kept..start + length;
            let token = self.plan.replacement(format.detector, &bytes[secret.clone()]);
            cursor.replace(secret, token);
        }
        None
    }

    /// `-----BEGIN ` has been found: is it a private key?
    fn private_key(
        &mut self,
        cursor: &mut Cursor<'_>,
        found: usize,
        start: usize,
        last: bool,
    ) -> Option<usize> {
        let rest = &cursor.bytes[start..];
        let label = rest
            .iter()
            .take(FOOTER)
            .take_while(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || **byte == b' ')
            .count();
        let dashes = rest[label..].iter().take(5).take_while(|byte| **byte == b'-').count();
        if !last && label < FOOTER && dashes < 5 && label + dashes == rest.len() {
            return Some(found);
        }
        let is_key = memchr::memmem::find(&rest[..label], b"PRIVATE KEY").is_some();
        if is_key && dashes == 5 {
            cursor.replace(found..start + label + 5, self.plan.redacted(crate::Detector::PrivateKey));
            self.inside = Inside::Key;
        }
        None
    }

    fn in_key(&mut self, cursor: &mut Cursor<'_>, last: bool) -> Option<usize> {
        const END: &[u8] = b"-----END ";
        let bytes = cursor.bytes;
        let rest = &bytes[cursor.at..];
        if let Some(end) = memchr::memmem::find(rest, END) {
            let label = end + END.len();
            let line = &rest[label..rest.len().min(label + FOOTER)];
            if let Some(dashes) = memchr::memmem::find(line, b"-----") {
                cursor.skip_to(cursor.at + label + dashes + 5);
                self.inside = Inside::Text;
                return None;
            }
            if line.len() == FOOTER {
                cursor.skip_to(cursor.at + label);
                return None;
            }
            if !last {
                let keep = cursor.at + end;
                cursor.skip_to(bytes.len());
                return Some(keep);
            }
        }
        let begun =
            if last { 0 } else { (1..END.len()).rev().find(|n| rest.ends_with(&END[..*n])).unwrap_or(0) };
        cursor.skip_to(bytes.len());
        Some(bytes.len() - begun)
    }
}

/// A place in a buffer, and how much of it has been dealt with.
struct Cursor<'a> {
    bytes: &'a Bytes,
    at: usize,
    /// Up to here bytes were handed on, replaced or left out.
    done: usize,
    out: &'a mut Vec<Piece>,
}

impl Cursor<'_> {
    fn pass_to(&mut self, end: usize) {
        if end > self.done {
            self.out.push(Piece::Verbatim(self.bytes.slice(self.done..end)));
            self.done = end;
        }
    }

    fn skip_to(&mut self, end: usize) {
        self.at = end;
        self.done = self.done.max(end);
    }

    fn replace(&mut self, range: std::ops::Range<usize>, token: String) {
        self.pass_to(range.start);
        if !token.is_empty() {
            self.out.push(Piece::Replacement(token.into()));
        }
        self.skip_to(range.end);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use portcullis_core::RequestInfo;
    use proptest::prelude::*;

    use super::*;
    use crate::{Caller, MaskConfig, MaskKey, Rules, Scope, piece::join};

    static SCOPE: LazyLock<Scope> = LazyLock::new(|| {
        let log = RequestInfo {
            is_resource_request: true,
            verb: "get".into(),
            resource: "pods".into(),
            subresource: "log".into(),
            ..RequestInfo::default()
        };
        let key = MaskKey::from_bytes(&[7; 32]).unwrap();
        Rules::new(&MaskConfig::default(), key).unwrap().scope(&log, Caller::default())
    });

    const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl";
    const GITHUB: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";
    const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\nAwEHoUQD\n-----END EC PRIVATE KEY-----";

    fn mask(chunks: &[&[u8]], interactive: bool) -> Vec<u8> {
        let scan = TextScan::new(SCOPE.text_plan(false));
        let mut scan = if interactive { scan.interactive() } else { scan };
        let mut pieces = Vec::new();
        for chunk in chunks {
            scan.push(Bytes::copy_from_slice(chunk), &mut pieces);
        }
        scan.finish(&mut pieces);
        join(&pieces)
    }

    fn without_digits(masked: &[u8]) -> String {
        let digits = regex::Regex::new("masked:known-formats:(?:[0-9a-f]{16}|redacted)").unwrap();
        digits.replace_all(std::str::from_utf8(masked).unwrap(), "#").into_owned()
    }

    fn check(text: &str, expected: &str) {
        let whole = mask(&[text.as_bytes()], false);
        assert_eq!(without_digits(&whole), expected, "{text}");
        for cut in 0..text.len() {
            let (left, right) = text.as_bytes().split_at(cut);
            assert_eq!(mask(&[left, right], false), whole, "{text} cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(mask(&bytes, false), whole, "{text} by the byte");
    }

    #[test]
    fn known_formats_are_replaced() {
        check(&format!("a {JWT} b"), "a # b");
        check(&format!("token={JWT}."), "token=#.");
        check(&format!("Authorization: Bearer {JWT}\n"), "Authorization: Bearer #\n");
        check("Bearer abcdefgh12345678", "Bearer #");
        check(&format!("{GITHUB},{GITHUB}"), "#,#");
        check("AKIAIOSFODNN7EXAMPLE", "#");
        check("glpat-abcdefghij0123456789 xoxb-123456789012-abc", "# #");
        check("sk_live_0123456789abcdefgh", "#");
        check("AIzaSyA0123456789abcdefghijklmnopqrstuvw", "#");
        check("npm_0123456789abcdefghijklmnopqrstuvwxyz", "#");
        check(&format!("x\n{KEY}\ny"), "x\n#\ny");
        check(&format!("{{\"key\":\"{}\"}}", KEY.replace('\n', "\\n")), "{\"key\":\"#\"}");
        check("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA never ends", "#");
        check("-----BEGIN PGP PRIVATE KEY BLOCK-----\nx\n-----END PGP PRIVATE KEY BLOCK-----.", "#.");
    }

    #[test]
    fn ordinary_text_passes() {
        for text in [
            "",
            "the eye sees AKIA and ghp_ and Bearer of news",
            "Bearer authentication is required for this",
            "eyJhbGciOiJSUzI1NiJ9.notajwt",
            "taskAKIAIOSFODNN7EXAMPLE",
            "AKIAIOSFODNN7EXAMPLELONGER",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "-----BEGIN ",
            "2026-11-03T10:00:00Z level=info sha256:0123456789abcdef0123456789abcdef",
            "gh p_ glpat-short sk_live_short",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn a_run_without_end_is_masked_in_bounded_memory() {
        let mut scan = TextScan::new(SCOPE.text_plan(false));
        let mut pieces = Vec::new();
        scan.push(Bytes::from_static(b"x ghp_"), &mut pieces);
        for _ in 0..100 {
            scan.push(Bytes::from(vec![b'a'; 1 << 10]), &mut pieces);
            assert!(scan.held.len() <= LONGEST + (2 << 10));
        }
        scan.push(Bytes::from_static(b" y"), &mut pieces);
        scan.finish(&mut pieces);
        assert_eq!(without_digits(&join(&pieces)), "x # y");
    }

    #[test]
    fn a_line_is_handed_on_at_once_and_not_copied() {
        let mut scan = TextScan::new(SCOPE.text_plan(false));
        let line = Bytes::from_static(b"GET /healthz 200\n");
        let mut pieces = Vec::new();
        scan.push(line.clone(), &mut pieces);
        assert_eq!(pieces, [Piece::Verbatim(line.clone())]);
        assert_eq!(pieces[0].bytes().as_ptr(), line.as_ptr());
    }

    #[test]
    fn a_terminal_shows_each_character_typed() {
        let mut scan = TextScan::new(SCOPE.text_plan(false)).interactive();
        for typed in ["g", "h", " ", "-", "-", "e", "y", "J"] {
            let mut pieces = Vec::new();
            scan.push(Bytes::from_static(typed.as_bytes()), &mut pieces);
            assert_eq!(join(&pieces), typed.as_bytes());
        }
        let bytes: Vec<&[u8]> = GITHUB.as_bytes().chunks(1).collect();
        let shown = String::from_utf8(mask(&bytes, true)).unwrap();
        assert!(
            shown.starts_with("ghp_masked:known-formats:") && !shown.contains("0123456789abcdefghijk"),
            "{shown}"
        );
        assert_eq!(without_digits(&mask(&[format!("$ {GITHUB}\n").as_bytes()], true)), "$ #\n");
    }

    fn fragments() -> impl Strategy<Value = String> {
        let fragment = prop_oneof![
            Just(JWT.to_owned()),
            Just(GITHUB.to_owned()),
            Just(KEY.to_owned()),
            Just("-----BEGIN PRIVATE KEY-----".to_owned()),
            Just("-----END ".to_owned()),
            Just("ghp_".to_owned()),
            Just("Bearer ".to_owned()),
            "[ -~\n]{0,12}",
        ];
        prop::collection::vec(fragment, 0..6).prop_map(|fragments| fragments.concat())
    }

    proptest! {
        #[test]
        fn cutting_never_changes_what_comes_out(text in fragments(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5), interactive: bool) {
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let whole = mask(&[text.as_bytes()], false);
            let cut = mask(&chunks, interactive);
            if !interactive {
                prop_assert_eq!(&cut, &whole);
            }
            prop_assert!(memchr::memmem::find(&cut, &GITHUB.as_bytes()[8..]).is_none() || memchr::memmem::find(&whole, &GITHUB.as_bytes()[8..]).is_some());
        }
    }
}
