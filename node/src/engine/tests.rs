// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine on real stores and real policies, without a network.

use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use potluck_keys::pair::{Pair, Signer};
use potluck_keys::signed::Signed;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::codec::Bytes;
use potluck_protocol::control::{Answer, Miss};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Entry, Labels, Output, TreeOutput};
use potluck_protocol::peer::{self, Found, Inline, Packing};
use potluck_protocol::tree::{Kind, Member, Tree, TreePath};
use tempfile::TempDir;

use super::Engine;
use crate::cache::{Cache as _, CacheError, Publication, Question};
use crate::content::Durability;
use crate::fetch::event::{Space, Verdict};
use crate::home::Home;
use crate::observe::clock;
use crate::trust::{self, Addition};

/// A node without a network.
struct Node {
    _folder: TempDir,
    home: Home,
    engine: Arc<Engine>,
}

impl Node {
    fn new() -> Self {
        Self::with("")
    }

    /// A node with these settings.
    fn with(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(folder.path().join("home"))).unwrap();
        home.init("").unwrap();
        std::fs::write(home.config_path(), settings).unwrap();
        let engine = Arc::new(Engine::open(&home).unwrap());
        Self { _folder: folder, home, engine }
    }

    fn trusts(&self, pair: &Pair) {
        let addition = Addition {
            name: "ann".to_owned(),
            key: pair.public(),
            comment: String::new(),
            project: "p".to_owned(),
            recipe: None,
        };
        assert!(trust::add(&self.home, &addition).unwrap());
    }

    async fn write(&self, bytes: &[u8]) -> BlobOutput {
        let (digest, size) = self.engine.write(bytes).await.unwrap();
        BlobOutput { digest, size }
    }

    async fn publish(&self, key: &[u8], output: Output) -> Result<Digest, CacheError> {
        let Space { project, recipe } = space();
        let (key, labels, taints) = (key.to_vec(), Labels::default(), Vec::new());
        self.engine.publish(Publication { project, recipe, key, output, labels, taints }).await
    }

    async fn lookup(&self, key: &[u8]) -> Answer {
        let Space { project, recipe } = space();
        let (keys, deadline) = (vec![key.to_vec()], Duration::from_secs(1));
        self.engine.lookup(Question { project, recipe, keys, deadline }).await.unwrap().pop().unwrap()
    }
}

fn space() -> Space {
    Space { project: Project::new("p").unwrap(), recipe: Recipe::new("r@1").unwrap() }
}

fn action(key: &[u8]) -> ActionId {
    ActionId::derive(&space().project, &space().recipe, key, None).unwrap()
}

fn blob(bytes: &[u8]) -> Output {
    Output::Blob(BlobOutput { digest: Digest::of(bytes), size: bytes.len() as u64 })
}

fn claim(pair: &Pair, key: &[u8], output: Output) -> Signed<Entry> {
    let Space { project, recipe } = space();
    let issued = clock::now();
    let entry = Entry {
        project,
        recipe,
        action: action(key),
        output,
        labels: Labels { cost_ms: Some(5000), ..Labels::default() },
        taints: Vec::new(),
        issued,
        not_after: issued.plus(Duration::from_secs(3600)),
        replaces: None,
    };
    Signed::sign(&entry, &[pair]).unwrap()
}

fn found(key: &[u8], entries: &[&Signed<Entry>], blobs: &[&[u8]]) -> Found {
    let inline = |bytes: &&[u8]| Inline {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        packing: Packing::Raw,
        bytes: Bytes::new(bytes.to_vec()).unwrap(),
    };
    let entries = entries.iter().map(|entry| Bytes::new(entry.bytes().to_vec()).unwrap()).collect();
    Found { action: action(key), entries, heads: Vec::new(), blobs: blobs.iter().map(inline).collect() }
}

#[tokio::test]
async fn who_asks_about_what_is_being_published_hears_of_it() {
    let node = Node::new();
    let output = Output::Blob(node.write(b"made").await);
    let mut publishing = Box::pin(node.publish(b"key", output.clone()));
    let begun = std::future::poll_fn(|context| Poll::Ready(publishing.as_mut().poll(context))).await;
    let end = async { if begun.is_pending() { publishing.await.map(drop) } else { Ok(()) } };
    let (answer, ended) = tokio::join!(node.lookup(b"key"), end);
    assert_eq!(answer, Answer::Hit(output));
    ended.unwrap();
}

