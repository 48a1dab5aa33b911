//! The masker: rides on the scanner, replaces what rules select, and hands on everything else as it came.

use bytes::Bytes;

use super::{
    Handler, Interest, Scalar, Scanner, Trace,
    frame::{Cover, Frame, Frames, Truth},
    held::Held,
    leaf::{CAPTURE_LIMIT, Candidate, Captures, KindCondition, Leaf, NeedState, Nested, Presumed},
    memo::Memo,
    skim::{Level, Quiet, Search, SearchedState},
    table::Columns,
};
use crate::{
    MaskError, MaskErrorKind, Piece,
    detect::{DetectorSet, finds},
    rules::{Accept, Anchor, Automaton, RuleBits, RuleId, Scope, StateId},
};

/// Masks one JSON document, or a sequence of them, chunk by chunk.
///
/// Memory grows with nesting, not with length; what is not masked comes out as slices of what went in. Where the fate of a
/// value depends on what comes after it, such as its object's kind, it is held back with all that follows, up to
/// [`Limits::held_bytes`](crate::Limits).
pub struct Masker {
    scanner: Scanner,
    /// Apart: allocators give out two small pieces of memory faster than a large one.
    core: Box<Core>,
}

impl Masker {
    /// For one document.
    pub fn new(scope: Scope) -> Self {
        Self::with(scope, false, None)
    }

    /// For any number of documents, one after another: a watch, or JSON lines.
    pub fn sequence(scope: Scope) -> Self {
        Self::with(scope, true, None)
    }

    /// For one document of a request, such as a patch: what leaves open whether it is a secret is taken for one.
    pub(crate) fn suspicious(scope: Scope) -> Self {
        let mut origin = Origin::of(&scope);
        origin.presumed.suspect = true;
        Self::with(scope, false, Some(origin))
    }

    fn with(scope: Scope, sequence: bool, origin: Option<Origin>) -> Self {
        let origin = origin.unwrap_or_else(|| Origin::of(&scope));
        let scanner = Scanner::new(scope.limits().depth, scope.limits().key_bytes, sequence);
        Self { scanner, core: Box::new(Core::new(scope, origin)) }
    }

    /// With what earlier documents of a watch have defined.
    pub(crate) fn with_columns(mut self, columns: Columns) -> Self {
        self.core.columns = columns;
        self
    }

    /// What later documents need to know.
    pub(crate) fn into_columns(self) -> Columns {
        self.core.columns
    }

    /// Keeps what is replaced, and by which rule: as much memory as there are such values.
    pub(crate) fn traced(mut self) -> Self {
        self.core.trace = Some(Trace::new());
        self
    }

    /// What was replaced since this was last asked, if that is kept.
    pub(crate) fn take_trace(&mut self) -> Option<Trace> {
        self.core.trace.as_mut().map(std::mem::take)
    }

    /// Takes a chunk, and appends what can be handed on to `out`.
    ///
    /// # Errors
    ///
    /// [`MaskError`] for what is not JSON or exceeds a limit. It is final, and nothing of this chunk is appended.
    pub fn push(&mut self, chunk: Bytes, out: &mut Vec<Piece>) -> Result<(), MaskError> {
        self.core.chunk = chunk.clone();
        self.core.passed = 0;
        self.scanner.push(&chunk, &mut *self.core)?;
        self.core.end_of_chunk().map_err(|kind| self.scanner.fail(kind, 0))?;
        out.append(&mut self.core.out);
        Ok(())
    }

    /// The stream has ended.
    ///
    /// # Errors
    ///
    /// [`MaskError`] if it ended inside a document, or, unless it is a sequence, without one.
    pub fn finish(&mut self, out: &mut Vec<Piece>) -> Result<(), MaskError> {
        self.core.chunk = Bytes::new();
        self.core.passed = 0;
        self.scanner.finish(&mut *self.core)?;
        out.append(&mut self.core.out);
        Ok(())
    }

    /// Whether anything but white space has been seen.
    pub fn started(&self) -> bool {
        self.scanner.started()
    }

    /// How many values each rule replaced since this was last asked.
    pub fn take_counts(&mut self) -> Vec<(String, u64)> {
        let named = |(rule, count)| (self.core.scope.name(rule).to_owned(), count);
        std::mem::take(&mut self.core.counts).into_iter().map(named).collect()
    }

