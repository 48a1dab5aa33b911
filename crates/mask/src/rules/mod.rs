//! Which values are masked: the configuration, its compiled form, and what of it applies to one request.

mod automaton;
mod columns;
mod compile;
mod config;
mod explain;
mod glob;
mod path;
mod plan;
mod scope;
mod subject;

pub(crate) use automaton::{Automaton, StateId};
pub(crate) use columns::ColumnRules;
pub use compile::Rules;
pub(crate) use compile::{Accept, Anchor, RuleBits, RuleId};
pub use config::{
    Action, Archives, Compare, Limits, MaskConfig, OnWrite, Pack, Rule, Subjects, WhenUnknown, Where,
};
pub use explain::Explanation;
pub(crate) use plan::TextPlan;
pub(crate) use scope::Value;
pub use scope::{Caller, Scope};
pub(crate) use subject::{Object, Said};
