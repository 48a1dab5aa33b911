//! What a terminal showed: recorded output through an emulator, as text with styles.
//!
//! **Invariant.** What comes out are characters that are [plain](crate::clean::is_plain), their colours and attributes, and
//! nothing else. Whatever escape sequences were recorded (titles, clipboard writes, queries, links) ends in the emulator.

use avt::{Color as AvtColor, Line as AvtLine, Observation, Observer, Pen, Terminal};
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
}

impl Screen {
    /// An empty screen. Without a `tty`, nobody has turned line feeds into new lines, so the screen does.
    #[must_use]
    #[expect(clippy::expect_used, reason = "only a size of 0 is refused")]
    pub fn new((columns, rows): (u16, u16), tty: bool) -> Self {
        let terminal = Terminal::new(usize::from(columns.max(1)), usize::from(rows.max(1)));
        Self { terminal: terminal.expect("the size is not 0"), tty, returned: false }
    }

    /// A screen that shows what `dump` tells.
    pub(crate) fn restored(size: (u16, u16), tty: bool, returned: bool, dump: &str) -> Self {
        let mut screen = Self::new(size, tty);
        screen.terminal.feed(dump);
        screen.returned = returned;
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
        let observer = Evicted(left);
        if self.tty {
            self.terminal.feed_with(text, observer);
        } else {
            let mut returned = self.returned;
            let characters = text.chars().flat_map(|character| {
                let bare = character == '\n' && !returned;
                returned = character == '\r';
                bare.then_some('\r').into_iter().chain([character])
            });
            self.terminal.feed_with(characters, observer);
            self.returned = text.ends_with('\r');
        }
    }

    /// The terminal has this size now.
    pub fn resize(&mut self, (columns, rows): (u16, u16)) {
        self.terminal.resize(usize::from(columns), usize::from(rows));
    }

    /// As [`resize`](Self::resize), and says which lines have left the screen.
    pub fn resize_with(&mut self, (columns, rows): (u16, u16), left: impl FnMut(&str, bool)) {
        self.terminal.resize_with(usize::from(columns), usize::from(rows), Evicted(left));
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

struct Evicted<F>(F);

impl<F: FnMut(&str, bool)> Observer for Evicted<F> {
    type Output = ();

    fn evicted(&mut self, _: &mut Observation<'_>, line: &AvtLine) {
        (self.0)(&text(line), line.is_wrapped());
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
    fn wide_characters_take_two_columns() {
        let mut screen = Screen::new((10, 1), true);
        screen.output("世界!");
        assert_eq!((screen.lines()[0].0[0].width, screen.lines()[0].text()), (5, "世界!".into()));
    }
}
