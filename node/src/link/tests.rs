// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both ends of a kept stream, one of which misbehaves.

use potluck_protocol::codec::Bytes;
use potluck_protocol::control::{Data, Plain, Read, Reply, Request};
use potluck_protocol::digest::Digest;
use potluck_protocol::frame::frame;
use tokio::io::{AsyncWriteExt as _, DuplexStream};

use super::*;

type ToDaemon = Link<Request, Reply>;

fn pair(room: usize) -> (ToDaemon, DuplexStream) {
    let (one, other) = tokio::io::duplex(room);
    (Link::start(one), other)
}

fn plain(id: u64) -> Request {
    Request::Status(Plain { id })
}

async fn asked(stream: &mut DuplexStream) -> u64 {
    match read_message::<Request>(stream).await.unwrap().unwrap() {
        Request::Status(plain) => plain.id,
        Request::Read(read) => read.id,
        other => panic!("{other:?}"),
    }
}

fn stopping(id: u64) -> Reply {
    Reply::Stopping(Plain { id })
}

#[tokio::test]
async fn answers_find_their_questions_in_any_order() {
    let (link, mut other) = pair(1 << 16);
    let (mut one, mut two) = (link.ask(plain).await.unwrap(), link.ask(plain).await.unwrap());
    let ids = (asked(&mut other).await, asked(&mut other).await);
    write_message(&mut other, &stopping(ids.1)).await.unwrap();
    write_message(&mut other, &stopping(ids.0)).await.unwrap();
    // A second answer to a question is nobody's.
    write_message(&mut other, &stopping(ids.0)).await.unwrap();
    assert_eq!(one.next().await, Some(stopping(ids.0)));
    assert_eq!(two.next().await, Some(stopping(ids.1)));
    assert_eq!((one.next().await, two.next().await), (None, None));
    assert!(!link.is_closed());
}

#[tokio::test]
async fn a_lone_question_is_said_by_who_asks_and_nothing_overtakes_what_waits() {
    let (link, mut other) = pair(1 << 16);
    let lone = link.ask(plain).await.unwrap();
    // No other task has run yet.
    let said = {
        let reading = std::pin::pin!(read_message::<Request>(&mut other));
        reading.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    };
    let known = |said: &Request| matches!(said, Request::Status(said) if said.id == lone.id);
    assert!(matches!(said, std::task::Poll::Ready(Ok(Some(said))) if known(&said)));
    drop(lone);
    // In a pipe that takes a few bytes at a time: the first is begun at once, and the others have to wait for that.
    let (link, mut other) = pair(8);
    let read = |offset| move |id| Request::Read(Read { id, digest: Digest::of(b""), offset, len: None });
    let mut open = Vec::new();
    for offset in 0..3 {
        let answers = link.ask(read(offset)).await.unwrap();
        let bytes = Bytes::new(vec![7; 100]).unwrap();
        assert!(link.say(Request::Write(Data { id: answers.id, bytes, last: true })).await);
        open.push(answers);
    }
    for answers in &open {
        for _ in 0..2 {
            let said = match read_message::<Request>(&mut other).await.unwrap().unwrap() {
                Request::Read(read) => read.id,
                Request::Write(data) => data.id,
                other => panic!("{other:?}"),
            };
            assert_eq!(said, answers.id);
        }
    }
}

#[tokio::test]
async fn what_was_begun_by_who_asked_is_said_to_the_end_though_he_has_gone() {
    let (link, mut other) = pair(8);
    let digest = Digest::of(b"");
    let answers = link.ask(move |id| Request::Read(Read { id, digest, offset: 1, len: None })).await.unwrap();
    let id = answers.id;
    drop(link);
    assert_eq!(asked(&mut other).await, id);
    drop(answers);
    assert!(read_message::<Request>(&mut other).await.unwrap().is_none());
}

#[tokio::test]
async fn questions_that_nobody_answers_and_nobody_waits_for_take_no_place() {
    let (link, mut other) = pair(1 << 20);
    for _ in 0..3 * MAX_OPEN {
        drop(link.ask(plain).await.unwrap());
        asked(&mut other).await;
    }
    let mut answers = link.ask(plain).await.unwrap();
    let id = asked(&mut other).await;
    write_message(&mut other, &stopping(id)).await.unwrap();
    assert_eq!(answers.next().await, Some(stopping(id)));
}

#[tokio::test]
async fn a_stream_that_answers_what_nobody_asked_ends() {
    let (link, mut other) = pair(1 << 16);
    let mut answers = link.ask(plain).await.unwrap();
    let id = asked(&mut other).await;
    write_message(&mut other, &stopping(id + 1)).await.unwrap();
    assert_eq!(answers.next().await, None);
    assert!(link.is_closed());
}

#[tokio::test]
async fn endless_answers_to_a_closed_question_end() {
    let (link, mut other) = pair(1 << 16);
    drop(link.ask(plain).await.unwrap());
    let id = asked(&mut other).await;
    let mut sent = 0;
    while write_message(&mut other, &stopping(id)).await.is_ok() {
        sent += 1;
        assert!(sent < 20 * MAX_STRAY, "it reads for ever");
    }
    assert!(link.is_closed());
}

