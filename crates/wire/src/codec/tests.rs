use super::*;
use crate::error::WireErrorKind;
use crate::websocket::encode_frame;
use bytes::BytesMut;
use proptest::prelude::*;

fn channels(name: &str, handling: Handling) -> (StreamCodec, StreamCodec) {
    of(&StreamProtocol::websocket(Some(name), StreamPurpose::RemoteCommand).expect("known"), handling)
}

fn of(protocol: &StreamProtocol, handling: Handling) -> (StreamCodec, StreamCodec) {
    StreamCodec::pair(protocol, handling, StreamLimits::default(), MaskingKeys::new(|| [9, 8, 7, 6]))
}

fn frame(fin: bool, opcode: Opcode, payload: &[u8], masked: bool) -> Bytes {
    let mut wire = BytesMut::new();
    encode_frame(fin, opcode, payload, masked.then_some([1, 2, 3, 4]), &mut wire);
    wire.freeze()
}

fn units(codec: &mut StreamCodec, wire: &[u8]) -> Result<Vec<Unit>, WireError> {
    codec.push(Bytes::copy_from_slice(wire));
    let mut units = Vec::new();
    while let Some(unit) = codec.next_unit()? {
        units.push(unit);
    }
    Ok(units)
}

/// One word for each event: what a recorder would note.
fn words(units: &[Unit]) -> Vec<String> {
    let word = |unit: &Unit| match unit.event() {
        Event::Data { stream, data, fin, .. } => {
            format!("{:?} {}{}", stream.kind, data.escape_ascii(), if *fin { " fin" } else { "" })
        }
        Event::Opened(stream) => format!("opened {:?}", stream.kind),
        Event::Close { code } => format!("close {code:?}"),
        Event::Control => "control".to_owned(),
        Event::Reset { status, .. } => format!("reset {status}"),
    };
    units.iter().map(word).collect()
}

#[track_caller]
fn check_from_client(name: &str, payload: &[u8], expected: &str) {
    let (mut codec, _) = channels(name, Handling::Observe);
    let units = units(&mut codec, &frame(true, Opcode::Binary, payload, true)).expect("valid");
    assert_eq!(words(&units), [expected]);
}

#[track_caller]
fn check_from_server(name: &str, payload: &[u8], expected: &str) {
    let (_, mut codec) = channels(name, Handling::Observe);
    let units = units(&mut codec, &frame(true, Opcode::Binary, payload, false)).expect("valid");
    assert_eq!(words(&units), [expected]);
}

