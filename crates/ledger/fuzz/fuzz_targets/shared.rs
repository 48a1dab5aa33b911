//! What strangers hand over: proofs, cosigned checkpoints, witnesses' keys, paths of tiles, entry bundles.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis_ledger::{Checkpoint, Proof, SigningKey, Tile, WitnessKey, bundle_records};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate("fuzz.example/log").expect("a key"));

fuzz_target!(|input: &[u8]| {
    if let Ok(records) = bundle_records(input) {
        let again: Vec<u8> = records
            .iter()
            .flat_map(|record| [&u16::try_from(record.len()).expect("a record").to_be_bytes(), *record].concat())
            .collect();
        assert_eq!(again, input);
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(proof) = text.parse::<Proof>() {
        assert_eq!(proof.to_string(), text);
        assert!(proof.verify(KEY.verifying_key()).is_err(), "nobody else can sign");
    }
    if let Ok(tile) = text.parse::<Tile>() {
        assert_eq!(tile.path(), text);
        assert!(tile.start() <= tile.end());
    }
    let witnesses: Vec<WitnessKey> = text.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(Checkpoint::cosigned(text, KEY.verifying_key(), &witnesses).is_err());
});
