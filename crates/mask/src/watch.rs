//! The events of a watch over WebSocket: each message is a document of its own, and is masked like any other.

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use portcullis_core::{
    Channel, Direction, StreamAbort, StreamEnd, StreamFrame, StreamInfo, StreamStage, StreamStageFactory,
    Trail,
};

use crate::{MaskError, Masker, Piece, Scope, body::count, json::Columns, piece::join};

/// Makes a stage for a watch, should it become a stream.
pub(crate) struct WatchStages {
    scope: Scope,
    trail: Trail,
}

impl WatchStages {
    pub(crate) fn new(scope: Scope, trail: Trail) -> Self {
        Self { scope, trail }
    }
}

impl StreamStageFactory for WatchStages {
    fn open<'a>(&'a self, _: &'a StreamInfo) -> BoxFuture<'a, Result<Box<dyn StreamStage>, StreamAbort>> {
        let (scope, trail) = (self.scope.clone(), self.trail.clone());
        let stage = WatchStage { scope, trail, columns: Columns::default() };
        Box::pin(ready(Ok(Box::new(stage) as Box<dyn StreamStage>)))
    }
}

struct WatchStage {
    scope: Scope,
    trail: Trail,
    /// What the first event has said of the columns of all, if they are Tables.
    columns: Columns,
}

impl WatchStage {
    /// The event as the client may see it. It has come whole, so that nothing of one that cannot be masked is sent.
    fn mask(&mut self, event: &Bytes) -> Result<Bytes, MaskError> {
        let mut masker = Masker::new(self.scope.clone()).with_columns(std::mem::take(&mut self.columns));
        let mut pieces = Vec::new();
        let masked = masker.push(event.clone(), &mut pieces).and_then(|()| masker.finish(&mut pieces));
        count(masker.take_counts(), &self.trail);
        self.columns = masker.into_columns();
        let untouched = pieces.iter().all(|piece| matches!(piece, Piece::Verbatim(_)));
        masked.map(|()| if untouched { event.clone() } else { join(&pieces).into() })
    }

    fn abort(&self, why: &str) -> StreamAbort {
        tracing::warn!(%why, "a watch was cut off, since an event of it cannot be masked");
        self.trail.note().notes.insert("maskError", why.into());
        StreamAbort::Refused(format!("mask/unreadable: an event of the watch was to be masked, but {why}"))
    }
}

impl StreamStage for WatchStage {
    fn frame(&mut self, frame: StreamFrame, out: &mut Vec<StreamFrame>) -> Result<(), StreamAbort> {
        if frame.direction == Direction::ToServer {
            out.push(frame);
            return Ok(());
        }
        if frame.channel != Channel::Event {
            return Err(self.abort("it came as something else"));
        }
        if frame.data.len() > self.scope.limits().held_bytes {
            return Err(self.abort("it is longer than `mask.limits.heldBytes`"));
        }
        let data = self.mask(&frame.data).map_err(|error| {
            self.abort(&format!("it cannot be read ({error}); let the client accept application/json"))
        })?;
        out.push(StreamFrame { data, ..frame });
        Ok(())
    }

    fn close(self: Box<Self>, _: StreamEnd) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::{RequestInfo, StreamTransport};

    use super::*;
    use crate::{Caller, MaskConfig, MaskKey, Rules};

    const SECRET: &str = r#"{"kind":"Secret","metadata":{"uid":"1"},"data":{"p":"aHVudGVyMg=="}}"#;

