//! The recording of a stream: one file, or several that follow each other.

use std::collections::VecDeque;
use std::io::{BufReader, ErrorKind};
use std::time::Duration;

use portcullis_audit::{AuditReader, Kept, Record, RecordingPart, RecordingReader, StreamProgress};
use portcullis_core::AuditId;

use crate::cast::{CastReader, Event, EventKind, Mark, Read};
use crate::step::Step;

/// More parts than a recorder makes; a directory full of files must not keep a reader for ever.
const MOST_PARTS: usize = 1024;

/// Where a recording lies.
#[derive(Clone, Debug)]
pub struct Recording {
    id: AuditId,
    reader: AuditReader,
    parts: Vec<Part>,
    /// Whether its stream is over: then no more can follow.
    complete: bool,
    tty: bool,
    /// How far the log has been read for parts that were finished since: the next record, and where it stands.
    log: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
struct Part {
    name: String,
    /// What the log says; nothing of a part that was being written when the process died, or still is.
    named: Option<RecordingPart>,
}

/// Whether a recording is what the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// Each of its files is.
    Intact,
    /// Those that are finished are; of the last, the log knows nothing (yet).
    Unfinished,
    /// This file is not there any more.
    Missing(String),
    /// This file is not what the log says.
    Changed(String),
    /// This file cannot be read: why. Its key is not there, for instance.
    Unreadable(String),
}

impl std::fmt::Display for Integrity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Intact => f.write_str("the recording is what the log says"),
            Self::Unfinished => f.write_str("the log vouches for the recording but for its last part"),
            Self::Missing(file) => write!(f, "{file} is not there any more"),
            Self::Changed(file) => write!(f, "{file} IS NOT WHAT THE LOG SAYS"),
            Self::Unreadable(why) => write!(f, "the recording cannot be read: {why}"),
        }
    }
}

impl Recording {
    /// Whether something of a request is recorded by now, as far as the step tells and its first file shows. Of one that is
    /// running, ask again later: its recording begins once the upstream has agreed.
    #[must_use]
    pub fn is_there(step: &Step, reader: &AuditReader) -> bool {
        step.stream.as_ref().is_some_and(|stream| !stream.recording.is_empty())
            || is_session(step) && reader.recording(&first_part(step.id)).is_file()
    }

    /// The recording of a request; `None` if it has none.
    #[must_use]
    pub fn of(step: &Step, reader: &AuditReader) -> Option<Self> {
        let stream = step.stream.as_ref();
        let named: Vec<Part> = stream
            .iter()
            .flat_map(|stream| &stream.recording)
            .take(MOST_PARTS)
            .map(|part| Part { name: part.file.clone(), named: Some(part.clone()) })
            .collect();
        let ended = stream.is_some_and(|stream| stream.ended.is_some());
        let tty = stream.map_or_else(
            || is_terminal(&step.command),
            |stream| stream.tty || !ended && is_terminal(&step.command),
        );
        let complete = !step.is_running();
        // What is finished from now on, the log will name from here on.
        let log =
            if complete { None } else { reader.segments().ok().and_then(|mut segments| segments.pop()) };
        let mut recording = Self {
            id: step.id,
            reader: reader.clone(),
            parts: named,
            complete,
            tty,
            log: log.map(|first| (first, 0)),
        };
        if is_session(step) && (!ended || recording.parts.is_empty()) {
            // Nothing or not everything is on record: what lies there is looked for.
            while recording.find_next() {}
        }
        (!recording.parts.is_empty()).then_some(recording)
    }

    /// The request's id.
    #[must_use]
    pub fn id(&self) -> AuditId {
        self.id
    }

    /// Whether there was a terminal.
    #[must_use]
    pub fn is_tty(&self) -> bool {
        self.tty
    }

