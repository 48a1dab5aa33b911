//! Passes over what no rule says anything about, which is most of a document: in one tight loop, that knows of keys, brackets and
//! states and of nothing else.
//!
//! It is no second reader of JSON: it passes only what is plain and whole in the chunk, and stops in front of everything else
//! (white space, escapes, fractions, what is wrong), so that the scanner reads that, and judges it.

use super::{
    recall::{Cursor, Place, Recall},
    stops::Stops,
};
use crate::{
    detect::{DetectorSet, finds},
    rules::{Accept, Automaton, RuleBits, StateId},
};

/// In which container values may be passed over, and which of them.
pub(crate) struct Quiet<'a> {
    pub(super) automaton: &'a Automaton<Accept>,
    /// The container's.
    pub(super) state: StateId,
    /// What is known of each state, where everything is searched; otherwise those pass of which no rule says anything.
    pub(super) searched: Option<Search<'a>>,
}

/// What is known where everything is searched.
#[derive(Clone, Copy)]
pub(super) struct Search<'a> {
    pub(super) states: &'a [SearchedState],
    /// By which rules, and for what.
    pub(super) rules: RuleBits,
    pub(super) wanted: DetectorSet,
}

/// What is known of a state, where everything is searched.
#[derive(Clone, Copy, Default)]
pub(super) struct SearchedState {
    /// What is looked for in strings, if nothing else may happen to them; `None` where nobody has asked.
    pub(super) strings: Option<Option<DetectorSet>>,
    /// Whether nothing is to be done about a container, but about what is in it.
    pub(super) containers: bool,
}

/// A value that may be passed over.
enum Value<'a> {
    Container,
    Text(&'a [u8]),
    Scalar,
}

impl Quiet<'_> {
    /// Whether a value in this state may be passed over, whatever it is.
    #[inline]
    fn may_pass(&self, state: StateId) -> bool {
        self.searched.is_some() || self.automaton.is_plain(state)
    }

    /// Whether this one is, in a state that may be.
    #[inline]
    fn passes(&self, state: StateId, value: &Value<'_>) -> bool {
        let Some(Search { states, wanted, .. }) = self.searched else { return true };
        let Some(known) = states.get(state as usize) else { return false };
        match value {
            Value::Container => known.containers,
            Value::Scalar => matches!(known.strings, Some(Some(_))),
            Value::Text(text) => {
                matches!(known.strings, Some(Some(here)) if !finds(text, here.union(wanted)))
            }
        }
    }
}

/// An open container in which values are passed over.
#[derive(Clone, Copy)]
pub(crate) struct Level {
    pub(crate) object: bool,
    pub(crate) state: StateId,
    /// How many elements have been passed, or entered.
    pub(crate) elements: u32,
    /// Where the member or element begins in the chunk whose value it is.
    pub(crate) from: usize,
    /// How long its key is, if it is an object's member.
    pub(crate) key: usize,
    /// Where what comes next in it has been passed over before.
    cursor: Cursor,
}

/// A member that is not passed over: its value is not, or does not end in the chunk.
#[derive(Clone, Copy)]
pub(super) struct Member {
    /// Where its key lies in the chunk, and how long that is. A quote and a colon follow.
    pub(super) key: (usize, usize),
    /// The value's.
    pub(super) state: StateId,
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

/// What passes over values, and what it knows of the chunk and of earlier ones.
#[derive(Default)]
pub(super) struct Skimmer {
    pub(super) stops: Stops,
    pub(super) recall: Recall,
    /// The containers that are open when it has stopped, the one in which it began first.
    pub(super) levels: Vec<Level>,
}

/// Where passing over has stopped.
pub(super) struct Stopped {
    pub(super) upcoming: Upcoming,
    /// What stands there, if its key has been read.
    pub(super) member: Option<Member>,
}

impl Skimmer {
    /// What is known of the chunk is of another one.
    pub(super) fn forget_chunk(&mut self) {
        self.stops.forget_chunk();
        self.recall.forget_chunk();
    }

