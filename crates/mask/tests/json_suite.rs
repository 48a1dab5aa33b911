//! What is JSON by RFC 8259, and what is not: accepted texts come out as they went in, others end the stream, however they are cut.

use bytes::Bytes;
use portcullis_core::RequestInfo;
use portcullis_mask::{Caller, Limits, MaskConfig, MaskKey, Masker, Rule, Rules, Scope};

#[expect(clippy::expect_used, reason = "without rules there is no test")]
fn scope() -> Scope {
    let limits = Limits { depth: 100, ..Limits::default() };
    let rules = vec![Rule::new("nothing").path("no.such.path")];
    let config = MaskConfig { packs: Vec::new(), rules, limits, ..MaskConfig::default() };
    let key = MaskKey::from_bytes(&[7; 32]).expect("a key");
    Rules::new(&config, key).expect("rules").scope(&RequestInfo::default(), Caller::default())
}

/// What comes out of these chunks; `None` if it is no JSON.
fn masked(scope: &Scope, chunks: &[&[u8]]) -> Option<Vec<u8>> {
    let (mut masker, mut pieces) = (Masker::new(scope.clone()), Vec::new());
    for chunk in chunks {
        masker.push(Bytes::copy_from_slice(chunk), &mut pieces).ok()?;
    }
    masker.finish(&mut pieces).ok()?;
    Some(pieces.into_iter().flat_map(|piece| piece.into_bytes().to_vec()).collect())
}

fn check(scope: &Scope, text: &[u8], accepted: bool) {
    let expected = accepted.then(|| text.to_vec());
    assert_eq!(masked(scope, &[text]), expected, "{}", text.escape_ascii());
    let bytes: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(masked(scope, &bytes), expected, "{} by the byte", text.escape_ascii());
    for cut in 0..text.len() {
        let (left, right) = text.split_at(cut);
        assert_eq!(masked(scope, &[left, right]), expected, "{} cut at {cut}", text.escape_ascii());
    }
}

#[test]
fn accepted() {
    let scope = scope();
    let texts = ACCEPTED.iter().map(|text| text.as_bytes()).chain(ACCEPTED_BYTES.iter().copied());
    texts.for_each(|text| check(&scope, text, true));
    check(&scope, [b"[".repeat(100), b"]".repeat(100)].concat().as_slice(), true);
    check(&scope, format!("\"{}\"", "x".repeat(5000)).as_bytes(), true);
}

#[test]
fn rejected() {
    let scope = scope();
    let texts = REJECTED.iter().map(|text| text.as_bytes()).chain(REJECTED_BYTES.iter().copied());
    texts.for_each(|text| check(&scope, text, false));
    check(&scope, [b"[".repeat(101), b"]".repeat(101)].concat().as_slice(), false);
    assert!(ACCEPTED.len() + ACCEPTED_BYTES.len() + REJECTED.len() + REJECTED_BYTES.len() >= 150);
}

const ACCEPTED: &[&str] = &[
    // Texts of one value, white space around them.
    "0",
    "-0",
    "1",
    "-1",
    "42",
    "null",
    "true",
    "false",
    "\"\"",
    "\"a\"",
    "[]",
    "{}",
    " 1",
    "1 ",
    "\t1\n",
    "\r\n{}\r\n",
    " [ ] ",
    " { } ",
    // Numbers.
    "10",
    "-10",
    "0.5",
    "-0.5",
    "1.0",
    "123.456",
    "0e1",
    "0E1",
    "0e+1",
    "0e-1",
    "1e5",
    "1E5",
    "1e+5",
    "1e-5",
    "1.5e3",
    "-1.5E-3",
    "0.0e0",
    "123456789012345678901234567890",
    "1e999",
    "-1e-999",
    "0.00000000000000000000000000001",
    "[0,1,-2]",
    "[1.5,2e3]",
    // Strings.
    "\"\\\"\"",
    "\"\\\\\"",
    "\"\\/\"",
    "\"\\b\\f\\n\\r\\t\"",
    "\"\\u0041\"",
    "\"\\u00e9\"",
    "\"\\uABCD\"",
    "\"\\uabcd\"",
    "\"\\u0000\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud83d\"",
    "\"\\ude00\"",
    "\"\\ud83dx\"",
    "\"é\"",
    "\"日本語\"",
    "\"😀\"",
    "\"\u{7f}\"",
    "\"\u{2028}\u{2029}\"",
    "\"\u{feff}\"",
    "\"a b\"",
    "\"'\"",
    "\"/\"",
    "\"{}[]:,\"",
    "\"\\\\u0041\"",
    "\"\\\\\\\"\"",
    "\"\\ud800\\ud800\"",
    // Containers.
    "[1]",
    "[1,2]",
    "[ 1 , 2 ]",
    "[[]]",
    "[[],[]]",
    "[{}]",
    "[null,true,false]",
    "[\"a\",\"b\"]",
    "[[[[1]]]]",
    "[1,\n2]",
    "[{\"a\":[]}]",
    "{\"a\":1}",
    "{\"a\":1,\"b\":2}",
    "{ \"a\" : 1 }",
    "{\"\":0}",
    "{\"a\":{}}",
    "{\"a\":[]}",
    "{\"a\":{\"b\":{\"c\":1}}}",
    "{\"a\":1,\"a\":2}",
    "{\"\\u0061\":1}",
    "{\"a b\":1}",
    "{\"é\":1}",
    "{\"a\":null}",
    "{\"a\":\"b\"}",
    "{\"\\\"\":1}",
    "{\"a\\\\\":1}",
    "{\"a\":-0.0}",
    "{\"a\":[1,{\"b\":[2,{\"c\":3}]}]}",
    "{\"a\":\n\t1\n}",
    "[0 ,0]",
    "[\"\\u0000\"]",
    "{\"no\":{\"such\":{}}}",
    "{\"no\":{\"such\":{\"x\":1}}}",
];