    fn scope() -> (Scope, RequestInfo) {
        let request = RequestInfo {
            is_resource_request: true,
            verb: "watch".into(),
            api_version: "v1".into(),
            resource: "secrets".into(),
            ..RequestInfo::default()
        };
        let rules = Rules::new(&MaskConfig::default(), MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap();
        (rules.scope(&request, Caller::default()), request)
    }

    async fn stage() -> (Box<dyn StreamStage>, Trail) {
        let (scope, request) = scope();
        let trail = Trail::default();
        let info = StreamInfo {
            request,
            audit_id: None,
            transport: StreamTransport::WebSocket,
            subprotocol: String::new(),
            command: Vec::new(),
            container: None,
            tty: false,
        };
        (WatchStages::new(scope, trail.clone()).open(&info).await.unwrap(), trail)
    }

    fn event(data: impl Into<Bytes>) -> StreamFrame {
        StreamFrame { direction: Direction::ToClient, channel: Channel::Event, data: data.into(), fin: false }
    }

    #[tokio::test]
    async fn events_are_what_they_are_over_plain_http() {
        let events = ["ADDED", "MODIFIED", "DELETED"]
            .map(|kind| format!("{{\"type\":\"{kind}\",\"object\":{SECRET}}}\n"));
        let mut plain = Masker::sequence(scope().0);
        let mut pieces = Vec::new();
        plain.push(Bytes::from(events.concat()), &mut pieces).unwrap();
        plain.finish(&mut pieces).unwrap();

        let (mut stage, trail) = stage().await;
        let mut out = Vec::new();
        for text in events {
            stage.frame(event(text), &mut out).unwrap();
        }
        let masked: Vec<u8> = out.iter().flat_map(|frame| frame.data.to_vec()).collect();
        assert_eq!(out.len(), 3);
        assert_eq!(masked, join(&pieces));
        assert!(String::from_utf8(masked).unwrap().contains("bWFza2Vk"));
        assert_eq!(trail.snapshot().masked["secrets"], 3);
        stage.close(StreamEnd::Closed).await;
    }

    #[tokio::test]
    async fn columns_are_remembered_from_one_event_to_the_next() {
        let yaml = "{packs: [], rules: [{name: pins, paths: [spec.pin]}]}";
        let config: MaskConfig = serde_yaml::from_str(yaml).unwrap();
        let rules = Rules::new(&config, MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap();
        let (scope, trail) = (rules.scope(&scope().1, Caller::default()), Trail::default());
        let mut stage = WatchStage { scope, trail, columns: Columns::default() };
        let mut out = Vec::new();
        for columns in [r#"[{"name":"Name"},{"name":"Pin"}]"#, "null"] {
            let table =
                format!(r#"{{"kind":"Table","columnDefinitions":{columns},"rows":[{{"cells":["a","b"]}}]}}"#);
            stage.frame(event(format!(r#"{{"type":"ADDED","object":{table}}}"#)), &mut out).unwrap();
        }
        for frame in out {
            let masked = String::from_utf8(frame.data.to_vec()).unwrap();
            assert!(masked.contains(r#"["a","masked:pins:redacted"]"#), "{masked}");
        }
    }

    #[tokio::test]
    async fn what_is_not_masked_is_handed_on_as_it_came() {
        let (mut stage, _) = stage().await;
        let bookmark = event("{\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"Secret\",\"metadata\":{}}}\n");
        let mut out = Vec::new();
        stage.frame(bookmark.clone(), &mut out).unwrap();
        assert_eq!(out[0].data.as_ptr(), bookmark.data.as_ptr());
        let said = StreamFrame { direction: Direction::ToServer, ..event("anything") };
        stage.frame(said.clone(), &mut out).unwrap();
        assert_eq!(out[1], said);
    }

    #[tokio::test]
    async fn what_is_no_event_in_json_is_refused() {
        let two = format!("{SECRET}{SECRET}");
        let long = format!("{{\"kind\":\"Secret\",\"x\":\"{}\"}}", "x".repeat(3 << 20));
        for data in [
            Bytes::from_static(b"\n\x05ADDED\x12\x04aHVu"),
            Bytes::from_static(b""),
            Bytes::from_static(br#"{"kind":"Secret","data":{"p":"aHVu"#),
            Bytes::from(two),
            Bytes::from(long),
        ] {
            let (mut stage, trail) = stage().await;
            let mut out = Vec::new();
            let refused = stage.frame(event(data.clone()), &mut out).unwrap_err();
            let StreamAbort::Refused(why) = refused else { panic!("{refused:?}") };
            assert!(why.starts_with("mask/unreadable") && !why.contains("aHVu"), "{why}");
            assert!(out.is_empty() && trail.snapshot().notes.contains_key("maskError"));
        }
        let (mut stage, _) = stage().await;
        let elsewhere = StreamFrame { channel: Channel::Stdout, ..event("{}") };
        assert!(stage.frame(elsewhere, &mut Vec::new()).is_err());
    }
}
