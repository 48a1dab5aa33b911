//! Whatever is done to whatever file of a closed ledger, the verifier says so and names the file.

use std::sync::LazyLock;

use super::*;
use crate::Fault;

/// A ledger of several segments, several full tiles, and partial ones.
static WHOLE: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(dir.path(), Options::new(ORIGIN).segment_size(10_000)).unwrap();
    append(&ledger, 0..600);
    ledger.close();
    dir
});

/// Every file that is evidence, by its path in the directory.
fn evidence(dir: &Path) -> Vec<PathBuf> {
    fn below(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { below(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    below(dir, &mut found);
    found.retain(|path| !["key.pem", "lock"].contains(&path.file_name().unwrap().to_str().unwrap()));
    found.iter_mut().for_each(|path| *path = path.strip_prefix(dir).unwrap().to_owned());
    found.sort();
    found
}

fn found(dir: &Path) -> Result<Verified, Fault> {
    let verifier = match Verifier::open(dir) {
        Ok(verifier) => verifier,
        Err(ReadError::Fault(fault)) => return Err(fault),
        Err(error) => panic!("{error}"),
    };
    verifier.run().map_err(|error| match error {
        ReadError::Fault(fault) => fault,
        error => panic!("{error}"),
    })
}

/// Damages a copy, and demands that the verifier name the file.
fn check(name: &Path, damage: impl FnOnce(&Path)) -> Fault {
    let copy = copy(WHOLE.path());
    damage(copy.path());
    let fault = found(copy.path()).expect_err(&name.display().to_string());
    let named = fault.file.strip_prefix(copy.path()).unwrap();
    // A key that is not the log's shows in the checkpoint that it did not sign.
    let by_key = name == Path::new("key.pub") && named == Path::new("checkpoint");
    assert!(
        named == name || by_key || name.starts_with("segments"),
        "{} was damaged, {fault}",
        name.display()
    );
    fault
}

#[test]
fn the_whole_ledger_is_right() {
    let verified = found(WHOLE.path()).unwrap();
    assert_eq!((verified.size, verified.tiles), (600, 7));
    assert_eq!(verified.tiles, crate::tests::tiles::count(WHOLE.path()));
}

#[test]
fn any_file_removed_emptied_or_lengthened_is_found() {
    for name in evidence(WHOLE.path()) {
        if name != Path::new("key.pub") {
            check(&name, |dir| fs::remove_file(dir.join(&name)).unwrap());
        }
        check(&name, |dir| fs::write(dir.join(&name), b"").unwrap());
        if !name.starts_with("segments") {
            check(&name, |dir| rewrite(&dir.join(&name), |bytes| bytes.push(b'\n')));
        }
    }
}

#[test]
fn any_two_files_that_change_places_are_found() {
    let names = evidence(WHOLE.path());
    for (nth, first) in names.iter().enumerate() {
        for second in &names[nth + 1..] {
            let copy = copy(WHOLE.path());
            let (one, other) = (copy.path().join(first), copy.path().join(second));
            let bytes = fs::read(&one).unwrap();
            fs::copy(&other, &one).unwrap();
            fs::write(&other, bytes).unwrap();
            let fault =
                found(copy.path()).expect_err(&format!("{} and {}", first.display(), second.display()));
            let segments = copy.path().join("segments");
            assert!(
                fault.file == one
                    || fault.file == other
                    || fault.file.starts_with(segments)
                    || fault.file.ends_with("checkpoint"),
                "{fault}"
            );
        }
    }
}

#[test]
fn tiles_that_no_ledger_wrote_are_found() {
    for name in [
        "tile/0/007",
        "tile/0/002.p/250",
        "tile/1/001",
        "tile/entries/x001/000",
        "tile/7/000.p/1",
        "tile/0/000.p/3",
        "tile/readme",
    ] {
        let check = |bytes: &[u8]| {
            let copy = copy(WHOLE.path());
            let path = copy.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            assert_eq!(found(copy.path()).unwrap_err().file, path);
        };
        check(b"anything");
        check(&[0; 8192]);
        check(&[0; 96]);
    }
}

#[test]
fn partial_tiles_that_a_crash_left_are_none_the_less_right() {
    // Of the checkpoint before: the process was killed before it removed them.
    let copy = copy(WHOLE.path());
    let whole = fs::read(copy.path().join("tile/0/002.p/88")).unwrap();
    fs::write(copy.path().join("tile/0/002.p/5"), &whole[..5 * 32]).unwrap();
    fs::create_dir(copy.path().join("tile/0/001.p")).unwrap();
    let full = fs::read(copy.path().join("tile/0/001")).unwrap();
    fs::write(copy.path().join("tile/0/001.p/9"), &full[..9 * 32]).unwrap();
    fs::write(copy.path().join("tile/0/003.tmp"), b"half").unwrap();
    assert_eq!(found(copy.path()).unwrap().tiles, 9);
    open(copy.path()).checkpoint().unwrap();
    assert_eq!(found(copy.path()).unwrap().tiles, 7);
    rewrite(&copy.path().join("tile/0/001"), |bytes| bytes[40] ^= 1);
    assert_eq!(found(copy.path()).unwrap_err().offset, 40);
}

#[test]
fn an_older_copy_put_back_is_found_by_a_checkpoint_kept_elsewhere() {
    let dir = written(300);
    let old = copy(dir.path());
    let (ledger, _) = Ledger::open(dir.path(), small()).unwrap();
    append(&ledger, 300..320);
    ledger.close();
    let kept = fs::read_to_string(dir.path().join("checkpoint")).unwrap();
    let verify = |dir: &Path| Verifier::open(dir).unwrap().knowing(&kept).unwrap().run();
    verify(dir.path()).unwrap();

    let rolled_back = |result| match result {
        Err(ReadError::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(rolled_back(verify(old.path())).kind, FaultKind::RolledBack);
    let mut replayed = 0;
    for name in evidence(old.path()) {
        let copy = copy(dir.path());
        let (before, now) = (fs::read(old.path().join(&name)).unwrap(), copy.path().join(&name));
        // What had not changed since, and partial tiles that were superseded, say nothing else than before.
        if !now.exists() || fs::read(&now).unwrap() == before {
            continue;
        }
        fs::write(&now, before).unwrap();
        let fault = rolled_back(verify(copy.path()));
        assert_eq!(fault.file, now, "{fault}");
        replayed += 1;
    }
    assert_eq!(replayed, 2, "the checkpoint and the last segment");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_flipped_bit_of_any_file_is_found(file in any::<usize>(), at in any::<usize>(), bit in 0_u8..8) {
        let names = evidence(WHOLE.path());
        // Segments are many; every other file gets as many turns.
        let others: Vec<_> = names.iter().filter(|name| !name.starts_with("segments")).collect();
        let name = if file % 2 == 0 { &names[file / 2 % names.len()] } else { others[file / 2 % others.len()] };
        let fault = check(name, |dir| rewrite(&dir.join(name), |bytes| { let at = at % bytes.len(); bytes[at] ^= 1_u8 << bit; }));
        if name.starts_with("tile") {
            prop_assert!(fault.detail.contains("records"), "{}", fault);
        }
    }

    #[test]
    fn any_file_cut_short_is_found(file in any::<usize>(), at in any::<usize>()) {
        let names = evidence(WHOLE.path());
        let name = &names[file % names.len()];
        check(name, |dir| rewrite(&dir.join(name), |bytes| { let at = at % bytes.len(); bytes.truncate(at); }));
    }
}
