// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nodes that mean well: what one publishes the others find, as far as their owners want that.

use potluck_node::cache::{Answer, Miss};
use potluck_protocol::action::ActionId;
use potluck_protocol::names::DhtKey;
use potluck_protocol::peer::{Ask, Blobs, No, Question, Run, Want};

use super::*;

fn action(key: &str) -> ActionId {
    ActionId::derive(&project(), &recipe(), key.as_bytes(), None).unwrap()
}

/// What a peer is told about a key, and whether it gets a Blob.
async fn gets(stranger: &Stranger, node: &Node, (key, digest): (&str, Digest)) -> (usize, Option<No>) {
    let link = stranger.handle.ask(node.peer).await.unwrap();
    let actions = vec![action(key)];
    let question = move |id| Ask::Question(Question { id, project: project(), actions, inline: 1 << 20 });
    let Ask::Answer(answer) = link.ask(question).await.unwrap().next().await.unwrap() else { panic!() };
    let (link, _) = stranger.handle.blobs(node.peer).await.unwrap();
    let pieces = vec![Run { first: 0, count: 1 }];
    let mut answers =
        link.ask(move |id| Blobs::Want(Want { id, digest, values: false, pieces })).await.unwrap();
    loop {
        match answers.next().await.unwrap() {
            Blobs::End(end) => return (answer.found.len(), end.no),
            Blobs::Have(_) | Blobs::Piece(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_publishes_another_finds() {
    let network = network();
    let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
    bob.trusts("alice", &alice, None);
    let a = Node::start(&alice, &[]).await;
    let (small, large) = (bytes(1, 100), bytes(2, 3 << 20));
    a.publish("small", &small).await;
    a.publish("large", &large).await;
    let b = Node::start(&bob, &[&a.address]).await;
    assert_eq!(a.read(*b.finds("small").await.digest()).await, small);
    assert_eq!(b.read(*b.finds("large").await.digest()).await, large);
    b.follows(2).await;
    // What comes later is pushed.
    a.publish("later", &bytes(3, 70_000)).await;
    b.finds("later").await;
    // Nobody claims to know it, and nobody is asked.
    let served = a.status().await["bytes_served"].clone();
    assert_eq!(b.lookup("nobody made this").await, Answer::Miss(Miss::Unclaimed));
    assert_eq!(a.status().await["bytes_served"], served);
    // The way back is not open: Alice trusts nobody.
    b.publish("by bob", b"bob").await;
    assert_eq!(a.lookup("by bob").await, Answer::Miss(Miss::Unclaimed));
    b.stop().await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_beyond_what_its_signer_is_trusted_with_is_refused() {
    let network = network();
    let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
    bob.trusts("alice", &alice, Some("rustc@*"));
    let a = Node::start(&alice, &[]).await;
    a.publish("key", b"output").await;
    let b = Node::start(&bob, &[&a.address]).await;
    b.follows(1).await;
    let refused = until("it is refused", || async {
        Some(b.lookup("key").await).filter(|answer| *answer != Answer::Miss(Miss::Late))
    });
    assert_eq!(refused.await, Answer::Miss(Miss::Refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_that_comes_later_makes_use_of_what_was_said_before() {
    let network = network();
    let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
    let a = Node::start(&alice, &[]).await;
    a.publish("key", b"output").await;
    let b = Node::start(&bob, &[&a.address]).await;
    until("they are connected", || async {
        (b.status().await["peers"] != serde_json::json!([])).then_some(())
    })
    .await;
    assert_eq!(b.lookup("key").await, Answer::Miss(Miss::Unclaimed));
    bob.trusts("alice", &alice, None);
    b.finds("key").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_first_or_again_is_met_all_the_same() {
    let network = network();
    let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
    bob.trusts("alice", &alice, None);
    let a = Node::start(&alice, &[]).await;
    a.publish("key", &bytes(1, 100_000)).await;
    let address = a.address.clone();
    a.stop().await;
    // Nobody is there yet.
    let b = Node::start(&bob, &[&address]).await;
    assert_eq!(b.lookup("key").await, Answer::Miss(Miss::Unclaimed));
    let networks = Networks::of(&alice.home);
    let listen = vec![address.split("/p2p/").next().unwrap().to_owned()];
    networks.change(&Network { listen, ..networks.get("office").unwrap() }).unwrap();
    let a = Node::start(&alice, &[]).await;
    b.finds("key").await;
    // A kept stream to somebody who went away and came back is no good.
    a.stop().await;
    let a = Node::start(&alice, &[]).await;
    a.publish("other", &bytes(2, 100_000)).await;
    b.finds("other").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_shared_is_not_there() {
    let network = network();
    let alice = Place::new(&network, false);
    let a = Node::start(&alice, &[]).await;
    let digest = a.publish("key", &bytes(1, 100_000)).await;
    let stranger = Stranger::enter(&network, &[&a]).await;
    let holders = DhtKey::holders(&alice.topic().signer, &project(), 0);
    assert_eq!(gets(&stranger, &a, ("key", digest)).await, (0, Some(No::NotHere)));
    assert!(stranger.handle.providers(holders).await.is_empty());
    alice.shares(true);
    until("it is served", || async {
        (gets(&stranger, &a, ("key", digest)).await == (1, None)).then_some(())
    })
    .await;
    until("it is announced", || async {
        (stranger.handle.providers(holders).await == [a.peer]).then_some(())
    })
    .await;
    alice.shares(false);
    until("it is not served", || async {
        (gets(&stranger, &a, ("key", digest)).await == (0, Some(No::NotHere))).then_some(())
    })
    .await;
    // A newcomer is not told either. What others were told before they forget in time.
    let newcomer = Stranger::enter(&network, &[&a]).await;
    assert_eq!(gets(&newcomer, &a, ("key", digest)).await, (0, Some(No::NotHere)));
}
