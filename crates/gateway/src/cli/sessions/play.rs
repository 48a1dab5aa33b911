//! Plays one terminal recording on the auditor's terminal, also while it is being made.

use std::time::Duration;

use portcullis_sessions::{Player, Recording, Step, words};
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

/// How much is drawn between two looks, in cells: some hundredths of a second. Who is watched decides how much there is to draw,
/// and could keep us from the keyboard for hours.
const WORK: usize = 1_000_000;

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

/// Says how it stands with the stream, and how it has ended since.
pub(super) type Follow<'a> = dyn FnMut() -> Result<(Standing, Option<String>), CliError> + 'a;

/// Plays until the person wants something else. With `follow`, as long as the stream is running, what is written is shown as it
/// comes, from where it is now; then its end stays, until another waits.
pub(super) fn play(
    terminal: &mut Terminal,
    mut show: Show,
    mut follow: Option<&mut Follow<'_>>,
) -> Result<After, CliError> {
    let mut before = Instant::now();
    loop {
        let mut standing = None;
        if let Some(follow) = &mut follow {
            let (stands, result) = follow()?;
            show.result = result.or(show.result);
            standing = Some(stands);
        }
        let now = Instant::now();
        let view = show.look(now - before, standing);
        before = now;
        let status = status(&show, view);
        terminal.draw(show.player.screen(), &status)?;
        if view.done {
            return Ok(After::Next);
        }
        let wait = match show.busy {
            true => Duration::ZERO,
            false => show.transport.until(show.last_event, view.next).map_or(LOOK, |until| until.min(LOOK)),
        };
        let wish = terminal.wish(wait)?;
        if let Some(after) = wish.and_then(|wish| show.wish(wish, view)) {
            return Ok(after);
        }
    }
}

/// A recording and where in it the person is: all but the terminal and the clock.
pub(super) struct Show {
    player: Player,
    transport: Transport,
    title: String,
    /// How the request ended, in words, once that is known: for a recording that does not say.
    result: Option<String>,
    last_event: Duration,
    /// Whether it was shown as it came at the last look, and something is left of what had come.
    live: bool,
    /// Whether the player is still on its way to where the person is.
    busy: bool,
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
    pub(super) fn new(recording: Recording, transport: Transport, title: String, step: &Step) -> Self {
        Self {
            player: Player::new(recording),
            transport,
            title,
            result: (!step.is_running()).then(|| words::result(step)),
            last_event: Duration::ZERO,
            live: false,
            busy: false,
        }
    }

    /// So much time has passed since the last look.
    fn look(&mut self, passed: Duration, standing: Option<Standing>) -> View {
        self.look_within(WORK, passed, standing)
    }

    fn look_within(&mut self, work: usize, passed: Duration, standing: Option<Standing>) -> View {
        let live = standing == Some(Standing::Running) && self.player.exit().is_none();
        let (player, transport) = (&mut self.player, &mut self.transport);
        // When it has just ended, there may be more than at the last look.
        if (live || self.live) && !transport.paused {
            self.busy = !player.seek_within(Duration::MAX, work);
            (transport.at, self.last_event) = (player.time(), player.time());
            self.live = live || self.busy;
        } else {
            self.live = live;
            // While the player is on its way, time stands still.
            if !self.busy {
                transport.pass(passed, self.last_event, player.next_time());
            }
            if self.busy || transport.at != player.time() {
                let came = player.next_time().is_some_and(|next| next <= transport.at)
                    || transport.at < player.time();
                self.busy = !player.seek_within(transport.at, work);
                if came {
                    self.last_event = transport.at;
                }
            }
        }
        // What was written before the stream ended has been read: if there is no end among it, that is said now.
        if standing.is_some_and(|standing| standing != Standing::Running) && player.next_time().is_none() {
            player.complete();
            player.seek_within(player.time(), work);
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
                self.busy = !self.player.step_within(WORK);
                (transport.at, self.last_event) = (self.player.time(), self.player.time());
            }
            Wish::Redraw => {}
        }
        None
    }
}

