//! All paths of all rules as one deterministic automaton, so that the cost of a key does not grow with the number of rules.
//!
//! A state belongs to a *value*: the set of places in the paths that its position can be at. A key takes one lookup (most
//! fail at an empty slot) and one table read.

use std::collections::{BTreeSet, HashMap};

use super::path::Step;

/// A state of the automaton.
pub(crate) type StateId = u16;

/// What stands for every key that no path names.
const OTHER: usize = 0;

/// Paths compiled; `A` is what a path stands for.
#[derive(Debug)]
pub(crate) struct Automaton<A> {
    keys: KeyTable,
    /// For each state a row: where any other key leads, where each key that paths name leads, where an index leads.
    next: Vec<StateId>,
    row: usize,
    /// For each state, where its part of `accepts` begins; and where the last one's ends.
    first: Vec<u32>,
    accepts: Vec<A>,
    /// For each state, whether its part is empty.
    plain: Vec<bool>,
}

/// Too many states: the paths are too many, or their `**` multiply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooComplex;

impl<A: Clone> Automaton<A> {
    /// The state of the root value.
    pub(crate) const ROOT: StateId = 0;

    pub(crate) fn new(patterns: &[(Vec<Step>, A)]) -> Result<Self, TooComplex> {
        let mut keys = KeyTable::default();
        for (steps, _) in patterns {
            for step in steps {
                if let Step::Key(key) = step {
                    keys.add(key)?;
                }
            }
        }
        let start = closure(patterns, (0..patterns.len()).map(|pattern| (pattern, 0)));
        let mut ids = HashMap::from([(start.clone(), 0)]);
        let mut sets = vec![start];
        let row = keys.names.len() + 2;
        let (mut next, mut first, mut accepts) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(set) = sets.get(first.len()).cloned() {
            let named = keys.names.iter().map(|name| Input::Key(Some(name.as_str())));
            for input in std::iter::once(Input::Key(None)).chain(named).chain([Input::Index]) {
                let target = advance(patterns, &set, input);
                let fresh = StateId::try_from(sets.len()).map_err(|_| TooComplex)?;
                let id = *ids.entry(target.clone()).or_insert(fresh);
                if id == fresh {
                    sets.push(target);
                }
                next.push(id);
            }
            first.push(accepts.len() as u32);
            let complete = set.iter().filter(|(pattern, step)| patterns[*pattern].0.len() == *step);
            accepts.extend(complete.map(|(pattern, _)| patterns[*pattern].1.clone()));
        }
        first.push(accepts.len() as u32);
        let plain = first.windows(2).map(|ends| ends[0] == ends[1]).collect();
        Ok(Self { keys, next, row, first, accepts, plain })
    }

    /// The state of an object's member.
    #[inline]
    pub(crate) fn member(&self, state: StateId, key: &[u8]) -> StateId {
        self.next[state as usize * self.row + self.keys.find(key)]
    }

    /// The state of an array's elements.
    #[inline]
    pub(crate) fn element(&self, state: StateId) -> StateId {
        self.next[(state as usize + 1) * self.row - 1]
    }

    /// How many states there are.
    pub(crate) fn states(&self) -> usize {
        self.plain.len()
    }

    /// Whether no path ends here.
    #[inline]
    pub(crate) fn is_plain(&self, state: StateId) -> bool {
        self.plain[state as usize]
    }

    /// What the paths that end here stand for, in the order they were given.
    #[inline]
    pub(crate) fn accepts(&self, state: StateId) -> &[A] {
        &self.accepts[self.first[state as usize] as usize..self.first[state as usize + 1] as usize]
    }
}

type Places = BTreeSet<(usize, usize)>;

#[derive(Clone, Copy)]
enum Input<'a> {
    /// A key that paths name, or any other.
    Key(Option<&'a str>),
    Index,
}

fn closure<A>(patterns: &[(Vec<Step>, A)], places: impl Iterator<Item = (usize, usize)>) -> Places {
    let mut set = Places::new();
    for (pattern, mut step) in places {
        set.insert((pattern, step));
        while patterns[pattern].0.get(step) == Some(&Step::AnyDepth) {
            step += 1;
            set.insert((pattern, step));
        }
    }
    set
}

fn advance<A>(patterns: &[(Vec<Step>, A)], set: &Places, input: Input<'_>) -> Places {
    let next = set.iter().filter_map(|&(pattern, step)| {
        let matched = match (patterns[pattern].0.get(step)?, input) {
            (Step::AnyDepth, _) => return Some((pattern, step)),
            (Step::Key(name), Input::Key(key)) => key == Some(name.as_str()),
            (Step::AnyKey, Input::Key(_)) | (Step::AnyIndex, Input::Index) => true,
            _ => false,
        };
        matched.then_some((pattern, step + 1))
    });
    closure(patterns, next)
}

