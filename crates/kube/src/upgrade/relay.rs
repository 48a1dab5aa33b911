//! The life of one relayed stream: both lanes, and what ends them.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use portcullis_core::{Direction, Ended, Liveness, Refusal, StreamAbort, StreamEnd, StreamPlan, StreamStage};
use portcullis_wire::{
    Handling, MaskingKeys, SpdyVersion, StreamCodec, StreamLimits, StreamProtocol, Subprotocol,
};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex,
};

use super::{
    lane::{Fault, Lane},
    negotiate::Agreed,
    pipeline::Pipeline,
};

/// How long a client that is cut off may take to hear why. Nothing else passes meanwhile.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long a client may take to hang up once the cluster has.
const LINGER: Duration = Duration::from_secs(10);

/// WebSocket close codes (RFC 6455 §7.4.1).
const POLICY_VIOLATION: u16 = 1008;
const GOING_AWAY: u16 = 1001;

/// A stream that both ends agreed to, and that is about to begin.
pub(crate) struct Relay {
    agreed: Agreed,
    stages: Vec<Box<dyn StreamStage>>,
    liveness: Liveness,
}

impl Relay {
    /// Opens the stages of `plan`. Nothing has been relayed, and the client has not been told anything yet.
    ///
    /// # Errors
    ///
    /// 503 when a stage refuses the stream.
    pub(crate) async fn open(agreed: Agreed, plan: StreamPlan, liveness: Liveness) -> Result<Self, Refusal> {
        let stages = plan.open(&agreed.info).await.map_err(|abort| {
            Refusal::unavailable(
                "upstream/stream-refused",
                "the stream cannot be recorded and masked, so it was not opened",
            )
            .detail(abort.to_string())
        })?;
        Ok(Self { agreed, stages, liveness })
    }

    /// Relays until the stream is over.
    pub(crate) async fn run(self, client: OnUpgrade, server: OnUpgrade) {
        let mut pipeline = Pipeline::new(self.stages);
        let ended = self.liveness.ended();
        let upgraded = async { tokio::try_join!(client, server) };
        let end = tokio::select! {
            biased;
            ended = ended => StreamEnd::Cut(ended),
            upgraded = upgraded => match upgraded {
                Ok((client, server)) => {
                    let (client, server) = (TokioIo::new(client), TokioIo::new(server));
                    let shared = Mutex::new(pipeline);
                    let end = relay(client, server, &self.agreed, &shared, &self.liveness).await;
                    pipeline = shared.into_inner();
                    end
                }
                // Whoever stands before us answered something else than our 101, or the client left.
                Err(_) => StreamEnd::Disconnected(Direction::ToServer),
            },
        };
        tracing::debug!(?end, audit_id = ?self.agreed.info.audit_id, "stream over");
        pipeline.close(&end).await;
    }
}

/// Generic over the two connections for the sake of tests.
pub(super) async fn relay<C, S>(
    client: C,
    server: S,
    agreed: &Agreed,
    pipeline: &Mutex<Pipeline>,
    liveness: &Liveness,
) -> StreamEnd
where
    C: AsyncRead + AsyncWrite,
    S: AsyncRead + AsyncWrite,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (server_read, server_write) = tokio::io::split(server);
    let (to_server, to_client) =
        StreamCodec::pair(&agreed.protocol, Handling::Rewrite, StreamLimits::default(), masking_keys());
    let paired = matches!(agreed.protocol, StreamProtocol::Channels { .. });
    let mut to_server = Lane::new(Direction::ToServer, client_read, server_write, to_server, paired);
    let mut to_client = Lane::new(Direction::ToClient, server_read, client_write, to_client, paired);

    let end = tokio::select! {
        biased;
        ended = liveness.ended() => StreamEnd::Cut(ended),
        end = both(&mut to_server, &mut to_client, pipeline) => end,
    };
    if let Some(goodbye) = Goodbye::new(&end, agreed) {
        to_client.say_goodbye(Some(goodbye.outcome), goodbye.code, &goodbye.reason);
        to_server.say_goodbye(None, goodbye.code, &goodbye.reason);
        let farewell = async {
            tokio::join!(to_client.finish(), to_server.finish());
            // A reset for bytes that nobody read would overtake what was just written.
            tokio::join!(to_server.drain(), to_client.drain());
        };
        let _ = tokio::time::timeout(GOODBYE, farewell).await;
    }
    end
}

