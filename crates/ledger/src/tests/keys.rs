//! New keys, and witnesses.

use super::*;
use crate::cosignature::tests::Witness;
use crate::{Checkpoint, CosignError, NoteError, Proof, VerifyingKey};

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
    assert!(ledger.reader().keep_cosignatures(&note, &keys).unwrap().is_empty());
    assert!(!dir.path().join("checkpoint.cosigned").exists());
    // The two answer separately; what a stranger adds is not kept.
    ledger.reader().keep_cosignatures(&one.cosign(&note, 17), &keys).unwrap();
    ledger.reader().keep_cosignatures(&stranger.cosign(&two.cosign(&note, 18), 19), &keys).unwrap();
    let kept = fs::read_to_string(dir.path().join("checkpoint.cosigned")).unwrap();
    assert_eq!(kept.lines().filter(|line| line.starts_with('—')).count(), 3, "{kept}");

    append(&ledger, 5..9);
    ledger.checkpoint().unwrap();
    let newer = fs::read_to_string(dir.path().join("checkpoint")).unwrap();
    ledger.reader().keep_cosignatures(&one.cosign(&newer, 20), &keys).unwrap();
    ledger.reader().keep_cosignatures(&two.cosign(&note, 21), &keys).unwrap();
    let forged = one.cosign(&newer.replace("\n9\n", "\n8\n"), 22);
    let error = ledger.reader().keep_cosignatures(&forged, &keys).unwrap_err();
    assert!(matches!(error, CosignError::Note(NoteError::WrongSignature)), "{error}");
    ledger.close();

    let with = |keys: &[&Witness]| {
        let verifier = Verifier::open(dir.path()).unwrap();
        keys.iter().fold(verifier, |verifier, key| verifier.witness(key.1.clone())).run()
    };
    let found = with(&[&one]).unwrap().cosignatures;
    assert_eq!((found.len(), found[0].timestamp), (1, 20));
    assert!(with(&[&one, &two]).unwrap_err().to_string().contains("w2.example has not cosigned"));
    // Another key under the same name has not, either.
    let namesake = Witness::new("w1.example");
    assert!(with(&[&one, &namesake]).unwrap_err().to_string().contains("w1.example has not cosigned"));
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

/// A ledger of five records, its checkpoint, and where cosignatures are kept.
fn to_cosign() -> (TempDir, String, PathBuf) {
    let dir = written(5);
    let note = fs::read_to_string(dir.path().join("checkpoint")).unwrap();
    let kept = dir.path().join("checkpoint.cosigned");
    (dir, note, kept)
}

#[test]
fn however_often_a_witness_speaks_its_newest_word_is_kept() {
    let (dir, note, kept) = to_cosign();
    let witness = Witness::new("w1.example");
    let keys = std::slice::from_ref(&witness.1);
    let reader = Reader::new(dir.path());
    for timestamp in 0..40 {
        reader.keep_cosignatures(&witness.cosign(&note, timestamp), keys).unwrap();
    }
    let newest = || {
        let verified = Verifier::open(dir.path()).unwrap().witness(witness.1.clone()).run().unwrap();
        let [ref one] = verified.cosignatures[..] else { panic!("{verified:?}") };
        one.timestamp
    };
    assert_eq!(newest(), 39);
    // Its latest, not the last one that came, nor the first on a note.
    reader.keep_cosignatures(&witness.cosign(&note, 5), keys).unwrap();
    assert_eq!(newest(), 39);
    for times in [[41, 40], [42, 43]] {
        let both = times.into_iter().fold(note.clone(), |note, time| witness.cosign(&note, time));
        reader.keep_cosignatures(&both, keys).unwrap();
        assert_eq!(newest(), times.into_iter().max().unwrap());
    }

    // More witnesses than a note may have lines: refused, and what was kept stays.
    let many: Vec<_> = (0..32).map(|nth| Witness::new(&format!("m{nth}.example"))).collect();
    let (first, rest) = many.split_at(16);
    let all: Vec<_> = many.iter().map(|witness| witness.1.clone()).collect();
    let cosigned = |by: &[Witness]| by.iter().fold(note.clone(), |note, witness| witness.cosign(&note, 50));
    reader.keep_cosignatures(&cosigned(first), &all).unwrap();
    let before = fs::read(&kept).unwrap();
    let error = reader.keep_cosignatures(&cosigned(rest), &all).unwrap_err();
    assert!(error.to_string().contains("too many signatures"), "{error}");
    assert_eq!(fs::read(&kept).unwrap(), before);
    verify(dir.path()).unwrap();
}

