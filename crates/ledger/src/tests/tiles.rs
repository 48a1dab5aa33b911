//! Tiles and entry bundles on the disk: there before the checkpoint that needs them, rebuilt when they are not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::failures::failing;
use super::*;
use crate::{Tile, TileKind, bundle_records};

/// Every file below `tile/`, by path.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    crate::tiles::walk(dir, &mut |tile| {
        let path = tile.map_or_else(|path| panic!("{}", path.display()), |tile| tile.path());
        found.insert(path.clone(), fs::read(dir.join(path)).unwrap());
    })
    .unwrap();
    found
}

/// What must be below `tile/` for a log of these records: as the specification defines it, hashed from the leaves.
fn expected(records: &[Vec<u8>], bundles: bool) -> BTreeMap<String, Vec<u8>> {
    let size = records.len() as u64;
    let mut expected = BTreeMap::new();
    for level in 0..3 {
        for index in 0.. {
            let Some(tile) = Tile::of(TileKind::Hashes(level), index, size) else { break };
            let leaves =
                &records[usize::try_from(tile.start()).unwrap()..usize::try_from(tile.end()).unwrap()];
            let roots = leaves.chunks(1 << (8 * level)).map(|leaves| {
                leaves.iter().map(|record| Hash::leaf(record)).collect::<crate::Frontier>().root()
            });
            expected.insert(tile.path(), roots.flat_map(|root| *root.as_bytes()).collect());
        }
    }
    for index in 0.. {
        let Some(tile) = Tile::of(TileKind::Entries, index, size).filter(|_| bundles) else { break };
        let records = &records[usize::try_from(tile.start()).unwrap()..usize::try_from(tile.end()).unwrap()];
        let entry = |record: &Vec<u8>| {
            [&u16::try_from(record.len()).unwrap().to_be_bytes(), record.as_slice()].concat()
        };
        expected.insert(tile.path(), records.iter().flat_map(entry).collect());
    }
    expected
}

fn check(dir: &Path, bundles: bool) {
    let (found, expected) = (files(dir), expected(&records(dir), bundles));
    assert!(found.keys().eq(expected.keys()), "{:?}\n{:?}", found.keys(), expected.keys());
    assert!(found == expected);
}

/// How many files there are.
pub(super) fn count(dir: &Path) -> u64 {
    files(dir).len() as u64
}

#[test]
fn a_closed_ledger_has_exactly_the_tiles_of_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut size = 0;
    for next in [0, 1, 3, 255, 256, 257, 600, 1024, 1100] {
        let (ledger, _) = Ledger::open(dir.path(), small()).unwrap();
        append(&ledger, size..next);
        ledger.close();
        size = next;
        check(dir.path(), true);
    }
}

#[test]
fn tiles_are_there_before_the_checkpoint_that_needs_them() {
    let dir = tempfile::tempdir().unwrap();
    let (path, (heard, hear)) = (dir.path().to_path_buf(), channel());
    let options = small().checkpoint_interval(Duration::from_millis(1)).on_checkpoint(move |note| {
        let size = note.lines().nth(1).unwrap().parse().unwrap();
        let missing =
            [TileKind::Hashes(0), TileKind::Hashes(1), TileKind::Entries].into_iter().find_map(|kind| {
                let last = Tile::of(kind, kind.count(size).saturating_sub(1) / 256, size)?;
                (!path.join(last.path()).exists()).then_some(last)
            });
        heard.send((size, missing)).unwrap();
    });
    let (ledger, _) = Ledger::open(dir.path(), options).unwrap();
    append(&ledger, 0..700);
    ledger.close();
    let heard: Vec<(u64, Option<Tile>)> = hear.into_iter().collect();
    assert!(heard.iter().all(|(_, missing)| missing.is_none()), "{heard:?}");
    assert_eq!(heard.last().unwrap().0, 700);
}

#[test]
fn a_log_without_tiles_gets_them_and_gaps_are_filled() {
    let dir = written(1100);
    let whole = files(dir.path());
    let check = |damage: &dyn Fn(&Path)| {
        let copy = copy(dir.path());
        damage(copy.path());
        // Nothing is appended: the checkpoint does not change, what is missing is there all the same.
        let (ledger, _) = Ledger::open(copy.path(), small()).unwrap();
        ledger.checkpoint().unwrap();
        ledger.close();
        assert!(files(copy.path()) == whole);
    };
    check(&|dir| fs::remove_dir_all(dir.join("tile")).unwrap());
    check(&|dir| fs::remove_dir_all(dir.join("tile/entries")).unwrap());
    check(&|dir| fs::remove_file(dir.join("tile/0/002")).unwrap());
    check(&|dir| fs::remove_file(dir.join("tile/entries/001")).unwrap());
    check(&|dir| fs::remove_file(dir.join("tile/1/000.p/4")).unwrap());
    check(&|dir| fs::rename(dir.join("tile/0/004.p/76"), dir.join("tile/0/004.p/9")).unwrap());
    check(&|dir| fs::write(dir.join("tile/0/004.p/76"), b"torn").unwrap());
}

