//! The relay between in-memory pipes: what passes, what is changed, and how it ends. See `upstream/upgrade_tests.rs` for the
//! same over real connections.

use std::{
    sync::{Arc, Mutex as StdMutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use portcullis_core::{
    BoxFuture, Channel, Direction, Ended, Liveness, RequestInfo, StreamAbort, StreamEnd, StreamFrame,
    StreamInfo, StreamPlan, StreamStage, StreamStageFactory, StreamTransport,
};
use portcullis_wire::{
    HeaderBlock, Opcode, SpdyDecoder, SpdyEncoder, SpdyFrame, SpdyLimits, StreamProtocol, StreamPurpose,
    WebSocketDecoder, WebSocketLimits, encode_frame,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::{Mutex, Notify},
    task::JoinHandle,
};

use super::{negotiate::Agreed, pipeline::Pipeline, relay::relay};

type Change = dyn Fn(StreamFrame, &mut Vec<StreamFrame>) -> Result<(), StreamAbort> + Send + Sync;

/// What a stage saw.
#[derive(Default)]
pub(crate) struct Log {
    frames: StdMutex<Vec<StreamFrame>>,
    end: StdMutex<Option<StreamEnd>>,
    closed: Notify,
}

impl Log {
    /// What was seen on a channel, frame by frame.
    pub(crate) fn texts(&self, channel: Channel) -> Vec<String> {
        let frames = self.frames.lock().unwrap();
        let texts = frames.iter().filter(|frame| frame.channel == channel);
        texts.map(|frame| String::from_utf8_lossy(&frame.data).into_owned()).collect()
    }

    pub(crate) fn text(&self, channel: Channel) -> String {
        let frames = self.frames.lock().unwrap();
        let data: Vec<u8> =
            frames.iter().filter(|f| f.channel == channel).flat_map(|f| f.data.to_vec()).collect();
        String::from_utf8(data).unwrap()
    }

    pub(crate) async fn end(&self) -> StreamEnd {
        loop {
            let closed = self.closed.notified();
            if let Some(end) = self.end.lock().unwrap().clone() {
                return end;
            }
            closed.await;
        }
    }
}

/// A stage that does what its closure says, after writing down what it saw.
pub(crate) struct Stage {
    log: Arc<Log>,
    change: Arc<Change>,
    held_back: Option<StreamFrame>,
}

impl StreamStage for Stage {
    fn frame(&mut self, frame: StreamFrame, out: &mut Vec<StreamFrame>) -> Result<(), StreamAbort> {
        self.log.frames.lock().unwrap().push(frame.clone());
        if frame.data == "hold this back" {
            self.held_back = Some(frame);
            return Ok(());
        }
        (self.change)(frame, out)
    }

    fn flush(&mut self, out: &mut Vec<StreamFrame>) {
        out.extend(self.held_back.take());
    }

    fn close(self: Box<Self>, end: StreamEnd) -> BoxFuture<'static, ()> {
        *self.log.end.lock().unwrap() = Some(end);
        self.log.closed.notify_waiters();
        Box::pin(std::future::ready(()))
    }
}

pub(crate) struct Factory {
    pub(crate) log: Arc<Log>,
    pub(crate) change: Arc<Change>,
}

impl StreamStageFactory for Factory {
    fn open<'a>(&'a self, info: &'a StreamInfo) -> BoxFuture<'a, Result<Box<dyn StreamStage>, StreamAbort>> {
        let refused = info.command.first().is_some_and(|command| command == "refuse-me");
        let stage = Stage { log: self.log.clone(), change: self.change.clone(), held_back: None };
        Box::pin(std::future::ready(match refused {
            true => Err(StreamAbort::Failed("/var is full".into())),
            false => Ok(Box::new(stage) as Box<dyn StreamStage>),
        }))
    }
}

pub(super) fn pass(frame: StreamFrame, out: &mut Vec<StreamFrame>) -> Result<(), StreamAbort> {
    out.push(frame);
    Ok(())
}

/// Replaces `hunter2` on standard output, as the mask does.
pub(crate) fn mask(mut frame: StreamFrame, out: &mut Vec<StreamFrame>) -> Result<(), StreamAbort> {
    if [Channel::Stdout, Channel::Event].contains(&frame.channel)
        && frame.data.windows(7).any(|window| window == b"hunter2")
    {
        frame.data = String::from_utf8_lossy(&frame.data).replace("hunter2", "[masked]").into();
    }
    pass(frame, out)
}

pub(super) struct Fixture {
    pub(super) client: DuplexStream,
    pub(super) server: DuplexStream,
    pub(super) log: Arc<Log>,
    pub(super) cut: Arc<Notify>,
    pub(super) end: JoinHandle<StreamEnd>,
}

const PIPE: usize = 4096;

pub(super) async fn start(
    protocol: StreamProtocol,
    subprotocol: &str,
    change: impl Fn(StreamFrame, &mut Vec<StreamFrame>) -> Result<(), StreamAbort> + Send + Sync + 'static,
) -> Fixture {
    let (client, gateway_client) = duplex(PIPE);
    let (server, gateway_server) = duplex(PIPE);
    let log = Arc::new(Log::default());
    let cut = Arc::new(Notify::new());
    let info = StreamInfo {
        request: RequestInfo::default(),
        audit_id: None,
        transport: StreamTransport::WebSocket,
        subprotocol: subprotocol.to_owned(),
        command: Vec::new(),
        container: None,
        tty: false,
    };
    let mut extensions = http::Extensions::new();
    StreamPlan::add(&mut extensions, Arc::new(Factory { log: log.clone(), change: Arc::new(change) }));
    let stages = extensions.get::<StreamPlan>().unwrap().open(&info).await.unwrap();
    let agreed = Agreed { protocol, info };
    let notify = cut.clone();
    let liveness = Liveness::new(move || -> BoxFuture<'static, Ended> {
        let notify = notify.clone();
        Box::pin(async move {
            notify.notified().await;
            Ended::Revoked
        })
    });
    let end = tokio::spawn(async move {
        let pipeline = Mutex::new(Pipeline::new(stages));
        let end = relay(gateway_client, gateway_server, &agreed, &pipeline, &liveness).await;
        pipeline.into_inner().close(&end).await;
        end
    });
    Fixture { client, server, log, cut, end }
}

