//! Reads a recording's file: asciicast v2 with our two events, strictly, line by line.
//!
//! What is not as it should be ends the recording there: everything before is played, and what is wrong is said. Of a file,
//! one line is in memory at a time, of at most [`LINE_LIMIT`] bytes.

use std::io::{self, BufRead};
use std::time::Duration;

use serde::Deserialize;

/// The longest line that is read, in bytes. The recorder's are below 200 KiB; earlier ones wrote a frame in one line.
pub const LINE_LIMIT: usize = 8 * 1024 * 1024;

/// How much of an exit status, or of the reason why there is none, is kept, in characters. The recorder's are shorter.
const EXIT_LIMIT: usize = 256;

/// The largest terminal that is drawn. A client may claim any size; the screen of a larger one is cut to this.
pub const MOST_COLUMNS: u16 = 512;
/// See [`MOST_COLUMNS`].
pub const MOST_ROWS: u16 = 256;

/// The longest a session can be: a year. Later times count as that.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The first line of a recording, or of a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The terminal's size, in columns and rows.
    pub size: (u16, u16),
    /// Seconds since 1970, when the session began.
    pub timestamp: Option<i64>,
    /// The command, its words joined by spaces, redacted.
    pub command: String,
    /// The request in words.
    pub title: String,
}

/// Something that happened, at a time that counts from the session's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When. Never earlier than the event before.
    pub time: Duration,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A part of the recording begins; the terminal has this size.
    Begin(Header),
    /// The command wrote something. **Untrusted**: it may hold any escape sequence.
    Output(Source, String),
    /// Somebody typed something. Untrusted as well.
    Input(String),
    /// The terminal has this size now.
    Resize(u16, u16),
    /// The session is over: its exit status, or why there is none.
    Exit(String),
    /// The recording is not whole here: why. What follows, if anything, is the next part.
    Problem(String),
}

/// Which of the command's outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Standard output; of a terminal, everything.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
}

/// What reading on yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Event(Event),
    /// The file ends here, between two lines, or within one that may still become whole.
    End {
        partial: bool,
    },
    /// Something is wrong here, and nothing after it is read.
    Wrong(String),
}

/// Where reading stands between two lines of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Bytes of whole lines read.
    pub(crate) offset: u64,
    pub(crate) line: u64,
    pub(crate) time: Duration,
    pub(crate) source: Source,
    pub(crate) over: bool,
}

/// Reads one file. Asked again at its end, it goes on with what has been written since.
#[derive(Debug)]
pub(crate) struct CastReader<R> {
    input: R,
    line: Vec<u8>,
    mark: Mark,
    wrong: Option<String>,
}

impl<R: BufRead> CastReader<R> {
    /// From the beginning; or, with `input` at `mark.offset`, from there.
    pub(crate) fn new(input: R, mark: Mark) -> Self {
        Self { input, line: Vec::new(), mark, wrong: None }
    }

    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    pub(crate) fn read(&mut self) -> io::Result<Read> {
        loop {
            if let Some(wrong) = &self.wrong {
                return Ok(Read::Wrong(wrong.clone()));
            }
            match self.fill()? {
                Fill::Whole => {}
                Fill::End => return Ok(Read::End { partial: !self.line.is_empty() }),
                Fill::TooLong => {
                    self.wrong(&format!("is longer than {LINE_LIMIT} bytes"));
                    continue;
                }
            }
            match self.parse() {
                Ok((mark, kind)) => {
                    let (offset, line) = (self.mark.offset + self.line.len() as u64 + 1, self.mark.line + 1);
                    self.mark = Mark { offset, line, ..mark };
                    self.line.clear();
                    if let Some(kind) = kind {
                        return Ok(Read::Event(Event { time: mark.time, kind }));
                    }
                }
                Err(why) => self.wrong(why),
            }
        }
    }

    /// It stays before the line: who goes on from the mark finds the same wrong there, and nothing behind it.
    fn wrong(&mut self, why: &str) {
        self.wrong = Some(format!("line {} {why}", self.mark.line + 1));
    }

    /// Reads to the end of the line.
    fn fill(&mut self) -> io::Result<Fill> {
        loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if buffer.is_empty() {
                return Ok(Fill::End);
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let used = end.unwrap_or(buffer.len());
            if self.line.len() + used > LINE_LIMIT {
                return Ok(Fill::TooLong);
            }
            self.line.extend_from_slice(&buffer[..used]);
            self.input.consume(used + usize::from(end.is_some()));
            if end.is_some() {
                return Ok(Fill::Whole);
            }
        }
    }

