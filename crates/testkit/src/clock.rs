//! One time for a test: the wall clock follows tokio's clock, which tests pause and advance.

use portcullis_core::{Clock, Timestamp};
use tokio::time::Instant;

/// A [`Clock`] that starts at a time of your choice and then follows tokio's clock.
///
/// Under `#[tokio::test(start_paused = true)]`, `tokio::time::advance` moves timers and this clock alike; on a running
/// clock it simply ticks. Clones share their start.
#[derive(Clone, Copy, Debug)]
pub struct TestClock {
    start: Timestamp,
    at: Instant,
}

impl TestClock {
    /// A clock that reads `start` now.
    pub fn starting_at(start: Timestamp) -> Self {
        Self { start, at: Instant::now() }
    }

    /// A clock that reads 2026-01-01T00:00:00Z now: a round number makes a readable failure.
    pub fn new() -> Self {
        Self::starting_at(Timestamp::constant(1_767_225_600, 0))
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        // Saturating: a test that runs past the year 9999 stands still rather than panics.
        self.start.saturating_add(self.at.elapsed()).unwrap_or(self.start)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn follows_tokios_paused_clock() {
        let clock = TestClock::new();
        let start = clock.now();
        assert_eq!(start.to_string(), "2026-01-01T00:00:00Z");
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now().to_string(), "2026-01-01T00:01:30Z");
    }
}
