//! All paths of all rules as one deterministic automaton, so that the cost of a key does not grow with the number of rules.
//!
//! A state belongs to a *value*: the set of places in the paths that its position can be at. A key takes one lookup (most
//! fail a filter on their length and first byte) and one table read.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasherDefault, Hasher},
};

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
                    keys.add(key);
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
        Ok(Self { keys, next, row, first, accepts })
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
#[derive(Debug, Default)]
struct KeyTable {
    names: Vec<String>,
    numbers: HashMap<Box<[u8]>, usize, BuildHasherDefault<Fnv>>,
    /// By first byte, the lengths (modulo 64) that occur.
    lengths: HashFilter,
}

#[derive(Debug)]
struct HashFilter([u64; 256]);

impl Default for HashFilter {
    fn default() -> Self {
        Self([0; 256])
    }
}

impl KeyTable {
    fn add(&mut self, name: &str) {
        if self.numbers.contains_key(name.as_bytes()) {
            return;
        }
        self.names.push(name.to_owned());
        self.numbers.insert(name.as_bytes().into(), self.names.len());
        let first = name.as_bytes().first().copied().unwrap_or_default();
        self.lengths.0[first as usize] |= 1 << (name.len() % 64);
    }

    #[inline]
    fn find(&self, key: &[u8]) -> usize {
        let first = key.first().copied().unwrap_or_default();
        if self.lengths.0[first as usize] & (1 << (key.len() % 64)) == 0 {
            return OTHER;
        }
        self.numbers.get(key).copied().unwrap_or(OTHER)
    }
}

/// FNV-1a: quick on short keys. The table's own names are trusted, so nobody can make it collide.
#[derive(Default)]
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::path::parse, *};

    fn check(automaton: &Automaton<&'static str>, position: &[&str], expected: &[&str]) {
        let state = position.iter().fold(Automaton::<&str>::ROOT, |state, step| match *step {
            "[]" => automaton.element(state),
            key => automaton.member(state, key.as_bytes()),
        });
        assert_eq!(automaton.accepts(state), expected, "{position:?}");
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
