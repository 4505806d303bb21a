// SPDX-License-Identifier: MIT OR Apache-2.0
//! The DHT as peers may use it that mean harm, and what is left of it after a restart.

use std::path::Path;

use potluck_keys::pair::Pair;
use potluck_keys::signed::Signed;
use potluck_node::observe::clock;
use potluck_node::swarm::Value;
use potluck_protocol::codec::Text;
use potluck_protocol::head::{CATALOG, Head, HeadSet, Instance, MAX_HEAD_SET_BYTES};
use potluck_protocol::names::DhtKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Fields and kinds of libp2p's messages for its DHT, as far as they are needed here.
const PUT_VALUE: u8 = 0;
const ADD_PROVIDER: u8 = 2;
const GET_PROVIDERS: u8 = 3;
const FIND_NODE: u8 = 4;

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
    bytes
}

fn field(number: usize, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len()), bytes.to_vec()].concat()
}

/// A message with its length before it.
fn message(kind: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    let body = [&[1 << 3, kind][..], &fields.concat()].concat();
    [varint(body.len()), body].concat()
}

fn add_provider(key: &DhtKey, provider: &PeerId, addresses: &[&[u8]]) -> Vec<u8> {
    let addresses: Vec<_> = addresses.iter().map(|address| field(2, address)).collect();
    let peer = [field(1, &provider.to_bytes()), addresses.concat()].concat();
    message(ADD_PROVIDER, &[field(2, key.as_bytes()), field(9, &peer)])
}

fn put_value(key: &DhtKey, value: &[u8], ttl: Option<u32>) -> Vec<u8> {
    let mut record = [field(1, key.as_bytes()), field(2, value)].concat();
    if let Some(ttl) = ttl {
        record.extend([varint(777 << 3), varint(ttl as usize)].concat());
    }
    message(PUT_VALUE, &[field(2, key.as_bytes()), field(3, &record)])
}

