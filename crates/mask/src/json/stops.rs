//! Where the text of a string may end: looked for in a stretch of a chunk at once, sixteen bytes at a time, and told from a table of
//! bits, so that a short string costs a shift and no loop.

use wide::u8x16;

/// Bytes to a word of the table.
const BLOCK: usize = 64;
/// Words in the table: few, so that the processor fetches what comes next while this is worked through.
const WORDS: usize = 8;
const STRETCH: usize = BLOCK * WORDS;

/// The bytes of a chunk that end a run of a string's text: quotes, backslashes, control characters (RFC 8259, section 7).
#[derive(Default)]
pub(super) struct Stops {
    /// A bit for each byte from `from` on, as many as are known; one word more, so that each has a next one.
    words: Words,
    from: usize,
    known: usize,
    /// Whether all bytes there are ASCII.
    ascii: bool,
}

struct Words([u64; WORDS + 1]);

impl Default for Words {
    fn default() -> Self {
        Self([0; WORDS + 1])
    }
}

impl Stops {
    /// What is known is of another chunk.
    pub(super) fn forget_chunk(&mut self) {
        (self.from, self.known) = (0, 0);
    }

    /// The first stop from `at` on, or else the chunk's end; and whether all bytes before it are known to be ASCII.
    #[inline]
    pub(super) fn next(&mut self, chunk: &[u8], at: usize) -> (usize, bool) {
        let offset = at.wrapping_sub(self.from);
        if offset < self.known {
            // The bits of the next 64 bytes, wherever they lie in two words: nearly all strings are shorter.
            let (word, bit) = (offset / BLOCK % WORDS, offset % BLOCK);
            let bits = self.words.0[word] >> bit | self.words.0[word + 1] << 1 << (BLOCK - 1 - bit);
            if bits != 0 {
                return (at + bits.trailing_zeros() as usize, self.ascii);
            }
        }
        self.far(chunk, at)
    }

    /// Where the string ends whose text starts here, if it needs no unescaping and its end is in the chunk.
    #[inline]
    pub(super) fn whole(&mut self, chunk: &[u8], start: usize) -> Option<usize> {
        let (end, ascii) = self.next(chunk, start);
        let closed = chunk.get(end) == Some(&b'"');
        (closed && (ascii || std::str::from_utf8(&chunk[start..end]).is_ok())).then_some(end)
    }

    /// The same, further away. Apart, so that the other way needs no stack.
    #[inline(never)]
    fn far(&mut self, chunk: &[u8], mut at: usize) -> (usize, bool) {
        let mut ascii = true;
        while at < chunk.len() {
            if at.wrapping_sub(self.from) >= self.known {
                self.look(chunk, at);
            }
            ascii &= self.ascii;
            let offset = at - self.from;
            let first = offset / BLOCK;
            let mut mask = u64::MAX << (offset % BLOCK);
            for (number, word) in self.words.0[..self.known.div_ceil(BLOCK)].iter().enumerate().skip(first) {
                let bits = word & mask;
                if bits != 0 {
                    return (self.from + number * BLOCK + bits.trailing_zeros() as usize, ascii);
                }
                mask = u64::MAX;
            }
            at = self.from + self.known;
        }
        (chunk.len(), ascii)
    }

    /// Fills the table from `from` on.
    fn look(&mut self, chunk: &[u8], from: usize) {
        // After a leap nobody knows whether more than a little is needed.
        let leapt = from > self.from + self.known + BLOCK;
        let length = if leapt { STRETCH / 4 } else { STRETCH };
        let stretch = &chunk[from..chunk.len().min(from + length)];
        (self.from, self.known) = (from, stretch.len());
        let (blocks, rest) = stretch.as_chunks::<BLOCK>();
        let mut any = 0;
        for (word, block) in self.words.0.iter_mut().zip(blocks) {
            let (stops, high) = judge(block);
            *word = stops;
            any |= high;
        }
        if from + stretch.len() < chunk.len() {
            self.words.0[blocks.len()] = 0;
        } else if let Some(word) = self.words.0[..WORDS].get_mut(blocks.len()) {
            // The chunk's end is a stop.
            let mut block = [b'"'; BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            let (stops, high) = judge(&block);
            *word = stops;
            any |= high;
        }
        self.ascii = any == 0;
    }
}

/// The stops of a block, and which of its bytes are not ASCII, as far as it matters whether there are any.
#[inline]
fn judge(block: &[u8; BLOCK]) -> (u64, u32) {
    let (lanes, _) = block.as_chunks::<16>();
    let (mut stops, mut joined) = (0, u8x16::splat(0));
    for (number, lane) in lanes.iter().enumerate() {
        let bytes = u8x16::new(*lane);
        // With one bit turned, quotes (0x22) come next to the control characters (up to 0x1f): both are found at once.
        let turned = bytes ^ u8x16::splat(0x02);
        let stop = turned.min(u8x16::splat(0x20)).simd_eq(turned) | bytes.simd_eq(u8x16::splat(b'\\'));
        stops |= u64::from(stop.to_bitmask()) << (number * 16);
        joined |= bytes;
    }
    (stops, joined.to_bitmask())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_search_byte_by_byte(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                prop::collection::vec(prop_oneof![400 => 0x23u8..0x5c, 1 => any::<u8>()], 0..6000),
            ],
            starts in prop::collection::vec(0usize..6000, 1..6),
        ) {
            let mut stops = Stops::default();
            for start in starts.into_iter().map(|start| start.min(bytes.len())) {
                let is_stop = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
                let expected = bytes[start..].iter().position(is_stop).map_or(bytes.len(), |at| start + at);
                let (found, ascii) = stops.next(&bytes, start);
                prop_assert_eq!(found, expected);
                prop_assert!(!ascii || bytes[start..found].is_ascii());
                prop_assert!(ascii || !bytes.is_ascii());
            }
        }
    }
}
