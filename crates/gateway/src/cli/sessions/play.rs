//! Plays one terminal recording on the auditor's terminal, also while it is being made.

use std::time::Duration;

use portcullis_sessions::{Player, Recording};
use tokio::time::Instant;

use super::terminal::{Terminal, Wish};
use super::transport::Transport;
use crate::cli::CliError;

/// How it went on after a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Quit,
    Next,
}

/// How often the keyboard and signals are looked at, at least.
const LOOK: Duration = Duration::from_millis(50);

/// How it stands with the stream whose recording is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// More may be written.
    Running,
    /// It is over.
    Over,
    /// It is over, and another waits to be shown.
    Next,
}

/// Plays until the person wants something else. With `follow`, as long as the stream is running, what is written is shown as it
/// comes, from where it is now; then its end stays, until another waits.
pub(super) fn play(
    terminal: &mut Terminal,
    recording: Recording,
    title: &str,
    transport: Transport,
    mut follow: Option<&mut dyn FnMut() -> Result<Standing, CliError>>,
) -> Result<After, CliError> {
    let mut show = Show::new(recording, transport);
    let mut before = Instant::now();
    loop {
        let standing = follow.as_mut().map(|follow| follow()).transpose()?;
        let now = Instant::now();
        let view = show.look(now - before, standing);
        before = now;
        let status = status(&show, title, view);
        terminal.draw(show.player.screen(), &status)?;
        if view.done {
            return Ok(After::Next);
        }
        let wait = show.transport.until(show.last_event, view.next).map_or(LOOK, |until| until.min(LOOK));
        let wish = terminal.wish(wait)?;
        if let Some(after) = wish.and_then(|wish| show.wish(wish, view)) {
            return Ok(after);
        }
    }
}

/// A recording and where in it the person is: all but the terminal and the clock.
struct Show {
    player: Player,
    transport: Transport,
    last_event: Duration,
    /// Whether it was shown as it came at the last look.
    live: bool,
}

/// What there is to see.
#[derive(Clone, Copy, Debug)]
struct View {
    live: bool,
    /// When something comes next; nothing is to come yet at the end.
    next: Option<Duration>,
    /// Nothing more is to be seen, and another waits.
    done: bool,
}

impl Show {
    fn new(recording: Recording, transport: Transport) -> Self {
        Self { player: Player::new(recording), transport, last_event: Duration::ZERO, live: false }
    }

    /// So much time has passed since the last look.
    fn look(&mut self, passed: Duration, standing: Option<Standing>) -> View {
        let live = standing == Some(Standing::Running) && self.player.exit().is_none();
        let was_live = std::mem::replace(&mut self.live, live);
        let (player, transport) = (&mut self.player, &mut self.transport);
        // When it has just ended, there may be more than at the last look.
        if (live || was_live) && !transport.paused {
            player.seek(Duration::MAX);
            (transport.at, self.last_event) = (player.time(), player.time());
        } else {
            transport.pass(passed, self.last_event, player.next_time());
            if transport.at != player.time() {
                let came = player.next_time().is_some_and(|next| next <= transport.at)
                    || transport.at < player.time();
                player.seek(transport.at);
                if came {
                    self.last_event = transport.at;
                }
            }
        }
        let next = player.next_time();
        if next.is_none() {
            transport.at = player.time();
        }
        // Who has paused looks at something: that is not taken away.
        let done = standing == Some(Standing::Next) && !live && next.is_none() && !transport.paused;
        View { live, next, done }
    }

    fn wish(&mut self, wish: Wish, view: View) -> Option<After> {
        let transport = &mut self.transport;
        match wish {
            Wish::Quit => return Some(After::Quit),
            Wish::Next => return Some(After::Next),
            // At the end, playing on means from the beginning.
            Wish::Pause if view.next.is_none() && !view.live && !transport.paused => {
                (transport.at, self.last_event) = (Duration::ZERO, Duration::ZERO);
            }
            Wish::Pause => transport.paused = !transport.paused,
            Wish::Back => {
                transport.back();
                self.last_event = transport.at;
                // Who looks back while something is going on wants to stay there.
                transport.paused |= view.live;
            }
            Wish::Forward => {
                transport.forward();
                self.last_event = transport.at;
            }
            Wish::Step => {
                transport.paused = true;
                self.player.step();
                (transport.at, self.last_event) = (self.player.time(), self.player.time());
            }
            Wish::Redraw => {}
        }
        None
    }
}

