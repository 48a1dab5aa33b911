//! The auditor's own terminal: taken over, drawn on, and given back as it was, however we leave.
//!
//! **Invariant.** What is written are our own control sequences (moves, colours, attributes) and plain characters.

use std::io::{self, Stdout, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{
    Clear, ClearType, DisableLineWrap, EnableLineWrap, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{execute, queue};
use portcullis_sessions::{Colour, Line, Screen, Style, clean};

/// What the person at the keyboard wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    Pause,
    Back,
    Forward,
    Step,
    Next,
    Redraw,
}

/// The terminal while it is ours. Dropping it gives it back, also in a panic.
pub(super) struct Terminal {
    out: Stdout,
    signals: &'static Signals,
    drawn: Vec<Line>,
    status: String,
    cursor: Option<(usize, usize)>,
    size: (u16, u16),
}

impl Terminal {
    pub(super) fn enter() -> io::Result<Self> {
        let (signals, size) = (Signals::of_process()?, size()?);
        signals.take();
        if let Err(error) = enable_raw_mode() {
            signals.give_back();
            return Err(error);
        }
        // From here on, whatever fails, Drop puts it right.
        let mut terminal =
            Self { out: io::stdout(), signals, drawn: Vec::new(), status: String::new(), cursor: None, size };
        execute!(terminal.out, EnterAlternateScreen, Hide, DisableLineWrap, Clear(ClearType::All))?;
        Ok(terminal)
    }

    /// Waits for a key, at most so long.
    pub(super) fn wish(&mut self, wait: Duration) -> io::Result<Option<Wish>> {
        if self.signals.have_come() {
            return Ok(Some(Wish::Quit));
        }
        match event::poll(wait) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            // A signal: which one, is looked at when we are asked again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(match event::read()? {
            Event::Key(key) => wish(key),
            Event::Resize(columns, rows) => {
                self.size = (columns, rows);
                self.drawn.clear();
                self.status.clear();
                queue!(self.out, Clear(ClearType::All))?;
                Some(Wish::Redraw)
            }
            _ => None,
        })
    }

    /// Shows a screen, as far as it fits, and a line of our own below.
    pub(super) fn draw(&mut self, screen: &Screen, status: &str) -> io::Result<()> {
        let (columns, rows) = self.size;
        let mut lines = screen.lines();
        lines.truncate(usize::from(rows.saturating_sub(1)));
        lines.resize(usize::from(rows.saturating_sub(1)), Line::default());
        if lines == self.drawn && status == self.status && screen.cursor() == self.cursor {
            return Ok(());
        }
        self.cursor = screen.cursor();
        for (row, line) in (0_u16..).zip(&lines) {
            if self.drawn.get(usize::from(row)) != Some(line) {
                queue!(self.out, MoveTo(0, row))?;
                write!(self.out, "{}\x1b[0m", styled(line, columns))?;
                queue!(self.out, Clear(ClearType::UntilNewLine))?;
            }
        }
        self.drawn = lines;
        if self.status != status {
            status.clone_into(&mut self.status);
            let status: String = clean::line(status).chars().take(usize::from(columns)).collect();
            queue!(self.out, MoveTo(0, rows.saturating_sub(1)))?;
            write!(self.out, "\x1b[0;7m{status:<width$}\x1b[0m", width = usize::from(columns))?;
        }
        match screen.cursor() {
            Some((column, row)) if row + 1 < usize::from(rows) && column < usize::from(columns) => {
                let at = |place| u16::try_from(place).unwrap_or(0);
                queue!(self.out, MoveTo(at(column), at(row)), Show)?;
            }
            _ => queue!(self.out, Hide)?,
        }
        self.out.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Each for itself: what can be put right is.
        let _ = execute!(self.out, EnableLineWrap, Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
        self.signals.give_back();
    }
}

/// The signals that end a process. While the terminal is ours, one waits until that is given back.
///
/// There is one for the process: a handler stays, and would end us the second time when the first terminal is given back.
#[derive(Debug)]
struct Signals {
    /// The terminal is not ours: they do what they always do.
    idle: Arc<AtomicBool>,
    /// The one that came while it was; 0 if none did.
    came: Arc<AtomicUsize>,
}

