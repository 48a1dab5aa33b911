//! HTTP/2 frame by frame, for what no client library would send.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::process::DEADLINE;
use crate::raw::{refusal_code, tls_stream};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// RFC 9113 §6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// An HTTP/2 connection on which nothing is sent but what the test says, and what keeps it open.
pub struct RawHttp2 {
    stream: TlsStream<TcpStream>,
    next_stream: u32,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Http2Answer {
    /// An answer: its status, and its body, if it came whole.
    Answer(u16, Vec<u8>),
    /// The stream was reset with this error code, before its answer was whole.
    Reset(u32),
    /// The connection was given up with this error code.
    GoneAway(u32),
}

impl Http2Answer {
    /// The status and the stable name of a refusal, if there was an answer.
    pub fn refusal(&self) -> Option<(u16, String)> {
        match self {
            Self::Answer(status, body) => Some((*status, refusal_code(body))),
            _ => None,
        }
    }
}

impl RawHttp2 {
    /// Connects to an `https://HOST:PORT` whose certificate this authority signed.
    pub async fn open(url: &str, ca: &Path) -> Self {
        let mut opened = Self { stream: tls_stream(url, ca, "h2").await, next_stream: 1 };
        opened.send(PREFACE).await;
        opened.frame(SETTINGS, 0, 0, &[]).await;
        opened
    }

    /// Sends a request, header by header as they stand here, pseudo-headers among them, with this body in one frame, and
    /// waits for what comes of it.
    pub async fn exchange(&mut self, headers: &[(&str, &str)], body: Option<&[u8]>) -> Http2Answer {
        let id = self.begin(headers, body).await;
        tokio::time::timeout(DEADLINE, self.answer(id)).await.expect("something comes of a request")
    }

    /// Sends a request of which nobody waits for more than the head of its answer: its status.
    pub async fn open_stream(&mut self, headers: &[(&str, &str)]) -> u16 {
        let id = self.begin(headers, None).await;
        let head = async {
            loop {
                match self.read_frame().await {
                    (HEADERS, _, stream, payload) if stream == id => return status_of(&payload),
                    (SETTINGS, flags, ..) if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]).await,
                    (GOAWAY, ..) => panic!("hung up"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, head).await.expect("an answer begins")
    }

    async fn begin(&mut self, headers: &[(&str, &str)], body: Option<&[u8]>) -> u32 {
        let id = self.next_stream;
        self.next_stream += 2;
        let mut block = Vec::new();
        for (name, value) in headers {
            // A literal without indexing, and no Huffman coding (RFC 7541 §6.2.2): the bytes as they are.
            block.push(0);
            for text in [name, value] {
                integer(text.len(), &mut block);
                block.extend(text.as_bytes());
            }
        }
        let end = if body.is_none() { END_STREAM } else { 0 };
        self.frame(HEADERS, END_HEADERS | end, id, &block).await;
        if let Some(body) = body {
            self.frame(DATA, END_STREAM, id, body).await;
        }
        id
    }

    async fn answer(&mut self, id: u32) -> Http2Answer {
        let (mut status, mut body) = (0, Vec::new());
        loop {
            let (kind, flags, stream, payload) = self.read_frame().await;
            let number = |at: usize| {
                payload
                    .get(at..at + 4)
                    .map_or(0, |bytes| bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte)))
            };
            match kind {
                SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]).await,
                GOAWAY => return Http2Answer::GoneAway(number(4)),
                RST_STREAM if stream == id => return Http2Answer::Reset(number(0)),
                HEADERS if stream == id => status = status_of(&payload),
                DATA if stream == id => body.extend(payload),
                _ => continue,
            }
            if stream == id && flags & END_STREAM != 0 {
                return Http2Answer::Answer(status, body);
            }
        }
    }

    async fn read_frame(&mut self) -> (u8, u8, u32, Vec<u8>) {
        let mut head = [0; 9];
        if self.stream.read_exact(&mut head).await.is_err() {
            // Hung up without a word: as good as a connection that is given up.
            return (GOAWAY, 0, 0, Vec::new());
        }
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
        self.stream.read_exact(&mut payload).await.expect("a whole frame");
        (kind, flags, u32::from_be_bytes(id) & 0x7fff_ffff, payload)
    }

    async fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a frame's length").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &id.to_be_bytes()].concat();
        self.send(&[&head, payload].concat()).await;
    }

    /// The other end may have hung up already; what it said then is still to be read.
    async fn send(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).await.is_ok() {
            let _ = self.stream.flush().await;
        }
    }
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn integer(value: usize, out: &mut Vec<u8>) {
    if value < 127 {
        return out.push(value as u8);
    }
    out.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        out.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// The status, which is the first header of an answer. All other headers are left alone: they need the whole of HPACK.
fn status_of(block: &[u8]) -> u16 {
    match block {
        // Entries 8 to 14 of the static table (RFC 7541 appendix A).
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        // The name of entry 8 with a value of its own, indexed or not.
        [0x48 | 0x08 | 0x18, length, value @ ..] => {
            let value = &value[..usize::from(length & 0x7f)];
            let text =
                if length & 0x80 == 0 { String::from_utf8_lossy(value).into_owned() } else { digits(value) };
            text.parse().unwrap_or_else(|_| panic!("no status: {text:?}"))
        }
        _ => panic!("no status first: {block:?}"),
    }
}

/// Three digits in HPACK's Huffman code (RFC 7541 appendix B): 0 to 2 have five bits, 3 to 9 six.
fn digits(coded: &[u8]) -> String {
    let bits: Vec<u8> = coded.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let read = |at: usize, length: usize| bits[at..at + length].iter().fold(0, |n, bit| n << 1 | bit);
    let (mut text, mut at) = (String::new(), 0);
    while text.len() < 3 {
        let (digit, length) = match read(at, 5) {
            digit @ 0..=2 => (digit, 5),
            _ => (read(at, 6) - 0x19 + 3, 6),
        };
        text.push(char::from(b'0' + digit));
        at += length;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_statuses_are_those_of_the_rfc() {
        let check = |value: usize, expected: &[u8]| {
            let mut out = Vec::new();
            integer(value, &mut out);
            assert_eq!(out, expected, "{value}");
        };
        check(10, &[10]);
        check(127, &[127, 0]);
        check(1337, &[127, 0xba, 0x09]);

        assert_eq!(status_of(&[0x8c, 0x40]), 400);
        // RFC 7541 appendix C.6: 302 and 307.
        assert_eq!(status_of(&[0x48, 0x82, 0x64, 0x02]), 302);
        assert_eq!(status_of(&[0x48, 0x83, 0x64, 0x0e, 0xff]), 307);
        assert_eq!(status_of(&[0x08, 0x03, b'4', b'3', b'1']), 431);
    }
}
