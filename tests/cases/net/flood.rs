// SPDX-License-Identifier: MIT OR Apache-2.0
//! A peer that floods a node, talks nonsense to it, or says nothing. The node stays as useful to others as it was.

use std::collections::VecDeque;

use potluck_keys::pair::Pair;
use potluck_keys::signed::Signed;
use potluck_keys::time::Time;
use potluck_node::link::{read_message, write_message};
use potluck_protocol::codec::{Bytes, Text};
use potluck_protocol::head::{CATALOG, Head, Instance};
use potluck_protocol::names::DhtKey;
use potluck_protocol::peer::{Answer as Told, Ask, Blobs, End, Heads, Hello, Push, Run, Want};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const PURPOSES: [Purpose; 4] = [Purpose::Hello, Purpose::Heads, Purpose::Ask, Purpose::Blob];

/// Alice publishes and Bob follows her; the stranger is connected to both.
struct Street {
    a: Node,
    b: Node,
    alice: Place,
    _bob: Place,
    stranger: Stranger,
    published: std::sync::atomic::AtomicU64,
}

impl Street {
    async fn new() -> Self {
        let network = network();
        let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
        bob.trusts("alice", &alice, None);
        let a = Node::start(&alice, &[]).await;
        let b = Node::start(&bob, &[&a.address]).await;
        let stranger = Stranger::enter(&network, &[&a, &b]).await;
        Self { a, b, alice, _bob: bob, stranger, published: Default::default() }
    }

