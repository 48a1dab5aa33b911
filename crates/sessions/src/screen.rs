//! What a terminal showed: recorded output through an emulator, as text with styles.
//!
//! **Invariant.** What comes out are characters that are [plain](crate::clean::is_plain), their colours and attributes, and
//! nothing else. Whatever escape sequences were recorded (titles, clipboard writes, queries, links) ends in the emulator.

use std::cell::Cell;

use avt::parser::{AnsiMode, AnsiModes, DecMode, DecModes, Function};
use avt::{Color as AvtColor, Line as AvtLine, Observation, Observer, Operation, Pen, Terminal};
use serde::Serialize;

use crate::clean;

/// One line: pieces of text, each in one style. Blanks at its end that look like nothing are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Line(pub Vec<Span>);

/// A piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Span {
    /// Plain characters.
    pub text: String,
    /// How many columns it takes.
    pub width: usize,
    /// How it looks.
    pub style: Style,
}

/// How text looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Style {
    /// Its colour, if not the terminal's own.
    pub foreground: Option<Colour>,
    /// The colour behind it.
    pub background: Option<Colour>,
    /// Bold.
    pub bold: bool,
    /// Faint.
    pub faint: bool,
    /// Italic.
    pub italic: bool,
    /// Underlined.
    pub underline: bool,
    /// Struck through.
    pub strikethrough: bool,
    /// With its colours exchanged.
    pub inverse: bool,
}

/// A colour of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Colour {
    /// One of the palette's 256.
    Indexed(u8),
    /// Red, green and blue.
    Rgb(u8, u8, u8),
}

impl Line {
    /// The text alone.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.iter().map(|span| span.text.as_str()).collect()
    }

    fn of(line: &AvtLine) -> Self {
        let mut spans: Vec<Span> = Vec::new();
        for cell in line.cells() {
            let width = usize::from(cell.width());
            if width == 0 {
                // The second half of a wide character.
                continue;
            }
            let (character, style) = (plain(cell.char()), Style::of(cell.pen()));
            match spans.last_mut() {
                Some(last) if last.style == style => {
                    last.text.push(character);
                    last.width += width;
                }
                _ => spans.push(Span { text: character.to_string(), width, style }),
            }
        }
        while let Some(last) = spans.last_mut()
            && last.style.is_invisible_on_blanks()
        {
            let kept = last.text.trim_end_matches(' ').len();
            last.width -= last.text.len() - kept;
            last.text.truncate(kept);
            if kept > 0 {
                break;
            }
            spans.pop();
        }
        Self(spans)
    }
}

impl Style {
    fn of(pen: &Pen) -> Self {
        let colour = |colour: AvtColor| match colour {
            AvtColor::Indexed(index) => Colour::Indexed(index),
            AvtColor::RGB(rgb) => Colour::Rgb(rgb.r, rgb.g, rgb.b),
        };
        Self {
            foreground: pen.foreground().map(colour),
            background: pen.background().map(colour),
            bold: pen.is_bold(),
            faint: pen.is_faint(),
            italic: pen.is_italic(),
            underline: pen.is_underline(),
            strikethrough: pen.is_strikethrough(),
            inverse: pen.is_inverse(),
        }
    }

    fn is_invisible_on_blanks(self) -> bool {
        self.background.is_none() && !self.inverse && !self.underline && !self.strikethrough
    }
}

fn plain(character: char) -> char {
    if clean::is_plain(character) { character } else { '\u{fffd}' }
}

/// A terminal's screen.
pub struct Screen {
    terminal: Terminal,
    tty: bool,
    /// Whether the output so far ended with a carriage return.
    returned: bool,
    /// Whether what is printed moves the rest of its line.
    inserting: bool,
}

impl Screen {
    /// An empty screen. Without a `tty`, nobody has turned line feeds into new lines, so the screen does.
    #[must_use]
    #[expect(clippy::expect_used, reason = "only a size of 0 is refused")]
    pub fn new((columns, rows): (u16, u16), tty: bool) -> Self {
        let terminal = Terminal::new(usize::from(columns.max(1)), usize::from(rows.max(1)));
        Self { terminal: terminal.expect("the size is not 0"), tty, returned: false, inserting: false }
    }

    /// A screen that shows what `dump` tells.
    pub(crate) fn restored(size: (u16, u16), tty: bool, returned: bool, dump: &str) -> Self {
        // The dump is a terminal's, whatever the recording is of.
        let mut screen = Self::new(size, true);
        screen.output(dump);
        (screen.tty, screen.returned) = (tty, returned);
        screen
    }

    /// What tells another screen of the same size to show the same.
    pub(crate) fn dump(&self) -> (String, bool) {
        (self.terminal.dump(), self.returned)
    }

    /// The command wrote this.
    pub fn output(&mut self, text: &str) {
        self.output_with(text, |_, _| ());
    }

    /// As [`output`](Self::output), and says which lines have left the screen upwards, and whether each goes on in the next.
    pub fn output_with(&mut self, text: &str, left: impl FnMut(&str, bool)) {
        let mut unbounded = usize::MAX;
        self.output_within(text, &mut unbounded, left);
    }

