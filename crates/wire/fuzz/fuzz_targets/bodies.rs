//! Watch frames, protobuf, the objects in it, and subprotocol lists.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use portcullis_wire::{
    LengthDelimitedDecoder, LengthDelimitedLimits, LineDecoder, OfferedSubprotocols, ProtobufEnvelope,
    ProtobufObject, ProtobufReader, encode_protobuf_field,
};

const KINDS: [(&str, &str); 6] = [
    ("v1", "Secret"),
    ("v1", "Pod"),
    ("apps/v1", "Deployment"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("meta.k8s.io/v1", "DeleteOptions"),
    ("example.com/v1", "Unknown"),
];

fuzz_target!(|input: &[u8]| {
    let Some((&chunk, body)) = input.split_first() else { return };
    let chunks = || body.chunks(usize::from(chunk).max(1));

    if let Ok(text) = std::str::from_utf8(body) {
        let _ = OfferedSubprotocols::parse(text.lines());
    }
    if let Ok(envelope) = ProtobufEnvelope::parse(&Bytes::copy_from_slice(body)) {
        assert_eq!(ProtobufEnvelope::parse(&envelope.encode()).as_ref(), Ok(&envelope));
    }
    // As it came, and inside an envelope, where it seldom gets by chance: the kinds that clients write, and one that nobody knows.
    let _ = ProtobufObject::read(&Bytes::copy_from_slice(body));
    for (api_version, kind) in KINDS {
        let wrapped = ProtobufEnvelope {
            api_version: api_version.into(),
            kind: kind.into(),
            raw: Bytes::copy_from_slice(body),
            ..ProtobufEnvelope::default()
        };
        let _ = ProtobufObject::read(&wrapped.encode());
    }
    if let Ok(fields) = ProtobufReader::new(body).collect::<Result<Vec<_>, _>>() {
        assert_eq!(fields.iter().flat_map(|field| field.original).copied().collect::<Vec<_>>(), body);
        let mut written = BytesMut::new();
        fields.iter().for_each(|field| encode_protobuf_field(field.number, field.value, &mut written));
        let again = ProtobufReader::new(&written)
            .collect::<Result<Vec<_>, _>>()
            .expect("what was written can be read");
        assert!(again.iter().map(|field| field.value).eq(fields.iter().map(|field| field.value)));
    }

    let mut lines = LineDecoder::new(usize::MAX);
    let mut seen = Vec::new();
    for chunk in chunks() {
        lines.push(Bytes::copy_from_slice(chunk));
        while let Ok(Some(line)) = lines.next_line() {
            seen.extend_from_slice(&line);
        }
    }
    seen.extend_from_slice(&lines.finish());
    assert_eq!(seen, body);

    let mut frames =
        LengthDelimitedDecoder::new(LengthDelimitedLimits { whole_frame: 8, max_frame: 1 << 20 });
    for chunk in chunks() {
        frames.push(Bytes::copy_from_slice(chunk));
        while let Ok(Some(part)) = frames.next_part() {
            assert!(part.offset + part.payload.len() <= part.length);
        }
    }
});
