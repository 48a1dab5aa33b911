//! `portcullis audit prove`.

use std::{io::Write, path::PathBuf, str::FromStr};

use clap::Args;
use portcullis_core::AuditId;
use portcullis_ledger::Reader;
use serde::Deserialize;

use super::{LogArgs, unreadable};
use crate::cli::{CliError, Failure, files::create_private};

#[derive(Debug, Args)]
#[command(after_help = "\
The proof has the whole record in it. `portcullis audit verify --proof FILE --key FILE` verifies it anywhere, and so does whatever
else understands C2SP tlog-proof.

Exit codes: 0 proven, 65 the log is not what it was, 66 there is no such record, or no checkpoint covers it yet, 73 the file is there already, \
or cannot be made, 74 the log cannot be read.")]
pub(crate) struct ProveArgs {
    #[command(flatten)]
    log: LogArgs,
    /// The record's index, or the id of a request: its outcome
    #[arg(value_name = "INDEX|AUDIT-ID")]
    record: Wanted,
    /// Of a request, prove the intent
    #[arg(long)]
    intent: bool,
    /// Where to write the proof, a file that is not there yet; by default to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Wanted {
    Index(u64),
    Request(AuditId),
}

impl FromStr for Wanted {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let index = text.parse().ok().map(Self::Index);
        index.or_else(|| text.parse().ok().map(Self::Request)).ok_or("an index or the id of a request")
    }
}

pub(super) fn prove(args: ProveArgs) -> Result<u8, CliError> {
    let dir = args.log.dir()?;
    let reader = Reader::new(&dir);
    let index = match args.record {
        Wanted::Index(index) => index,
        Wanted::Request(id) => find(&reader, id, args.intent)?,
    };
    let covered = reader.checkpoint().map_err(unreadable)?.0.size;
    if index >= covered {
        let why =
            format!("record {index} is not covered by the newest checkpoint, which is of {covered} records");
        return Err(Failure::new(66, why).into());
    }
    let proof = reader.prove(index).map_err(unreadable)?.to_string();
    match args.out {
        Some(file) => create_private(&file, |out| Ok(out.write_all(proof.as_bytes())?))?,
        None => std::io::stdout().lock().write_all(proof.as_bytes())?,
    }
    Ok(0)
}

/// Where the request's outcome, or its intent, stands. Read from the end, since people ask about what has just happened.
fn find(reader: &Reader, id: AuditId, intent: bool) -> Result<u64, CliError> {
    let what = if intent { "intent" } else { "outcome" };
    let mut end = u64::MAX;
    for first in reader.segments().map_err(unreadable)?.into_iter().rev() {
        for entry in reader.entries(first).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if entry.index >= end {
                break;
            }
            if is(&entry.record, what, id) {
                return Ok(entry.index);
            }
        }
        end = first;
    }
    Err(Failure::new(66, format!("the log has no {what} of the request {id}")).into())
}

