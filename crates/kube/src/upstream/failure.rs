//! What a failed exchange with the API server means to the client.

use std::{error::Error, iter};

use hyper_util::client::legacy;
use portcullis_core::{Reason, Refusal};

use super::connect::ConnectTimeout;

/// 502, or 504 if no connection came about in time. The cause itself is for the operator.
pub(super) fn refusal(error: &legacy::Error) -> Refusal {
    let detail = describe(error);
    if causes(error).any(|cause| cause.is::<ConnectTimeout>()) {
        return Refusal::new(
            Reason::Timeout,
            "upstream/timeout",
            "the API server did not accept a connection in time",
        )
        .advice("nothing was sent; try again")
        .detail(detail);
    }
    let is_body = causes(error)
        .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
        .any(|error| error.is_user() || error.is_body_write_aborted());
    if is_body {
        return Refusal::bad_request("upstream/request-body", "the request's body ended early")
            .detail(detail);
    }
    let refusal = Refusal::new(
        Reason::BadGateway,
        "upstream/unreachable",
        "the API server cannot be reached, or does not answer as one",
    );
    match error.is_connect() {
        true => refusal.advice("nothing was sent; try again").detail(detail),
        false => {
            refusal.advice("the request may have been carried out; look before you repeat it").detail(detail)
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    // An `io::Error` hides the error it was made from one level down.
    iter::successors(Some(error), |&error| {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}

fn describe(error: &(dyn Error + 'static)) -> String {
    let mut lines: Vec<String> = causes(error).map(ToString::to_string).collect();
    lines.dedup();
    lines.join(": ")
}