fn status(Show { player, transport, title, result, .. }: &Show, view: View) -> String {
    let state = match (view.next.is_none(), view.live, transport.paused) {
        (_, true, false) => "● live".to_owned(),
        (true, ..) => match player.exit().or(result.as_deref()) {
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
            (made, Show::new(recording, transport, "sh".to_owned(), &step))
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
            assert!(status(&show, view).contains("● live  8:20"));
            // More, and the end, between two looks.
            made.write(r#"[900,"o"," three"]"#);
            made.write(r#"[901,"x","0"]"#);
            let view = show.look(SOON, Some(after));
            assert_eq!((shown(&show).as_str(), view.live, view.done), ("one two three", false, done));
            assert!(status(&show, view).contains("■ 0  15:01"), "{}", status(&show, view));
        }
    }

    #[test]
    fn what_breaks_off_while_it_is_followed_is_not_shown_as_an_ordinary_end() {
        let (made, mut show) = Made::new();
        made.write(r#"[0.1,"o","one"]"#);
        let view = show.look(SOON, Some(Standing::Running));
        assert!(view.live && !status(&show, view).contains("NOT WHOLE"));
        made.write(r#"[0.2,"o"," two"]"#);
        show.result = Some("101 aborted".to_owned());
        for _ in 0..2 {
            let view = show.look(SOON, Some(Standing::Over));
            let said = status(&show, view);
            assert_eq!(shown(&show), "one two");
            assert!(said.contains("■ 101 aborted") && said.contains("NOT WHOLE"), "{said}");
            assert!(said.contains("it breaks off here"), "{said}");
        }
    }

    #[test]
    fn however_much_there_is_to_draw_keys_are_read_between() {
        let (made, mut show) = Made::new();
        let much = serde_json::to_string(&format!("x{}", "\u{1b}[65535b".repeat(50))).unwrap();
        made.write(&format!(r#"[0.1,"o",{much}]"#));
        made.write(r#"[0.2,"o","\u001b[H\u001b[2Jlast"]"#);
        // One control sequence is not divided.
        let look = |show: &mut Show, standing| show.look_within(1000, SOON, standing);
        let mut looks = 1;
        while look(&mut show, Some(Standing::Running)).live && show.busy {
            looks += 1;
        }
        assert_eq!(shown(&show), "last");
        assert!(looks > 40, "{looks}");
        // The same going back, and event by event; and one can leave.
        let view = look(&mut show, Some(Standing::Running));
        show.wish(Wish::Back, view);
        let view = look(&mut show, Some(Standing::Running));
        assert_eq!((shown(&show).as_str(), show.busy), ("", false));
        show.wish(Wish::Step, view);
        show.wish(Wish::Step, view);
        look(&mut show, Some(Standing::Running));
        assert!(show.busy && show.transport.paused);
        let view = look(&mut show, Some(Standing::Running));
        assert_eq!(show.wish(Wish::Quit, view), Some(After::Quit));
        while show.busy {
            look(&mut show, Some(Standing::Running));
        }
        assert_eq!((shown(&show).chars().count(), show.transport.at), (40, Duration::from_millis(100)));
        // It ends on the way: what had come is shown to its end, as it came.
        let view = look(&mut show, Some(Standing::Running));
        show.wish(Wish::Back, view);
        let view = look(&mut show, Some(Standing::Running));
        show.wish(Wish::Pause, view);
        assert!(look(&mut show, Some(Standing::Running)).live && show.busy);
        made.write(r#"[0.3,"x","0"]"#);
        while !look(&mut show, Some(Standing::Next)).done {}
        assert_eq!((shown(&show).as_str(), show.player.exit()), ("last", Some("0")));
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
    fn what_had_ended_before_its_turn_is_played_as_it_is_and_gives_way_to_the_next() {
        let (made, mut show) = Made::new();
        made.write(r#"[1,"o","one"]"#);
        made.write(r#"[2,"x","0"]"#);
        let view = show.look(SOON, Some(Standing::Next));
        assert_eq!((shown(&show).as_str(), view.live, view.done), ("", false, false));
        let view = show.look(Duration::from_secs(5), Some(Standing::Over));
        assert_eq!((shown(&show).as_str(), view.next, view.done), ("one", None, false));
        assert!(show.look(SOON, Some(Standing::Next)).done);
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
