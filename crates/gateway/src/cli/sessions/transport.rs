//! Where a player is in time: pure arithmetic, so that it can be tested without waiting.

use std::time::Duration;

/// How far an arrow key goes.
pub(super) const JUMP: Duration = Duration::from_secs(5);

/// The player's buttons and clock.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    pub(super) at: Duration,
    pub(super) paused: bool,
    speed: f64,
    idle_limit: Option<Duration>,
}

impl Transport {
    /// `speed` 2 is twice as fast; of a pause longer than `idle_limit` the rest is skipped.
    pub(super) fn new(speed: f64, idle_limit: Option<Duration>) -> Self {
        Self { at: Duration::ZERO, paused: false, speed, idle_limit }
    }

    /// So much time has passed. `last` is the time of the event before, `next` of the one to come.
    pub(super) fn pass(&mut self, passed: Duration, last: Duration, next: Option<Duration>) {
        let Some(next) = next.filter(|_| !self.paused) else { return };
        self.at = self.at.saturating_add(passed.mul_f64(self.speed));
        if let Some(limit) = self.idle_limit
            && next.saturating_sub(last) > limit
            && self.at.saturating_sub(last) >= limit
        {
            self.at = self.at.max(next);
        }
    }

    /// How long nothing will happen.
    pub(super) fn until(&self, last: Duration, next: Option<Duration>) -> Option<Duration> {
        let mut next = next.filter(|_| !self.paused)?;
        if let Some(limit) = self.idle_limit {
            next = next.min(last.saturating_add(limit));
        }
        Some(next.saturating_sub(self.at).div_f64(self.speed))
    }

    pub(super) fn back(&mut self) {
        self.at = self.at.saturating_sub(JUMP);
    }

    pub(super) fn forward(&mut self) {
        self.at = self.at.saturating_add(JUMP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn time_passes_at_the_speed_asked_for_and_idle_time_is_skipped() {
        let mut transport = Transport::new(2.0, Some(seconds(2.0)));
        transport.pass(seconds(0.5), Duration::ZERO, Some(seconds(1.5)));
        assert_eq!(transport.at, seconds(1.0));
        assert_eq!(transport.until(Duration::ZERO, Some(seconds(1.5))), Some(seconds(0.25)));
        // The next event is an hour away: two seconds of it are waited for.
        let next = Some(seconds(3600.0));
        assert_eq!(transport.until(seconds(1.0), next), Some(seconds(1.0)));
        transport.pass(seconds(0.9), seconds(1.0), next);
        assert_eq!(transport.at, seconds(2.8));
        transport.pass(seconds(0.1), seconds(1.0), next);
        assert_eq!(transport.at, seconds(3600.0));
    }

    #[test]
    fn a_pause_and_the_end_stand_still() {
        let mut transport = Transport::new(1.0, None);
        transport.pass(seconds(9.0), Duration::ZERO, None);
        assert_eq!((transport.at, transport.until(Duration::ZERO, None)), (Duration::ZERO, None));
        transport.paused = true;
        transport.pass(seconds(9.0), Duration::ZERO, Some(seconds(1.0)));
        assert_eq!(transport.at, Duration::ZERO);
        transport.forward();
        transport.back();
        transport.back();
        assert_eq!(transport.at, Duration::ZERO);
    }
}
