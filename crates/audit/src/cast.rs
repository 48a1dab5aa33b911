//! Terminal sessions as [asciicast v2](https://docs.asciinema.org/manual/asciicast/v2/): a header line, then one line per
//! event. Sans-I/O: bytes of a channel in, lines out.
//!
//! Besides the format's own events (`o` output, `i` input, `r` resize) two of ours occur, which players pass over as the
//! format asks: `["s", "stderr"]` says that the output that follows is from standard error (or `stdout` again), and the
//! last line, `["x", "0"]`, is the command's exit status (as in asciicast v3), or `["x", "cut: …"]`, why there is none.
//!
//! A session without a terminal is recorded all the same; it has the size of an ordinary one.
//!
//! A long session is recorded in parts, each a whole asciicast: its header has the size the terminal has by then, and, from
//! the second on, `"part"`, its number. Times count from the session's beginning in every part.

use serde::Serialize;
use serde_json::json;

/// The size of a terminal nobody told the size of.
const USUAL: (u64, u64) = (80, 24);

/// Which of the command's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout,
    Stderr,
}

/// What the header says.
pub(crate) struct Header {
    /// Seconds since 1970.
    pub(crate) timestamp: i64,
    pub(crate) command: String,
    pub(crate) title: String,
}

/// The most text in one line, in bytes: however it is escaped, a line stays below 200 KiB, so that readers can bound theirs.
const TEXT_LIMIT: usize = 32 * 1024;

/// Makes the lines of one recording.
pub(crate) struct Cast {
    header: Header,
    size: (u64, u64),
    /// Which part is being written, from 1.
    part: u32,
    /// Whether the part has its header yet. The first waits for the terminal's size.
    begun: bool,
    current: Output,
    stdout: Utf8,
    stderr: Utf8,
    stdin: Utf8,
}

impl Cast {
    pub(crate) fn new(header: Header) -> Self {
        let (stdout, stderr, stdin) = Default::default();
        Self { header, size: USUAL, part: 1, begun: false, current: Output::Stdout, stdout, stderr, stdin }
    }

    /// Begins the next part: what follows belongs to it.
    pub(crate) fn next_part(&mut self, out: &mut Vec<u8>) {
        self.part += 1;
        self.begun = false;
        // A part is read by itself, too: it says anew from which output what follows is.
        self.current = Output::Stdout;
        self.begin(out);
    }

    /// The command wrote something.
    pub(crate) fn output(&mut self, seconds: f64, from: Output, data: &[u8], out: &mut Vec<u8>) {
        let text = match from {
            Output::Stdout => self.stdout.push(data),
            Output::Stderr => self.stderr.push(data),
        };
        self.text(seconds, from, &text, out);
    }

    /// Somebody typed something.
    pub(crate) fn input(&mut self, seconds: f64, data: &[u8], out: &mut Vec<u8>) {
        self.begin(out);
        let text = self.stdin.push(data);
        for piece in pieces(&text) {
            line(out, &(seconds, "i", piece));
        }
    }

    /// The terminal has this size now, as told by `{"Width":80,"Height":24}`.
    pub(crate) fn resize(&mut self, seconds: f64, message: &[u8], out: &mut Vec<u8>) {
        let size = serde_json::from_slice::<serde_json::Value>(message).ok();
        let field = |name| size.as_ref().and_then(|size| size.get(name)?.as_u64()).filter(|size| *size > 0);
        let Some((width, height)) = field("Width").zip(field("Height")) else { return };
        if self.part == 1 && !self.begun {
            self.size = (width, height);
            return self.begin(out);
        }
        self.begin(out);
        self.size = (width, height);
        line(out, &(seconds, "r", format!("{width}x{height}")));
    }

