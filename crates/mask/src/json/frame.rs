//! What is known of a container that is still open.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;

use super::skim::Level;
use crate::rules::{RuleBits, RuleId, StateId};

/// An open container. There are many, most are nothing special, and their facts are kept elsewhere: see [`Frames`].
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) object: bool,
    /// An element of some `items`.
    pub(super) list_item: bool,
    /// Some object's `metadata`.
    pub(super) metadata: bool,
    pub(super) state: StateId,
    /// How many elements have been seen.
    pub(super) index: u32,
    /// Where in the chunk the member or element begins whose value it is, as long as nothing has come of what is in it, and nothing
    /// in it has to do with what is around it; else [`NOWHERE`].
    pub(super) from: usize,
    /// What leads here from the container around it.
    step: Step,
    /// How much of the path leads here, if it is written so far.
    path_len: usize,
    /// The nearest Kubernetes object: this container, one around it, or else the document.
    pub(super) nearest: usize,
    /// Where it is said what happens to all in it; 0 if nothing does.
    cover: u32,
    /// Where its facts are.
    facts: u32,
}

impl Frame {
    /// Nothing special: what is true of all in the container around it is true of all in this one.
    pub(super) fn within(parent: Option<&Self>, object: bool, state: StateId) -> Self {
        Self {
            object,
            list_item: false,
            metadata: false,
            state,
            index: 0,
            from: NOWHERE,
            step: Step::Written,
            path_len: 0,
            nearest: parent.map_or(0, |parent| parent.nearest),
            cover: parent.map_or(0, |parent| parent.cover),
            facts: 0,
        }
    }
}

/// Where nothing begins.
pub(super) const NOWHERE: usize = usize::MAX;

/// What happens to all that is in a container.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) struct Cover {
    /// Everything is masked.
    pub(super) inside: Option<Inside>,
    /// All strings are searched by these.
    pub(super) searching: RuleBits,
    /// That is so because it is a Table's cell, or inside one.
    pub(super) cell: bool,
}

/// The last step of a path.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// It is in the path.
    Written,
    /// It is a key: where that lies in the chunk.
    Key(usize, usize),
    /// It is an index.
    Index(u32),
}

/// The open containers, what is known of them, and the way to the current value.
///
/// Few containers have anything to be known, and few values need their path: facts are kept apart, for those that have any,
/// and the path is written as late as can be, which is when a value needs it, or when the chunk ends that it lies in.
pub(super) struct Frames {
    open: Vec<Frame>,
    /// Of how many of them, the outer ones, something has come.
    touched: usize,
    /// At 0 those of every container of which nothing is known.
    facts: Vec<Facts>,
    free: Vec<u32>,
    /// At 0 that of every container to whose content nothing happens; then one after another, as containers differ from the
    /// ones around them.
    covers: Vec<Cover>,
    /// From the document's root to the current container, or value, for tokens: keys after 0, indexes after 1.
    path: Vec<u8>,
    /// How many containers have their step in the path.
    written: usize,
    /// What leads on from there to the current value.
    step: Step,
}

impl Default for Frames {
    fn default() -> Self {
        let mut facts = Vec::with_capacity(4);
        facts.push(Facts::default());
        Self {
            open: Vec::with_capacity(8),
            touched: 0,
            facts,
            free: Vec::new(),
            covers: vec![Cover::default()],
            path: Vec::with_capacity(64),
            written: 0,
            step: Step::Written,
        }
    }
}

impl Deref for Frames {
    type Target = [Frame];

    #[inline]
    fn deref(&self) -> &[Frame] {
        &self.open
    }
}

impl DerefMut for Frames {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Frame] {
        &mut self.open
    }
}

impl Frames {
    /// The current value is the container.
    #[inline]
    pub(super) fn push(&mut self, frame: Frame) {
        let step = std::mem::replace(&mut self.step, Step::Written);
        self.push_after(step, frame);
    }

    /// The current value is a container, which begins at `at`.
    #[inline]
    pub(super) fn begin(&mut self, frame: &mut Frame, at: usize) {
        frame.from = match self.step {
            Step::Key(key, _) => key - 1,
            Step::Index(_) => at,
            Step::Written => NOWHERE,
        };
    }

    /// What is in the containers deeper than this has to do with what is in this one.
    #[inline]
    pub(super) fn touch(&mut self, depth: usize) {
        let deeper = self.open.get_mut(depth + 1..).unwrap_or_default();
        deeper.iter_mut().for_each(|frame| frame.from = NOWHERE);
    }

    /// Something has come of what is in the open containers.
    #[inline]
    pub(super) fn touch_all(&mut self) {
        self.touched = self.open.len();
    }

    /// Where in the chunk the member or element begins whose value is the innermost container, if what is in it is of no
    /// consequence, there and wherever it comes again.
    #[inline]
    pub(super) fn of_no_consequence(&self) -> Option<usize> {
        let top = self.open.get(self.touched..)?.last()?;
        (top.from != NOWHERE).then_some(top.from)
    }

    #[inline]
    fn push_after(&mut self, step: Step, mut frame: Frame) {
        frame.step = step;
        frame.path_len = self.path.len();
        // What is written is written whole, up to the value.
        if matches!(frame.step, Step::Written) {
            self.written = self.open.len() + 1;
        }
        self.open.push(frame);
    }