impl Signals {
    fn of_process() -> io::Result<&'static Self> {
        static SIGNALS: OnceLock<Signals> = OnceLock::new();
        if let Some(signals) = SIGNALS.get() {
            return Ok(signals);
        }
        let signals = Self { idle: Arc::new(AtomicBool::new(true)), came: Arc::default() };
        #[cfg(unix)]
        for signal in [
            signal_hook::consts::SIGTERM,
            signal_hook::consts::SIGHUP,
            signal_hook::consts::SIGINT,
            signal_hook::consts::SIGQUIT,
        ] {
            signal_hook::flag::register_conditional_default(signal, signals.idle.clone())?;
            let number = usize::try_from(signal).map_err(io::Error::other)?;
            signal_hook::flag::register_usize(signal, signals.came.clone(), number)?;
        }
        Ok(SIGNALS.get_or_init(|| signals))
    }

    fn take(&self) {
        self.came.store(0, Ordering::SeqCst);
        self.idle.store(false, Ordering::SeqCst);
    }

    fn have_come(&self) -> bool {
        self.came.load(Ordering::SeqCst) != 0
    }

    /// From now on they do what they always do, and so does the one that has waited: whoever sent it sees us end by it.
    fn give_back(&self) {
        self.idle.store(true, Ordering::SeqCst);
        let came = self.came.swap(0, Ordering::SeqCst);
        #[cfg(unix)]
        if let Ok(signal @ 1..) = i32::try_from(came) {
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    }
}

fn wish(key: KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') if control => Some(Wish::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Char(' ') => Some(Wish::Pause),
        KeyCode::Char('.') => Some(Wish::Step),
        KeyCode::Char('n') => Some(Wish::Next),
        KeyCode::Left => Some(Wish::Back),
        KeyCode::Right => Some(Wish::Forward),
        _ => None,
    }
}

/// The line in our own control sequences.
fn styled(line: &Line, columns: u16) -> String {
    let (mut out, mut room) = (String::new(), usize::from(columns));
    for span in &line.0 {
        if room == 0 {
            break;
        }
        out.push_str(&attributes(span.style));
        // A wide character takes two columns: the terminal cuts what is still too long, since wrapping is off.
        out.extend(span.text.chars().take(room).map(|c| if clean::is_plain(c) { c } else { '\u{fffd}' }));
        room = room.saturating_sub(span.width);
    }
    out
}

/// `Select Graphic Rendition` (ECMA-48 §8.3.117) for a style.
fn attributes(style: Style) -> String {
    let mut codes = String::from("\x1b[0");
    for (is, code) in [
        (style.bold, ";1"),
        (style.faint, ";2"),
        (style.italic, ";3"),
        (style.underline, ";4"),
        (style.inverse, ";7"),
        (style.strikethrough, ";9"),
    ] {
        if is {
            codes.push_str(code);
        }
    }
    for (colour, ground) in [(style.foreground, 38), (style.background, 48)] {
        match colour {
            Some(Colour::Indexed(index)) => codes.push_str(&format!(";{ground};5;{index}")),
            Some(Colour::Rgb(red, green, blue)) => {
                codes.push_str(&format!(";{ground};2;{red};{green};{blue}"))
            }
            None => {}
        }
    }
    codes.push('m');
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_colours_and_attributes_is_written_of_what_was_recorded() {
        let mut screen = Screen::new((40, 2), true);
        screen.output(
            "\x1b]52;c;ZXZpbA==\x07\x1b]0;title\x07\x1b[6n\x1b[?1049h\x1b[1;38;5;9mhi\x1b[48;2;1;2;3m!",
        );
        let line = styled(&screen.lines()[0], 40);
        assert_eq!(line, "\x1b[0;1;38;5;9mhi\x1b[0;1;38;5;9;48;2;1;2;3m!");
        assert_eq!(styled(&screen.lines()[0], 1), "\x1b[0;1;38;5;9mh");
    }

    #[test]
    fn keys_mean_what_the_manual_says() {
        let check = |code, modifiers, expected| assert_eq!(wish(KeyEvent::new(code, modifiers)), expected);
        check(KeyCode::Char('q'), KeyModifiers::NONE, Some(Wish::Quit));
        check(KeyCode::Char('c'), KeyModifiers::CONTROL, Some(Wish::Quit));
        check(KeyCode::Char('c'), KeyModifiers::NONE, None);
        check(KeyCode::Char(' '), KeyModifiers::NONE, Some(Wish::Pause));
        check(KeyCode::Char('.'), KeyModifiers::NONE, Some(Wish::Step));
        check(KeyCode::Left, KeyModifiers::NONE, Some(Wish::Back));
        check(KeyCode::Right, KeyModifiers::NONE, Some(Wish::Forward));
    }
}
