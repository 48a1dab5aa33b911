//! `portcullis sessions replay`
//!
//! **Invariant.** Nothing that was recorded is written as it was: terminals are drawn by an emulator, other text is cleaned.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use portcullis_audit::{Record, Records};
use portcullis_core::AuditId;
use portcullis_sessions::cast::Source;
use portcullis_sessions::{Integrity, Item, Recording, Step, clean, follow_text, words};

use super::play::{After, play};
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
    let records = found.reader.records(found.scope.first()).map_err(unreadable)?;
    let mut queue = Queue::new(&found, args.follow, records)?;
    let limit = args.idle_limit.unsigned_abs();
    let transport = Transport::new(args.speed, (!limit.is_zero()).then_some(limit));
    // Only a terminal can show a terminal; whoever reads a file or a pipe gets text.
    let interactive = std::io::stdout().is_terminal();
    let mut terminal = None;
    let mut played = 0_usize;
    while let Some(step) = queue.next_step()? {
        let Some(recording) = Recording::of(&step, &found.reader) else { continue };
        played += 1;
        if interactive && recording.is_tty() {
            let integrity = recording.check();
            let title = title(&step, &integrity);
            let shown = match &mut terminal {
                Some(terminal) => terminal,
                none => none.insert(Terminal::enter()?),
            };
            let id = step.id;
            let follows = args.follow && step.is_running();
            let mut goes_on = || queue.is_running(id);
            let live: Option<&mut dyn FnMut() -> Result<bool, CliError>> =
                if follows { Some(&mut goes_on) } else { None };
            if play(shown, recording, &title, transport.clone(), live)? == After::Quit {
                return Ok(());
            }
            if queue.must_wait() {
                // While nothing is shown, keys do what they always do.
                drop(terminal.take());
            }
        } else {
            // Gives the terminal back first.
            drop(terminal.take());
            dump(&step, &recording, args.follow.then_some(&mut queue))?;
        }
    }
    if played == 0 {
        return Err(Failure::new(1, "nothing is recorded there: only exec and attach are").into());
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
fn dump(step: &Step, recording: &Recording, mut queue: Option<&mut Queue>) -> Result<(), CliError> {
    let mut out = anstream::stdout().lock();
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
    let wait = || match &mut queue {
        Some(queue) => {
            let running = queue.is_running(step.id).map_err(std::io::Error::other)?;
            if running {
                pause();
            }
            Ok(running)
        }
        None => Ok(false),
    };
    let end = follow_text(recording, each, wait)?;
    for problem in &end.problems {
        writeln!(out, "{RED}not whole: {}{PLAIN}", clean::line(problem))?;
    }
    let exit = end.exit.as_deref().unwrap_or(if step.is_running() { "still running" } else { "unknown" });
    writeln!(out, "{DIM}── ended: {}{PLAIN}", clean::line(exit))?;
    Ok(())
}

/// The log has no way to call us: it is a file, perhaps on another machine's disk.
fn pause() {
    let (_never, wait) = std::sync::mpsc::channel::<()>();
    let _ = wait.recv_timeout(Duration::from_millis(200));
}

/// The requests whose recordings are to be played, in order; while following, also those that come.
struct Queue {
    steps: VecDeque<Step>,
    running: Vec<AuditId>,
    follow: bool,
    session: String,
    only: Option<AuditId>,
    records: Records,
}

impl Queue {
    fn new(found: &Found, follow: bool, records: Records) -> Result<Self, CliError> {
        let mut queue = Self {
            steps: VecDeque::new(),
            running: Vec::new(),
            follow,
            session: found.scope.summary().id.clone(),
            only: found.request,
            records,
        };
        for item in found.items()? {
            let Item::Request(step) = item? else { continue };
            let wanted = found.request.is_none_or(|request| request == step.id) && is_recorded(&step);
            // Who follows wants to see what is going on, not what was.
            if wanted && (!follow || step.is_running() || found.request.is_some()) {
                queue.steps.push_back(*step);
            }
        }
        queue.running = queue.steps.iter().filter(|step| step.is_running()).map(|step| step.id).collect();
        if follow {
            queue.catch_up()?;
        }
        Ok(queue)
    }

    /// The next, once there is one; `None` if there will be none.
    fn next_step(&mut self) -> Result<Option<Step>, CliError> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Ok(Some(step));
            }
            if !self.follow || self.only.is_some() {
                return Ok(None);
            }
            self.catch_up()?;
            if self.steps.is_empty() {
                pause();
            }
        }
    }

    /// Whether the next is yet to come.
    fn must_wait(&self) -> bool {
        self.steps.is_empty()
    }

    fn is_running(&mut self, id: AuditId) -> Result<bool, CliError> {
        self.catch_up()?;
        Ok(self.running.contains(&id))
    }

    /// Reads what has been written to the log since.
    fn catch_up(&mut self) -> Result<(), CliError> {
        for stored in self.records.by_ref() {
            match stored.map_err(unreadable)?.entry.record {
                Record::Intent(intent) if intent.session.as_ref() == Some(&self.session) => {
                    let step = Step::begun(&intent);
                    let known = self.running.contains(&step.id);
                    if !known && self.only.is_none() && is_recorded(&step) {
                        self.running.push(step.id);
                        self.steps.push_back(step);
                    }
                }
                Record::Outcome(outcome) => {
                    self.running.retain(|running| *running != outcome.id);
                    // One that ended before its turn came.
                    self.steps.retain(|step| step.id != outcome.id || !step.is_running());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_recorded(step: &Step) -> bool {
    let named = step.stream.as_ref().is_some_and(|stream| !stream.recording.is_empty());
    named || matches!(step.resource.as_str(), "pods/exec" | "pods/attach")
}
