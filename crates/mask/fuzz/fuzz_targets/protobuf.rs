//! Answers in protobuf: a Secret's values do not come out, whatever else is in the message.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis_mask::Rules;
use portcullis_mask_fuzz::{answer, asking_for, rules};

static RULES: LazyLock<Rules> = LazyLock::new(rules);
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// `data: {"k": "canary-4711"}` of a Secret.
const DATA: &[u8] = b"\x12\x10\x0a\x01k\x12\x0bcanary-4711";

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

fuzz_target!(|input: &[u8]| {
    let Some((&chunk, body)) = input.split_first() else { return };
    let info = asking_for("get", "secrets", "");
    let chunk = usize::from(chunk);
    assert_eq!(
        answer(&RULES, &info, PROTOBUF, body, body.len()),
        answer(&RULES, &info, PROTOBUF, body, chunk)
    );
    assert_eq!(answer(&RULES, &info, WATCH, body, body.len()), answer(&RULES, &info, WATCH, body, chunk));

    // First, so that nothing before it makes it something else than data.
    let secret = [DATA, body].concat();
    for (kind, raw) in [("Secret", secret.clone()), ("SecretList", field(2, &secret))] {
        let meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        let message = [b"k8s\0".to_vec(), field(1, &meta), field(2, &raw)].concat();
        if let Some(out) = answer(&RULES, &info, PROTOBUF, &message, chunk) {
            let mine = |bytes: &[u8]| bytes.windows(11).any(|window| window == b"canary-4711");
            assert!(!mine(&out) || mine(body), "a value came out");
        }
    }
});
