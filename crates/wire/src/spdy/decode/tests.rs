use super::super::SpdyEncoder;
use super::*;
use crate::error::WireErrorKind;
use bytes::BytesMut;
use proptest::prelude::*;

fn decode(limits: SpdyLimits, chunks: &[&[u8]]) -> Result<Vec<SpdyPart>, WireError> {
    let mut decoder = SpdyDecoder::new(limits);
    let mut parts = Vec::new();
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Some(part) = decoder.next_part()? {
            parts.push(part);
        }
    }
    decoder.finish()?;
    Ok(parts)
}

#[track_caller]
fn refuses(wire: &[u8], kind: WireErrorKind, says: &str) {
    let error = decode(SpdyLimits::default(), &[wire]).expect_err("must be refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

#[test]
fn refuses_what_would_be_read_differently() {
    use WireErrorKind::{Ambiguous, Limit, Protocol, Truncated};
    refuses(b"\0\0\0\0\0\0\0\x01a", Protocol, "stream 0");
    refuses(b"\0\0\0\x01\x02\0\0\x01a", Protocol, "flags");
    refuses(b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01", Protocol, "version other than 3 (2)");
    refuses(b"\x80\x03\0\x05\0\0\0\0", Protocol, "unknown control frame (5)");
    refuses(b"\x80\x03\0\x0a\0\0\0\0", Protocol, "unknown control frame (10)");
    refuses(b"\x80\x03\0\x06\x01\0\0\x04\0\0\0\x01", Protocol, "flags");
    refuses(b"\x80\x03\0\x06\0\0\0\x04\0\0\0\0", Protocol, "id 0");
    // spdystream does not look at these lengths: it would take the rest of the body for frames.
    refuses(b"\x80\x03\0\x06\0\0\0\x05\0\0\0\x01a", Ambiguous, "length");
    refuses(b"\x80\x03\0\x03\0\0\0\x09\0\0\0\x01\0\0\0\x01a", Ambiguous, "length");
    refuses(b"\x80\x03\0\x04\0\0\0\x08\0\0\0\x01\0\0\0\x01", Ambiguous, "length");
    refuses(b"\x80\x03\0\x07\0\0\0\x04\0\0\0\x01", Ambiguous, "length");
    refuses(b"\x80\x03\0\x09\0\0\0\x07\0\0\0\x01\0\0\0", Ambiguous, "length");
    refuses(b"\x80\x03\0\x01\0\0\0\x08\0\0\0\x01\0\0\0\0", Ambiguous, "length");
    refuses(b"\x80\x03\0\x03\0\0\0\x08\0\0\0\x01\0\0\0\0", Protocol, "status 0");
    refuses(b"\x80\x03\0\x03\0\0\0\x08\x80\0\0\x01\0\0\0\x01", Protocol, "reserved bit");
    refuses(b"\x80\x03\0\x02\0\0\0\x04\0\0\0\x01", Protocol, "too early");
    refuses(b"\x80\x03\0\x02\0\0\0\x06\0\0\0\x01ab", Protocol, "decompressed");
    refuses(b"\x80\x03\0\x01\0\xff\xff\xff", Limit, "beyond the limit");
    refuses(b"\0\0\0\x01\0\0\0\x02a", Truncated, "middle of a frame");
}

fn headers() -> impl Strategy<Value = HeaderBlock> {
    prop::collection::btree_map("[a-z:-]{1,12}", "[ -~]{0,40}", 0..5).prop_map(|headers| {
        HeaderBlock::new(headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))).expect("valid")
    })
}

fn frames() -> impl Strategy<Value = Vec<SpdyFrame>> {
    let id = || 1u32..0x7FFF_FFFF;
    let frame = prop_oneof![
        (id(), any::<u32>(), 0u8..8, any::<bool>(), any::<bool>(), headers()).prop_map(
            |(stream_id, associated_to, priority, fin, unidirectional, headers)| SpdyFrame::SynStream {
                stream_id,
                associated_to,
                priority,
                fin,
                unidirectional,
                headers
            }
        ),
        (id(), any::<bool>(), headers()).prop_map(|(stream_id, fin, headers)| SpdyFrame::SynReply {
            stream_id,
            fin,
            headers
        }),
        (id(), any::<bool>(), headers()).prop_map(|(stream_id, fin, headers)| SpdyFrame::Headers {
            stream_id,
            fin,
            headers
        }),
        (id(), 1..=u32::MAX).prop_map(|(stream_id, status)| SpdyFrame::RstStream { stream_id, status }),
        (any::<bool>(), prop::collection::vec((any::<u8>(), 0u32..0xFF_FFFF, any::<u32>()), 0..4)).prop_map(
            |(clear, entries)| SpdyFrame::Settings {
                clear,
                entries: entries.into_iter().map(|(flags, id, value)| Setting { flags, id, value }).collect()
            }
        ),
        (1..=u32::MAX).prop_map(|id| SpdyFrame::Ping { id }),
        (any::<u32>(), any::<u32>())
            .prop_map(|(last_good_stream_id, status)| SpdyFrame::GoAway { last_good_stream_id, status }),
        (any::<u32>(), any::<u32>())
            .prop_map(|(stream_id, delta)| SpdyFrame::WindowUpdate { stream_id, delta }),
        (id(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..400)).prop_map(
            |(stream_id, fin, data)| {
                SpdyFrame::Data { stream_id, fin, offset: 0, length: data.len() as u32, payload: data.into() }
            }
        ),
    ];
    prop::collection::vec(frame, 0..8)
}

proptest! {
    #[test]
    fn decoding_undoes_encoding_whatever_the_chunks(
        frames in frames(), cuts in prop::collection::vec(1usize..97, 1..20), whole in 0usize..300
    ) {
        let mut wire = BytesMut::new();
        let mut encoder = SpdyEncoder::new().expect("an encoder");
        for frame in &frames { encoder.encode(frame, &mut wire).expect("encoded"); }
        let mut chunks = Vec::new();
        let mut rest = &wire[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
            chunks.push(chunk);
            rest = tail;
        }
        let parts = decode(SpdyLimits { whole_frame: whole, ..SpdyLimits::default() }, &chunks).expect("valid");
        let originals: Vec<u8> = parts.iter().flat_map(|part| part.original.to_vec()).collect();
        prop_assert_eq!(&originals[..], &wire[..], "the originals are the wire");
        let mut seen: Vec<SpdyFrame> = Vec::new();
        for part in parts {
            match (part.frame, seen.last_mut()) {
                (SpdyFrame::Data { offset, payload: more, .. }, Some(SpdyFrame::Data { payload, .. })) if offset > 0 => {
                    prop_assert_eq!(offset as usize, payload.len());
                    *payload = [&payload[..], &more[..]].concat().into();
                }
                (frame, _) => seen.push(frame),
            }
        }
        prop_assert_eq!(seen, frames);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..12, length in 0u8..40) {
        let limits = SpdyLimits { whole_frame: 10, ..SpdyLimits::default() };
        let _ = decode(limits, &[&bytes]);
        let control = [&[0x80, 3, 0, kind, 0, 0, 0, length], &bytes[..]].concat();
        let _ = decode(limits, &control.chunks(1).collect::<Vec<_>>());
    }
}
