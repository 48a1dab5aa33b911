//! What becomes of a value: decided as soon as everything it depends on is known, and no later.

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    Scalar, escape,
    frame::{Facts, Names, Truth},
    leaf::{Candidate, Kept, KindCondition, NeedState, Presumed, Waiting},
    masker::{Core, Masker, Origin},
    text::in_base64,
};
use crate::{
    Action, Piece, piece,
    rules::{Object, RuleId, Said, Scope, Value},
};

/// How deep documents may lie in strings of documents. What is deeper is masked whole.
const DEEPEST_NESTING: u8 = 4;

enum Fate {
    /// It passes as it came.
    Pass,
    /// The candidate's rule replaces it.
    Replace(usize),
    /// It is a document, masked by itself.
    Document,
    /// What detectors find in it is replaced.
    Search,
}

impl From<NeedState> for Kept {
    fn from(need: NeedState) -> Self {
        match need {
            NeedState::Nothing | NeedState::Said => Self::Nothing,
            NeedState::Fingerprint(value) => Self::Fingerprint(value.finish()),
            NeedState::Text(text) => Self::Text(text),
        }
    }
}

impl Core {
    pub(super) fn judge_kind(&self, condition: KindCondition) -> Truth {
        let facts = self.frames.facts(condition.depth);
        match condition.list {
            false => facts.is_of(condition.kinds),
            true if facts.list_kinds & condition.kinds != 0 => Truth::True,
            true if facts.decided => Truth::False,
            true => Truth::Unknown,
        }
    }

    pub(super) fn judge_clause(&self, clause: u8, depth: usize) -> Truth {
        self.frames.facts(depth).clause(clause)
    }

    /// Whether a rule is for the object at this depth.
    pub(super) fn judge_subject(&mut self, rule: RuleId, depth: usize) -> Truth {
        let facts = self.frames.facts(depth);
        let object = Object {
            namespace: &facts.names.namespace,
            name: &facts.names.name,
            labels: facts.labels,
            metadata_done: facts.metadata_done,
            kind_of: facts.kind_of.as_deref(),
            closed: facts.closed,
        };
        let truth = match self.scope.applies_to(rule, &object) {
            Said::Yes => Truth::True,
            Said::No => Truth::False,
            Said::Depends => return Truth::Unknown,
        };
        self.frames.facts_mut(depth).consulted = true;
        truth
    }

    /// What tokens of the object at this depth are bound to, if it is known; `closing` means that nothing more will be.
    fn binding(&mut self, depth: usize, closing: bool) -> Option<Bytes> {
        let facts = self.frames.facts(depth);
        if let Some(binding) = self.origin.binding.as_ref().or(facts.bound.as_ref()) {
            return Some(binding.clone());
        }
        let Names { uid, namespace, name } = &facts.names;
        if uid.is_empty() && !facts.metadata_done && !closing {
            return None;
        }
        let binding = self.scope.binding(uid, namespace, name);
        self.frames.facts_mut(depth).bound = Some(binding.clone());
        Some(binding)
    }

    /// Notes what is known for good: conditions that hold are dropped, and so are candidates whose conditions do not.
    pub(super) fn settle(&mut self, candidates: &mut Vec<Candidate>) {
        candidates.retain_mut(|candidate| {
            if let Some(condition) = candidate.kinds {
                match self.judge_kind(condition) {
                    Truth::True => candidate.kinds = None,
                    Truth::Unknown => {}
                    Truth::False => {
                        self.frames.facts_mut(condition.depth).denied |= condition.kinds;
                        return false;
                    }
                }
            }
            if let Some((clause, depth)) = candidate.clause {
                match self.judge_clause(clause, depth) {
                    Truth::True => candidate.clause = None,
                    Truth::Unknown => {}
                    Truth::False => {
                        self.frames.facts_mut(depth).clauses_denied |= 1 << clause;
                        return false;
                    }
                }
            }
            if let Some(depth) = candidate.subject {
                match self.judge_subject(candidate.rule, depth) {
                    Truth::True => candidate.subject = None,
                    Truth::Unknown => {}
                    Truth::False => return false,
                }
            }
            if candidate.bound.is_none() {
                candidate.bound = self.binding(candidate.anchor, false);
            }
            true
        });
    }

    /// What happens to a value, if that can be said: rules in their order, then what a document says of itself, then
    /// detectors.
    fn judge(&mut self, waiting: &mut Waiting) -> Option<Fate> {
        self.settle(&mut waiting.candidates);
        let searches = |core: &Self, rule: RuleId| core.scope.searches(rule);
        for (number, candidate) in waiting.candidates.iter().enumerate() {
            if !searches(self, candidate.rule) {
                return candidate.is_certain().then_some(Fate::Replace(number));
            }
        }
        if let Some(nested) = &mut waiting.nested {
            if nested.bound.is_none() {
                nested.bound = self.binding(nested.anchor, false);
                nested.presumed = nested.bound.is_some().then(|| presume(self.frames.facts(nested.anchor)));
            }
            return nested.bound.is_some().then_some(Fate::Document);
        }
        if waiting.candidates.is_empty() {
            return Some(Fate::Pass);
        }
        waiting.candidates.iter().all(Candidate::is_certain).then_some(Fate::Search)
    }

