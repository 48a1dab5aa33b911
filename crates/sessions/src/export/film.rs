//! A terminal recording as frames that a page can show: no emulator is needed there, and no escape sequence gets there.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use crate::player::Player;
use crate::recording::Recording;
use crate::screen::{Colour, Line, Style};

/// What follows within this belongs to the same frame: 25 a second.
const FRAME: Duration = Duration::from_millis(40);

/// How much of one recording a page holds. Who is watched decides how large a terminal is, and what each cell looks like.
const LIMITS: Limits =
    Limits { size: 6 * 1024 * 1024, frames: 20_000, cells: 200_000_000, work: 200_000_000 };

#[derive(Clone, Copy)]
struct Limits {
    /// At most so many bytes in the page, as they stand there.
    size: usize,
    frames: usize,
    /// How many cells are looked at, in all frames together: with `work`, what bounds the time it takes.
    cells: usize,
    /// How much is drawn, in cells: a few characters can ask for a great many.
    work: usize,
}

/// What things take in the page at most, in bytes, besides their text. For a piece also about what it takes in memory.
const STYLE_SIZE: usize = 80;
const PIECE_SIZE: usize = 30;
const LINE_SIZE: usize = 4;
const FRAME_SIZE: usize = 96;
const CHANGE_SIZE: usize = 16;

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
        Self::within(LIMITS, recording)
    }

    fn within(limits: Limits, recording: Recording) -> Self {
        let mut shooting = Shooting { room: limits.size, ..Shooting::default() };
        let mut player = Player::new(recording);
        let mut work = limits.work;
        while let Some(begins) = player.next_time() {
            let ends = begins.saturating_add(FRAME);
            if !player.play_while(|next| next < ends, &mut work) {
                shooting.film.truncated = true;
                break;
            }
            let (columns, rows) = player.screen().size();
            shooting.cells += columns * rows;
            let may_go_on = shooting.film.frames.len() < limits.frames && shooting.cells <= limits.cells;
            if !may_go_on || shooting.shoot(&player).is_none() {
                shooting.film.truncated = true;
                break;
            }
        }
        let mut film = shooting.film;
        film.duration = film.frames.last().map_or(0, |frame| frame.t);
        film.exit = player.exit().map(str::to_owned);
        film.problems = player.problems().to_vec();
        film
    }
}

#[derive(Default)]
struct Shooting {
    film: Film,
    /// How many bytes the page still has.
    room: usize,
    cells: usize,
    known_lines: HashMap<Line, usize>,
    known_styles: HashMap<Style, usize>,
    shown: Vec<usize>,
    shape: (usize, usize),
}

impl Shooting {
    /// `None` if there is no room for it.
    fn shoot(&mut self, player: &Player) -> Option<()> {
        self.take(FRAME_SIZE)?;
        let screen = player.screen();
        let shape = screen.size();
        let reshaped = shape != self.shape;
        if reshaped {
            self.shape = shape;
            self.shown.clear();
        }
        let mut changed = Vec::new();
        for (row, line) in screen.lines().into_iter().enumerate() {
            let index = self.line(line)?;
            if self.shown.get(row) != Some(&index) {
                self.take(CHANGE_SIZE)?;
                changed.extend([row, index]);
                match self.shown.get_mut(row) {
                    Some(shown) => *shown = index,
                    None => self.shown.push(index),
                }
            }
        }
        self.film.frames.push(Frame {
            t: millis(player.time()),
            r: changed,
            c: screen.cursor(),
            s: reshaped.then_some(shape),
        });
        Some(())
    }

    fn take(&mut self, bytes: usize) -> Option<()> {
        self.room = self.room.checked_sub(bytes)?;
        Some(())
    }

    fn line(&mut self, line: Line) -> Option<usize> {
        if let Some(known) = self.known_lines.get(&line) {
            return Some(*known);
        }
        for span in &line.0 {
            let new = !self.known_styles.contains_key(&span.style);
            self.take(PIECE_SIZE + escaped(&span.text) + if new { STYLE_SIZE } else { 0 })?;
        }
        self.take(LINE_SIZE)?;
        let pieces = line.0.iter().flat_map(|span| {
            let style = style(&mut self.film, &mut self.known_styles, span.style);
            let width = if span.width == span.text.chars().count() { 0 } else { span.width };
            [Piece::Text(span.text.clone()), Piece::Number(style), Piece::Number(width)]
        });
        let pieces: Vec<Piece> = pieces.collect();
        self.film.lines.push(pieces);
        self.known_lines.insert(line, self.film.lines.len() - 1);
        Some(self.film.lines.len() - 1)
    }
}

