//! One exec: the channels of a WebSocket on one side, a shell on the other.
//!
//! Three futures in one task: the reader takes frames apart, the shell runs, the writer sends. Bounded queues between them
//! carry back-pressure both ways: who does not read stops the shell, and a shell that does not read stops the client.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use portcullis_wire::{
    Direction, FramePart, Opcode, Subprotocol, WebSocketDecoder, WebSocketLimits, encode_close, encode_frame,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::mpsc,
    time::{Duration, timeout},
};

use super::{
    ExecOptions,
    shell::{Gone, Shell},
    terminal::to_terminal,
};
use crate::listen::ConnectionEnd;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the next byte names a channel whose sender is done.
const CLOSE: u8 = 255;
/// Frames are at most this long, as the API server's.
const LARGEST: usize = 32 * 1024;

/// Where output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fd {
    Stdout,
    Stderr,
}

pub(super) struct Session {
    options: ExecOptions,
    subprotocol: Subprotocol,
    shell: Shell,
}

type Io = TokioIo<Upgraded>;

impl Session {
    pub(super) fn new(options: ExecOptions, subprotocol: Subprotocol, shell: Shell) -> Self {
        Self { options, subprotocol, shell }
    }

    /// Runs the command until it ends, the client goes, or the server stops.
    pub(super) async fn run(self, upgraded: Upgraded, end: Option<ConnectionEnd>) {
        let served = self.serve(upgraded);
        match end {
            Some(end) => drop(end.0.run_until_cancelled(served).await),
            None => served.await,
        }
    }

    async fn serve(self, upgraded: Upgraded) {
        let Self { options, subprotocol, mut shell } = self;
        let (from_client, to_client) = tokio::io::split(TokioIo::new(upgraded));
        let (frames, queue) = mpsc::channel(8);
        let (stdin, input) = mpsc::channel(8);
        let size = Arc::new(Mutex::new((24, 80)));
        let reader = Reader {
            io: from_client,
            decoder: WebSocketDecoder::new(Direction::ClientToServer, WebSocketLimits::default()),
            stdin: options.stdin.then_some(stdin),
            size: size.clone(),
            frames: frames.clone(),
            v5: subprotocol.has_close_signal(),
        };
        let mut terminal = Terminal { frames, input, left: Bytes::new(), size, options: Flags::of(&options) };
        let command = async move {
            // The API server says so that the streams are open.
            terminal.send(STDOUT, &[]).await?;
            let code = shell.run(&options.command, &mut terminal).await?;
            terminal.send(ERROR, outcome(code).to_string().as_bytes()).await?;
            let mut wire = BytesMut::new();
            encode_frame(true, Opcode::Close, &encode_close(1000, ""), None, &mut wire);
            terminal.frames.send(wire.freeze()).await.map_err(|_| Gone)
        };
        let mut reader = Box::pin(reader.run());
        tokio::select! {
            written = write(to_client, queue, command) => {
                // The client answers the close; a bounded wait, for one that does not.
                let _ = timeout(Duration::from_secs(5), reader).await;
                if let Ok(mut io) = written {
                    let _ = io.shutdown().await;
                }
            }
            () = &mut reader => {}
        }
    }
}

/// Runs `command` and sends what it puts into the queue; when it is over, sends the rest.
async fn write(
    mut io: WriteHalf<Io>,
    mut queue: mpsc::Receiver<Bytes>,
    command: impl Future<Output = Result<(), Gone>>,
) -> std::io::Result<WriteHalf<Io>> {
    let mut command = Box::pin(command);
    let mut over = false;
    loop {
        let frame = tokio::select! {
            biased;
            frame = queue.recv() => frame,
            _ = &mut command, if !over => { over = true; continue }
        };
        let Some(frame) = frame else { break };
        let last = frame.first() == Some(&0x88);
        io.write_all(&frame).await?;
        if last {
            break;
        }
    }
    io.flush().await?;
    Ok(io)
}

