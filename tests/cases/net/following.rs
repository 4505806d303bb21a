// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of the Catalogs of others: how fresh it is, that it outlives a restart, and what is said of whoever
//! plays foul with their Heads.

use potluck_keys::pair::Pair;
use potluck_keys::signed::Signed;
use potluck_keys::time::Time;
use potluck_node::cache::Miss;
use potluck_protocol::codec::Bytes;
use potluck_protocol::head::Head;
use potluck_protocol::peer::{Heads, Pull, Push, TopicState};
use serde_json::Value;

use super::*;

/// What the status says of the one Catalog that is followed.
async fn row(node: &Node) -> Value {
    let rows = node.status().await["catalogs"].as_array().unwrap().clone();
    rows.into_iter().find(|row| row["own"] == false).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_was_followed_is_there_after_a_restart_without_a_packet() {
    let network = network();
    let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
    bob.trusts("alice", &alice, None);
    let a = Node::start(&alice, &[]).await;
    a.publish("key", &bytes(1, 100_000)).await;
    let b = Node::start(&bob, &[&a.address]).await;
    b.follows(1).await;
    a.publish("other", &bytes(2, 100_000)).await;
    b.follows(2).await;
    let fresh = row(&b).await;
    assert!(fresh["sequence"].as_u64() >= Some(2) && fresh["looked_s"].is_u64(), "{fresh:#}");
    assert!(["push", "poll", "dht"].contains(&fresh["source"].as_str().unwrap()), "{fresh:#}");
    b.stop().await;
    a.stop().await;
    // Nobody is there any more, and nobody is known.
    let b = Node::start(&bob, &[]).await;
    b.follows(2).await;
    let kept = row(&b).await;
    assert_eq!((&kept["source"], &kept["sequence"]), (&"disk".into(), &fresh["sequence"]), "{kept:#}");
    assert!(kept["looked_s"].is_null(), "{kept:#}");
    assert_eq!(b.lookup("nobody made this").await, Answer::Miss(Miss::Unclaimed));
    assert_ne!(b.lookup("other").await, Answer::Miss(Miss::Broken));
    let why: Value = serde_json::from_slice(&b.client.why(None).await.unwrap()).unwrap();
    assert_eq!(why["looked"]["listed_by"][0], "alice", "{why:#}");
    b.stop().await;
}

/// The newest Head of a topic that a node gives.
async fn newest(stranger: &Stranger, node: &Node, topic: Topic) -> Option<Head> {
    let link = stranger.handle.heads(node.peer).await?;
    let topics = vec![TopicState { topic, known: Vec::new() }];
    let Heads::Given(given) = link.ask(move |id| Heads::Pull(Pull { id, topics })).await?.next().await?
    else {
        return None;
    };
    Signed::<Head>::decode(given.heads.first()?).ok()?.authentic().ok().cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_go_back_contradict_or_have_ended_are_refused_and_shown() {
    let network = network();
    let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
    bob.trusts("alice", &alice, None);
    let a = Node::start(&alice, &[]).await;
    let b = Node::start(&bob, &[&a.address]).await;
    for (number, key) in ["one", "two", "three"].into_iter().enumerate() {
        a.publish(key, &bytes(number as u64, 1000)).await;
        b.follows(1 + number as u64).await;
    }
    let stranger = Stranger::enter(&network, &[&a, &b]).await;
    let genuine = until("a head", || newest(&stranger, &a, alice.topic())).await;
    let pair: Pair = alice.home.ring().unwrap().load("me", || None).unwrap();
    let push = async |head: Head| {
        let bytes = Signed::sign(&head, &[&pair]).unwrap().bytes().to_vec();
        let mut stream = stranger.handle.open(b.peer, Purpose::Heads).await.unwrap();
        let message = Heads::Push(Push { heads: vec![Bytes::new(bytes).unwrap()] });
        potluck_node::link::write_message(&mut stream, &message).await.unwrap();
    };
    let shown = async |what: &str| {
        let rows = until(what, || async {
            let rows = b.status().await["evidence"].as_array().unwrap().clone();
            rows.iter().find(|row| row["what"] == what).cloned()
        });
        let row = rows.await;
        assert_eq!((&row["signer"], &row["project"]), (&"alice".into(), &"acme/web".into()), "{row:#}");
        assert_eq!(row["from"], stranger.handle.name(&stranger.handle.peer()).to_string(), "{row:#}");
        row
    };
    let elsewhere = Digest::of(b"elsewhere");
    push(Head { root: elsewhere, ..genuine.clone() }).await;
    let fork = shown("fork").await;
    assert_eq!(
        (&fork["have_sequence"], &fork["got_sequence"]),
        (&genuine.sequence.into(), &genuine.sequence.into())
    );
    assert_eq!(
        (&fork["have_root"], &fork["got_root"]),
        (&genuine.root.to_string().into(), &elsewhere.to_string().into())
    );
    let day = 86_400_000;
    let past = Time::from_millis(genuine.issued.as_millis() - 10 * day);
    let ended = Head { sequence: genuine.sequence + 5, issued: past, ..genuine.clone() };
    push(Head { not_after: Time::from_millis(past.as_millis() + day), ..ended.clone() }).await;
    assert_eq!(shown("freeze").await["got_sequence"], genuine.sequence + 5);
    push(Head { sequence: 1, root: elsewhere, ..ended }).await;
    assert_eq!(shown("rollback").await["have_sequence"], genuine.sequence);
    for offence in ["fork", "freeze", "rollback"] {
        assert!(b.refused(offence).await, "{offence}");
    }
    // What is genuine goes on.
    a.publish("four", &bytes(4, 1000)).await;
    b.finds("four").await;
    b.follows(4).await;
    assert!(row(&b).await["sequence"].as_u64() > Some(genuine.sequence));
    let before = b.status().await["evidence"].clone();
    b.stop().await;
    // The next run shows it as well.
    let b = Node::start(&bob, &[]).await;
    assert_eq!(b.status().await["evidence"], before);
    assert_eq!(before.as_array().unwrap().len(), 3);
    b.stop().await;
    a.stop().await;
}
