//! A terminal recording as frames that a page can show: no emulator is needed there, and no escape sequence gets there.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use crate::player::Player;
use crate::recording::Recording;
use crate::screen::{Colour, Line, Style};

/// What follows within this belongs to the same frame: 25 a second.
const FRAME: Duration = Duration::from_millis(40);

/// How much of one recording a page holds: about so many bytes of lines, and so many frames.
const SIZE_LIMIT: usize = 6 * 1024 * 1024;
const MOST_FRAMES: usize = 20_000;

/// A recording, frame by frame. Lines that occur again are there once.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Film {
    styles: Vec<FilmStyle>,
    /// Each line: text, the index of its style, and its width where that is not the number of its characters (else 0), in
    /// turns.
    lines: Vec<Vec<Piece>>,
    frames: Vec<Frame>,
    /// Milliseconds.
    duration: u64,
    pub(crate) exit: Option<String>,
    pub(crate) problems: Vec<String>,
    /// Whether the recording goes on after the last frame.
    pub(crate) truncated: bool,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Piece {
    Text(String),
    Number(usize),
}

/// What changes at a time.
#[derive(Debug, Serialize)]
struct Frame {
    /// Milliseconds from the beginning.
    t: u64,
    /// Row and line in turns: those that changed.
    r: Vec<usize>,
    /// The cursor's column and row; none while hidden.
    c: Option<(usize, usize)>,
    /// Columns and rows, where they changed: every row is in `r` then.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<(usize, usize)>,
}

#[derive(Debug, Serialize)]
struct FilmStyle {
    #[serde(skip_serializing_if = "Option::is_none")]
    f: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<String>,
    /// Letters: bold, faint, italic, underlined, struck through, inverse.
    a: String,
}

impl Film {
    pub(crate) fn of(recording: Recording) -> Self {
        let mut shooting = Shooting::default();
        let mut player = Player::new(recording);
        while let Some(begins) = player.next_time() {
            let ends = begins.saturating_add(FRAME);
            while player.next_time().is_some_and(|next| next < ends) {
                player.step();
            }
            shooting.shoot(&player);
            if shooting.size > SIZE_LIMIT || shooting.film.frames.len() >= MOST_FRAMES {
                shooting.film.truncated = player.next_time().is_some();
                break;
            }
        }
        let mut film = shooting.film;
        film.duration = millis(player.time());
        film.exit = player.exit().map(str::to_owned);
        film.problems = player.problems().to_vec();
        film
    }
}

#[derive(Default)]
struct Shooting {
    film: Film,
    size: usize,
    known_lines: HashMap<Line, usize>,
    known_styles: HashMap<Style, usize>,
    shown: Vec<usize>,
    shape: (usize, usize),
}

impl Shooting {
    fn shoot(&mut self, player: &Player) {
        let screen = player.screen();
        let shape = screen.size();
        let reshaped = shape != self.shape;
        if reshaped {
            self.shape = shape;
            self.shown.clear();
        }
        let mut changed = Vec::new();
        for (row, line) in screen.lines().into_iter().enumerate() {
            let index = self.line(line);
            if self.shown.get(row) != Some(&index) {
                changed.extend([row, index]);
                match self.shown.get_mut(row) {
                    Some(shown) => *shown = index,
                    None => self.shown.push(index),
                }
            }
        }
        self.size += 40 + changed.len() * 5;
        self.film.frames.push(Frame {
            t: millis(player.time()),
            r: changed,
            c: screen.cursor(),
            s: reshaped.then_some(shape),
        });
    }

    fn line(&mut self, line: Line) -> usize {
        if let Some(known) = self.known_lines.get(&line) {
            return *known;
        }
        let pieces = line.0.iter().flat_map(|span| {
            let style = style(&mut self.film, &mut self.known_styles, span.style);
            let width = if span.width == span.text.chars().count() { 0 } else { span.width };
            [Piece::Text(span.text.clone()), Piece::Number(style), Piece::Number(width)]
        });
        let pieces: Vec<Piece> = pieces.collect();
        self.size += line.0.iter().map(|span| span.text.len() + 12).sum::<usize>();
        self.film.lines.push(pieces);
        self.known_lines.insert(line, self.film.lines.len() - 1);
        self.film.lines.len() - 1
    }
}

fn style(film: &mut Film, known: &mut HashMap<Style, usize>, style: Style) -> usize {
    *known.entry(style).or_insert_with(|| {
        let letters = [
            (style.bold, 'b'),
            (style.faint, 'f'),
            (style.italic, 'i'),
            (style.underline, 'u'),
            (style.strikethrough, 's'),
            (style.inverse, 'v'),
        ];
        film.styles.push(FilmStyle {
            f: style.foreground.map(colour),
            b: style.background.map(colour),
            a: letters.into_iter().filter(|(is, _)| *is).map(|(_, letter)| letter).collect(),
        });
        film.styles.len() - 1
    })
}

/// The first sixteen colours are the page's own (`--c0` …), the rest are xterm's.
fn colour(colour: Colour) -> String {
    match colour {
        Colour::Indexed(index @ 0..16) => format!("var(--c{index})"),
        Colour::Indexed(index @ 16..=231) => {
            let level = |step: u8| if step == 0 { 0 } else { 55 + 40 * step };
            let cube = index - 16;
            let (red, green, blue) = (level(cube / 36), level(cube / 6 % 6), level(cube % 6));
            format!("rgb({red},{green},{blue})")
        }
        Colour::Indexed(grey) => {
            let level = 8 + 10 * (grey - 232);
            format!("rgb({level},{level},{level})")
        }
        Colour::Rgb(red, green, blue) => format!("rgb({red},{green},{blue})"),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_xterm_s() {
        assert_eq!(colour(Colour::Indexed(1)), "var(--c1)");
        assert_eq!(colour(Colour::Indexed(16)), "rgb(0,0,0)");
        assert_eq!(colour(Colour::Indexed(231)), "rgb(255,255,255)");
        assert_eq!(colour(Colour::Indexed(196)), "rgb(255,0,0)");
        assert_eq!(colour(Colour::Indexed(255)), "rgb(238,238,238)");
        assert_eq!(colour(Colour::Rgb(1, 2, 3)), "rgb(1,2,3)");
    }
}