    /// Whether nothing can follow any more.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Compares its files with the log. Reads all of them.
    #[must_use]
    pub fn check(&self) -> Integrity {
        let mut integrity = Integrity::Intact;
        for part in &self.parts {
            let Some(named) = &part.named else {
                integrity = Integrity::Unfinished;
                continue;
            };
            match self.reader.check_recording(named) {
                Kept::Intact => {}
                Kept::Changed => return Integrity::Changed(part.name.clone()),
                Kept::Missing => return Integrity::Missing(part.name.clone()),
                Kept::Locked(why) => return Integrity::Unreadable(why),
            }
        }
        integrity
    }

    /// Plays it from the beginning.
    #[must_use]
    pub fn play(&self) -> Playback {
        Playback::at(self.clone(), Position::default())
    }

    /// Adds the part that has begun after the last one known, if there is one.
    fn find_next(&mut self) -> bool {
        let name = match self.parts.len() {
            0 => first_part(self.id),
            MOST_PARTS.. => return false,
            known => format!("{}.{}.cast", self.id, known + 1),
        };
        if self.reader.recording(&name).is_file() {
            self.parts.push(Part { name, named: None });
            return true;
        }
        // As long as the last one is being written, there is no next. When its file has moved, the next may have, too: then the
        // log names it.
        let writing = self.parts.last().is_some_and(|last| self.reader.recording(&last.name).is_file());
        !self.complete && !writing && self.find_finished(&name)
    }

    /// Looks in the log for what it says by now of a part that was still being written when it was found. It is the last.
    fn find_moved(&mut self, name: &str) -> bool {
        let Some(at) = self.parts.iter().position(|part| part.name == name) else { return false };
        let after = self.parts.split_off(at + 1);
        let found = self.find_finished(name);
        if found {
            self.parts.swap_remove(at);
        }
        self.parts.extend(after);
        found
    }

    /// Looks for a part in what has come into the log since the last look. What cannot be read is looked for again.
    fn find_finished(&mut self, name: &str) -> bool {
        let Some((next, offset)) = self.log else { return false };
        let records =
            if offset == 0 { self.reader.records(next) } else { self.reader.records_at(next, offset) };
        let Ok(mut records) = records else { return false };
        let (mut found, mut next) = (None, next);
        while let Some(Ok(stored)) = records.next() {
            next = stored.index + 1;
            let parts: Vec<RecordingPart> = match stored.entry.record {
                Record::Event(event) if event.audit_id == Some(self.id) => {
                    StreamProgress::of(&event).map(|told| told.parts).unwrap_or_default()
                }
                Record::Outcome(outcome) if outcome.id == self.id => {
                    let recording = outcome.stream.and_then(|stream| stream.recording);
                    recording.map(|recording| recording.files().collect()).unwrap_or_default()
                }
                _ => continue,
            };
            found = parts.into_iter().find(|part| part.file == name);
            if found.is_some() {
                break;
            }
        }
        let at = records.offset();
        match found {
            Some(part) => {
                // The same record may name the one after it, so it is read again.
                self.parts.push(Part { name: part.file.clone(), named: Some(part) });
                true
            }
            None => {
                self.log = Some((next, at));
                false
            }
        }
    }
}

/// Whether it may have a recording.
fn is_session(step: &Step) -> bool {
    matches!(step.resource.as_str(), "pods/exec" | "pods/attach")
}

fn first_part(id: AuditId) -> String {
    format!("{id}.cast")
}

/// Whether the command in words asked for a terminal: `exec web -it -- sh`. Until a stream ends, nothing else tells.
fn is_terminal(command: &str) -> bool {
    let options = command.split(" -- ").next().unwrap_or_default();
    options.split(' ').any(|word| matches!(word, "-it" | "-t"))
}

/// Where a playback stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    part: usize,
    mark: Mark,
}

/// Reads the events of a recording, one part after the other.
///
/// It cannot fail: what cannot be read, for whatever reason, is told as [`EventKind::Problem`], and the next part is read.
#[derive(Debug)]
pub struct Playback {
    recording: Recording,
    part: usize,
    reader: Option<CastReader<BufReader<RecordingReader>>>,
    /// Where the first part to be read is to be entered.
    enter: Mark,
    time: Duration,
    /// Whether the session's end has been read.
    exited: bool,
    pending: VecDeque<Event>,
    /// Whether it has been said that the recording breaks off.
    told: bool,
}

