//! What is known of a container that is still open.

use bytes::Bytes;

use crate::rules::{RuleId, StateId};

/// An open container.
pub(super) struct Frame {
    pub(super) object: bool,
    pub(super) state: StateId,
    /// How many elements have been seen.
    pub(super) index: u32,
    /// How much of the path leads here.
    pub(super) path_len: usize,
    /// The nearest Kubernetes object: this container, one around it, or else the document.
    pub(super) nearest: usize,
    /// Everything inside is masked.
    pub(super) inside: Option<Inside>,
    /// An element of some `items`.
    pub(super) list_item: bool,
    /// Some object's `metadata`.
    pub(super) metadata: bool,
    pub(super) facts: Facts,
}

/// A container that a rule masks: all values in it.
#[derive(Clone, Copy)]
pub(super) struct Inside {
    pub(super) rule: RuleId,
    pub(super) base64: bool,
    pub(super) anchor: usize,
}

/// What an object has said of itself so far.
#[derive(Default)]
pub(super) struct Facts {
    /// The kinds it is of, as bits.
    pub(super) kinds: u64,
    /// The kinds its items are of, should it be a list.
    pub(super) list_kinds: u64,
    /// Whether it is of no other kind, as far as anybody has said.
    pub(super) decided: bool,
    /// Kinds that a value relied on it not to be of, and was passed.
    pub(super) denied: u64,
    /// `where` clauses that have been looked at, that hold, and that a value relied on not to hold.
    pub(super) clauses: u32,
    pub(super) clauses_true: u32,
    pub(super) clauses_denied: u32,
    pub(super) metadata_done: bool,
    pub(super) names: Option<Box<Names>>,
    /// What tokens of its values are bound to, once a value has needed it.
    pub(super) bound: Option<Bytes>,
    /// Its `type`, if a rule asks for that.
    pub(super) kind_of: Option<Box<[u8]>>,
    /// Which of the labels that rules ask for it has.
    pub(super) labels: u64,
    /// Whether a value's fate has depended on what it says of itself besides its kind.
    pub(super) consulted: bool,
    pub(super) closed: bool,
    /// The first held value that waits for something said here.
    pub(super) waiting_from: Option<u64>,
}

/// Which object it is.
#[derive(Default)]
pub(super) struct Names {
    pub(super) uid: Vec<u8>,
    pub(super) namespace: Vec<u8>,
    pub(super) name: Vec<u8>,
}

/// Whether a condition holds, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Truth {
    True,
    False,
    Unknown,
}

impl Facts {
    /// Whether the object is of one of `kinds`.
    pub(super) fn is_of(&self, kinds: u64) -> Truth {
        match () {
            () if self.kinds & kinds != 0 => Truth::True,
            () if self.decided => Truth::False,
            () => Truth::Unknown,
        }
    }

    /// Whether the sibling that a clause looks at matches.
    pub(super) fn clause(&self, clause: u8) -> Truth {
        let bit = 1 << clause;
        match () {
            () if self.clauses_true & bit != 0 => Truth::True,
            () if self.clauses & bit != 0 => Truth::False,
            () => Truth::Unknown,
        }
    }

    /// The object has said its kind. False if it contradicts what was relied on.
    pub(super) fn say_kind(&mut self, kinds: u64, list_kinds: u64) -> bool {
        self.kinds |= kinds;
        self.list_kinds |= list_kinds;
        self.decided = true;
        (kinds | list_kinds) & self.denied == 0
    }

    /// A clause has been looked at. False if that contradicts what was relied on.
    pub(super) fn say_clause(&mut self, clause: u8, holds: bool) -> bool {
        let bit = 1 << clause;
        self.clauses |= bit;
        if holds {
            self.clauses_true |= bit;
        }
        !holds || self.clauses_denied & bit == 0
    }

    pub(super) fn wait(&mut self, from: u64) {
        self.waiting_from = Some(self.waiting_from.map_or(from, |earlier| earlier.min(from)));
    }
}
