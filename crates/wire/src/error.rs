//! The one error of this crate.
//!
//! It is built from static text and at most one number (a length, a channel, a frame type): what was on the
//! wire never
//! gets into it, so it can be logged and shown without leaking a payload.

/// Why bytes could not be decoded, or an event could not be encoded.
///
/// After an error a decoder is finished: it has lost the frame boundaries, so whoever relays must end the
/// connection
/// instead of passing on what could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{codec}: {what}{}", value.map_or_else(String::new, |value| format!(" ({value})")))]
pub struct WireError {
    kind: WireErrorKind,
    codec: &'static str,
    what: &'static str,
    value: Option<u64>,
}

/// What sort of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WireErrorKind {
    /// The bytes break the specification.
    Protocol,
    /// The bytes are legal, but real peers read them in more than one way, so that what was decoded here
    /// might not be what takes effect there.
    Ambiguous,
    /// A frame, message, header block or table is larger than the configured limit.
    Limit,
    /// The input ended in the middle of a frame.
    Truncated,
    /// The caller asked for something that the current state of the wire does not allow, such as a new frame
    /// inside of another.
    State,
}

impl WireError {
    /// What sort of thing went wrong.
    #[must_use]
    pub const fn kind(&self) -> WireErrorKind {
        self.kind
    }

    /// The WebSocket close code that tells the peer (RFC 6455, section 7.4.1).
    #[must_use]
    pub const fn close_code(&self) -> u16 {
        match self.kind {
            WireErrorKind::Protocol | WireErrorKind::Truncated => 1002,
            WireErrorKind::Ambiguous => 1008,
            WireErrorKind::Limit => 1009,
            WireErrorKind::State => 1011,
        }
    }

    pub(crate) const fn protocol(codec: &'static str, what: &'static str) -> Self {
        Self::new(WireErrorKind::Protocol, codec, what)
    }

    pub(crate) const fn ambiguous(codec: &'static str, what: &'static str) -> Self {
        Self::new(WireErrorKind::Ambiguous, codec, what)
    }

    pub(crate) const fn limit(codec: &'static str, what: &'static str) -> Self {
        Self::new(WireErrorKind::Limit, codec, what)
    }

    pub(crate) const fn truncated(codec: &'static str, what: &'static str) -> Self {
        Self::new(WireErrorKind::Truncated, codec, what)
    }

    pub(crate) const fn state(codec: &'static str, what: &'static str) -> Self {
        Self::new(WireErrorKind::State, codec, what)
    }

    pub(crate) const fn with(mut self, value: u64) -> Self {
        self.value = Some(value);
        self
    }

    const fn new(kind: WireErrorKind, codec: &'static str, what: &'static str) -> Self {
        Self { kind, codec, what, value: None }
    }
}