    /// For a document inside a string of another.
    pub(super) fn nested(scope: Scope, origin: Origin) -> Self {
        Self::with(scope, false, Some(origin))
    }

    pub(super) fn counts(&self) -> &[(RuleId, u64)] {
        &self.core.counts
    }
}

/// Where a document comes from.
pub(super) struct Origin {
    pub(super) presumed: Presumed,
    /// What tokens are bound to, if not to what the document's objects say of themselves.
    pub(super) binding: Option<Bytes>,
    /// In how many strings it is.
    pub(super) nesting: u8,
}

impl Origin {
    fn of(scope: &Scope) -> Self {
        Self {
            presumed: Presumed { kinds: scope.presumed, decided: scope.decided, suspect: false },
            // Outside Kubernetes nothing in a document tells which object it is.
            binding: (!scope.is_kubernetes()).then(|| scope.binding(b"", b"", b"")),
            nesting: 0,
        }
    }
}

/// How far below a Table's own container the one is that its cells lie in: `rows[*].cells`.
const CELL_BELOW_TABLE: usize = 3;

/// What is looked for in strings; `None` if more may happen to them.
type Searched = Option<DetectorSet>;

pub(super) struct Core {
    pub(super) scope: Scope,
    pub(super) origin: Origin,
    chunk: Bytes,
    /// Up to here the chunk has been handed on, or replaced.
    passed: usize,
    pub(super) frames: Frames,
    /// The value's state, if nothing has been asked about it yet but what is looked for in it.
    unasked: Option<StateId>,
    /// What is known of states: of containers if all around them is searched for `searched_for`.
    searched: Vec<SearchedState>,
    searched_for: RuleBits,
    pub(super) memo: Memo,
    /// What a value that only says something about its object says.
    said: Vec<u8>,
    /// For the text of a token.
    token: String,
    /// The state of the next value: set by its key, or by the array.
    next_state: StateId,
    in_array: bool,
    /// The innermost container's state, if values in it may be passed over.
    quiet: Option<StateId>,
    /// Whether everything in the innermost container is masked; and what is looked for there, if it is only searched.
    inside: bool,
    searched_inside: Searched,
    pub(super) key_rules: Vec<RuleId>,
    pub(super) columns: Columns,
    pub(super) leaf: Leaf,
    pub(super) held: Held,
    pub(super) out: Vec<Piece>,
    pub(super) counts: Vec<(RuleId, u64)>,
    pub(super) trace: Option<Trace>,
}

impl Core {
    fn new(scope: Scope, origin: Origin) -> Self {
        Self {
            scope,
            origin,
            chunk: Bytes::new(),
            passed: 0,
            frames: Frames::default(),
            unasked: None,
            searched: Vec::new(),
            searched_for: 0,
            memo: Memo::default(),
            said: Vec::new(),
            token: String::new(),
            next_state: Automaton::<Accept>::ROOT,
            in_array: false,
            quiet: None,
            inside: false,
            searched_inside: Some(DetectorSet::default()),
            key_rules: Vec::new(),
            columns: Columns::default(),
            leaf: Leaf::default(),
            held: Held::default(),
            out: Vec::new(),
            counts: Vec::new(),
            trace: None,
        }
    }

    /// The state of the value that starts now.
    #[inline]
    fn enter_value(&mut self) -> StateId {
        if self.in_array {
            self.frames.element();
        }
        self.next_state
    }

    /// Another container is the innermost one.
    #[inline]
    pub(super) fn enter_container(&mut self) {
        let Some(top) = self.frames.last() else {
            (self.in_array, self.inside, self.next_state) = (false, false, Automaton::<Accept>::ROOT);
            self.quiet = None;
            return;
        };
        if let Some(cover) = self.frames.cover(top) {
            self.inside = true;
            self.searched_inside = match cover.inside {
                Some(_) => None,
                None => rules_of(cover.searching)
                    .try_fold(DetectorSet::default(), |all, rule| Some(all.union(self.scope.glance(rule)?))),
            };
            if cover.searching != self.searched_for {
                self.searched_for = cover.searching;
                self.searched.iter_mut().for_each(|state| state.containers = false);
            }
        } else {
            (self.inside, self.searched_inside) = (false, Some(DetectorSet::default()));
        }
        self.in_array = !top.object;
        self.quiet = (self.searched_inside.is_some() && !self.scope.has_keys).then_some(top.state);
        if self.in_array {
            self.next_state = self.scope.automaton().element(top.state);
            self.key_rules.clear();
        }
    }

