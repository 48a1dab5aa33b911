//! What was sent, what was recorded, what is read back, and what is shown.

use std::ops::ControlFlow;
use std::time::Duration;

use super::{Log, With, exit, pass};
use crate::cast::{EventKind, Source};
use crate::{Integrity, Player, Recording, read_text};
use portcullis_core::Channel;
use portcullis_ledger::BodyKeys;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Sent {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Stdin(Vec<u8>),
    Resize(u16, u16),
    Pause(u16),
}

fn sent() -> impl Strategy<Value = Vec<Sent>> {
    // Whole characters, pieces of characters, and bytes that are none.
    let data = || {
        prop_oneof![
            "\\PC{0,20}".prop_map(String::into_bytes),
            "[a-z\\x1b\\x00\\r\\n\u{9b}]{0,20}".prop_map(String::into_bytes),
            ("\\PC{1,8}", any::<prop::sample::Index>())
                .prop_map(|(text, cut)| text.as_bytes()[..cut.index(text.len())].to_vec()),
            ("\\PC{1,8}", any::<prop::sample::Index>())
                .prop_map(|(text, cut)| text.as_bytes()[cut.index(text.len())..].to_vec()),
            proptest::collection::vec(any::<u8>(), 0..30),
        ]
    };
    let one = prop_oneof![
        4 => data().prop_map(Sent::Stdout),
        2 => data().prop_map(Sent::Stderr),
        2 => data().prop_map(Sent::Stdin),
        1 => (1_u16..200, 1_u16..100).prop_map(|(w, h)| Sent::Resize(w, h)),
        1 => (0_u16..5000).prop_map(Sent::Pause),
    ];
    proptest::collection::vec(one, 0..40)
}

