//! Passes over what no rule says anything about, which is most of a document: in one tight loop, that knows of keys, brackets and
//! states and of nothing else.
//!
//! It is no second reader of JSON: it passes only what is plain and whole in the chunk, and stops in front of everything else
//! (white space, escapes, fractions, what is wrong), so that the scanner reads that, and judges it.

use super::stops::Stops;
use crate::rules::{Accept, Automaton, StateId};

/// An open container in which values are passed over.
#[derive(Clone, Copy)]
pub(crate) struct Level {
    pub(crate) object: bool,
    pub(crate) state: StateId,
    /// How many elements have been passed, or entered.
    pub(crate) elements: u32,
    /// Where its key lies in the chunk, and how long that is, if it is an object's member.
    pub(crate) key: (usize, usize),
}

/// What comes next in the innermost container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upcoming {
    /// Its first member or element, or its end.
    First,
    /// A member or an element: a comma has come.
    Another,
    /// A comma, or its end.
    Next,
}

/// What may not be exceeded.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// How many more containers may be open.
    pub(super) levels: usize,
    /// How many bytes a key may have.
    pub(super) key: usize,
}

/// Passes over members or elements from `at` on, as many as can be, but not past the end of `outer`. Tells what comes then, and
/// leaves in `levels` the containers that are open there, `outer` first.
pub(super) fn skim(
    chunk: &[u8],
    at: &mut usize,
    (outer, mut upcoming): (Level, Upcoming),
    stops: &mut Stops,
    automaton: &Automaton<Accept>,
    bounds: Bounds,
    levels: &mut Vec<Level>,
) -> Upcoming {
    levels.clear();
    let mut here = outer;
    'values: loop {
        let (mut value, mut key, mut state) = (*at, (0, 0), automaton.element(here.state));
        if here.object {
            let Some(end) = string(chunk, *at, stops).filter(|end| chunk.get(*end) == Some(&b':')) else {
                break;
            };
            value = end + 1;
            key = (*at + 1, end - *at - 2);
            if key.1 > bounds.key {
                break;
            }
            state = automaton.member(here.state, &chunk[key.0..key.0 + key.1]);
        }
        if !automaton.is_plain(state) {
            break;
        }
        if let Some(bracket @ (b'{' | b'[')) = chunk.get(value) {
            if levels.len() >= bounds.levels {
                break;
            }
            here.elements = here.elements.wrapping_add(1);
            levels.push(here);
            here = Level { object: *bracket == b'{', state, elements: 0, key };
            (*at, upcoming) = (value + 1, Upcoming::First);
            if !matches!(chunk.get(*at), Some(b'}' | b']')) {
                continue;
            }
        } else {
            let Some(end) = leaf(chunk, value, stops) else { break };
            here.elements = here.elements.wrapping_add(1);
            (*at, upcoming) = (end, Upcoming::Next);
        }
        // The ends of containers, as many as there are, and a comma.
        loop {
            let close = if here.object { b'}' } else { b']' };
            match chunk.get(*at) {
                Some(b',') if upcoming == Upcoming::Next => break,
                Some(byte) if *byte == close => match levels.pop() {
                    Some(around) => here = around,
                    None => break 'values,
                },
                _ => break 'values,
            }
            (*at, upcoming) = (*at + 1, Upcoming::Next);
        }
        (*at, upcoming) = (*at + 1, Upcoming::Another);
    }
    levels.push(here);
    upcoming
}

/// Where a value ends that holds no others and starts here.
#[inline]
fn leaf(chunk: &[u8], at: usize, stops: &mut Stops) -> Option<usize> {
    match chunk.get(at)? {
        b'"' => string(chunk, at, stops),
        b'-' | b'0'..=b'9' => integer(chunk, at),
        b't' => word(chunk, at, b"true"),
        b'f' => word(chunk, at, b"false"),
        b'n' => word(chunk, at, b"null"),
        _ => None,
    }
}

/// Where a string ends whose first quote is here.
#[inline]
fn string(chunk: &[u8], at: usize, stops: &mut Stops) -> Option<usize> {
    match chunk.get(at)? {
        b'"' => stops.whole(chunk, at + 1).map(|end| end + 1),
        _ => None,
    }
}

/// Where an integer ends, if more of the chunk follows, so that it has ended.
fn integer(chunk: &[u8], at: usize) -> Option<usize> {
    let first = at + usize::from(chunk.get(at) == Some(&b'-'));
    let digits = chunk.get(first..)?.iter().position(|byte| !byte.is_ascii_digit())?;
    let well_formed = digits == 1 || (digits > 1 && chunk[first] != b'0');
    (well_formed && !matches!(chunk[first + digits], b'.' | b'e' | b'E')).then_some(first + digits)
}

#[inline]
fn word(chunk: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    chunk[at..].starts_with(word).then_some(at + word.len())
}
