//! The demonstration: a gateway, an identity provider and (unless there is one) a cluster, in one process, on loopback.
//!
//! Nothing in it is staged: the gateway is the one `serve` runs, from a configuration file one can read; only what stands
//! around it is made for the occasion.

mod cluster;
mod story;
mod world;

pub(crate) use story::check;
pub(crate) use world::{World, WorldOptions};
