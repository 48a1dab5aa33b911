//! Keys, retention and witnesses by hand, in this process.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use clap::Parser;
use portcullis_audit::{Audit, AuditOptions, AuditReader};
use portcullis_ledger::{BodyKeys, Durability, Hash, Ledger, Options, WitnessKey};
use tempfile::TempDir;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: AuditCommand,
}

fn run(words: &[&str]) -> Result<u8, CliError> {
    let command = Cli::try_parse_from([&["audit"], words].concat()).unwrap().command;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(audit(command))
}

/// The configuration of a gateway whose state is below `dir`, with this in its section `audit`.
fn config(dir: &TempDir, audit: &str) -> String {
    let path = dir.path().join("portcullis.yaml");
    let text = format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: Gateway\n\
         listen: {{ address: 127.0.0.1:0, tls: {{ certFile: tls.crt, keyFile: tls.key }} }}\n\
         stateDir: state\nclusters: [{{ name: prod }}]\n\
         authentication: {{ jwt: [{{ preset: github-actions, issuer: {{ audiences: [portcullis] }}, \
         claimValidationRules: [{{ claim: repository_owner, requiredValue: octo-org }}] }}] }}\n\
         audit: {audit}\n"
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn ledger(dir: &TempDir) -> PathBuf {
    dir.path().join("state/ledger")
}

fn words(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A log with a request whose body is kept.
fn log_with_a_body(dir: &Path, keys: BodyKeys) -> Hash {
    let options = Options::new("test.example/audit").body_keys(keys);
    let (ledger, _) = Ledger::open(dir, options).unwrap();
    let body = ledger.bodies().put(b"a body", Durability::Fsync).unwrap();
    let intent = serde_json::json!({
        "v": 1, "time": "2026-11-03T12:00:00Z", "type": "intent", "id": "01a2230f-0ad0-7124-ade2-a9affc29424a",
        "received": "2026-11-03T12:00:00Z", "command": "apply",
        "request": { "method": "POST", "uri": "/x", "info": portcullis_core::RequestInfo::default() },
        "body": { "bytes": 6, "sha256": body, "stored": body },
    });
    ledger.writer().append_blocking(intent.to_string().into_bytes(), Durability::Fsync).unwrap();
    ledger.close();
    body
}

#[test]
fn bodies_are_read_with_the_keys_that_the_configuration_names() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old.key"), dir.path().join("new.key"));
    for key in [&old, &new] {
        assert_eq!(run(&["new-body-key", words(key)]).unwrap(), 0);
        assert!(run(&["new-body-key", words(key)]).unwrap_err().to_string().contains("exists"));
    }
    log_with_a_body(&ledger(&dir), BodyKeys::from_files([&old]).unwrap());

    let verify = |audit: &str| run(&["verify", "--config", &config(&dir, audit)]).unwrap();
    assert_eq!(verify("{ bodyKeyFiles: [new.key, old.key] }"), 0);
    // The log is proven all the same; what could not be read is not called changed.
    assert_eq!(verify("{ bodyKeyFiles: [new.key] }"), 77);
    assert_eq!(verify("{ bodyKeyFiles: [new.key, gone.key] }"), 77);
    let log = ledger(&dir);
    assert_eq!(run(&["verify", "--ledger", words(&log)]).unwrap(), 77);
    assert_eq!(run(&["verify", "--ledger", words(&log), "--body-key", words(&old)]).unwrap(), 0);
    let gone = dir.path().join("gone.key");
    let error = run(&["verify", "--ledger", words(&log), "--body-key", words(&gone)]).unwrap_err();
    assert!(error.to_string().contains("gone.key"), "{error}");
    // Changed is changed, whoever looks.
    let body = AuditReader::new(&log).bodies().path(Hash::of(b"a body"));
    let mut bytes = std::fs::read(&body).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&body, bytes).unwrap();
    assert_eq!(verify("{ bodyKeyFiles: [new.key, old.key] }"), 65);

    let broken = Config::load(Path::new(&config(&dir, "{ bodyKeyFiles: [gone.key] }"))).unwrap();
    let error = broken.audit.body_keys().unwrap_err();
    assert!(error.contains("gone.key") && error.contains("new-body-key"), "{error}");
}