async fn exec(
    subprotocol: &str,
    change: impl Fn(StreamFrame, &mut Vec<StreamFrame>) -> Result<(), StreamAbort> + Send + Sync + 'static,
) -> Fixture {
    start(
        StreamProtocol::websocket(Some(subprotocol), StreamPurpose::RemoteCommand).unwrap(),
        subprotocol,
        change,
    )
    .await
}

/// A WebSocket message to the client (unmasked), or to the server (masked).
pub(crate) fn message(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_frame(true, Opcode::Binary, payload, mask, &mut out);
    out.to_vec()
}

pub(super) const KEY: Option<[u8; 4]> = Some([1, 2, 3, 4]);

/// The payloads of all WebSocket frames that come until the end.
pub(super) async fn messages(
    mut stream: impl tokio::io::AsyncRead + Unpin,
    direction: portcullis_wire::Direction,
) -> Vec<(Opcode, String)> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let mut decoder = WebSocketDecoder::new(direction, WebSocketLimits::default());
    decoder.push(bytes.into());
    let mut messages = Vec::new();
    while let Some(part) = decoder.next_part().unwrap() {
        messages.push((part.header.opcode, String::from_utf8_lossy(&part.payload).into_owned()));
    }
    messages
}

pub(super) async fn exactly(stream: &mut DuplexStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn what_no_stage_changes_passes_byte_for_byte() {
    let Fixture { mut client, mut server, log, end, .. } = exec("v5.channel.k8s.io", pass).await;
    let stdin = message(b"\0echo hi\n", KEY);
    client.write_all(&stdin).await.unwrap();
    assert_eq!(exactly(&mut server, stdin.len()).await, stdin);
    let stdout = message(b"\x01hi\n", None);
    server.write_all(&stdout).await.unwrap();
    assert_eq!(exactly(&mut client, stdout.len()).await, stdout);
    let ping = b"\x89\x02hi".to_vec();
    server.write_all(&ping).await.unwrap();
    assert_eq!(exactly(&mut client, ping.len()).await, ping);
    drop((client, server));
    assert_eq!(end.await.unwrap(), StreamEnd::Closed);
    assert_eq!((log.text(Channel::Stdin), log.text(Channel::Stdout)), ("echo hi\n".into(), "hi\n".into()));
    assert_eq!(log.end().await, StreamEnd::Closed);
}

#[tokio::test]
async fn what_a_stage_changes_is_written_anew() {
    for subprotocol in ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"] {
        let Fixture { client, mut server, .. } = exec(subprotocol, mask).await;
        server.write_all(&message(b"\x01password=hunter2\n", None)).await.unwrap();
        server.write_all(&message(b"\x02hunter2 on stderr\n", None)).await.unwrap();
        drop(server);
        let seen = messages(client, portcullis_wire::Direction::ServerToClient).await;
        let expected = ["\x01password=[masked]\n", "\x02hunter2 on stderr\n"]
            .map(|text| (Opcode::Binary, text.to_owned()));
        assert_eq!(seen, expected, "{subprotocol}");
    }
    // base64, in text messages
    let Fixture { mut client, mut server, .. } = exec("v4.base64.channel.k8s.io", mask).await;
    let mut wire = BytesMut::new();
    encode_frame(true, Opcode::Text, b"1aHVudGVyMg==", None, &mut wire);
    server.write_all(&wire).await.unwrap();
    drop(server);
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(&bytes[2..], b"1W21hc2tlZF0=");
}