    /// Whether no rule says anything about the value in this state.
    #[inline]
    pub(super) fn is_plain(&self, state: StateId) -> bool {
        !self.inside && self.key_rules.is_empty() && self.scope.automaton().is_plain(state)
    }

    /// What the value in this state says about its object, if nothing can happen to it.
    #[inline]
    fn only_says(&self, state: StateId) -> Option<Captures> {
        if self.inside || self.frames.is_empty() || !self.key_rules.is_empty() {
            return None;
        }
        let mut captures = Captures::default();
        let accepts = self.scope.automaton().accepts(state);
        accepts.iter().all(|accept| captures.note(*accept)).then_some(captures)
    }

    /// What detectors look for in a string in this state, if it is plain that nothing else may happen to it.
    #[inline]
    fn plainly_searched(&mut self, state: StateId) -> Searched {
        if !self.scope.has_searches || self.frames.is_empty() || !self.key_rules.is_empty() {
            return None;
        }
        let inside = self.searched_inside?;
        let known = self.searched_state(state).strings;
        let here = known.unwrap_or_else(|| self.ask_whether_searched(state));
        Some(here?.union(inside))
    }

    #[inline]
    pub(super) fn searched_state(&mut self, state: StateId) -> &mut SearchedState {
        if self.searched.is_empty() {
            self.searched.resize(self.scope.automaton().states(), SearchedState::default());
        }
        &mut self.searched[state as usize]
    }

    fn ask_whether_searched(&mut self, state: StateId) -> Searched {
        let accepts = self.scope.automaton().accepts(state).iter();
        let searched = accepts.copied().try_fold(DetectorSet::default(), |all, accept| match accept {
            Accept::Mask { rule, kubernetes, .. }
                if !self.scope.is_active(rule) || (kubernetes && !self.scope.is_kubernetes()) =>
            {
                Some(all)
            }
            Accept::Cell | Accept::ColumnName if !self.scope.has_columns() => Some(all),
            Accept::Mask { rule, kinds: 0, clause: None, .. } if !self.scope.depends_on_object(rule) => {
                Some(all.union(self.scope.glance(rule)?))
            }
            _ => None,
        });
        self.searched[state as usize].strings = Some(searched);
        searched
    }

    /// What detectors look for in the value, if nothing else may happen to it, and that can be told at a glance.
    fn only_searched(&self) -> Option<DetectorSet> {
        let leaf = &self.leaf;
        if leaf.nested.is_some() {
            return None;
        }
        let mut sets = leaf.candidates.iter().map(|candidate| self.scope.glance(candidate.rule));
        sets.try_fold(DetectorSet::default(), |all, set| Some(all.union(set?)))
    }