#[tokio::test(start_paused = true)]
async fn half_a_message_does_not_hold_the_stream_for_ever() {
    let (link, mut other) = pair(1 << 16);
    let mut answers = link.ask(plain).await.unwrap();
    asked(&mut other).await;
    other.write_all(&[0, 0, 1]).await.unwrap();
    assert_eq!(answers.next().await, None);
    assert!(link.is_closed());
}

#[tokio::test(start_paused = true)]
async fn an_asker_that_does_not_listen_costs_the_others_nothing_but_time() {
    let (link, mut other) = pair(1 << 16);
    let digest = Digest::of(b"");
    let deaf = link.ask(move |id| Request::Read(Read { id, digest, offset: 0, len: None })).await.unwrap();
    let mut fine = link.ask(plain).await.unwrap();
    let (flood, quiet) = (asked(&mut other).await, asked(&mut other).await);
    for _ in 0..100 {
        let data = Data { id: flood, bytes: Bytes::new(vec![7]).unwrap(), last: false };
        write_message(&mut other, &Reply::Data(data)).await.unwrap();
    }
    write_message(&mut other, &stopping(quiet)).await.unwrap();
    assert_eq!(fine.next().await, Some(stopping(quiet)));
    drop(deaf);
}

#[tokio::test(start_paused = true)]
async fn who_says_much_to_others_before_is_not_silent() {
    let (silent, whole) = (Duration::from_secs(3), Duration::from_secs(60));
    let (link, mut other) = pair(1 << 16);
    let mut first = link.ask(plain).await.unwrap();
    let (mut second, mut third) = (link.ask(plain).await.unwrap(), link.ask(plain).await.unwrap());
    let ids = [asked(&mut other).await, asked(&mut other).await, asked(&mut other).await];
    // A message for the first that takes ten seconds to come, and then the second's.
    let bytes = Bytes::new(vec![1; 10_000]).unwrap();
    let large = frame(&Reply::Data(Data { id: ids[0], bytes, last: false })).unwrap();
    let large = [large.begin.as_slice(), &large.end].concat();
    let says = async {
        for part in large.chunks(1000) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            other.write_all(part).await.unwrap();
        }
        write_message(&mut other, &stopping(ids[1])).await.unwrap();
    };
    let (heard, ()) = tokio::join!(second.next_within(silent, whole), says);
    assert_eq!(heard, Some(stopping(ids[1])));
    let began = Instant::now();
    assert_eq!(third.next_within(silent, whole).await, None);
    assert!(began.elapsed() >= silent && began.elapsed() < silent + silent, "nothing comes any more");
    // Who always has something to say to others, and never this, is not listened to for ever.
    let mut fourth = link.ask(plain).await.unwrap();
    let began = Instant::now();
    let chatters = async {
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let data = Data { id: ids[0], bytes: Bytes::new(vec![7]).unwrap(), last: false };
            let _ = write_message(&mut other, &Reply::Data(data)).await;
        }
    };
    let listens = async { while first.next().await.is_some() {} };
    tokio::select! {
        heard = fourth.next_within(silent, whole) => assert_eq!(heard, None),
        ((), ()) = async { tokio::join!(chatters, listens) } => panic!("it waits for ever"),
    }
    assert!(began.elapsed() >= whole);
}

#[tokio::test]
async fn a_full_pipe_one_way_does_not_block_the_other_way() {
    // The other side reads nothing until its own message is read.
    let (link, mut other) = pair(64);
    let mut answers = link.ask(plain).await.unwrap();
    let id = asked(&mut other).await;
    let bytes = Bytes::new(vec![1; 100_000]).unwrap();
    let big = Request::Write(Data { id, bytes: bytes.clone(), last: true });
    assert!(link.say(big).await);
    write_message(&mut other, &Reply::Data(Data { id, bytes, last: true })).await.unwrap();
    assert!(matches!(answers.next().await, Some(Reply::Data(_))));
}

#[tokio::test]
async fn long_messages_and_short_ones_arrive_as_they_were_said() {
    let (link, mut other) = pair(1000);
    let _answers = link.ask(plain).await.unwrap();
    let id = asked(&mut other).await;
    let data = |len: usize| {
        let bytes = Bytes::new((0..=250).cycle().take(len).collect::<Vec<u8>>()).unwrap();
        Request::Write(Data { id, bytes, last: false })
    };
    let said = [5, 100_000, 0, 65_536, 65_535, 131_072, 7].map(data);
    for message in said.clone() {
        assert!(link.say(message).await);
    }
    for message in said {
        assert!(read_message::<Request>(&mut other).await.unwrap() == Some(message));
    }
}

#[tokio::test]
async fn the_stream_ends_when_nobody_asks_and_nobody_waits() {
    let (link, mut other) = pair(1 << 16);
    let answers = link.ask(plain).await.unwrap();
    asked(&mut other).await;
    drop(link);
    drop(answers);
    assert!(read_message::<Request>(&mut other).await.unwrap().is_none());
}
