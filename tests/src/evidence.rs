//! What a gateway's log says, read from its files as it grows, against what the API server saw and what clients were told.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use portcullis_audit::{AuditReader, End, Record, RecordingPart, Recovered};

use crate::audit_log::{AuditEvent, Mark};
use crate::cluster::Cluster;
use crate::gateway::Gateway;
use crate::load::Told;
use crate::process::Running;

/// The log so far.
pub struct Evidence {
    /// The index of the first record that has not been read yet.
    pub next: u64,
    /// How many outcomes say that nobody knows.
    pub unknown: u64,
    /// How often the storage was put right, and why.
    pub recovered: Vec<Recovered>,
    /// Ids that the API server saw.
    pub seen: HashSet<String>,
    /// Intents, by id: their index.
    intents: HashMap<String, u64>,
    outcomes: HashMap<String, Outcome>,
    /// Files with one checkpoint each, kept elsewhere.
    checkpoints: Vec<PathBuf>,
    /// How much of the gateway's own list of checkpoints has been gathered.
    listed: usize,
    elsewhere: tempfile::TempDir,
    /// Where the API server's log was.
    mark: Mark,
}

#[derive(Debug)]
struct Outcome {
    end: End,
    status: Option<u16>,
    intent: Option<u64>,
    body: Option<(u64, String)>,
    recording: Vec<RecordingPart>,
}

impl Evidence {
    /// Of a gateway that begins with nothing, when the API server's log ended here.
    pub fn new(mark: Mark) -> Self {
        Self {
            next: 0,
            intents: HashMap::new(),
            outcomes: HashMap::new(),
            checkpoints: Vec::new(),
            listed: 0,
            elsewhere: tempfile::tempdir().unwrap(),
            mark,
            seen: HashSet::new(),
            unknown: 0,
            recovered: Vec::new(),
        }
    }

    /// Reads what has come since; which intents have no outcome then.
    pub fn read(&mut self, gateway: &Gateway) -> HashSet<String> {
        let reader = AuditReader::new(gateway.state_dir().join("ledger"));
        for stored in reader.records(self.next).unwrap() {
            let stored = stored.unwrap();
            assert_eq!(stored.index, self.next, "records are numbered one by one");
            self.next += 1;
            match stored.entry.record {
                Record::Intent(intent) => {
                    let before = self.intents.insert(intent.id.to_string(), stored.index);
                    assert_eq!(before, None, "{} has two intents", intent.id);
                }
                Record::Outcome(outcome) => {
                    self.unknown += u64::from(outcome.end == End::Unknown);
                    let read = Outcome {
                        end: outcome.end,
                        status: outcome.status,
                        intent: outcome.intent,
                        body: outcome.response.map(|body| (body.bytes, body.sha256.to_string())),
                        recording: outcome
                            .stream
                            .and_then(|stream| stream.recording)
                            .map(|recording| recording.files().collect())
                            .unwrap_or_default(),
                    };
                    if let Some(intent) = read.intent {
                        let found = self.intents.get(&outcome.id.to_string());
                        assert_eq!(found, Some(&intent), "{}: where its intent is", outcome.id);
                    }
                    let before = self.outcomes.insert(outcome.id.to_string(), read);
                    assert!(before.is_none(), "{} has two outcomes: {before:?}", outcome.id);
                }
                Record::Recovered(recovered) => self.recovered.push(recovered),
                Record::Unknown => panic!("record {} is not understood", stored.index),
                _ => {}
            }
        }
        let open = self.intents.keys().filter(|id| !self.outcomes.contains_key(*id));
        open.cloned().collect()
    }

    /// Keeps every checkpoint that has been signed by now: the newest, and those that have left the gateway.
    pub fn gather_checkpoints(&mut self, gateway: &Gateway) {
        let newest = std::fs::read_to_string(gateway.state_dir().join("ledger/checkpoint")).unwrap();
        let list = std::fs::read_to_string(gateway.dir().join("checkpoints")).unwrap_or_default();
        // Each note ends with its signature's line; the last one may not be whole.
        let end = list.rfind('\n').map_or(0, |end| end + 1);
        let mut note = String::new();
        let mut notes = vec![newest];
        for line in list[self.listed..end].split_inclusive('\n') {
            note.push_str(line);
            if line.starts_with('—') {
                self.listed += note.len();
                notes.push(std::mem::take(&mut note).trim_start().to_owned());
            }
        }
        for note in notes {
            let file = self.elsewhere.path().join(format!("{}.note", self.checkpoints.len()));
            std::fs::write(&file, note).unwrap();
            self.checkpoints.push(file);
        }
    }