    /// Sets up the leaf with everything that rules say about the value in this state.
    pub(super) fn look(&mut self, state: StateId, container: bool) {
        let leaf = &mut self.leaf;
        leaf.active = false;
        leaf.masking = false;
        leaf.scalar = None;
        leaf.captures = Captures::default();
        leaf.nested = None;
        leaf.candidates.clear();
        let Some(depth) = self.frames.len().checked_sub(1) else { return };
        // The outermost container whose facts have been asked for.
        let mut asked = depth;
        // Of what somebody writes, and may not say all, every rule is for it.
        let suspect = self.origin.presumed.suspect;
        let asks = |rule| !suspect && self.scope.depends_on_object(rule);
        let Frame { nearest, .. } = self.frames[depth];
        let Cover { inside, searching, cell } = self.frames.cover(&self.frames[depth]).unwrap_or_default();
        if let Some(inside) = inside {
            leaf.candidates
                .push(Candidate { cell, ..Candidate::new(inside.rule, inside.base64, inside.anchor) });
        }
        for rule in rules_of(searching) {
            leaf.candidates.push(Candidate { cell, ..Candidate::new(rule, false, nearest) });
        }
        for accept in self.scope.automaton().accepts(state) {
            match *accept {
                Accept::Mask { rule, base64, anchor, kinds, clause, kubernetes, leaf: no_container } => {
                    let is_for_us =
                        (!kubernetes || self.scope.is_kubernetes()) && !(no_container && container);
                    if !self.scope.is_active(rule) || !is_for_us || searching & (1 << rule) != 0 {
                        continue;
                    }
                    let anchor = match anchor {
                        Anchor::Up(levels) => (depth + 1).saturating_sub(levels as usize),
                        Anchor::Object => nearest,
                    };
                    if kinds != 0 || asks(rule) {
                        asked = asked.min(anchor);
                    }
                    let mut condition =
                        (kinds != 0).then_some(KindCondition { kinds, depth: anchor, list: false });
                    if kinds != 0 && !self.scope.holds_unknown(rule) {
                        if self.frames.facts(anchor).is_of(kinds) != Truth::True {
                            continue;
                        }
                        condition = None;
                    }
                    leaf.candidates.push(Candidate {
                        kinds: condition,
                        clause: clause.map(|clause| (clause, depth)),
                        subject: asks(rule).then_some(anchor),
                        ..Candidate::new(rule, base64, anchor)
                    });
                }
                Accept::Json { rule, up } if self.scope.is_active(rule) => {
                    let anchor = (depth + 1).saturating_sub(up as usize);
                    leaf.nested =
                        Some(Nested { rule, anchor, path_from: 0, bound: None, presumed: None, cell: false });
                }
                Accept::Cell if self.scope.has_columns() => {
                    asked = 0;
                    let number = self.frames[depth].index.wrapping_sub(1);
                    let table = depth.saturating_sub(CELL_BELOW_TABLE);
                    let table = KindCondition { kinds: self.scope.table_kind(), depth: table, list: false };
                    leaf.is_cell(self.columns.cell(number, &self.scope), table, &self.scope);
                }
                Accept::ColumnName => leaf.captures.column = self.scope.has_columns(),
                accept => _ = leaf.captures.note(accept),
            }
        }
        for rule in &self.key_rules {
            asked = asked.min(nearest);
            leaf.candidates.push(Candidate {
                subject: asks(*rule).then_some(nearest),
                ..Candidate::new(*rule, false, nearest)
            });
        }
        if leaf.candidates.len() > 1 && inside.is_none() {
            leaf.candidates.sort_by_key(|candidate| candidate.rule);
        }
        if !leaf.candidates.is_empty() {
            let mut candidates = std::mem::take(&mut leaf.candidates);
            self.settle(&mut candidates);
            self.leaf.candidates = candidates;
        }
        self.leaf.masking = !self.leaf.candidates.is_empty() || self.leaf.nested.is_some();
        match self.leaf.masking {
            true => self.frames.touch_all(),
            false => self.frames.touch(asked),
        }
        self.leaf.active = self.leaf.masking || self.leaf.captures.any();
    }

    /// The value starts here, and will be replaced or held: what came before it goes on.
    fn start_masking(&mut self, at: usize) {
        self.pass_to(at);
        self.leaf.start = at;
        self.leaf.original.clear();
        self.leaf.original_len = 0;
        let first = self.leaf.candidates.first();
        self.leaf.certain = first.is_some_and(|first| first.is_certain() && !self.scope.searches(first.rule));
    }

    fn pass_to(&mut self, end: usize) {
        if end > self.passed {
            let piece = Piece::Verbatim(self.chunk.slice(self.passed..end));
            self.emit(piece);
        }
        self.passed = end;
    }

    pub(super) fn emit(&mut self, piece: Piece) {
        if self.held.is_empty() { self.out.push(piece) } else { self.held.push(piece) }
    }

    fn end_of_chunk(&mut self) -> Result<(), MaskErrorKind> {
        self.frames.write_path(&self.chunk);
        self.frames.touch_all();
        if self.leaf.active && self.leaf.masking {
            self.keep_original(self.chunk.len());
            self.leaf.start = 0;
        } else {
            self.pass_to(self.chunk.len());
        }
        let text = if let NeedState::Text(text) = &self.leaf.need { text.len() } else { 0 };
        let kept = if self.leaf.active { self.leaf.original_len.max(text) } else { 0 };
        match self.held.cost() + kept > self.scope.limits().held_bytes {
            true => Err(MaskErrorKind::TooMuchHeld),
            false => Ok(()),
        }
    }

