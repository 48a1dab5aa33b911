//! What the commands answer, by their exit codes, and what they leave.

use std::path::Path;

use clap::Parser;
use portcullis_ledger::{BodyKeys, Durability, Hash, Ledger, Options};
use serde_json::{Value, json};

use super::*;

const EXEC: &str = "01a2230f-0ad0-7124-ade2-a9affc29424a";
const GET: &str = "01a2230f-0ad0-7124-ade2-a9affc29424b";

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: SessionsCommand,
}

/// The exit code, and what is said if the command fails.
fn run(words: &[&str]) -> (u8, String) {
    match sessions(Cli::try_parse_from([&["sessions"], words].concat()).unwrap().command) {
        Ok(code) => (code, String::new()),
        Err(error) => (error.exit_code(), error.to_string()),
    }
}

const CAST: &str =
    "{\"version\":2,\"width\":80,\"height\":24}\n[0.1,\"o\",\"hello\\n\"]\n[0.2,\"x\",\"0\"]\n";

/// A log with an exec that has this recording, and a request that has none. A recording that is not `named` is one of which a
/// crash kept the log from knowing.
fn log(dir: &Path, recording: &str, named: bool) {
    let (ledger, _) = Ledger::open(dir, Options::new("test.example/audit")).unwrap();
    let common = json!({
        "v": 1, "time": "2026-11-03T12:00:00Z", "session": "s-1", "received": "2026-11-03T12:00:00Z", "type": "outcome",
    });
    let append = |more: Value| {
        let mut record = common.clone();
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ledger.writer().append_blocking(record.to_string().into_bytes(), Durability::Fsync).unwrap();
    };
    let info = |subresource: &str| {
        json!({
            "isResourceRequest": true, "verb": "create", "resource": "pods", "subresource": subresource, "name": "web",
        })
    };
    append(
        json!({ "id": GET, "command": "get pods web", "end": "completed", "status": 200, "info": info("") }),
    );
    let file = format!("{EXEC}.cast");
    let mut exec = json!({
        "id": EXEC, "command": "exec web -- sh", "end": "unknown", "status": 101, "info": info("exec"),
    });
    if named {
        exec["end"] = "completed".into();
        exec["stream"] = json!({
            "transport": "webSocket", "subprotocol": "v5.channel.k8s.io", "tty": false, "ended": "closed", "exit": 0,
            "channels": {},
            "recording": { "file": file, "bytes": recording.len(), "sha256": Hash::of(recording.as_bytes()) },
        });
    }
    append(exec);
    ledger.close();
    std::fs::create_dir_all(dir.join("recordings")).unwrap();
    std::fs::write(dir.join("recordings").join(file), recording).unwrap();
}

#[test]
fn what_is_not_there_is_no_such_record() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().to_str().unwrap();
    log(dir.path(), CAST, true);
    let other = GET.replace("424b", "424c");
    for words in
        [vec!["show"], vec!["replay"], vec!["export", "-o", "json"], vec!["export", "-o", "asciicast"]]
    {
        for id in ["s-2", &other] {
            let (code, said) = run(&[&words[..], &[id, "--ledger", ledger]].concat());
            assert!(code == 66 && said.contains(id), "{words:?} {id}: {code} {said}");
        }
    }
    assert_eq!(run(&["show", GET, "--ledger", ledger]).0, 0);
    for words in [vec!["replay"], vec!["export", "-o", "asciicast"]] {
        let (code, said) = run(&[&words[..], &[GET, "--ledger", ledger]].concat());
        assert!(code == 66 && said.contains("nothing is recorded there"), "{words:?}: {code} {said}");
    }
}

#[test]
fn an_asciicast_is_made_of_what_the_log_vouches_for() {
    let cut = CAST.rsplit_once("[0.2").unwrap().0;
    let forged = CAST.replace("hello", "hallo");
    let malformed = CAST.replace("[0.1", "0.1");
    for (recorded, named, found, code, word, made) in [
        (CAST, true, Some(CAST), 0, "", true),
        (CAST, true, Some(forged.as_str()), 65, "IS NOT WHAT THE LOG SAYS", false),
        (CAST, true, Some(cut), 65, "IS NOT WHAT THE LOG SAYS", false),
        (CAST, true, None, 65, "is not there any more", false),
        // The log vouches for it, and it is no asciicast all the same.
        (&malformed, true, Some(&malformed), 65, "is no event", false),
        // Cut off by a crash: all there is, but not whole.
        (cut, false, Some(cut), 77, "it breaks off here", true),
        (CAST, false, Some(CAST), 0, "", true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, out) = (dir.path().join("ledger"), dir.path().join("out.cast"));
        log(&ledger, recorded, named);
        let file = ledger.join("recordings").join(format!("{EXEC}.cast"));
        match found {
            Some(text) => std::fs::write(file, text).unwrap(),
            None => std::fs::remove_file(file).unwrap(),
        }
        let (ledger, out) = (ledger.to_str().unwrap(), out.to_str().unwrap());
        let words = ["export", EXEC, "-o", "asciicast", "--ledger", ledger, "--out", out];
        let (answered, said) = run(&words);
        assert_eq!((answered, Path::new(out).exists()), (code, made), "{found:?}: {said}");
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn an_asciicast_of_what_cannot_be_read_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, out, key) =
        (dir.path().join("ledger"), dir.path().join("out.cast"), dir.path().join("body.key"));
    log(&ledger, CAST, true);
    std::fs::remove_file(ledger.join("recordings").join(format!("{EXEC}.cast"))).unwrap();
    BodyKeys::new_file(&key).unwrap();
    let reader = AuditReader::new(&ledger).body_keys(BodyKeys::from_files([&key]).unwrap());
    reader.recordings().put(CAST.as_bytes(), Durability::Fsync).unwrap();
    let [ledger, out, key] = [&ledger, &out, &key].map(|path| path.to_str().unwrap());
    let words = ["export", EXEC, "-o", "asciicast", "--ledger", ledger, "--out", out];
    let (code, said) = run(&words);
    assert!(code == 77 && said.contains("cannot be read") && !Path::new(out).exists(), "{code} {said}");
    assert_eq!(run(&[&words[..], &["--body-key", key]].concat()).0, 0);
    assert!(std::fs::read_to_string(out).unwrap().contains("hello"));
}
