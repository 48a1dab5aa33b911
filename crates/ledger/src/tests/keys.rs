//! New keys, and witnesses.

use super::*;
use crate::cosignature::tests::Witness;
use crate::{Checkpoint, Proof, VerifyingKey};

fn public(dir: &Path) -> Vec<VerifyingKey> {
    fs::read_to_string(dir.join("key.pub")).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

/// A ledger that has had three keys, with the first one's public half and a checkpoint that each signed.
fn rotated() -> (TempDir, VerifyingKey, Vec<String>) {
    let dir = written(10);
    let first = public(dir.path()).remove(0);
    let mut signed = vec![fs::read_to_string(dir.path().join("checkpoint")).unwrap()];
    for nth in 1..3 {
        let rotation = Ledger::rotate_key(dir.path(), small()).unwrap();
        assert_eq!(rotation.size, 11 * nth - 1);
        assert_eq!(public(dir.path())[..2], [rotation.next.clone(), rotation.previous.clone()]);
        let (ledger, recovery) = Ledger::open(dir.path(), small()).unwrap();
        assert_eq!((recovery, ledger.verifying_key()), (None, &rotation.next));
        append(&ledger, 11 * nth..11 * nth + 10);
        ledger.close();
        signed.push(fs::read_to_string(dir.path().join("checkpoint")).unwrap());
    }
    (dir, first, signed)
}

#[test]
fn who_knows_any_of_the_keys_can_verify_the_log() {
    let (dir, first, signed) = rotated();
    assert_eq!(public(dir.path()).len(), 3);
    for key in public(dir.path()) {
        let mut verifier = Verifier::with_key(dir.path(), key);
        for note in &signed {
            verifier = verifier.knowing(note).unwrap();
        }
        assert_eq!(verifier.run().unwrap().size, 32);
    }
    assert_eq!(public(dir.path()).last(), Some(&first));
    assert!(Checkpoint::verify(&signed[2], &first).is_err(), "the first key signs no more");
    let proof: Proof = Reader::new(dir.path()).prove(5).unwrap().to_string().parse().unwrap();
    proof.verify(&public(dir.path())[0]).unwrap();

    let stranger = crate::SigningKey::generate(ORIGIN).unwrap();
    let error = Verifier::with_key(dir.path(), stranger.verifying_key().clone()).run().unwrap_err();
    assert!(error.to_string().contains("none of this log's"), "{error}");
    let said = records(dir.path());
    for at in [10, 21] {
        let text = String::from_utf8_lossy(&said[at]);
        assert!(text.contains("ledger.keyRotated") && text.contains(ORIGIN), "{text}");
    }
}

#[cfg(unix)]
#[test]
fn the_new_key_is_its_owner_s_and_the_old_one_is_gone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, ..) = rotated();
    assert_eq!(fs::metadata(dir.path().join("key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!dir.path().join("key.next.pem").exists());
    let ledger = open(dir.path());
    assert!(matches!(Ledger::rotate_key(dir.path(), small()), Err(OpenError::Locked(_))));
    drop(ledger);
}

#[test]
fn an_old_key_signs_nothing_new() {
    let dir = written(10);
    let stolen = fs::read_to_string(dir.path().join("key.pem")).unwrap();
    let stolen = crate::SigningKey::from_pem(ORIGIN, &stolen).unwrap();
    Ledger::rotate_key(dir.path(), small()).unwrap();
    let (ledger, _) = Ledger::open(dir.path(), small()).unwrap();
    append(&ledger, 11..20);
    ledger.close();
    let verified = verify(dir.path()).unwrap();
    let forged = Checkpoint { ..verified.checkpoint }.sign(&stolen).unwrap();
    let verifier = Verifier::open(dir.path()).unwrap();
    assert!(verifier.knowing(&forged).unwrap_err().to_string().contains("replaced"));
    fs::write(dir.path().join("checkpoint"), forged).unwrap();
    assert_eq!(fault(dir.path()).0, FaultKind::Checkpoint);
}

#[test]
fn what_says_how_the_keys_followed_cannot_be_changed() {
    let (dir, first, _) = rotated();
    let check = |name: &str, damage: &dyn Fn(&Path)| {
        let copy = copy(dir.path());
        damage(copy.path());
        let known = Verifier::with_key(copy.path(), first.clone()).run();
        let Err(ReadError::Fault(fault)) = known else { panic!("{name}: {known:?}") };
        assert_eq!(
            (fault.kind, fault.file.strip_prefix(copy.path()).unwrap()),
            (FaultKind::Checkpoint, Path::new(name))
        );
    };
    for file in ["rotations/000001", "rotations/000002"] {
        let length = fs::read(dir.path().join(file)).unwrap().len();
        for at in (0..length).step_by(7) {
            check(file, &|dir| rewrite(&dir.join(file), |bytes| bytes[at] ^= 1));
        }
        check(file, &|dir| rewrite(&dir.join(file), |bytes| bytes.truncate(length - 1)));
    }
    check("rotations/000002", &|dir| fs::remove_file(dir.join("rotations/000002")).unwrap());
    check("rotations/000001", &|dir| {
        fs::copy(dir.join("rotations/000002"), dir.join("rotations/000001")).map(|_| ()).unwrap()
    });
    check("rotations/000003", &|dir| {
        fs::copy(dir.join("rotations/000002"), dir.join("rotations/000003")).map(|_| ()).unwrap()
    });
    check("rotations/stray", &|dir| fs::write(dir.join("rotations/stray"), b"x").unwrap());
    check("key.pub", &|dir| rewrite(&dir.join("key.pub"), |bytes| bytes.push(b'\n')));
    check("key.pub", &|dir| fs::remove_file(dir.join("key.pub")).unwrap());
    check("key.pub", &|dir| {
        let mut keys: Vec<String> = public(dir).iter().map(ToString::to_string).collect();
        keys.swap(0, 1);
        fs::write(dir.join("key.pub"), keys.join("\n") + "\n").unwrap();
    });
}

#[test]
fn a_rotation_that_a_crash_cut_short_is_finished_or_forgotten() {
    let dir = written(10);
    let before = copy(dir.path());
    Ledger::rotate_key(dir.path(), small()).unwrap();
    let file = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let crashed = |put: &[(&str, Vec<u8>)]| {
        let copy = copy(before.path());
        // The record and the old key's checkpoint over it come first.
        let (ledger, _) = Ledger::open(copy.path(), small()).unwrap();
        ledger.writer().append_blocking(records(dir.path()).remove(10), Durability::Fsync).unwrap();
        ledger.close();
        for (name, bytes) in put {
            let path = copy.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            private(&path);
        }
        let verified = verify(copy.path()).unwrap();
        assert_eq!(verified.size, 11);
        let (ledger, _) = Ledger::open(copy.path(), small()).unwrap();
        append(&ledger, 11..15);
        ledger.close();
        assert!(!copy.path().join("key.next.pem").exists());
        verify(copy.path()).unwrap();
        public(copy.path()).len()
    };
    let next = ("key.next.pem", file("key.pem"));
    let note = ("rotations/000001", file("rotations/000001"));
    assert_eq!(crashed(std::slice::from_ref(&next)), 1);
    assert_eq!(crashed(&[next.clone(), note.clone()]), 2);
    assert_eq!(crashed(&[next, note, ("key.pub", file("key.pub"))]), 2);
}

#[test]
fn cosignatures_are_kept_and_demanded() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    append(&ledger, 0..5);
    ledger.checkpoint().unwrap();
    let note = fs::read_to_string(dir.path().join("checkpoint")).unwrap();
    let (one, two, stranger) =
        (Witness::new("w1.example"), Witness::new("w2.example"), Witness::new("w3.example"));
    let keys = [one.1.clone(), two.1.clone()];
    assert!(ledger.keep_cosignatures(&note, &keys).unwrap().is_empty());
    assert!(!dir.path().join("checkpoint.cosigned").exists());
    // The two answer separately; what a stranger adds is not kept.
    ledger.keep_cosignatures(&one.cosign(&note, 17), &keys).unwrap();
    ledger.keep_cosignatures(&stranger.cosign(&two.cosign(&note, 18), 19), &keys).unwrap();
    let kept = fs::read_to_string(dir.path().join("checkpoint.cosigned")).unwrap();
    assert_eq!(kept.lines().filter(|line| line.starts_with('—')).count(), 3, "{kept}");

    append(&ledger, 5..9);
    ledger.checkpoint().unwrap();
    let newer = fs::read_to_string(dir.path().join("checkpoint")).unwrap();
    ledger.keep_cosignatures(&one.cosign(&newer, 20), &keys).unwrap();
    ledger.keep_cosignatures(&two.cosign(&note, 21), &keys).unwrap();
    let error =
        ledger.keep_cosignatures(&one.cosign(&newer.replace("\n9\n", "\n8\n"), 22), &keys).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    ledger.close();

    let with = |keys: &[&Witness]| {
        let verifier = Verifier::open(dir.path()).unwrap();
        keys.iter().fold(verifier, |verifier, key| verifier.witness(key.1.clone())).run()
    };
    let found = with(&[&one]).unwrap().cosignatures;
    assert_eq!((found.len(), found[0].timestamp), (1, 20));
    assert!(with(&[&one, &two]).unwrap_err().to_string().contains("w2.example has not cosigned"));
    let path = dir.path().join("checkpoint.cosigned");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        rewrite(&path, |bytes| bytes[at] ^= 1);
        assert!(matches!(with(&[&one]), Err(ReadError::Fault(_))), "byte {at}");
        fs::write(&path, &good).unwrap();
    }
    fs::remove_file(&path).unwrap();
    assert!(with(&[&one]).is_err());
    with(&[]).unwrap();
}