    /// The session is over: `status` is the exit status, or why there is none.
    pub(crate) fn end(&mut self, seconds: f64, status: &str, out: &mut Vec<u8>) {
        for from in [Output::Stdout, Output::Stderr] {
            let rest = match from {
                Output::Stdout => self.stdout.rest(),
                Output::Stderr => self.stderr.rest(),
            };
            self.text(seconds, from, &rest, out);
        }
        // Perhaps nothing has been said at all.
        self.begin(out);
        let typed = self.stdin.rest();
        if !typed.is_empty() {
            line(out, &(seconds, "i", typed));
        }
        line(out, &(seconds, "x", status));
    }

    fn text(&mut self, seconds: f64, from: Output, text: &str, out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        self.begin(out);
        if self.current != from {
            self.current = from;
            line(out, &(seconds, "s", if from == Output::Stderr { "stderr" } else { "stdout" }));
        }
        for piece in pieces(text) {
            line(out, &(seconds, "o", piece));
        }
    }

    /// Writes the part's header, unless it stands already.
    fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let ((width, height), Header { timestamp, command, title }) = (self.size, &self.header);
        let mut header = json!({
            "version": 2, "width": width, "height": height, "timestamp": timestamp, "command": command, "title": title,
            "env": {"TERM": "xterm-256color"},
        });
        if self.part > 1 {
            header["part"] = self.part.into();
        }
        line(out, &header);
    }
}

/// `text` in pieces of at most [`TEXT_LIMIT`] bytes.
fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let mut end = text.len().min(TEXT_LIMIT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, rest) = text.split_at(end);
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

fn line(out: &mut Vec<u8>, value: &impl Serialize) {
    // Numbers, strings and a vector: neither can fail.
    if serde_json::to_writer(&mut *out, value).is_ok() {
        out.push(b'\n');
    }
}

/// Puts characters together that were cut apart on the way; what is no UTF-8 becomes U+FFFD.
#[derive(Default)]
struct Utf8(Vec<u8>);

impl Utf8 {
    fn push(&mut self, data: &[u8]) -> String {
        self.0.extend_from_slice(data);
        let cut = match std::str::from_utf8(&self.0) {
            Ok(_) => self.0.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            // Something in the middle is no UTF-8; only the very end may still become a character.
            Err(_) => self.0.len() - unfinished(&self.0),
        };
        let rest = self.0.split_off(cut);
        String::from_utf8(std::mem::replace(&mut self.0, rest))
            .unwrap_or_else(|broken| String::from_utf8_lossy(broken.as_bytes()).into_owned())
    }

    fn rest(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
    }
}

