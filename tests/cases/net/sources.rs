// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Blob that those who hold its topic have lost, and that somebody has of whom nobody knows more.

use potluck_protocol::names::DhtKey;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_comes_from_somebody_who_holds_nothing_of_the_topic() {
    let network = network();
    let [alice, bob, cem, dora] = [(); 4].map(|()| Place::new(&network, true));
    bob.trusts("alice", &alice, None);
    dora.trusts("cem", &cem, None);
    let (a, content) = (Node::start(&alice, &[]).await, bytes(7, 9 << 20));
    let digest = a.publish("key", &content).await;
    // Cem made the same by himself; he follows nobody, and only Dora follows him.
    let c = Node::start(&cem, &[&a.address]).await;
    assert_eq!(c.publish("his own key", &content).await, digest);
    let d = Node::start(&dora, &[&c.address, &a.address]).await;
    d.finds("his own key").await;
    // That Dora asked for it makes him say that he has it.
    let stranger = Stranger::enter(&network, &[&a, &c]).await;
    until("cem is named", || async {
        stranger.handle.providers(DhtKey::blob(&digest)).await.contains(&c.peer).then_some(())
    })
    .await;
    d.stop().await;
    a.stop().await;
    // Alice knows what the output is, and has lost it.
    let name = digest.to_string();
    std::fs::remove_file(alice.home.root().join("store/blobs").join(&name[..2]).join(&name)).unwrap();
    let a = Node::start(&alice, &[&c.address]).await;
    let b = Node::start(&bob, &[&a.address]).await;
    b.follows(1).await;
    assert_eq!(*b.finds("key").await.digest(), digest);
    assert_eq!(b.read(digest).await, content);
    let holds = |row: &serde_json::Value| row["holds"].as_array().is_some_and(|holds| !holds.is_empty());
    let status = b.status().await;
    let rows = status["peers"].as_array().unwrap();
    let cems = rows.iter().find(|row| row["peer"] == c.peer.to_base58()).unwrap();
    assert!(
        !holds(cems) || cems["holds"].as_array().unwrap().iter().all(|one| one["signer"] != "alice"),
        "{cems:#}"
    );
    let served = c.status().await["bytes_served"].as_u64().unwrap();
    assert!(served >= 2 * content.len() as u64, "{served}: to Dora and to Bob");
    for node in [a, b, c] {
        node.stop().await;
    }
}
