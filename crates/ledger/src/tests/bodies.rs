//! Bodies: stored small, unreadable without the key, and never believed when they were changed.

use std::io::{self, Read as _, Write as _};
use std::time::SystemTime;

use super::*;
use crate::bodies::Bodies;
use crate::{BodyKeys, MAX_BODY_READ};

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

fn bodies(keys: &[[u8; 32]]) -> (TempDir, Bodies) {
    let dir = tempfile::tempdir().unwrap();
    let bodies = Bodies::new(dir.path().join("bodies"), BodyKeys::new(keys.iter().copied()));
    (dir, bodies)
}

fn again(dir: &TempDir, keys: &[[u8; 32]]) -> Bodies {
    Bodies::new(dir.path().join("bodies"), BodyKeys::new(keys.iter().copied()))
}

/// Bytes that do not compress, so that there are several chunks of them.
fn noise(length: usize) -> Vec<u8> {
    let blocks = (0..length as u64 / 32 + 1).flat_map(|i| *Hash::of(&i.to_le_bytes()).as_bytes());
    blocks.take(length).collect()
}

#[test]
fn a_body_is_found_by_its_digest_and_a_changed_one_is_not_believed() {
    for keys in [&[][..], &[NEW]] {
        let (_dir, bodies) = bodies(keys);
        let digest = bodies.put(b"hello", Durability::Fsync).unwrap();
        assert_eq!(digest, Hash::of(b"hello"));
        assert_eq!(bodies.put(b"hello", Durability::Write).unwrap(), digest);
        assert_eq!(bodies.read(digest).unwrap().as_deref(), Some(b"hello".as_slice()));
        assert!(bodies.verify(digest).unwrap());
        assert_eq!(bodies.read(Hash::of(b"other")).unwrap(), None);
        assert!(!bodies.verify(Hash::of(b"other")).unwrap());
        // Another body, whole and well, under this one's name.
        let other = bodies.put(b"hellp", Durability::Write).unwrap();
        fs::copy(bodies.path(other), bodies.path(digest)).unwrap();
        assert_eq!(bodies.read(digest).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(bodies.verify(digest).is_err());
    }
}

#[test]
fn what_an_earlier_version_stored_is_read() {
    let (_dir, bodies) = bodies(&[NEW]);
    let digest = Hash::of(b"plain");
    let path = bodies.path(digest).with_extension("");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"plain").unwrap();
    assert_eq!(bodies.path(digest), path);
    assert_eq!(bodies.read(digest).unwrap().as_deref(), Some(b"plain".as_slice()));
    assert_eq!(bodies.put(b"plain", Durability::Fsync).unwrap(), digest);
    assert!(path.exists() && !path.with_extension("body").exists());
    let old = SystemTime::UNIX_EPOCH;
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    assert!(bodies.refresh(digest).unwrap());
    assert!(fs::metadata(&path).unwrap().modified().unwrap() > old);
    fs::write(&path, b"plaim").unwrap();
    assert!(bodies.read(digest).is_err());
    // Put again, it is stored anew: and that is what is read, and named.
    bodies.put(b"plain", Durability::Fsync).unwrap();
    assert!(bodies.verify(digest).unwrap());
    assert_eq!(bodies.path(digest), path.with_extension("body"));
    assert!(bodies.remove(digest).unwrap());
    assert!(!bodies.remove(digest).unwrap());
}

#[test]
fn keys_follow_one_another() {
    let (dir, plain) = bodies(&[]);
    let text = "a password that nobody is to find on the disk ".repeat(50).into_bytes();
    let unencrypted = plain.put(b"before there was a key", Durability::Write).unwrap();
    let first = again(&dir, &[OLD]).put(&text, Durability::Write).unwrap();
    let second = again(&dir, &[NEW, OLD]).put(b"after the key was changed", Durability::Write).unwrap();
    for digest in [unencrypted, first, second] {
        assert!(again(&dir, &[NEW, OLD]).verify(digest).unwrap());
    }
    let error = again(&dir, &[NEW]).read(first).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(!format!("{error} {:?}", again(&dir, &[NEW])).contains("[2, 2"));
    assert_eq!(again(&dir, &[]).read(second).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    let stored = fs::read(plain.path(first)).unwrap();
    assert!(stored.len() < text.len());
    assert!(!String::from_utf8_lossy(&stored).contains("password"));
}

#[cfg(unix)]
#[test]
fn keys_are_read_from_files_of_their_owner() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        private(&path);
        path
    };
    let (good, short) = (file("good", &NEW), file("short", &[0; 31]));
    let keys = BodyKeys::from_files([&good]).unwrap();
    assert_eq!(format!("{keys:?}"), "BodyKeys(1)");
    assert!(BodyKeys::from_files([&good, &short]).unwrap_err().to_string().contains("32 bytes"));
    assert_eq!(BodyKeys::from_files([dir.path().join("none")]).unwrap_err().kind(), io::ErrorKind::NotFound);
    fs::set_permissions(&good, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert!(BodyKeys::from_files([&good]).unwrap_err().to_string().contains("chmod 600"));

    // Through the ledger.
    let options = || Options::new(ORIGIN).body_keys(keys.clone());
    let (ledger, _) = Ledger::open(dir.path().join("ledger"), options()).unwrap();
    let digest = ledger.bodies().put(b"secret", Durability::Fsync).unwrap();
    ledger.close();
    let reader = Reader::new(dir.path().join("ledger"));
    assert!(reader.bodies().read(digest).is_err());
    assert!(reader.body_keys(keys).bodies().verify(digest).unwrap());
}