    /// The innermost container ends. Says whether it was some object's `metadata`.
    #[inline]
    pub(super) fn pop(&mut self) -> bool {
        let Some(Frame { facts, cover, metadata, .. }) = self.open.pop() else { return false };
        self.touched = self.touched.min(self.open.len());
        if facts != 0 {
            self.facts[facts as usize].clear();
            self.free.push(facts);
        }
        if cover != self.open.last().map_or(0, |around| around.cover) {
            self.covers.truncate(cover as usize);
        }
        if self.written > self.open.len() {
            self.written = self.open.len();
            self.path.truncate(self.open.last().map_or(0, |top| top.path_len));
        }
        self.step = Step::Written;
        metadata
    }

    /// What is known of the container at this depth.
    #[inline]
    pub(super) fn facts(&self, depth: usize) -> &Facts {
        &self.facts[self.open[depth].facts as usize]
    }

    /// What happens to all that is in a container, if anything does.
    #[inline]
    pub(super) fn cover(&self, frame: &Frame) -> Option<Cover> {
        (frame.cover != 0).then(|| self.covers[frame.cover as usize])
    }

    /// This happens to all that is in a container, which starts in the innermost one.
    pub(super) fn put_under(&mut self, frame: &mut Frame, cover: Cover) {
        if cover != self.covers[frame.cover as usize] {
            frame.cover = self.covers.len() as u32;
            self.covers.push(cover);
        }
    }

    pub(super) fn facts_mut(&mut self, depth: usize) -> &mut Facts {
        if self.open[depth].facts == 0 {
            self.open[depth].facts = self.free.pop().unwrap_or_else(|| {
                self.facts.push(Facts::default());
                self.facts.len() as u32 - 1
            });
        }
        let facts = self.open[depth].facts;
        &mut self.facts[facts as usize]
    }

    /// The current value is a member, whose key lies in the chunk as it is.
    #[inline]
    pub(super) fn member(&mut self, at: usize, length: usize) {
        self.step = Step::Key(at, length);
    }

    /// The current value is a member, whose key does not lie in the chunk.
    pub(super) fn member_apart(&mut self, key: &[u8], chunk: &[u8]) {
        self.step = Step::Written;
        self.write_path(chunk);
        self.path.truncate(self.open.last().map_or(0, |top| top.path_len));
        self.path.push(0);
        self.path.extend_from_slice(key);
    }

    /// The current value is the next element, if an array is open.
    #[inline]
    pub(super) fn element(&mut self) {
        if let Some(top) = self.open.last_mut()
            && !top.object
        {
            self.step = Step::Index(top.index);
            top.index = top.index.wrapping_add(1);
        }
    }

    /// Values have been passed over that are nothing special, and these containers are open now: the innermost one, and others
    /// in it.
    pub(super) fn passed_over(&mut self, levels: &[Level]) {
        let Some((outer, inner)) = levels.split_first() else { return };
        self.count_elements(outer.elements);
        for level in inner {
            let Some(around) = self.open.last() else { return };
            let step = match around.object {
                true => Step::Key(level.from + 1, level.key),
                false => Step::Index(around.index.wrapping_sub(1)),
            };
            let index = if level.object { 0 } else { level.elements };
            let within = Frame::within(Some(around), level.object, level.state);
            self.push_after(step, Frame { index, from: level.from, ..within });
        }
    }

    fn count_elements(&mut self, elements: u32) {
        if let Some(top) = self.open.last_mut() {
            top.index = top.index.wrapping_add(elements);
        }
    }

    /// Makes the path lead to the current value.
    pub(super) fn write_path(&mut self, chunk: &[u8]) {
        let Self { open, path, written, step, .. } = self;
        for depth in *written..open.len() {
            path.truncate(depth.checked_sub(1).map_or(0, |outer| open[outer].path_len));
            open[depth].step.write(path, chunk);
            open[depth].path_len = path.len();
        }
        *written = open.len();
        match step {
            Step::Written => {}
            step => {
                path.truncate(open.last().map_or(0, |top| top.path_len));
                step.write(path, chunk);
                *step = Step::Written;
            }
        }
    }

    /// From the root to the current value, once written.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// How much of the path, once written, leads to the container at this depth.
    pub(super) fn path_len(&self, depth: usize) -> usize {
        self.open[depth].path_len
    }
}

impl Step {
    fn write(self, path: &mut Vec<u8>, chunk: &[u8]) {
        match self {
            Self::Written => {}
            Self::Key(start, length) => {
                path.push(0);
                path.extend_from_slice(&chunk[start..start + length]);
            }
            Self::Index(index) => {
                path.push(1);
                path.extend_from_slice(&index.to_be_bytes());
            }
        }
    }
}

/// A container that a rule masks: all values in it.
#[derive(Clone, Copy, PartialEq)]
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
    pub(super) names: Names,
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
    /// Nothing is known any more. What held its names will hold others.
    fn clear(&mut self) {
        let mut names = std::mem::take(&mut self.names);
        for name in [&mut names.uid, &mut names.namespace, &mut names.name] {
            name.clear();
        }
        *self = Self { names, ..Self::default() };
    }

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
