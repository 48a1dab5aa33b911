//! Kubernetes for Portcullis.

mod classify;

pub use classify::{KubeClassifier, UpstreamTarget};
