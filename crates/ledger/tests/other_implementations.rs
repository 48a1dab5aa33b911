//! Checkpoints and tiles, read by the crates `signed_note` and `tlog_tiles`, which share no line with ours.

use std::fs;
use std::path::PathBuf;

use portcullis_ledger::{
    Checkpoint, Durability, Hash, Ledger, Options, Reader, consistency_proof, inclusion_proof,
};
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{
    Error, Hash as TheirHash, HashReader as _, Tile, TileHashReader, TileReader, check_record, check_tree,
    prove_record, prove_tree, record_hash, stored_hash_index, tree_hash,
};

const ORIGIN: &str = "test.example/others";
const SIZE: u64 = 1_300;

/// The ledger's tiles, by their names for them.
struct Stored(PathBuf);

impl TileReader for Stored {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        let read = |tile: &Tile| fs::read(self.0.join(tile.path().replacen("tile/8/", "tile/", 1)));
        Ok(tiles.iter().map(|tile| read(tile).unwrap_or_default()).collect())
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

fn record(i: u64) -> Vec<u8> {
    format!("record {i}").into_bytes()
}

fn theirs(hashes: Vec<Hash>) -> Vec<TheirHash> {
    hashes.into_iter().map(|hash| TheirHash(*hash.as_bytes())).collect()
}

#[test]
fn they_read_what_we_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(dir.path(), Options::new(ORIGIN).segment_size(20_000)).unwrap();
    for i in 0..SIZE {
        ledger.writer().append_blocking(record(i), Durability::Write).unwrap();
    }
    let ours = ledger.checkpoint().unwrap();
    ledger.close();

    let key = fs::read_to_string(dir.path().join("key.pub")).unwrap();
    let note = fs::read(dir.path().join("checkpoint")).unwrap();
    let verifier = StandardVerifier::new(key.trim()).unwrap();
    let signed = Note::from_bytes(&note).unwrap();
    let (verified, _) = signed.verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
    assert_eq!(verified.len(), 1);
    let checkpoint = tlog_tiles::Checkpoint::from_bytes(signed.text()).unwrap();
    assert_eq!(
        (checkpoint.origin(), checkpoint.size(), checkpoint.hash().0),
        (ORIGIN, SIZE, *ours.root.as_bytes())
    );

    let stored = Stored(dir.path().to_owned());
    let root = *checkpoint.hash();
    let hashes = TileHashReader::new(SIZE, root, &stored);
    assert_eq!(tree_hash(SIZE, &hashes).unwrap(), root);
    let reader = Reader::new(dir.path());
    for index in [0, 1, 255, 256, 700, 1_023, 1_024, 1_299] {
        let leaf = hashes.read_hashes(&[stored_hash_index(0, index)]).unwrap()[0];
        assert_eq!(leaf, record_hash(&record(index)));
        let proof = theirs(inclusion_proof(&reader.tiles(SIZE), index, SIZE).unwrap());
        assert_eq!(proof, prove_record(SIZE, index, &hashes).unwrap());
        check_record(&proof, SIZE, root, index, leaf).unwrap();
    }
    for old in [1, 2, 255, 256, 700, 1_024, 1_299] {
        let proof = theirs(consistency_proof(&reader.tiles(SIZE), old, SIZE).unwrap());
        assert_eq!(proof, prove_tree(SIZE, old, &hashes).unwrap());
        check_tree(&proof, SIZE, root, old, tree_hash(old, &hashes).unwrap()).unwrap();
    }
}

#[test]
fn we_read_what_they_wrote_anew() {
    let key = portcullis_ledger::SigningKey::generate(ORIGIN).unwrap();
    let ours = Checkpoint { origin: ORIGIN.into(), size: 7, root: Hash::of(b"root") };
    // Taken apart and put together by them.
    let signed = Note::from_bytes(ours.sign(&key).unwrap().as_bytes()).unwrap();
    let again = String::from_utf8(signed.to_bytes()).unwrap();
    assert_eq!(Checkpoint::verify(&again, key.verifying_key()), Ok(ours));
}
