//! Kubernetes' protobuf: the envelope, and the wire format beneath it.
//!
//! A body of `application/vnd.kubernetes.protobuf` is the magic `k8s\0` and a `runtime.Unknown` message,
//! whose `raw` field holds the object
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>).

use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::error::WireError;

const CODEC: &str = "protobuf";
const MAX_FIELD: u64 = (1 << 29) - 1;

/// What every protobuf body of Kubernetes begins with.
pub const PROTOBUF_MAGIC: [u8; 4] = *b"k8s\0";

/// The envelope of an object: `k8s.io/apimachinery/pkg/runtime.Unknown`.
///
/// ```
/// use bytes::Bytes;
/// use portcullis_wire::ProtobufEnvelope;
///
/// let body = Bytes::from_static(b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Secret\x12\x03raw\x1a\0\x22\0");
/// let envelope = ProtobufEnvelope::parse(&body)?;
/// assert_eq!((&envelope.kind[..], &envelope.raw[..]), ("Secret", &b"raw"[..]));
/// assert_eq!(envelope.encode(), body);
/// # Ok::<(), portcullis_wire::WireError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProtobufEnvelope {
    /// `typeMeta.apiVersion`, such as `apps/v1`.
    pub api_version: String,
    /// `typeMeta.kind`, such as `Deployment`.
    pub kind: String,
    /// The object, in the encoding that the next two fields say: protobuf if they are empty.
    pub raw: Bytes,
    /// How `raw` is compressed; empty: not.
    pub content_encoding: String,
    /// The media type of `raw`; empty: protobuf.
    pub content_type: String,
}

impl ProtobufEnvelope {
    /// Reads a whole body.
    ///
    /// # Errors
    /// If it does not begin with the magic or is not a message of those fields; if a field is unknown or
    /// comes twice, where decoders differ on which one counts.
    pub fn parse(body: &Bytes) -> Result<Self, WireError> {
        let message = body
            .strip_prefix(&PROTOBUF_MAGIC)
            .ok_or_else(|| WireError::protocol(CODEC, "a body that does not begin with `k8s\\0`"))?;
        let [meta, raw, content_encoding, content_type] = only_fields(message)?;
        let [api_version, kind] = only_fields(meta)?;
        Ok(Self {
            api_version: text(api_version)?,
            kind: text(kind)?,
            raw: body.slice_ref(raw),
            content_encoding: text(content_encoding)?,
            content_type: text(content_type)?,
        })
    }

    /// Writes the body, byte for byte as the API server does: every field but an empty `raw` is there even if
    /// it is empty.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut meta = BytesMut::new();
        put_bytes(1, self.api_version.as_bytes(), &mut meta);
        put_bytes(2, self.kind.as_bytes(), &mut meta);
        let mut out = BytesMut::with_capacity(self.raw.len() + meta.len() + 64);
        out.extend_from_slice(&PROTOBUF_MAGIC);
        put_bytes(1, &meta, &mut out);
        if !self.raw.is_empty() {
            put_bytes(2, &self.raw, &mut out);
        }
        put_bytes(3, self.content_encoding.as_bytes(), &mut out);
        put_bytes(4, self.content_type.as_bytes(), &mut out);
        out.freeze()
    }
}

/// Shows what sort of object there is, not the object.
impl fmt::Debug for ProtobufEnvelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtobufEnvelope")
            .field("api_version", &self.api_version)
            .field("kind", &self.kind)
            .field("raw_len", &self.raw.len())
            .field("content_encoding", &self.content_encoding)
            .field("content_type", &self.content_type)
            .finish()
    }
}

/// The value of a field, as far as the wire format knows it
/// (<https://protobuf.dev/programming-guides/encoding/>).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ProtobufValue<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64([u8; 8]),
    /// Wire type 2: a string, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32([u8; 4]),
}

/// Shows numbers and lengths, not bytes.
impl fmt::Debug for ProtobufValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Varint(_) => f.write_str("Varint"),
            Self::Fixed64(_) => f.write_str("Fixed64"),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Fixed32(_) => f.write_str("Fixed32"),
        }
    }
}

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtobufField<'a> {
    /// The field number, 1 to 536870911.
    pub number: u32,
    /// Its value.
    pub value: ProtobufValue<'a>,
    /// The whole field as it came, tag included: what a rewriter copies if it changes nothing.
    pub original: &'a [u8],
}

/// Reads the fields of one message, in order, without recursion: the caller knows which fields are messages.
///
/// It stops after an error. Refused are groups, reserved wire types, field numbers that are 0 or too large
/// (Go's generated code cuts
/// them to 32 bits, so that they would alias others), and whatever does not fit the input.
#[derive(Debug, Clone)]
pub struct ProtobufReader<'a> {
    rest: &'a [u8],
}

