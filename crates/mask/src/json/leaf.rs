//! A value that rules look at: what was read of it, and what may happen to it.

use bytes::Bytes;

use super::Scalar;
use crate::{
    Action,
    detect::DetectorSet,
    rules::{Accept, RuleId, Scope},
    token::{Fingerprint, ValueReader},
};

/// A rule that may mask a value, and on what it depends.
pub(super) struct Candidate {
    pub(super) rule: RuleId,
    pub(super) base64: bool,
    /// The object that the value belongs to: an open container, by depth.
    pub(super) anchor: usize,
    /// Where in the path the object's own part begins, once the value has been read.
    pub(super) path_from: usize,
    /// What the token is bound to, once known for good.
    pub(super) bound: Option<Bytes>,
    /// Only if the container at this depth is of one of these kinds; as an item of a list, if `list`.
    pub(super) kinds: Option<KindCondition>,
    /// Only if this clause holds in the container at this depth.
    pub(super) clause: Option<(u8, usize)>,
    /// Only if the rule is for the object at this depth.
    pub(super) subject: Option<usize>,
    /// The value is a Table's cell: its token must equal no other.
    pub(super) cell: bool,
}

#[derive(Clone, Copy)]
pub(super) struct KindCondition {
    pub(super) kinds: u64,
    pub(super) depth: usize,
    pub(super) list: bool,
}

impl Candidate {
    /// A rule that masks the value, whatever else is known.
    pub(super) fn new(rule: RuleId, base64: bool, anchor: usize) -> Self {
        Self {
            rule,
            base64,
            anchor,
            path_from: 0,
            bound: None,
            kinds: None,
            clause: None,
            subject: None,
            cell: false,
        }
    }

    pub(super) fn is_certain(&self) -> bool {
        self.kinds.is_none() && self.clause.is_none() && self.subject.is_none() && self.bound.is_some()
    }
}

/// A string that holds JSON, by some rule.
pub(super) struct Nested {
    pub(super) rule: RuleId,
    pub(super) anchor: usize,
    pub(super) path_from: usize,
    pub(super) bound: Option<Bytes>,
    /// What the document is presumed to be, once its object is closed.
    pub(super) presumed: Option<Presumed>,
    /// The string is a Table's cell.
    pub(super) cell: bool,
}

/// What an object is presumed to be before it has said so.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Presumed {
    pub(super) kinds: u64,
    pub(super) decided: bool,
    /// A document that never says its kind counts as of every kind, and a sibling that is missing as one that matches.
    pub(super) suspect: bool,
}

/// What of a value must be kept until it is decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    Nothing,
    /// What it says about its object, and nothing else.
    Said,
    Fingerprint,
    Text,
}

/// What was kept.
pub(super) enum Kept {
    Nothing,
    Fingerprint(Fingerprint),
    Text(Vec<u8>),
}

/// A value whose fate is not decided yet.
pub(super) struct Waiting {
    /// `None` for a string.
    pub(super) scalar: Option<Scalar>,
    /// As it came, quotes included.
    pub(super) original: Vec<Bytes>,
    pub(super) kept: Kept,
    pub(super) path: Vec<u8>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) nested: Option<Nested>,
}

impl Waiting {
    pub(super) fn cost(&self) -> usize {
        let kept = if let Kept::Text(text) = &self.kept { text.len() } else { 0 };
        self.original.iter().map(Bytes::len).sum::<usize>() + kept + self.path.len()
    }
}

/// The value that is being read.
#[derive(Default)]
pub(super) struct Leaf {
    /// Whether anything is to be done at its end.
    pub(super) active: bool,
    /// Whether it may be replaced: then it is not handed on as it comes.
    pub(super) masking: bool,
    /// Whether it certainly is: then the original need not be kept.
    pub(super) certain: bool,
    pub(super) scalar: Option<Scalar>,
    /// Where it starts in the current chunk.
    pub(super) start: usize,
    pub(super) need: NeedState,
    pub(super) original: Vec<Bytes>,
    pub(super) original_len: usize,
    pub(super) candidates: Vec<Candidate>,
    pub(super) nested: Option<Nested>,
    pub(super) captures: Captures,
    /// What detectors look for in it, if nothing else may happen to it.
    pub(super) searched: Option<DetectorSet>,
    /// For the text of a value that is looked at and passes.
    pub(super) spare: Vec<u8>,
}

#[derive(Default)]
pub(super) enum NeedState {
    #[default]
    Nothing,
    /// Kept by the masker: such values are many, and short.
    Said,
    Fingerprint(ValueReader),
    Text(Vec<u8>),
}

/// What the value says about its object.
#[derive(Clone, Copy, Default)]
pub(super) struct Captures {
    pub(super) kind: bool,
    pub(super) uid: bool,
    pub(super) namespace: bool,
    pub(super) name: bool,
    pub(super) kind_of: bool,
    pub(super) label: Option<u8>,
    /// It is the name of a Table's column.
    pub(super) column: bool,
    /// The clauses that look at it.
    pub(super) clauses: u32,
}

impl Captures {
    /// Notes what a value says at which a path ends that stands for that. False for all other paths.
    #[inline]
    pub(super) fn note(&mut self, accept: Accept) -> bool {
        match accept {
            Accept::Sibling(clause) => self.clauses |= 1 << clause,
            Accept::Kind => self.kind = true,
            Accept::Uid => self.uid = true,
            Accept::Name => self.name = true,
            Accept::Namespace => self.namespace = true,
            Accept::Type => self.kind_of = true,
            Accept::Label(label) => self.label = Some(label),
            _ => return false,
        }
        true
    }

    pub(super) fn any(self) -> bool {
        self.kind
            || self.uid
            || self.namespace
            || self.name
            || self.kind_of
            || self.label.is_some()
            || self.column
            || self.clauses != 0
    }
}

/// How much of a kind, a name or a clause's sibling is read.
pub(super) const CAPTURE_LIMIT: usize = 512;

impl Leaf {
    /// Works out what must be kept of a string, and starts with it.
    pub(super) fn start_string(&mut self, scope: &Scope) {
        let mut need = match (self.nested.is_some(), self.captures.any()) {
            (true, _) => Need::Text,
            (false, true) if !self.masking => Need::Said,
            (false, true) => Need::Text,
            (false, false) => Need::Nothing,
        };
        for candidate in &self.candidates {
            let wanted = match scope.action(candidate.rule) {
                _ if scope.searches(candidate.rule) => Need::Text,
                Action::Hash => Need::Fingerprint,
                Action::Partial => Need::Text,
                Action::Redact | Action::Drop => Need::Nothing,
            };
            need = match (need, wanted) {
                (need, Need::Nothing) => need,
                (Need::Nothing, wanted) => wanted,
                (need, wanted) if need == wanted => need,
                _ => Need::Text,
            };
        }
        self.need = match need {
            Need::Nothing => NeedState::Nothing,
            Need::Said => NeedState::Said,
            Need::Fingerprint => NeedState::Fingerprint(ValueReader::default()),
            Need::Text => {
                let mut text = std::mem::take(&mut self.spare);
                text.clear();
                NeedState::Text(text)
            }
        };
    }
}