#[track_caller]
fn refuses(codec: &mut StreamCodec, wire: &[u8], kind: WireErrorKind, says: &str) {
    let error = units(codec, wire).expect_err("must be refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(says), "{error}");
    assert_eq!(codec.next_unit().expect_err("for good"), error);
}

#[test]
fn channels_of_a_command() {
    check_from_client("v5.channel.k8s.io", b"\0ls\n", "Stdin ls\\n");
    check_from_client("v5.channel.k8s.io", b"\x04{}", "Resize {}");
    check_from_client("v5.channel.k8s.io", b"\xff\0", "Stdin  fin");
    check_from_client("v4.channel.k8s.io", b"\xff\0", "control");
    check_from_client("v4.channel.k8s.io", b"", "control");
    check_from_client("base64.channel.k8s.io", b"0bHMK", "Stdin ls\\n");
    check_from_client("v4.base64.channel.k8s.io", b"0", "Stdin ");
    check_from_server("channel.k8s.io", b"\x01", "Stdout ");
    check_from_server("v4.channel.k8s.io", b"\x02no", "Stderr no");
    check_from_server("v4.channel.k8s.io", b"\x03{}", "Error {}");
    check_from_server("v4.base64.channel.k8s.io", b"1aGk=", "Stdout hi");
}

#[test]
fn refused_channels() {
    use WireErrorKind::{Ambiguous, Protocol};
    let client = |name: &str, payload: &[u8], says: &str| {
        let wire = frame(true, Opcode::Binary, payload, true);
        refuses(&mut channels(name, Handling::Rewrite).0, &wire, Protocol, says);
    };
    client("v5.channel.k8s.io", b"\x05a", "not defined (5)");
    client("v5.channel.k8s.io", b"\x01a", "other direction (1)");
    client("v5.channel.k8s.io", b"\xff", "CLOSE");
    client("v5.channel.k8s.io", b"\xff\0\0", "CLOSE");
    client("v5.channel.k8s.io", b"\xff\x09", "not defined (9)");
    client("base64.channel.k8s.io", b"\0bHMK", "not defined");
    client("base64.channel.k8s.io", b"0bHM", "base64");
    client("base64.channel.k8s.io", b"0bH\nMK", "base64");
    let server = frame(true, Opcode::Binary, b"\0a", false);
    refuses(&mut channels("v5.channel.k8s.io", Handling::Observe).1, &server, Protocol, "other direction");

    // golang.org/x/net/websocket would take the `0` for the channel of a message of its own.
    let hidden =
        [frame(false, Opcode::Binary, b"\x04{}", true), frame(true, Opcode::Continuation, b"\0rm", true)]
            .concat();
    let mut codec = channels("v5.channel.k8s.io", Handling::Observe).0;
    refuses(&mut codec, &hidden, Ambiguous, "fragmented");
}

#[test]
fn port_forward_announces_its_ports() {
    let protocol =
        StreamProtocol::websocket(Some("v4.channel.k8s.io"), StreamPurpose::PortForward(vec![80, 8443]))
            .expect("known");
    let (mut to_server, mut to_client) = of(&protocol, Handling::Observe);
    let wire: Vec<u8> =
        [&b"\x00\x50\x00"[..], b"\x01\x50\x00", b"\x02\xfb\x20", b"\x03\xfb\x20", b"\x02hi", b"\x03no"]
            .iter()
            .flat_map(|payload| frame(true, Opcode::Binary, payload, false))
            .collect();
    assert_eq!(
        words(&units(&mut to_client, &wire).expect("valid")),
        [
            "opened ForwardData { port: 80 }",
            "opened ForwardError { port: 80 }",
            "opened ForwardData { port: 8443 }",
            "opened ForwardError { port: 8443 }",
            "ForwardData { port: 8443 } hi",
            "ForwardError { port: 8443 } no",
        ]
    );
    let from_client = units(&mut to_server, &frame(true, Opcode::Binary, b"\x02GET", true)).expect("valid");
    assert_eq!(words(&from_client), ["ForwardData { port: 8443 } GET"]);

    for (payload, says) in [
        (&b"\x00\x51\x00"[..], "port number"),
        (b"\x00\x50", "port number"),
        (b"\x04\x50\x00", "not defined"),
    ] {
        refuses(
            &mut of(&protocol, Handling::Observe).1,
            &frame(true, Opcode::Binary, payload, false),
            WireErrorKind::Protocol,
            says,
        );
    }
}

#[test]
fn combinations_that_do_not_exist() {
    let of = |name, purpose| StreamProtocol::websocket(name, purpose);
    assert_eq!(of(Some("soap"), StreamPurpose::RemoteCommand), None);
    assert_eq!(of(Some("binary.k8s.io"), StreamPurpose::RemoteCommand), None);
    assert_eq!(of(Some("v5.channel.k8s.io"), StreamPurpose::Messages), None);
    assert!(of(None, StreamPurpose::RemoteCommand).is_some());
    assert_eq!(of(None, StreamPurpose::Messages), Some(StreamProtocol::Messages { base64: false }));
    for name in [None, Some("binary.k8s.io"), Some("base64.binary.k8s.io")] {
        assert_eq!(of(name, StreamPurpose::Watch), Some(StreamProtocol::Messages { base64: false }));
    }
    assert_eq!(of(Some("v4.channel.k8s.io"), StreamPurpose::Watch), None);
}

#[test]
fn control_frames_pass_and_closing_is_seen() {
    let (mut codec, _) = channels("v5.channel.k8s.io", Handling::Rewrite);
    let wire = [
        frame(true, Opcode::Ping, b"x", true),
        frame(true, Opcode::Pong, b"", true),
        frame(true, Opcode::Close, b"\x03\xe8bye", true),
    ]
    .concat();
    let units = units(&mut codec, &wire).expect("valid");
    assert_eq!(words(&units), ["control", "control", "close Some(1000)"]);
    let mut out = Vec::new();
    for unit in units {
        codec.forward(unit, &mut out).expect("forwarded");
    }
    assert_eq!(out.concat(), wire);
    assert!(codec.finish().is_ok());
}

#[test]
fn replacing_injecting_and_closing() {
    let (mut to_server, mut to_client) = channels("v5.channel.k8s.io", Handling::Rewrite);
    let mut out = Vec::new();
    for unit in units(&mut to_client, &frame(true, Opcode::Binary, b"\x01secret", false)).expect("valid") {
        to_client.replace(unit, Bytes::from_static(b"***"), &mut out).expect("replaced");
    }
    let error = to_client.stream(StreamKind::Error).expect("a channel");
    to_client.inject(&error, Bytes::from_static(b"{}"), false, &mut out).expect("injected");
    to_client.close(1008, "grant revoked", &mut out).expect("closed");
    assert_eq!(out.concat(), b"\x82\x04\x01***\x82\x03\x03{}\x88\x0f\x03\xf0grant revoked");

    out.clear();
    let stdin = to_server.stream(StreamKind::Stdin).expect("a channel");
    to_server.inject(&stdin, Bytes::from_static(b"x"), true, &mut out).expect("injected");
    assert_eq!(out.concat(), b"\x82\x82\x09\x08\x07\x06\x09\x70\x82\x82\x09\x08\x07\x06\xf6\x08");

    let (mut v4, _) = channels("v4.channel.k8s.io", Handling::Rewrite);
    assert_eq!(
        v4.inject(&stdin, Bytes::new(), true, &mut out).expect_err("no CLOSE").kind(),
        WireErrorKind::State
    );
    let (_, mut observer) = channels("v5.channel.k8s.io", Handling::Observe);
    let unit = units(&mut observer, &frame(true, Opcode::Binary, b"\x01a", false)).expect("valid").remove(0);
    assert_eq!(
        observer.replace(unit, Bytes::new(), &mut out).expect_err("observes").kind(),
        WireErrorKind::State
    );
}

#[test]
fn nothing_can_be_put_into_a_frame_that_is_under_way() {
    let large = frame(true, Opcode::Binary, &[1; 100_000], false);
    let (_, mut codec) = channels("v5.channel.k8s.io", Handling::Observe);
    let mut out = Vec::new();
    for unit in units(&mut codec, &large[..70_000]).expect("valid") {
        codec.forward(unit, &mut out).expect("forwarded");
    }
    assert_eq!(codec.close(1008, "cut", &mut out).expect_err("mid-frame").kind(), WireErrorKind::State);
    for unit in units(&mut codec, &large[70_000..]).expect("valid") {
        codec.forward(unit, &mut out).expect("forwarded");
    }
    assert_eq!(out.concat(), large);
    codec.close(1008, "cut", &mut out).expect("at a boundary");
}

const TO_SERVER: &[u8] = include_bytes!("../../testdata/spdystream-exec-to-server.bin");
const TO_CLIENT: &[u8] = include_bytes!("../../testdata/spdystream-exec-to-client.bin");

#[test]
fn spdy_is_rewritten_frame_by_frame() {
    let protocol =
        StreamProtocol::spdy(Some("v4.channel.k8s.io"), &StreamPurpose::RemoteCommand).expect("known");
    let (mut to_server, mut to_client) = of(&protocol, Handling::Rewrite);
    let mut out = Vec::new();
    for unit in units(&mut to_server, TO_SERVER).expect("valid") {
        to_server.forward(unit, &mut out).expect("forwarded");
    }
    assert_eq!(out.concat(), TO_SERVER);

    // Only stdout is changed; the status on the error stream is followed by one of ours, which ends it.
    let error = to_client.stream(StreamKind::Error).expect("open");
    out.clear();
    for unit in units(&mut to_client, &TO_CLIENT[..462]).expect("valid") {
        match unit.event() {
            Event::Data { stream, .. } if stream.kind == StreamKind::Stdout => {
                to_client.replace(unit, Bytes::from_static(b"***"), &mut out).expect("replaced");
            }
            _ => to_client.forward(unit, &mut out).expect("forwarded"),
        }
    }
    to_client.inject(&error, Bytes::from_static(b"{}"), true, &mut out).expect("injected");
    to_client.close(1008, "", &mut out).expect("closed");
    assert_eq!(to_client.stream(StreamKind::Error), None, "ended");
    let wire = out.concat();
    let (head, tail) = wire.split_at(wire.len() - 37);
    assert!(TO_CLIENT.starts_with(head));
    assert_eq!(
        tail,
        b"\0\0\0\x05\0\0\0\x03***\0\0\0\x01\x01\0\0\x02{}\x80\x03\0\x07\0\0\0\x08\0\0\0\x09\0\0\0\x02"
    );
}

#[test]
fn spdy_versions() {
    let of = |version, purpose| StreamProtocol::spdy(version, &purpose);
    let forward = StreamPurpose::PortForward(Vec::new());
    assert_eq!(of(None, StreamPurpose::RemoteCommand), Some(StreamProtocol::Spdy(SpdyLayout::RemoteCommand)));
    assert_eq!(
        of(Some("portforward.k8s.io"), forward.clone()),
        Some(StreamProtocol::Spdy(SpdyLayout::PortForward))
    );
    assert_eq!(of(Some("v4.channel.k8s.io"), forward.clone()), None);
    assert_eq!(of(Some("portforward.k8s.io"), StreamPurpose::RemoteCommand), None);
    assert_eq!(of(Some("v5.channel.k8s.io"), StreamPurpose::RemoteCommand), None);
    assert_eq!(of(Some("v4.channel.k8s.io"), StreamPurpose::Messages), None);
    let tunnel = StreamProtocol::websocket(Some("SPDY/3.1+portforward.k8s.io"), forward);
    assert_eq!(tunnel, Some(StreamProtocol::SpdyTunnel(SpdyLayout::PortForward)));
    assert_eq!(
        StreamProtocol::websocket(Some("SPDY/3.1+portforward.k8s.io"), StreamPurpose::RemoteCommand),
        None
    );
}

#[test]
fn a_tunnel_takes_binary_messages_only() {
    let protocol = StreamProtocol::SpdyTunnel(SpdyLayout::PortForward);
    let text = frame(true, Opcode::Text, b"a", true);
    refuses(&mut of(&protocol, Handling::Observe).0, &text, WireErrorKind::Protocol, "text message");
    let inside = frame(true, Opcode::Binary, b"\0\0\0\0\0\0\0\0", true);
    refuses(&mut of(&protocol, Handling::Observe).0, &inside, WireErrorKind::Protocol, "stream 0");
}

/// What arrives on each stream, in order, and where messages end.
fn contents(codec: &mut StreamCodec, chunks: &[Bytes], messages: bool) -> Vec<(u32, Vec<u8>)> {
    let mut all: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut over = true;
    for unit in chunks.iter().flat_map(|chunk| units(codec, chunk).expect("valid")) {
        if let Event::Data { stream, data, end_of_message, .. } = unit.event() {
            match all.last_mut() {
                Some((id, bytes)) if *id == stream.id && !(messages && over) => bytes.extend_from_slice(data),
                _ if data.is_empty() && !messages => {}
                _ => all.push((stream.id, data.to_vec())),
            }
            over = *end_of_message;
        }
    }
    all
}

fn chunked(wire: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let (mut chunks, mut rest) = (Vec::new(), wire);
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
        chunks.push(Bytes::copy_from_slice(chunk));
        rest = tail;
    }
    chunks
}

