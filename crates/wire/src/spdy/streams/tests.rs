use super::super::SpdyEncoder;
use super::*;
use crate::error::WireErrorKind;
use bytes::BytesMut;
use proptest::prelude::*;

const TO_SERVER: &[u8] = include_bytes!("../../../testdata/spdystream-exec-to-server.bin");
const TO_CLIENT: &[u8] = include_bytes!("../../../testdata/spdystream-exec-to-client.bin");

/// Both ends of a connection: what each encodes, and what is decoded of it.
struct Wire {
    encoder: SpdyEncoder,
    to_server: SpdyStreamDecoder,
    to_client: SpdyStreamDecoder,
}

impl Wire {
    fn new(layout: SpdyLayout) -> Self {
        let limits = SpdyLimits { max_streams: 3, ..SpdyLimits::default() };
        let (to_server, to_client) = SpdyStreamDecoder::pair(layout, limits);
        Self { encoder: SpdyEncoder::new().expect("an encoder"), to_server, to_client }
    }

    fn client(&mut self, frame: &SpdyFrame) -> Result<Vec<Unit>, WireError> {
        let mut wire = BytesMut::new();
        self.encoder.encode(frame, &mut wire).expect("encoded");
        units(&mut self.to_server, &[&wire])
    }

    fn server(&mut self, frame: &SpdyFrame) -> Result<Vec<Unit>, WireError> {
        let mut wire = BytesMut::new();
        SpdyEncoder::new().expect("an encoder").encode(frame, &mut wire).expect("encoded");
        units(&mut self.to_client, &[&wire])
    }

    fn open(&mut self, id: u32, kind: &str) {
        self.client(&syn(id, &[("streamtype", kind)])).expect("opened");
    }
}

fn syn(stream_id: u32, headers: &[(&str, &str)]) -> SpdyFrame {
    let headers = HeaderBlock::new(headers.iter().copied()).expect("valid");
    SpdyFrame::SynStream {
        stream_id,
        associated_to: 0,
        priority: 0,
        fin: false,
        unidirectional: false,
        headers,
    }
}

fn data(stream_id: u32, fin: bool, bytes: &'static [u8]) -> SpdyFrame {
    SpdyFrame::Data {
        stream_id,
        fin,
        offset: 0,
        length: bytes.len() as u32,
        payload: Bytes::from_static(bytes),
    }
}

fn units(decoder: &mut SpdyStreamDecoder, chunks: &[&[u8]]) -> Result<Vec<Unit>, WireError> {
    let mut units = Vec::new();
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Some(unit) = decoder.next_unit()? {
            units.push(unit);
        }
    }
    Ok(units)
}

/// One word for each event: what a recorder would note.
fn words(units: &[Unit]) -> Vec<String> {
    let word = |unit: &Unit| match unit.event() {
        Event::Data { stream, data, fin, .. } => {
            let text = if data.len() > 60 {
                format!("{} bytes", data.len())
            } else {
                data.escape_ascii().to_string()
            };
            format!("{:?} {text}{}", stream.kind, if *fin { " fin" } else { "" })
        }
        Event::Opened(stream) => format!("opened {:?}", stream.kind),
        Event::Close { code } => format!("close {code:?}"),
        Event::Control => "control".to_owned(),
        Event::Reset { stream, .. } => format!("reset {:?}", stream.as_ref().map(|stream| stream.kind)),
    };
    units.iter().map(word).collect()
}

