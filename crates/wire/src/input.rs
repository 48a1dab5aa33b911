//! What was pushed and not yet decoded.
//!
//! A frame that lies within one pushed chunk is cut out of it without a copy. Only what straddles chunks is
//! gathered, and each byte
//! is gathered at most once (amortised), so a peer that dribbles single bytes costs no more than its bytes.

use bytes::{Bytes, BytesMut};

/// At most one of the two holds bytes.
#[derive(Debug, Default)]
pub(crate) struct Input {
    chunk: Bytes,
    gathered: BytesMut,
}

impl Input {
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if self.is_empty() {
            self.chunk = chunk;
            return;
        }
        if self.gathered.is_empty() {
            let rest = std::mem::take(&mut self.chunk);
            self.gathered.reserve(rest.len() + chunk.len());
            self.gathered.extend_from_slice(&rest);
        }
        self.gathered.extend_from_slice(&chunk);
    }

    pub(crate) fn peek(&self) -> &[u8] {
        if self.gathered.is_empty() { &self.chunk } else { &self.gathered }
    }

    pub(crate) fn len(&self) -> usize {
        self.chunk.len() + self.gathered.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunk.is_empty() && self.gathered.is_empty()
    }

    /// Takes up to `count` bytes from the front.
    pub(crate) fn take(&mut self, count: usize) -> Bytes {
        let count = count.min(self.len());
        if self.gathered.is_empty() {
            return self.chunk.split_to(count);
        }
        let front = self.gathered.split_to(count).freeze();
        if self.gathered.is_empty() {
            // Lets go of the allocation, so that an idle connection holds none.
            self.gathered = BytesMut::new();
        }
        front
    }
}

#[cfg(test)]
mod tests {
    use super::Input;
    use bytes::Bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20), takes in prop::collection::vec(0usize..30, 0..40)) {
            let mut input = Input::default();
            let mut out = Vec::new();
            let mut takes = takes.into_iter();
            for chunk in &chunks {
                input.push(Bytes::copy_from_slice(chunk));
                out.extend_from_slice(&input.take(takes.next().unwrap_or(0)));
                prop_assert_eq!(input.peek().len(), input.len());
            }
            out.extend_from_slice(&input.take(usize::MAX));
            prop_assert!(input.is_empty());
            prop_assert_eq!(out, chunks.concat());
        }
    }
}