    /// How many checkpoints have been gathered.
    pub fn checkpoints(&self) -> u64 {
        self.checkpoints.len() as u64
    }

    /// The log is whole, and contains whatever any checkpoint so far has signed.
    pub async fn verify(&self, gateway: &Gateway) {
        let mut verify = gateway.command(&["audit", "verify", "--ledger"]);
        verify.arg(gateway.state_dir().join("ledger"));
        for checkpoint in &self.checkpoints {
            verify.arg("--checkpoint").arg(checkpoint);
        }
        Running::start(verify).finish().await.ok();
    }

    /// After the restart nothing of what was under way is without an end, and nobody made up what it was.
    pub fn closed_what_was_open(&self, open: &HashSet<String>) {
        for id in open {
            let outcome = self.outcomes.get(id).unwrap_or_else(|| panic!("{id} was not closed"));
            assert_eq!(outcome.end, End::Unknown, "{id}: {outcome:?}");
        }
    }

    /// Whatever a client was told to the end is on record, as it was told.
    pub fn says_what_clients_were_told(&self, told: &[Told]) {
        for told in told {
            let outcome =
                self.outcomes.get(&told.id).unwrap_or_else(|| panic!("there is no outcome of {told:?}"));
            assert_ne!(outcome.end, End::Unknown, "{told:?}: {outcome:?}");
            assert_eq!(outcome.status, Some(told.status), "{told:?}: {outcome:?}");
            if let Some(said) = &outcome.body {
                assert_eq!(&told.body, said, "{told:?}");
            }
            let forwarded = !told.what.contains("/portcullis/") && told.status < 400;
            if forwarded || outcome.intent.is_some() {
                assert!(self.intents.contains_key(&told.id), "there is no intent of {told:?}");
                assert!(outcome.intent.is_some(), "{told:?}: {outcome:?}");
            }
        }
    }

    /// This stream, which a client had opened, is on record, and so is what was seen in it.
    pub fn has_the_stream(&self, gateway: &Gateway, id: &str) {
        assert!(self.intents.contains_key(id), "the stream {id} has no intent");
        let outcome = self.outcomes.get(id).unwrap_or_else(|| panic!("the stream {id} has no outcome"));
        let reader = AuditReader::new(gateway.state_dir().join("ledger"));
        // An outcome names what is kept; where a crash came before it, the file is where it was written.
        let kept = match outcome.recording.is_empty() {
            true => gateway.state_dir().join(format!("ledger/recordings/{id}.cast")).is_file(),
            false => outcome.recording.iter().all(|part| reader.open_recording(part).unwrap().is_some()),
        };
        assert!(kept, "what was seen in {id} is not recorded");
    }

    /// Nothing has reached the API server without an intent under its id.
    pub async fn has_all_the_server_saw(&mut self, cluster: &Cluster, gateway: &Gateway) {
        // What it answers late belongs to the next round.
        let next = cluster.audit_log().mark();
        for event in cluster.events_since(self.mark).await {
            if event.user.username == gateway.user {
                assert!(self.intents.contains_key(&event.audit_id), "it let this pass unrecorded: {event:?}");
                self.seen.insert(event.audit_id);
            }
        }
        self.mark = next;
    }

    /// Each request was carried out once, also those that people had approved when it died.
    pub async fn nothing_was_done_twice(&mut self, cluster: &Cluster, gateway: &Gateway) {
        self.has_all_the_server_saw(cluster, gateway).await;
        let (mut completed, mut created) = (HashSet::new(), HashSet::new());
        for event in gateway.seen().await {
            assert!(self.intents.contains_key(&event.audit_id), "it let this pass unrecorded: {event:?}");
            let once = !completes(&event) || completed.insert(event.audit_id.clone());
            assert!(once, "it was sent twice: {event:?}");
            let is_held = event.object_ref.as_ref().is_some_and(|of| of.resource == "clusterrolebindings");
            if is_held && event.verb == "create" && !event.request_uri.contains("dryRun") && completes(&event)
            {
                let name = event.object_ref.as_ref().map(|of| of.name.clone());
                assert!(created.insert(name), "an approval was used twice: {event:?}");
            }
        }
    }
}

fn completes(event: &AuditEvent) -> bool {
    event.stage == "ResponseComplete"
}
