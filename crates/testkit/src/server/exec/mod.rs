//! `pods/exec`: a pretend shell in a pretend pod.

use std::sync::Arc;

use http::{Response, request::Parts};
use portcullis_core::Body;
use serde_json::Value;

use super::{Core, status::ApiError, target::Query};

pub(crate) fn serve(_: &Arc<Core>, _: &Value, _: &mut Parts, _: &Query) -> Result<Response<Body>, ApiError> {
    Err(ApiError::bad_request("not yet"))
}
