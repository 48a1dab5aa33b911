//! The stages of one stream, and the way of a frame through them.

use portcullis_core::{StreamAbort, StreamEnd, StreamFrame, StreamStage};

/// Stages in the order in which frames pass them. Both directions of a stream share them.
pub(super) struct Pipeline {
    stages: Vec<Box<dyn StreamStage>>,
}

impl Pipeline {
    pub(super) fn new(stages: Vec<Box<dyn StreamStage>>) -> Self {
        Self { stages }
    }

    /// What is to go on instead of `frame`.
    pub(super) async fn pass(&mut self, frame: StreamFrame) -> Result<Vec<StreamFrame>, StreamAbort> {
        let mut frames = vec![frame];
        for stage in &mut self.stages {
            frames = through(stage.as_mut(), frames).await?;
        }
        Ok(frames)
    }

    /// What the stages held back, once the cluster has nothing more to say.
    pub(super) async fn flush(&mut self) -> Result<Vec<StreamFrame>, StreamAbort> {
        let mut frames = Vec::new();
        for stage in &mut self.stages {
            frames = through(stage.as_mut(), frames).await?;
            stage.flush(&mut frames);
        }
        Ok(frames)
    }

    /// Tells every stage that the stream is over, and waits until each has written that down.
    pub(super) async fn close(self, end: &StreamEnd) {
        for stage in self.stages {
            stage.close(end.clone()).await;
        }
    }
}

async fn through(
    stage: &mut dyn StreamStage,
    frames: Vec<StreamFrame>,
) -> Result<Vec<StreamFrame>, StreamAbort> {
    let mut out = Vec::with_capacity(frames.len());
    for frame in frames {
        stage.ready().await?;
        stage.frame(frame, &mut out)?;
    }
    Ok(out)
}