/// What is to be read back of one channel: its bytes as UTF-8, and U+FFFD for what is none.
///
/// Where a sequence that is no UTF-8 is cut in two, it may count twice: that is all that may differ.
fn without_replacements(text: &str) -> String {
    text.replace('\u{fffd}', "")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_was_sent_is_read_back(sent in sent(), part in 150_u64..2000) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let log = Log::with(|options| options.record_input(true).recording_part(part).recording_limit(part * 100));
            let (id, mut stage) = log.stream("/pods/web/exec?command=sh", With::default()).await;
            let (mut bytes, mut sizes, mut channels) = <([Vec<u8>; 3], Vec<(u16, u16)>, Vec<usize>)>::default();
            for one in &sent {
                let (channel, at, data) = match one {
                    Sent::Stdout(data) => (Channel::Stdout, 0, data),
                    Sent::Stderr(data) => (Channel::Stderr, 1, data),
                    Sent::Stdin(data) => (Channel::Stdin, 2, data),
                    Sent::Resize(width, height) => {
                        let size = format!(r#"{{"Width":{width},"Height":{height}}}"#);
                        pass(&mut *stage, Channel::Resize, size);
                        sizes.push((*width, *height));
                        continue;
                    }
                    Sent::Pause(millis) => {
                        log.advance(Duration::from_millis((*millis).into()));
                        continue;
                    }
                };
                pass(&mut *stage, channel, data.clone());
                bytes[at].extend(data);
                // What is kept back until a character is whole comes later; what is whole, in its order.
                if std::str::from_utf8(data).is_ok() && !data.is_empty() && channels.last() != Some(&at) {
                    channels.push(at);
                }
            }
            exit(stage, 0).await;

            let recording = Recording::of(&log.step(id), &log.reader()).unwrap();
            prop_assert_eq!(recording.check(), Integrity::Intact);
            let (mut texts, mut shown, mut order) = <([String; 3], Vec<(u16, u16)>, Vec<usize>)>::default();
            let (mut playback, mut time, mut exits) = (recording.play(), Duration::ZERO, Vec::new());
            while let Some(event) = playback.next_event() {
                prop_assert!(event.time >= time);
                time = event.time;
                let at = match event.kind {
                    EventKind::Output(Source::Stdout, text) => { texts[0].push_str(&text); 0 }
                    EventKind::Output(Source::Stderr, text) => { texts[1].push_str(&text); 1 }
                    EventKind::Input(text) => { texts[2].push_str(&text); 2 }
                    EventKind::Begin(header) => { shown.push(header.size); continue }
                    EventKind::Resize(width, height) => { shown.push((width, height)); continue }
                    EventKind::Exit(exit) => { exits.push(exit); continue }
                    other => { prop_assert!(false, "{:?}", other); continue }
                };
                order.push(at);
            }
            prop_assert_eq!(exits, ["0"]);
            for (text, bytes) in texts.iter().zip(&bytes) {
                match std::str::from_utf8(bytes) {
                    Ok(whole) => prop_assert_eq!(text, whole),
                    Err(_) => prop_assert_eq!(
                        without_replacements(text),
                        without_replacements(&String::from_utf8_lossy(bytes))
                    ),
                }
            }
            // The channels take turns as they did: what was whole is a subsequence of what was recorded.
            let mut recorded = order.iter();
            prop_assert!(channels.iter().all(|at| recorded.any(|seen| seen == at)), "{:?} {:?}", channels, order);
            // A part's header repeats the size of the terminal.
            shown.dedup();
            sizes.dedup();
            if shown.first() == Some(&(80, 24)) && sizes.first() != Some(&(80, 24)) {
                shown.remove(0);
            }
            prop_assert_eq!(shown, sizes.into_iter().collect::<Vec<_>>());
            Ok(())
        })?;
    }

    #[test]
    fn whatever_stands_in_a_recording_it_is_played_up_to_there(cut in any::<prop::sample::Index>(), noise in proptest::collection::vec(any::<u8>(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let log = Log::new();
            let (id, mut stage) = log.stream("/pods/web/exec?command=sh", With { tty: true, ..With::default() }).await;
            for line in 0..20 {
                pass(&mut *stage, Channel::Stdout, format!("line {line}\r\n"));
            }
            exit(stage, 0).await;
            let file = log.lay_open(&log.step(id).stream.unwrap().recording[0]).await;
            let mut bytes = std::fs::read(&file).unwrap();
            bytes.truncate(cut.index(bytes.len()));
            let whole_lines = bytes.iter().filter(|byte| **byte == b'\n').count();
            bytes.extend(noise);
            std::fs::write(&file, &bytes).unwrap();
            let recording = Recording::of(&log.step(id), &log.reader()).unwrap();
            prop_assert!(matches!(recording.check(), Integrity::Changed(_)));
            let mut player = Player::new(recording);
            let mut outputs = 0;
            while let Some(event) = player.step() {
                outputs += usize::from(matches!(event.kind, EventKind::Output(..)));
            }
            prop_assert!(outputs + 1 >= whole_lines, "{} of {}", outputs, whole_lines);
            prop_assert_eq!(player.problems().len(), 1);
            Ok(())
        })?;
    }
}

