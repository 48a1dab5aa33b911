//! JSON on the wire: a scanner that never looks back, and the masker that rides on it.

mod container;
mod frame;
mod held;
mod judge;
mod leaf;
mod masker;
mod memo;
mod recall;
mod said;
mod scan;
mod skim;
mod stops;
mod table;
mod text;
mod trace;

#[cfg(test)]
mod search_tests;
#[cfg(test)]
mod tests;

pub use masker::Masker;
pub(crate) use scan::{Handler, Interest, Scalar, Scanner};
pub(crate) use table::Columns;
pub(crate) use text::escape;
pub(crate) use trace::{Trace, add_key};