#[test]
fn a_log_opened_without_tiles_publishes_them_without_being_asked() {
    let dir = written(300);
    let whole = files(dir.path());
    fs::remove_dir_all(dir.path().join("tile")).unwrap();
    open(dir.path()).close();
    assert!(files(dir.path()) == whole);
}

#[test]
fn bundles_can_be_left_out_and_be_had_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(dir.path(), small().entry_bundles(false)).unwrap();
    append(&ledger, 0..300);
    ledger.close();
    check(dir.path(), false);
    let reader = Reader::new(dir.path());
    let tile = Tile::of(TileKind::Entries, 1, 300).unwrap();
    let bundle = reader.tile(tile, 300).unwrap().unwrap();
    assert_eq!(bundle_records(&bundle).unwrap(), (256..300).map(record).collect::<Vec<_>>());
    assert_eq!(reader.tile(tile, 299).unwrap(), None);

    // A verifier must be told, and believes a bundle no more for it.
    assert_eq!(fault(dir.path()).0, FaultKind::Removed);
    let told = || Verifier::open(dir.path()).unwrap().without_entry_bundles().run();
    assert_eq!(told().unwrap().size, 300);
    let path = dir.path().join("tile/entries/000");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"anything").unwrap();
    assert!(matches!(told(), Err(ReadError::Fault(fault)) if fault.file == path));
    fs::remove_dir_all(path.parent().unwrap()).unwrap();

    open(dir.path()).close();
    check(dir.path(), true);
}

#[test]
fn any_partial_width_is_cut_out_of_what_is_stored() {
    let dir = written(600);
    let reader = Reader::new(dir.path());
    let all = records(dir.path());
    for kind in [TileKind::Hashes(0), TileKind::Entries] {
        for (index, width) in [(0, 1), (0, 255), (0, 256), (2, 7), (2, 88)] {
            let tile = Tile { kind, index, width };
            let bytes = reader.tile(tile, 600).unwrap().unwrap();
            let own = &all[usize::try_from(tile.start()).unwrap()..usize::try_from(tile.end()).unwrap()];
            match kind {
                TileKind::Entries => assert_eq!(bundle_records(&bytes).unwrap(), own),
                TileKind::Hashes(_) => {
                    assert!(bytes.chunks(32).eq(own.iter().map(|record| *Hash::leaf(record).as_bytes())))
                }
            }
        }
        assert_eq!(reader.tile(Tile { kind, index: 2, width: 89 }, 600).unwrap(), None);
    }
}

#[test]
fn where_tiles_cannot_be_written_records_can_and_the_checkpoint_follows() {
    let (dir, ledger, faults, told) = failing();
    faults.tiles.store(true, SeqCst);
    append(&ledger, 7..300);
    let error = ledger.checkpoint().unwrap_err();
    assert!(matches!(&error, AppendError::Failed(why) if why.starts_with("checkpoint:")), "{error}");
    append(&ledger, 300..500);
    assert!(!ledger.writer().health().is_healthy());
    assert_eq!(ledger.writer().health().checkpoint, 0);

    faults.tiles.store(false, SeqCst);
    ledger.checkpoint().unwrap();
    assert!(ledger.writer().health().is_healthy());
    assert_eq!(ledger.writer().health().checkpoint, 500);
    faults.tiles.store(true, SeqCst);
    append(&ledger, 500..1000);
    assert!(ledger.checkpoint().is_err());
    ledger.close();
    // Nothing was refused; the next process catches up.
    assert!(told.try_recv().is_err());
    open(dir.path()).close();
    assert_eq!(verify(dir.path()).unwrap().checkpoint.size, 1000);
    check(dir.path(), true);
}