#[tokio::test]
async fn a_stage_may_drop_split_and_add() {
    let change = |frame: StreamFrame, out: &mut Vec<StreamFrame>| {
        let with = |channel, data: &'static str| StreamFrame {
            channel,
            data: Bytes::from_static(data.as_bytes()),
            ..frame.clone()
        };
        match &frame.data[..] {
            b"drop" => {}
            b"split" => out.extend([
                with(Channel::Stdout, "a"),
                with(Channel::Stderr, "!"),
                with(Channel::Stdout, "b"),
            ]),
            _ => out.push(frame),
        }
        Ok(())
    };
    let Fixture { client, mut server, .. } = exec("v4.channel.k8s.io", change).await;
    for payload in ["\x01drop", "\x01split", "\x01end"] {
        server.write_all(&message(payload.as_bytes(), None)).await.unwrap();
    }
    drop(server);
    let seen = messages(client, portcullis_wire::Direction::ServerToClient).await;
    let texts: Vec<_> = seen.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["\x01a", "\x02!", "\x01b", "\x01end"]);
}

#[tokio::test]
async fn what_a_stage_held_back_comes_before_the_end() {
    let Fixture { client, mut server, .. } = exec("v4.channel.k8s.io", pass).await;
    server.write_all(&message(b"\x01hold this back", None)).await.unwrap();
    let mut close = BytesMut::new();
    encode_frame(true, Opcode::Close, &1000u16.to_be_bytes(), None, &mut close);
    server.write_all(&close).await.unwrap();
    drop(server);
    let seen = messages(client, portcullis_wire::Direction::ServerToClient).await;
    assert_eq!(seen[0], (Opcode::Binary, "\x01hold this back".into()));
    assert_eq!(seen[1].0, Opcode::Close);
}

