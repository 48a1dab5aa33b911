//! What clauses have said of texts: in a list the same names come again and again, and each would be matched against many globs.

/// Whether clauses hold for short texts, as far as it has been asked lately: of two that share a place, the later one is known.
#[derive(Default)]
pub(super) struct Memo(Vec<Known>);

#[derive(Clone, Copy)]
struct Known {
    clause: u8,
    holds: bool,
    /// More than there is room for, if nothing is known.
    length: u8,
    text: [u8; LONGEST],
}

const LONGEST: usize = 28;
const PLACES: usize = 32;

impl Memo {
    /// Whether a clause holds for a text: as is known, or else as `ask` says.
    pub(super) fn holds(&mut self, clause: u8, text: &[u8], ask: impl FnOnce() -> bool) -> bool {
        let (Some(first), Some(last), ..=LONGEST) = (text.first(), text.last(), text.len()) else {
            return ask();
        };
        if self.0.is_empty() {
            let nothing = Known { clause: 0, holds: false, length: u8::MAX, text: [0; LONGEST] };
            self.0.resize(PLACES, nothing);
        }
        let mixed = first.wrapping_mul(7) ^ last.wrapping_mul(29) ^ clause;
        let known = &mut self.0[usize::from(mixed.wrapping_add(text.len() as u8)) % PLACES];
        let is_known = known.clause == clause && known.text.get(..usize::from(known.length)) == Some(text);
        if !is_known {
            (known.clause, known.holds, known.length) = (clause, ask(), text.len() as u8);
            known.text[..text.len()].copy_from_slice(text);
        }
        known.holds
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_known_is_what_was_said(asked in prop::collection::vec((0u8..3, "[ab]{0,3}|[a-c]{26,30}"), 0..400)) {
            let mut memo = Memo::default();
            let says = |clause: u8, text: &str| text.len() % 3 == usize::from(clause) || text.contains("ab");
            for (clause, text) in asked {
                let holds = memo.holds(clause, text.as_bytes(), || says(clause, &text));
                prop_assert_eq!(holds, says(clause, &text));
            }
        }
    }

    #[test]
    fn what_came_just_now_is_not_asked_again() {
        let mut memo = Memo::default();
        assert!(memo.holds(1, b"DB_PASSWORD", || true));
        assert!(memo.holds(1, b"DB_PASSWORD", || panic!("it is known")));
        assert!(!memo.holds(2, b"DB_PASSWORD", || false));
    }
}