#[tokio::test]
async fn what_was_made_here_is_found_under_its_key_only() {
    let node = Node::new();
    let output = Output::Blob(node.write(b"made").await);
    node.publish(b"key", output.clone()).await.unwrap();
    assert_eq!(node.lookup(b"key").await, Answer::Hit(output));
    assert_eq!(node.lookup(b"other").await, Answer::Miss(Miss::Unclaimed));
    let mut stretches = node.engine.read(Digest::of(b"made"), Some(1..3)).await.unwrap();
    assert_eq!(stretches.recv().await.unwrap().unwrap(), b"ad"[..]);
    assert!(stretches.recv().await.is_none());
    let numbers = node.engine.counts().now();
    assert_eq!((numbers.hits, numbers.misses, numbers.published), (1, 1, 1));
}

/// Larger than what the index keeps itself.
fn large(seed: u8) -> Vec<u8> {
    (0..3_000_000_u32).map(|n| (n >> 8).to_le_bytes()[0] ^ seed).collect()
}

#[tokio::test]
async fn what_is_published_is_durable_unless_its_front_does_not_care() {
    let all = "[store]\ndurability = \"fast\"\n";
    let one = "[front.r]\ndurability = \"fast\"\n";
    let other = "[front.rr]\ndurability = \"fast\"\n";
    let cares = "[front.r]\ndurability = \"crash-safe\"\n";
    for (settings, safe) in [
        (String::new(), true),
        (all.into(), false),
        (one.into(), false),
        (other.into(), true),
        (format!("{all}{cares}"), true),
    ] {
        let node = Node::with(&settings);
        let file = node.write(&large(1)).await;
        let kind = Kind::File { digest: file.digest, size: file.size, executable: false };
        let tree = Tree::new(vec![Member { path: TreePath::new("f").unwrap(), kind }]).unwrap();
        let BlobOutput { digest, size } = node.write(&tree.encode()).await;
        let output = Output::Tree(TreeOutput { digest, size, members: 1, total: file.size });
        assert!(!node.engine.store().is_synced(&file.digest));
        node.publish(b"key", output.clone()).await.unwrap();
        assert_eq!(node.engine.store().is_synced(&file.digest), safe, "{settings}");
        // Lost and written anew, it is made durable again by whoever publishes the same.
        node.engine.store().remove_all(&[file.digest]).unwrap();
        node.write(&large(1)).await;
        assert!(!node.engine.store().is_synced(&file.digest));
        node.publish(b"key", output).await.unwrap();
        assert_eq!(node.engine.store().is_synced(&file.digest), safe, "{settings}");
    }
}

#[tokio::test]
async fn any_stretch_of_a_blob_can_be_read() {
    let node = Node::new();
    let bytes: Vec<u8> = (0..4).flat_map(large).collect();
    let written = node.write(&bytes).await;
    let size = written.size;
    assert_eq!((written.digest, size), (Digest::of(&bytes), bytes.len() as u64));
    for packed in [false, true] {
        if packed {
            node.engine.store().pack(&written.digest, &mut || true).unwrap();
        }
        let piece = 1 << 20;
        for range in [
            0..size,
            0..1,
            piece - 1..piece + 1,
            piece..2 * piece,
            size - 1..size + 9,
            5..5,
            size..size + 1,
            u64::MAX - 1..u64::MAX,
        ] {
            let mut stretches = node.engine.read(written.digest, Some(range.clone())).await.unwrap();
            let mut got = Vec::new();
            while let Some(stretch) = stretches.recv().await {
                got.extend(stretch.unwrap());
            }
            let within = |at: u64| usize::try_from(at.min(size)).unwrap();
            assert!(got == bytes[within(range.start)..within(range.end)], "{range:?}");
        }
    }
}

#[tokio::test]
async fn whatever_the_length_of_a_stream_or_a_file_it_is_kept_whole() {
    let node = Node::new();
    for size in
        [0, 1, (16 << 10) + 1, 128 << 10, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2 << 20, (2 << 20) + 1]
    {
        let bytes = &large(9)[..size];
        let written = node.write(bytes).await;
        assert_eq!((written.digest, written.size), (Digest::of(bytes), size as u64));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        assert_eq!(
            node.engine.write_file(file, Path::new("f")).await.unwrap(),
            (written.digest, written.size)
        );
    }
}

