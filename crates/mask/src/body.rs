//! The body of an answer, masked as it streams by.

use std::{
    collections::VecDeque,
    io::Write as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use pin_project_lite::pin_project;
use portcullis_core::{BoxError, Trail};

use crate::{
    MaskError, MaskErrorKind, Masker, Piece, Scope, layer::mask_warnings, protobuf::ProtobufMask,
    text::TextScan,
};

/// What reads a body.
pub(crate) enum Engine {
    Json(Box<Masker>),
    JsonSequence(Box<Masker>),
    Protobuf(Box<ProtobufMask>),
    ProtobufEvents(Box<ProtobufMask>),
    Text(Box<TextScan>),
}

impl Engine {
    /// Whether it reads one document, and not what may go on for hours.
    pub(crate) const fn is_document(&self) -> bool {
        matches!(self, Self::Json(_) | Self::Protobuf(_))
    }
}

pin_project! {
    /// A masked body. What cannot be masked ends it with an error, so that nobody takes it for whole.
    pub(crate) struct MaskBody<B> {
        #[pin]
        inner: B,
        engine: Engine,
        gunzip: Option<MultiGzDecoder<Vec<u8>>>,
        // What has come and has not been read yet.
        input: Bytes,
        output: VecDeque<Bytes>,
        pieces: Vec<Piece>,
        trailers: Option<HeaderMap>,
        ended: bool,
        scope: Scope,
        trail: Trail,
    }
}

/// How much of a compressed body is undone at once: at most a thousand times as much comes of it.
const GUNZIP_STEP: usize = 1 << 10;

/// Pieces smaller than this are put together: a frame costs more than a copy.
const SMALL: usize = 1 << 10;
/// The same of all that there is, if it is smaller than this: most bodies are one object.
const SMALL_TOGETHER: usize = 4 << 10;

impl<B> MaskBody<B> {
    pub(crate) fn new(inner: B, engine: Engine, gzip: bool, scope: Scope, trail: Trail) -> Self {
        Self {
            inner,
            engine,
            gunzip: gzip.then(|| MultiGzDecoder::new(Vec::new())),
            input: Bytes::new(),
            output: VecDeque::new(),
            pieces: Vec::new(),
            trailers: None,
            ended: false,
            scope,
            trail,
        }
    }
}

impl<B> HttpBody for MaskBody<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        loop {
            if let Some(bytes) = this.output.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if *this.ended {
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let step = if this.input.is_empty() {
                match ready!(this.inner.as_mut().poll_frame(cx)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => {
                            *this.input = data;
                            continue;
                        }
                        Err(frame) => {
                            let mut trailers = frame.into_trailers().unwrap_or_default();
                            mask_warnings(&mut trailers, this.scope, this.trail);
                            *this.trailers = Some(trailers);
                            None
                        }
                    },
                    Some(Err(error)) => {
                        *this.ended = true;
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    None => None,
                }
            } else if this.gunzip.is_some() {
                Some(this.input.split_to(this.input.len().min(GUNZIP_STEP)))
            } else {
                Some(std::mem::take(this.input))
            };
            *this.ended = step.is_none();
            let masked = mask(this.engine, this.gunzip, step, this.pieces);
            let counts = match this.engine {
                Engine::Json(masker) | Engine::JsonSequence(masker) => masker.take_counts(),
                Engine::Protobuf(mask) | Engine::ProtobufEvents(mask) => mask.take_counts(),
                Engine::Text(scan) => scan.take_counts(),
            };
            count(counts, this.trail);
            if let Err(error) = masked {
                *this.ended = true;
                *this.trailers = None;
                tracing::warn!(%error, "a response was cut off, since it cannot be masked");
                this.trail.note().notes.insert("maskError", error.to_string().into());
                return Poll::Ready(Some(Err(error.into())));
            }
            pack(this.pieces, this.output);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.output.is_empty() && self.trailers.is_none()
    }
}

/// Adds up how many values each rule replaced.
pub(crate) fn count(counts: Vec<(String, u64)>, trail: &Trail) {
    for (rule, count) in counts {
        metrics::counter!("portcullis_masked_values_total", "rule" => rule.clone()).increment(count);
        trail.masked(&rule, count);
    }
}

/// Masks the next bytes, or the end (`None`).
fn mask(
    engine: &mut Engine,
    gunzip: &mut Option<MultiGzDecoder<Vec<u8>>>,
    step: Option<Bytes>,
    pieces: &mut Vec<Piece>,
) -> Result<(), MaskError> {
    let undecodable = |_| MaskError::new(MaskErrorKind::Undecodable, 0);
    let last = step.is_none();
    let plain = match gunzip {
        None => step.unwrap_or_default(),
        Some(decoder) => {
            match step {
                Some(step) => {
                    decoder.write_all(&step).map_err(undecodable)?;
                    decoder.flush().map_err(undecodable)?;
                }
                None => decoder.try_finish().map_err(undecodable)?,
            }
            Bytes::from(std::mem::take(decoder.get_mut()))
        }
    };
    match engine {
        Engine::Json(masker) | Engine::JsonSequence(masker) => {
            if !plain.is_empty() {
                masker.push(plain, pieces)?;
            }
            // An answer without any content has nothing to hide.
            if last && masker.started() {
                masker.finish(pieces)?;
            }
        }
        Engine::Protobuf(mask) | Engine::ProtobufEvents(mask) => {
            if !plain.is_empty() {
                mask.push(plain, pieces)?;
            }
            if last {
                mask.finish(pieces)?;
            }
        }
        Engine::Text(scan) => {
            if !plain.is_empty() {
                scan.push(plain, pieces);
            }
            if last {
                scan.finish(pieces);
            }
        }
    }
    Ok(())
}

/// Puts neighbouring small pieces together; large ones stay as they are, uncopied.
fn pack(pieces: &mut Vec<Piece>, output: &mut VecDeque<Bytes>) {
    let lengths = || pieces.iter().map(|piece| piece.bytes().len());
    let limit = match pieces.len() {
        0 | 1 => 0,
        _ if lengths().sum::<usize>() < SMALL_TOGETHER => SMALL_TOGETHER,
        _ => SMALL,
    };
    let is_small = |length: &usize| *length < limit;
    let room = lengths().filter(is_small).sum();
    let mut small = BytesMut::with_capacity(room);
    for piece in pieces.drain(..) {
        let bytes = piece.into_bytes();
        if is_small(&bytes.len()) {
            small.extend_from_slice(&bytes);
            continue;
        }
        if !small.is_empty() {
            output.push_back(small.split().freeze());
        }
        if !bytes.is_empty() {
            output.push_back(bytes);
        }
    }
    if !small.is_empty() {
        output.push_back(small.freeze());
    }
}
