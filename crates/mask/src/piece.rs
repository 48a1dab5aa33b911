//! What a masker hands on.

use bytes::Bytes;

/// A piece of a masked stream, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A slice of the input, not copied.
    Verbatim(Bytes),
    /// What stands in the place of something.
    Replacement(Bytes),
}

impl Piece {
    /// The bytes, whichever they are.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Verbatim(bytes) | Self::Replacement(bytes) => bytes,
        }
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        match self {
            Self::Verbatim(bytes) | Self::Replacement(bytes) => bytes,
        }
    }
}

/// All pieces as one.
pub(crate) fn join(pieces: &[Piece]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(pieces.iter().map(|piece| piece.bytes().len()).sum());
    for piece in pieces {
        joined.extend_from_slice(piece.bytes());
    }
    joined
}