/// The keys that paths name, numbered from 1.
///
/// Most keys are none of them: those fail at an empty slot, found by length, first and last byte.
#[derive(Debug)]
struct KeyTable {
    names: Vec<String>,
    /// By slot, the first of its keys; 0: none.
    first: [u16; 256],
    /// By key, the next one of its slot.
    next: Vec<u16>,
}

impl Default for KeyTable {
    fn default() -> Self {
        Self { names: Vec::new(), first: [0; 256], next: vec![0] }
    }
}

impl KeyTable {
    /// Adds a key, unless it is there or there is no number left.
    fn add(&mut self, name: &str) -> Result<(), TooComplex> {
        if self.find(name.as_bytes()) != OTHER {
            return Ok(());
        }
        self.names.push(name.to_owned());
        let number = u16::try_from(self.names.len()).map_err(|_| TooComplex)?;
        let slot = slot(name.as_bytes());
        self.next.push(self.first[slot]);
        self.first[slot] = number;
        Ok(())
    }

    #[inline]
    fn find(&self, key: &[u8]) -> usize {
        match self.first[slot(key)] {
            0 => OTHER,
            number => self.find_from(usize::from(number), key),
        }
    }

    #[inline(never)]
    fn find_from(&self, mut number: usize, key: &[u8]) -> usize {
        while number != OTHER && !equal(self.names[number - 1].as_bytes(), key) {
            number = usize::from(self.next[number]);
        }
        number
    }
}

/// Whether two keys are the same, without a call for those of usual length: their first and last halves overlap.
#[inline]
fn equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    match left.len() {
        8..=16 => {
            left.first_chunk::<8>() == right.first_chunk() && left.last_chunk::<8>() == right.last_chunk()
        }
        4..=7 => {
            left.first_chunk::<4>() == right.first_chunk() && left.last_chunk::<4>() == right.last_chunk()
        }
        _ => left == right,
    }
}

#[inline]
fn slot(key: &[u8]) -> usize {
    let byte = |byte: Option<&u8>| byte.copied().unwrap_or_default();
    let mixed = byte(key.first()).wrapping_mul(7) ^ byte(key.last()).wrapping_mul(29);
    usize::from(mixed.wrapping_add((key.len() as u8).wrapping_mul(43)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::path::parse, *};

    fn check(automaton: &Automaton<&'static str>, position: &[&str], expected: &[&str]) {
        let state = position.iter().fold(Automaton::<&str>::ROOT, |state, step| match *step {
            "[]" => automaton.element(state),
            key => automaton.member(state, key.as_bytes()),
        });
        assert_eq!(automaton.accepts(state), expected, "{position:?}");
    }

    proptest! {
        #[test]
        fn keys_are_equal_byte_by_byte(left in "[ab]{0,20}", right in "[ab]{0,20}", at in 0usize..20) {
            let mut near = left.clone().into_bytes();
            if let Some(byte) = near.get_mut(at) {
                *byte = b'c';
            }
            prop_assert_eq!(equal(left.as_bytes(), right.as_bytes()), left == right);
            prop_assert_eq!(equal(left.as_bytes(), &near), at >= left.len());
            prop_assert!(equal(left.as_bytes(), left.as_bytes()));
        }
    }

    #[test]
    fn positions_are_matched_against_all_paths_at_once() {
        let patterns: Vec<_> = ["data.*", "items[*].data.*", "**.env[*].value", "data.special", "*[*]"]
            .into_iter()
            .map(|path| (parse(path).unwrap(), path))
            .collect();
        let automaton = Automaton::new(&patterns).unwrap();
        check(&automaton, &[], &[]);
        check(&automaton, &["data"], &[]);
        check(&automaton, &["data", "x"], &["data.*"]);
        check(&automaton, &["data", "special"], &["data.*", "data.special"]);
        check(&automaton, &["data", "[]"], &["*[*]"]);
        check(&automaton, &["data", "x", "y"], &[]);
        check(&automaton, &["items", "[]", "data", "env"], &["items[*].data.*"]);
        check(&automaton, &["env", "[]", "value"], &["**.env[*].value"]);
        check(&automaton, &["a", "[]", "env", "env", "[]", "value"], &["**.env[*].value"]);
        check(&automaton, &["a", "env", "x", "value"], &[]);
    }
}
