//! What commands print (exec, attach), masked by detectors as it streams by.
//!
//! Text only: a stream that shows itself to be binary passes as it is, since replacing bytes in an archive breaks it. Who may
//! copy files or encode on purpose is for policy to decide.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use portcullis_core::{
    Channel, Direction, StreamAbort, StreamEnd, StreamFrame, StreamInfo, StreamStage, StreamStageFactory,
    Trail,
};

use crate::{Scope, piece::join, text::TextScan};

/// Makes a stage for each stream of a request.
pub(crate) struct MaskStages {
    scope: Scope,
    trail: Trail,
}

impl MaskStages {
    pub(crate) fn new(scope: Scope, trail: Trail) -> Self {
        Self { scope, trail }
    }
}

impl StreamStageFactory for MaskStages {
    fn open<'a>(&'a self, info: &'a StreamInfo) -> BoxFuture<'a, Result<Box<dyn StreamStage>, StreamAbort>> {
        let stage = MaskStage {
            scope: self.scope.clone(),
            trail: self.trail.clone(),
            interactive: info.tty,
            archive: info.command.first().is_some_and(|command| command.rsplit('/').next() == Some("tar")),
            channels: HashMap::new(),
        };
        Box::pin(ready(Ok(Box::new(stage) as Box<dyn StreamStage>)))
    }
}

struct MaskStage {
    scope: Scope,
    trail: Trail,
    interactive: bool,
    archive: bool,
    channels: HashMap<Channel, State>,
}

enum State {
    Text(Box<TextScan>),
    Binary,
}

impl MaskStage {
    fn scan(&self) -> TextScan {
        let scan = TextScan::new(self.scope.text_plan(false));
        if self.interactive { scan.interactive() } else { scan }
    }

    fn mask(&mut self, channel: Channel, data: Bytes, last: bool) -> Bytes {
        let fresh = match self.channels.contains_key(&channel) {
            true => None,
            false if self.archive && channel == Channel::Stdout => Some(State::Binary),
            false => Some(State::Text(Box::new(self.scan()))),
        };
        let state = match fresh {
            Some(fresh) => self.channels.entry(channel).or_insert(fresh),
            None => match self.channels.get_mut(&channel) {
                Some(state) => state,
                None => return data,
            },
        };
        let State::Text(scan) = state else { return data };
        let mut pieces = Vec::new();
        // A terminal shows text, whatever bytes are in it; elsewhere a zero byte tells binary data.
        let binary = !self.interactive && memchr::memchr(0, &data).is_some();
        if binary {
            scan.finish(&mut pieces);
            pieces.push(crate::Piece::Verbatim(data));
        } else {
            scan.push(data, &mut pieces);
            if last {
                scan.finish(&mut pieces);
            }
        }
        for (rule, count) in scan.take_counts() {
            self.trail.masked(&rule, count);
        }
        if binary {
            *state = State::Binary;
        }
        match pieces.len() {
            1 => pieces.remove(0).into_bytes(),
            _ => join(&pieces).into(),
        }
    }
}

impl StreamStage for MaskStage {
    fn frame(&mut self, frame: StreamFrame, out: &mut Vec<StreamFrame>) -> Result<(), StreamAbort> {
        let output = matches!(frame.channel, Channel::Stdout | Channel::Stderr | Channel::Error);
        if frame.direction != Direction::ToClient || !output {
            out.push(frame);
            return Ok(());
        }
        let data = self.mask(frame.channel, frame.data, frame.fin);
        if !data.is_empty() || frame.fin {
            out.push(StreamFrame { data, ..frame });
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<StreamFrame>) {
        let channels: Vec<Channel> = self.channels.keys().copied().collect();
        for channel in channels {
            let data = self.mask(channel, Bytes::new(), true);
            if !data.is_empty() {
                out.push(StreamFrame { direction: Direction::ToClient, channel, data, fin: false });
            }
        }
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

    const GITHUB: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";

    fn info(command: &[&str], tty: bool) -> StreamInfo {
        StreamInfo {
            request: RequestInfo {
                is_resource_request: true,
                verb: "create".into(),
                resource: "pods".into(),
                subresource: "exec".into(),
                ..RequestInfo::default()
            },
            audit_id: None,
            transport: StreamTransport::WebSocket,
            subprotocol: "v5.channel.k8s.io".into(),
            command: command.iter().map(|&argument| argument.to_owned()).collect(),
            container: None,
            tty,
        }
    }

    async fn run(info: &StreamInfo, frames: &[(Direction, Channel, &str)]) -> (String, Trail) {
        let key = MaskKey::from_bytes(&[7; 32]).unwrap();
        let rules = Rules::new(&MaskConfig::default(), key).unwrap();
        let trail = Trail::default();
        let stages = MaskStages::new(rules.scope(&info.request, Caller::default()), trail.clone());
        let mut stage = stages.open(info).await.unwrap();
        let mut out = Vec::new();
        for &(direction, channel, text) in frames {
            let data = Bytes::copy_from_slice(text.as_bytes());
            stage.frame(StreamFrame { direction, channel, data, fin: false }, &mut out).unwrap();
        }
        stage.flush(&mut out);
        stage.close(StreamEnd::Closed).await;
        let shown: Vec<u8> = out.iter().flat_map(|frame| frame.data.to_vec()).collect();
        (String::from_utf8(shown).unwrap(), trail)
    }

    #[tokio::test]
    async fn output_is_masked_across_frames_and_input_is_not() {
        let (left, right) = GITHUB.split_at(11);
        let to_client = Direction::ToClient;
        let frames = [
            (to_client, Channel::Stdout, left),
            (to_client, Channel::Stderr, "!"),
            (to_client, Channel::Stdout, right),
        ];
        let (shown, trail) = run(&info(&["env"], false), &frames).await;
        assert!(shown.starts_with("!masked:known-formats:"), "{shown}");
        assert_eq!(trail.snapshot().masked["known-formats"], 1);
        let (shown, _) = run(&info(&["sh"], true), &[(Direction::ToServer, Channel::Stdin, GITHUB)]).await;
        assert_eq!(shown, GITHUB);
    }

    #[tokio::test]
    async fn archives_and_binary_data_pass_unchanged() {
        let text = format!("x{GITHUB}\0{GITHUB}");
        fn stdout(text: &str) -> [(Direction, Channel, &str); 1] {
            [(Direction::ToClient, Channel::Stdout, text)]
        }
        assert_eq!(run(&info(&["cat", "x"], false), &stdout(&text)).await.0, text);
        let copied = format!("file {GITHUB}");
        assert_eq!(run(&info(&["/bin/tar", "cf", "-"], false), &stdout(&copied)).await.0, copied);
        assert_ne!(run(&info(&["cat", "x"], false), &stdout(&copied)).await.0, copied);
    }

    #[tokio::test]
    async fn the_end_of_a_channel_is_kept() {
        let key = MaskKey::from_bytes(&[7; 32]).unwrap();
        let rules = Rules::new(&MaskConfig::default(), key).unwrap();
        let info = info(&["env"], false);
        let stages = MaskStages::new(rules.scope(&info.request, Caller::default()), Trail::default());
        let mut stage = stages.open(&info).await.unwrap();
        let mut out = Vec::new();
        let frame = |data: &'static [u8], fin| StreamFrame {
            direction: Direction::ToClient,
            channel: Channel::Stdout,
            data: Bytes::from_static(data),
            fin,
        };
        stage.frame(frame(b"ghp_", false), &mut out).unwrap();
        stage.frame(frame(b"", true), &mut out).unwrap();
        assert_eq!(out, [frame(b"ghp_", true)]);
    }
}