/// One answer, without its length.
async fn answer(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let (mut len, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.unwrap();
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// How often an identity is named in an answer.
fn names(answer: &[u8], peer: &PeerId) -> usize {
    let peer = peer.to_bytes();
    answer.windows(peer.len()).filter(|window| *window == peer).count()
}

fn key(number: u64) -> DhtKey {
    DhtKey::from_bytes(*Digest::of(&number.to_le_bytes()).as_bytes())
}

/// A set of one Head.
fn heads(pair: &Pair, sequence: u64, root: &[u8]) -> (DhtKey, Vec<u8>) {
    let issued = clock::now();
    let head = Head {
        project: project(),
        name: Text::new(CATALOG).unwrap(),
        recipe: None,
        instance: Instance::from_bytes([1; 16]),
        sequence,
        root: Digest::of(root),
        size: 10,
        issued,
        not_after: issued.plus(Duration::from_secs(60 * 60 * 24)),
    };
    let mut set = HeadSet::new(pair.signer(), project());
    set.add(Signed::sign(&head, &[pair]).unwrap()).unwrap();
    (DhtKey::catalog(&pair.signer(), &project()), set.encode())
}

/// A swarm alone, without a daemon around it.
struct Member {
    handle: Handle,
    _events: mpsc::Receiver<NetEvent>,
}

impl Member {
    async fn enter(network: &Network, folder: &Path, known: &[String]) -> Self {
        let identity = swarm::identity(&identity_path(folder)).unwrap();
        let network = Network { peers: known.to_vec(), ..network.clone() };
        let entered = swarm::enter_again(&network, &identity, &folder.join("dht.redb")).await;
        let (handle, events) = entered.unwrap();
        Self { handle, _events: events }
    }

    fn address(&self) -> String {
        self.handle.listen()[0].clone()
    }

    fn peer(&self) -> PeerId {
        self.handle.peer()
    }

    async fn meets(&self, other: &Self) {
        until("they meet", || async { self.knows(other).await.then_some(()) }).await;
    }

    async fn knows(&self, other: &Self) -> bool {
        self.handle.members().await.contains(&other.peer())
    }

    async fn leave(self) {
        self.handle.end();
        until("it has ended", || async { self.handle.is_ended().then_some(()) }).await;
    }
}

/// Puts everything, and waits until that is dealt with.
async fn put_all(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin,
    puts: Vec<Vec<u8>>,
) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = tokio::io::BufReader::new(reader);
    let count = puts.len();
    let write = async {
        writer.write_all(&puts.concat()).await.unwrap();
        writer.flush().await.unwrap();
    };
    let read = async {
        for _ in 0..count {
            tokio::time::timeout(PATIENCE, answer(&mut reader)).await.expect("an answer");
        }
    };
    tokio::join!(write, read);
}

/// Somebody to be attacked, somebody who does, and somebody who means well.
struct Scene {
    node: Member,
    bad: Member,
    good: Member,
    _folders: [TempDir; 3],
}

impl Scene {
    async fn new(network: &Network) -> Self {
        let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let node = Member::enter(network, folders[0].path(), &[]).await;
        let bad = Member::enter(network, folders[1].path(), &[node.address()]).await;
        bad.meets(&node).await;
        let good = Member::enter(network, folders[2].path(), &[node.address()]).await;
        good.meets(&node).await;
        Self { node, bad, good, _folders: folders }
    }

    async fn stream(
        &self,
        of: &Member,
    ) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + use<> {
        of.handle.open(self.node.peer(), Purpose::Kademlia).await.unwrap()
    }

    /// What the node says about a key when somebody asks.
    async fn says(&self, kind: u8, key: &DhtKey) -> Vec<u8> {
        let mut stream = self.stream(&self.good).await;
        stream.write_all(&message(kind, &[field(2, key.as_bytes())])).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::timeout(PATIENCE, answer(&mut stream)).await.expect("an answer")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_providers_of_one_peer_crowd_out_nobody() {
    let scene = Scene::new(&network()).await;
    let (bad, victim) = (scene.bad.peer(), scene.good.peer());
    assert!(scene.node.handle.provide(key(1)).await);
    let mut stream = scene.stream(&scene.bad).await;
    let long = [7; 60_000];
    for number in 0..100_000 {
        stream.write_all(&add_provider(&key(number), &bad, &[])).await.unwrap();
        if number % 100 == 0 {
            // That somebody else provides it, and that it is somewhere beyond all bounds.
            stream.write_all(&add_provider(&key(number), &victim, &[])).await.unwrap();
        }
    }
    // What was sent before is dealt with when this is answered.
    let ask = message(GET_PROVIDERS, &[field(2, key(1).as_bytes())]);
    stream.write_all(&ask).await.unwrap();
    stream.flush().await.unwrap();
    let said = tokio::time::timeout(3 * PATIENCE, answer(&mut stream)).await.expect("an answer");
    assert!(names(&said, &scene.node.peer()) >= 1, "what the node provides itself is there");
    let kept = scene.node.handle.kept().await.unwrap();
    assert!(kept.bytes <= 2 << 20 && kept.records <= 11_000 && kept.records > 1000, "{kept:?}");
    assert_eq!(names(&scene.says(GET_PROVIDERS, &key(100)).await, &victim), 0, "nobody speaks for others");
    // Others still find room, and so does the node.
    assert!(scene.good.handle.provide(key(1_000_000)).await);
    until("it is there", || async {
        let mut stream = scene.stream(&scene.bad).await;
        let ask = message(GET_PROVIDERS, &[field(2, key(1_000_000).as_bytes())]);
        stream.write_all(&ask).await.unwrap();
        stream.flush().await.unwrap();
        (names(&answer(&mut stream).await, &victim) > 0).then_some(())
    })
    .await;
    for number in 0..100 {
        assert!(scene.node.handle.provide(key(2_000_000 + number)).await);
    }
    // A message beyond libp2p's own bound ends its stream.
    let mut stream = scene.stream(&scene.bad).await;
    let _ = stream.write_all(&add_provider(&key(5), &bad, &[&long])).await;
    let _ = stream.flush().await;
    assert!(tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("it ends").is_err());
    assert_eq!(scene.good.handle.providers(key(1)).await, [scene.node.peer()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_heads_of_one_peer_change_nothing() {
    let scene = Scene::new(&network()).await;
    let (ann, ben) = (Pair::from_seed(&[1; 32], ""), Pair::from_seed(&[2; 32], ""));
    let (anns, five) = heads(&ann, 5, b"five");
    assert!(scene.good.handle.put(anns, five.clone()).await);
    let (bens, genuine) = heads(&ben, 1, b"one");
    // Genuine, but of another key.
    let mut floods = tokio::task::JoinSet::new();
    for part in 0..10 {
        let puts = (0..10_000).map(|number| put_value(&key(part * 10_000 + number), &genuine, None));
        floods.spawn(put_all(scene.stream(&scene.bad).await, puts.collect()));
    }
    floods.join_all().await;
    // The past, a fork, and more than there may be.
    let (_, past) = heads(&ann, 4, b"four");
    let (_, fork) = heads(&ann, 5, b"other");
    let long = vec![0; MAX_HEAD_SET_BYTES + 1];
    let puts =
        vec![put_value(&anns, &past, None), put_value(&anns, &fork, None), put_value(&key(7), &long, None)];
    // Of each peer only so much is judged a second; this one has said nothing yet.
    let forger_folder = tempfile::tempdir().unwrap();
    let network = scene.node.handle.network().clone();
    let forger = Member::enter(&network, forger_folder.path(), &[scene.node.address()]).await;
    forger.meets(&scene.node).await;
    put_all(scene.stream(&forger).await, puts).await;
    put_all(scene.stream(&forger).await, vec![put_value(&bens, &genuine, Some(1))]).await;
    // Asked by a peer that has nothing of it, of one that has seen it all.
    let folder = tempfile::tempdir().unwrap();
    let newcomer = Member::enter(&network, folder.path(), &[scene.node.address()]).await;
    newcomer.meets(&scene.node).await;
    let (good, bad) = (scene.good, scene.bad);
    good.leave().await;
    bad.leave().await;
    forger.leave().await;
    assert_eq!(newcomer.handle.get(anns).await, [five]);
    until("what expired is not given", || async { newcomer.handle.get(bens).await.is_empty().then_some(()) })
        .await;
    let kept = scene.node.handle.kept().await.unwrap();
    assert!(kept.records <= 3, "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_on_the_dht_is_there_after_a_restart() {
    let network = network();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let node = Member::enter(&network, folders[0].path(), &[]).await;
    let other = Member::enter(&network, folders[1].path(), &[node.address()]).await;
    other.meets(&node).await;
    let ann = Pair::from_seed(&[1; 32], "");
    let (anns, set) = heads(&ann, 5, b"five");
    assert!(other.handle.put(anns, set.clone()).await && other.handle.provide(key(1)).await);
    node.handle.provide(key(2)).await;
    until("the node keeps all of it", || async { (node.handle.kept().await?.records >= 3).then_some(()) })
        .await;
    node.leave().await;
    let node = Member::enter(&network, folders[0].path(), &[]).await;
    assert_eq!(node.handle.kept().await.unwrap().records, 3);
    // They find each other although neither was told of the other's new address.
    other.meets(&node).await;
    let newcomer = Member::enter(&network, folders[2].path(), &[node.address()]).await;
    newcomer.meets(&node).await;
    other.leave().await;
    // What lies here is not what anybody says today.
    let here = Value { bytes: set.clone(), told: false };
    assert_eq!(node.handle.values(anns).await, [here]);
    assert_eq!(newcomer.handle.values(anns).await, [Value { bytes: set, told: true }]);
    assert_eq!(newcomer.handle.providers(key(2)).await, [node.peer()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_found_again_when_those_to_begin_with_are_gone() {
    let network = network();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let first = Member::enter(&network, folders[0].path(), &[]).await;
    let known = [first.address()];
    let friend = Member::enter(&network, folders[1].path(), &known).await;
    friend.meets(&first).await;
    let node = Member::enter(&network, folders[2].path(), &known).await;
    node.meets(&friend).await;
    node.leave().await;
    first.leave().await;
    let node = Member::enter(&network, folders[2].path(), &known).await;
    node.meets(&friend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_named_by_the_settings_is_dialled_again_though_others_are_there() {
    let network = network();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let first = Member::enter(&network, folders[0].path(), &[]).await;
    let address = first.address();
    let friend = Member::enter(&network, folders[1].path(), std::slice::from_ref(&address)).await;
    friend.meets(&first).await;
    let known = [friend.address(), address.clone()];
    let node = Member::enter(&network, folders[2].path(), &known).await;
    node.meets(&first).await;
    node.meets(&friend).await;
    friend.meets(&node).await;
    first.leave().await;
    until("it is missed", || async { (node.handle.members().await.len() == 1).then_some(()) }).await;
    // It comes back to where it was, and has forgotten them all.
    std::fs::remove_file(folders[0].path().join("dht.redb")).unwrap();
    let place = address.split("/p2p/").next().unwrap().to_owned();
    let network = Network { listen: vec![place], ..network };
    let first = Member::enter(&network, folders[0].path(), &[]).await;
    node.meets(&first).await;
    assert!(node.knows(&friend).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_port_another_program_has_on_another_address_meets_the_others_all_the_same() {
    let network = network();
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let first = Member::enter(&network, folders[0].path(), &[]).await;
    // A port that is free where the node will listen, and taken beside.
    let taken = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let place = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let network = Network { listen: vec![place], ..network };
    let node = Member::enter(&network, folders[1].path(), &[first.address()]).await;
    node.meets(&first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subnet_cannot_fill_the_routing_table() {
    for (public, most) in [(true, 8), (false, 20)] {
        let network = Network { listen: network().listen, ..Network::new("office", public).unwrap() };
        let scene = Scene::new(&network).await;
        let mut crowd = Vec::new();
        for _ in 0..12 {
            let folder = tempfile::tempdir().unwrap();
            let one = Member::enter(&network, folder.path(), &[scene.node.address()]).await;
            one.meets(&scene.node).await;
            crowd.push((one, folder));
        }
        until("the node has met all", || async {
            (scene.node.handle.members().await.len() >= 14).then_some(())
        })
        .await;
        let said = scene.says(FIND_NODE, &key(1)).await;
        let named = crowd.iter().filter(|(one, _)| names(&said, &one.peer()) > 0).count();
        assert!(named <= most && named > 0, "{named} of {}", crowd.len());
        assert!(public || named >= 10, "{named}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_silent_connections_keep_nobody_out() {
    let network = network();
    let scene = Scene::new(&network).await;
    let port = scene.node.address().split('/').nth(4).unwrap().parse().unwrap();
    let target = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut held = Vec::new();
    for _ in 0..1000 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // Any address of this machine would do; those who mean well have another.
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        held.push(tokio::time::timeout(PATIENCE, socket.connect(target)).await.expect("in time").unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let newcomer = Member::enter(&network, folder.path(), &[scene.node.address()]).await;
    newcomer.meets(&scene.node).await;
    assert!(newcomer.handle.provide(key(1)).await);
    assert_eq!(scene.good.handle.providers(key(1)).await, [newcomer.peer()]);
}
