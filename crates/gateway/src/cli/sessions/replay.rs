//! `portcullis sessions replay`
//!
//! **Invariant.** Nothing that was recorded is written as it was: terminals are drawn by an emulator, other text is cleaned.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use anstream::eprintln;
use clap::Args;
use portcullis_audit::{AuditReader, SESSION_IDLE, Stored, ledger::ReadError};
use portcullis_core::{AuditId, Clock, SystemClock};
use portcullis_sessions::cast::Source;
use portcullis_sessions::{
    Following, Integrity, Item, Recording, Step, clean, follow_text, read_text, words,
};

use super::play::{After, Follow, Show, Standing, play};
use super::terminal::Terminal;
use super::transport::Transport;
use super::{Found, LogArgs, unreadable};
use crate::cli::{
    CliError, Failure,
    output::{BOLD, DIM, PLAIN, RED},
};

#[derive(Debug, Args)]
#[command(
    after_help = "Keys:  space pause · left, right 5 seconds · . next event · n next recording · q quit\n\n\
    What was recorded cannot do anything to your terminal: it is drawn by an emulator, and nothing of it is passed on."
)]
pub(crate) struct ReplayArgs {
    /// The session's id, or that of the one request to play
    id: String,
    /// How fast: 2 is twice as fast
    #[arg(long, default_value_t = 1.0, value_parser = speed, value_name = "N")]
    speed: f64,
    /// Of longer pauses, skip the rest; 0s skips nothing
    #[arg(long, default_value = "2s", value_name = "DURATION")]
    idle_limit: jiff::SignedDuration,
    /// Watch a session that is still going on
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    log: LogArgs,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.01..=1000.0).contains(&speed) { Ok(speed) } else { Err("not between 0.01 and 1000".to_owned()) }
}

pub(super) fn replay(args: ReplayArgs) -> Result<(), CliError> {
    let found = Found::find(&args.log, &args.id)?;
    let mut queue = if args.follow { Queue::live(&found)? } else { Queue::recorded(&found)? };
    let limit = args.idle_limit.unsigned_abs();
    let transport = Transport::new(args.speed, (!limit.is_zero()).then_some(limit));
    // Only a terminal can show a terminal; whoever reads a file or a pipe gets text.
    let interactive = std::io::stdout().is_terminal();
    let mut played = 0_usize;
    // What can take long, reading the log and comparing gigabytes, happens while the terminal is not ours: keys and signals do
    // what they always do.
    while let Some((step, recording)) = queue.next_recording()? {
        played += 1;
        if interactive && recording.is_tty() {
            let integrity = recording.check();
            let title = title(&step, &integrity);
            let show = Show::new(recording, transport.clone(), title, &step);
            let mut look = || {
                let standing = queue.standing(step.id)?;
                Ok((standing, queue.ended().map(words::result)))
            };
            let follow: Option<&mut Follow<'_>> = if args.follow { Some(&mut look) } else { None };
            let mut terminal = Terminal::enter()?;
            if play(&mut terminal, show, follow)? == After::Quit {
                return Ok(());
            }
        } else {
            dump(&mut anstream::stdout().lock(), &step, &recording, &mut queue)?;
        }
    }
    if let Some(left_out) = queue.left_out() {
        eprintln!("{RED}{left_out} recordings were left out{PLAIN}: too many came at once");
    }
    if played == 0 {
        let (code, why) = match args.follow {
            true => (1, "nothing is going on there any more; without --follow, what was recorded is played"),
            false => (66, "nothing is recorded there: only exec and attach are"),
        };
        return Err(Failure::new(code, why).into());
    }
    Ok(())
}

fn title(step: &Step, integrity: &Integrity) -> String {
    match integrity {
        Integrity::Intact | Integrity::Unfinished => step.command.clone(),
        bad => format!("{bad}  {}", step.command),
    }
}

