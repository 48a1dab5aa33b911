//! The columns of a Table (`meta.k8s.io`), so that no cell shows what a rule masks in the object.
//!
//! Columns are defined before the rows; in a watch only by the first event, so they outlive a document. A cell whose column is not
//! known is treated as one of any column.

use bytes::Bytes;

use super::{
    leaf::{CAPTURE_LIMIT, Candidate, KindCondition, Leaf, Nested, Presumed},
    masker::{Core, rules_of},
};
use crate::rules::{ColumnRules, Scope};

/// What may happen to the cells of each column of a Table: a bounded memory of its definitions.
#[derive(Default)]
pub(crate) struct Columns {
    /// `None` for one that has not said its name.
    known: Vec<Option<ColumnRules>>,
    /// They were defined by an earlier document.
    old: bool,
    /// A cell of this document has relied on them.
    used: bool,
}

/// How many columns are remembered. Those after them are not known.
const MOST: usize = 256;

impl Columns {
    /// A document starts that may be a Table.
    pub(super) fn begin(&mut self) {
        (self.old, self.used) = (true, false);
    }

    /// The column of this number is defined.
    pub(super) fn define(&mut self, number: u32) {
        if self.old && !self.used {
            self.known.clear();
        }
        self.old = false;
        let number = number as usize;
        if number < MOST && number >= self.known.len() {
            self.known.resize(number + 1, None);
        }
    }

    /// The column has said its name. False if that takes back what a cell has relied on.
    fn name(&mut self, number: u32, rules: ColumnRules) -> bool {
        let Some(known) = self.known.get_mut(number as usize) else { return true };
        // Should it say two, a reader may take either.
        let all = known.map_or(rules, |known| known.union(rules));
        let consistent = known.is_none_or(|known| !self.used || rules.within(known));
        *known = Some(all);
        consistent
    }

    /// What may happen to a cell.
    pub(super) fn cell(&mut self, number: u32, scope: &Scope) -> ColumnRules {
        self.used = true;
        self.known.get(number as usize).copied().flatten().unwrap_or_else(|| scope.any_column())
    }
}

impl Core {
    /// The column that the object at this depth defines is called this.
    pub(super) fn name_column(&mut self, definition: usize, name: &[u8]) -> bool {
        let Some(definitions) = definition.checked_sub(1) else { return true };
        let number = self.frames[definitions].index.wrapping_sub(1);
        let rules = match name.len() > CAPTURE_LIMIT {
            true => self.scope.any_column(),
            false => self.scope.column(number as usize, name),
        };
        self.columns.name(number, rules)
    }
}

impl Leaf {
    /// The value is a cell, if the container at a depth is a Table.
    ///
    /// Which object its row shows is said after it, or not at all. So no token of a cell tells whether two values are equal, and it
    /// is masked whatever the object may be: whether the rule is for it is not known.
    pub(super) fn is_cell(&mut self, rules: ColumnRules, table: KindCondition, scope: &Scope) {
        let anchor = table.depth;
        for rule in rules_of(rules.mask) {
            let kinds = Some(table);
            let bound = Some(Bytes::new());
            let candidate = Candidate { kinds, bound, cell: true, ..Candidate::new(rule, false, anchor) };
            self.candidates.push(candidate);
        }
        if let Some(rule) = rules_of(rules.json).next() {
            let (kinds, decided) = (scope.presumed, scope.decided);
            let presumed = Some(Presumed { kinds, decided, suspect: !decided && kinds == 0 });
            let bound = Some(Bytes::new());
            self.nested = Some(Nested { rule, anchor, path_from: 0, bound, presumed, cell: true });
        }
    }
}

#[cfg(test)]
mod tests;