/// The `Status` a command's end is told with.
fn outcome(code: i32) -> Value {
    match code {
        0 => json!({"metadata": {}, "status": "Success"}),
        code => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit code {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
    }
}

/// Takes the client's frames apart. Ends when the client is done, gone, or does what it must not.
struct Reader {
    io: ReadHalf<Io>,
    decoder: WebSocketDecoder,
    stdin: Option<mpsc::Sender<Bytes>>,
    size: Arc<Mutex<(u16, u16)>>,
    frames: mpsc::Sender<Bytes>,
    v5: bool,
}

impl Reader {
    async fn run(mut self) {
        let mut channel = STDIN;
        let mut resize = Vec::new();
        loop {
            let part = match self.decoder.next_part() {
                Ok(Some(part)) => part,
                Ok(None) => {
                    let mut buffer = BytesMut::with_capacity(LARGEST);
                    match self.io.read_buf(&mut buffer).await {
                        Ok(1..) => self.decoder.push(buffer.freeze()),
                        _ => return,
                    }
                    continue;
                }
                Err(error) => return tracing::debug!(%error, "exec: not a WebSocket frame"),
            };
            match part.header.opcode {
                Opcode::Close => return,
                Opcode::Ping => {
                    let mut wire = BytesMut::new();
                    encode_frame(true, Opcode::Pong, &part.payload, None, &mut wire);
                    if self.frames.send(wire.freeze()).await.is_err() {
                        return;
                    }
                }
                Opcode::Pong => {}
                _ => self.data(part, &mut channel, &mut resize).await,
            }
        }
    }

    async fn data(&mut self, part: FramePart, channel: &mut u8, resize: &mut Vec<u8>) {
        let mut payload = part.payload.clone();
        if part.begins_message() && !payload.is_empty() {
            *channel = payload.split_to(1)[0];
            resize.clear();
        }
        match *channel {
            STDIN if !payload.is_empty() => {
                // A command that reads no more is no error: its input is dropped.
                if let Some(stdin) = &self.stdin
                    && stdin.send(payload).await.is_err()
                {
                    self.stdin = None;
                }
            }
            RESIZE if resize.len() + payload.len() <= 256 => {
                resize.extend_from_slice(&payload);
                if part.ends_message()
                    && let Ok(size) = serde_json::from_slice::<Value>(resize)
                {
                    let number =
                        |field: &str| size[field].as_u64().and_then(|number| u16::try_from(number).ok());
                    let size = (number("Height").unwrap_or(24), number("Width").unwrap_or(80));
                    *self.size.lock().unwrap_or_else(PoisonError::into_inner) = size;
                }
            }
            CLOSE if self.v5 && payload.first() == Some(&STDIN) => self.stdin = None,
            _ => {}
        }
    }
}

/// What a command sees of its session: standard input, output, error, and whether they are a terminal.
pub(super) struct Terminal {
    frames: mpsc::Sender<Bytes>,
    input: mpsc::Receiver<Bytes>,
    left: Bytes,
    size: Arc<Mutex<(u16, u16)>>,
    options: Flags,
}

#[derive(Clone, Copy)]
struct Flags {
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Flags {
    fn of(options: &ExecOptions) -> Self {
        Self { stdout: options.stdout, stderr: options.stderr, tty: options.tty }
    }
}

impl Terminal {
    pub(super) fn is_tty(&self) -> bool {
        self.options.tty
    }

    /// Rows and columns.
    pub(super) fn size(&self) -> (u16, u16) {
        *self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes; on a terminal both go to standard output.
    pub(super) async fn write(&mut self, fd: Fd, bytes: &[u8]) -> Result<(), Gone> {
        let Flags { stdout, stderr, tty } = self.options;
        let shown = if tty { to_terminal(bytes) } else { bytes.to_vec() };
        let (channel, wanted) = match fd {
            Fd::Stderr if !tty => (STDERR, stderr),
            _ => (STDOUT, stdout),
        };
        if wanted {
            for piece in shown.chunks(LARGEST) {
                self.send(channel, piece).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, channel: u8, payload: &[u8]) -> Result<(), Gone> {
        let message = [&[channel], payload].concat();
        let mut wire = BytesMut::new();
        encode_frame(true, Opcode::Binary, &message, None, &mut wire);
        self.frames.send(wire.freeze()).await.map_err(|_| Gone)
    }

    /// The next piece of standard input; `None` when it has ended.
    pub(super) async fn bytes(&mut self) -> Option<Bytes> {
        match self.left.is_empty() {
            false => Some(std::mem::take(&mut self.left)),
            true => self.input.recv().await,
        }
    }

    pub(super) async fn byte(&mut self) -> Option<u8> {
        while self.left.is_empty() {
            self.left = self.input.recv().await?;
        }
        Some(self.left.split_to(1)[0])
    }

    /// Resolves when Ctrl-C is typed on a terminal; what is typed before it is lost, as it is to a program that does not read.
    pub(super) async fn interrupted(&mut self) {
        if self.options.tty {
            while let Some(byte) = self.byte().await {
                if byte == 0x03 {
                    return;
                }
            }
        }
        std::future::pending().await
    }
}
