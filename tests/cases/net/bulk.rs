// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs go over sockets of their own where members can open one, and over the ordinary stream where not. Nobody but
//! connected members gets as far as to ask for one.

use libp2p::core::upgrade::OutboundConnectionUpgrade as _;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, tls};
use potluck_node::link::{read_message, write_message};
use potluck_protocol::frame::frame;
use potluck_protocol::peer::{Answer as Told, Ask, Blobs, End, No, Question as Asked, Run, Want};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use super::*;

const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// How many bulk sockets a node has.
async fn sockets(node: &Node) -> u64 {
    node.status().await["networks"]["office"]["bulk"].as_u64().unwrap()
}

/// Waits for so many on both sides: on a busy machine the first Blob does not wait for them.
async fn both_have(count: u64, a: &Node, b: &Node) {
    until("there are sockets", || async {
        ((sockets(a).await, sockets(b).await) == (count, count)).then_some(())
    })
    .await;
}

/// What a negotiation of libp2p begins with, and one of its lines.
fn line(text: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(text.len() + 1).unwrap()];
    bytes.extend(text.as_bytes());
    bytes.push(b'\n');
    bytes
}

fn opening(protocol: &str) -> Vec<u8> {
    [line("/multistream/1.0.0"), line(protocol)].concat()
}

/// A TCP connection to where a node listens.
async fn knock(address: &str) -> TcpStream {
    let address: Multiaddr = address.parse().unwrap();
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    TcpStream::connect(("127.0.0.1", port.unwrap())).await.unwrap()
}

/// Somebody who has an identity, and says what he likes once the node knows it. Gives all that the node says to that.
async fn says(address: &str, what: &[u8]) -> Vec<u8> {
    let mut socket = knock(address).await;
    let opening = opening("/tls/1.0.0");
    socket.write_all(&opening).await.unwrap();
    let mut agreed = vec![0; opening.len()];
    socket.read_exact(&mut agreed).await.unwrap();
    assert_eq!(agreed, opening);
    let anybody = tls::Config::new(&Keypair::generate_ed25519()).unwrap();
    let (_, stream) = anybody.upgrade_outbound(socket.compat(), "/tls/1.0.0").await.unwrap();
    let mut stream = stream.compat();
    stream.write_all(what).await.unwrap();
    stream.flush().await.unwrap();
    let mut heard = Vec::new();
    // However it ends, and if it does not, because the node waits for more, what came is what counts.
    let reading = async {
        let mut some = [0; 1024];
        while let Ok(count @ 1..) = stream.read(&mut some).await {
            heard.extend(&some[..count]);
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), reading).await;
    heard
}

