//! Only masked bytes are persisted: the one way from a request to a copy that others may keep.

use bytes::Bytes;
use http::Uri;

use crate::RequestInfo;

/// A copy of a request's body that is safe to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedactedCopy {
    /// The body, with every secret value replaced.
    Redacted(Bytes),
    /// The body could not be read, so nothing of it is kept but a keyed digest (HMAC-SHA-256, hexadecimal).
    Withheld {
        /// Tells equal bodies apart from different ones, to those who hold the key; tells nothing to others.
        digest: String,
        /// Why it could not be read.
        reason: String,
    },
}

/// Redacts what audit, tickets, notifications and recordings keep of a request, by the rules that mask responses.
pub trait Redactor: Send + Sync + 'static {
    /// A copy of the body.
    fn body(&self, info: &RequestInfo, content_type: Option<&str>, body: &Bytes) -> RedactedCopy;

    /// A copy of the request target: secrets in the path and the query are replaced.
    fn uri(&self, info: &RequestInfo, uri: &Uri) -> String;

    /// A copy of free text: an argument of a command, a reason, a user agent.
    fn text(&self, text: &str) -> String;

    /// A copy of what ought to be a name or a path: what is found in text is replaced here, too.
    fn name(&self, name: &str) -> String {
        if name.is_empty() { String::new() } else { self.text(name) }
    }
}
