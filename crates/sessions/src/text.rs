//! A recording as plain text: what a person would have read.

use std::io;
use std::ops::ControlFlow;

use crate::cast::{EventKind, Source};
use crate::clean;
use crate::recording::Recording;
use crate::screen::Screen;

/// How much a screen does before what left it is told, in cells: few characters can say to repeat one often, and what many say
/// is not gathered.
const AT_ONCE: usize = 65_536;

/// How a recording ended, once it has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextEnd {
    /// The exit status, or why there is none; `None` if the recording does not say.
    pub exit: Option<String>,
    /// Where it is not whole.
    pub problems: Vec<String>,
    /// Whether reading was stopped before its end.
    pub stopped: bool,
}

/// Reads a recording as plain text, piece by piece, in constant memory; `each` may stop it.
///
/// Of a terminal, these are the lines that were on its screen, as they leave it, and what is left at the end; what a
/// full-screen program drew is not among them. Without a terminal it is what the command wrote to either output.
///
/// Of a terminal's output `each` is asked after every 65,536 cells drawn, about, with an empty piece if no line has left the
/// screen: who is watched decides how much there is to draw.
///
/// # Errors
/// What `each` fails with.
pub fn read_text(
    recording: &Recording,
    each: impl FnMut(Source, &str) -> io::Result<ControlFlow<()>>,
) -> io::Result<TextEnd> {
    read(recording, each, None)
}

/// As [`read_text`], of a stream that may still be open: at the end of what is written `wait` says whether it is, once it has
/// waited for more. What was written until it ended is read, too.
///
/// # Errors
/// What `each` or `wait` fails with.
pub fn follow_text(
    recording: &Recording,
    each: impl FnMut(Source, &str) -> io::Result<ControlFlow<()>>,
    mut wait: impl FnMut() -> io::Result<bool>,
) -> io::Result<TextEnd> {
    read(recording, each, Some(&mut wait))
}

fn read(
    recording: &Recording,
    mut each: impl FnMut(Source, &str) -> io::Result<ControlFlow<()>>,
    mut wait: Option<&mut dyn FnMut() -> io::Result<bool>>,
) -> io::Result<TextEnd> {
    let (mut playback, mut end) = (recording.play(), TextEnd::default());
    let mut screen: Option<Screen> = None;
    let mut pieces = Pieces::default();
    let (mut over, mut room) = (false, AT_ONCE);
    loop {
        let Some(event) = playback.next_event() else {
            let Some(go_on) = wait.as_mut().filter(|_| !playback.has_exited()) else { break };
            if over {
                // All has been read, and only now is it known that nothing more comes.
                playback.complete();
                wait = None;
            } else {
                // When it has ended, there may be more than at the last look.
                over = !go_on()?;
            }
            continue;
        };
        let mut text = String::new();
        let mut source = Source::Stdout;
        let left = |line: &str, goes_on: bool| leave(&mut text, line, goes_on);
        match event.kind {
            EventKind::Begin(header) if recording.is_tty() => match &mut screen {
                Some(screen) => screen.resize_with(header.size, left),
                None => screen = Some(Screen::new(header.size, true)),
            },
            EventKind::Resize(columns, rows) => {
                if let Some(screen) = &mut screen {
                    screen.resize_with((columns, rows), left);
                }
            }
            EventKind::Output(from, written) => match &mut screen {
                Some(screen) => {
                    let mut rest = written.as_str();
                    while !rest.is_empty() {
                        let mut text = String::new();
                        let left = |line: &str, goes_on: bool| leave(&mut text, line, goes_on);
                        let taken = screen.output_within(rest, &mut room, left);
                        rest = &rest[taken..];
                        let used_up = room == 0;
                        if used_up {
                            room = AT_ONCE;
                        }
                        if (used_up || !text.is_empty()) && each(source, &text)?.is_break() {
                            end.stopped = true;
                            return Ok(end);
                        }
                    }
                }
                None => (source, text) = (from, pieces.whole(from, written)),
            },
            EventKind::Exit(exit) => end.exit = Some(exit),
            EventKind::Problem(what) => end.problems.push(what),
            EventKind::Begin(_) | EventKind::Input(_) => {}
        }
        if !text.is_empty() && each(source, &text)?.is_break() {
            end.stopped = true;
            return Ok(end);
        }
    }
    let rest = screen.iter().flat_map(Screen::remaining_text);
    for (line, goes_on) in rest {
        let text = if goes_on { line } else { line + "\n" };
        if each(Source::Stdout, &text)?.is_break() {
            end.stopped = true;
            break;
        }
    }
    Ok(end)
}

/// A line has left the screen; whether it goes on in the next.
fn leave(text: &mut String, line: &str, goes_on: bool) {
    text.push_str(line);
    if !goes_on {
        text.push('\n');
    }
}

/// Keeps a carriage return back until it is known whether a line feed follows.
#[derive(Default)]
struct Pieces {
    stdout: bool,
    stderr: bool,
}

impl Pieces {
    fn whole(&mut self, from: Source, written: String) -> String {
        let kept = match from {
            Source::Stdout => &mut self.stdout,
            Source::Stderr => &mut self.stderr,
        };
        let mut written = if *kept { format!("\r{written}") } else { written };
        *kept = written.ends_with('\r');
        if *kept {
            written.pop();
        }
        clean::block(&written)
    }
}