/// Sends a value under a key, as a tool does.
async fn put(node: &Node, key: &[u8], value: &[u8], durability: Durability) {
    let owned = key.to_vec();
    let claim = move |output| {
        let Space { project, recipe } = space();
        Publication { project, recipe, key: owned, output, labels: Labels::default(), taints: Vec::new() }
    };
    let taken = node.engine.take((value, value.len() as u64), (1 << 18, durability)).await.unwrap();
    node.engine.publish_taken((&space(), key), taken, claim).await.unwrap();
}

#[tokio::test]
async fn a_value_of_any_length_is_claimed_as_it_came() {
    for (name, durability) in [("crash-safe", Durability::Durable), ("fast", Durability::Fast)] {
        let node = Node::with(&format!("[store]\ndurability = \"{name}\""));
        assert_eq!(node.engine.durability(&space().recipe), durability);
        for length in [0, 5, 1 << 18, (1 << 18) + 1, 1 << 20, (3 << 20) + 7] {
            let value: Vec<u8> = (0..=250).cycle().take(length).collect();
            let key = length.to_le_bytes();
            put(&node, &key, &value, durability).await;
            assert_eq!(node.lookup(&key).await, Answer::Hit(blob(&value)), "{length}");
        }
    }
}

#[tokio::test]
async fn what_may_be_lost_is_known_to_whoever_asks_and_the_last_of_it_counts() {
    let node = Node::with("[store]\ndurability = \"fast\"");
    for round in 0..50_u8 {
        for value in [[round, 1], [round, 2]] {
            put(&node, b"key", &value, Durability::Fast).await;
        }
        assert_eq!(node.lookup(b"key").await, Answer::Hit(blob(&[round, 2])));
        put(&node, b"other", &[round, 3], Durability::Fast).await;
        assert!(node.engine.withdraw(&space(), b"other").await.unwrap());
        assert_eq!(node.lookup(b"other").await, Answer::Miss(Miss::Unclaimed));
    }
    let keys: Vec<_> = (0..300_u32).map(u32::to_le_bytes).collect();
    for key in &keys {
        put(&node, key, key, Durability::Fast).await;
    }
    node.engine.settled(Duration::MAX).await;
    node.engine.settle(true).unwrap();
    let Node { _folder, home, engine } = node;
    drop(engine);
    let engine = Arc::new(Engine::open(&home).unwrap());
    let node = Node { _folder, home, engine };
    for key in &keys {
        assert_eq!(node.lookup(key).await, Answer::Hit(blob(key)));
    }
}

#[tokio::test]
async fn a_value_of_more_bytes_than_were_announced_is_not_taken() {
    let node = Node::new();
    for length in [5_usize, 1 << 18, (1 << 18) + 1, 1 << 20] {
        let value = vec![7; length + 1];
        let taken = node.engine.take((&value[..], length as u64), (1 << 18, Durability::Fast)).await;
        assert!(matches!(taken, Err(CacheError::Source(_))), "{length}");
    }
}

#[tokio::test]
async fn an_output_is_claimed_only_when_all_of_it_is_here() {
    let node = Node::new();
    assert!(matches!(node.publish(b"key", blob(b"absent")).await, Err(CacheError::Usage(_))));
    let file = node.write(b"file").await;
    let kind = |digest| Kind::File { digest, size: 4, executable: false };
    let tree =
        |digest| Tree::new(vec![Member { path: TreePath::new("f").unwrap(), kind: kind(digest) }]).unwrap();
    for (digest, whole) in [(Digest::of(b"gone"), false), (file.digest, true)] {
        let tree = tree(digest);
        let BlobOutput { digest, size } = node.write(&tree.encode()).await;
        let output = Output::Tree(TreeOutput { digest, size, members: 1, total: 4 });
        assert_eq!(node.publish(b"key", output).await.is_ok(), whole);
    }
}

#[tokio::test]
async fn the_first_output_stays_until_it_is_lost() {
    let node = Node::new();
    let first = Output::Blob(node.write(b"first").await);
    let name = node.publish(b"key", first.clone()).await.unwrap();
    let second = Output::Blob(node.write(b"second").await);
    assert_eq!(node.publish(b"key", second.clone()).await.unwrap(), name);
    assert_eq!(node.lookup(b"key").await, Answer::Hit(first));
    node.engine.store().index().forget_small(&Digest::of(b"first")).unwrap();
    assert_eq!(node.lookup(b"key").await, Answer::Miss(Miss::Undeliverable));
    assert_ne!(node.publish(b"key", second.clone()).await.unwrap(), name);
    assert_eq!(node.lookup(b"key").await, Answer::Hit(second));
    let entries = node.engine.store().index().entries(&action(b"key")).unwrap();
    assert!(entries.iter().any(|entry| entry.authentic().unwrap().replaces == Some(name)));
}