fn want(digest: Digest) -> impl FnOnce(u64) -> Blobs + Send + 'static {
    move |id| Blobs::Want(Want { id, digest, values: false, pieces: vec![Run { first: 0, count: 1 }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_have_a_socket_of_their_own() {
    for public in [false, true] {
        let network = Network { listen: network().listen, ..Network::new("office", public).unwrap() };
        let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
        bob.trusts("alice", &alice, None);
        let a = Node::start(&alice, &[]).await;
        let content = bytes(1, 3 << 20);
        a.publish("key", &content).await;
        assert_eq!(sockets(&a).await, 0);
        let b = Node::start(&bob, &[&a.address]).await;
        assert_eq!(b.read(*b.finds("key").await.digest()).await, content);
        both_have(1, &a, &b).await;
        // It goes with the connection that it belongs to.
        a.stop().await;
        until("the socket has ended", || async { (sockets(&b).await == 0).then_some(()) }).await;
        b.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_over_quic_has_one_all_the_same() {
    let network = Network { listen: vec![QUIC.to_owned(), network().listen[0].clone()], ..network() };
    let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
    bob.trusts("alice", &alice, None);
    let a = Node::start(&alice, &[]).await;
    let content = bytes(1, 3 << 20);
    a.publish("key", &content).await;
    let reached = a.status().await["networks"]["office"]["listen"].as_array().unwrap().clone();
    let over_quic = reached.iter().find_map(|address| address.as_str().filter(|text| text.contains("quic")));
    let b = Node::start(&bob, &[over_quic.unwrap()]).await;
    assert_eq!(b.read(*b.finds("key").await.digest()).await, content);
    both_have(1, &a, &b).await;
    for node in [b, a] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_way_for_one_the_stream_will_do() {
    let network = Network { listen: vec![QUIC.to_owned()], ..network() };
    let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
    bob.trusts("alice", &alice, None);
    let a = Node::start(&alice, &[]).await;
    let content = bytes(1, 3 << 20);
    a.publish("key", &content).await;
    let b = Node::start(&bob, &[&a.address]).await;
    assert_eq!(b.read(*b.finds("key").await.digest()).await, content);
    assert_eq!((sockets(&a).await, sockets(&b).await), (0, 0));
    for node in [b, a] {
        node.stop().await;
    }
}

/// Somebody who knows the stranger and is connected.
async fn enter_with(stranger: &Stranger, network: Network) -> (Handle, TempDir, mpsc::Receiver<NetEvent>) {
    let folder = tempfile::tempdir().unwrap();
    let identity = swarm::identity(&identity_path(folder.path())).unwrap();
    let known = Network { peers: stranger.handle.listen(), ..network };
    let (handle, events) = swarm::enter(&known, &identity).await.unwrap();
    let peer = stranger.handle.peer();
    until("they are connected", || async { handle.members().await.contains(&peer).then_some(()) }).await;
    (handle, folder, events)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_comes_over_the_socket_and_not_over_the_stream() {
    let network = network();
    // The stranger serves sockets alone.
    let stranger = Stranger::enter(&network, &[]).await;
    let mut opened = stranger.handle.accept_bulk(Purpose::Blob);
    span::spawn("stranger", async move {
        while let Some((_, mut socket)) = opened.recv().await {
            while let Ok(Some(Blobs::Want(want))) = read_message(&mut socket).await {
                let end = Blobs::End(End { id: want.id, no: Some(No::Busy) });
                write_message(&mut socket, &end).await.unwrap();
            }
        }
    });
    let (handle, _folder, _events) = enter_with(&stranger, network).await;
    let peer = stranger.handle.peer();
    until("it is answered", || async {
        let mut answers = handle.blobs(peer).await?.0.ask(want(Digest::of(b"x"))).await?;
        matches!(answers.next().await?, Blobs::End(End { no: Some(No::Busy), .. })).then_some(())
    })
    .await;
    assert_eq!((handle.bulk_sockets(), stranger.handle.bulk_sockets()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_have_a_socket_of_their_own_too() {
    let network = network();
    // The stranger answers on sockets alone.
    let stranger = Stranger::enter(&network, &[]).await;
    let mut opened = stranger.handle.accept_bulk(Purpose::Ask);
    span::spawn("stranger", async move {
        while let Some((_, mut socket)) = opened.recv().await {
            while let Ok(Some(Ask::Question(asked))) = read_message(&mut socket).await {
                let told = Told { id: asked.id, found: Vec::new(), last: true };
                write_message(&mut socket, &Ask::Answer(told)).await.unwrap();
            }
        }
    });
    let (handle, _folder, _events) = enter_with(&stranger, network).await;
    let peer = stranger.handle.peer();
    let question = |id| Ask::Question(Asked { id, project: project(), actions: Vec::new(), inline: 0 });
    until("it is answered", || async {
        let mut answers = handle.ask(peer).await?.ask(question).await?;
        matches!(answers.next().await?, Ask::Answer(told) if told.last).then_some(())
    })
    .await;
    assert_eq!((handle.bulk_sockets(), stranger.handle.bulk_sockets()), (0, 0), "Blobs have others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_none_is_asked_on_the_stream() {
    let network = network();
    // The stranger serves the stream alone; whoever asks him for a socket is told that there is no such thing.
    let stranger = Stranger::enter(&network, &[]).await;
    stranger.serves(Purpose::Blob, |mut stream| async move {
        while let Ok(Some(Blobs::Want(want))) = read_message(&mut stream).await {
            let end = Blobs::End(End { id: want.id, no: Some(No::NotHere) });
            write_message(&mut stream, &end).await.unwrap();
        }
    });
    let (handle, _folder, _events) = enter_with(&stranger, network).await;
    let peer = stranger.handle.peer();
    let (link, _) = handle.blobs(peer).await.unwrap();
    let mut answers = link.ask(want(Digest::of(b"x"))).await.unwrap();
    assert!(matches!(answers.next().await, Some(Blobs::End(_))));
    assert_eq!(handle.bulk_sockets(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_peer_loses_its_socket() {
    let network = network();
    let place = Place::new(&network, true);
    let node = Node::start(&place, &[]).await;
    let digest = node.publish("key", &bytes(1, 100_000)).await;
    let stranger = Stranger::enter(&network, &[&node]).await;
    let (link, _) = stranger.handle.blobs(node.peer).await.unwrap();
    let mut answers = link.ask(want(digest)).await.unwrap();
    assert!(matches!(answers.next().await, Some(Blobs::Have(_))));
    until("there is a socket", || async { (sockets(&node).await == 1).then_some(()) }).await;
    stranger.handle.drop_peer(node.peer).await;
    until("it has ended", || async { (sockets(&node).await == 0).then_some(()) }).await;
    // The node is told by the connection as well, and whoever reads here may have yet to be woken.
    until("it has ended here", || async { (stranger.handle.bulk_sockets() == 0).then_some(()) }).await;
    // The socket ends first, and the connection when the swarm hears of it.
    let asked = || async { stranger.handle.blobs(node.peer).await.is_none().then_some(()) };
    until("it is not asked any more", asked).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_nothing() {
    let question = |id: u64| frame(&want(Digest::of(b"x"))(id)).unwrap().begin;
    for public in [false, true] {
        let network = Network { listen: network().listen, ..Network::new("office", public).unwrap() };
        let place = Place::new(&network, true);
        let node = Node::start(&place, &[]).await;
        let blob = Purpose::Blob.protocol(&network.id());
        let asks = opening(&blob);
        if public {
            // Anybody may be a member of a public one, but this one is not connected.
            let heard = says(&node.address, &asks).await;
            assert!(!heard.windows(blob.len()).any(|part| part == blob.as_bytes()), "{heard:?}");
        } else {
            // A nonce of 32 bytes, to which only members have an answer.
            let heard = says(&node.address, &[asks, question(1)].concat()).await;
            assert!(heard.len() <= 32, "{heard:?}");
            let heard = says(&node.address, &[vec![7; 64], opening(&blob), question(1)].concat()).await;
            assert!(heard.len() <= 32, "{heard:?}");
        }
        assert_eq!(sockets(&node).await, 0);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_half_open_connections_stops_nobody() {
    let network = network();
    let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
    bob.trusts("alice", &alice, None);
    let a = Node::start(&alice, &[]).await;
    let b = Node::start(&bob, &[&a.address]).await;
    let content = bytes(1, 3 << 20);
    a.publish("before", &content).await;
    assert_eq!(b.read(*b.finds("before").await.digest()).await, content);
    let mut crowd = Vec::new();
    for number in 0..1000_u32 {
        let mut socket = knock(&a.address).await;
        // Some are silent, some stop in the middle of a handshake, some talk nonsense.
        let _ = match number % 3 {
            0 => Ok(()),
            1 => socket.write_all(&opening("/tls/1.0.0")).await,
            _ => socket.write_all(&[0xff; 100]).await,
        };
        crowd.push(socket);
    }
    let content = bytes(2, 3 << 20);
    a.publish("meanwhile", &content).await;
    assert_eq!(b.read(*b.finds("meanwhile").await.digest()).await, content);
    assert!(sockets(&a).await <= 1);
    drop(crowd);
    for node in [b, a] {
        node.stop().await;
    }
}