fn small() -> StreamLimits {
    StreamLimits {
        websocket: WebSocketLimits { whole_frame: 0, max_message: 10_000 },
        spdy: SpdyLimits { whole_frame: 0, ..SpdyLimits::default() },
    }
}

proptest! {
    /// Whatever the chunks, a relay passes the same bytes on; and when it writes everything anew, the other
    /// end still sees the same streams.
    #[test]
    fn channels_survive_any_chunks(
        messages in prop::collection::vec((1u8..4, prop::collection::vec(any::<u8>(), 0..400), any::<bool>()), 1..6),
        cuts in prop::collection::vec(1usize..200, 1..10), base64: bool, rewrite: bool,
    ) {
        use base64::Engine as _;
        let name = if base64 { "v4.base64.channel.k8s.io" } else { "v5.channel.k8s.io" };
        let protocol = StreamProtocol::websocket(Some(name), StreamPurpose::RemoteCommand).expect("known");
        let mut wire = Vec::new();
        for (channel, data, fragmented) in &messages {
            let payload = if base64 {
                [vec![b'0' + channel], base64::engine::general_purpose::STANDARD.encode(data).into_bytes()].concat()
            } else {
                [vec![*channel], data.clone()].concat()
            };
            if *fragmented {
                let (head, tail) = payload.split_at(payload.len() / 2);
                wire.extend_from_slice(&frame(false, Opcode::Binary, head, false));
                wire.extend_from_slice(&frame(true, Opcode::Ping, b"", false));
                wire.extend_from_slice(&frame(true, Opcode::Continuation, tail, false));
            } else {
                wire.extend_from_slice(&frame(true, Opcode::Binary, &payload, false));
            }
        }
        let chunks = chunked(&wire, &cuts);
        let codec = |handling| StreamCodec::pair(&protocol, handling, small(), MaskingKeys::new(|| [0; 4])).1;
        let handling = if rewrite { Handling::Rewrite } else { Handling::Observe };
        let mut relay = codec(handling);
        let mut out = Vec::new();
        for chunk in &chunks {
            for unit in units(&mut relay, chunk).expect("valid") {
                relay.forward(unit, &mut out).expect("forwarded");
            }
        }
        relay.finish().expect("whole");
        if !rewrite { prop_assert_eq!(&out.concat()[..], &wire[..]); }
        let whole = [Bytes::from(wire)];
        let expected = contents(&mut codec(Handling::Observe), &whole, false);
        prop_assert_eq!(contents(&mut codec(Handling::Observe), &[out.concat().into()], false), expected.clone());
        prop_assert_eq!(contents(&mut codec(Handling::Observe), &chunks, false), expected);
    }

    #[test]
    fn messages_keep_their_boundaries(
        messages in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..400), any::<bool>()), 1..6),
        cuts in prop::collection::vec(1usize..200, 1..10), replace: bool,
    ) {
        let protocol = StreamProtocol::Messages { base64: false };
        let wire: Vec<u8> = messages.iter().flat_map(|(data, text)| {
            frame(true, if *text { Opcode::Text } else { Opcode::Binary }, data, false)
        }).collect();
        let codec = || StreamCodec::pair(&protocol, Handling::Rewrite, small(), MaskingKeys::new(|| [0; 4])).1;
        let mut relay = codec();
        let mut out = Vec::new();
        for chunk in chunked(&wire, &cuts) {
            for unit in units(&mut relay, &chunk).expect("valid") {
                match unit.event().data().cloned() {
                    Some(data) if replace => relay.replace(unit, data, &mut out).expect("replaced"),
                    _ => relay.forward(unit, &mut out).expect("forwarded"),
                }
            }
        }
        let expected: Vec<_> = messages.into_iter().map(|(data, _)| (0, data)).collect();
        prop_assert_eq!(contents(&mut codec(), &[out.concat().into()], true), expected);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), client: bool, which in 0usize..4) {
        let protocol = [
            StreamProtocol::websocket(Some("v5.channel.k8s.io"), StreamPurpose::RemoteCommand),
            StreamProtocol::websocket(Some("v4.base64.channel.k8s.io"), StreamPurpose::PortForward(vec![80])),
            StreamProtocol::websocket(None, StreamPurpose::Messages),
            StreamProtocol::websocket(Some("base64.binary.k8s.io"), StreamPurpose::Messages),
        ][which].clone().expect("known");
        let (to_server, to_client) = StreamCodec::pair(&protocol, Handling::Rewrite, small(), MaskingKeys::new(|| [0; 4]));
        let mut codec = if client { to_server } else { to_client };
        let mut out = Vec::new();
        for chunk in bytes.chunks(7) {
            let Ok(units) = units(&mut codec, chunk) else { break };
            for unit in units { let _ = codec.forward(unit, &mut out); }
        }
    }

    /// SPDY in messages of any size, in fragments of any size, in chunks of any size comes out as the same
    /// SPDY.
    #[test]
    fn a_tunnel_survives_any_cut(
        messages in prop::collection::vec(1usize..60, 1..8), cuts in prop::collection::vec(1usize..90, 1..8),
        fragment: bool, rewrite: bool,
    ) {
        let protocol = StreamProtocol::SpdyTunnel(SpdyLayout::RemoteCommand);
        let handling = if rewrite { Handling::Rewrite } else { Handling::Observe };
        let limits = StreamLimits { spdy: SpdyLimits { whole_frame: 20, ..SpdyLimits::default() }, ..StreamLimits::default() };
        let (mut to_server, mut to_client) = StreamCodec::pair(&protocol, handling, limits, MaskingKeys::new(|| [3, 1, 4, 1]));
        let mut passed = Vec::new();
        for (codec, spdy, masked) in [(&mut to_server, TO_SERVER, true), (&mut to_client, TO_CLIENT, false)] {
            let mut wire = Vec::new();
            for message in chunked(spdy, &messages) {
                let (head, tail) = message.split_at(if fragment { message.len() / 2 } else { 0 });
                if fragment {
                    wire.extend_from_slice(&frame(false, Opcode::Binary, head, masked));
                    wire.extend_from_slice(&frame(true, Opcode::Ping, b"", masked));
                }
                let opcode = if fragment { Opcode::Continuation } else { Opcode::Binary };
                wire.extend_from_slice(&frame(true, opcode, tail, masked));
            }
            let mut out = Vec::new();
            for chunk in chunked(&wire, &cuts) {
                for unit in units(codec, &chunk).expect("valid") { codec.forward(unit, &mut out).expect("forwarded"); }
            }
            codec.finish().expect("whole");
            let direction = if masked { Direction::ClientToServer } else { Direction::ServerToClient };
            let mut outer = crate::WebSocketDecoder::new(direction, WebSocketLimits::default());
            outer.push(out.concat().into());
            let mut unwrapped = Vec::new();
            while let Some(part) = outer.next_part().expect("valid") {
                if part.message == Opcode::Binary { unwrapped.extend_from_slice(&part.payload); }
            }
            if !rewrite { prop_assert_eq!(&unwrapped[..], spdy); }
            passed.push(Bytes::from(unwrapped));
        }
        // Rewritten, large frames have become several; what the streams carry is the same.
        let read = |wires: [&[u8]; 2]| {
            let (server, client) = of(&StreamProtocol::Spdy(SpdyLayout::RemoteCommand), Handling::Observe);
            [server, client].iter_mut().zip(wires).map(|(codec, wire)| {
                contents(codec, &[Bytes::copy_from_slice(wire)], false)
            }).collect::<Vec<_>>()
        };
        prop_assert_eq!(read([&passed[0], &passed[1]]), read([TO_SERVER, TO_CLIENT]));
    }
}