    /// As [`output_with`](Self::output_with), but ends once `work` is used up, which it lessens; returns how many bytes were
    /// taken. The rest is for the next time.
    ///
    /// Work is counted in cells, about: a few characters can say to print one 65,535 times, or to clear a screen of 131,072
    /// cells, and whoever is watched decides how often. What one control sequence does is not divided.
    pub(crate) fn output_within(
        &mut self,
        text: &str,
        work: &mut usize,
        left: impl FnMut(&str, bool),
    ) -> usize {
        let Self { terminal, tty, returned, inserting } = self;
        let (columns, rows) = terminal.size();
        let (most, done) = (*work, Cell::new(0_usize));
        let observer = Watch { left, done: &done, inserting, columns, cells: columns * rows };
        let mut taken = 0;
        let characters = text.chars().take_while(|_| done.get() < most).flat_map(|character| {
            done.set(done.get() + 1);
            taken += character.len_utf8();
            let bare = character == '\n' && !*tty && !*returned;
            *returned = character == '\r';
            bare.then_some('\r').into_iter().chain([character])
        });
        terminal.feed_with(characters, observer);
        *work = most.saturating_sub(done.get());
        taken
    }

    /// The terminal has this size now.
    pub fn resize(&mut self, (columns, rows): (u16, u16)) {
        self.terminal.resize(usize::from(columns), usize::from(rows));
    }

    /// As [`resize`](Self::resize), and says which lines have left the screen.
    pub fn resize_with(&mut self, (columns, rows): (u16, u16), left: impl FnMut(&str, bool)) {
        let (columns, rows) = (usize::from(columns), usize::from(rows));
        let (done, cells) = (Cell::new(0), columns * rows);
        let observer = Watch { left, done: &done, inserting: &mut self.inserting, columns, cells };
        self.terminal.resize_with(columns, rows, observer);
    }

    /// Its size, in columns and rows.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        self.terminal.size()
    }

    /// What it shows, line by line: as many as it has rows.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.terminal.screen().visible_lines().map(Line::of).collect()
    }

    /// The text of the primary screen down to the last line that has any, and whether each line goes on in the next.
    pub(crate) fn remaining_text(&self) -> Vec<(String, bool)> {
        let lines: Vec<_> = self
            .terminal
            .primary_screen()
            .visible_lines()
            .map(|line| (text(line), line.is_wrapped()))
            .collect();
        let used = lines.iter().rposition(|(text, _)| !text.is_empty()).map_or(0, |last| last + 1);
        lines.into_iter().take(used).collect()
    }

    /// Where its cursor is, column and row from 0; `None` while it is hidden.
    #[must_use]
    pub fn cursor(&self) -> Option<(usize, usize)> {
        self.terminal.cursor().position()
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("size", &self.size()).finish_non_exhaustive()
    }
}

fn text(line: &AvtLine) -> String {
    let text: String = line.chars().map(plain).collect();
    if line.is_wrapped() { text } else { text.trim_end_matches(' ').to_owned() }
}

/// Sees what a terminal does: which lines leave it, and how much work that is.
struct Watch<'a, F> {
    left: F,
    done: &'a Cell<usize>,
    inserting: &'a mut bool,
    columns: usize,
    cells: usize,
}

impl<F> Watch<'_, F> {
    /// What a control sequence does beyond the rows that it marks as changed.
    fn work(&mut self, function: &Function) -> usize {
        use Function as Do;
        let inserts = |modes: &AnsiModes| modes.as_slice().contains(&AnsiMode::Insert);
        match function {
            Do::Print(_) if *self.inserting => self.columns,
            Do::Rep(times) if *self.inserting => usize::from(*times) * self.columns,
            Do::Lf | Do::Nel | Do::Ri | Do::Ich(_) | Do::Dch(_) | Do::Ech(_) | Do::El(_) => self.columns,
            Do::Ed(_) | Do::Su(_) | Do::Sd(_) | Do::Il(_) | Do::Dl(_) | Do::Decaln => self.cells,
            Do::Decset(modes) | Do::Decrst(modes) => changes_of_screen(modes) * self.cells,
            Do::Sm(modes) => {
                *self.inserting |= inserts(modes);
                0
            }
            Do::Rm(modes) => {
                *self.inserting &= !inserts(modes);
                0
            }
            Do::Ris | Do::Decstr => {
                *self.inserting = false;
                self.cells
            }
            _ => 0,
        }
    }
}

fn changes_of_screen(modes: &DecModes) -> usize {
    let changes =
        |mode: &&DecMode| matches!(mode, DecMode::AltScreenBuffer | DecMode::SaveCursorAltScreenBuffer);
    modes.as_slice().iter().filter(changes).count()
}

