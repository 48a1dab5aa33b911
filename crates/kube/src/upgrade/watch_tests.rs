//! Watches over WebSocket: a message is an event, and is looked at as a whole.

use bytes::{Bytes, BytesMut};
use portcullis_core::{Channel, Direction, Ended, StreamAbort, StreamEnd, StreamFrame};
use portcullis_wire::{Opcode, StreamProtocol, StreamPurpose, encode_frame};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tests::{Fixture, KEY, exactly, mask, message, messages, pass, start};

const TO_CLIENT: portcullis_wire::Direction = portcullis_wire::Direction::ServerToClient;

async fn watch(
    change: impl Fn(StreamFrame, &mut Vec<StreamFrame>) -> Result<(), StreamAbort> + Send + Sync + 'static,
) -> Fixture {
    let protocol = StreamProtocol::websocket(Some("base64.binary.k8s.io"), StreamPurpose::Watch).unwrap();
    start(protocol, "base64.binary.k8s.io", change).await
}

fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_frame(fin, opcode, payload, None, &mut out);
    out.to_vec()
}

fn event(text: &str) -> Vec<u8> {
    frame(true, Opcode::Text, text.as_bytes())
}

#[tokio::test]
async fn events_pass_byte_for_byte_and_what_the_client_says_does_not() {
    let Fixture { mut client, mut server, log, end, .. } = watch(pass).await;
    client.write_all(&message(b"anything", KEY)).await.unwrap();
    let ping = frame(true, Opcode::Ping, b"hi");
    for sent in [event("{}\n"), frame(true, Opcode::Binary, b"\n\x05ADDED"), ping] {
        server.write_all(&sent).await.unwrap();
        assert_eq!(exactly(&mut client, sent.len()).await, sent);
    }
    let mut pong = BytesMut::new();
    encode_frame(true, Opcode::Pong, b"hi", KEY, &mut pong);
    client.write_all(&pong).await.unwrap();
    // The pong is all that the server hears.
    assert_eq!(exactly(&mut server, pong.len()).await, pong);
    drop((client, server));
    assert_eq!(end.await.unwrap(), StreamEnd::Closed);
    assert_eq!(log.texts(Channel::Event), ["{}\n", "\n\u{5}ADDED"]);
}

#[tokio::test]
async fn a_changed_event_is_one_message_however_it_came() {
    let Fixture { client, mut server, log, .. } = watch(mask).await;
    let long = format!("{}hunter2{}", "x".repeat(100_000), "y".repeat(100_000));
    let fragments = [
        frame(false, Opcode::Text, b"a hun"),
        frame(false, Opcode::Continuation, b""),
        frame(true, Opcode::Ping, b""),
        frame(false, Opcode::Continuation, b"ter"),
        frame(true, Opcode::Continuation, b"2"),
    ];
    let sending = tokio::spawn(async move {
        for bytes in [event("b hunter2"), event(&long), fragments.concat(), event("c")] {
            server.write_all(&bytes).await.unwrap();
        }
    });
    let mut seen: Vec<(Opcode, String)> = messages(client, TO_CLIENT).await;
    sending.await.unwrap();
    assert_eq!(log.texts(Channel::Event).len(), 4, "each was seen once, as a whole");
    seen.retain(|(opcode, _)| *opcode != Opcode::Ping);
    assert!(seen.iter().all(|(opcode, _)| [Opcode::Text, Opcode::Continuation].contains(opcode)), "{seen:?}");
    // (The test's own decoder hands out a long frame in parts.)
    let texts: String = seen.iter().map(|(_, text)| text.as_str()).collect();
    let expected = format!("b [masked]{}[masked]{}a [masked]c", "x".repeat(100_000), "y".repeat(100_000));
    assert!(texts == expected);
}

#[tokio::test]
async fn a_stage_may_drop_an_event_or_add_one() {
    let change = |frame: StreamFrame, out: &mut Vec<StreamFrame>| {
        match &frame.data[..] {
            b"drop" => {}
            b"twice" => out.extend([frame.clone(), frame]),
            b"empty" => out.push(StreamFrame { data: Bytes::new(), ..frame }),
            _ => out.push(frame),
        }
        Ok(())
    };
    let Fixture { client, mut server, .. } = watch(change).await;
    let split = [frame(false, Opcode::Text, b"dr"), frame(true, Opcode::Continuation, b"op")].concat();
    for bytes in [event("drop"), event("twice"), split, event("empty"), event("end")] {
        server.write_all(&bytes).await.unwrap();
    }
    drop(server);
    let seen = messages(client, TO_CLIENT).await;
    assert_eq!(seen, ["twice", "twice", "end"].map(|text| (Opcode::Text, text.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_cut_off_hears_why_in_an_event() {
    let Fixture { mut client, mut server, cut, end, .. } = watch(pass).await;
    let first = event("{}");
    server.write_all(&first).await.unwrap();
    exactly(&mut client, first.len()).await;
    // Half an event is none.
    server.write_all(&frame(false, Opcode::Text, b"half")).await.unwrap();
    cut.notify_waiters();
    let seen = messages(client, TO_CLIENT).await;
    assert_eq!(end.await.unwrap(), StreamEnd::Cut(Ended::Revoked));
    assert_eq!((seen.len(), seen[0].0, seen[1].0), (2, Opcode::Text, Opcode::Close));
    let said: Value = serde_json::from_str(&seen[0].1).unwrap();
    assert_eq!((&said["type"], &said["object"]["code"]), (&"ERROR".into(), &401.into()));
    assert!(seen[1].1.ends_with("the grant was revoked"), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_stage_refuses_is_not_sent_and_neither_is_what_never_ends() {
    let refuse = |_: StreamFrame, _: &mut Vec<StreamFrame>| Err(StreamAbort::Refused("not this".into()));
    let Fixture { client, mut server, end, .. } = watch(refuse).await;
    server.write_all(&event("hunter2")).await.unwrap();
    let seen = messages(client, TO_CLIENT).await;
    assert_eq!(end.await.unwrap(), StreamEnd::Aborted(StreamAbort::Refused("not this".into())));
    assert_eq!((seen.len(), seen[1].0), (2, Opcode::Close));
    assert!(seen.iter().all(|(_, text)| text.contains("not this") && !text.contains("hunter2")), "{seen:?}");

    let Fixture { mut client, mut server, log, end, .. } = watch(pass).await;
    let endless = frame(false, Opcode::Text, &[b'x'; 4096]);
    server.write_all(&endless).await.unwrap();
    let more = frame(false, Opcode::Continuation, &[b'x'; 60_000]);
    for _ in 0..(17 << 20) / more.len() {
        server.write_all(&more).await.unwrap();
    }
    assert!(
        matches!(end.await.unwrap(), StreamEnd::Aborted(StreamAbort::Refused(why)) if why.contains("16 MiB"))
    );
    assert_eq!(log.texts(Channel::Event).len(), 0);
    let mut told = Vec::new();
    client.read_to_end(&mut told).await.unwrap();
    assert!(told.len() < 1000);
}

#[tokio::test]
async fn a_stage_cannot_speak_to_the_server_of_a_watch() {
    let against = |frame: StreamFrame, out: &mut Vec<StreamFrame>| {
        out.extend([StreamFrame { direction: Direction::ToServer, ..frame.clone() }, frame]);
        Ok(())
    };
    let Fixture { mut client, mut server, end, .. } = watch(against).await;
    server.write_all(&event("{}")).await.unwrap();
    let _ = client.read_to_end(&mut Vec::new()).await;
    assert!(matches!(end.await.unwrap(), StreamEnd::Aborted(StreamAbort::Failed(_))));
}
