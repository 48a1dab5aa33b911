//! `portcullis sessions replay` on a terminal: it plays, keys work, the terminal is given back, and nothing that was
//! recorded reaches it as it was.

use portcullis_tests::{Cluster, Gateway, Running, gateway_binary};
use tokio::process::Command;

/// A title, the clipboard, a question to the terminal, a device control string, bytes of C1, and a bell.
const HOSTILE: &str = r"printf '\033]0;EVIL-TITLE\007\033]52;c;RVZJTA==\007\033[6n\033[c\033PEVIL-DCS\033\\\302\233\a'; echo marma''lade; echo the''end";

#[tokio::test]
async fn a_hostile_recording_is_played() {
    let cluster = Cluster::from_env();
    let mut gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await.namespace("shop");
    let exec = agent.start_on_terminal(&["exec", "-it", "toolbox", "--", "sh", "-c", HOSTILE], 24, 80);
    let said = exec.ended().await;
    assert!(said.out().contains("\x1b]52;c;"), "kubectl passes it on: {said}");
    gateway.stop().await;
    let records = gateway.records().await;
    let id = records.outcomes().find(|outcome| outcome.stream.is_some()).unwrap().id;

    // Stepped through from its beginning, event by event; then back, forward, and out.
    let mut player = replay(&gateway, &id.to_string(), "--speed 0.01");
    player.write(" ").await;
    player.wait_for_output(|text| text.contains("❚❚")).await;
    for _ in 0..40 {
        player.write(".").await;
    }
    player.wait_for_output(|text| text.contains("marmalade") && text.contains("theend")).await;
    player.write("\x1b[D\x1b[C").await;
    player.write("q").await;
    given_back(player).await;

    // Played to its end, and left by Ctrl-C.
    let mut player = replay(&gateway, &id.to_string(), "--speed 1000");
    player.wait_for_output(|text| text.contains("marmalade") && text.contains("theend")).await;
    player.write("\x03").await;
    given_back(player).await;

    // Ended by a signal.
    let mut player = replay(&gateway, &id.to_string(), "--speed 0.01");
    player.wait_for_output(|text| text.contains(ENTERED)).await;
    terminate(&player).await;
    given_back(player).await;
}

#[tokio::test]
async fn a_signal_gives_back_the_second_terminal_too() {
    let cluster = Cluster::from_env();
    let mut gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await.namespace("shop");
    for (terminal, command) in [(true, "echo first"), (false, "echo between"), (true, "echo second")] {
        let line = ["exec", if terminal { "-it" } else { "-i" }, "toolbox", "--", "sh", "-c", command];
        agent.start_on_terminal(&line, 24, 80).ended().await;
    }
    gateway.stop().await;
    let records = gateway.records().await;
    let session =
        records.outcomes().find(|outcome| outcome.stream.is_some()).unwrap().session.clone().unwrap();

    // The recording between two terminals is text, for which the first is given back.
    let mut player = replay(&gateway, &session, "--speed 0.01");
    player.wait_for_output(|text| text.contains(ENTERED)).await;
    player.write("n").await;
    player.wait_for_output(|text| text.contains("between") && text.matches(ENTERED).count() == 2).await;
    terminate(&player).await;
    given_back(player).await;
}

/// What takes the terminal over: the alternate screen.
const ENTERED: &str = "\x1b[?1049h";

/// Sends the player, behind its shell, SIGTERM.
async fn terminate(player: &Running) {
    let children = format!("/proc/{0}/task/{0}/children", player.pid().unwrap_or_default());
    let shell = std::fs::read_to_string(children).unwrap_or_default();
    let mut pkill = Command::new("pkill");
    pkill.args(["-TERM", "-P", shell.trim(), "portcullis"]);
    Running::start(pkill).finish().await.ok();
}

/// Starts the player on a terminal; behind it, the shell says how it found the terminal before and after.
fn replay(gateway: &Gateway, id: &str, options: &str) -> Running {
    let line = format!(
        "stty rows 24 cols 80; stty -g | sed 's/^/BEFORE /'; '{}' sessions replay {id} --ledger '{}' {options}; \
         stty -g | sed 's/^/AFTER /'",
        gateway_binary().display(),
        gateway.state_dir().join("ledger").display(),
    );
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-f", "-c", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    Running::start(script)
}

/// It ends, the terminal is as it was, and of the recording nothing but characters has reached it.
async fn given_back(player: Running) {
    let said = player.ended().await;
    let out = said.out();
    let after = |word: &str| {
        let line = out.lines().find_map(|line| line.split_once(word).map(|(_, rest)| rest.trim().to_owned()));
        line.unwrap_or_else(|| panic!("no {word}: {said}"))
    };
    assert_eq!(after("BEFORE "), after("AFTER "), "{said}");
    for (entered, left) in [(ENTERED, "\x1b[?1049l"), ("\x1b[?25l", "\x1b[?25h"), ("\x1b[?7l", "\x1b[?7h")] {
        let (entered, left) = (out.rfind(entered), out.rfind(left));
        assert!(entered.is_some() && left > entered, "{said}");
    }
    for hostile in ["\x1b]", "\x1bP", "\x1b[6n", "\x1b[c", "\u{9b}", "\x07"] {
        assert!(!out.contains(hostile), "{hostile:?} has reached the terminal: {said}");
    }
}