/// How many bytes plain text takes in the page's data: JSON in which what could be markup is escaped.
fn escaped(text: &str) -> usize {
    let each = |character: char| match character {
        '<' | '>' | '&' => 6,
        '"' | '\\' => 2,
        other => other.len_utf8(),
    };
    text.chars().map(each).sum()
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
    use portcullis_core::Channel;

    use super::*;
    use crate::export::html::data;
    use crate::tests::{Log, With, exit, pass};

    #[test]
    fn colours_are_xterm_s() {
        assert_eq!(colour(Colour::Indexed(1)), "var(--c1)");
        assert_eq!(colour(Colour::Indexed(16)), "rgb(0,0,0)");
        assert_eq!(colour(Colour::Indexed(231)), "rgb(255,255,255)");
        assert_eq!(colour(Colour::Indexed(196)), "rgb(255,0,0)");
        assert_eq!(colour(Colour::Indexed(255)), "rgb(238,238,238)");
        assert_eq!(colour(Colour::Rgb(1, 2, 3)), "rgb(1,2,3)");
    }

    /// Films `frames` screens that `draw` fills, of a terminal of this size, a second apart, and says how large that is in a page.
    async fn film(
        limits: Limits,
        (columns, rows): (u16, u16),
        frames: usize,
        draw: impl Fn(usize) -> String,
    ) -> (Film, usize) {
        let log = Log::with(|options| options.recording_limit(1 << 30).recording_part(1 << 29));
        let (id, mut stage) =
            log.stream("/pods/web/exec?command=sh", With { tty: true, ..With::default() }).await;
        pass(&mut *stage, Channel::Resize, format!(r#"{{"Width":{columns},"Height":{rows}}}"#));
        for nth in 0..frames {
            log.advance(Duration::from_secs(1));
            pass(&mut *stage, Channel::Stdout, format!("\x1b[H{}", draw(nth)));
        }
        exit(stage, 0).await;
        let recording = Recording::of(&log.step(id), &log.reader()).unwrap();
        let film = Film::within(limits, recording);
        let size = data(&film).unwrap().len();
        (film, size)
    }

    /// Every cell in colours of its own.
    fn colourful(nth: usize, text: char) -> String {
        let cell = |cell: usize| {
            let (red, green) = (100 + cell / 156, 100 + cell % 156);
            format!("\x1b[38;2;{red};{green};{}m{text}", 100 + nth)
        };
        (0..80 * 24 - 1).map(cell).collect()
    }

    /// Every line with a number of its own.
    fn numbered(nth: usize, text: &str, width: usize) -> String {
        let line =
            |row: usize| format!("\x1b[{};1H{:06}{}", row + 1, nth * 24 + row, text.repeat(74 / width));
        (0..24).map(line).collect()
    }

    #[tokio::test]
    async fn a_film_is_never_larger_in_a_page_than_its_limit() {
        let limits = Limits { size: 512 * 1024, ..LIMITS };
        for (nth, draw) in [
            (&|nth| colourful(nth, '<')) as &dyn Fn(usize) -> String,
            &|nth| colourful(nth, '\u{fffd}'),
            &|nth| numbered(nth, "<", 1),
            &|nth| numbered(nth, "\"\\", 2),
            &|nth| numbered(nth, "世", 2),
        ]
        .into_iter()
        .enumerate()
        {
            let (film, size) = film(limits, (80, 24), 400, draw).await;
            assert!(film.truncated && !film.frames.is_empty(), "{nth}");
            // What is said besides, and no more.
            assert!(size <= limits.size + 256, "{nth}: {size}");
            assert!(size > limits.size / 3, "{nth}: {size}");
            assert_eq!(film.duration, film.frames.last().unwrap().t);
        }
        // A single screen can be larger.
        let row = |row: usize| format!("\x1b[{};1H{row:04}{}", row + 1, "<".repeat(500));
        let (film, size) = film(limits, (512, 256), 1, |_| (0..256).map(row).collect()).await;
        assert!(film.truncated && size < limits.size, "{size}");
    }

    #[tokio::test]
    async fn a_film_has_so_many_frames_and_cells_and_no_more() {
        let check = async |limits, truncated, frames| {
            let (film, _) = film(limits, (80, 24), 10, |nth| nth.to_string()).await;
            assert_eq!((film.truncated, film.frames.len()), (truncated, frames));
        };
        // One more at the beginning; the exit belongs to the last.
        check(LIMITS, false, 11).await;
        check(Limits { frames: 11, ..LIMITS }, false, 11).await;
        check(Limits { frames: 10, ..LIMITS }, true, 10).await;
        check(Limits { cells: 11 * 80 * 24, ..LIMITS }, false, 11).await;
        check(Limits { cells: 11 * 80 * 24 - 1, ..LIMITS }, true, 10).await;
    }

    #[tokio::test]
    async fn how_much_is_drawn_is_bounded_however_few_characters_ask_for_it() {
        for much in ["x\x1b[65535b", "\x1b[2J", "\x1b[4hx\x1b[999b"] {
            let limits = Limits { work: 3_000_000, ..LIMITS };
            let (film, _) = film(limits, (200, 100), 40, |_| much.repeat(10)).await;
            assert!(
                film.truncated && (1..40).contains(&film.frames.len()),
                "{much:?}: {}",
                film.frames.len()
            );
        }
    }
}
