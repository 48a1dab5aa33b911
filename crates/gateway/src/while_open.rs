//! What is held for as long as a relayed stream is open.

use std::sync::{Mutex, PoisonError};

use portcullis_core::{
    BoxFuture, StreamAbort, StreamEnd, StreamFrame, StreamInfo, StreamStage, StreamStageFactory,
};

/// Holds something for a request until it is taken: by the request's stream, which drops it when it is over, or, if it has
/// become none, by whoever put it into the request's [`StreamPlan`](portcullis_core::StreamPlan).
#[derive(Debug)]
pub(crate) struct WhileOpen<T>(Mutex<Option<T>>);

impl<T> WhileOpen<T> {
    /// Holds `held`.
    pub(crate) fn new(held: T) -> Self {
        Self(Mutex::new(Some(held)))
    }

    /// What is held, unless somebody has taken it.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T: Send + 'static> StreamStageFactory for WhileOpen<T> {
    fn open<'a>(&'a self, _: &'a StreamInfo) -> BoxFuture<'a, Result<Box<dyn StreamStage>, StreamAbort>> {
        let stage: Box<dyn StreamStage> = Box::new(Stage { _held: self.take() });
        Box::pin(std::future::ready(Ok(stage)))
    }
}

/// Lets everything pass, and holds.
struct Stage<T> {
    _held: Option<T>,
}

impl<T: Send> StreamStage for Stage<T> {
    fn frame(&mut self, frame: StreamFrame, out: &mut Vec<StreamFrame>) -> Result<(), StreamAbort> {
        out.push(frame);
        Ok(())
    }

    fn close(self: Box<Self>, _: StreamEnd) -> BoxFuture<'static, ()> {
        drop(self);
        Box::pin(std::future::ready(()))
    }
}