    /// What the nodes are there for still works.
    async fn is_well(&self) {
        let number = self.published.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (key, content) = (format!("key {number}"), bytes(number, 100_000));
        self.a.publish(&key, &content).await;
        assert_eq!(self.b.read(*self.b.finds(&key).await.digest()).await, content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_ends_its_stream_and_nothing_else() {
    let street = Street::new().await;
    let node = street.a.peer;
    let nonsense: [&[u8]; 4] =
        [&[0xff; 64], &[0, 0, 0, 4, 0xde, 0xad, 0xbe, 0xef], &[0, 0, 0, 0], &[0x7f, 0xff, 0xff, 0xff, 0]];
    for purpose in PURPOSES {
        for bytes in nonsense {
            let mut stream = street.stranger.handle.open(node, purpose).await.unwrap();
            let _ = stream.write_all(bytes).await;
            let _ = stream.flush().await;
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
            assert!(ended.is_ok() && rest.is_empty(), "{purpose:?} {bytes:?}");
        }
    }
    street.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_place_ends_its_stream() {
    let street = Street::new().await;
    let node = street.b.peer;
    let handle = &street.stranger.handle;
    let mut ask = handle.open(node, Purpose::Ask).await.unwrap();
    let told = Ask::Answer(Told { id: 7, found: Vec::new(), last: true });
    write_message(&mut ask, &told).await.unwrap();
    assert!(read_message::<Ask>(&mut ask).await.map_or(true, |said| said.is_none()));
    let mut blobs = handle.open(node, Purpose::Blob).await.unwrap();
    write_message(&mut blobs, &Blobs::End(End { id: 7, no: None })).await.unwrap();
    assert!(read_message::<Blobs>(&mut blobs).await.map_or(true, |said| said.is_none()));
    street.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_silent_streams_take_four_places_each() {
    let street = Street::new().await;
    let mut held = VecDeque::new();
    for purpose in PURPOSES {
        for _ in 0..100 {
            if let Some(mut stream) = street.stranger.handle.open(street.a.peer, purpose).await {
                let _ = stream.write_all(&[0]).await;
                let _ = stream.flush().await;
                held.push_back((purpose, stream));
            }
        }
    }
    // Those beyond the bound are closed at once, the others wait for the rest of their first message.
    let mut open = 0;
    for (_, stream) in &mut held {
        let closed = tokio::time::timeout(Duration::from_millis(5), stream.read_u8()).await;
        open += usize::from(closed.is_err());
    }
    assert!(open <= PURPOSES.len() * 4, "{open} are open");
    street.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_hellos_delays_nobody() {
    let street = Street::new().await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(street.stranger.handle.open(street.b.peer, Purpose::Hello).await.unwrap());
    }
    let topic = |number: u64| Topic {
        signer: Pair::from_seed(bytes(number, 32).as_slice().try_into().unwrap(), "").signer(),
        project: project(),
    };
    let topics: Vec<_> = (0..256).map(topic).collect();
    let flood = streams.into_iter().map(|mut stream| {
        let (topics, alices) = (topics.clone(), street.alice.topic());
        span::spawn("flood", async move {
            let mut hello = Hello { agent: None, holds: topics.clone(), follows: topics };
            hello.holds[255] = alices;
            while write_message(&mut stream, &hello).await.is_ok() {
                hello.holds.rotate_left(1);
            }
        })
    });
    let flood: Vec<_> = flood.collect();
    for _ in 0..3 {
        street.is_well().await;
    }
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}

fn head(pair: &Pair, (instance, sequence): (Instance, u64), root: Digest) -> Vec<u8> {
    let issued = Time::from(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let head = Head {
        project: project(),
        name: Text::new(CATALOG).unwrap(),
        recipe: None,
        instance,
        sequence,
        root,
        size: 10,
        issued,
        not_after: issued.plus(Duration::from_secs(60 * 60 * 24)),
    };
    Signed::sign(&head, &[pair]).unwrap().bytes().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_forged_or_old_change_nothing() {
    let street = Street::new().await;
    street.is_well().await;
    // One of somebody whom nobody follows is ignored.
    let mallory = Pair::from_seed(&[9; 32], "");
    let foreign = head(&mallory, (Instance::from_bytes([1; 16]), u64::MAX), Digest::of(b"evil"));
    let mut stream = street.stranger.handle.open(street.b.peer, Purpose::Heads).await.unwrap();
    let push = |bytes: Vec<u8>| Heads::Push(Push { heads: vec![Bytes::new(bytes).unwrap()] });
    write_message(&mut stream, &push(foreign.clone())).await.unwrap();
    // A genuine one is taken from Alice, and offered again after she has moved on.
    let key = DhtKey::catalog(&street.alice.topic().signer, &project());
    let old = until("the head stands on the DHT", || async {
        street.stranger.handle.get(key).await.into_iter().next()
    })
    .await;
    street.is_well().await;
    let set = potluck_protocol::head::HeadSet::receive(&old, &key).unwrap();
    let genuine = set.heads().next().unwrap().bytes().to_vec();
    for _ in 0..500 {
        write_message(&mut stream, &push(genuine.clone())).await.unwrap();
    }
    street.is_well().await;
    // With one bit of the signature turned, it costs its sender the stream.
    let mut forged = genuine;
    *forged.last_mut().unwrap() ^= 1;
    write_message(&mut stream, &push(forged)).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
    assert!(matches!(ended, Ok(Err(_))));
    street.is_well().await;
    street.b.follows(4).await;
    // The past on the DHT is no better.
    street.stranger.handle.put(key, old).await;
    street.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_provided_keys_leave_room_for_those_of_others() {
    let street = Street::new().await;
    let mut running = tokio::task::JoinSet::new();
    for number in 0..300_u64 {
        let handle = street.stranger.handle.clone();
        running.spawn(async move {
            handle.provide(DhtKey::from_bytes(*Digest::of(&number.to_le_bytes()).as_bytes())).await
        });
        if running.len() >= 64 {
            running.join_next().await;
        }
    }
    running.join_all().await;
    street.is_well().await;
    // What the node itself says still finds room.
    let holders = DhtKey::holders(&street.alice.topic().signer, &project(), 0);
    let network = street.stranger.handle.network().clone();
    let newcomer = Stranger::enter(&network, &[&street.a]).await;
    until("holders are found", || async {
        newcomer.handle.providers(holders).await.contains(&street.a.peer).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_are_sent_in_turn_and_twice_the_same_question_is_none() {
    let street = Street::new().await;
    let large = street.a.publish("large", &bytes(77, 8 << 20)).await;
    let small = street.a.publish("small", &bytes(78, 100_000)).await;
    let want = |id, digest, count| {
        Blobs::Want(Want { id, digest, values: false, pieces: vec![Run { first: 0, count }] })
    };
    let mut stream = street.stranger.handle.open(street.a.peer, Purpose::Blob).await.unwrap();
    write_message(&mut stream, &want(1, large, 8)).await.unwrap();
    write_message(&mut stream, &want(2, small, 1)).await.unwrap();
    let mut ends = Vec::new();
    while ends.len() < 2 {
        if let Some(Blobs::End(end)) = read_message::<Blobs>(&mut stream).await.unwrap() {
            assert_eq!(end.no, None);
            ends.push(end.id);
        }
    }
    assert_eq!(ends, [2, 1], "the small one does not wait for the large one");
    // Runs beyond the end, and the largest there are, cost nothing.
    let far = vec![Run { first: 1 << 19, count: 1 << 19 }; 64];
    let far = Blobs::Want(Want { id: 3, digest: small, values: false, pieces: far });
    write_message(&mut stream, &far).await.unwrap();
    assert!(matches!(read_message::<Blobs>(&mut stream).await.unwrap(), Some(Blobs::Have(_))));
    assert!(matches!(read_message::<Blobs>(&mut stream).await.unwrap(), Some(Blobs::End(_))));
    for _ in 0..2 {
        write_message(&mut stream, &want(4, large, 8)).await.unwrap();
    }
    while let Ok(Some(_)) = read_message::<Blobs>(&mut stream).await {}
    street.is_well().await;
}