impl<'a> ProtobufReader<'a> {
    /// Reads `message`.
    #[must_use]
    pub const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Result<ProtobufField<'a>, WireError> {
        let start = self.rest;
        let tag = self.varint()?;
        let number = match tag >> 3 {
            number @ 1..=MAX_FIELD => u32::try_from(number).unwrap_or(u32::MAX),
            _ => return Err(WireError::ambiguous(CODEC, "a field number that is 0 or beyond 29 bits")),
        };
        let value = match tag & 7 {
            0 => ProtobufValue::Varint(self.varint()?),
            1 => ProtobufValue::Fixed64(self.array()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| truncated())?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or_else(truncated)?;
                self.rest = rest;
                ProtobufValue::Bytes(bytes)
            }
            5 => ProtobufValue::Fixed32(self.array()?),
            3 | 4 => return Err(WireError::protocol(CODEC, "a group").with(u64::from(number))),
            _ => return Err(WireError::protocol(CODEC, "a reserved wire type").with(u64::from(number))),
        };
        let original = &start[..start.len() - self.rest.len()];
        Ok(ProtobufField { number, value, original })
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for (at, &byte) in self.rest.iter().enumerate().take(10) {
            if at == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7F) << (7 * at);
            if byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        if self.rest.len() < 10 {
            return Err(truncated());
        }
        Err(WireError::protocol(CODEC, "a number beyond 64 bits"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(truncated)?;
        self.rest = rest;
        Ok(*array)
    }
}

impl<'a> Iterator for ProtobufReader<'a> {
    type Item = Result<ProtobufField<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(self.field().inspect_err(|_| self.rest = &[]))
    }
}

/// Appends one field.
///
/// ```
/// use bytes::BytesMut;
/// use portcullis_wire::{ProtobufReader, ProtobufValue, encode_protobuf_field};
///
/// let mut message = BytesMut::new();
/// encode_protobuf_field(1, ProtobufValue::Bytes(b"hi"), &mut message);
/// encode_protobuf_field(2, ProtobufValue::Varint(300), &mut message);
/// assert_eq!(&message[..], b"\x0a\x02hi\x10\xac\x02");
/// let fields: Vec<_> = ProtobufReader::new(&message).collect::<Result<_, _>>()?;
/// assert_eq!((fields[1].number, fields[1].value), (2, ProtobufValue::Varint(300)));
/// # Ok::<(), portcullis_wire::WireError>(())
/// ```
pub fn encode_protobuf_field(number: u32, value: ProtobufValue<'_>, out: &mut BytesMut) {
    let tag = |wire_type| u64::from(number) << 3 | wire_type;
    match value {
        ProtobufValue::Varint(value) => {
            put_varint(tag(0), out);
            put_varint(value, out);
        }
        ProtobufValue::Fixed64(bytes) => {
            put_varint(tag(1), out);
            out.extend_from_slice(&bytes);
        }
        ProtobufValue::Bytes(bytes) => {
            put_varint(tag(2), out);
            put_varint(bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        }
        ProtobufValue::Fixed32(bytes) => {
            put_varint(tag(5), out);
            out.extend_from_slice(&bytes);
        }
    }
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut BytesMut) {
    encode_protobuf_field(number, ProtobufValue::Bytes(bytes), out);
}

fn put_varint(mut value: u64, out: &mut BytesMut) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The length-delimited fields 1 to `N` of a message that has no others, each at most once; empty if absent.
fn only_fields<const N: usize>(message: &[u8]) -> Result<[&[u8]; N], WireError> {
    let mut fields: [Option<&[u8]>; N] = [None; N];
    for field in ProtobufReader::new(message) {
        let field = field?;
        let slot = fields.get_mut(field.number as usize - 1);
        let (Some(slot), ProtobufValue::Bytes(bytes)) = (slot, field.value) else {
            return Err(WireError::ambiguous(CODEC, "an envelope with a field it does not have")
                .with(u64::from(field.number)));
        };
        if slot.replace(bytes).is_some() {
            return Err(WireError::ambiguous(CODEC, "an envelope with a field that comes twice")
                .with(u64::from(field.number)));
        }
    }
    // An absent message, string or bytes is as good as an empty one. The empty slice must lie within
    // `message` for `Bytes::slice_ref`.
    Ok(fields.map(|field| field.unwrap_or(&message[..0])))
}

fn text(bytes: &[u8]) -> Result<String, WireError> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| WireError::protocol(CODEC, "a string that is not UTF-8"))?;
    Ok(text.to_owned())
}