    pub(super) fn decide_or_hold(&mut self, mut waiting: Waiting) {
        if let Some(fate) = self.judge(&mut waiting) {
            for piece in self.apply(fate, waiting) {
                self.emit(piece);
            }
            return;
        }
        let number = self.held.next();
        for depth in depends_on(&waiting) {
            self.frames.facts_mut(depth).wait(number);
        }
        self.held.wait(waiting);
    }

    /// Something has become known of the container at this depth: what waits for it may be decided.
    pub(super) fn reconsider(&mut self, depth: usize) {
        let Some(from) = self.frames.facts(depth).waiting_from else { return };
        for number in from..self.held.next() {
            let Some(waiting) = self.held.take(number) else { continue };
            self.judge_again(number, waiting);
        }
        self.held.release(&mut self.out);
    }

    fn judge_again(&mut self, number: u64, mut waiting: Box<Waiting>) {
        let cost = waiting.cost();
        match self.judge(&mut waiting) {
            Some(fate) => {
                let pieces = self.apply(fate, *waiting);
                self.held.decide(number, cost, pieces);
            }
            None => self.held.put_back(number, waiting),
        }
    }

    /// The innermost container ends: what it has not said, it never will.
    pub(super) fn settle_closing(&mut self) {
        let Some(depth) = self.frames.len().checked_sub(1) else { return };
        let Some(from) = self.frames.facts(depth).waiting_from else { return };
        self.frames.facts_mut(depth).closed = true;
        let suspect = self.origin.presumed.suspect;
        if suspect && depth == 0 && !self.frames.facts(depth).decided {
            self.frames.facts_mut(depth).kinds = self.scope.all_kinds();
        }
        // An item that does not say its kind may be told it by its list.
        let list = self.frames[depth].list_item.then(|| depth - 2);
        let list = list.filter(|list| !self.frames.facts(*list).decided);
        for number in from..self.held.next() {
            let Some(mut waiting) = self.held.take(number) else { continue };
            let mut candidates = std::mem::take(&mut waiting.candidates);
            self.settle(&mut candidates);
            candidates.retain_mut(|candidate| {
                if candidate.anchor == depth && candidate.bound.is_none() {
                    candidate.bound = self.binding(depth, true);
                }
                if candidate.clause.is_some_and(|(_, at)| at == depth) {
                    if !suspect {
                        return false;
                    }
                    candidate.clause = None;
                }
                match (&mut candidate.kinds, list) {
                    (Some(condition), Some(list)) if condition.depth == depth && !condition.list => {
                        *condition = KindCondition { kinds: condition.kinds, depth: list, list: true };
                        true
                    }
                    (Some(condition), _) => condition.depth != depth,
                    (None, _) => true,
                }
            });
            waiting.candidates = candidates;
            if let Some(nested) = &mut waiting.nested
                && nested.anchor == depth
                && nested.bound.is_none()
            {
                nested.bound = self.binding(depth, true);
                nested.presumed = Some(presume(self.frames.facts(depth)));
            }
            for outer in depends_on(&waiting).filter(|outer| *outer < depth) {
                self.frames.facts_mut(outer).wait(number);
            }
            self.judge_again(number, waiting);
        }
        self.held.release(&mut self.out);
    }

    fn apply(&mut self, fate: Fate, waiting: Waiting) -> Vec<Piece> {
        let original = |waiting: Waiting| waiting.original.into_iter().map(Piece::Verbatim).collect();
        let replaced = match fate {
            Fate::Pass => None,
            Fate::Replace(number) => {
                let candidate = &waiting.candidates[number];
                self.count(candidate.rule, 1);
                self.note(candidate.rule, &waiting.path);
                let path = &waiting.path[candidate.path_from..];
                let mut token = String::new();
                Some(self.replacement(candidate, waiting.scalar, &waiting.kept, path, &mut token))
            }
            Fate::Document => self.document(&waiting).map(Bytes::from),
            Fate::Search => self.search(&waiting).map(Bytes::from),
        };
        match replaced {
            Some(text) => vec![Piece::Replacement(text)],
            None => original(waiting),
        }
    }

