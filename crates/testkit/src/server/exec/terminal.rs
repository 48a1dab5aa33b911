//! How a line is typed on a terminal: echo, erase, interrupt, end of input. What the kernel's line discipline does.

/// What came of a byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// A line is complete.
    Line(String),
    /// Ctrl-C: forget the line.
    Interrupt,
    /// Ctrl-D on an empty line.
    End,
}

/// A line in the making.
#[derive(Default)]
pub(super) struct LineEditor {
    line: Vec<u8>,
    /// Within an escape sequence (an arrow key), which is swallowed.
    escape: bool,
}

/// A line is at most this long, as in a terminal's canonical mode.
const LONGEST: usize = 4096;

impl LineEditor {
    /// Takes a byte, appends what the terminal shows of it to `echo`.
    pub(super) fn push(&mut self, byte: u8, echo: &mut Vec<u8>) -> Option<Typed> {
        if self.escape {
            self.escape = !(byte.is_ascii_alphabetic() || byte == b'~');
            return None;
        }
        match byte {
            b'\r' | b'\n' => {
                echo.extend_from_slice(b"\r\n");
                let line = std::mem::take(&mut self.line);
                return Some(Typed::Line(String::from_utf8_lossy(&line).into_owned()));
            }
            0x03 => {
                echo.extend_from_slice(b"^C\r\n");
                self.line.clear();
                return Some(Typed::Interrupt);
            }
            0x04 if self.line.is_empty() => return Some(Typed::End),
            0x7f | 0x08 => self.erase(echo),
            0x15 => {
                while !self.line.is_empty() {
                    self.erase(echo);
                }
            }
            0x1b => self.escape = true,
            0x20.. if self.line.len() < LONGEST => {
                self.line.push(byte);
                echo.push(byte);
            }
            _ => {}
        }
        None
    }

    /// Takes back one character, which may be several bytes.
    fn erase(&mut self, echo: &mut Vec<u8>) {
        let mut erased = false;
        while let Some(byte) = self.line.pop() {
            erased = true;
            if byte & 0xc0 != 0x80 {
                break;
            }
        }
        if erased {
            echo.extend_from_slice(b"\x08 \x08");
        }
    }
}

/// Ends lines as a terminal wants them.
pub(super) fn to_terminal(text: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(text.len() + 8);
    let mut before = 0;
    for byte in text {
        if *byte == b'\n' && before != b'\r' {
            shown.push(b'\r');
        }
        shown.push(*byte);
        before = *byte;
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(typed: &str, lines: &[Typed], shown: &str) {
        let (mut editor, mut echo) = (LineEditor::default(), Vec::new());
        let got: Vec<_> = typed.bytes().filter_map(|byte| editor.push(byte, &mut echo)).collect();
        assert_eq!(got, lines);
        assert_eq!(String::from_utf8_lossy(&echo), shown);
    }

    #[test]
    fn lines_are_typed() {
        let line = |text: &str| Typed::Line(text.into());
        check("ls\r", &[line("ls")], "ls\r\n");
        check("lx\x7fs\r", &[line("ls")], "lx\x08 \x08s\r\n");
        check("é\x7fa\n", &[line("a")], "é\x08 \x08a\r\n");
        check("abc\x15d\r", &[line("d")], "abc\x08 \x08\x08 \x08\x08 \x08d\r\n");
        check("ab\x03\x04", &[Typed::Interrupt, Typed::End], "ab^C\r\n");
        check("\x1b[Aa\x1b[3~\r", &[line("a")], "a\r\n");
        assert_eq!(to_terminal(b"a\nb\r\n"), b"a\r\nb\r\n");
    }
}
