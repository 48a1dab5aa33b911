//! Upgraded streams: exec, attach and port-forward, over WebSocket or SPDY/3.1, and watches over WebSocket.
//!
//! Only what can be decoded is let through: [`negotiate`] takes every other offer away before the API server sees it, and
//! [`relay`] decodes each frame once, shows it to the stages of the request's [`StreamPlan`](portcullis_core::StreamPlan), and
//! re-encodes only what a stage changed. An event of a watch is seen, and sent, as a whole.

mod lane;
mod negotiate;
mod pipeline;
mod relay;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod watch_tests;

pub(crate) use negotiate::{Offer, switching_headers};
pub(crate) use relay::Relay;
