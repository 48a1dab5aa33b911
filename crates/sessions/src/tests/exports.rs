//! Pages and documents made of what others wrote.

use super::{Log, With, exit, grant, pass};
use crate::{Timeline, export};
use portcullis_core::{Channel, Event, EventKind};

const EVIL: &str = "</script><img src=x onerror=alert(1)>```</pre>\u{202e}";

/// Everything that can be written freely, full of markup.
async fn evil() -> (Log, String) {
    let log = Log::new();
    let grant = grant(&log);
    let granted = Event::new(EventKind::Granted).grant("g-1").with("profile", EVIL).with("task", EVIL);
    log.event(granted.with("by", EVIL)).await;
    let with = With { grant: Some(grant), command: vec!["echo".into(), EVIL.into()], ..With::default() };
    let uri =
        "/pods/web/exec?command=echo&command=%3C/script%3E%3Cimg%20src=x%20onerror=alert(1)%3E%60%60%60";
    for tty in [true, false] {
        let (_, mut stage) = log.stream(uri, With { tty, ..with.clone() }).await;
        pass(
            &mut *stage,
            Channel::Stdout,
            format!("{EVIL}\n````\n# not a heading\n\x1b]52;c;ZXZpbA==\x07\x1b[31mred\n"),
        );
        pass(&mut *stage, Channel::Stderr, EVIL);
        exit(stage, 1).await;
    }
    log.request("/pods/%3Cimg%20src=x%3E", With { refused: true, ..with }).await;
    (log, "g-1".into())
}

pub(super) fn page(log: &Log, session: &str) -> String {
    let (scope, mut out) = (log.scope(session), Vec::new());
    let summary = scope.summary().clone();
    export::html(&mut out, &summary, Timeline::new(scope, log.reader().records(0).unwrap()), &log.reader())
        .unwrap();
    String::from_utf8(out).unwrap()
}

pub(super) fn document(log: &Log, session: &str) -> String {
    let (scope, mut out) = (log.scope(session), Vec::new());
    let summary = scope.summary().clone();
    let items = Timeline::new(scope, log.reader().records(0).unwrap());
    export::markdown(&mut out, &summary, items, &log.reader()).unwrap();
    String::from_utf8(out).unwrap()
}

#[tokio::test]
async fn what_was_recorded_is_text_in_the_page() {
    let (log, session) = evil().await;
    let page = page(&log, &session);
    assert!(!page.contains("<img") && !page.contains("onerror=alert(1)>"), "{page}");
    assert!(page.contains("&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"));
    assert!(page.contains(r"\u003c/script\u003e\u003cimg src=x onerror=alert(1)\u003e"));
    // Only our own script and the data block; only our own style; nothing is fetched.
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    assert_eq!((page.matches("<style").count(), page.matches(" style=").count()), (1, 0));
    assert!(!page.contains(" src=\"") && !page.contains("url(") && !page.contains("@import"));
    assert!(page.contains("default-src 'none'; style-src 'sha256-"));
    assert!(page.chars().all(|c| !c.is_control() || c == '\n' || c == '\t') && !page.contains('\u{202e}'));
    let film = page.split("class=\"film\">").nth(1).unwrap().split("</script>").next().unwrap();
    assert!(
        film.contains("red") && !film.contains("ZXZpbA=="),
        "what a terminal does not draw is not in the film"
    );
}

#[tokio::test]
async fn what_was_recorded_is_code_in_the_document() {
    let (log, session) = evil().await;
    let text = document(&log, &session);
    // Every line with recorded text is within a fence longer than any in it, or within code on that line.
    let mut fence: Option<String> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        let ticks = bare.chars().take_while(|c| *c == '`').count();
        match &fence {
            Some(open) if bare == open => fence = None,
            Some(open) => assert!(!bare.starts_with(open.as_str()), "{line}"),
            None if ticks >= 3 && bare.ends_with("text") => fence = Some("`".repeat(ticks)),
            None => {
                let outside: String = code_free(line);
                assert!(!outside.contains('<') && !outside.contains("not a heading"), "{line}");
            }
        }
    }
    assert!(fence.is_none() && text.contains("`````text"), "{text}");
}

/// The line without its code spans, as CommonMark §6.1 delimits them.
fn code_free(line: &str) -> String {
    let (mut outside, mut rest) = (String::new(), line);
    while let Some(at) = rest.find('`') {
        outside.push_str(&rest[..at]);
        let ticks = rest[at..].chars().take_while(|c| *c == '`').count();
        let after = &rest[at + ticks..];
        let close = (0..after.len()).find(|i| {
            after.is_char_boundary(*i)
                && after[*i..].starts_with(&"`".repeat(ticks))
                && !after[..*i].ends_with('`')
                && !after[*i + ticks..].starts_with('`')
        });
        match close {
            Some(close) => rest = &after[close + ticks..],
            None => {
                outside.push_str(&rest[at..]);
                return outside;
            }
        }
    }
    outside + rest
}
