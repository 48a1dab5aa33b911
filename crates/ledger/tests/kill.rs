//! What a process told others it had recorded is on record when it is killed the next instant.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis_ledger::{Durability, Ledger, Options, Reader, Verifier};

const ORIGIN: &str = "test.example/kill";
const DIR: &str = "PORTCULLIS_LEDGER_KILL_TEST_DIR";

/// Not a test of its own: what the other one starts, and kills. Does nothing otherwise.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let options = Options::new(ORIGIN).segment_size(4096).checkpoint_interval(Duration::from_millis(1));
    let (ledger, _) = Ledger::open(dir, options).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let writer = ledger.writer();
            scope.spawn(move || {
                for i in 0.. {
                    let durability = if i % 7 == 0 { Durability::Fsync } else { Durability::Write };
                    let record = format!("{thread}-{i}");
                    let receipt = writer.append_blocking(record.clone().into_bytes(), durability).unwrap();
                    // One call, so that the reader sees whole lines or none.
                    let line = format!("acknowledged {} {record}\n", receipt.index);
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=5_usize {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let mut acknowledged = Vec::new();
        while acknowledged.len() < 137 * round {
            acknowledged.extend(parse(&lines.next().unwrap().unwrap()));
        }
        victim.kill().unwrap();
        // What it had said by then counts too.
        acknowledged.extend(lines.map_while(Result::ok).filter_map(|line| parse(&line)));
        victim.wait().unwrap();

        // As it lies there, with whatever the publisher was in the middle of: nothing of it looks like tampering.
        Verifier::open(dir.path()).unwrap().run().unwrap();
        let (ledger, _) = Ledger::open(dir.path(), Options::new(ORIGIN)).unwrap();
        ledger.close();
        let verified = Verifier::open(dir.path()).unwrap().run().unwrap();
        let records: Vec<_> =
            Reader::new(dir.path()).entries(0).unwrap().map(|entry| entry.unwrap().record).collect();
        assert_eq!(verified.size, records.len() as u64);
        for (index, record) in acknowledged {
            assert_eq!(records[index], record.as_bytes(), "round {round}, record {index}");
        }
    }
}

fn parse(line: &str) -> Option<(usize, String)> {
    let (index, record) = line.strip_prefix("acknowledged ")?.split_once(' ')?;
    Some((index.parse().ok()?, record.to_owned()))
}