    fn keep_original(&mut self, end: usize) {
        if !self.leaf.certain && end > self.leaf.start {
            self.leaf.original.push(self.chunk.slice(self.leaf.start..end));
            self.leaf.original_len += end - self.leaf.start;
        }
    }

    fn end_of_value(&mut self, end: usize) -> Result<(), MaskErrorKind> {
        if !self.leaf.active {
            return Ok(());
        }
        self.leaf.active = false;
        let mut need = std::mem::take(&mut self.leaf.need);
        if self.leaf.captures.any() && self.leaf.scalar.is_none() {
            let mut said = std::mem::take(&mut self.said);
            if let NeedState::Text(text) = &need {
                said.clear();
                said.extend_from_slice(&text[..text.len().min(CAPTURE_LIMIT + 1)]);
            }
            let consistent = self.capture(&said);
            self.said = said;
            consistent?;
        }
        if self.leaf.masking {
            self.keep_original(end);
            self.passed = end;
            if let (NeedState::Text(text), Some(wanted)) = (&mut need, self.leaf.searched)
                && !finds(text, wanted)
            {
                self.leaf.spare = std::mem::take(text);
                for original in std::mem::take(&mut self.leaf.original) {
                    self.emit(Piece::Verbatim(original));
                }
            } else if self.leaf.certain {
                self.replace_leaf(need)
            } else {
                self.decide_leaf(need)
            }
            if self.held.cost() > self.scope.limits().held_bytes {
                return Err(MaskErrorKind::TooMuchHeld);
            }
        }
        Ok(())
    }

    /// The value is certainly masked: nothing has to be kept for a decision.
    fn replace_leaf(&mut self, need: NeedState) {
        self.frames.write_path(&self.chunk);
        let mut token = std::mem::take(&mut self.token);
        let Some(candidate) = self.leaf.candidates.first() else { return };
        let path = &self.frames.path()[self.frames.path_len(candidate.anchor)..];
        let masked = self.replacement(candidate, self.leaf.scalar, &need.into(), path, &mut token);
        let rule = candidate.rule;
        self.token = token;
        self.count(rule, 1);
        self.note_current(rule);
        self.emit(Piece::Replacement(masked));
    }

    fn decide_leaf(&mut self, need: NeedState) {
        self.frames.write_path(&self.chunk);
        let leaf = &mut self.leaf;
        for candidate in &mut leaf.candidates {
            candidate.path_from = self.frames.path_len(candidate.anchor);
        }
        if let Some(nested) = &mut leaf.nested {
            nested.path_from = self.frames.path_len(nested.anchor);
        }
        let waiting = super::leaf::Waiting {
            scalar: leaf.scalar,
            original: std::mem::take(&mut leaf.original),
            kept: need.into(),
            path: self.frames.path().to_vec(),
            candidates: std::mem::take(&mut leaf.candidates),
            nested: leaf.nested.take(),
        };
        self.decide_or_hold(waiting);
    }
}

/// The rules of a set, in their order.
pub(super) fn rules_of(mut bits: RuleBits) -> impl Iterator<Item = RuleId> {
    std::iter::from_fn(move || {
        let rule = (bits != 0).then(|| bits.trailing_zeros() as RuleId)?;
        bits &= bits - 1;
        Some(rule)
    })
}

impl Handler for Core {
    #[inline]
    fn open(&mut self, at: usize, object: bool) {
        let state = self.enter_value();
        self.open_frame(state, object, at);
    }

    #[inline]
    fn close(&mut self, _: usize) -> Option<usize> {
        let from = self.frames.of_no_consequence();
        self.settle_closing();
        let metadata = self.frames.pop();
        self.enter_container();
        if metadata && let Some(parent) = self.frames.len().checked_sub(1) {
            self.frames.facts_mut(parent).metadata_done = true;
            self.reconsider(parent);
        }
        from
    }

    #[inline(always)]
    fn key(&mut self, key: &[u8], at: Option<usize>) {
        let Some(top) = self.frames.last() else { return };
        let state = top.state;
        match at {
            Some(at) => self.frames.member(at, key.len()),
            None => self.frames.member_apart(key, &self.chunk),
        }
        self.next_state = self.scope.automaton().member(state, key);
        if self.scope.has_keys {
            self.scope.key_rules(key, &mut self.key_rules);
        }
    }

    #[inline]
    fn known_key(&mut self, key: &[u8], at: usize, state: StateId) {
        self.frames.member(at, key.len());
        self.next_state = state;
    }