#[track_caller]
fn refused(result: Result<Vec<Unit>, WireError>, kind: WireErrorKind, says: &str) {
    let error = result.expect_err("must be refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

#[test]
fn a_real_exec_is_understood() {
    for size in [1, 7, 4096] {
        let (mut to_server, mut to_client) =
            SpdyStreamDecoder::pair(SpdyLayout::RemoteCommand, SpdyLimits::default());
        let client = units(&mut to_server, &TO_SERVER.chunks(size).collect::<Vec<_>>()).expect("valid");
        assert_eq!(
            words(&client),
            [
                "opened Error",
                "Error  fin",
                "opened Stdin",
                "opened Stdout",
                "opened Stderr",
                "opened Resize",
                "Stdout  fin",
                "Stderr  fin",
                "control",
                "Resize {\\\"Width\\\":80,\\\"Height\\\":24}",
                "Stdin echo hello\\n",
                "Stdin  fin",
                "close Some(0)",
            ]
        );
        let server = units(&mut to_client, &TO_CLIENT.chunks(size).collect::<Vec<_>>()).expect("valid");
        assert_eq!(
            words(&server),
            [
                "control",
                "control",
                "control",
                "control",
                "control",
                "control",
                "Stdout 306 bytes",
                "Error {\\\"metadata\\\":{},\\\"status\\\":\\\"Success\\\"}",
                "Error  fin",
                "Stdout  fin",
                "reset Some(Resize)",
            ]
        );
        assert!(to_server.finish().is_ok() && to_client.finish().is_ok());
    }
}

#[test]
fn a_forwarded_connection_has_a_port_and_a_request() {
    let mut wire = Wire::new(SpdyLayout::PortForward);
    let opened = wire
        .client(&syn(1, &[("streamtype", "error"), ("port", "8080"), ("requestid", "7")]))
        .expect("opened")
        .remove(0);
    let Event::Opened(stream) = opened.event() else { panic!("opened") };
    assert_eq!(stream.kind, StreamKind::ForwardError { port: 8080 });
    assert_eq!(stream.request_id.as_deref(), Some("7"));
    wire.client(&syn(3, &[("streamtype", "data"), ("port", "8080"), ("requestid", "7")])).expect("opened");
    let both = [wire.client(&data(3, false, b"GET")), wire.server(&data(3, false, b"200"))];
    assert!(both.iter().all(|units| units.as_ref().is_ok_and(|units| units.len() == 1)));

    for (port, request) in [
        ("0", "1"),
        ("+80", "1"),
        ("65536", "1"),
        ("", "1"),
        ("80\x0081", "1"),
        ("80", "a b"),
        ("80", "\x01"),
    ] {
        let mut wire = Wire::new(SpdyLayout::PortForward);
        let open = syn(1, &[("streamtype", "data"), ("port", port), ("requestid", request)]);
        refused(
            wire.client(&open),
            WireErrorKind::Protocol,
            if request == "1" { "port" } else { "request id" },
        );
    }
}

#[test]
fn refused_streams() {
    use WireErrorKind::{Ambiguous, Limit, Protocol};
    let wire = || Wire::new(SpdyLayout::RemoteCommand);
    refused(wire().client(&syn(1, &[("streamtype", "data")])), Protocol, "type is not defined");
    refused(wire().client(&syn(1, &[("streamtype", "stdin\0stdout")])), Protocol, "type is not defined");
    refused(wire().client(&syn(1, &[])), Protocol, "type is not defined");
    refused(wire().client(&syn(2, &[("streamtype", "stdin")])), Protocol, "even");
    refused(wire().server(&syn(2, &[("streamtype", "stdin")])), Protocol, "by the server");
    refused(wire().client(&data(1, false, b"a")), Protocol, "never opened");
    refused(wire().server(&data(2, false, b"a")), Protocol, "never opened");
    let reply = |fin| SpdyFrame::SynReply { stream_id: 1, fin, headers: HeaderBlock::default() };
    refused(wire().client(&reply(false)), Protocol, "from a client");
    refused(wire().server(&reply(true)), Ambiguous, "half-close");

    let mut twice = wire();
    twice.open(3, "stdin");
    refused(twice.client(&syn(3, &[("streamtype", "stdout")])), Protocol, "not higher");

    let mut across = wire();
    across.open(1, "stdin");
    refused(across.server(&data(1, false, b"a")), Protocol, "other direction");

    let mut many = wire();
    many.open(1, "stdin");
    many.open(3, "stdout");
    many.open(5, "stderr");
    refused(many.client(&syn(7, &[("streamtype", "error")])), Limit, "more open streams");
}

#[test]
fn data_on_a_stream_that_has_ended_is_dropped() {
    let mut wire = Wire::new(SpdyLayout::RemoteCommand);
    wire.open(1, "stdin");
    assert_eq!(words(&wire.client(&data(1, true, b"a")).expect("half-closed")), ["Stdin a fin"]);
    assert!(wire.client(&data(1, false, b"late")).expect("dropped").is_empty());
    assert!(wire.client(&data(1, true, b"")).expect("dropped").is_empty());
    assert!(wire.to_server.stream(StreamKind::Stdin).is_none());
}

#[test]
fn data_that_crosses_a_reset_is_dropped() {
    let mut wire = Wire::new(SpdyLayout::RemoteCommand);
    wire.open(1, "stdin");
    let reset = wire.server(&SpdyFrame::RstStream { stream_id: 1, status: 5 }).expect("reset");
    assert_eq!(words(&reset), ["reset Some(Stdin)"]);
    assert!(wire.client(&data(1, false, b"late")).expect("dropped").is_empty());
    wire.open(3, "stdin");
    assert_eq!(words(&wire.client(&data(3, false, b"a")).expect("valid")), ["Stdin a"]);
}

#[test]
fn a_stream_that_ended_both_ways_makes_room() {
    let mut wire = Wire::new(SpdyLayout::RemoteCommand);
    for id in (1..40).step_by(2) {
        wire.open(id, "stdout");
        wire.client(&data(id, true, b"")).expect("half-closed");
        wire.server(&data(id, true, b"x")).expect("closed");
    }
    assert_eq!(wire.to_server.last_stream_id(), 39);
    assert!(wire.to_client.stream(StreamKind::Stdout).is_none());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..285, flip: u8) {
        let mut mutated = TO_SERVER.to_vec();
        mutated[at] ^= flip;
        mutated.extend_from_slice(&bytes);
        let (mut to_server, mut to_client) = SpdyStreamDecoder::pair(SpdyLayout::RemoteCommand, SpdyLimits::default());
        let _ = units(&mut to_server, &mutated.chunks(11).collect::<Vec<_>>());
        let _ = units(&mut to_client, &[TO_CLIENT, &bytes]);
    }
}