#[test]
fn pruning_says_what_it_would_do_and_does_it_and_it_goes_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let body = log_with_a_body(&ledger(&dir), BodyKeys::default());
    let reader = AuditReader::new(ledger(&dir));
    let ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    std::fs::File::options().write(true).open(reader.bodies().path(body)).unwrap().set_modified(ago).unwrap();
    let for_ever = config(&dir, "{ origin: test.example/audit }");
    assert_eq!(run(&["prune", "--config", &for_ever]).unwrap(), 0);
    let config =
        config(&dir, "{ origin: test.example/audit, retention: { bodies: 90d, recordings: 8760h } }");
    assert_eq!(run(&["prune", "--config", &config, "--dry-run"]).unwrap(), 0);
    assert!(reader.bodies().verify(body).unwrap());
    assert_eq!(run(&["prune", "--config", &config]).unwrap(), 0);
    assert!(!reader.bodies().verify(body).unwrap());
    // The log is what it was, and the body counts as dropped.
    assert_eq!(run(&["verify", "--config", &config]).unwrap(), 0);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (audit, _) = Audit::open(ledger(&dir), AuditOptions::new("test.example/audit")).unwrap();
        assert_eq!(audit.record_pruned().await.unwrap(), 1);
        audit.close().await;
    });
    let told = reader.tail(10, |stored| stored.entry.line().contains("retentionApplied")).unwrap().0;
    assert_eq!(told.len(), 1);
    assert!(told[0].entry.line().contains("bodies=1"), "{}", told[0].entry.line());
}

#[test]
fn retention_is_written_as_people_write_ages() {
    let dir = tempfile::tempdir().unwrap();
    let load = |audit: &str| Config::load(Path::new(&config(&dir, audit)));
    let loaded = load("{ retention: { bodies: 90d, recordings: 36h } }").unwrap().audit.retention;
    assert_eq!(loaded.bodies, Some(Duration::from_secs(90 * 86_400)));
    assert_eq!(loaded.recordings, Some(Duration::from_secs(36 * 3600)));
    let again: crate::config::Retention =
        serde_yaml::from_str(&serde_yaml::to_string(&loaded).unwrap()).unwrap();
    assert_eq!(again, loaded);
    for wrong in ["1h", "-3d", "3", "99999999999999999999d", "soon"] {
        assert!(load(&format!("{{ retention: {{ bodies: {wrong} }} }}")).is_err(), "{wrong}");
    }
}

/// A witness's line on a note (C2SP tlog-cosignature).
fn cosign(pair: &Ed25519KeyPair, name: &str, note: &str) -> String {
    let text = &note[..note.find("\n\n").unwrap() + 1];
    let signature = pair.sign(format!("cosignature/v1\ntime 1700000000\n{text}").as_bytes());
    let key = witness_key(pair, name).to_string();
    let id = u32::from_str_radix(key.split('+').nth(1).unwrap(), 16).unwrap();
    let blob = [&id.to_be_bytes(), 1_700_000_000_u64.to_be_bytes().as_slice(), signature.as_ref()].concat();
    format!("{note}— {name} {}\n", BASE64.encode(blob))
}

fn witness_key(pair: &Ed25519KeyPair, name: &str) -> WitnessKey {
    WitnessKey::new(name, pair.public_key().as_ref().try_into().unwrap()).unwrap()
}

#[test]
fn a_witness_is_heard_beside_a_running_gateway_and_demanded_by_the_verifier() {
    let dir = tempfile::tempdir().unwrap();
    log_with_a_body(&ledger(&dir), BodyKeys::default());
    let config = config(&dir, "{ origin: test.example/audit }");
    let (pair, other) = (Ed25519KeyPair::generate().unwrap(), Ed25519KeyPair::generate().unwrap());
    let (key, stranger) =
        (witness_key(&pair, "w.example").to_string(), witness_key(&other, "v.example").to_string());
    assert_eq!(run(&["verify", "--config", &config, "--witness", &key]).unwrap(), 65);

    let (running, _) = Ledger::open(ledger(&dir), Options::new("test.example/audit")).unwrap();
    let note = std::fs::read_to_string(ledger(&dir).join("checkpoint")).unwrap();
    let file = dir.path().join("cosigned");
    let hand_in = |note: &str, key: &str| {
        std::fs::write(&file, note).unwrap();
        run(&["cosign", words(&file), "--witness-key", key, "--config", &config])
    };
    assert!(hand_in(&note, &key).unwrap_err().to_string().contains("no such witness"));
    assert!(hand_in(&cosign(&other, "v.example", &note), &key).is_err());
    assert!(hand_in(&cosign(&other, "w.example", &note), &stranger).is_err());
    assert!(hand_in(&cosign(&pair, "w.example", &note.replace("test.", "best.")), &key).is_err());
    // What is damaged is not the note's fault, and not overwritten.
    let kept = ledger(&dir).join("checkpoint.cosigned");
    std::fs::write(&kept, [0xff]).unwrap();
    let error = hand_in(&cosign(&pair, "w.example", &note), &key).unwrap_err();
    assert!(error.to_string().contains("checkpoint.cosigned"), "{error}");
    assert_eq!((error.exit_code(), std::fs::read(&kept).unwrap()), (65, vec![0xff]));
    std::fs::remove_file(&kept).unwrap();
    assert_eq!(hand_in(&cosign(&pair, "w.example", &note), &key).unwrap(), 0);
    running.close();

    assert_eq!(run(&["verify", "--config", &config, "--witness", &key]).unwrap(), 0);
    assert_eq!(run(&["verify", "--config", &config, "--witness", &key, "--witness", &stranger]).unwrap(), 65);
}
