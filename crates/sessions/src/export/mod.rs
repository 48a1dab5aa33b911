//! Sessions as files: JSON for programs, Markdown and HTML for people, asciicast for players. All are written in a stream.

mod asciicast;
mod film;
mod html;
mod json;
mod markdown;

pub use asciicast::asciicast;
pub use html::html;
pub use json::json;
pub use markdown::markdown;

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The log, or a recording, cannot be read, or the export cannot be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The log cannot be read.
    #[error(transparent)]
    Records(Box<dyn std::error::Error + Send + Sync>),
}

impl ExportError {
    fn records(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Records(error.into())
    }
}

impl From<serde_json::Error> for ExportError {
    fn from(error: serde_json::Error) -> Self {
        Self::Io(error.into())
    }
}
