//! Logs: the same however they are cut, and a token that stands by itself does not come out.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis_mask::Rules;
use portcullis_mask_fuzz::{answer, asking_for, rules};

static RULES: LazyLock<Rules> = LazyLock::new(rules);
const TOKEN: &[u8] = b"ghp_0123456789abcdefghijklmnopqrstuvwxyz";

fuzz_target!(|input: &[u8]| {
    let Some((&chunk, body)) = input.split_first() else { return };
    let info = asking_for("get", "pods", "log");
    let whole = answer(&RULES, &info, "text/plain", body, body.len());
    assert_eq!(whole, answer(&RULES, &info, "text/plain", body, usize::from(chunk)));
    let (before, after) = body.split_at(body.len() / 2);
    let log = [before, b"\n", TOKEN, b"\n", after].concat();
    let out =
        answer(&RULES, &info, "text/plain", &log, usize::from(chunk)).expect("a log is always readable");
    let mine = |bytes: &[u8]| bytes.windows(TOKEN.len()).any(|window| window == TOKEN);
    assert!(!mine(&out) || mine(body), "a token came out");
});
