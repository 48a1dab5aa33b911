//! Plays one terminal recording on the auditor's terminal.

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

/// Plays until the person wants something else. With `goes_on`, as long as that says so, what is written is shown as it
/// comes, from where it is now; then it is over.
pub(super) fn play(
    terminal: &mut Terminal,
    recording: Recording,
    title: &str,
    mut transport: Transport,
    mut goes_on: Option<&mut dyn FnMut() -> Result<bool, CliError>>,
) -> Result<After, CliError> {
    let mut player = Player::new(recording);
    let mut last_event = Duration::ZERO;
    let mut before = Instant::now();
    loop {
        let mut live = false;
        if let Some(goes_on) = &mut goes_on {
            live = player.exit().is_none() && goes_on()?;
        }
        if live && !transport.paused {
            player.seek(Duration::MAX);
            transport.at = player.time();
        } else {
            let now = Instant::now();
            transport.pass(now - before, last_event, player.next_time());
            before = now;
            if transport.at != player.time() {
                let came = player.next_time().is_some_and(|next| next <= transport.at)
                    || transport.at < player.time();
                player.seek(transport.at);
                if came {
                    last_event = transport.at;
                }
            }
        }
        let next = player.next_time();
        if next.is_none() && goes_on.is_some() && !live {
            return Ok(After::Next);
        }
        if next.is_none() {
            transport.at = player.time();
        }
        terminal.draw(player.screen(), &status(&player, &transport, title, next.is_none(), live))?;
        let wait = transport.until(last_event, next).map_or(LOOK, |until| until.min(LOOK));
        match terminal.wish(wait)? {
            Some(Wish::Quit) => return Ok(After::Quit),
            Some(Wish::Next) => return Ok(After::Next),
            // At the end, playing on means from the beginning.
            Some(Wish::Pause) if next.is_none() && !live => {
                transport.at = Duration::ZERO;
                transport.paused = false;
                (last_event, before) = (Duration::ZERO, Instant::now());
            }
            Some(Wish::Pause) => {
                transport.paused = !transport.paused;
                before = Instant::now();
            }
            Some(Wish::Back) => {
                transport.back();
                last_event = transport.at;
                // Who looks back while something is going on wants to stay there.
                transport.paused |= live;
            }
            Some(Wish::Forward) => {
                transport.forward();
                last_event = transport.at;
            }
            Some(Wish::Step) => {
                transport.paused = true;
                player.step();
                transport.at = player.time();
                last_event = transport.at;
            }
            Some(Wish::Redraw) | None => {}
        }
    }
}

fn status(player: &Player, transport: &Transport, title: &str, at_end: bool, live: bool) -> String {
    let state = match (at_end, live, transport.paused) {
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