/// The segments are read whole for a proof, the tiles only where it leads: both must say the same.
#[test]
fn proofs_from_tiles_are_those_from_the_records() {
    let dir = written(1100);
    let reader = Reader::new(dir.path());
    let leaves: Vec<Hash> = records(dir.path()).iter().map(|record| Hash::leaf(record)).collect();
    let root = |size: u64| {
        leaves[..usize::try_from(size).unwrap()].iter().copied().collect::<crate::Frontier>().root()
    };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(64));
    runner
        .run(&(1..=1100_u64, any::<u64>(), any::<u64>()), |(size, index, old)| {
            let (index, old) = (index % size, 1 + old % size);
            let tiles = reader.tiles(size);
            let proof = inclusion_proof(&tiles, index, size).unwrap();
            prop_assert_eq!(&proof, &inclusion_proof(&reader, index, size).unwrap());
            prop_assert!(verify_inclusion(
                leaves[usize::try_from(index).unwrap()],
                index,
                size,
                &proof,
                root(size)
            ));
            let proof = consistency_proof(&tiles, old, size).unwrap();
            prop_assert_eq!(&proof, &consistency_proof(&reader, old, size).unwrap());
            prop_assert!(verify_consistency(old, root(old), size, root(size), &proof));
            prop_assert!(tiles.files_read() <= 4, "{} tiles of a tree of two levels", tiles.files_read());
            Ok(())
        })
        .unwrap();
    fs::remove_file(dir.path().join("tile/0/001")).unwrap();
    let error = inclusion_proof(&reader.tiles(1100), 300, 1100).unwrap_err();
    assert!(error.to_string().contains("the tile is gone"), "{error}");
    assert!(inclusion_proof(&reader.tiles(2000), 300, 2000).is_err());
}

/// While tiles grow, are replaced and swept away, nothing looks like tampering, and whatever is covered can be proven.
#[test]
fn a_ledger_in_use_is_verified_and_proves_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let options = small().segment_size(20_000).checkpoint_interval(Duration::from_micros(1));
    let (ledger, _) = Ledger::open(dir.path(), options).unwrap();
    append(&ledger, 0..1);
    ledger.checkpoint().unwrap();
    let mut rounds = 0;
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| append(&ledger, 1..1500));
        while !appending.is_finished() {
            let size = verify(dir.path()).unwrap().checkpoint.size;
            let reader = Reader::new(dir.path());
            let key = reader.keys().unwrap().remove(0);
            for index in [0, size / 2, size - 1] {
                assert!(reader.prove(index).unwrap().verify(&key).unwrap().size >= size);
            }
            rounds += 1;
        }
    });
    assert!(rounds > 0);
    ledger.close();
    assert_eq!(verify(dir.path()).unwrap().size, 1500);
}

#[test]
fn a_log_that_was_put_back_is_not_appended_to() {
    let dir = written(20);
    let old = copy(dir.path());
    let (ledger, _) = Ledger::open(dir.path(), small()).unwrap();
    append(&ledger, 20..40);
    ledger.close();
    fs::remove_dir_all(dir.path().join("segments")).unwrap();
    fs::create_dir(dir.path().join("segments")).unwrap();
    copy_into(&old.path().join("segments"), &dir.path().join("segments"));
    fs::copy(old.path().join("checkpoint"), dir.path().join("checkpoint")).unwrap();
    let error = Ledger::open(dir.path(), small()).unwrap_err();
    assert!(matches!(&error, OpenError::Damaged(fault) if fault.kind == FaultKind::RolledBack), "{error}");
}

#[cfg(unix)]
#[test]
fn links_below_tile_are_found_and_not_followed() {
    let dir = written(20);
    // Followed, each would double the way with every step.
    for name in ["a", "b"] {
        std::os::unix::fs::symlink(".", dir.path().join("tile").join(name)).unwrap();
    }
    let Err(ReadError::Fault(fault)) = verify(dir.path()) else { panic!() };
    assert_eq!(fault.file.parent(), Some(dir.path().join("tile").as_path()), "{fault}");
    open(dir.path()).close();
}

/// Sparse, so that they cost nothing on the disk: read whole, they would take more memory than there is.
#[test]
fn files_that_somebody_made_huge_are_not_read_whole() {
    let dir = written(300);
    for name in ["tile/0/000", "tile/entries/000", "tile/1/000.p/1", "checkpoint", "key.pub", "key.pem"] {
        let copy = copy(dir.path());
        let path = copy.path().join(name);
        fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        if name == "key.pem" {
            assert!(matches!(Ledger::open(copy.path(), small()), Err(OpenError::Key { .. })));
            continue;
        }
        let Err(ReadError::Fault(fault)) = verify(copy.path()) else { panic!("{name}") };
        assert_eq!(fault.file, path);
        if let Ok(tile) = name.parse::<Tile>() {
            assert!(Reader::new(copy.path()).tile(tile, 300).is_err());
        }
    }
}