#[tokio::test]
async fn a_half_close_leaves_the_other_half_open() {
    let Fixture { mut client, mut server, log, .. } = exec("v5.channel.k8s.io", pass).await;
    let close_stdin = message(b"\xff\0", KEY);
    client.write_all(&close_stdin).await.unwrap();
    assert_eq!(exactly(&mut server, close_stdin.len()).await, close_stdin);
    assert!(log.frames.lock().unwrap()[0].fin);
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
    let answer = message(b"\x01still here", None);
    server.write_all(&answer).await.unwrap();
    assert_eq!(exactly(&mut client, answer.len()).await, answer);
}

#[tokio::test(start_paused = true)]
async fn a_cut_says_why_and_lets_nothing_more_through() {
    let Fixture { client, mut server, log, cut, end } = exec("v5.channel.k8s.io", pass).await;
    server.write_all(&message(b"\x01before", None)).await.unwrap();
    while log.text(Channel::Stdout).is_empty() {
        tokio::task::yield_now().await;
    }
    cut.notify_waiters();
    let seen = messages(client, portcullis_wire::Direction::ServerToClient).await;
    assert_eq!(end.await.unwrap(), StreamEnd::Cut(Ended::Revoked));
    assert_eq!(log.end().await, StreamEnd::Cut(Ended::Revoked));
    assert_eq!(seen[0].1, "\x01before");
    let status: serde_json::Value = serde_json::from_str(&seen[1].1[1..]).unwrap();
    assert_eq!(
        (status["status"].as_str(), status["reason"].as_str()),
        (Some("Failure"), Some("Unauthorized"))
    );
    assert_eq!(seen[2].0, Opcode::Close);
    assert!(seen[2].1.ends_with("the grant was revoked"), "{seen:?}");
    let told = messages(&mut server, portcullis_wire::Direction::ClientToServer).await;
    assert_eq!(told[0].0, Opcode::Close);
    assert!(server.write_all(b"\x82\x02\x01x").await.is_err(), "nobody listens any longer");
}

#[tokio::test(start_paused = true)]
async fn a_cut_does_not_wait_for_a_client_that_does_not_read() {
    let Fixture { client, mut server, cut, end, .. } = exec("v4.channel.k8s.io", pass).await;
    let flood =
        tokio::spawn(async move { while server.write_all(&message(&[1; 1000], None)).await.is_ok() {} });
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    cut.notify_waiters();
    assert_eq!(end.await.unwrap(), StreamEnd::Cut(Ended::Revoked));
    flood.await.unwrap();
    drop(client);
}

#[tokio::test]
async fn a_stage_that_refuses_ends_the_stream_and_its_frame_is_not_sent() {
    let change = |frame: StreamFrame, out: &mut Vec<StreamFrame>| match frame.data == "secret" {
        true => Err(StreamAbort::Failed("/var is full".into())),
        false => pass(frame, out),
    };
    let Fixture { client, mut server, log, end, .. } = exec("v4.channel.k8s.io", change).await;
    server.write_all(&message(b"\x01fine", None)).await.unwrap();
    server.write_all(&message(b"\x01secret", None)).await.unwrap();
    let seen = messages(client, portcullis_wire::Direction::ServerToClient).await;
    assert_eq!(end.await.unwrap(), StreamEnd::Aborted(StreamAbort::Failed("/var is full".into())));
    assert_eq!(log.end().await, StreamEnd::Aborted(StreamAbort::Failed("/var is full".into())));
    assert_eq!(seen[0].1, "\x01fine");
    assert!(seen[1].1.starts_with("\x03{") && seen[1].1.contains("InternalError"));
    assert!(seen.iter().all(|(_, text)| !text.contains("secret") && !text.contains("/var")), "{seen:?}");
}