/// A recording of some megabytes, whose screen changes all the time.
async fn long(log: &Log) -> Recording {
    let (id, mut stage) =
        log.stream("/pods/web/exec?command=top", With { tty: true, ..With::default() }).await;
    pass(&mut *stage, Channel::Resize, r#"{"Width":90,"Height":30}"#);
    for tick in 0..2000_u32 {
        log.advance(Duration::from_millis(100));
        let mut screen = format!("\x1b[H\x1b[3{}mtick {tick}\x1b[0m", tick % 8);
        for row in 0..20 {
            screen += &format!("\r\n{:>60}", tick.wrapping_mul(2_654_435_761).rotate_left(row));
        }
        if tick == 1000 {
            pass(&mut *stage, Channel::Resize, r#"{"Width":70,"Height":25}"#);
        }
        pass(&mut *stage, Channel::Stdout, screen);
    }
    exit(stage, 0).await;
    Recording::of(&log.step(id), &log.reader()).unwrap()
}

#[tokio::test]
async fn to_whatever_time_one_goes_the_screen_is_the_one_that_was_there() {
    let log = Log::with(|options| options.recording_part(600_000));
    let recording = long(&log).await;
    let mut player = Player::new(recording.clone());
    let mut seconds = 7_u64;
    for _ in 0..40 {
        seconds = (seconds * 7919 + 13) % 215;
        let time = Duration::from_millis(seconds * 1000 + 50);
        // In whatever pieces.
        while !player.seek_within(time, 3000) {}
        let mut fresh = Player::new(recording.clone());
        while fresh.next_time().is_some_and(|next| next <= time) {
            fresh.step();
        }
        assert_eq!(player.screen().lines(), fresh.screen().lines(), "at {time:?}");
        assert_eq!(player.screen().size(), fresh.screen().size());
        assert_eq!(player.exit(), fresh.exit());
    }
    assert!(player.problems().is_empty());
}

#[tokio::test]
async fn a_part_that_is_gone_is_said_and_the_rest_is_played() {
    let log = Log::with(|options| options.recording_part(1000).recording_limit(100_000));
    let (id, mut stage) = log.stream("/pods/web/exec?command=sh", With::default()).await;
    for line in 0..100 {
        pass(&mut *stage, Channel::Stdout, format!("line {line}\n"));
    }
    exit(stage, 0).await;
    let recording = Recording::of(&log.step(id), &log.reader()).unwrap();
    let mut text = String::new();
    let read = |text: &mut String| {
        text.clear();
        read_text(&recording, |_, piece| {
            text.push_str(piece);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap()
    };
    assert!(read(&mut text).problems.is_empty());
    let whole: Vec<String> = (0..100).map(|line| format!("line {line}")).collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), whole);
    let second = format!("{id}.2.cast");
    let file = log.lay_open(&log.step(id).stream.unwrap().recording[1]).await;
    std::fs::remove_file(file).unwrap();
    let end = read(&mut text);
    assert_eq!(end.problems, [format!("{second}: it is not there any more")]);
    assert_eq!(end.exit.as_deref(), Some("0"));
    assert!(text.starts_with("line 0\n") && text.ends_with("line 99\n") && text.lines().count() < 100);
    assert_eq!(recording.check(), Integrity::Missing(second));
}

#[tokio::test]
async fn an_export_as_asciicast_is_the_recording_in_one() {
    let log = Log::with(|options| options.recording_part(300).recording_limit(100_000));
    let (id, mut stage) =
        log.stream("/pods/web/exec?command=sh", With { tty: true, ..With::default() }).await;
    pass(&mut *stage, Channel::Resize, r#"{"Width":90,"Height":30}"#);
    for line in 0..30 {
        log.advance(Duration::from_millis(10));
        pass(
            &mut *stage,
            if line % 2 == 0 { Channel::Stdout } else { Channel::Stderr },
            format!("\x1b]0;{line}\x07\u{9b}m"),
        );
    }
    exit(stage, 3).await;
    let recording = Recording::of(&log.step(id), &log.reader()).unwrap();
    let mut out = Vec::new();
    assert!(crate::export::asciicast(&mut out, &recording).unwrap().is_empty());
    let text = String::from_utf8(out).unwrap();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
    let mut lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert_eq!(lines.next().unwrap()["width"], 90);
    let events: Vec<_> = lines.collect();
    assert_eq!(events.iter().filter(|event| event[1] == "o").count(), 30);
    assert_eq!(events[2], serde_json::json!([0.02, "o", "\x1b]0;1\x07\u{9b}m"]));
    assert_eq!(events.last().unwrap()[2], "3");
}

/// What a playback says from where it stands to the end of what is written.
fn heard(playback: &mut crate::Playback) -> String {
    let mut text = String::new();
    while let Some(event) = playback.next_event() {
        match event.kind {
            EventKind::Output(_, piece) => text += &piece,
            EventKind::Problem(what) => panic!("{what}"),
            _ => {}
        }
    }
    text
}

#[tokio::test]
async fn a_session_is_followed_while_its_parts_move_into_the_store() {
    for keys in [BodyKeys::default(), BodyKeys::new([[7; 32]])] {
        let given = keys.clone();
        let log = Log::with(move |options| {
            let small = options.recording_part(200).recording_limit(10_000);
            small.ledger(|ledger| ledger.body_keys(given))
        });
        let reader = log.reader().body_keys(keys.clone());
        let (id, mut stage) = log.stream("/pods/web/exec?command=sh", With::default()).await;
        pass(&mut *stage, Channel::Stdout, "line 0\n");
        let mut playback = Recording::of(&log.step(id), &reader).unwrap().play();
        assert_eq!(heard(&mut playback), "line 0\n");
        for line in 1..20 {
            pass(&mut *stage, Channel::Stdout, format!("line {line}\n"));
        }
        // The follower has not looked for a while; the parts it has not seen have gone from where they were.
        let moved = || {
            (1..4).all(|part| {
                let name = if part == 1 { format!("{id}.cast") } else { format!("{id}.{part}.cast") };
                !reader.recording(&name).exists()
            })
        };
        while !moved() {
            tokio::task::yield_now().await;
        }
        let more: String = (1..20).map(|line| format!("line {line}\n")).collect();
        assert_eq!(heard(&mut playback), more);
        pass(&mut *stage, Channel::Stdout, "last\n");
        assert_eq!(heard(&mut playback), "last\n");
        exit(stage, 0).await;
        assert_eq!(heard(&mut playback), "");
        assert!(playback.has_exited());

        let recording = Recording::of(&log.step(id), &reader).unwrap();
        assert_eq!(recording.check(), Integrity::Intact);
        assert_eq!(heard(&mut recording.play()), format!("line 0\n{more}last\n"));
        if !keys.is_empty() {
            let blind = Recording::of(&log.step(id), &log.reader()).unwrap();
            assert!(
                matches!(blind.check(), Integrity::Unreadable(why) if why.contains("which is not there"))
            );
            let said = blind.play().next_event().unwrap().kind;
            assert!(
                matches!(&said, EventKind::Problem(why) if why.contains("which is not there")),
                "{said:?}"
            );
        }
    }
}

/// A recording in three parts and more, in a log that is closed.
async fn parts(log: &Log, tty: bool) -> (Recording, crate::Step) {
    let (id, mut stage) = log.stream("/pods/web/exec?command=sh", With { tty, ..With::default() }).await;
    for line in 0..120 {
        log.advance(Duration::from_millis(10));
        pass(&mut *stage, Channel::Stdout, format!("line {line}\r\n"));
    }
    exit(stage, 0).await;
    log.audit.close().await;
    let step = log.step(id);
    (Recording::of(&step, &log.reader()).unwrap(), step)
}

#[tokio::test]
async fn a_damaged_part_is_said_and_all_others_are_played_and_exported() {
    // In the store, and where it was written.
    for (tty, stored) in [(false, true), (true, true), (false, false), (true, false)] {
        let log = Log::with(|options| options.recording_part(300).recording_limit(100_000));
        let (recording, step) = parts(&log, tty).await;
        let parts = &step.stream.as_ref().unwrap().recording;
        assert!(parts.len() > 2);
        let named = parts[1].clone();
        let file = if stored { log.store(&named).await } else { log.lay_open(&named).await };
        let stored = std::fs::read(&file).unwrap();
        let (whole, mut changed) = ((0..120).map(|line| format!("line {line}\n")).collect::<String>(), 0);
        // Wherever it is damaged: in its head, in its length, in what is compressed, at its end.
        for at in 0..stored.len() {
            let mut damaged = stored.clone();
            damaged[at] ^= 0x41;
            std::fs::write(&file, &damaged).unwrap();
            let mut text = String::new();
            let end = read_text(&recording, |_, piece| {
                text.push_str(piece);
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
            assert_eq!(end.exit.as_deref(), Some("0"));
            if recording.check() == Integrity::Intact {
                // A bit that decides nothing: what is read is what was written.
                assert!(end.problems.is_empty() && text == whole, "byte {at}: {:?}", end.problems);
                continue;
            }
            changed += 1;
            assert_eq!(recording.check(), Integrity::Changed(named.file.clone()));
            assert_eq!(end.problems.len(), 1, "byte {at}: {:?}", end.problems);
            assert!(end.problems[0].starts_with(&named.file), "byte {at}: {:?}", end.problems);
            assert!(text.starts_with("line 0\n") && text.ends_with("line 119\n"), "byte {at}: {text}");
        }
        assert!(changed > stored.len() / 2, "{changed} of {}", stored.len());
        std::fs::write(&file, &stored[..stored.len() / 2]).unwrap();
        let session = log.list()[0].id.clone();
        let page = super::exports::page(&log, &session);
        assert!(page.contains("IS NOT WHAT THE LOG SAYS") && page.contains("<b>not whole</b>"), "{page}");
        assert!(page.contains("line 0") && page.contains("line 119") && page.ends_with("</html>\n"));
    }
}

#[tokio::test]
async fn without_the_key_an_export_says_so_and_goes_on() {
    let log = Log::with(|options| options.ledger(|ledger| ledger.body_keys(BodyKeys::new([[7; 32]]))));
    let (recording, _) = parts(&log, true).await;
    let session = log.list()[0].id.clone();
    let page = super::exports::page(&log, &session);
    assert!(page.contains("the recording cannot be read: ") && page.contains("which is not there"), "{page}");
    assert!(page.contains("<b>not whole</b>") && page.ends_with("</html>\n"));
    let text = super::exports::document(&log, &session);
    assert!(text.contains("the recording cannot be read: ") && text.contains("not whole: "), "{text}");
    // A player is told, and shown nothing.
    let mut cast = Vec::new();
    let problems = crate::export::asciicast(&mut cast, &recording).unwrap();
    assert!(problems.len() == 1 && problems[0].contains("which is not there"), "{problems:?}");
    let cast = String::from_utf8(cast).unwrap();
    let lines: Vec<serde_json::Value> =
        cast.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["version"], &lines[1][1], lines.len()), (&2.into(), &"m".into(), 2), "{cast}");
    let mut player = Player::new(recording);
    player.seek(Duration::MAX);
    assert!(player.problems()[0].contains("which is not there"));
}

#[tokio::test]
async fn what_stands_behind_a_malformed_line_is_shown_on_no_way_there() {
    let log = Log::with(|options| options.recording_part(600_000).recording_limit(10_000_000));
    let (id, mut stage) =
        log.stream("/pods/web/exec?command=sh", With { tty: true, ..With::default() }).await;
    for line in 0..40 {
        log.advance(Duration::from_millis(100));
        pass(&mut *stage, Channel::Stdout, format!("{line} {}\r\n", "x".repeat(20_000)));
    }
    exit(stage, 0).await;
    let step = log.step(id);
    let parts = &step.stream.as_ref().unwrap().recording;
    assert!(parts.len() > 1);
    // In the first part, behind enough for a key frame, a line that is none, and a screen that says something else.
    let file = log.lay_open(&parts[0]).await;
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.len() - 5;
    let time = lines[at - 1].split(',').next().unwrap();
    let forged = format!("{time},\"o\",\"\\u001b[H\\u001b[2JFORGED\"]");
    let changed = [&lines[..at], &["nonsense", &forged, &forged]].concat().join("\n") + "\n";
    std::fs::write(&file, changed).unwrap();

    let mut player = Player::new(Recording::of(&step, &log.reader()).unwrap());
    let mut shown = Vec::new();
    while player.step().is_some() {
        shown.push((player.time(), player.screen().lines()));
    }
    assert_eq!(player.problems().len(), 1, "{:?}", player.problems());
    let forged = |lines: &[crate::Line]| lines.iter().any(|line| line.text().contains("FORGED"));
    assert!(!shown.iter().any(|(_, lines)| forged(lines)));
    let end = player.time();
    for (time, _) in shown.iter().rev().take(12) {
        player.seek(end);
        player.seek(*time);
        let (_, first) = shown.iter().rfind(|(at, _)| at == time).unwrap();
        assert_eq!(&player.screen().lines(), first, "at {time:?}");
    }
}

/// Follows a stream as text; at each look, `looked` says whether it is open still.
fn followed(recording: &Recording, looked: impl FnMut() -> bool) -> (String, crate::TextEnd) {
    let (mut text, mut looked) = (String::new(), looked);
    let each = |_, piece: &str| {
        text.push_str(piece);
        Ok(ControlFlow::Continue(()))
    };
    let end = crate::follow_text(recording, each, || Ok(looked())).unwrap();
    (text, end)
}

#[test]
fn what_came_between_the_last_look_and_the_end_is_followed_too() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (tty, part) in [(false, 1 << 20), (true, 1 << 20), (false, 150)] {
        let log = Log::with(|options| options.recording_part(part).recording_limit(1 << 20));
        let sent = With { tty, ..With::default() };
        let (id, mut stage) = runtime.block_on(log.stream("/pods/web/exec?command=sh", sent));
        pass(&mut *stage, Channel::Stdout, "first\r\n");
        let recording = Recording::of(&log.step(id), &log.reader()).unwrap();
        let (mut looks, mut stage) = (0, Some(stage));
        let (text, end) = followed(&recording, || {
            looks += 1;
            if looks == 1 {
                pass(&mut **stage.as_mut().unwrap(), Channel::Stdout, "second\r\n");
                return true;
            }
            // It writes and ends before the log is looked at.
            let mut stage = stage.take().unwrap();
            pass(&mut *stage, Channel::Stdout, "last\r\n");
            runtime.block_on(exit(stage, 3));
            false
        });
        assert_eq!((text.as_str(), looks), ("first\nsecond\nlast\n", 2));
        assert_eq!((end.exit.as_deref(), end.problems), (Some("3"), vec![]));
    }
}

#[tokio::test]
async fn who_follows_what_never_ends_in_good_order_is_told_so_and_who_does_not_is_not() {
    let log = Log::new();
    let (id, mut stage) = log.stream("/pods/web/exec?command=sh", With::default()).await;
    pass(&mut *stage, Channel::Stdout, "first\n");
    let recording = Recording::of(&log.step(id), &log.reader()).unwrap();
    let (text, end) = followed(&recording, || false);
    assert_eq!((text.as_str(), end.problems), ("first\n", vec![format!("{id}.cast: it breaks off here")]));
    let end = read_text(&recording, |_, _| Ok(ControlFlow::Continue(()))).unwrap();
    assert_eq!(end, crate::TextEnd::default());
}

#[tokio::test]
async fn a_player_that_is_told_that_nothing_more_comes_says_where_it_breaks_off_and_keeps_all_parts() {
    let log = Log::with(|options| options.recording_part(200).recording_limit(100_000));
    let (id, mut stage) =
        log.stream("/pods/web/exec?command=sh", With { tty: true, ..With::default() }).await;
    pass(&mut *stage, Channel::Stdout, "line 0\r\n");
    let mut player = Player::new(Recording::of(&log.step(id), &log.reader()).unwrap());
    player.seek(Duration::MAX);
    for line in 1..20 {
        log.advance(Duration::from_secs(1));
        pass(&mut *stage, Channel::Stdout, format!("line {line}\r\n"));
    }
    player.seek(Duration::MAX);
    let shown = player.screen().lines();
    assert_eq!((shown[19].text().as_str(), player.problems().len()), ("line 19", 0));
    player.complete();
    for _ in 0..2 {
        player.seek(Duration::MAX);
        assert_eq!(player.screen().lines(), shown);
        assert!(player.problems().len() == 1 && player.problems()[0].contains("it breaks off here"));
        player.seek(Duration::ZERO);
        assert_eq!(player.screen().lines()[1].text(), "");
    }
}
