//! What is known of the connection a request came over.

use std::net::SocketAddr;

/// The client's end of the connection, put into each request's extensions by the listener.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Where the client is, as the listener saw it. Forwarding headers are never believed.
    pub peer: SocketAddr,
    /// SHA-256 of the client certificate in DER, hexadecimal, if the client showed one (`x5t#S256`, RFC 8705 §3.1).
    pub certificate_sha256: Option<String>,
}