const fn truncated() -> WireError {
    WireError::protocol(CODEC, "a field beyond the end of its message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::WireErrorKind;
    use proptest::prelude::*;

    #[track_caller]
    fn refuses(body: &'static [u8], says: &str) {
        let error = ProtobufEnvelope::parse(&Bytes::from_static(body)).expect_err("must be refused");
        assert!(error.to_string().contains(says), "{error}");
    }

    #[test]
    fn refused_envelopes() {
        refuses(b"", "begin with");
        refuses(b"k8s", "begin with");
        refuses(b"{\"kind\":1}", "begin with");
        refuses(b"k8s\0\x12\x05raw", "beyond the end");
        refuses(b"k8s\0\x12\x01a\x12\x01b", "comes twice (2)");
        refuses(b"k8s\0\x2a\x01a", "does not have (5)");
        refuses(b"k8s\0\x10\x01", "does not have (2)");
        refuses(b"k8s\0\x0a\x03\x0a\x01\xff", "UTF-8");
        refuses(b"k8s\0\x0a\x03\x1a\x01a", "does not have (3)");
    }

    #[test]
    fn fields_may_be_absent() {
        let envelope = ProtobufEnvelope::parse(&Bytes::from_static(b"k8s\0")).expect("empty");
        assert_eq!(envelope, ProtobufEnvelope::default());
        assert_eq!(&envelope.encode()[..], b"k8s\0\x0a\x04\x0a\0\x12\0\x1a\0\x22\0");
    }

    #[test]
    fn refused_fields() {
        let check = |message: &[u8], kind, says: &str| {
            let mut reader = ProtobufReader::new(message);
            let error = reader.next().expect("a field").expect_err(says);
            assert!(error.kind() == kind && error.to_string().contains(says), "{error}");
            assert!(reader.next().is_none(), "it stops");
        };
        use WireErrorKind::{Ambiguous, Protocol};
        check(b"\x00\x01", Ambiguous, "field number");
        // Field 1 to code that cuts the number to 32 bits.
        check(b"\x8a\x80\x80\x80\x80\x01\x01a", Ambiguous, "field number");
        check(b"\x0b", Protocol, "group");
        check(b"\x0c", Protocol, "group");
        check(b"\x0e", Protocol, "wire type");
        check(b"\x0d\0\0\0", Protocol, "beyond the end");
        check(b"\x09\0\0\0\0\0\0\0", Protocol, "beyond the end");
        check(b"\x08\xff", Protocol, "beyond the end");
        check(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Protocol, "beyond the end");
        check(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", Protocol, "64 bits");
        check(b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", Protocol, "64 bits");
    }

    fn value() -> impl Strategy<Value = (u8, u64, Vec<u8>)> {
        (0u8..4, any::<u64>(), prop::collection::vec(any::<u8>(), 0..200))
    }

    fn as_value((kind, number, bytes): &(u8, u64, Vec<u8>)) -> ProtobufValue<'_> {
        match kind {
            0 => ProtobufValue::Varint(*number),
            1 => ProtobufValue::Fixed64(number.to_le_bytes()),
            2 => ProtobufValue::Bytes(bytes),
            _ => ProtobufValue::Fixed32((*number as u32).to_le_bytes()),
        }
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(fields in prop::collection::vec((1u32..=0x1FFF_FFFF, value()), 0..8)) {
            let mut message = BytesMut::new();
            for (number, value) in &fields { encode_protobuf_field(*number, as_value(value), &mut message); }
            let read: Vec<_> = ProtobufReader::new(&message).collect::<Result<_, _>>().expect("valid");
            let copied: Vec<u8> = read.iter().flat_map(|field| field.original.to_vec()).collect();
            prop_assert_eq!(&copied[..], &message[..]);
            let expected: Vec<_> = fields.iter().map(|(number, value)| (*number, as_value(value))).collect();
            prop_assert_eq!(read.iter().map(|field| (field.number, field.value)).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn envelopes_round_trip(api_version in ".{0,20}", kind in ".{0,20}", raw in prop::collection::vec(any::<u8>(), 0..300), content_type in ".{0,20}") {
            let envelope = ProtobufEnvelope { api_version, kind, raw: raw.into(), content_encoding: String::new(), content_type };
            prop_assert_eq!(ProtobufEnvelope::parse(&envelope.encode()).expect("valid"), envelope);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = ProtobufReader::new(&bytes).count();
            let _ = ProtobufEnvelope::parse(&[&PROTOBUF_MAGIC[..], &bytes].concat().into());
        }
    }
}