#[tokio::test]
async fn what_cannot_be_decoded_ends_the_stream() {
    for garbage in [&b"\x82\x02\x09x"[..], b"\xf2\x02\x01x", b"HTTP/1.1 500\r\n\r\n"] {
        let Fixture { client, mut server, end, .. } = exec("v4.channel.k8s.io", pass).await;
        server.write_all(garbage).await.unwrap();
        let seen = messages(client, portcullis_wire::Direction::ServerToClient).await;
        assert!(matches!(end.await.unwrap(), StreamEnd::Aborted(_)), "{garbage:?}");
        assert_eq!(seen.last().unwrap().0, Opcode::Close);
    }
    // From a client too: an unmasked frame, which servers may or may not accept.
    let Fixture { mut client, mut server, end, .. } = exec("v4.channel.k8s.io", pass).await;
    client.write_all(&message(b"\0rm -rf /", None)).await.unwrap();
    assert!(matches!(end.await.unwrap(), StreamEnd::Aborted(_)));
    let told = messages(&mut server, portcullis_wire::Direction::ClientToServer).await;
    assert!(told.iter().all(|(opcode, _)| *opcode == Opcode::Close), "{told:?}");
}

#[tokio::test]
async fn a_side_that_goes_away_is_named() {
    let Fixture { client, mut server, end, .. } = exec("v4.channel.k8s.io", pass).await;
    drop(client);
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
    server.write_all(&message(b"\x01to nobody", None)).await.unwrap();
    assert_eq!(end.await.unwrap(), StreamEnd::Disconnected(Direction::ToServer));

    let Fixture { client, mut server, end, .. } = exec("v4.channel.k8s.io", pass).await;
    server.write_all(b"\x82\x05\x01ab").await.unwrap();
    drop(server);
    assert_eq!(end.await.unwrap(), StreamEnd::Disconnected(Direction::ToClient));
    drop(client);
}

/// What the relay holds is bounded, however much the server has to say to a client that never reads.
#[tokio::test(start_paused = true)]
async fn back_pressure_reaches_the_server() {
    let Fixture { client, mut server, .. } = exec("v4.channel.k8s.io", mask).await;
    let sent = Arc::new(StdMutex::new(0usize));
    let counter = sent.clone();
    let flood = async move {
        let frame = message(&[1; 1024], None);
        loop {
            server.write_all(&frame).await.unwrap();
            *counter.lock().unwrap() += frame.len();
        }
    };
    // The clock is paused: this time passes only once nothing can move any more.
    tokio::time::timeout(Duration::from_secs(1), flood).await.unwrap_err();
    let sent = *sent.lock().unwrap();
    assert!(sent < 2 * PIPE + 3 * 64 * 1024, "{sent} bytes are under way");
    drop(client);
}

fn spdy(frames: &[SpdyFrame]) -> Vec<u8> {
    let mut encoder = SpdyEncoder::new().unwrap();
    let mut out = BytesMut::new();
    for frame in frames {
        encoder.encode(frame, &mut out).unwrap();
    }
    out.to_vec()
}

fn open(stream_id: u32, headers: &[(&str, &str)]) -> SpdyFrame {
    let headers = HeaderBlock::new(headers.iter().copied()).unwrap();
    SpdyFrame::SynStream {
        stream_id,
        associated_to: 0,
        priority: 0,
        fin: false,
        unidirectional: false,
        headers,
    }
}

fn data(stream_id: u32, payload: &'static str, fin: bool) -> SpdyFrame {
    let length = payload.len().try_into().unwrap();
    SpdyFrame::Data { stream_id, fin, offset: 0, length, payload: Bytes::from_static(payload.as_bytes()) }
}

async fn frames(mut stream: DuplexStream) -> Vec<SpdyFrame> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let mut decoder = SpdyDecoder::new(SpdyLimits::default());
    decoder.push(bytes.into());
    std::iter::from_fn(|| decoder.next_part().unwrap()).map(|part| part.frame).collect()
}