    /// What stands in a value's place, as JSON. `token` is for its text.
    pub(super) fn replacement(
        &self,
        candidate: &Candidate,
        scalar: Option<Scalar>,
        kept: &Kept,
        path: &[u8],
        token: &mut String,
    ) -> Bytes {
        match scalar {
            _ if self.scope.action(candidate.rule) == Action::Drop => Bytes::from_static(b"null"),
            Some(Scalar::Number) => Bytes::from_static(b"0"),
            Some(Scalar::Bool) => Bytes::from_static(b"false"),
            Some(Scalar::Null) => Bytes::from_static(b"null"),
            None => {
                let value = match kept {
                    Kept::Nothing => Value::Text(b""),
                    Kept::Fingerprint(value) => Value::Fingerprint(value),
                    Kept::Text(text) => Value::Text(text),
                };
                let binding = candidate.bound.as_deref().unwrap_or_default();
                let Candidate { rule, base64, .. } = *candidate;
                let scope = self.scope_for(candidate.cell);
                match scope.write_replacement(rule, base64, binding, path, value, token) {
                    true if base64 => in_base64(token).into(),
                    true => escape(token).into(),
                    false => Bytes::from_static(b"null"),
                }
            }
        }
    }

    /// The rules, as they are for a Table's cell, or for any other value.
    fn scope_for(&self, cell: bool) -> Cow<'_, Scope> {
        match cell {
            true => Cow::Owned(self.scope.incomparable()),
            false => Cow::Borrowed(&self.scope),
        }
    }

    /// Masks the document in a string. One that is none is masked whole.
    fn document(&mut self, waiting: &Waiting) -> Option<String> {
        let nested = waiting.nested.as_ref()?;
        let Kept::Text(text) = &waiting.kept else { return None };
        let binding = nested.bound.clone().unwrap_or_default();
        if self.origin.nesting < DEEPEST_NESTING {
            let origin = Origin {
                presumed: nested.presumed.unwrap_or_default(),
                binding: Some(binding.clone()),
                nesting: self.origin.nesting + 1,
            };
            let mut inner = Masker::nested(self.scope_for(nested.cell).into_owned(), origin);
            if self.trace.is_some() {
                inner = inner.traced();
            }
            let mut pieces = Vec::new();
            let pushed = inner.push(Bytes::copy_from_slice(text), &mut pieces);
            if pushed.and_then(|()| inner.finish(&mut pieces)).is_ok() {
                if inner.counts().is_empty() {
                    return None;
                }
                for (rule, count) in inner.counts() {
                    self.count(*rule, *count);
                }
                self.note_within(&waiting.path, inner.take_trace());
                return Some(escape(&String::from_utf8_lossy(&piece::join(&pieces))));
            }
        }
        self.count(nested.rule, 1);
        self.note(nested.rule, &waiting.path);
        let path = &waiting.path[nested.path_from..];
        let (scope, mut token) = (self.scope_for(nested.cell), String::new());
        match scope.write_replacement(nested.rule, false, &binding, path, Value::Text(text), &mut token) {
            true => Some(escape(&token)),
            false => Some("null".to_owned()),
        }
    }

    /// Replaces what detectors find in a string.
    fn search(&mut self, waiting: &Waiting) -> Option<String> {
        let Kept::Text(text) = &waiting.kept else { return None };
        let original = String::from_utf8_lossy(text);
        let mut redacted: Option<String> = None;
        for candidate in &waiting.candidates {
            let current = redacted.as_deref().unwrap_or(&original);
            let binding = candidate.bound.clone().unwrap_or_default();
            if let Some((better, count)) =
                self.scope_for(candidate.cell).redact_text(candidate.rule, current, &binding)
            {
                self.count(candidate.rule, count);
                self.note(candidate.rule, &waiting.path);
                redacted = Some(better);
            }
        }
        redacted.map(|text| escape(&text))
    }

    pub(super) fn count(&mut self, rule: RuleId, values: u64) {
        match self.counts.iter_mut().find(|(known, _)| *known == rule) {
            Some((_, count)) => *count += values,
            None => self.counts.push((rule, values)),
        }
    }
}

/// What the document in a string of this object is presumed to be: of the same kind. Where that is not known, a document
/// that does not say its kind counts as of every kind.
fn presume(facts: &Facts) -> Presumed {
    Presumed { kinds: facts.kinds, decided: facts.decided, suspect: !facts.decided && facts.kinds == 0 }
}

/// The open containers on which a value's fate depends.
fn depends_on(waiting: &Waiting) -> impl Iterator<Item = usize> {
    let candidates = waiting.candidates.iter().flat_map(|candidate| {
        let anchor = candidate.bound.is_none().then_some(candidate.anchor);
        let kind = candidate.kinds.map(|condition| condition.depth);
        [anchor, kind, candidate.clause.map(|(_, depth)| depth), candidate.subject]
    });
    let nested = waiting.nested.as_ref().filter(|nested| nested.bound.is_none()).map(|nested| nested.anchor);
    candidates.flatten().chain(nested).collect::<Vec<_>>().into_iter()
}