    /// What the line says, and what holds from there on.
    fn parse(&self) -> Result<(Mark, Option<EventKind>), &'static str> {
        let mut mark = self.mark;
        if mark.line == 0 {
            return header(&self.line).map(|header| (mark, Some(EventKind::Begin(header))));
        }
        if mark.over {
            return Err("comes after the session's end");
        }
        let (seconds, code, data): (f64, String, String) =
            serde_json::from_slice(&self.line).map_err(|_| "is no event")?;
        if !seconds.is_finite() || seconds < 0.0 {
            return Err("has no time");
        }
        let time = Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST);
        // A clock may have been set back; a recording goes on all the same.
        mark.time = mark.time.max(time);
        let kind = match code.as_str() {
            "o" => EventKind::Output(mark.source, data),
            "i" => EventKind::Input(data),
            "r" => {
                let size = data.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
                let (width, height) = size.filter(|(w, h)| *w > 0 && *h > 0).ok_or("has no size")?;
                let (width, height) = clamped(width, height);
                EventKind::Resize(width, height)
            }
            "s" => {
                mark.source = match data.as_str() {
                    "stdout" => Source::Stdout,
                    "stderr" => Source::Stderr,
                    _ => return Err("names no output"),
                };
                return Ok((mark, None));
            }
            "x" => {
                mark.over = true;
                EventKind::Exit(data.chars().take(EXIT_LIMIT).collect())
            }
            // Markers, and what later versions add: the format asks to pass over what one does not know.
            _ => return Ok((mark, None)),
        };
        Ok((mark, Some(kind)))
    }
}

enum Fill {
    Whole,
    End,
    TooLong,
}

fn clamped(width: u64, height: u64) -> (u16, u16) {
    let within = |size: u64, most: u16| u16::try_from(size).unwrap_or(most).min(most);
    (within(width, MOST_COLUMNS), within(height, MOST_ROWS))
}

fn header(line: &[u8]) -> Result<Header, &'static str> {
    #[derive(Deserialize)]
    struct Raw {
        version: u64,
        width: u64,
        height: u64,
        #[serde(default)]
        timestamp: Option<i64>,
        #[serde(default)]
        command: String,
        #[serde(default)]
        title: String,
    }
    let raw: Raw = serde_json::from_slice(line).map_err(|_| "is no header of an asciicast")?;
    if raw.version != 2 {
        return Err("is the header of another version of asciicast");
    }
    if raw.width == 0 || raw.height == 0 {
        return Err("has no size");
    }
    let size = clamped(raw.width, raw.height);
    Ok(Header { size, timestamp: raw.timestamp, command: raw.command, title: raw.title })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Event>, Read) {
        let mut reader = CastReader::new(text.as_bytes(), Mark::default());
        let mut events = Vec::new();
        loop {
            match reader.read().unwrap() {
                Read::Event(event) => events.push(event),
                end => return (events, end),
            }
        }
    }

    const HEADER: &str = r#"{"version":2,"width":100,"height":30,"timestamp":7,"command":"sh","x":1}"#;

    #[test]
    fn a_recording_is_read_event_by_event() {
        let text = format!(
            "{HEADER}\n[0.5,\"o\",\"a\"]\n[0.6,\"s\",\"stderr\"]\n[0.7,\"o\",\"b\"]\n[0.1,\"r\",\"90x20\"]\n[1,\"m\",\"?\"]\n[2,\"i\",\"c\"]\n[3,\"x\",\"0\"]\n"
        );
        let (events, end) = read(&text);
        let millis: Vec<_> = events.iter().map(|event| event.time.as_millis()).collect();
        assert_eq!(millis, [0, 500, 700, 700, 2000, 3000]);
        let kinds: Vec<_> = events.into_iter().map(|event| event.kind).skip(1).collect();
        assert_eq!(
            kinds,
            [
                EventKind::Output(Source::Stdout, "a".into()),
                EventKind::Output(Source::Stderr, "b".into()),
                EventKind::Resize(90, 20),
                EventKind::Input("c".into()),
                EventKind::Exit("0".into()),
            ]
        );
        assert_eq!(end, Read::End { partial: false });
    }

    #[test]
    fn what_is_wrong_ends_it_there_and_is_said() {
        let check = |rest: &str, events: usize, end: Read| {
            let (found, ended) = read(&format!("{HEADER}\n[0,\"o\",\"a\"]\n{rest}"));
            assert_eq!((found.len(), ended), (events, end), "{rest}");
        };
        let wrong = |why: &str| Read::Wrong(why.into());
        check("[1,\"o\",\"b", 2, Read::End { partial: true });
        check("nonsense\n[1,\"o\",\"b\"]\n", 2, wrong("line 3 is no event"));
        check("[1,\"o\",\"b\",4]\n", 2, wrong("line 3 is no event"));
        check("[-1,\"o\",\"b\"]\n", 2, wrong("line 3 has no time"));
        check("[1,\"r\",\"0x5\"]\n", 2, wrong("line 3 has no size"));
        check("[1,\"s\",\"stdin\"]\n", 2, wrong("line 3 names no output"));
        check("[1,\"x\",\"0\"]\n[1,\"o\",\"b\"]\n", 3, wrong("line 4 comes after the session's end"));
        check("[1e300,\"r\",\"99999999999x1\"]\n", 3, Read::End { partial: false });
        assert_eq!(read("").1, Read::End { partial: false });
        assert_eq!(read("{}\n").1, wrong("line 1 is no header of an asciicast"));
        assert_eq!(
            read("{\"version\":3,\"width\":1,\"height\":1}\n").1,
            wrong("line 1 is the header of another version of asciicast")
        );
        let long = format!("{HEADER}\n[0,\"o\",\"{}\"]\n", "a".repeat(LINE_LIMIT));
        assert!(matches!(read(&long).1, Read::Wrong(why) if why.contains("longer")));
    }
}