async fn both<CR, CW, SR, SW>(
    to_server: &mut Lane<CR, SW>,
    to_client: &mut Lane<SR, CW>,
    pipeline: &Mutex<Pipeline>,
) -> StreamEnd
where
    CR: AsyncRead + Unpin,
    CW: AsyncWrite + Unpin,
    SR: AsyncRead + Unpin,
    SW: AsyncWrite + Unpin,
{
    let mut client = pin!(to_server.run(pipeline));
    let mut cluster = pin!(to_client.run(pipeline));
    let mut client_is_done = false;
    loop {
        tokio::select! {
            result = &mut client, if !client_is_done => match result {
                // Whether it has hung up, or the cluster no longer listens: the cluster may still be answering.
                Ok(()) | Err(Fault::Destination(_)) => client_is_done = true,
                Err(fault) => return end_by(fault, Direction::ToServer),
            },
            result = &mut cluster => match result {
                Ok(()) if client_is_done => return StreamEnd::Closed,
                Ok(()) => break,
                Err(fault) => return end_by(fault, Direction::ToClient),
            },
        }
    }
    match tokio::time::timeout(LINGER, client).await {
        Ok(Err(fault @ (Fault::Undecodable(_) | Fault::Refused(_)))) => end_by(fault, Direction::ToServer),
        _ => StreamEnd::Closed,
    }
}

fn end_by(fault: Fault, lane: Direction) -> StreamEnd {
    tracing::debug!(?fault, ?lane, "stream broke off");
    match (fault, lane) {
        (Fault::Source(_), _) => StreamEnd::Disconnected(lane),
        (Fault::Destination(_), Direction::ToServer) => StreamEnd::Disconnected(Direction::ToClient),
        (Fault::Destination(_), Direction::ToClient) => StreamEnd::Disconnected(Direction::ToServer),
        (Fault::Undecodable(error), _) => StreamEnd::Aborted(StreamAbort::Failed(error.to_string())),
        (Fault::Refused(abort), _) => StreamEnd::Aborted(abort),
    }
}

/// What a client hears when it is not the one to end the stream.
struct Goodbye {
    outcome: Bytes,
    code: u16,
    reason: String,
}

impl Goodbye {
    fn new(end: &StreamEnd, agreed: &Agreed) -> Option<Self> {
        let (reason, close, status, word) = match end {
            StreamEnd::Closed | StreamEnd::Disconnected(_) => return None,
            StreamEnd::Cut(ended @ Ended::Draining) => {
                (ended.to_string(), GOING_AWAY, 503, "ServiceUnavailable")
            }
            StreamEnd::Cut(ended) => (ended.to_string(), POLICY_VIOLATION, 401, "Unauthorized"),
            StreamEnd::Aborted(abort) => {
                tracing::warn!(%abort, "stream ended by the gateway");
                match abort {
                    StreamAbort::Refused(why) => (why.clone(), POLICY_VIOLATION, 403, "Forbidden"),
                    StreamAbort::Failed(_) => {
                        let reason = "what passed could not be read, recorded or masked safely".to_owned();
                        (reason, POLICY_VIOLATION, 500, "InternalError")
                    }
                }
            }
        };
        let reason = format!("portcullis ended the stream: {reason}");
        let subprotocol = &agreed.info.subprotocol;
        let is_watch = matches!(agreed.protocol, StreamProtocol::Messages { .. });
        let is_status = Subprotocol::parse(subprotocol).is_some_and(Subprotocol::error_is_status)
            || SpdyVersion::parse(subprotocol).is_some_and(SpdyVersion::error_is_status);
        let outcome = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": reason,
            "reason": word,
            "code": status,
        });
        let outcome = match (is_watch, is_status) {
            (true, _) => format!("{}\n", json!({ "type": "ERROR", "object": outcome })),
            (_, true) => outcome.to_string(),
            _ => reason.clone(),
        };
        Some(Self { outcome: outcome.into(), code: close, reason })
    }
}

/// Where the masking keys of frames that are written anew come from. They defend nobody here (the connection is TLS), so a
/// random source that fails does not end the stream.
fn masking_keys() -> MaskingKeys {
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    MaskingKeys::new(move || {
        let mut key = [0; 4];
        let _ = random.fill(&mut key);
        key
    })
}