#[tokio::test]
async fn spdy_streams_are_masked_and_half_closed() {
    let protocol = StreamProtocol::spdy(Some("v4.channel.k8s.io"), &StreamPurpose::RemoteCommand).unwrap();
    let Fixture { mut client, mut server, log, .. } = start(protocol, "v4.channel.k8s.io", mask).await;
    let opening = spdy(&[
        open(1, &[("streamtype", "error")]),
        open(3, &[("streamtype", "stdin")]),
        open(5, &[("streamtype", "stdout")]),
        data(3, "id\n", true),
    ]);
    client.write_all(&opening).await.unwrap();
    assert_eq!(exactly(&mut server, opening.len()).await, opening);
    server.write_all(&spdy(&[data(5, "hunter2", false), data(5, "", true)])).await.unwrap();
    drop(server);
    let seen = frames(client).await;
    assert_eq!(seen, [data(5, "[masked]", false), data(5, "", true)]);
    assert_eq!((log.text(Channel::Stdin), log.text(Channel::Stdout)), ("id\n".into(), "hunter2".into()));
}

#[tokio::test(start_paused = true)]
async fn a_cut_over_spdy_is_told_on_the_error_stream() {
    let protocol = StreamProtocol::spdy(Some("v4.channel.k8s.io"), &StreamPurpose::RemoteCommand).unwrap();
    let Fixture { mut client, mut server, cut, end, .. } = start(protocol, "v4.channel.k8s.io", pass).await;
    let opening = spdy(&[open(1, &[("streamtype", "error")])]);
    client.write_all(&opening).await.unwrap();
    exactly(&mut server, opening.len()).await;
    cut.notify_waiters();
    let seen = frames(client).await;
    assert_eq!(end.await.unwrap(), StreamEnd::Cut(Ended::Revoked));
    let SpdyFrame::Data { stream_id: 1, payload, .. } = &seen[0] else { panic!("{seen:?}") };
    assert!(String::from_utf8_lossy(payload).contains("the grant was revoked"));
    assert!(matches!(seen[1], SpdyFrame::GoAway { .. }));
}

#[tokio::test]
async fn forwarded_connections_are_told_apart() {
    let purpose = || StreamPurpose::PortForward(vec![80, 443]);
    let protocol = StreamProtocol::spdy(Some("portforward.k8s.io"), &purpose()).unwrap();
    let Fixture { mut client, mut server, log, .. } = start(protocol, "portforward.k8s.io", pass).await;
    let stream = |kind, id| [("streamtype", kind), ("port", "80"), ("requestid", id)];
    let opening =
        spdy(&[open(1, &stream("error", "7")), open(3, &stream("data", "7")), data(3, "GET /", true)]);
    client.write_all(&opening).await.unwrap();
    assert_eq!(exactly(&mut server, opening.len()).await, opening);
    assert_eq!(log.text(Channel::PortData { port: 80, id: 7 }), "GET /");

    let protocol = StreamProtocol::websocket(Some("v4.channel.k8s.io"), purpose()).unwrap();
    let Fixture { mut client, mut server, log, .. } = start(protocol, "v4.channel.k8s.io", pass).await;
    let ports = [message(b"\x02\xbb\x01", None), message(b"\x03\xbb\x01", None), message(b"\x02hello", None)]
        .concat();
    server.write_all(&ports).await.unwrap();
    assert_eq!(exactly(&mut client, ports.len()).await, ports);
    assert_eq!(log.text(Channel::PortData { port: 443, id: 1 }), "hello");

    let protocol = StreamProtocol::websocket(Some("SPDY/3.1+portforward.k8s.io"), purpose()).unwrap();
    let Fixture { mut client, mut server, log, .. } =
        start(protocol, "SPDY/3.1+portforward.k8s.io", pass).await;
    let tunnelled = message(&opening, KEY);
    client.write_all(&tunnelled).await.unwrap();
    let mut relayed = vec![0; 64];
    let read = server.read(&mut relayed).await.unwrap();
    assert!(read > 0);
    while log.text(Channel::PortData { port: 80, id: 7 }) != "GET /" {
        tokio::task::yield_now().await;
    }
}