impl Playback {
    pub(crate) fn at(recording: Recording, position: Position) -> Self {
        Self {
            recording,
            part: position.part,
            reader: None,
            enter: position.mark,
            time: position.mark.time,
            exited: position.mark.over,
            pending: VecDeque::new(),
            told: false,
        }
    }

    /// Where it stands: what [`Playback::at`] takes. Between two events only.
    pub(crate) fn position(&self) -> Position {
        let mark = self.reader.as_ref().map_or(self.enter, CastReader::mark);
        Position { part: self.part, mark: Mark { time: self.time, ..mark } }
    }

    /// Whether the recording's own last line has been read.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        self.exited
    }

    /// The stream is over, and all that was written has been read: if the recording has no end, that is said now.
    pub(crate) fn complete(&mut self) {
        self.recording.complete = true;
    }

    /// The recording, with all parts that were found so far.
    pub(crate) fn recording(&self) -> &Recording {
        &self.recording
    }

    /// The next event; `None` at the end of what is written. Of a stream that is still open, ask again later.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            let Some(reader) = &mut self.reader else {
                if !self.enter_part() {
                    return None;
                }
                continue;
            };
            match reader.read() {
                Ok(Read::Event(mut event)) => {
                    self.time = self.time.max(event.time);
                    event.time = self.time;
                    self.exited |= matches!(event.kind, EventKind::Exit(_));
                    return Some(event);
                }
                Ok(Read::End { partial }) => {
                    let another = self.part + 1 < self.recording.parts.len()
                        || !self.recording.complete && self.recording.find_next();
                    if another {
                        if partial {
                            self.problem("its last line is cut off");
                        }
                        self.leave_part();
                    } else if self.recording.complete && !self.exited && !self.told {
                        self.told = true;
                        self.problem(if partial { "its last line is cut off" } else { "it breaks off here" });
                    } else {
                        return None;
                    }
                }
                Ok(Read::Wrong(why)) => self.give_up_part(&why),
                Err(error) => self.give_up_part(&unreadable(&error)),
            }
        }
    }

    /// Opens the part it stands at; whether there is one.
    fn enter_part(&mut self) -> bool {
        let Some(part) = self.recording.parts.get(self.part) else {
            // The last one could not be read to its end. Of a stream that is still open, another may have begun.
            return !self.recording.complete && self.recording.find_next();
        };
        let opened = match &part.named {
            Some(named) => self.recording.reader.open_recording(named),
            None => match self.recording.reader.open_live_recording(&part.name) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                opened => opened.map(Some),
            },
        };
        let entered = opened.and_then(|file| {
            let Some(mut file) = file else { return Ok(None) };
            file.skip(self.enter.offset)?;
            Ok(Some(file))
        });
        match entered {
            Ok(Some(file)) => {
                self.reader = Some(CastReader::new(BufReader::with_capacity(64 * 1024, file), self.enter));
            }
            Ok(None) => {
                // Perhaps it has moved since it was found; then the log knows by now.
                let name = part.name.clone();
                let moved =
                    part.named.is_none() && !self.recording.complete && self.recording.find_moved(&name);
                if !moved {
                    self.give_up_part("it is not there any more");
                }
            }
            Err(error) => self.give_up_part(&unreadable(&error)),
        }
        true
    }

    /// Says what is wrong with the part, and reads nothing more of it.
    fn give_up_part(&mut self, why: &str) {
        self.problem(why);
        self.leave_part();
    }

    fn leave_part(&mut self) {
        self.part += 1;
        self.reader = None;
        self.enter = Mark::default();
        self.told = false;
    }

    fn problem(&mut self, what: &str) {
        let name = self.recording.parts.get(self.part).map_or("", |part| part.name.as_str());
        let kind = EventKind::Problem(format!("{name}: {what}"));
        self.pending.push_back(Event { time: self.time, kind });
    }
}

/// What was found to be changed says so itself.
fn unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::InvalidData => error.to_string(),
        _ => format!("it cannot be read: {error}"),
    }
}
