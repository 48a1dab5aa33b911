//! Checkpoints, keys and digests from strangers.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis_ledger::{Checkpoint, Hash, SigningKey, VerifyingKey};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate("fuzz.example/log").expect("a key"));

fuzz_target!(|text: &str| {
    assert!(Checkpoint::verify(text, KEY.verifying_key()).is_err(), "nobody else can sign");
    if let Ok(key) = text.parse::<VerifyingKey>() {
        assert_eq!(key.to_string().parse().as_ref(), Ok(&key));
    }
    if let Ok(hash) = text.parse::<Hash>() {
        assert_eq!(hash.to_string(), text.to_ascii_lowercase());
    }
    let _ = SigningKey::from_pem("fuzz.example/log", text);
});
