//! Zeros behind the last entry, made before they are needed: overwritten by what comes, torn in any way by a power cut, and gone
//! when the ledger is closed.

use super::*;
use crate::segment::{SegmentReader, Step};

/// How many records are flushed one by one, and how many are written after them.
const FLUSHED: u64 = 5;
const MORE: u64 = 4;

/// A ledger in use: its directory as a crash would leave it, and where each entry stands.
fn crashed() -> (TempDir, Vec<(PathBuf, usize, usize)>) {
    let dir = tempfile::tempdir().unwrap();
    // No checkpoint vouches for anything.
    let options = Options::new(ORIGIN).checkpoint_interval(Duration::from_secs(3600));
    let (ledger, _) = Ledger::open(dir.path(), options).unwrap();
    let checkpoint = fs::read(dir.path().join("checkpoint")).unwrap();
    for i in 0..FLUSHED {
        ledger.writer().append_blocking(record(i), Durability::Fsync).unwrap();
    }
    append(&ledger, FLUSHED..FLUSHED + MORE);
    let crashed = copy(dir.path());
    fs::write(crashed.path().join("checkpoint"), checkpoint).unwrap();
    fs::remove_dir_all(crashed.path().join("tile")).unwrap_or_default();
    let places = places(crashed.path());
    ledger.close();
    (crashed, places)
}

fn length(path: &Path) -> usize {
    fs::read(path).unwrap().len()
}

#[test]
fn room_is_made_for_those_who_wait_and_is_no_part_of_the_log() {
    let (dir, places) = crashed();
    let (segment, end) = (segments(dir.path()).remove(0), places.last().unwrap().2);
    assert!(length(&segment) > end + 100_000, "{} of {end}", length(&segment));
    let verified = verify(dir.path()).unwrap();
    assert_eq!((verified.size, verified.torn), (FLUSHED + MORE, false));
    // Whoever opens it finds nothing torn, writes on where the last entry ends, and leaves no zeros when closing.
    let (ledger, recovery) = Ledger::open(dir.path(), Options::new(ORIGIN)).unwrap();
    assert_eq!((recovery, length(&segment)), (None, end));
    let next = FLUSHED + MORE;
    ledger.writer().append_blocking(record(next), Durability::Fsync).unwrap();
    assert!(length(&segment) > end + 100_000);
    ledger.close();
    assert_eq!(super::places(dir.path()).last().unwrap().1, end);
    assert_eq!(length(&segment), super::places(dir.path()).last().unwrap().2);
    assert_eq!(records(dir.path()), (0..=next).map(record).collect::<Vec<_>>());
}

#[test]
fn none_is_made_for_those_who_do_not_wait_nor_for_many_nor_at_a_segment_s_end() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    append(&ledger, 0..20);
    let full = |dir: &Path| segments(dir).iter().map(|path| length(path)).sum::<usize>();
    assert!(full(dir.path()) < 10_000);
    let large = vec![7; crate::MAX_RECORD];
    ledger.writer().append_blocking(large, Durability::Fsync).unwrap();
    assert!(full(dir.path()) < 80_000);
    ledger.close();
    let small = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(small.path(), super::small()).unwrap();
    for i in 0..50 {
        ledger.writer().append_blocking(record(i), Durability::Fsync).unwrap();
    }
    assert!(segments(small.path()).len() > 3);
    assert!(full(small.path()) < 20_000, "{}", full(small.path()));
    ledger.close();
}

#[test]
fn who_follows_sees_what_is_written_into_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let mut entries = ledger.reader().entries(0).unwrap();
    // Enough of them to need room three times.
    let large = |i: u8| vec![i; 5000];
    for i in 0..120 {
        ledger.writer().append_blocking(large(i), Durability::Fsync).unwrap();
        assert_eq!(entries.next().unwrap().unwrap().record, large(i));
        for _ in 0..i % 3 {
            assert!(entries.next().is_none());
        }
    }
    ledger.close();
    assert!(entries.next().is_none());
    let ledger = open(dir.path());
    append(&ledger, 7..8);
    assert_eq!(entries.next().unwrap().unwrap().record, record(7));
}

