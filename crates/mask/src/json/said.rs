//! What values say about the objects they belong to: kind, name, labels, and what stands beside others.

use super::{
    leaf::{CAPTURE_LIMIT, Captures},
    masker::{Core, rules_of},
};
use crate::MaskErrorKind;

impl Core {
    /// The value said something about its object.
    pub(super) fn capture(&mut self, said: &[u8]) -> Result<(), MaskErrorKind> {
        let captures = self.leaf.captures;
        let Some(parent) = self.frames.len().checked_sub(1) else { return Ok(()) };
        let mut consistent = true;
        if captures.kind {
            let (kinds, list_kinds) = self.scope.kind_bits(said);
            consistent &= self.frames.facts_mut(parent).say_kind(kinds, list_kinds);
        }
        let too_long = said.len() > CAPTURE_LIMIT;
        for clause in rules_of(captures.clauses.into()) {
            let ask = || self.scope.clause_matches(clause, said);
            let holds = too_long || self.memo.holds(clause, said, ask);
            consistent &= self.frames.facts_mut(parent).say_clause(clause, holds);
        }
        consistent &= !captures.column || self.name_column(parent, said);
        if !consistent {
            return Err(MaskErrorKind::Ambiguous);
        }
        if captures.kind_of {
            let facts = self.frames.facts_mut(parent);
            if facts.kind_of.is_some() && facts.consulted {
                return Err(MaskErrorKind::Ambiguous);
            }
            facts.kind_of.get_or_insert_with(|| said.into());
        }
        if captures.kind || captures.kind_of || captures.clauses != 0 {
            self.reconsider(parent);
        }
        if let (Some(label), Some(object)) = (captures.label, parent.checked_sub(2)) {
            self.frames.touch(object);
            let facts = self.frames.facts_mut(object);
            if facts.metadata_done && facts.consulted {
                return Err(MaskErrorKind::Ambiguous);
            }
            facts.labels |= u64::from(self.scope.label_matches(label, said)) << label;
        }
        if let Some(object) = parent.checked_sub(1) {
            self.capture_name(object, said)?;
        }
        Ok(())
    }

    fn capture_name(&mut self, object: usize, said: &[u8]) -> Result<(), MaskErrorKind> {
        let Captures { uid, namespace, name, .. } = self.leaf.captures;
        if !(uid || namespace || name) {
            return Ok(());
        }
        if self.frames.facts(object).metadata_done && self.frames.facts(object).consulted {
            return Err(MaskErrorKind::Ambiguous);
        }
        let names = &mut self.frames.facts_mut(object).names;
        let field = match (uid, namespace) {
            (true, _) => &mut names.uid,
            (_, true) => &mut names.namespace,
            _ => &mut names.name,
        };
        // The first one counts: it may have been used.
        if field.is_empty() {
            field.extend_from_slice(said);
        }
        if uid {
            self.reconsider(object);
        }
        Ok(())
    }
}
