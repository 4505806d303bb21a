// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several Networks in one node with one store: what is shared on one of them is not there for the other, and nobody
//! there can tell that from what does not exist at all.

use potluck_keys::pair::Signer;
use potluck_protocol::action::ActionId;
use potluck_protocol::frame::{HEADER_BYTES, Message};
use potluck_protocol::names::DhtKey;
use potluck_protocol::peer::{
    Ask, Blobs, Heads, Hello, MAX_TOPICS, Pull, Question as Asked, Run, Several, TopicState, Want,
};
use tokio::io::AsyncReadExt as _;

use super::*;

/// All bytes that come in answer to a message, up to those of `frames` messages.
async fn answer<M: Message>(
    (stranger, to): (&Stranger, PeerId),
    purpose: Purpose,
    message: &M,
    frames: usize,
) -> Vec<u8> {
    let mut stream = stranger.handle.open(to, purpose).await.expect("a member may open streams");
    potluck_node::link::write_message(&mut stream, message).await.unwrap();
    let mut all = Vec::new();
    let read = async {
        for _ in 0..frames {
            let mut header = [0; HEADER_BYTES];
            stream.read_exact(&mut header).await.unwrap();
            let mut body = vec![0; u32::from_be_bytes(header) as usize];
            stream.read_exact(&mut body).await.unwrap();
            all.extend(header);
            all.extend(body);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("an answer");
    all
}

fn ask(project: &Project, key: &str) -> Ask {
    let action = ActionId::derive(project, &recipe(), key.as_bytes(), None).unwrap();
    Ask::Question(Asked { id: 7, project: project.clone(), actions: vec![action], inline: 1 << 20 })
}

fn pull(signer: Signer, project: &Project) -> Heads {
    let topic = Topic { signer, project: project.clone() };
    Heads::Pull(Pull { id: 7, topics: vec![TopicState { topic, known: Vec::new() }] })
}

fn want(digest: Digest) -> Blobs {
    Blobs::Want(Want { id: 7, digest, values: false, pieces: vec![Run { first: 0, count: 1 }] })
}

fn several(digest: Digest) -> Blobs {
    Blobs::Several(Several { id: 7, digests: vec![digest] })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_on_one_network_does_not_exist_on_another() {
    let office = network();
    let shared = Project::new("acme/tools").unwrap();
    let lab = Network { name: "lab".into(), key: Network::new("lab", false).unwrap().key, ..office.clone() };
    let alice = Place::new(&office, true);
    let there = Network { share: [shared.to_string()].into(), ..lab.clone() };
    Networks::of(&alice.home).add(&there).unwrap();
    let a = Node::start(&alice, &[]).await;
    let digest = a.publish("key", &bytes(1, 100_000)).await;
    let small = a.publish("small", &bytes(2, 1000)).await;
    let signer = alice.key().signer();

    // In the office it can be had.
    let member = Stranger::enter(&office, &[&a]).await;
    let known = async || {
        let given = answer((&member, a.peer), Purpose::Heads, &pull(signer, &project()), 1).await;
        (given.len() > 100).then_some(())
    };
    until("its head is given", known).await;
    assert!(answer((&member, a.peer), Purpose::Ask, &ask(&project(), "key"), 1).await.len() > 100);
    assert!(answer((&member, a.peer), Purpose::Blob, &want(digest), 2).await.len() > 90_000);
    assert!(answer((&member, a.peer), Purpose::Blob, &several(small), 2).await.len() > 900);

    // In the lab nothing tells it from what does not exist.
    let status = a.status().await;
    let address = status["networks"]["lab"]["listen"][0].as_str().unwrap().to_owned();
    let peer: PeerId = status["networks"]["lab"]["peer"].as_str().unwrap().parse().unwrap();
    assert_ne!(peer, a.peer, "it is somebody else there");
    let outsider = Stranger::enter(&Network { peers: vec![address], ..lab.clone() }, &[]).await;
    let (to, mut said) = mpsc::channel(8);
    outsider.serves(Purpose::Hello, move |mut stream| {
        let to = to.clone();
        async move {
            while let Ok(Some(hello)) = potluck_node::link::read_message::<Hello>(&mut stream).await {
                let _ = to.send(hello).await;
            }
        }
    });
    until("they are connected", || async { outsider.handle.members().await.contains(&peer).then_some(()) })
        .await;
    let nowhere = Project::new("no/such/project").unwrap();
    let absent = answer((&outsider, peer), Purpose::Ask, &ask(&shared, "nobody made this"), 1).await;
    for (project, key) in
        [(&project(), "key"), (&project(), "nobody made this"), (&nowhere, "key"), (&shared, "key")]
    {
        assert_eq!(
            answer((&outsider, peer), Purpose::Ask, &ask(project, key), 1).await,
            absent,
            "{project} {key}"
        );
    }
    let nobody = Signer::from_bytes([9; 32]);
    let absent = answer((&outsider, peer), Purpose::Heads, &pull(nobody, &nowhere), 1).await;
    for (signer, project) in [(signer, &project()), (nobody, &project()), (signer, &shared)] {
        assert_eq!(
            answer((&outsider, peer), Purpose::Heads, &pull(signer, project), 1).await,
            absent,
            "{project}"
        );
    }
    let absent = answer((&outsider, peer), Purpose::Blob, &want(Digest::of(b"nobody made this")), 1).await;
    assert_eq!(answer((&outsider, peer), Purpose::Blob, &want(digest), 1).await, absent);
    let absent = answer((&outsider, peer), Purpose::Blob, &several(Digest::of(b"nor this")), 1).await;
    assert_eq!(answer((&outsider, peer), Purpose::Blob, &several(small), 1).await, absent);
    for project in [&project(), &shared] {
        assert!(outsider.handle.providers(DhtKey::holders(&signer, project, 0)).await.is_empty());
        assert!(outsider.handle.get(DhtKey::catalog(&signer, project)).await.is_empty());
    }
    // What it says of itself names no Project that is not shared there, and says nothing by how much it says.
    let hello = tokio::time::timeout(PATIENCE, said.recv()).await.unwrap().unwrap();
    let foreign = |topic: &Topic| topic.project != shared;
    assert!(!hello.holds.iter().chain(&hello.follows).any(foreign), "{hello:?}");
    assert!(hello.holds.len() + hello.follows.len() < MAX_TOPICS);
    a.stop().await;
}
