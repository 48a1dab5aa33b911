//! Long answers, compressed on the way out as the API server would have done it.

use std::{
    io::{self, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_ENCODING, VARY},
};
use http_body::{Body as HttpBody, Frame};
use portcullis_core::{Body, BoxError};

/// Answers longer than this are compressed. It is the API server's own threshold (`defaultGzipThresholdBytes`).
pub(crate) const GZIP_FROM: usize = 128 << 10;

/// How much is compressed between two looks at what came of it.
const STEP: usize = 32 << 10;

/// How long a frame should be: many small ones cost more than they hasten.
const FRAME: usize = 16 << 10;

/// How much is compressed at most before something is handed on, and others get their turn.
const TURN: usize = 256 << 10;

/// A body in gzip, at the API server's level. It holds one frame of what it compresses, and one of what came of it.
///
/// An error of what it compresses is its own, and the end that tells a whole stream from a broken one is then never written.
pub(crate) struct GzipBody {
    inner: Body,
    /// Gone once the stream has its end.
    encoder: Option<GzEncoder<Vec<u8>>>,
    input: Bytes,
    trailers: Option<HeaderMap>,
}

impl GzipBody {
    pub(crate) fn new(inner: Body) -> Self {
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        Self { inner, encoder: Some(encoder), input: Bytes::new(), trailers: None }
    }

    /// Compresses what has come, for one turn; what is to be sent, if that is worth a frame.
    fn compress(&mut self) -> io::Result<Option<Bytes>> {
        let Some(encoder) = &mut self.encoder else { return Ok(None) };
        let mut turn = TURN;
        while !self.input.is_empty() {
            let step = self.input.split_to(self.input.len().min(STEP));
            encoder.write_all(&step)?;
            turn = turn.saturating_sub(step.len());
            let ready = encoder.get_ref().len();
            if ready >= FRAME || (turn == 0 && ready > 0) {
                return Ok(Some(std::mem::take(encoder.get_mut()).into()));
            }
        }
        Ok(None)
    }

    /// Ends the stream; what is left to be sent.
    fn finish(&mut self) -> io::Result<Option<Bytes>> {
        self.encoder.take().map(|encoder| encoder.finish().map(Bytes::from)).transpose()
    }
}

impl HttpBody for GzipBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            match self.compress() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            if self.encoder.is_none() {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)).transpose() {
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.input = data;
                        continue;
                    }
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Ok(None) => {}
                Err(error) => {
                    self.encoder = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
            match self.finish() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }
}

/// Says in an answer's head that its body is in gzip. (The API server, too, speaks of `Vary` only where it compressed.)
pub(crate) fn say_gzip(headers: &mut HeaderMap) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    let mut varies =
        headers.get_all(VARY).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if !varies
        .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"accept-encoding") || name.trim_ascii() == b"*")
    {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use futures_util::{FutureExt as _, stream};
    use http::header::ETAG;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use proptest::prelude::*;

    use super::*;

    fn chunked(chunks: Vec<Result<Vec<u8>, &'static str>>) -> GzipBody {
        let frames = chunks.into_iter().map(|chunk| match chunk {
            Ok(chunk) => Ok(Frame::data(Bytes::from(chunk))),
            Err(error) => Err(BoxError::from(error)),
        });
        GzipBody::new(Body::new(StreamBody::new(stream::iter(frames))))
    }

    fn gunzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        GzDecoder::new(bytes).read_to_end(&mut plain).map(|_| plain)
    }

    /// Bytes in which there is nothing to compress.
    fn noise(seed: u32, words: u32) -> Vec<u8> {
        (0..words)
            .flat_map(|n| (n ^ seed).wrapping_mul(2_654_435_761).rotate_left(n % 32).to_be_bytes())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However a document is cut, what comes out is that document.
        #[test]
        fn any_chunks_are_one_document(
            chunks in prop::collection::vec(
                prop_oneof![
                    (any::<u32>(), 0u32..20_000).prop_map(|(seed, words)| noise(seed, words)),
                    (any::<u8>(), 0usize..700_000).prop_map(|(byte, length)| vec![byte; length]),
                ],
                0..6,
            ),
        ) {
            let document = chunks.concat();
            let mut body = chunked(chunks.into_iter().map(Ok).collect());
            let mut compressed = Vec::new();
            while let Some(frame) = body.frame().now_or_never().expect("everything is there") {
                let data = frame.unwrap().into_data().unwrap();
                prop_assert!(!data.is_empty() && data.len() <= FRAME + STEP + STEP);
                compressed.extend_from_slice(&data);
            }
            prop_assert!(body.is_end_stream());
            prop_assert_eq!(gunzip(&compressed).unwrap(), document);
        }
    }

    #[test]
    fn trailers_come_after_the_end() {
        let trailers = HeaderMap::from_iter([(ETAG, HeaderValue::from_static("\"t\""))]);
        let trailing = std::future::ready(Some(Ok(trailers.clone())));
        let body = Full::new(Bytes::from_static(b"document")).with_trailers(trailing);
        let collected = GzipBody::new(Body::new(body)).collect().now_or_never().unwrap().unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(gunzip(&collected.to_bytes()).unwrap(), b"document");
    }

    #[test]
    fn what_breaks_off_is_never_whole() {
        let mut body = chunked(vec![Ok(noise(7, 200_000)), Err("gone"), Ok(b"more".to_vec())]);
        let mut sent = Vec::new();
        let error = loop {
            match body.frame().now_or_never().unwrap().expect("no end") {
                Ok(frame) => sent.extend_from_slice(&frame.into_data().unwrap()),
                Err(error) => break error,
            }
        };
        assert_eq!(error.to_string(), "gone");
        assert!(body.frame().now_or_never().unwrap().is_none());
        assert!(!sent.is_empty() && gunzip(&sent).is_err());
    }

    #[test]
    fn the_head_says_it_once() {
        for (before, after) in [
            (&[][..], &["Accept-Encoding"][..]),
            (&["Accept"], &["Accept", "Accept-Encoding"]),
            (&["Origin, accept-encoding"], &["Origin, accept-encoding"]),
            (&["*"], &["*"]),
        ] {
            let mut headers = HeaderMap::new();
            for value in before {
                headers.append(VARY, HeaderValue::from_static(value));
            }
            say_gzip(&mut headers);
            assert!(headers.get_all(VARY).iter().eq(after), "{headers:?}");
            assert_eq!(headers[CONTENT_ENCODING], "gzip");
        }
    }
}
