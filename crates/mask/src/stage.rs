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
