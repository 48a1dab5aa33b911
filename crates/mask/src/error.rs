//! Why a stream cannot be masked. An error carries a place and a reason, never a byte of what was read.

use std::fmt;

/// Why masking stopped. Nothing after it may be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {offset}")]
pub struct MaskError {
    kind: MaskErrorKind,
    offset: u64,
}

impl MaskError {
    pub(crate) fn new(kind: MaskErrorKind, offset: u64) -> Self {
        Self { kind, offset }
    }

    /// What went wrong.
    pub fn kind(&self) -> MaskErrorKind {
        self.kind
    }

    /// Where, in bytes from the start of the stream.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MaskErrorKind {
    /// Not JSON (RFC 8259); says what is wrong.
    Malformed(&'static str),
    /// The stream ended inside a value.
    Truncated,
    /// Containers are nested deeper than the limit.
    TooDeep,
    /// A key is longer than the limit.
    KeyTooLong,
    /// More bytes would have to be held back than the limit allows, before it is known whether they may pass.
    TooMuchHeld,
    /// An object says twice, differently, what it is, and what was sent already depended on it.
    Ambiguous,
    /// The content coding (gzip) could not be undone.
    Undecodable,
    /// Not Kubernetes' protobuf.
    MalformedProtobuf,
    /// An object in protobuf of a kind, or with a field, that is not known here.
    UnknownProtobuf,
}

impl fmt::Display for MaskErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "not valid JSON: {what}"),
            Self::Truncated => f.write_str("the stream ended inside a value"),
            Self::TooDeep => f.write_str("nested too deeply"),
            Self::KeyTooLong => f.write_str("a key is too long"),
            Self::TooMuchHeld => f.write_str("too much would have to be held back"),
            Self::Ambiguous => f.write_str("an object contradicts itself"),
            Self::Undecodable => f.write_str("the content coding cannot be undone"),
            Self::MalformedProtobuf => f.write_str("not Kubernetes protobuf"),
            Self::UnknownProtobuf => f.write_str("a kind or a field that is not known in protobuf"),
        }
    }
}

/// A configuration that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    place: String,
    message: String,
}

impl ConfigError {
    pub(crate) fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }

    /// What of the configuration is wrong, such as `rules[2].paths[0]`.
    pub fn place(&self) -> &str {
        &self.place
    }
}
