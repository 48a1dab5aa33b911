//! Plays a recording: forward event by event, and to any time, with key frames so that going back is quick.

use std::time::Duration;

use crate::cast::{Event, EventKind};
use crate::recording::{Playback, Position, Recording};
use crate::screen::Screen;

/// How many bytes of output lie between two key frames, to begin with.
const KEY_BYTES: u64 = 256 * 1024;

/// How many bytes of key frames are kept. When they are more, every second is dropped, and the next come half as often.
const KEYS_LIMIT: usize = 32 * 1024 * 1024;

/// Plays one recording on a [`Screen`]. Memory does not grow with the recording.
#[derive(Debug)]
pub struct Player {
    recording: Recording,
    playback: Playback,
    screen: Screen,
    time: Duration,
    /// Whether nothing has been played yet: the first header says how large the screen is.
    fresh: bool,
    /// The event to be played next, once it has been looked at.
    next: Option<Event>,
    /// How many bytes of `next` are on the screen already, if it is output.
    drawn: usize,
    /// Where `next` was read from.
    before_next: Position,
    exit: Option<String>,
    problems: Vec<String>,
    keys: Vec<Key>,
    keys_size: usize,
    key_bytes: u64,
    since_key: u64,
}

/// What the screen showed somewhere.
#[derive(Debug)]
struct Key {
    time: Duration,
    position: Position,
    size: (u16, u16),
    dump: String,
    returned: bool,
}

/// What reading an event counts as, in cells.
const EVENT_WORK: usize = 64;

/// How many problems are remembered: a part that is not whole has one.
pub(crate) const MOST_PROBLEMS: usize = 64;

