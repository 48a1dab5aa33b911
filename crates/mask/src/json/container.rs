//! What is known of a container when it starts: which object it is, and whether rules have to do with all that is in it.

use super::{
    frame::{Cover, Frame, Inside, NOWHERE, Truth},
    leaf::{Candidate, Presumed},
    masker::Core,
};
use crate::rules::{Accept, RuleBits, StateId};

impl Core {
    /// A container starts: which object is it, and is all of it masked?
    pub(super) fn open_frame(&mut self, state: StateId, object: bool, at: usize) {
        let depth = self.frames.len();
        let mut frame = Frame::within(self.frames.last(), object, state);
        self.frames.begin(&mut frame, at);
        let cover = self.frames.last().and_then(|parent| self.frames.cover(parent)).unwrap_or_default();
        // Where all that may happen is a search that goes on anyway, nothing changes.
        let goes_on = self.is_plain(state) || self.goes_on(state, cover.searching);
        if cover.inside.is_none() && !goes_on {
            self.look(state, true);
            self.leaf.active = false;
            frame.from = NOWHERE;
            let cover = self.cover_container(cover);
            self.frames.put_under(&mut frame, cover);
        }
        if cover.searching != 0 {
            self.searched_state(state).containers = goes_on && !self.is_special(state);
        }
        let accepts = self.scope.automaton().accepts(state);
        if accepts.is_empty() || !object {
            self.frames.push(frame);
            return self.enter_container();
        }
        let Presumed { mut kinds, mut decided, .. } = Presumed::default();
        for accept in accepts {
            match accept {
                Accept::Object if depth == 0 || self.scope.is_kubernetes() => {
                    frame.nearest = depth;
                    kinds |= self.origin.presumed.kinds;
                    decided |= self.origin.presumed.decided;
                }
                Accept::ListItem if depth >= 2 => {
                    frame.list_item = true;
                    frame.from = NOWHERE;
                    self.frames.touch(depth - 2);
                    let list = self.frames.facts(depth - 2).list_kinds;
                    kinds |= list;
                    decided |= list != 0;
                }
                Accept::Metadata => {
                    // What is said in it is said of the object around it.
                    frame.metadata = true;
                    frame.from = NOWHERE;
                }
                Accept::Table => {
                    self.frames.touch_all();
                    frame.from = NOWHERE;
                    self.columns.begin();
                }
                Accept::Column => {
                    self.frames.touch_all();
                    frame.from = NOWHERE;
                    let number =
                        self.frames.last().map_or(0, |definitions| definitions.index.wrapping_sub(1));
                    self.columns.define(number);
                }
                _ => {}
            }
        }
        self.frames.push(frame);
        if kinds != 0 || decided {
            let facts = self.frames.facts_mut(depth);
            (facts.kinds, facts.decided) = (kinds, decided);
        }
        self.enter_container();
    }

    /// Whether no rule has to do with a container in this state but those that search everything around it, too.
    fn goes_on(&self, state: StateId, searching: RuleBits) -> bool {
        let known = |accept: &Accept| match accept {
            Accept::Mask { rule, leaf, .. } => {
                *leaf || !self.scope.is_active(*rule) || searching & (1 << rule) != 0
            }
            Accept::Cell => !self.scope.has_columns(),
            _ => true,
        };
        self.key_rules.is_empty() && self.scope.automaton().accepts(state).iter().all(known)
    }

    /// Whether something becomes known of a container by its state.
    fn is_special(&self, state: StateId) -> bool {
        let special = |accept: &Accept| {
            matches!(
                accept,
                Accept::Object | Accept::ListItem | Accept::Metadata | Accept::Table | Accept::Column
            )
        };
        self.scope.automaton().accepts(state).iter().any(special)
    }

    /// Notes which rules certainly have to do with all that is in the container that starts: the first that masks, and all that
    /// search. Where that is not known yet, they have not: a value that is masked when its object's kind comes late is a
    /// plain one.
    fn cover_container(&mut self, mut cover: Cover) -> Cover {
        for candidate in std::mem::take(&mut self.leaf.candidates) {
            let searches = self.scope.searches(candidate.rule);
            if (cover.inside.is_some() && !searches) || !self.is_certain_of_container(&candidate) {
                continue;
            }
            let Candidate { rule, base64, anchor, cell, .. } = candidate;
            cover.cell |= cell;
            match searches {
                true => cover.searching |= 1 << rule,
                false => cover.inside = Some(Inside { rule, base64, anchor }),
            }
        }
        cover
    }

    fn is_certain_of_container(&mut self, candidate: &Candidate) -> bool {
        let kind = candidate.kinds.map_or(Truth::True, |condition| self.judge_kind(condition));
        let clause = candidate.clause.map_or(Truth::True, |(clause, depth)| self.judge_clause(clause, depth));
        let subject = candidate.subject.map(|depth| self.judge_subject(candidate.rule, depth));
        if subject == Some(Truth::False) {
            return false;
        }
        // Should it turn out otherwise, the stream ends.
        if let (Some(condition), Truth::Unknown) = (candidate.kinds, kind) {
            self.frames.facts_mut(condition.depth).denied |= condition.kinds;
        }
        if let (Some((clause, depth)), Truth::Unknown) = (candidate.clause, clause) {
            self.frames.facts_mut(depth).clauses_denied |= 1 << clause;
        }
        kind == Truth::True && clause == Truth::True
    }
}