    #[inline]
    fn open_string(&mut self, at: usize) -> Interest {
        let state = self.enter_value();
        if self.is_plain(state) {
            self.leaf.active = false;
            return Interest::Nothing;
        }
        if let Some(captures) = self.only_says(state) {
            (self.leaf.captures, self.leaf.searched) = (captures, Some(DetectorSet::default()));
            self.unasked = Some(state);
            self.leaf.active = false;
            return Interest::Glance;
        }
        if let Some(wanted) = self.plainly_searched(state) {
            (self.leaf.searched, self.unasked) = (Some(wanted), Some(state));
            self.leaf.captures = Captures::default();
            self.leaf.active = false;
            return Interest::Glance;
        }
        self.look(state, false);
        if !self.leaf.active {
            return Interest::Nothing;
        }
        self.leaf.searched = self.only_searched();
        if self.leaf.searched.is_some() { Interest::Glance } else { self.look_at_string(at) }
    }

    #[inline]
    fn glance(&mut self, text: &[u8]) -> Result<bool, MaskErrorKind> {
        if self.leaf.searched.is_none_or(|wanted| !wanted.is_empty() && finds(text, wanted)) {
            return Ok(false);
        }
        // It passes, but may say something.
        (self.leaf.active, self.unasked) = (false, None);
        if self.leaf.captures.any() {
            self.capture(&text[..text.len().min(CAPTURE_LIMIT + 1)])?;
        }
        Ok(true)
    }

    fn look_at_string(&mut self, at: usize) -> Interest {
        if let Some(state) = self.unasked.take() {
            self.look(state, false);
        }
        if self.leaf.masking {
            self.start_masking(at);
        }
        self.leaf.start_string(&self.scope);
        self.said.clear();
        if let NeedState::Nothing = self.leaf.need { Interest::End } else { Interest::Text }
    }

    fn text(&mut self, run: &[u8]) -> Result<(), MaskErrorKind> {
        match &mut self.leaf.need {
            NeedState::Nothing => {}
            NeedState::Said => {
                let room = (CAPTURE_LIMIT + 1).saturating_sub(self.said.len());
                self.said.extend_from_slice(&run[..run.len().min(room)]);
            }
            NeedState::Fingerprint(value) => value.read(run),
            NeedState::Text(text) => {
                if text.len() + run.len() > self.scope.limits().held_bytes {
                    return Err(MaskErrorKind::TooMuchHeld);
                }
                text.extend_from_slice(run);
            }
        }
        Ok(())
    }

    fn close_string(&mut self, end: usize) -> Result<(), MaskErrorKind> {
        self.end_of_value(end)
    }

    #[inline]
    fn open_scalar(&mut self, at: usize, scalar: Scalar) -> Interest {
        let state = self.enter_value();
        if self.is_plain(state) {
            self.leaf.active = false;
            return Interest::Nothing;
        }
        if self.plainly_searched(state).is_some() {
            self.leaf.active = false;
            return Interest::Nothing;
        }
        self.look(state, false);
        // null says nothing; and a number or boolean is no object's name, and holds no text to be searched.
        self.leaf.nested = None;
        let scope = &self.scope;
        self.leaf.candidates.retain(|candidate| !scope.searches(candidate.rule));
        self.leaf.masking = scalar != Scalar::Null && !self.leaf.candidates.is_empty();
        self.leaf.active = self.leaf.masking;
        (self.leaf.scalar, self.leaf.searched) = (Some(scalar), None);
        if !self.leaf.masking {
            return Interest::Nothing;
        }
        self.start_masking(at);
        Interest::End
    }

    fn close_scalar(&mut self, end: usize) -> Result<(), MaskErrorKind> {
        self.end_of_value(end)
    }

    #[inline]
    fn quiet(&self) -> Option<Quiet<'_>> {
        let (state, wanted) = (self.quiet?, self.searched_inside?);
        let searched =
            self.inside.then_some(Search { states: &self.searched, rules: self.searched_for, wanted });
        Some(Quiet { automaton: self.scope.automaton(), state, searched })
    }

    fn passed_over(&mut self, levels: &[Level]) {
        self.frames.passed_over(levels);
        if levels.len() > 1 {
            self.enter_container();
        }
    }
}