impl<F: FnMut(&str, bool)> Observer for Watch<'_, F> {
    type Output = ();

    fn before(&mut self, _: &mut Observation<'_>, operation: &Operation) {
        let work = match operation {
            Operation::Function(function) => self.work(function),
            Operation::Resize { .. } => self.cells,
        };
        self.done.set(self.done.get() + work);
    }

    /// A row for each character printed, all that move for a line feed on the last.
    fn dirty(&mut self, rows: std::ops::Range<usize>) {
        self.done.set(self.done.get() + rows.len());
    }

    fn evicted(&mut self, _: &mut Observation<'_>, line: &AvtLine) {
        (self.left)(&text(line), line.is_wrapped());
    }

    fn end(&mut self, _: &mut Observation<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_and_attributes_come_out_and_nothing_else() {
        let mut screen = Screen::new((20, 3), true);
        screen.output(
            "\u{1b}]0;evil title\u{7}\u{1b}]52;c;ZXZpbA==\u{7}\u{1b}[c\u{1b}[6n\u{1b}P+q544e\u{1b}\\",
        );
        screen.output("a\u{1b}[1;31mred\u{1b}[0m \u{1b}[38;2;1;2;3;48;5;7mx\u{1b}[0m\u{202e}\u{9b}2J");
        let lines = screen.lines();
        assert!(
            lines.iter().flat_map(|line| line.0.iter()).all(|span| span.text.chars().all(clean::is_plain))
        );
        assert_eq!(
            lines[0].0.len(),
            0,
            "C1 control sequences clear the screen as a terminal would: {lines:?}"
        );
        let mut screen = Screen::new((20, 3), true);
        screen.output("a\u{1b}[1;31mred\u{1b}[0m \u{1b}[38;2;1;2;3;48;5;7mx");
        let spans = &screen.lines()[0].0;
        assert_eq!(spans.iter().map(|span| span.text.as_str()).collect::<Vec<_>>(), ["a", "red", " ", "x"]);
        let red = Style { foreground: Some(Colour::Indexed(1)), bold: true, ..Style::default() };
        assert_eq!(spans[1].style, red);
        assert_eq!(spans[3].style.foreground, Some(Colour::Rgb(1, 2, 3)));
        assert_eq!(screen.cursor(), Some((6, 0)));
    }

    #[test]
    fn without_a_terminal_a_line_feed_begins_a_line() {
        let mut screen = Screen::new((10, 4), false);
        for piece in ["one\ntwo\r", "\nthree"] {
            screen.output(piece);
        }
        let text: Vec<_> = screen.lines().iter().map(Line::text).collect();
        assert_eq!(text, ["one", "two", "three", ""]);
    }

    #[test]
    fn lines_that_leave_the_screen_are_told() {
        let mut screen = Screen::new((4, 2), false);
        let mut left = Vec::new();
        screen.output_with("1\n22222\n3\n", |line, goes_on| left.push((line.to_owned(), goes_on)));
        assert_eq!(left, [("1".into(), false), ("2222".into(), true), ("2".into(), false)]);
        assert_eq!(screen.remaining_text(), [("3".into(), false)]);
    }

    #[test]
    fn few_characters_that_make_much_work_are_counted_as_what_they_do() {
        let check = |text: &str, least: usize| {
            let mut screen = Screen::new((100, 50), true);
            let mut work = usize::MAX;
            assert_eq!(screen.output_within(text, &mut work, |_, _| ()), text.len());
            let done = usize::MAX - work;
            assert!(done >= least && done < 4 * least + 100, "{text:?}: {done}");
        };
        check("x", 1);
        check("x\u{1b}[65535b", 65_535);
        check("\u{1b}[4hx\u{1b}[1000b", 100_000);
        check("\u{1b}[4h\u{1b}[4lx\u{1b}[1000b", 1000);
        for clears in ["\u{1b}[2J", "\u{1b}[J", "\u{1b}c", "\u{1b}[9L", "\u{1b}[?1049h", "\u{9b}9S"] {
            check(&clears.repeat(10), 10 * 100 * 50);
        }
        check(&"\n".repeat(1000), 1000 * 100);
        check(&format!("\u{1b}]0;{}\u{7}", "x".repeat(5000)), 5000);
    }

    #[test]
    fn however_output_is_divided_it_shows_the_same() {
        let text = "one\r\n\u{1b}[1;31mtwo\u{1b}[0m\u{1b}[30b\n\u{1b}[4hthree\u{1b}[2D\n\n\nfour";
        for tty in [true, false] {
            let mut whole = Screen::new((20, 4), tty);
            whole.output(text);
            for most in 1..50 {
                let (mut screen, mut rest) = (Screen::new((20, 4), tty), text);
                while !rest.is_empty() {
                    let mut work = most;
                    let taken = screen.output_within(rest, &mut work, |_, _| ());
                    assert!(taken > 0);
                    rest = &rest[taken..];
                }
                assert_eq!((screen.lines(), screen.cursor()), (whole.lines(), whole.cursor()));
            }
        }
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let mut screen = Screen::new((10, 1), true);
        screen.output("世界!");
        assert_eq!((screen.lines()[0].0[0].width, screen.lines()[0].text()), (5, "世界!".into()));
    }
}
