//! What commands print (exec, attach), masked by detectors as it streams by.
//!
//! Text only: a stream that shows itself to be binary passes as it is, since replacing bytes in it breaks it. An archive, which
//! is how `kubectl cp` fetches whole files, passes only where the configuration says so. Who may encode on purpose is for policy
//! to decide.

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
            tar: info.command.first().is_some_and(|command| command.rsplit('/').next() == Some("tar")),
            refuses: !self.scope.passes_archives() && !self.scope.text_plan(false).is_empty(),
            head: Vec::new(),
            channels: HashMap::new(),
        };
        Box::pin(ready(Ok(Box::new(stage) as Box<dyn StreamStage>)))
    }
}

struct MaskStage {
    scope: Scope,
    trail: Trail,
    interactive: bool,
    /// Whether the command is `tar`.
    tar: bool,
    /// Whether an archive ends the stream.
    refuses: bool,
    /// How standard output began, as far as that tells an archive.
    head: Vec<u8>,
    channels: HashMap<Channel, State>,
}

enum State {
    Text(Box<TextScan>),
    Binary,
}

/// What the client is told when its stream ends.
const ARCHIVE: &str = "mask/archive: the output is an archive, which cannot be masked; \
    `mask.archives: pass` in the gateway's configuration lets archives pass";

/// What a header of an archive has in it (POSIX.1-1988), where no byte of a file has been sent yet.
const MAGIC: (usize, &[u8]) = (257, b"ustar");

/// How compressed archives begin that need have no zero byte (bzip2, zstd).
const COMPRESSED: [&[u8]; 2] = [b"BZh", b"\x28\xb5\x2f\xfd"];

impl MaskStage {
    /// Whether what has come of standard output, this included, is an archive.
    fn is_archive(&mut self, data: &[u8]) -> bool {
        let (at, magic) = MAGIC;
        let room = (at + magic.len()).saturating_sub(self.head.len());
        self.head.extend_from_slice(&data[..data.len().min(room)]);
        let binary = || {
            memchr::memchr(0, data).is_some() || COMPRESSED.iter().any(|begin| self.head.starts_with(begin))
        };
        self.head[at.min(self.head.len())..] == *magic || (self.tar && binary())
    }

    fn scan(&self) -> TextScan {
        let scan = TextScan::new(self.scope.text_plan(false));
        if self.interactive { scan.interactive() } else { scan }
    }

    fn mask(&mut self, channel: Channel, data: Bytes, last: bool) -> Bytes {
        let fresh = match self.channels.contains_key(&channel) {
            true => None,
            false if self.tar && !self.refuses && channel == Channel::Stdout => Some(State::Binary),
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
        if self.refuses
            && !self.interactive
            && frame.channel == Channel::Stdout
            && self.is_archive(&frame.data)
        {
            return Err(StreamAbort::Refused(ARCHIVE.to_owned()));
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
    use crate::{Archives, Caller, MaskConfig, MaskKey, Pack, Rules};

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
        let config = MaskConfig { archives: Archives::Pass, ..MaskConfig::default() };
        let rules = Rules::new(&config, key).unwrap();
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

    /// Whether standard output in these pieces ends the stream; if so, the client is told why, and nothing of a file was sent.
    async fn is_refused(packs: Vec<Pack>, command: &[&str], pieces: &[&[u8]]) -> bool {
        let key = MaskKey::from_bytes(&[7; 32]).unwrap();
        let rules = Rules::new(&MaskConfig { packs, ..MaskConfig::default() }, key).unwrap();
        let info = info(command, false);
        let stages = MaskStages::new(rules.scope(&info.request, Caller::default()), Trail::default());
        let mut stage = stages.open(&info).await.unwrap();
        let mut out = Vec::new();
        for piece in pieces {
            let data = Bytes::copy_from_slice(piece);
            let frame =
                StreamFrame { direction: Direction::ToClient, channel: Channel::Stdout, data, fin: false };
            if let Err(StreamAbort::Refused(why)) = stage.frame(frame, &mut out) {
                assert!(why.contains("mask.archives: pass"), "{why}");
                assert!(out.iter().map(|frame| frame.data.len()).sum::<usize>() < 512);
                return true;
            }
        }
        false
    }

    #[tokio::test]
    async fn archives_are_refused_unless_they_may_pass() {
        let mut archive = vec![0; 1024];
        archive[..8].copy_from_slice(b"file.txt");
        archive[257..262].copy_from_slice(b"ustar");
        let default = || MaskConfig::default().packs;
        let bytes: Vec<&[u8]> = archive.chunks(1).collect();
        for command in [&["tar", "cf", "-", "x"][..], &["sh", "-c", "tar cf - x"]] {
            assert!(is_refused(default(), command, &[&archive]).await);
            assert!(is_refused(default(), command, &bytes).await);
            assert!(!is_refused(vec![Pack::KubernetesSecrets], command, &[&archive]).await);
        }
        assert!(is_refused(default(), &["/bin/tar", "cjf", "-", "x"], &[b"BZh91AY"]).await);
        assert!(is_refused(default(), &["tar", "czf", "-"], &[b"\x1f\x8b\x08\0"]).await);
        assert!(!is_refused(default(), &["tar", "tf", "x"], &[b"file.txt\n"]).await);
        assert!(!is_refused(default(), &["cat", "x"], &[b"binary\0", &[0; 1024]]).await);
        assert!(!is_refused(default(), &["cat", "x"], &[&[b'x'; 257], b"ustat", b"ustar"]).await);
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
