//! The words that timelines have in common, wherever they are shown. **Nothing here is escaped or cleaned.**

use std::time::Duration;

use portcullis_core::Timestamp;

use crate::discovery::Discovery;
use crate::step::{State, Step, Stream, StreamKind};
use crate::summary::Summary;

/// `1.2 s`, `3 min 20 s`, `2 h 5 min`
#[must_use]
pub fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `17 B`, `4.2 KiB`
#[must_use]
pub fn bytes(bytes: u64) -> String {
    // Three digits are told: that a float is not exact does not matter.
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let number = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", number / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", number / 1_048_576.0),
        _ => format!("{:.1} GiB", number / 1_073_741_824.0),
    }
}

/// `asked 12 times what there is`
#[must_use]
pub fn discovery(discovery: &Discovery) -> String {
    format!("asked {} times what there is (discovery)", discovery.count)
}

/// `2026-11-28 16:48:37`, in UTC
#[must_use]
pub fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `16:48:37.123`, in UTC
#[must_use]
pub fn clock(time: Timestamp) -> String {
    time.strftime("%H:%M:%S%.3f").to_string()
}

/// Whether the session goes on, or how it ended.
#[must_use]
pub fn standing(session: &Summary) -> &'static str {
    match &session.grant {
        _ if session.active => "active",
        Some(grant) if grant.revoked.is_some() => "revoked",
        Some(grant) if grant.expires.is_some() => "expired",
        // Of a grant whose issue is not on record (any more), nobody knows when it expired.
        _ => "ended",
    }
}

/// How long it took, from its first record to its last.
#[must_use]
pub fn length(session: &Summary) -> Duration {
    session.last.duration_since(session.began).unsigned_abs()
}

/// What a timeline of it leaves out, if anything.
#[must_use]
pub fn left_out(session: &Summary) -> Option<String> {
    let told = |count| format!("what was decided on {count} requests: there are too many tickets");
    (session.untold > 0).then(|| told(session.untold))
}

/// What came of a request: its status, and how it ended if not well.
#[must_use]
pub fn result(step: &Step) -> String {
    let stream = step.stream.as_ref();
    let exit = stream.and_then(|stream| stream.exit);
    match (step.state, step.status, exit) {
        (State::Completed, _, Some(exit)) => format!("exit {exit}"),
        (State::Completed, Some(status), None) => status.to_string(),
        (state, Some(status), _) if state != State::Running => format!("{status} {}", state.as_str()),
        (state, ..) => state.as_str().to_owned(),
    }
}

/// What there is to be said of a request besides, one sentence each.
#[must_use]
pub fn remarks(step: &Step) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(refusal) = &step.refusal {
        remarks.push(format!("refused ({}): {}", refusal.code, refusal.message));
    }
    if let Some(error) = &step.error {
        remarks.push(format!("broke off: {error}"));
    }
    if let Some(approval) = &step.approval {
        let by = approval.approvers.join(", ");
        remarks.push(format!(
            "approved by {by} at {} UTC, ticket {}",
            moment(approval.approved_at),
            approval.ticket
        ));
    } else if step.decision.as_deref() == Some("hold") {
        remarks.push(format!("held by rule {}", step.rule.as_deref().unwrap_or("-")));
    }
    if step.masked_values() > 0 {
        let rules: Vec<_> = step.masked.iter().map(|(rule, count)| format!("{rule} {count}")).collect();
        remarks.push(format!("masked: {}", rules.join(", ")));
    }
    if let Some(stream) = &step.stream {
        remarks.push(stream_in_words(stream));
    }
    remarks
}

fn stream_in_words(stream: &Stream) -> String {
    let mut words = vec![
        match stream.kind {
            StreamKind::Exec if stream.tty => "command in a terminal",
            StreamKind::Exec => "command without a terminal",
            StreamKind::Attach => "attached to the container's main process",
            StreamKind::Copy => "files copied, not recorded",
            StreamKind::PortForward => "ports forwarded, not recorded",
            StreamKind::Other => "stream",
        }
        .to_owned(),
    ];
    for (name, channel) in &stream.channels {
        let mut said = format!("{name} {}", bytes(channel.bytes));
        if name == "stdin"
            && let Some(digest) = channel.sha256
        {
            said += &format!(" (sha256 {digest})");
        }
        words.push(said);
    }
    if let Some(ended) = stream.ended.as_deref().filter(|_| stream.exit.is_none()) {
        words.push(ended.to_owned());
    }
    words.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_told_in_fitting_units() {
        let check = |millis, told: &str| assert_eq!(duration(Duration::from_millis(millis)), told);
        check(7, "7 ms");
        check(1250, "1.2 s");
        check(200_000, "3 min 20 s");
        check(7_500_000, "2 h 5 min");
        assert_eq!([bytes(17), bytes(4301), bytes(3 << 20)], ["17 B", "4.2 KiB", "3.0 MiB"]);
    }
}