/// The writer's bytes may become visible one after the other.
#[test]
fn who_follows_waits_for_what_is_not_whole_yet() {
    let (dir, places) = crashed();
    let (path, begin, end) = places.last().unwrap().clone();
    let whole = fs::read(&path).unwrap();
    let last = FLUSHED + MORE - 1;
    rewrite(&path, |bytes| bytes[begin..end].fill(0));
    let (mut entries, mut segment) =
        (Reader::new(dir.path()).entries(0).unwrap(), SegmentReader::open(&path).unwrap());
    assert_eq!(entries.by_ref().map(Result::unwrap).count() as u64, last);
    (0..last).for_each(|_| assert!(matches!(segment.step().unwrap(), Step::Entry(_))));
    for visible in begin..end {
        rewrite(&path, |bytes| bytes[begin..visible].copy_from_slice(&whole[begin..visible]));
        assert!(entries.next().is_none(), "{visible}");
        let step = segment.step().unwrap();
        let expected = if visible == begin { "End" } else { "Torn" };
        assert!(format!("{step:?}").starts_with(expected), "{visible}: {step:?}");
        assert_eq!(verify(dir.path()).unwrap().size, last);
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(entries.next().unwrap().unwrap().index, last);
    assert!(matches!(segment.step().unwrap(), Step::Entry(_)));
    assert!(entries.next().is_none() && matches!(segment.step().unwrap(), Step::End));
}

/// However far behind it stands, and wherever the reader's buffer ends.
#[test]
fn an_entry_behind_zeros_says_that_they_are_no_room() {
    let dir = written(0);
    let path = segments(dir.path()).remove(0);
    let header = fs::read(&path).unwrap();
    for (size, zeros) in [(1, 60), (255, 77), (256, 77), (255, 600_000), (256, 600_000)].into_iter().chain(
        (-2..=2).flat_map(|off| [255, 256].map(|size| (size, (256 * 1024_usize).saturating_add_signed(off)))),
    ) {
        let mut bytes = [header.as_slice(), &vec![0; zeros]].concat();
        crate::segment::encode_entry(&mut bytes, 1, 20, Hash::of(b""), &vec![b'x'; size]);
        fs::write(&path, &bytes).unwrap();
        let step = SegmentReader::open(&path).unwrap().step().unwrap();
        assert!(matches!(step, Step::Bad(_)), "{size} after {zeros}: {step:?}");
        // Of which it says that it was perhaps not on the disk, it says nothing.
        bytes.truncate(header.len() + zeros);
        let all = u64::try_from(zeros).unwrap();
        crate::segment::encode_entry(&mut bytes, 1, all, Hash::of(b""), &vec![b'x'; size]);
        fs::write(&path, &bytes).unwrap();
        let step = SegmentReader::open(&path).unwrap().step().unwrap();
        assert!(matches!(step, Step::Torn(_)), "{size} after {zeros}: {step:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Of what was overwritten and not flushed, any sector may be there.
    #[test]
    fn whatever_part_of_it_a_power_cut_leaves_all_that_was_flushed_is_there(lost in proptest::collection::vec(any::<bool>(), 64)) {
        const SECTOR: usize = 16;
        let (dir, places) = crashed();
        let flushed = usize::try_from(FLUSHED).unwrap();
        let (path, begin, end) = (places[0].0.clone(), places[flushed].1, places.last().unwrap().2);
        rewrite(&path, |bytes| {
            for (sector, lost) in bytes[begin..end].chunks_mut(SECTOR).zip(&lost) {
                if *lost { sector.fill(0); }
            }
        });
        let left = fs::read(&path).unwrap();
        let whole = places.iter().take_while(|(_, begin, end)| {
            let first = begin.saturating_sub(places[flushed].1) / SECTOR;
            let last = end.saturating_sub(places[flushed].1).div_ceil(SECTOR);
            *end <= places[flushed].1 || !lost[first..last].iter().any(|lost| *lost)
        }).count();
        let torn = left[places.get(whole).map_or(end, |place| place.1)..].iter().any(|byte| *byte != 0);
        let verified = verify(dir.path()).unwrap();
        prop_assert_eq!((verified.size, verified.torn), (whole as u64, torn));
        prop_assert_eq!(records(dir.path()), (0..whole as u64).map(record).collect::<Vec<_>>());
        let (ledger, recovery) = Ledger::open(dir.path(), Options::new(ORIGIN)).unwrap();
        prop_assert_eq!(recovery.is_some(), torn);
        append(&ledger, 50..52);
        ledger.close();
        prop_assert_eq!(verify(dir.path()).unwrap().size, whole as u64 + u64::from(torn) + 2);
        prop_assert_eq!(&records(dir.path())[..whole], &(0..whole as u64).map(record).collect::<Vec<_>>()[..]);
    }

    /// What an entry behind it vouches for is never taken for torn, whatever is there now, and whatever else is missing.
    #[test]
    fn what_was_flushed_and_is_not_there_any_more_is_no_crash(
        at in any::<usize>(), length in 1_usize..300, zeros in any::<bool>(), cut in any::<usize>(),
    ) {
        let (dir, places) = crashed();
        let flushed = usize::try_from(FLUSHED).unwrap();
        let (path, begin, end) = (places[0].0.clone(), places[0].1, places[flushed].1);
        let at = begin + at % (end - begin);
        let to = (at + length).min(end);
        let before = fs::read(&path).unwrap();
        rewrite(&path, |bytes| {
            bytes[at..to].iter_mut().for_each(|byte| *byte = if zeros { 0 } else { !*byte });
            // The first of those that were written after is there; of the others, who knows.
            let cut = places[flushed].2 + cut % (bytes.len() - places[flushed].2);
            bytes.truncate(cut);
        });
        prop_assume!(before[at..to] != fs::read(&path).unwrap()[at..to]);
        let broken = places.iter().filter(|place| place.2 <= at).count() as u64;
        let fault = fault(dir.path());
        prop_assert!(matches!(fault, (FaultKind::Edited, index) if index == broken), "{:?}", fault);
        let read: Vec<_> = Reader::new(dir.path()).entries(0).unwrap().take(20).collect();
        prop_assert!(matches!(&read[usize::try_from(broken).unwrap()], Err(ReadError::Fault(fault)) if fault.index == broken));
        let opened = Ledger::open(dir.path(), Options::new(ORIGIN)).unwrap_err();
        prop_assert!(matches!(opened, OpenError::Damaged(ref fault) if fault.index == broken), "{}", opened);
    }
}