#[test]
fn what_is_kept_of_witnesses_is_not_overwritten_when_it_is_damaged() {
    let (dir, note, kept) = to_cosign();
    let witness = Witness::new("w1.example");
    let keys = std::slice::from_ref(&witness.1);
    let reader = Reader::new(dir.path());
    for damaged in [b"anything".as_slice(), b"\xff\xfe", b"", &[b'x'; 200_000]] {
        fs::write(&kept, damaged).unwrap();
        let error = reader.keep_cosignatures(&witness.cosign(&note, 1), keys).unwrap_err();
        assert!(
            matches!(&error, CosignError::Log(ReadError::Fault(fault)) if fault.file == kept),
            "it is not the note that is wrong: {error}"
        );
        assert!(error.to_string().contains("move it away"), "{error}");
        assert_eq!(fs::read(&kept).unwrap(), damaged);
    }
    fs::remove_file(&kept).unwrap();
    assert_eq!(reader.keep_cosignatures(&witness.cosign(&note, 1), keys).unwrap().len(), 1);
}

/// Every file that is there, with its content.
fn everything(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    fn below(dir: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => below(&path, found),
                false => found.push((path.clone(), fs::read(&path).unwrap())),
            }
        }
    }
    let mut found = Vec::new();
    below(dir, &mut found);
    found.sort();
    found
}

/// Why a ledger that has had two keys is not opened after this damage. Nothing is changed by that.
fn refused(damage: impl FnOnce(&Path)) -> OpenError {
    let dir = written(10);
    Ledger::rotate_key(dir.path(), small()).unwrap();
    damage(dir.path());
    let before = everything(dir.path());
    let error = Ledger::open(dir.path(), small()).unwrap_err();
    assert!(everything(dir.path()) == before, "changed, though {error}");
    error
}

#[test]
fn the_list_of_keys_of_a_rotated_log_is_not_made_up() {
    let gone = refused(|dir| fs::remove_file(dir.join("key.pub")).unwrap());
    assert!(matches!(&gone, OpenError::Key { path, .. } if path.ends_with("key.pub")), "{gone}");
    assert!(gone.to_string().contains("restore it from a backup"), "{gone}");
    for text in [b"\xff".as_slice(), b""] {
        let damaged = refused(|dir| fs::write(dir.join("key.pub"), text).unwrap());
        assert!(matches!(damaged, OpenError::Damaged(_)), "{damaged}");
    }
    // That of a log which has had one key is: from the private key.
    let dir = written(10);
    let before = public(dir.path());
    fs::remove_file(dir.path().join("key.pub")).unwrap();
    open(dir.path()).close();
    assert_eq!(public(dir.path()), before);
}

#[cfg(unix)]
#[test]
fn a_list_of_keys_that_cannot_be_read_now_is_left_alone() {
    let dir = written(10);
    let path = dir.path().join("key.pub");
    fs::remove_file(&path).unwrap();
    // A link to itself: an error that is not that it is missing, also for root.
    std::os::unix::fs::symlink("key.pub", &path).unwrap();
    let error = Ledger::open(dir.path(), small()).unwrap_err();
    assert!(matches!(&error, OpenError::Io { path: named, .. } if *named == path), "{error}");
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
}

#[test]
fn where_the_log_is_gone_no_key_is_made_and_none_replaced() {
    let gone = |dir: &Path| segments(dir).iter().for_each(|path| fs::remove_file(path).unwrap());
    let remove = |dir: &Path, names: &[&str]| {
        gone(dir);
        names.iter().for_each(|name| fs::remove_file(dir.join(name)).unwrap());
    };
    let all_keys = ["key.pem", "key.pub", "rotations/000001"];
    for names in [&[][..], &["key.pem"], &["checkpoint"], &all_keys] {
        let error = refused(|dir| remove(dir, names));
        assert!(matches!(error, OpenError::Damaged(_)), "{names:?}: {error}");
    }
    // Of all that signed nothing is left, but the tiles tell.
    let error = refused(|dir| {
        remove(dir, &all_keys);
        fs::remove_file(dir.join("checkpoint")).unwrap();
    });
    assert!(matches!(&error, OpenError::Damaged(fault) if fault.kind == FaultKind::RolledBack), "{error}");
}

#[test]
fn a_damaged_log_is_left_as_it_is() {
    let error = refused(|dir| {
        rewrite(segments(dir).last().unwrap(), |bytes| *bytes.last_mut().unwrap() ^= 1);
        // A rotation that a crash cut short, and a body: opening would finish the one and sweep the other away.
        fs::copy(dir.join("key.pem"), dir.join("key.next.pem")).unwrap();
        fs::write(dir.join("bodies/1-1.tmp"), b"half").unwrap();
    });
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");
}

#[test]
fn one_rotation_may_be_unfinished_and_no_more() {
    let (dir, ..) = rotated();
    let lines = fs::read_to_string(dir.path().join("key.pub")).unwrap();
    let list = |skip: usize| {
        let copy = copy(dir.path());
        let listed: String = lines.lines().skip(skip).map(|line| format!("{line}\n")).collect();
        fs::write(copy.path().join("key.pub"), listed).unwrap();
        copy
    };
    verify(list(1).path()).unwrap();
    let (unlisted, first) = (list(2), public(dir.path()).remove(2));
    let error = Verifier::with_key(unlisted.path(), first).run().unwrap_err();
    assert!(error.to_string().contains("key.pub does not list"), "{error}");
}