impl Player {
    /// At the beginning, before the first event.
    #[must_use]
    pub fn new(recording: Recording) -> Self {
        Self {
            playback: recording.play(),
            screen: Screen::new((80, 24), recording.is_tty()),
            recording,
            time: Duration::ZERO,
            fresh: true,
            next: None,
            drawn: 0,
            before_next: Position::default(),
            exit: None,
            problems: Vec::new(),
            keys: Vec::new(),
            keys_size: 0,
            key_bytes: KEY_BYTES,
            since_key: 0,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.time
    }

    /// What is shown there.
    #[must_use]
    pub fn screen(&self) -> &Screen {
        &self.screen
    }

    /// The exit status, or why there is none, once that has been played.
    #[must_use]
    pub fn exit(&self) -> Option<&str> {
        self.exit.as_deref()
    }

    /// What was found not to be whole so far.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The time of the next event; `None` at the end of what is written.
    pub fn next_time(&mut self) -> Option<Duration> {
        if self.next.is_none() {
            self.before_next = self.playback.position();
            self.next = self.playback.next_event();
        }
        self.next.as_ref().map(|event| event.time)
    }

    /// The stream is over, and all that is written has been played: if the recording has no end, that is a problem to be played
    /// now, and nothing more can follow.
    pub fn complete(&mut self) {
        if !self.recording.is_complete() {
            self.playback.complete();
            self.recording = self.playback.recording().clone();
        }
    }

    /// Plays the next event, and returns it; `None` at the end of what is written.
    pub fn step(&mut self) -> Option<Event> {
        let mut unbounded = usize::MAX;
        self.play_some(&mut unbounded)
    }

    /// As [`step`](Self::step), but stops after about so much work, in cells. Whether the event is played; if not, it is played on
    /// when asked again, to whatever time that is.
    pub fn step_within(&mut self, mut work: usize) -> bool {
        self.play_some(&mut work);
        self.drawn == 0
    }

    /// Plays as much of the next event as `work` allows, and lessens it by what was done; returns the event once all is played.
    fn play_some(&mut self, work: &mut usize) -> Option<Event> {
        self.next_time()?;
        let event = self.next.take()?;
        if self.drawn == 0 {
            self.keep_key();
            self.time = event.time;
            *work = work.saturating_sub(self.effort(&event.kind));
        }
        match &event.kind {
            EventKind::Begin(header) if self.fresh => {
                self.fresh = false;
                self.screen = Screen::new(header.size, self.recording.is_tty());
            }
            EventKind::Begin(header) => self.screen.resize(header.size),
            EventKind::Resize(columns, rows) => self.screen.resize((*columns, *rows)),
            EventKind::Output(_, text) => {
                let rest = &text[self.drawn..];
                // Something is done whenever it is asked for.
                *work = (*work).max(1);
                let taken = self.screen.output_within(rest, work, |_, _| ());
                self.since_key += taken as u64;
                self.drawn += taken;
                if taken < rest.len() {
                    self.next = Some(event);
                    return None;
                }
            }
            EventKind::Exit(exit) => self.exit = Some(exit.clone()),
            EventKind::Problem(what) => {
                if self.problems.len() < MOST_PROBLEMS && !self.problems.contains(what) {
                    self.problems.push(what.clone());
                }
            }
            EventKind::Input(_) => {}
        }
        self.drawn = 0;
        Some(event)
    }

    /// What an event takes besides what output does to the screen.
    fn effort(&self, kind: &EventKind) -> usize {
        match kind {
            EventKind::Begin(_) | EventKind::Resize(..) => {
                let (columns, rows) = self.screen.size();
                EVENT_WORK + columns * rows
            }
            EventKind::Input(text) => EVENT_WORK + text.len(),
            _ => EVENT_WORK,
        }
    }

    /// Goes to `time`: every event up to it has been played then. Past the end, to the end. How long that takes, who was watched
    /// decides: see [`seek_within`](Self::seek_within).
    pub fn seek(&mut self, time: Duration) {
        self.seek_within(time, usize::MAX);
    }

    /// As [`seek`](Self::seek), but stops on the way after about so much work, in cells. Whether it is there; if not, ask again.
    pub fn seek_within(&mut self, time: Duration, mut work: usize) -> bool {
        if time < self.time {
            self.go_back(time);
        }
        let there = self.play_while(|next| next <= time, &mut work);
        // Between two events, or past the last.
        if there && self.next_time().is_some() {
            self.time = time;
        }
        there
    }

    /// Plays the events at times that are `wanted`, as far as `work` allows; whether all were.
    pub(crate) fn play_while(&mut self, wanted: impl Fn(Duration) -> bool, work: &mut usize) -> bool {
        while self.drawn > 0 || self.next_time().is_some_and(&wanted) {
            if *work == 0 {
                return false;
            }
            self.play_some(work);
        }
        true
    }

    /// Goes to the last key frame that is not after `time`.
    fn go_back(&mut self, time: Duration) {
        let key = self.keys.iter().rev().find(|key| key.time <= time);
        let position = key.map_or_else(Position::default, |key| key.position);
        self.time = key.map_or(Duration::ZERO, |key| key.time);
        self.screen = match key {
            Some(key) => Screen::restored(key.size, self.recording.is_tty(), key.returned, &key.dump),
            None => Screen::new((80, 24), self.recording.is_tty()),
        };
        self.playback = Playback::at(self.recording.clone(), position);
        self.fresh = key.is_none();
        self.next = None;
        self.drawn = 0;
        self.exit = None;
        self.since_key = 0;
    }

    /// Keeps what is shown before the next event, if there is no key frame near.
    fn keep_key(&mut self) {
        let newest = self.keys.last().map_or(Duration::ZERO, |key| key.time);
        if self.since_key < self.key_bytes || self.time <= newest {
            return;
        }
        self.since_key = 0;
        let (dump, returned) = self.screen.dump();
        let (columns, rows) = self.screen.size();
        let size = (u16::try_from(columns).unwrap_or(u16::MAX), u16::try_from(rows).unwrap_or(u16::MAX));
        self.keys_size += dump.len();
        self.keys.push(Key { time: self.time, position: self.before_next, size, dump, returned });
        if self.keys_size > KEYS_LIMIT {
            let mut nth = 0_usize;
            self.keys.retain(|_| {
                nth += 1;
                nth.is_multiple_of(2)
            });
            self.keys_size = self.keys.iter().map(|key| key.dump.len()).sum();
            self.key_bytes *= 2;
        }
    }
}
