//! Any bytes in place of a stored body, or of its end: it is never believed, and takes no more memory than it should.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use portcullis_ledger::{BodyKeys, Durability, Ledger, Options};

fuzz_target!(|input: &[u8]| {
    let Some((&how, bytes)) = input.split_first() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let keys = BodyKeys::new((how & 1 == 1).then_some([7; 32]));
    let (ledger, _) = Ledger::open(dir.path(), Options::new("fuzz.example/log").body_keys(keys)).expect("a new ledger");
    let bodies = ledger.bodies();
    let digest = bodies.put(b"what was put in", Durability::Write).expect("a body");
    let path = bodies.path(digest);
    let whole = fs::read(&path).expect("its file");
    // The head alone, or as much of it as there is.
    let kept = usize::from(how >> 1).min(whole.len());
    let changed = [&whole[..kept], bytes].concat();
    fs::write(&path, &changed).expect("to write");
    match bodies.read(digest) {
        Ok(body) => assert_eq!(body.expect("it is there"), b"what was put in"),
        Err(_) => assert_ne!(changed, whole),
    }
    assert_eq!(bodies.put(b"what was put in", Durability::Write).expect("again"), digest);
});
