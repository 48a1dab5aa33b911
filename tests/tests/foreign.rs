//! The audit log, read by code that knows nothing of us: Go's `golang.org/x/mod/sumdb/{note,tlog}`.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use portcullis_audit::ledger::{
    Checkpoint, Durability, Hash, Ledger, Options, Reader, VerifyingKey, WitnessKey, consistency_proof,
};
use portcullis_tests::foreign_verifier;

const ORIGIN: &str = "foreign.example/audit";
/// Where the ledger was closed and opened again: within a tile, at one's end, and just behind it.
const RESTARTS: [u64; 5] = [1, 700, 1024, 1025, 3_500];

/// A ledger, and what has been kept of it elsewhere.
struct Written {
    dir: tempfile::TempDir,
    elsewhere: tempfile::TempDir,
}

impl Written {
    fn new() -> Self {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut size = 0;
        for next in RESTARTS {
            let options = Options::new(ORIGIN).segment_size(100_000);
            let (ledger, _) = Ledger::open(dir.path(), options).unwrap();
            for i in size..next {
                let record = format!(
                    r#"{{"v":1,"record":{i},"text":"{}"}}"#,
                    "é".repeat(usize::try_from(i % 90).unwrap())
                );
                ledger.writer().append_blocking(record.into_bytes(), Durability::Write).unwrap();
            }
            ledger.close();
            size = next;
            fs::copy(dir.path().join("checkpoint"), elsewhere.path().join(format!("checkpoint-{size}")))
                .unwrap();
        }
        assert!(fs::read_dir(dir.path().join("segments")).unwrap().count() > 3);
        let written = Self { dir, elsewhere };
        written.prove(size);
        written
    }

    /// Our proofs, each in a file.
    fn prove(&self, size: u64) {
        let reader = Reader::new(self.dir.path());
        for index in [0, 255, 256, 1_024, 3_071, 3_499] {
            let proof = reader.prove(index).unwrap().to_string();
            fs::write(self.elsewhere.path().join(format!("proof-{index}")), proof).unwrap();
        }
        let key: VerifyingKey = fs::read_to_string(self.dir.path().join("key.pub")).unwrap().parse().unwrap();
        let root = |size: u64| {
            let note = fs::read_to_string(self.elsewhere.path().join(format!("checkpoint-{size}"))).unwrap();
            Checkpoint::verify(&note, &key).unwrap().root
        };
        let line = |hash: Hash| BASE64.encode(hash.as_bytes()) + "\n";
        for old in &RESTARTS[..4] {
            let proof = consistency_proof(&reader.tiles(size), *old, size).unwrap();
            let hashes: String = [root(*old), root(size)].into_iter().chain(proof).map(line).collect();
            let text = format!("{old}\n{size}\n{hashes}");
            fs::write(self.elsewhere.path().join(format!("consistency-{old}")), text).unwrap();
        }
    }

    async fn verify(&self, program: &Path) -> Output {
        let mut go = tokio::process::Command::new(program);
        go.arg("verify").arg("-dir").arg(self.dir.path()).arg("-key").arg(self.dir.path().join("key.pub"));
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.elsewhere.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            let kind = file.file_name().unwrap().to_str().unwrap().split('-').next().unwrap();
            go.arg(if kind == "checkpoint" { "-old".to_owned() } else { format!("-{kind}") }).arg(&file);
        }
        go.output().await.unwrap()
    }
}

#[tokio::test]
async fn go_accepts_what_we_wrote_and_refuses_it_changed() {
    let program = foreign_verifier().await;
    let written = Written::new();
    let good = written.verify(&program).await;
    let said = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert_eq!(
        said,
        "accepted 3500 records, 5 older checkpoints, 6 inclusion proofs, 4 consistency proofs\n"
    );

    let (dir, elsewhere) = (written.dir.path(), written.elsewhere.path());
    let changed = [
        (dir.join("tile/0/003"), 4_000),
        (dir.join("tile/0/013.p/172"), 33),
        (dir.join("tile/1/000.p/13"), 32 * 12),
        (dir.join("tile/entries/000"), 700),
        (dir.join("tile/entries/013.p/172"), 5),
        // Of the root, and of the signature.
        (dir.join("checkpoint"), ORIGIN.len() + 10),
        (dir.join("checkpoint"), ORIGIN.len() + 100),
        (elsewhere.join("checkpoint-1024"), ORIGIN.len() + 10),
        (elsewhere.join("proof-3071"), 200),
        (elsewhere.join("consistency-700"), 150),
    ];
    for (file, at) in changed {
        let bytes = fs::read(&file).unwrap();
        let mut other = bytes.clone();
        other[at] ^= 1;
        fs::write(&file, other).unwrap();
        let refused = written.verify(&program).await;
        assert!(!refused.status.success(), "{} was changed at {at}, and accepted", file.display());
        assert!(String::from_utf8_lossy(&refused.stderr).starts_with("refused:"));
        fs::write(&file, bytes).unwrap();
    }
    for gone in ["tile/0/003", "tile/entries/013.p/172", "tile/1/000.p/13"] {
        let bytes = fs::read(dir.join(gone)).unwrap();
        fs::remove_file(dir.join(gone)).unwrap();
        assert!(!written.verify(&program).await.status.success(), "{gone} is gone");
        fs::write(dir.join(gone), bytes).unwrap();
    }
    assert!(written.verify(&program).await.status.success());
}

#[tokio::test]
async fn go_reads_a_log_with_a_new_key() {
    let program = foreign_verifier().await;
    let written = Written::new();
    Ledger::rotate_key(written.dir.path(), Options::new(ORIGIN)).unwrap();
    // It knows one key, and what that one signed.
    for file in fs::read_dir(written.elsewhere.path()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    let keys = Reader::new(written.dir.path()).keys().unwrap();
    fs::copy(
        written.dir.path().join("rotations/000001"),
        written.elsewhere.path().join("checkpoint-rotation"),
    )
    .unwrap();
    let key = written.dir.path().join("key.pub");
    let all = fs::read(&key).unwrap();
    fs::write(&key, keys[0].to_string()).unwrap();
    let good = written.verify(&program).await;
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    fs::write(&key, keys[1].to_string()).unwrap();
    assert!(!written.verify(&program).await.status.success(), "the old key signs no more");
    fs::write(&key, all).unwrap();
}

#[tokio::test]
async fn we_accept_what_go_signed() {
    let program = foreign_verifier().await;
    let root = Hash::of(b"root");
    let mut go = tokio::process::Command::new(program);
    go.args(["sign", "-origin", ORIGIN, "-size", "4711", "-root"]).arg(BASE64.encode(root.as_bytes()));
    let signed = go.output().await.unwrap();
    assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
    let signed = String::from_utf8(signed.stdout).unwrap();
    let (log, rest) = signed.split_once('\n').unwrap();
    let (witness, note) = rest.split_once('\n').unwrap();
    let (log, witness): (VerifyingKey, WitnessKey) = (log.parse().unwrap(), witness.parse().unwrap());

    let (checkpoint, cosignatures) =
        Checkpoint::cosigned(note, &log, std::slice::from_ref(&witness)).unwrap();
    assert_eq!(checkpoint, Checkpoint { origin: ORIGIN.into(), size: 4711, root });
    assert_eq!(cosignatures.len(), 1);
    assert_eq!(cosignatures[0].witness, "witness.example/foreign");
    let forged = note.replace("4711", "4712");
    assert!(Checkpoint::cosigned(&forged, &log, &[witness]).is_err());
}
