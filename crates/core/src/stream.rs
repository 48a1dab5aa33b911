//! Upgraded streams (exec, attach, port-forward, watches): what passes through them, and who looks at it.
//!
//! The upstream relay decodes a stream once, whatever it is wrapped in (WebSocket or SPDY/3.1), shows each frame to the
//! stages of the request's [`StreamPlan`], and re-encodes only what a stage changed.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use crate::{AuditId, BoxFuture, Ended, RequestInfo};

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client.
    ToServer,
    /// From the cluster.
    ToClient,
}

/// What a frame belongs to (<https://kubernetes.io/docs/reference/using-api/api-concepts/>; `k8s.io/apimachinery` `remotecommand`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Standard input.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The command's end: a `metav1.Status` as JSON (v4, v5), or text.
    Error,
    /// Terminal size: `{"Width":80,"Height":24}` as JSON.
    Resize,
    /// One forwarded connection's data; `id` tells connections of one stream apart.
    PortData {
        /// The pod's port; 0 if unknown.
        port: u16,
        /// Which connection.
        id: u32,
    },
    /// One forwarded connection's errors, as text.
    PortError {
        /// The pod's port; 0 if unknown.
        port: u16,
        /// Which connection.
        id: u32,
    },
    /// The events of a watch. The one channel whose frames are messages: each is one whole event.
    Event,
}

/// A piece of one channel's data. Not a message: its borders mean nothing, but for [`Channel::Event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamFrame {
    /// Which way it goes.
    pub direction: Direction,
    /// What it belongs to.
    pub channel: Channel,
    /// The data. A stage that does not change it hands on the very same `Bytes`.
    pub data: Bytes,
    /// Whether the sender closed its half of the channel with this frame.
    pub fin: bool,
}

/// How the stream is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamTransport {
    /// RFC 6455, one of the `channel.k8s.io` subprotocols.
    WebSocket,
    /// SPDY/3.1.
    Spdy,
    /// SPDY/3.1 inside WebSocket messages (`SPDY/3.1+portforward.k8s.io`).
    SpdyOverWebSocket,
}

/// What a stream is, when it opens.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// The request that opened it.
    pub request: RequestInfo,
    /// Its id in the record.
    pub audit_id: Option<AuditId>,
    /// How it is carried.
    pub transport: StreamTransport,
    /// The subprotocol that was agreed on, such as `v5.channel.k8s.io`.
    pub subprotocol: String,
    /// The command, for exec: as the client sent it, **not redacted**.
    pub command: Vec<String>,
    /// The container, if named.
    pub container: Option<String>,
    /// Whether there is a terminal.
    pub tty: bool,
}

/// Why a stage ends a stream: nothing more passes, in either direction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub enum StreamAbort {
    /// Something failed. This is for the record and the operator; the client hears only that its stream could not be passed safely.
    Failed(String),
    /// It is not allowed, and the client hears why, and what to do.
    Refused(String),
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// Both ends closed it.
    Closed,
    /// One end went away.
    Disconnected(Direction),
    /// What the client's credential rests on ended.
    Cut(Ended),
    /// A stage refused to go on, or something was sent that could not be decoded.
    Aborted(StreamAbort),
}

/// Looks at the frames of one stream, and may change them.
pub trait StreamStage: Send {
    /// Resolves when the stage can take another frame; back-pressure for stages that write somewhere.
    ///
    /// # Errors
    ///
    /// [`StreamAbort`] ends the stream.
    fn ready(&mut self) -> BoxFuture<'_, Result<(), StreamAbort>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Takes a frame and pushes what is to go on: the same frame, another, several, or none for now.
    ///
    /// # Errors
    ///
    /// [`StreamAbort`] ends the stream; nothing of this frame is sent.
    fn frame(&mut self, frame: StreamFrame, out: &mut Vec<StreamFrame>) -> Result<(), StreamAbort>;

    /// Nothing more comes; pushes what was held back.
    fn flush(&mut self, out: &mut Vec<StreamFrame>) {
        let _ = out;
    }

    /// The stream is over. Awaited before the relay forgets it, so that it can be recorded.
    fn close(self: Box<Self>, end: StreamEnd) -> BoxFuture<'static, ()>;
}

/// Makes a stage for each stream.
pub trait StreamStageFactory: Send + Sync + 'static {
    /// Called when the upstream has agreed to the stream, before the first byte is relayed.
    ///
    /// # Errors
    ///
    /// [`StreamAbort`]: the stream is refused; the client gets no byte of it.
    fn open<'a>(&'a self, info: &'a StreamInfo) -> BoxFuture<'a, Result<Box<dyn StreamStage>, StreamAbort>>;
}

/// The stages a request's stream will pass, should it become one; in the request's extensions. Clones share it.
///
/// Layers add theirs on the way in, so the outermost layer's comes first in the list; frames pass the **innermost
/// first**: what the mask changed is what audit records, in both directions.
#[derive(Clone, Default)]
pub struct StreamPlan(Arc<Mutex<Vec<Arc<dyn StreamStageFactory>>>>);

impl StreamPlan {
    /// Adds a stage to the request these extensions belong to.
    pub fn add(extensions: &mut http::Extensions, stage: Arc<dyn StreamStageFactory>) {
        let plan = extensions.get_or_insert_default::<Self>();
        plan.0.lock().unwrap_or_else(PoisonError::into_inner).push(stage);
    }

    /// Opens every stage, in the order in which frames pass them.
    ///
    /// # Errors
    ///
    /// The first stage's [`StreamAbort`]; those already open are closed.
    pub async fn open(&self, info: &StreamInfo) -> Result<Vec<Box<dyn StreamStage>>, StreamAbort> {
        let factories: Vec<_> = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut stages: Vec<Box<dyn StreamStage>> = Vec::with_capacity(factories.len());
        for factory in factories.iter().rev() {
            match factory.open(info).await {
                Ok(stage) => stages.push(stage),
                Err(abort) => {
                    for stage in stages {
                        stage.close(StreamEnd::Aborted(abort.clone())).await;
                    }
                    return Err(abort);
                }
            }
        }
        Ok(stages)
    }
}

impl fmt::Debug for StreamPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamPlan").finish_non_exhaustive()
    }
}