fn status(Show { player, transport, .. }: &Show, title: &str, view: View) -> String {
    let state = match (view.next.is_none(), view.live, transport.paused) {
        (_, true, false) => "● live".to_owned(),
        (true, ..) => match player.exit() {
            Some(exit) => format!("■ {exit}"),
            None => "■ end".to_owned(),
        },
        (_, _, true) => "❚❚".to_owned(),
        _ => "▶".to_owned(),
    };
    let seconds = transport.at.as_secs();
    let mut line = format!(" {state}  {}:{:02}  {title}", seconds / 60, seconds % 60);
    if let Some(problem) = player.problems().last() {
        line += &format!("  NOT WHOLE: {problem}");
    }
    line + "  │ space pause · ←→ 5 s · . step · n next · q quit"
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use portcullis_audit::AuditReader;
    use portcullis_sessions::Step;
    use serde_json::json;

    use super::*;

    const ID: &str = "01a2230f-0ad0-7124-ade2-a9affc29424a";

    /// A terminal's recording that is being made.
    struct Made(tempfile::TempDir);

    impl Made {
        fn new() -> (Self, Show) {
            let made = Self(tempfile::tempdir().unwrap());
            std::fs::create_dir(made.0.path().join("recordings")).unwrap();
            made.write(r#"{"version":2,"width":40,"height":2}"#);
            let step: Step = serde_json::from_value(json!({
                "id": ID, "received": "2026-11-03T12:00:00Z", "command": "exec web -it -- sh", "verb": "create",
                "resource": "pods/exec", "state": "running", "failed": false, "forwarded": true,
            }))
            .unwrap();
            let recording = Recording::of(&step, &AuditReader::new(made.0.path())).unwrap();
            assert!(recording.is_tty());
            let transport = Transport::new(1.0, Some(Duration::from_secs(2)));
            (made, Show::new(recording, transport))
        }

        fn write(&self, line: &str) {
            let file = self.0.path().join("recordings").join(format!("{ID}.cast"));
            let mut file = std::fs::File::options().create(true).append(true).open(file).unwrap();
            writeln!(file, "{line}").unwrap();
        }
    }

    fn shown(show: &Show) -> String {
        show.player.screen().lines()[0].text()
    }

    const SOON: Duration = Duration::from_millis(50);

    #[test]
    fn what_is_followed_is_shown_as_it_comes_and_its_end_too() {
        for (after, done) in [(Standing::Over, false), (Standing::Next, true)] {
            let (made, mut show) = Made::new();
            made.write(r#"[0.1,"o","one"]"#);
            assert!(show.look(SOON, Some(Standing::Running)).live);
            made.write(r#"[500,"o"," two"]"#);
            let view = show.look(SOON, Some(Standing::Running));
            assert_eq!((shown(&show).as_str(), view.live, view.done), ("one two", true, false));
            assert!(status(&show, "sh", view).contains("● live  8:20"));
            // More, and the end, between two looks.
            made.write(r#"[900,"o"," three"]"#);
            made.write(r#"[901,"x","0"]"#);
            let view = show.look(SOON, Some(after));
            assert_eq!((shown(&show).as_str(), view.live, view.done), ("one two three", false, done));
            assert!(status(&show, "sh", view).contains("■ 0  15:01"), "{}", status(&show, "sh", view));
        }
    }

    #[test]
    fn who_has_paused_keeps_what_is_seen_when_another_comes() {
        let (made, mut show) = Made::new();
        made.write(r#"[0.1,"o","one"]"#);
        let view = show.look(SOON, Some(Standing::Running));
        show.wish(Wish::Pause, view);
        made.write(r#"[1,"o"," two"]"#);
        made.write(r#"[2,"x","0"]"#);
        for _ in 0..3 {
            let view = show.look(Duration::from_secs(60), Some(Standing::Next));
            assert_eq!((shown(&show).as_str(), view.done), ("one", false));
        }
        // It goes on from there, at its own speed, and only then is it over.
        let view = show.look(SOON, Some(Standing::Next));
        show.wish(Wish::Pause, view);
        let view = show.look(Duration::from_secs(1), Some(Standing::Next));
        assert_eq!((shown(&show).as_str(), view.done), ("one two", false));
        let view = show.look(Duration::from_secs(1), Some(Standing::Next));
        assert_eq!((shown(&show).as_str(), view.done), ("one two", true));
    }

    #[test]
    fn what_is_not_followed_stays_at_its_end_and_begins_again() {
        let (made, mut show) = Made::new();
        made.write(r#"[1,"o","one"]"#);
        made.write(r#"[2,"x","0"]"#);
        show.look(SOON, None);
        assert_eq!(shown(&show), "");
        let view = show.look(Duration::from_secs(5), None);
        assert_eq!((shown(&show).as_str(), view.done, view.next), ("one", false, None));
        show.wish(Wish::Pause, view);
        let view = show.look(SOON, None);
        assert_eq!((shown(&show).as_str(), view.next), ("", Some(Duration::from_secs(1))));
        assert_eq!(show.wish(Wish::Next, view), Some(After::Next));
    }
}