    /// A member or element has been read of which nothing has come, in a container of which this much is known.
    pub(super) fn learn(&mut self, text: &[u8], quiet: &Quiet<'_>, object: bool, bounds: Bounds) {
        if let Some(mode) = self.recall.mode(quiet.searched.map(|searched| searched.rules)) {
            let place = Place { state: quiet.state, object, mode, room: bounds.levels as u32 };
            self.recall.learn_whole(text, place);
        }
    }

    /// Passes over members or elements from `at` on, as many as can be, but not past the end of the container in which it begins.
    /// `long`: the document is, so that it is worthwhile to remember what has been passed over.
    #[inline(never)]
    pub(super) fn skim(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        (object, mut upcoming): (bool, Upcoming),
        quiet: &Quiet<'_>,
        bounds: Bounds,
        long: bool,
    ) -> Stopped {
        let Self { stops, recall, levels } = self;
        levels.clear();
        let (mut began, automaton) = (*at, quiet.automaton);
        let mode = long.then(|| recall.mode(quiet.searched.map(|searched| searched.rules))).flatten();
        let mut here =
            Level { object, state: quiet.state, elements: 0, from: 0, key: 0, cursor: Cursor::default() };
        let mut member = None;
        'values: loop {
            if let Some(mode) = mode {
                let room = (bounds.levels - levels.len()) as u32;
                let place = Place { state: here.state, object: here.object, mode, room };
                if let Some(followed) = recall.follow(&mut here.cursor, place, chunk, *at) {
                    here.elements = here.elements.wrapping_add(followed.members);
                    if followed.read {
                        // What is learnt has been passed over here.
                        recall.learn(chunk, began..*at, automaton);
                        began = *at + followed.bytes;
                    }
                    *at += followed.bytes;
                    upcoming = if followed.comma { Upcoming::Another } else { Upcoming::Next };
                }
            }
            if upcoming != Upcoming::Next {
                let (from, mut start, mut key) = (*at, *at, 0);
                let mut state = automaton.element(here.state);
                if here.object {
                    let Some(end) = string(chunk, *at, stops).filter(|end| chunk.get(*end) == Some(&b':'))
                    else {
                        break;
                    };
                    start = end + 1;
                    key = end - from - 2;
                    if key > bounds.key {
                        break;
                    }
                    state = automaton.member(here.state, &chunk[from + 1..from + 1 + key]);
                    member = Some(Member { key: (from + 1, key), state });
                }
                if !quiet.may_pass(state) {
                    break;
                }
                let may_open = levels.len() < bounds.levels;
                let Some((end, value)) = value(chunk, start, stops, may_open) else { break };
                if !quiet.passes(state, &value) {
                    break;
                }
                here.elements = here.elements.wrapping_add(1);
                (*at, upcoming, member) = (end, Upcoming::Next, None);
                let (next, child) =
                    if mode.is_some() { recall.after(here.cursor) } else { Default::default() };
                here.cursor = next;
                if let Value::Container = value {
                    levels.push(here);
                    let object = chunk[start] == b'{';
                    here = Level { object, state, elements: 0, from, key, cursor: child };
                    upcoming = Upcoming::First;
                    if !matches!(chunk.get(*at), Some(b'}' | b']')) {
                        continue;
                    }
                }
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
        if long {
            recall.learn(chunk, began..*at, automaton);
        }
        Stopped { upcoming, member }
    }
}

/// The value that starts here, and where it ends; or, of a container, if it may be one, where what is in it begins.
#[inline]
fn value<'a>(chunk: &'a [u8], at: usize, stops: &mut Stops, container: bool) -> Option<(usize, Value<'a>)> {
    let scalar = |end: usize| (end, Value::Scalar);
    match chunk.get(at)? {
        b'"' => string(chunk, at, stops).map(|end| (end, Value::Text(&chunk[at + 1..end - 1]))),
        b'{' | b'[' => container.then_some((at + 1, Value::Container)),
        b'-' | b'0'..=b'9' => integer(chunk, at).map(scalar),
        b't' => word(chunk, at, b"true").map(scalar),
        b'f' => word(chunk, at, b"false").map(scalar),
        b'n' => word(chunk, at, b"null").map(scalar),
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