/// As after the clock was a day ahead for a while.
#[tokio::test]
async fn what_was_claimed_by_a_clock_that_was_ahead_can_be_claimed_again() {
    let node = Node::new();
    let output = Output::Blob(node.write(b"made").await);
    let pair = node.engine.own.pair().unwrap();
    let mut ahead = claim(pair, b"key", output.clone()).authentic().unwrap().clone();
    ahead.issued = clock::now().plus(Duration::from_secs(86_400));
    ahead.not_after = ahead.issued.plus(Duration::from_secs(3600));
    let ahead = Signed::sign(&ahead, &[pair]).unwrap();
    node.engine.store().index().publish(&ahead, &[], Durability::Durable).unwrap();
    assert_eq!(node.lookup(b"key").await, Answer::Miss(Miss::Refused));
    node.publish(b"key", output.clone()).await.unwrap();
    assert_eq!(node.lookup(b"key").await, Answer::Hit(output));
    let project = &space().project;
    let first = node.engine.flush(project).unwrap().head.unwrap().authentic().unwrap().clone();
    let mut own = node.engine.store().index().own_catalog(project).unwrap().unwrap();
    let mut head = first.clone();
    head.issued = clock::now().plus(Duration::from_secs(86_400));
    head.not_after = head.issued.plus(Duration::from_secs(3600));
    own.head = Bytes::new(Signed::sign(&head, &[pair]).unwrap().bytes().to_vec()).unwrap();
    node.engine.store().index().flush(&own, &[], &[]).unwrap();
    let renewed = node.engine.own_head(project).unwrap().unwrap().authentic().unwrap().clone();
    assert!(renewed.issued < head.issued && renewed.sequence > first.sequence);
}

#[tokio::test]
async fn strangers_are_refused_counted_and_not_kept() {
    let (node, ann, mallory) = (Node::new(), Pair::from_seed(&[1; 32], ""), Pair::from_seed(&[2; 32], ""));
    node.trusts(&ann);
    let (good, bad) = (claim(&ann, b"key", blob(b"good")), claim(&mallory, b"key", blob(b"bad")));
    let told = found(b"key", &[&bad, &good], &[b"good", b"bad"]);
    let verdicts = node.engine.told_by_peer(&space(), vec![told]).await.unwrap();
    assert_eq!(verdicts, [(action(b"key"), Verdict::Here)]);
    assert_eq!(node.lookup(b"key").await, Answer::Hit(blob(b"good")));
    assert!(!node.engine.store().has(&Digest::of(b"bad")).unwrap(), "nobody whom it believes named it");
    let entries = node.engine.store().index().entries(&action(b"key")).unwrap();
    assert!(entries.iter().all(|entry| entry.signers().eq([ann.signer()])));
    let refused = node.engine.counts().now().refused;
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].refused.reason.as_str(), refused[0].count), ("unknown-signer", 1));
    let only = found(b"other", &[&claim(&mallory, b"other", blob(b"bad"))], &[]);
    let verdicts = node.engine.told_by_peer(&space(), vec![only]).await.unwrap();
    assert_eq!(verdicts, [(action(b"other"), Verdict::Refused)]);
}

#[tokio::test]
async fn what_comes_along_must_be_what_it_is_called_and_what_was_claimed() {
    let (node, ann) = (Node::new(), Pair::from_seed(&[1; 32], ""));
    node.trusts(&ann);
    let mut told = found(b"key", &[&claim(&ann, b"key", blob(b"good"))], &[b"good"]);
    told.blobs[0].bytes = Bytes::new(b"evil".to_vec()).unwrap();
    told.blobs.extend(found(b"key", &[], &[b"stowaway"]).blobs);
    let verdicts = node.engine.told_by_peer(&space(), vec![told]).await.unwrap();
    let Verdict::Needs { blobs, cost } = &verdicts[0].1 else { panic!("{verdicts:?}") };
    assert_eq!((blobs[0].digest, blobs.len(), *cost), (Digest::of(b"good"), 1, Duration::from_secs(5)));
    for absent in [&b"evil"[..], b"stowaway", b"good"] {
        assert!(!node.engine.store().has(&Digest::of(absent)).unwrap());
    }
    // A claim about another action than the one it is given for.
    let mut moved = found(b"key", &[&claim(&ann, b"key", blob(b"good"))], &[b"good"]);
    moved.action = action(b"another");
    assert_eq!(node.engine.told_by_peer(&space(), vec![moved]).await.unwrap()[0].1, Verdict::Refused);
}