/// A recording as text: what was run, what went in, what came out, how it ended.
fn dump(out: &mut impl Write, step: &Step, recording: &Recording, queue: &mut Queue) -> Result<(), CliError> {
    let integrity = recording.check();
    let begun = words::moment(step.received);
    writeln!(
        out,
        "{DIM}──{PLAIN} {BOLD}{}{PLAIN}  {DIM}{begun} UTC  {}{PLAIN}",
        clean::line(&step.command),
        step.id
    )?;
    if !matches!(integrity, Integrity::Intact | Integrity::Unfinished) {
        writeln!(out, "{RED}{}{PLAIN}", clean::line(&integrity.to_string()))?;
    }
    if let Some((stdin, stream)) =
        step.stream.as_ref().and_then(|stream| Some((stream.channels.get("stdin")?, stream)))
        && !stream.tty
    {
        let digest = stdin.sha256.map(|digest| format!(", sha256 {digest}")).unwrap_or_default();
        writeln!(out, "{DIM}standard input: {}{digest}{PLAIN}", words::bytes(stdin.bytes))?;
    }
    let each = |source: Source, text: &str| {
        match source {
            Source::Stdout => write!(out, "{text}")?,
            Source::Stderr => write!(out, "{RED}{text}{PLAIN}")?,
        }
        if step.is_running() {
            out.flush()?;
        }
        Ok(ControlFlow::Continue(()))
    };
    let end = if queue.is_live() {
        let wait = || {
            let running = queue.standing(step.id).map_err(std::io::Error::other)? == Standing::Running;
            if running {
                pause();
            }
            Ok(running)
        };
        follow_text(recording, each, wait)?
    } else {
        read_text(recording, each)?
    };
    for problem in &end.problems {
        writeln!(out, "{RED}not whole: {}{PLAIN}", clean::line(problem))?;
    }
    // What is running was running when the log was read; who follows knows how it has ended since.
    let result = || match queue.ended().unwrap_or(step) {
        running if running.is_running() => "still running".to_owned(),
        ended => words::result(ended),
    };
    let exit = end.exit.unwrap_or_else(result);
    writeln!(out, "{DIM}── ended: {}{PLAIN}", clean::line(&exit))?;
    Ok(())
}

/// The log has no way to call us: it is a file, perhaps on another machine's disk.
fn pause() {
    let (_never, wait) = std::sync::mpsc::channel::<()>();
    let _ = wait.recv_timeout(Duration::from_millis(200));
}

/// What comes into the log; at its end, ask again.
type NewRecords = Box<dyn Iterator<Item = Result<Stored, ReadError>>>;

/// The requests whose recordings are to be played, in order.
enum Queue {
    /// Those that are on record.
    Recorded {
        items: Box<dyn Iterator<Item = Result<Item, CliError>>>,
        reader: AuditReader,
        only: Option<AuditId>,
    },
    /// Those that are going on, and those that come.
    Live { following: Box<Following<NewRecords>>, reader: AuditReader, only: Option<AuditId>, told: bool },
}

impl Queue {
    fn recorded(found: &Found) -> Result<Self, CliError> {
        let (items, reader) = (Box::new(found.items()?), found.reader.clone());
        Ok(Self::Recorded { items, reader, only: found.request })
    }

    /// Who follows a session wants to see what is going on, not what was.
    fn live(found: &Found) -> Result<Self, CliError> {
        let records = found.reader.records(found.scope.end()).map_err(unreadable)?;
        let mut following = Following::new(&found.scope, Box::new(records) as NewRecords);
        for item in found.items()? {
            let Item::Request(step) = item? else { continue };
            let wanted = match found.request {
                Some(request) => request == step.id,
                None => step.is_running(),
            };
            if wanted && step.is_recorded() {
                following.add(*step);
            }
        }
        let (following, reader) = (Box::new(following), found.reader.clone());
        Ok(Self::Live { following, reader, only: found.request, told: false })
    }

    fn is_live(&self) -> bool {
        matches!(self, Self::Live { .. })
    }

