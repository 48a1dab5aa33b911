//! The layer with a whole issuer behind it.

mod fetching;
mod support;
mod tokens;
