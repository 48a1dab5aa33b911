//! What the targets share: an answer that comes in chunks, and what the mask makes of it.

use std::convert::Infallible;

use bytes::Bytes;
use futures_executor::block_on;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use portcullis_core::{Body, BoxError, RequestInfo};
use portcullis_mask::{MaskConfig, MaskKey, MaskLayer, Rules};
use tower::{Layer, ServiceExt, service_fn, util::BoxService};

/// The default rules, with a key that is always the same.
pub fn rules() -> Rules {
    let key = MaskKey::from_bytes(&[7; 32]).expect("a key");
    Rules::new(&MaskConfig::default(), key).expect("the default rules")
}

/// A request for this.
pub fn asking_for(verb: &str, resource: &str, subresource: &str) -> RequestInfo {
    RequestInfo {
        is_resource_request: true,
        verb: verb.into(),
        api_version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: "shop".into(),
        name: "db".into(),
        ..RequestInfo::default()
    }
}

/// What comes out when this answer comes in so many chunks of so many bytes; `None` if nothing may, or not all.
pub fn answer(
    rules: &Rules,
    info: &RequestInfo,
    content_type: &'static str,
    body: &[u8],
    chunk: usize,
) -> Option<Bytes> {
    let chunks: Vec<_> = body.chunks(chunk.max(1)).map(Bytes::copy_from_slice).collect();
    let service = service_fn(move |_: Request<Body>| {
        let frames = chunks.clone().into_iter().map(|chunk| Ok::<_, BoxError>(Frame::data(chunk)));
        let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let service = BoxService::new(MaskLayer::new(rules.clone()).layer(service));
    let mut request = Request::new(Body::empty());
    request.extensions_mut().insert(info.clone());
    let response = block_on(service.oneshot(request)).expect("infallible");
    if response.status() != 200 {
        return None;
    }
    block_on(response.into_body().collect()).ok().map(|body| body.to_bytes())
}
