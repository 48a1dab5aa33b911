//! Any bytes in place of a segment's beginning or end: reading says what is wrong, and never repairs what was signed.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use portcullis_ledger::{Durability, Ledger, Options, Reader, Verifier};

const ORIGIN: &str = "fuzz.example/log";

fuzz_target!(|input: &[u8]| {
    let Some((&at, bytes)) = input.split_first() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (ledger, _) = Ledger::open(dir.path(), Options::new(ORIGIN)).expect("a new ledger");
    ledger.writer().append_blocking(b"signed".to_vec(), Durability::Write).expect("a record");
    ledger.close();

    let segment = dir.path().join("segments").join(format!("{:020}.log", 0));
    let mut stored = fs::read(&segment).expect("a segment");
    let end = stored.len();
    stored.truncate(end - usize::from(at).min(end));
    stored.extend_from_slice(bytes);
    fs::write(&segment, stored).expect("to write");

    if let Ok(entries) = Reader::new(dir.path()).entries(0) {
        entries.take_while(Result::is_ok).for_each(drop);
    }
    let before = Verifier::open(dir.path()).expect("a key").run();
    if let Ok((ledger, _)) = Ledger::open(dir.path(), Options::new(ORIGIN)) {
        ledger.close();
        let after = Verifier::open(dir.path()).expect("a key").run().expect("what opens, verifies");
        assert!(after.size >= 1);
        let first = Reader::new(dir.path()).entries(0).expect("entries").next().expect("one").expect("whole");
        assert_eq!(first.record, b"signed");
    } else {
        assert!(before.is_err(), "what verifies, opens");
    }
});