fn is(record: &[u8], kind: &str, id: AuditId) -> bool {
    #[derive(Deserialize)]
    struct Glance<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        id: Option<AuditId>,
    }
    serde_json::from_slice::<Glance<'_>>(record).is_ok_and(|found| found.kind == kind && found.id == Some(id))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use portcullis_ledger::{Durability, Ledger, Options};

    use super::super::{AuditCommand, audit};
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

    /// A log of ten requests: its directory in words, and their ids.
    fn log(dir: &Path) -> (String, Vec<String>) {
        let (ledger, _) = Ledger::open(dir, Options::new("test.example/audit")).unwrap();
        let ids: Vec<AuditId> = (0..10).map(|_| AuditId::generate()).collect();
        for id in &ids {
            for kind in ["intent", "outcome"] {
                let record = serde_json::json!({"v": 1, "type": kind, "id": id});
                ledger.writer().append_blocking(record.to_string().into_bytes(), Durability::Write).unwrap();
            }
        }
        ledger.close();
        (dir.to_str().unwrap().to_owned(), ids.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_proof_is_verified_where_the_log_is_not() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (log, ids) = log(dir.path());
        let proof = |nth: usize| elsewhere.path().join(format!("proof-{nth}")).to_str().unwrap().to_owned();
        let key = elsewhere.path().join("key").to_str().unwrap().to_owned();
        std::fs::copy(dir.path().join("key.pub"), &key).unwrap();
        let id = ids[6].as_str();
        let wanted = [(vec!["0"], 0), (vec![id], 13), (vec![id, "--intent"], 12), (vec!["13"], 13)];
        for (nth, (what, index)) in wanted.into_iter().enumerate() {
            let proof = proof(nth);
            let words = [vec!["prove", "--ledger", &log, "--out", &proof], what].concat();
            assert_eq!(run(&words).unwrap(), 0);
            let proven: portcullis_ledger::Proof = std::fs::read_to_string(&proof).unwrap().parse().unwrap();
            assert_eq!(proven.index, index);
            assert_eq!(run(&["verify", "--proof", &proof, "--key", &key]).unwrap(), 0);
        }
        // Each is as confidential as the log, and none is overwritten.
        let proof = proof(3);
        #[cfg(unix)]
        {
            let mode = std::fs::metadata(&proof).unwrap().permissions();
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
        }
        let before = std::fs::read_to_string(&proof).unwrap();
        let error = run(&["prove", "1", "--ledger", &log, "--out", &proof]).unwrap_err();
        assert_eq!(error.exit_code(), 73, "{error}");
        assert_eq!(std::fs::read_to_string(&proof).unwrap(), before);

        std::fs::write(&proof, before.replace("index 13", "index 12")).unwrap();
        assert_eq!(run(&["verify", "--proof", &proof, "--key", &key]).unwrap(), 65);
    }

    #[test]
    fn a_log_with_a_new_key_is_verified_with_the_old_one() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (log, _) = log(dir.path());
        let (old, new) = (elsewhere.path().join("old"), elsewhere.path().join("new"));
        std::fs::copy(dir.path().join("key.pub"), &old).unwrap();
        assert_eq!(run(&["rotate-key", "--ledger", &log]).unwrap(), 0);
        std::fs::copy(dir.path().join("key.pub"), &new).unwrap();
        for key in [old, new] {
            assert_eq!(run(&["verify", "--ledger", &log, "--key", key.to_str().unwrap()]).unwrap(), 0);
        }
        let told = portcullis_audit::AuditReader::new(dir.path()).tail(1, |_| true).unwrap().0;
        assert!(told[0].entry.line().contains("new key"), "{}", told[0].entry.line());
        let (ledger, _) = Ledger::open(dir.path(), Options::new("test.example/audit")).unwrap();
        let error = run(&["rotate-key", "--ledger", &log]).unwrap_err();
        assert!(error.to_string().contains("stop the gateway"), "{error}");
        drop(ledger);
    }

    /// `key.pub` lists the keys of before, too, which somebody may have stolen since.
    #[test]
    fn a_proof_is_verified_with_the_newest_key_only() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (log, _) = log(dir.path());
        let at = |name: &str| elsewhere.path().join(name).to_str().unwrap().to_owned();
        let verify =
            |proof: &str, key: &str| run(&["verify", "--proof", &at(proof), "--key", &at(key)]).unwrap();
        let prove = |name: &str| run(&["prove", "0", "--ledger", &log, "--out", &at(name)]).unwrap();
        prove("before");
        std::fs::copy(dir.path().join("key.pub"), at("old")).unwrap();
        assert_eq!(run(&["rotate-key", "--ledger", &log]).unwrap(), 0);
        prove("after");
        std::fs::copy(dir.path().join("key.pub"), at("all")).unwrap();
        assert_eq!(std::fs::read_to_string(at("all")).unwrap().lines().count(), 2);
        assert_eq!((verify("after", "all"), verify("after", "old")), (0, 65));
        // With the old key alone, it is for the person to know that it had not been replaced then.
        assert_eq!((verify("before", "all"), verify("before", "old")), (65, 0));
    }

    #[test]
    fn what_cannot_be_read_is_not_called_tampering() {
        let dir = tempfile::tempdir().unwrap();
        for command in [&["prove", "0"][..], &["verify"], &["rotate-key"]] {
            let none = dir.path().join("none");
            let error = run(&[command, &["--ledger", none.to_str().unwrap()]].concat()).unwrap_err();
            assert_eq!(error.exit_code(), 74, "{command:?}: {error}");
            // With its cause.
            assert!(
                error.to_string().contains("not found") || error.to_string().contains("No such file"),
                "{error}"
            );
            assert!(!none.exists());
        }
        let (log, _) = log(dir.path());
        std::fs::write(dir.path().join("checkpoint"), "anything").unwrap();
        assert_eq!(run(&["prove", "0", "--ledger", &log]).unwrap_err().exit_code(), 65);
        assert_eq!(run(&["rotate-key", "--ledger", &log]).unwrap_err().exit_code(), 65);
    }

    #[test]
    fn what_cannot_be_proven_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = log(dir.path());
        let error = run(&["prove", "20", "--ledger", &log]).unwrap_err();
        assert!(error.to_string().contains("not covered"), "{error}");
        let error = run(&["prove", "01890000-0000-7000-8000-000000000000", "--ledger", &log]).unwrap_err();
        assert!(error.to_string().contains("no outcome"), "{error}");
    }
}
