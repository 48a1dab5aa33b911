//! The search for values that must not be there, as they are and in what they may be hidden in.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};
use portcullis_tests::{Gateway, content, files_below};
use regex::bytes::Regex;

/// Values that are nowhere but where the test puts them.
pub(crate) struct Canaries {
    pub(crate) values: BTreeMap<&'static str, String>,
}

impl Canaries {
    /// One for each of these places.
    pub(crate) fn new(places: &[&'static str]) -> Self {
        let value = || format!("canary{}", uuid::Uuid::new_v4().simple());
        Self { values: places.iter().map(|place| (*place, value())).collect() }
    }

    pub(crate) fn all_but(&self, places: &[&str]) -> Self {
        let kept = self.values.iter().filter(|(place, _)| !places.contains(place));
        Self { values: kept.map(|(place, value)| (*place, value.clone())).collect() }
    }

    #[track_caller]
    pub(crate) fn appear_nowhere_in(&self, evidence: &[(String, Vec<u8>)]) {
        let bytes: usize = evidence.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes > 1000, "nothing was searched");
        let mut hits = Vec::new();
        for (place, value) in &self.values {
            let pattern = pattern(value);
            for (what, bytes) in evidence {
                if let Some(hit) = pattern.find(bytes) {
                    let around = &bytes[hit.start().saturating_sub(200)..bytes.len().min(hit.end() + 50)];
                    hits.push(format!("{place} in {what}: …{}…", String::from_utf8_lossy(around)));
                }
            }
        }
        assert!(hits.is_empty(), "{} LEAKS\n{}", hits.len(), hits.join("\n"));
    }

    /// Neither in what was said nor in what the gateway has kept is any of them.
    pub(crate) async fn appear_nowhere(&self, mut evidence: Vec<(String, Vec<u8>)>, mut gateway: Gateway) {
        evidence.extend(gateway.evidence().await);
        self.appear_nowhere_in(&evidence);
        gateway.start_again().await;
        gateway.agrees_with_the_server().await;
    }

    #[track_caller]
    pub(crate) fn all_appear_in(&self, bytes: &[u8]) {
        for (place, value) in &self.values {
            assert!(pattern(value).is_match(bytes), "{place} is not there");
        }
    }
}

/// Finds a value, any good part of it, and what it looks like in base64 at whatever offset, once and
/// twice encoded, and in hexadecimal.
#[expect(clippy::unwrap_used, reason = "without it there is no test")]
fn pattern(value: &str) -> Regex {
    const PART: usize = 14;
    let mut needles: Vec<String> = value.as_bytes().windows(PART).map(lossless).collect();
    let once = encoded(value.as_bytes());
    let twice = once.iter().flat_map(|needle| encoded(needle.as_bytes())).collect::<Vec<_>>();
    needles.extend(once.into_iter().chain(twice));
    needles.push(value.bytes().map(|byte| format!("{byte:02x}")).collect());
    let alternatives: Vec<String> = needles.iter().map(|needle| regex::escape(needle)).collect();
    Regex::new(&alternatives.join("|")).unwrap()
}

fn lossless(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What base64 makes of bytes in the middle of others: one of three, by where they begin.
fn encoded(bytes: &[u8]) -> Vec<String> {
    let with = |alphabet: &Alphabet, offset: usize| {
        let shifted = [vec![0; offset], bytes.to_vec()].concat();
        let text = GeneralPurpose::new(alphabet, NO_PAD).encode(&shifted);
        // The characters that only these bytes decide.
        let (from, to) = ((offset * 8).div_ceil(6), shifted.len() * 8 / 6);
        text[from..to].to_owned()
    };
    (0..3).flat_map(|offset| [with(&STANDARD, offset), with(&URL_SAFE, offset)]).collect()
}

#[expect(clippy::unwrap_used, reason = "without it there is no test")]
pub(crate) fn mask_pattern() -> Regex {
    let needles: Vec<String> = encoded(b"masked:").into_iter().chain(["masked:".to_owned()]).collect();
    Regex::new(&needles.join("|")).unwrap()
}

pub(crate) fn find(needle: &[u8], bytes: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// All files below a directory whose path has this in it, as one.
pub(crate) fn bytes_below(dir: &Path, part: &str) -> Vec<u8> {
    let files = files_below(dir);
    let wanted = files.iter().filter(|file| file.to_string_lossy().contains(part));
    wanted.flat_map(|file| content(file)).collect()
}

#[test]
fn the_search_finds_what_is_there() {
    let value = "canary0123456789abcdef0123456789abcdef";
    let engine = base64::engine::general_purpose::STANDARD;
    for before in ["", "x", "xy", "xyz"] {
        let around = format!("{before}{value}{before}");
        let once = engine.encode(&around);
        for hidden in [around.clone(), once.clone(), engine.encode(format!("{{\"data\":\"{once}\"}}"))] {
            assert!(pattern(value).is_match(hidden.as_bytes()), "{hidden}");
        }
    }
    assert!(pattern(value).is_match(b"...0123456789abcdef..."));
    assert!(!pattern(value).is_match(b"canary0123 and nothing else"));
}