const ACCEPTED_BYTES: &[&[u8]] = &[
    b"\"\xc2\x80\"",
    b"\"\xdf\xbf\"",
    b"\"\xe0\xa0\x80\"",
    b"\"\xef\xbf\xbf\"",
    b"\"\xf0\x90\x80\x80\"",
    b"\"\xf4\x8f\xbf\xbf\"",
];

const REJECTED: &[&str] = &[
    // Nothing, or too much.
    "",
    " ",
    "\n",
    "1 2",
    "{}{}",
    "[][]",
    "null null",
    "1,",
    "{},",
    "[],",
    "\"a\" \"b\"",
    "true false",
    // Numbers.
    "+1",
    "-",
    "--1",
    "01",
    "-01",
    "00",
    "1.",
    "-1.",
    ".5",
    "-.5",
    "1.e1",
    "1e",
    "1e+",
    "1e-",
    "1E",
    "1.5e",
    "0x10",
    "1_000",
    "1e1.5",
    "Infinity",
    "-Infinity",
    "NaN",
    "1a",
    "1.2.3",
    "[1.]",
    "[01]",
    "[-]",
    "[+1]",
    "{\"a\":.5}",
    "１",
    "1e 5",
    "- 1",
    "0b1",
    "1f",
    // Words.
    "nul",
    "nulll",
    "True",
    "TRUE",
    "None",
    "undefined",
    "tru",
    "falsee",
    "fals",
    "[nul]",
    "[truth]",
    "nuLl",
    "yes",
    // Strings.
    "\"",
    "\"a",
    "a\"",
    "'a'",
    "\"\\\"",
    "\"\\x41\"",
    "\"\\a\"",
    "\"\\u\"",
    "\"\\u1\"",
    "\"\\u12\"",
    "\"\\u123\"",
    "\"\\u123g\"",
    "\"\\U0041\"",
    "\"\\ u0041\"",
    "\"\\'\"",
    "\"\\0\"",
    "\"a\nb\"",
    "\"\n\"",
    "\" \t\"",
    "{\"\n\":1}",
    "\"a\tb\"",
    "\"a\rb\"",
    "\"\0\"",
    "\"\u{1f}\"",
    "\"\u{8}\"",
    "`a`",
    "\u{201c}a\u{201d}",
    "\"\\",
    // Arrays.
    "[",
    "]",
    "[1",
    "[1,",
    "[1,]",
    "[,1]",
    "[,]",
    "[1,,2]",
    "[1 2]",
    "[1:2]",
    "[1}",
    "[\"a\"",
    "[[]",
    "[]]",
    "[1;2]",
    "[\"a\":1]",
    "(1)",
    "[1,2",
    // Objects.
    "{",
    "}",
    "{\"a\"",
    "{\"a\":",
    "{\"a\":1",
    "{\"a\":1,",
    "{\"a\":1,}",
    "{,}",
    "{,\"a\":1}",
    "{\"a\"}",
    "{\"a\",1}",
    "{\"a\" 1}",
    "{\"a\"::1}",
    "{a:1}",
    "{'a':1}",
    "{1:1}",
    "{null:1}",
    "{\"a\":1 \"b\":2}",
    "{\"a\":1;}",
    "{\"a\":1]",
    "{\"a\":}",
    "{:1}",
    "{\"a\":1,,\"b\":2}",
    "{{}}",
    "{[]:1}",
    "{\"a\nb\":1}",
    "{\"\\x\":1}",
    // Comments, other white space, a byte order mark.
    "/* x */1",
    "// x\n1",
    "1 // x",
    "# x\n1",
    "[1,/* x */2]",
    "\u{feff}1",
    "\u{a0}1",
    "\u{2028}1",
    "\u{b}1",
    "\u{c}1",
    "1\u{85}",
    "[\u{a0}]",
];

const REJECTED_BYTES: &[&[u8]] = &[
    // Not UTF-8: stray, cut short, overlong, surrogates, beyond the last character, UTF-16.
    b"\"\x80\"",
    b"\"\xbf\"",
    b"\"\xc2\"",
    b"\"\xe0\xa0\"",
    b"\"\xf0\x90\x80\"",
    b"\"\xc0\x80\"",
    b"\"\xc1\xbf\"",
    b"\"\xe0\x80\x80\"",
    b"\"\xe0\x9f\xbf\"",
    b"\"\xf0\x80\x80\x80\"",
    b"\"\xf0\x8f\xbf\xbf\"",
    b"\"\xed\xa0\x80\"",
    b"\"\xed\xbf\xbf\"",
    b"\"\xf4\x90\x80\x80\"",
    b"\"\xf5\x80\x80\x80\"",
    b"\"\xfe\"",
    b"\"\xff\"",
    b"{\"\x80\":1}",
    b"{\"\xed\xa0\x80\":1}",
    b"\"\xe2\\u0041\"",
    b"\xff\xfe1\x00",
    b"\x00{}",
    b"[\xc2]",
    b"\xef\xbb\xbf{}",
];
