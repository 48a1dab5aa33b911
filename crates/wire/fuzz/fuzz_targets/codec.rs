//! Any bytes, in any chunks, on any protocol: the events and the error do not depend on the chunks, and the
//! originals add up to the input.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use portcullis_wire::{
    Event, Handling, MaskingKeys, SpdyLayout, StreamCodec, StreamLimits, StreamProtocol, StreamPurpose, Unit,
    WireError,
};

/// Opens the streams that the server's side of a SPDY connection speaks of.
const SPDY_OPENING: &[u8] = include_bytes!("../../testdata/spdystream-exec-to-server.bin");

fuzz_target!(|input: &[u8]| {
    let [which, chunk, wire @ ..] = input else { return };
    let to_server = which & 0x80 != 0;
    let whole = run(protocol(*which), to_server, &[wire]);
    let chunks: Vec<&[u8]> = wire.chunks(usize::from(*chunk).max(1)).collect();
    let chunked = run(protocol(*which), to_server, &chunks);
    assert_eq!(whole.error, chunked.error);
    if whole.error.is_none() {
        assert_eq!(whole.seen, chunked.seen);
        assert_eq!(whole.out, chunked.out);
        return;
    }
    // A large frame that turns out to be bad may have been handed out in part before.
    let common = whole.seen.len().min(chunked.seen.len()).saturating_sub(1);
    assert_eq!(whole.seen[..common], chunked.seen[..common]);
    assert!(whole.seen.len().abs_diff(chunked.seen.len()) <= 1);
});

fn protocol(which: u8) -> StreamProtocol {
    let websocket = |name, purpose| StreamProtocol::websocket(name, purpose).expect("a known combination");
    match which % 9 {
        0 => websocket(Some("v5.channel.k8s.io"), StreamPurpose::RemoteCommand),
        1 => websocket(None, StreamPurpose::RemoteCommand),
        2 => websocket(Some("v4.base64.channel.k8s.io"), StreamPurpose::RemoteCommand),
        3 => websocket(Some("v4.channel.k8s.io"), StreamPurpose::PortForward(vec![80, 443])),
        4 => websocket(Some("base64.binary.k8s.io"), StreamPurpose::Messages),
        5 => StreamProtocol::Spdy(SpdyLayout::RemoteCommand),
        6 => StreamProtocol::SpdyTunnel(SpdyLayout::RemoteCommand),
        7 => websocket(Some("base64.binary.k8s.io"), StreamPurpose::Watch),
        _ => StreamProtocol::Spdy(SpdyLayout::PortForward),
    }
}

#[derive(Debug)]
struct Outcome {
    /// Events and originals; the parts of a large frame are put together again.
    seen: Vec<Seen>,
    out: Vec<u8>,
    error: Option<WireError>,
}

#[derive(Debug, PartialEq)]
struct Seen {
    /// The event; of data, with the flags of its last part and without the bytes.
    event: String,
    data: Vec<u8>,
    original: Vec<u8>,
    part_of: Option<u32>,
}

fn run(protocol: StreamProtocol, to_server: bool, chunks: &[&[u8]]) -> Outcome {
    let keys = MaskingKeys::new(|| [0x11, 0x22, 0x33, 0x44]);
    let (mut server, mut client) =
        StreamCodec::pair(&protocol, Handling::Observe, StreamLimits::default(), keys);
    if !to_server && protocol == StreamProtocol::Spdy(SpdyLayout::RemoteCommand) {
        server.push(Bytes::from_static(SPDY_OPENING));
        while let Ok(Some(_)) = server.next_unit() {}
    }
    let codec = if to_server { &mut server } else { &mut client };
    let (mut seen, mut out) = (Vec::new(), Vec::new());
    for chunk in chunks {
        codec.push(Bytes::copy_from_slice(chunk));
        loop {
            match codec.next_unit() {
                Ok(None) => break,
                Ok(Some(unit)) => {
                    note(&unit, &mut seen);
                    codec.forward(unit, &mut out).expect("in order");
                }
                Err(error) => return Outcome { seen, out: Vec::new(), error: Some(error) },
            }
        }
    }
    // How SPDY is wrapped depends on the parts it came in.
    let out = if matches!(protocol, StreamProtocol::SpdyTunnel(_)) { Vec::new() } else { out.concat() };
    Outcome { seen, out, error: codec.finish().err() }
}

fn note(unit: &Unit, seen: &mut Vec<Seen>) {
    let (mut event, mut data, mut part_of) = (format!("{:?}", unit.event()), Vec::new(), None);
    if let Event::Data { stream, data: bytes, end_of_message, fin } = unit.event() {
        event = format!("{stream:?} {end_of_message} {fin}");
        data = bytes.to_vec();
        part_of = (!unit.is_standalone() && !end_of_message).then_some(stream.id);
        if let Some(last) = seen.last_mut()
            && !unit.is_standalone()
            && last.part_of == Some(stream.id)
        {
            last.event = event;
            last.data.extend_from_slice(&data);
            last.original.extend_from_slice(unit.original());
            last.part_of = part_of;
            return;
        }
    }
    seen.push(Seen { event, data, original: unit.original().to_vec(), part_of });
}