    /// The next, once there is one; `None` if there will be none.
    fn next_recording(&mut self) -> Result<Option<(Step, Recording)>, CliError> {
        let (following, reader, only, told) = match self {
            Self::Recorded { items, reader, only } => {
                for item in items {
                    if let Item::Request(step) = item?
                        && only.is_none_or(|only| only == step.id)
                        && let Some(recording) = Recording::of(&step, reader)
                    {
                        return Ok(Some((*step, recording)));
                    }
                }
                return Ok(None);
            }
            Self::Live { following, reader, only, told } => (following, reader, only, told),
        };
        loop {
            following.look().map_err(unreadable)?;
            // Of one request that is followed, what comes beside it is passed over.
            while let Some(step) = following.take_next(|step| Recording::is_there(step, reader)) {
                if only.is_none_or(|only| only == step.id)
                    && let Some(recording) = Recording::of(&step, reader)
                {
                    return Ok(Some((step, recording)));
                }
            }
            let over = match only {
                Some(only) => !following.is_waiting(*only),
                None => following.is_over(SystemClock.now(), SESSION_IDLE),
            };
            if over {
                return Ok(None);
            }
            if !std::mem::replace(told, true) {
                eprintln!("{DIM}waiting for what comes next in this session; Ctrl-C ends it{PLAIN}");
            }
            pause();
        }
    }

    fn standing(&mut self, id: AuditId) -> Result<Standing, CliError> {
        let Self::Live { following, reader, only, .. } = self else { return Ok(Standing::Over) };
        following.look().map_err(unreadable)?;
        if following.is_running(id) {
            return Ok(Standing::Running);
        }
        let another = only.is_none() && following.has_next(|step| Recording::is_there(step, reader));
        Ok(if another { Standing::Next } else { Standing::Over })
    }

    /// How the last one ended, if it has ended since it was taken from here.
    fn ended(&self) -> Option<&Step> {
        match self {
            Self::Live { following, .. } => following.ended(),
            Self::Recorded { .. } => None,
        }
    }

