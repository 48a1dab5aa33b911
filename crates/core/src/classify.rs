//! Which request is this, and how does its client like its errors?

use http::{Uri, request::Parts};

use crate::{ErrorFormat, Refusal, RequestInfo};

/// Turns a request's head into a [`RequestInfo`]. Pluggable, so that a layer can stand before any HTTP service.
pub trait Classifier: Send + Sync + 'static {
    /// What the request asks for.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] (400) for a request that two readers could understand differently; it must not be guessed.
    fn classify(&self, parts: &Parts) -> Result<RequestInfo, Refusal>;

    /// How refusals of requests to `uri` are written.
    fn error_format(&self, uri: &Uri) -> ErrorFormat;
}

/// The classifier for plain HTTP services: every request is a non-resource request, errors are RFC 9457 problems.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpClassifier;

impl Classifier for HttpClassifier {
    fn classify(&self, parts: &Parts) -> Result<RequestInfo, Refusal> {
        Ok(RequestInfo::non_resource(&parts.method, parts.uri.path()))
    }

    fn error_format(&self, _: &Uri) -> ErrorFormat {
        ErrorFormat::Problem
    }
}