#[tokio::test]
async fn trust_counts_from_the_next_look_up_on() {
    let (node, ann) = (Node::new(), Pair::from_seed(&[1; 32], ""));
    node.trusts(&ann);
    let told = found(b"key", &[&claim(&ann, b"key", blob(b"good"))], &[b"good"]);
    node.engine.told_by_peer(&space(), vec![told]).await.unwrap();
    assert_eq!(node.lookup(b"key").await, Answer::Hit(blob(b"good")));
    assert!(trust::remove(&node.home, "ann").unwrap());
    assert_eq!(node.lookup(b"key").await, Answer::Miss(Miss::Refused));
    std::fs::write(node.home.trust_path(), "nonsense").unwrap();
    assert_eq!(node.lookup(b"key").await, Answer::Miss(Miss::Refused), "nobody is believed then");
}

#[tokio::test]
async fn a_peer_is_told_what_it_asks_for_and_only_of_that_project() {
    let node = Node::new();
    let output = Output::Blob(node.write(b"made").await);
    node.publish(b"key", output).await.unwrap();
    let ask = |project: &str, inline| {
        let project = Project::new(project).unwrap();
        let question =
            peer::Question { id: 1, project, actions: vec![action(b"key"), action(b"no")], inline };
        node.engine.tell_peer(&question).unwrap()
    };
    let told = ask("p", 1000);
    assert_eq!((told.len(), told[0].entries.len(), told[0].blobs.len()), (1, 1, 1));
    assert_eq!(ask("p", 3)[0].blobs.len(), 0, "there is no room for it");
    assert!(ask("q", 1000).is_empty());
    let digest = Digest::of(b"made");
    assert!(node.engine.blob_for_peer(&digest, |project| project == "p").unwrap().is_some());
    assert!(node.engine.blob_for_peer(&digest, |project| project == "q").unwrap().is_none());
    node.engine.store().keep(b"private", Durability::Fast).unwrap();
    assert!(node.engine.blob_for_peer(&Digest::of(b"private"), |_| true).unwrap().is_none());
}

#[tokio::test]
async fn what_goes_along_with_a_claim_begins_with_its_tree() {
    let node = Node::new();
    let mut members = Vec::new();
    for content in ["one", "two"] {
        let BlobOutput { digest, size } = node.write(content.as_bytes()).await;
        let kind = Kind::File { digest, size, executable: false };
        members.push(Member { path: TreePath::new(content).unwrap(), kind });
    }
    let tree = Tree::new(members).unwrap().encode();
    let BlobOutput { digest, size } = node.write(&tree).await;
    let output = Output::Tree(TreeOutput { digest, size, members: 2, total: 6 });
    node.publish(b"key", output).await.unwrap();
    let names = |inline| {
        let question =
            peer::Question { id: 1, project: space().project, actions: vec![action(b"key")], inline };
        let told = node.engine.tell_peer(&question).unwrap();
        told[0].blobs.iter().map(|inline| inline.digest).collect::<Vec<_>>()
    };
    let [one, two] = ["one", "two"].map(|content| Digest::of(content.as_bytes()));
    assert_eq!(names(size + 6), [digest, one, two]);
    assert_eq!(names(size + 5), [digest, one], "there is room for one of them");
    assert_eq!(names(size - 1), [], "nobody knows what they are for");
}

#[tokio::test]
async fn a_catalog_lists_what_was_published_and_its_head_counts_up() {
    let node = Node::new();
    let project = space().project;
    assert!(node.engine.flush(&project).unwrap().head.is_none(), "there is nothing to write");
    for sequence in 1..=6_u64 {
        let output = Output::Blob(node.write(&sequence.to_le_bytes()).await);
        node.publish(&sequence.to_le_bytes(), output).await.unwrap();
        let flushed = node.engine.flush(&project).unwrap();
        let head = flushed.head.unwrap();
        assert_eq!((head.authentic().unwrap().sequence, flushed.rest), (sequence, false));
        assert!(node.engine.store().has(&head.authentic().unwrap().root).unwrap());
    }
    let (catalog, _) = node.engine.own_catalog(&project).unwrap().unwrap();
    assert_eq!((catalog.rows(), catalog.segments.len()), (6, 3));
    let head = node.engine.own_head(&project).unwrap().unwrap();
    assert_eq!(head.authentic().unwrap().sequence, 6);
    let me: Signer = node.engine.signer().unwrap();
    assert!(head.signers().eq([me]));
}

