//! A client of exec that cuts what it sends where it likes: WebSocket, `v5.channel.k8s.io`, frame by frame.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::chance::Chance;
use crate::raw::try_tls_stream;

// What the first byte of a message says, by `v5.channel.k8s.io`.
const STDIN: u8 = 0;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

// RFC 6455 §5.2: a whole message of bytes; the connection's end; a question whether the other end is there.
const BINARY: u8 = 0x82;
const CLOSING: u8 = 0x88;
const PING: u8 = 0x89;

/// An open exec: what is sent into it.
pub struct ExecInput {
    writer: WriteHalf<TlsStream<TcpStream>>,
    chance: Chance,
}

/// An open exec: what comes out of it.
pub struct ExecOutput {
    reader: ReadHalf<TlsStream<TcpStream>>,
    unread: Vec<u8>,
    /// The id that the gateway gave it.
    pub id: String,
}

/// How an exec ended.
#[derive(Debug, Clone, Default)]
pub struct ExecEnd {
    /// What came, by channel: 1 is standard output, 2 standard error.
    pub channels: BTreeMap<u8, Vec<u8>>,
    /// The `Status` at the end, if one came.
    pub status: Option<Value>,
    /// Whether the server closed the connection as RFC 6455 has it.
    pub closed: bool,
}

/// Opens an exec: the path and query of the request, and where chance cuts what is sent. An error says what came instead.
pub async fn exec(
    url: &str,
    ca: &Path,
    path: &str,
    token: &str,
    chance: Chance,
) -> Result<(ExecInput, ExecOutput), String> {
    let stream = try_tls_stream(url, ca, "http/1.1").await.map_err(|error| error.to_string())?;
    let (reader, writer) = tokio::io::split(stream);
    let mut input = ExecInput { writer, chance };
    let mut output = ExecOutput { reader, unread: Vec::new(), id: String::new() };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    input.write(request.as_bytes()).await?;
    let head = |bytes: &[u8]| bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
    let Some(end) = output.fill_until(head).await else { return Err("hung up without an answer".into()) };
    let head: Vec<u8> = output.unread.drain(..end).collect();
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if !head.starts_with("http/1.1 101") {
        return Err(head);
    }
    let id = head.lines().find_map(|line| line.strip_prefix("audit-id: "));
    output.id = id.ok_or_else(|| format!("no id: {head}"))?.trim().to_owned();
    Ok((input, output))
}

impl ExecInput {
    /// Standard input, in messages and writes of any sizes.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), String> {
        let most = if bytes.len() > 100_000 { 60_000 } else { 900 };
        for piece in self.chance.clone().cut(bytes, most) {
            self.message(STDIN, piece).await?;
        }
        // What comes next is cut elsewhere.
        self.chance = self.chance.split();
        Ok(())
    }

    /// The end of standard input, with the rest left open.
    pub async fn close_stdin(&mut self) -> Result<(), String> {
        self.message(CLOSE, &[STDIN]).await
    }

    /// The terminal's size.
    pub async fn resize(&mut self, width: u16, height: u16) -> Result<(), String> {
        let size = serde_json::json!({ "Width": width, "Height": height }).to_string();
        self.message(RESIZE, size.as_bytes()).await
    }

    /// One message: a masked frame, as a client's must be.
    async fn message(&mut self, channel: u8, payload: &[u8]) -> Result<(), String> {
        let length = payload.len() + 1;
        let mut frame = vec![BINARY];
        match length {
            0..126 => frame.push(0x80 | length as u8),
            126..0x1_0000 => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        let key: [u8; 4] = self.chance.bytes(4).try_into().expect("four bytes");
        frame.extend(key);
        let message = std::iter::once(&channel).chain(payload);
        frame.extend(message.zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        self.write(&frame).await
    }

    /// In writes of any sizes, each a TLS record of its own.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        for piece in self.chance.cut(bytes, 20_000) {
            write_all(&mut self.writer, piece).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

impl ExecOutput {
    /// Reads to the end, or until this text has come on a channel.
    pub async fn until(&mut self, channel: u8, wanted: &[u8]) -> ExecEnd {
        let is_there = |end: &ExecEnd| {
            let came = end.channels.get(&channel).map(Vec::as_slice).unwrap_or_default();
            came.windows(wanted.len()).any(|part| part == wanted)
        };
        self.read(is_there).await
    }

    /// Reads to the end.
    pub async fn end(&mut self) -> ExecEnd {
        self.read(|_| false).await
    }

    async fn read(&mut self, enough: impl Fn(&ExecEnd) -> bool) -> ExecEnd {
        let mut end = ExecEnd::default();
        while let Some((kind, payload)) = self.frame().await {
            match (kind, payload.split_first()) {
                (CLOSING, _) => {
                    end.closed = true;
                    break;
                }
                (PING, _) => {}
                (_, Some((&STATUS, status))) => end.status = serde_json::from_slice(status).ok(),
                (_, Some((&channel, bytes))) => {
                    end.channels.entry(channel).or_default().extend_from_slice(bytes);
                }
                (_, None) => {}
            }
            if enough(&end) {
                break;
            }
        }
        end
    }

    /// The next frame of the server, which does not mask it; nothing once it has hung up.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let payload = |bytes: &[u8]| -> Option<(usize, usize)> {
            let (start, length) = match bytes.get(1)? {
                126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into()),
                127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
                short => (2, usize::from(*short)),
            };
            (bytes.len() >= start + length).then_some((start, start + length))
        };
        self.fill_until(|bytes| payload(bytes).map(|(_, end)| end)).await?;
        let (start, end) = payload(&self.unread)?;
        let frame: Vec<u8> = self.unread.drain(..end).collect();
        Some((frame[0], frame[start..].to_vec()))
    }

    async fn fill_until(&mut self, found: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        let mut chunk = vec![0; 16 << 10];
        loop {
            if let Some(at) = found(&self.unread) {
                return Some(at);
            }
            match read_some(&mut self.reader, &mut chunk).await {
                Ok(n @ 1..) => self.unread.extend_from_slice(&chunk[..n]),
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

/// Nothing here waits without a deadline.
async fn read_some(reader: &mut (impl AsyncRead + Unpin), into: &mut [u8]) -> std::io::Result<usize> {
    let reading = reader.read(into);
    tokio::time::timeout(crate::process::DEADLINE, reading).await.expect("the exec goes on, or ends")
}

async fn write_all(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    let writing = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    tokio::time::timeout(crate::process::DEADLINE, writing).await.expect("the other end takes what is sent")
}