/// How many bytes at the end of `bytes` are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let last = bytes.len().saturating_sub(3)..bytes.len();
    let begins = |at: &usize| match std::str::from_utf8(&bytes[*at..]) {
        Ok(_) => false,
        Err(error) => error.valid_up_to() == 0 && error.error_len().is_none(),
    };
    last.into_iter().find(begins).map_or(0, |at| bytes.len() - at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cast() -> Cast {
        Cast::new(Header { timestamp: 1_700_000_000, command: "sh".into(), title: "exec web".into() })
    }

    fn events(lines: &[u8]) -> Vec<serde_json::Value> {
        String::from_utf8(lines.to_vec())
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_session_is_a_header_and_events() {
        let (mut cast, mut out) = (cast(), Vec::new());
        cast.resize(0.1, br#"{"Width":100,"Height":30}"#, &mut out);
        cast.output(0.2, Output::Stdout, b"$ ", &mut out);
        cast.input(0.3, b"ls\r", &mut out);
        cast.output(0.4, Output::Stderr, b"ls: no\n", &mut out);
        cast.output(0.5, Output::Stdout, b"bye\n", &mut out);
        cast.resize(0.6, br#"{"Width":90,"Height":20}"#, &mut out);
        cast.resize(0.6, b"nonsense", &mut out);
        cast.end(0.7, "0", &mut out);
        let events = events(&out);
        assert_eq!(events[0]["version"], 2);
        assert_eq!((events[0]["width"].as_u64(), events[0]["height"].as_u64()), (Some(100), Some(30)));
        assert_eq!(
            events[1..],
            [
                json!([0.2, "o", "$ "]),
                json!([0.3, "i", "ls\r"]),
                json!([0.4, "s", "stderr"]),
                json!([0.4, "o", "ls: no\n"]),
                json!([0.5, "s", "stdout"]),
                json!([0.5, "o", "bye\n"]),
                json!([0.6, "r", "90x20"]),
                json!([0.7, "x", "0"]),
            ]
        );
    }

    #[test]
    fn a_session_without_a_word_is_a_recording_too() {
        let (mut cast, mut out) = (cast(), Vec::new());
        cast.end(1.0, "cut: revoked", &mut out);
        let events = events(&out);
        assert_eq!(events[0]["width"], 80);
        assert_eq!(events[1], json!([1.0, "x", "cut: revoked"]));
    }

    #[test]
    fn a_part_stands_by_itself() {
        let (mut cast, mut out) = (cast(), Vec::new());
        cast.resize(0.1, br#"{"Width":100,"Height":30}"#, &mut out);
        cast.output(0.2, Output::Stderr, "gr\u{fc}".as_bytes().split_last().unwrap().1, &mut out);
        out.clear();
        cast.next_part(&mut out);
        cast.output(60.0, Output::Stderr, &"\u{fc}".as_bytes()[1..], &mut out);
        cast.resize(60.5, br#"{"Width":90,"Height":30}"#, &mut out);
        let events = events(&out);
        assert_eq!((events[0]["part"].as_u64(), events[0]["width"].as_u64()), (Some(2), Some(100)));
        assert_eq!(
            events[1..],
            [json!([60.0, "s", "stderr"]), json!([60.0, "o", "\u{fc}"]), json!([60.5, "r", "90x30"])]
        );
    }

    #[test]
    fn a_part_in_which_only_half_a_character_was_typed_has_its_header_first() {
        let (mut cast, mut out) = (cast(), Vec::new());
        cast.input(0.1, &"\u{fc}".as_bytes()[..1], &mut out);
        out.clear();
        cast.next_part(&mut out);
        cast.end(0.2, "0", &mut out);
        assert_eq!(events(&out)[0]["part"], 2);
    }

    #[test]
    fn lines_are_bounded() {
        let (mut cast, mut out) = (cast(), Vec::new());
        let text = "\u{1}\u{fc}".repeat(50_000);
        cast.output(0.0, Output::Stdout, text.as_bytes(), &mut out);
        assert!(out.split(|byte| *byte == b'\n').all(|line| line.len() < 200 * 1024));
        let joined: String =
            events(&out)[1..].iter().map(|event| event[2].as_str().unwrap().to_owned()).collect();
        assert_eq!(joined, text);
    }

    proptest! {
        #[test]
        fn text_cut_anywhere_arrives_whole(text in "\\PC{1,60}", cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..5)) {
            let bytes = text.as_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([0, bytes.len()]).collect();
            at.sort_unstable();
            let mut utf8 = Utf8::default();
            let mut joined: String = at.windows(2).map(|pair| utf8.push(&bytes[pair[0]..pair[1]])).collect();
            joined.push_str(&utf8.rest());
            prop_assert_eq!(joined, text);
        }

        #[test]
        fn any_bytes_make_whole_lines_and_little_is_kept_back(data in proptest::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
            let cut = cut.index(data.len() + 1);
            let mut utf8 = Utf8::default();
            let mut joined = utf8.push(&data[..cut]);
            prop_assert!(utf8.0.len() < 4);
            joined.push_str(&utf8.push(&data[cut..]));
            prop_assert!(utf8.0.len() < 4);
            joined.push_str(&utf8.rest());
            // As much is replaced as when it is read at once, give or take where a sequence was cut.
            prop_assert_eq!(joined.replace('\u{fffd}', ""), String::from_utf8_lossy(&data).replace('\u{fffd}', ""));

            let (mut cast, mut out) = (cast(), Vec::new());
            cast.output(0.0, Output::Stderr, &data, &mut out);
            cast.resize(0.0, &data, &mut out);
            cast.end(0.0, "1", &mut out);
            let _ = events(&out);
        }
    }
}