#[tokio::test]
async fn that_a_catalog_has_to_be_written_is_told_once() {
    struct Nobody;
    impl super::Seeker for Nobody {
        fn seek(&self, _: Space, actions: Vec<(ActionId, Vec<peer::Topic>)>, _: Duration) -> super::Seeking {
            Box::pin(std::future::ready(vec![Some(Miss::Unclaimed); actions.len()]))
        }
    }
    let node = Node::new();
    let (to, mut news) = tokio::sync::mpsc::channel(1);
    node.engine.connect(Arc::new(Nobody), to);
    let mut told = || std::iter::from_fn(|| news.try_recv().ok()).count();
    let project = space().project;
    for round in 0..3_u8 {
        for key in 0..3 {
            let output = Output::Blob(node.write(&[round, key]).await);
            node.publish(&[round, key], output).await.unwrap();
        }
        assert_eq!(told(), 1, "{round}");
        assert!(node.engine.flush(&project).unwrap().head.is_some());
    }
    // What there was no room to tell of is told with the next one.
    node.engine.tell(super::News::Published(project));
    for key in [b"not told", b"and told"] {
        let output = Output::Blob(node.write(key).await);
        node.publish(key, output).await.unwrap();
        assert_eq!(told(), 1);
    }
}

#[tokio::test]
async fn a_new_index_keeps_large_blobs_and_makes_another_instance() {
    let node = Node::new();
    let output = Output::Blob(node.write(b"small").await);
    node.publish(b"key", output).await.unwrap();
    let large = node.write(&[7; 100_000]).await;
    let (instance, home) = (node.home.instance().unwrap(), node.home.clone());
    let index = home.root().join("store/index.redb");
    let Node { _folder: folder, engine, .. } = node;
    drop(engine);
    std::fs::write(&index, b"nonsense").unwrap();
    let error = Engine::open(&home).err().unwrap().to_string();
    assert!(error.contains("is damaged") && error.contains(index.to_str().unwrap()), "{error}");
    super::new_index(&home).unwrap();
    let engine = Arc::new(Engine::open(&home).unwrap());
    assert_ne!(home.instance().unwrap(), instance);
    assert!(engine.store().has(&large.digest).unwrap());
    let node = Node { _folder: folder, home, engine };
    assert_eq!(node.lookup(b"key").await, Answer::Miss(Miss::Unclaimed));
    let names = std::fs::read_dir(index.parent().unwrap()).unwrap();
    let aside =
        names.map(|name| name.unwrap().path()).find(|path| path.to_str().unwrap().contains(".damaged-"));
    assert_eq!(std::fs::read(aside.unwrap()).unwrap(), b"nonsense");
}

#[tokio::test]
async fn contradictions_and_tallies_are_kept_by_settling() {
    let node = Node::new();
    let ann = Pair::from_seed(&[1; 32], "");
    node.trusts(&ann);
    let output = Output::Blob(node.write(b"made").await);
    node.publish(b"own", output).await.unwrap();
    let index = node.engine.store().index();
    for bytes in [b"one", b"two"] {
        node.write(bytes).await;
        index.keep_entry(&claim(&ann, b"key", blob(bytes)), &[], Durability::Fast).unwrap();
    }
    for _ in 0..3 {
        assert!(matches!(node.lookup(b"key").await, Answer::Hit(_)), "evidence is all that comes of it");
    }
    node.lookup(b"absent").await;
    let told = |node: &Node| node.engine.tallies().unwrap();
    let before = told(&node);
    assert_eq!((before[0].hits, before[0].misses, before[0].published, before[0].bytes), (3, 1, 1, 9));
    assert_eq!(index.contradictions().unwrap(), 0);
    node.engine.settle(false).unwrap();
    assert_eq!(index.contradictions().unwrap(), 1);
    assert_eq!(told(&node), before, "counted once, wherever it is kept");
    assert_eq!(index.tallies().unwrap().len(), 1);
}