    fn left_out(&self) -> Option<u64> {
        match self {
            Self::Live { following, only: None, .. } => Some(following.left_out()).filter(|count| *count > 0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_sessions::{Scope, Timeline};
    use serde_json::json;

    use super::*;

    const ID: &str = "01a2230f-0ad0-7124-ade2-a9affc29424a";

    fn stored(index: u64, mut record: serde_json::Value) -> Stored {
        record["v"] = 1.into();
        record["time"] = "2026-11-03T12:00:00Z".into();
        let raw = serde_json::to_vec(&record).unwrap();
        Stored { index, offset: 0, entry: serde_json::from_value(record).unwrap(), raw }
    }

    /// An exec without a terminal, as the log tells of it: that it begins, and that it ends.
    fn records() -> [Stored; 2] {
        let info = json!({
            "isResourceRequest": true, "verb": "create", "resource": "pods", "subresource": "exec", "name": "web",
        });
        let common = json!({
            "id": ID, "session": "s-1", "received": "2026-11-03T12:00:00Z", "command": "exec web -- sh",
        });
        let with = |more: serde_json::Value| {
            let mut record = common.clone();
            record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            record
        };
        let request = json!({ "info": info, "method": "POST", "uri": "/" });
        [
            stored(0, with(json!({ "type": "intent", "request": request }))),
            stored(
                1,
                with(
                    json!({ "type": "outcome", "end": "aborted", "status": 101, "info": info, "intent": 0 }),
                ),
            ),
        ]
    }

    #[test]
    fn what_ends_while_it_is_followed_as_text_is_told_to_its_end_and_how_it_ended() {
        let log = tempfile::tempdir().unwrap();
        std::fs::create_dir(log.path().join("recordings")).unwrap();
        let file = log.path().join("recordings").join(format!("{ID}.cast"));
        let begun = "{\"version\":2,\"width\":80,\"height\":24}\n[0.1,\"o\",\"first\\n\"]\n";
        std::fs::write(&file, begun).unwrap();
        let [intent, outcome] = records();
        let first_pass = || [Ok::<_, ReadError>(intent.clone())];
        let scope = Scope::find("s-1", first_pass(), SystemClock.now(), SESSION_IDLE).unwrap().unwrap();
        let item = Timeline::new(scope.clone(), first_pass().into_iter()).next().unwrap().unwrap();
        let Item::Request(step) = item else { panic!("{item:?}") };
        let reader = AuditReader::new(log.path());

        // At the next look it has written something and ended.
        let mut outcome = Some(outcome);
        let come = std::iter::from_fn(move || {
            let outcome = outcome.take()?;
            std::fs::write(&file, format!("{begun}[0.2,\"o\",\"last\\n\"]\n")).unwrap();
            Some(Ok(outcome))
        });
        let mut following = Following::new(&scope, Box::new(come) as NewRecords);
        following.add(*step);
        let step = following.take_next(|step| Recording::is_there(step, &reader)).unwrap();
        assert!(step.is_running());
        let recording = Recording::of(&step, &reader).unwrap();
        let mut queue = Queue::Live { following: Box::new(following), reader, only: None, told: false };
        let mut out = Vec::new();
        dump(&mut out, &step, &recording, &mut queue).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("first\nlast\n"), "{text}");
        assert!(text.contains("it breaks off here") && text.contains("ended: 101 aborted"), "{text}");
        // Nobody can come any more: it does not wait for them.
        assert!(queue.next_recording().unwrap().is_none());
    }

    #[test]
    fn an_exec_that_the_upstream_has_not_agreed_to_yet_is_waited_for() {
        let log = tempfile::tempdir().unwrap();
        std::fs::create_dir(log.path().join("recordings")).unwrap();
        let file = log.path().join("recordings").join(format!("{ID}.cast"));
        let reader = AuditReader::new(log.path());
        let [intent, outcome] = records();
        let scan = || [Ok::<_, ReadError>(intent.clone())];
        let scope = Scope::find("s-1", scan(), SystemClock.now(), SESSION_IDLE).unwrap().unwrap();
        for (only, ends) in [(None, false), (Some(ID.parse().unwrap()), false), (None, true)] {
            let _ = std::fs::remove_file(&file);
            // At the first look there is nothing new; then it opens, or ends without having opened.
            let (file, outcome, mut looks) = (file.clone(), outcome.clone(), 0);
            let come = std::iter::from_fn(move || {
                looks += 1;
                match (looks, ends) {
                    (2, false) => {
                        std::fs::write(&file, "{\"version\":2,\"width\":80,\"height\":24}\n").unwrap()
                    }
                    (2, true) => return Some(Ok(outcome.clone())),
                    _ => {}
                }
                None
            });
            let mut following = Following::new(&scope, Box::new(come) as NewRecords);
            let Item::Request(step) =
                Timeline::new(scope.clone(), scan().into_iter()).next().unwrap().unwrap()
            else {
                panic!("no request")
            };
            following.add(*step);
            let (following, reader) = (Box::new(following), reader.clone());
            let mut queue = Queue::Live { following, reader, only, told: false };
            let next = queue.next_recording().unwrap();
            assert_eq!(next.map(|(step, _)| step.id.to_string()), (!ends).then(|| ID.to_owned()));
        }
    }

    #[test]
    fn what_is_not_followed_is_said_to_be_running_if_it_was() {
        let log = tempfile::tempdir().unwrap();
        std::fs::create_dir(log.path().join("recordings")).unwrap();
        let file = log.path().join("recordings").join(format!("{ID}.cast"));
        std::fs::write(&file, "{\"version\":2,\"width\":80,\"height\":24}\n").unwrap();
        for (end, said) in [(1, "ended: still running"), (2, "ended: 101 aborted")] {
            let scan = || records().into_iter().take(end).map(Ok::<_, ReadError>);
            let scope = Scope::find("s-1", scan(), SystemClock.now(), SESSION_IDLE).unwrap().unwrap();
            let items = Timeline::new(scope, scan()).map(|item| item.map_err(unreadable));
            let reader = AuditReader::new(log.path());
            let mut queue = Queue::Recorded { items: Box::new(items), reader, only: None };
            let (step, recording) = queue.next_recording().unwrap().unwrap();
            let mut out = Vec::new();
            dump(&mut out, &step, &recording, &mut queue).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains(said), "{text}");
        }
    }
}