#[test]
fn large_bodies_are_written_and_read_piece_by_piece() {
    let (_dir, bodies) = bodies(&[NEW]);
    let content = noise(3_000_000);
    for _ in 0..2 {
        let mut writer = bodies.writer().unwrap();
        content.chunks(10_000).for_each(|piece| writer.write_all(piece).unwrap());
        assert_eq!(writer.finish(Durability::Fsync).unwrap(), Hash::of(&content));
    }
    let digest = Hash::of(&content);
    let mut body = bodies.open(digest).unwrap().unwrap();
    let mut found = Vec::new();
    let mut piece = [0; 1000];
    loop {
        match body.read(&mut piece).unwrap() {
            0 => break,
            read => found.extend_from_slice(&piece[..read]),
        }
    }
    assert!(found == content);

    // Few bytes on the disk, many in memory: refused, not read.
    let mut writer = bodies.writer().unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..=MAX_BODY_READ >> 20 {
        writer.write_all(&zeros).unwrap();
    }
    let bomb = writer.finish(Durability::Write).unwrap();
    assert!(fs::metadata(bodies.path(bomb)).unwrap().len() < 100_000);
    assert_eq!(bodies.read(bomb).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    assert!(bodies.verify(bomb).unwrap());
}

#[test]
fn what_is_not_finished_leaves_nothing() {
    let (dir, bodies) = bodies(&[]);
    let mut writer = bodies.writer().unwrap();
    writer.write_all(b"half").unwrap();
    drop(writer);
    assert_eq!(fs::read_dir(dir.path().join("bodies")).unwrap().count(), 0);
    // A process that died is swept up after by the next one.
    let ledger = open(dir.path());
    ledger.close();
    fs::write(dir.path().join("bodies/77-1.tmp"), b"half").unwrap();
    open(dir.path()).close();
    assert!(!dir.path().join("bodies/77-1.tmp").exists());
}

#[test]
fn a_body_that_a_power_cut_shortened_is_written_again() {
    let (_dir, bodies) = bodies(&[NEW]);
    let content = noise(200_000);
    let digest = bodies.put(&content, Durability::Write).unwrap();
    let whole = fs::read(bodies.path(digest)).unwrap().len();
    for length in [0, 10, 58, 61, 70_000, whole - 1] {
        rewrite(&bodies.path(digest), |bytes| bytes.truncate(length));
        assert!(bodies.read(digest).is_err());
        assert_eq!(bodies.put(&content, Durability::Fsync).unwrap(), digest);
        assert!(bodies.verify(digest).unwrap());
    }
}

#[test]
fn a_body_of_which_a_power_cut_left_zeros_is_written_again() {
    for keys in [&[][..], &[NEW]] {
        // Of one chunk, whose head is there and right, and of several.
        for length in [60_000, 200_000] {
            let (_dir, bodies) = bodies(keys);
            let content = noise(length);
            let digest = bodies.put(&content, Durability::Write).unwrap();
            rewrite(&bodies.path(digest), |bytes| bytes[4096..].fill(0));
            assert_eq!(bodies.refresh(digest).unwrap(), length == 60_000);
            assert_eq!(bodies.put(&content, Durability::Fsync).unwrap(), digest);
            assert!(bodies.verify(digest).unwrap());

            rewrite(&bodies.path(digest), |bytes| bytes.fill(0));
            assert!(!bodies.refresh(digest).unwrap());
            let mut writer = bodies.writer().unwrap();
            writer.write_all(&content).unwrap();
            assert_eq!(writer.finish(Durability::Fsync).unwrap(), digest);
            assert!(bodies.verify(digest).unwrap());
        }
    }
}

#[test]
fn no_chunk_but_the_last_is_empty() {
    let (dir, bodies) = bodies(&[]);
    let digest = bodies.put(b"hello", Durability::Write).unwrap();
    // Behind the header, where the first chunk's head is.
    rewrite(&bodies.path(digest), |bytes| drop(bytes.splice(58..58, [0; 4])));
    assert_eq!(bodies.read(digest).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(!bodies.refresh(digest).unwrap());
    let live = dir.path().join("live");
    fs::copy(bodies.path(digest), &live).unwrap();
    assert!(io::copy(&mut bodies.open_live(&live).unwrap(), &mut io::sink()).is_err());
}

#[test]
fn retention_drops_the_old_and_the_log_stays() {
    let dir = written(3);
    let (ledger, _) = Ledger::open(dir.path(), small()).unwrap();
    let bodies = ledger.bodies();
    let [old, again, young] =
        [b"old".as_slice(), b"again", b"young"].map(|body| bodies.put(body, Durability::Write).unwrap());
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for digest in [old, again] {
        fs::File::options().write(true).open(bodies.path(digest)).unwrap().set_modified(long_ago).unwrap();
    }
    bodies.put(b"again", Durability::Write).unwrap();
    let mut seen = Vec::new();
    assert_eq!(
        bodies
            .retain(|body| {
                seen.push(body.digest);
                true
            })
            .unwrap(),
        (0, 0)
    );
    seen.sort();
    let mut all = [old, again, young];
    all.sort();
    assert_eq!(seen, all);
    let (dropped, bytes) = bodies.retain(|body| body.modified > long_ago).unwrap();
    assert_eq!(dropped, 1);
    assert!(bytes > 0);
    assert_eq!([old, again, young].map(|digest| bodies.verify(digest).unwrap()), [false, true, true]);
    ledger.close();
    verify(dir.path()).unwrap();
}

#[test]
fn retention_and_putting_again_at_once_lose_nothing() {
    let (_dir, bodies) = bodies(&[NEW]);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let age = |digest| {
        fs::File::options().write(true).open(bodies.path(digest)).unwrap().set_modified(long_ago).unwrap()
    };
    let digest = bodies.put(b"again", Durability::Write).unwrap();
    age(digest);
    // Put again between retention's look and its hand.
    let dropped = bodies.retain(|_| bodies.refresh(digest).is_ok_and(|there| !there)).unwrap();
    assert_eq!(dropped, (0, 0));
    assert!(bodies.verify(digest).unwrap());
    // On its way out when the process died: dropped by the next one, or given back.
    let going = PathBuf::from(format!("{}.going", bodies.path(digest).display()));
    fs::rename(bodies.path(digest), &going).unwrap();
    assert!(!bodies.refresh(digest).unwrap());
    assert_eq!(bodies.retain(|_| true).unwrap(), (0, 0));
    assert!(bodies.verify(digest).unwrap() && !going.exists());
    fs::rename(bodies.path(digest), &going).unwrap();
    assert_eq!(bodies.retain(|_| false).unwrap().0, 1);
    assert!(!bodies.verify(digest).unwrap() && !going.exists());
}

/// What can be read of it now.
fn so_far(reader: &mut crate::LiveReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_body_is_read_while_it_grows_and_is_never_there_in_plain_text() {
    for keys in [&[][..], &[NEW]] {
        let (dir, bodies) = bodies(keys);
        let file = dir.path().join("live");
        let (mut live, mut reader) = (bodies.begin_live(&file).unwrap(), bodies.open_live(&file).unwrap());
        assert_eq!(so_far(&mut reader), b"");
        let mut whole = Vec::new();
        for piece in [b"the secret".to_vec(), noise(200_000), vec![b'x'; 65_533], b"end".to_vec()] {
            live.append(&piece).unwrap();
            assert!(so_far(&mut reader) == piece);
            // At the end it may be asked as often as one likes.
            (0..40).for_each(|_| assert_eq!(so_far(&mut reader), b""));
            whole.extend(piece);
        }
        let stored = fs::read(&file).unwrap();
        let plain = stored.windows(10).any(|bytes| bytes == b"the secret");
        assert_eq!(plain, keys.is_empty());
        let mut later = bodies.open_live(&file).unwrap();
        later.skip(200_010).unwrap();
        assert_eq!(so_far(&mut later).len(), 65_536);
        if !keys.is_empty() {
            let mut reader = again(&dir, &[OLD]).open_live(&file).unwrap();
            assert_eq!(reader.read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
        // What goes on is nobody else's to remove.
        assert!(fs::File::open(&file).unwrap().try_lock().is_err());
        live.finish().unwrap();
        assert_eq!(so_far(&mut reader), b"");

        assert!(bodies.adopt(&file, Hash::of(b"other")).is_err());
        assert!(file.exists());
        bodies.adopt(&file, Hash::of(&whole)).unwrap();
        assert!(!file.exists());
        assert!(bodies.read(Hash::of(&whole)).unwrap() == Some(whole));
    }
}

#[test]
fn a_finished_live_body_is_a_stored_one() {
    let (dir, bodies) = bodies(&[NEW]);
    let file = dir.path().join("live");
    let mut live = bodies.begin_live(&file).unwrap();
    live.append(&noise(100_000)).unwrap();
    live.finish().unwrap();
    let digest = Hash::of(&noise(100_000));
    fs::create_dir_all(bodies.path(digest).parent().unwrap()).unwrap();
    fs::rename(&file, bodies.path(digest)).unwrap();
    assert!(bodies.verify(digest).unwrap());
}

#[test]
fn a_key_is_made_once_and_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("body.key");
    BodyKeys::new_file(&file).unwrap();
    assert!(!BodyKeys::from_files([&file]).unwrap().is_empty());
    assert_eq!(BodyKeys::new_file(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn bodies_round_trip(length in prop_oneof![0_usize..300, 65_000..66_000_usize, 130_000..300_000_usize], repeat in any::<bool>(), encrypted in any::<bool>(), piece in 1_usize..100_000) {
        let (_dir, bodies) = bodies(if encrypted { &[NEW] } else { &[] });
        let content = if repeat { vec![b'x'; length] } else { noise(length) };
        let mut writer = bodies.writer().unwrap();
        content.chunks(piece).for_each(|piece| writer.write_all(piece).unwrap());
        let digest = writer.finish(Durability::Write).unwrap();
        prop_assert_eq!(digest, Hash::of(&content));
        prop_assert!(bodies.read(digest).unwrap() == Some(content));
    }

    #[test]
    fn any_change_of_a_stored_body_is_noticed(encrypted in any::<bool>(), at in any::<usize>(), bit in 0_u8..8, change in 0..6) {
        let (_dir, bodies) = bodies(if encrypted { &[NEW] } else { &[] });
        let content = noise(200_000);
        let digest = bodies.put(&content, Durability::Write).unwrap();
        // A whole chunk with its head: the first three are full.
        let chunk = 4 + 65_536 + if encrypted { 16 } else { 0 };
        rewrite(&bodies.path(digest), |bytes| {
            let at = at % bytes.len();
            match change {
                0 | 1 => bytes[at] ^= 1_u8 << bit,
                2 => bytes.truncate(at),
                // Two chunks in the other order, one twice, one left out.
                3 => bytes[58..58 + 2 * chunk].rotate_left(chunk),
                4 => drop(bytes.splice(58..58, bytes[58..58 + chunk].to_vec())),
                _ => drop(bytes.drain(58..58 + chunk)),
            }
        });
        let error = bodies.read(digest).unwrap_err();
        prop_assert!(matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied | io::ErrorKind::Other | io::ErrorKind::UnexpectedEof), "{:?} {error}", error.kind());
        prop_assert!(bodies.verify(digest).is_err());
    }

    #[test]
    fn a_live_body_cut_anywhere_is_read_as_far_as_it_goes(pieces in proptest::collection::vec(0_usize..2000, 1..12), encrypted in any::<bool>(), cut in any::<prop::sample::Index>()) {
        let (dir, bodies) = bodies(if encrypted { &[NEW] } else { &[] });
        let file = dir.path().join("live");
        let mut live = bodies.begin_live(&file).unwrap();
        let whole = noise(30_000);
        let mut at = 0;
        for length in pieces {
            live.append(&whole[at..at + length]).unwrap();
            at += length;
        }
        drop(live);
        rewrite(&file, |bytes| bytes.truncate(cut.index(bytes.len() + 1)));
        let read = so_far(&mut bodies.open_live(&file).unwrap());
        prop_assert!(whole[..at].starts_with(&read));
    }

    #[test]
    fn arbitrary_files_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), header in any::<bool>()) {
        let (_dir, bodies) = bodies(&[NEW]);
        let digest = bodies.put(b"x", Durability::Write).unwrap();
        rewrite(&bodies.path(digest), |stored| { stored.truncate(if header { 58 } else { 0 }); stored.extend_from_slice(&bytes); });
        prop_assert!(bodies.read(digest).is_err());
    }
}
