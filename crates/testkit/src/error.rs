//! What can go wrong when a double is started.

/// Why a double could not be started, or could not issue what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestkitError {
    /// No address to listen on, or no runtime to listen with.
    #[error("cannot listen: {0}")]
    Listen(#[from] std::io::Error),
    /// A certificate could not be made.
    #[error("cannot issue a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// A token could not be signed.
    #[error("cannot sign a token: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
    /// The server refused a seeded object.
    #[error("cannot seed {what}: {message}")]
    Seed {
        /// The object.
        what: String,
        /// What the server said.
        message: String,
    },
    /// Nobody of that name is known here.
    #[error("no persona named {0:?}")]
    UnknownPersona(String),
}
