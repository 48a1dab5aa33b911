//! Documents: strict, and the same however they are cut; a Secret's values do not come out.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis_mask::Rules;
use portcullis_mask_fuzz::{answer, asking_for, rules};
use serde_json::value::RawValue;

static RULES: LazyLock<Rules> = LazyLock::new(rules);

/// A value like no other.
const CANARY: &str = "Y2FuYXJ5LTQ3MTE";

fuzz_target!(|input: &[u8]| {
    let Some((&chunk, body)) = input.split_first() else { return };
    for info in [asking_for("get", "secrets", ""), asking_for("get", "pods", "")] {
        let whole = answer(&RULES, &info, "application/json", body, body.len());
        let cut = answer(&RULES, &info, "application/json", body, usize::from(chunk));
        assert_eq!(whole, cut);
        // The same again and again is passed over as it was before: not where it comes byte by byte.
        let again = [b"[".as_slice(), body, b",[", body, b"],", body, b",", body, b"]"].concat();
        let whole_again = answer(&RULES, &info, "application/json", &again, again.len());
        assert_eq!(whole_again, answer(&RULES, &info, "application/json", &again, 1));
        assert_eq!(whole_again, answer(&RULES, &info, "application/json", &again, usize::from(chunk)));
        // An empty answer has nothing to hide. Lone surrogates, depth and the length of keys are other readers' business.
        if body.is_empty() || body.len() > 200 {
            continue;
        }
        let theirs = serde_json::from_slice::<&RawValue>(body).is_ok();
        assert!(theirs || whole.is_none() || whole.as_deref().is_some_and(|out| out.trim_ascii().is_empty()));
    }
    // Whatever stands around it.
    let (before, after) = body.split_at(body.len() / 2);
    let document = [
        b"{\"kind\":\"Secret\",\"metadata\":{\"x\":[",
        before,
        b"]},\"data\":{\"a\":\"",
        CANARY.as_bytes(),
        b"\",\"b\":",
        after,
        b"}}",
    ]
    .concat();
    if let Some(out) =
        answer(&RULES, &asking_for("get", "widgets", ""), "application/json", &document, usize::from(chunk))
    {
        let shown = String::from_utf8_lossy(&out).contains(CANARY);
        assert!(!shown || String::from_utf8_lossy(body).contains('"'), "a value came out");
    }
});
