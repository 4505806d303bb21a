// SPDX-License-Identifier: MIT OR Apache-2.0
//! A few good inputs for each decoder: what fuzzing starts from, and what tests damage.

use std::time::Duration;

use potluck_keys::codec::{Bytes, Text, encode};
use potluck_keys::pair::Pair;
use potluck_keys::signed::Signed;
use potluck_keys::standing::{Revocation, Succession};
use potluck_keys::time::Time;
use potluck_node::bundle::Name;
use potluck_node::bundle::write::Writer;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::catalog::{Catalog, Filter, Row, RowKind, Segment, SegmentRef};
use potluck_protocol::control::{self, Answer as Known, Miss, Reply, Request};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Entry, Labels, Output, TreeOutput};
use potluck_protocol::head::{CATALOG, Head, HeadSet, Instance};
use potluck_protocol::peer::{self, Ask, Blobs, Heads, Hello, Packing, Topic};
use potluck_protocol::piece::PieceHasher;
use potluck_protocol::tree::{Kind, Member, Tree, TreePath};

/// An instant in November 2026, when every sample is made.
pub const NOW: Time = Time::from_millis(1_795_240_800_000);

/// The pair that grows from a seed of equal bytes.
pub fn pair(seed: u8) -> Pair {
    Pair::from_seed(&[seed; 32], "sample")
}

fn text<const MAX: usize>(text: &str) -> Text<MAX> {
    Text::new(text).expect("a sample fits")
}

fn bytes<const MAX: usize>(bytes: impl Into<Vec<u8>>) -> Bytes<MAX> {
    Bytes::new(bytes.into()).expect("a sample fits")
}

fn digest(of: &str) -> Digest {
    Digest::of(of.as_bytes())
}

fn action(of: &str) -> ActionId {
    ActionId::from_bytes(*digest(of).as_bytes())
}

/// An Entry in every respect.
///
/// # Panics
/// Never: the names are acceptable.
pub fn entry() -> Entry {
    Entry {
        project: Project::new("acme/web").expect("a project"),
        recipe: Recipe::new("rustc@1").expect("a recipe"),
        action: action("action"),
        output: Output::Tree(TreeOutput { digest: digest("tree"), size: 120, members: 2, total: 4096 }),
        labels: Labels {
            tool: Some(text("rustc")),
            toolchain: Some(text("1.95.0")),
            platform: Some(text("x86_64-unknown-linux-gnu")),
            cost_ms: Some(1234),
        },
        taints: vec![text("clock"), text("network")],
        issued: NOW,
        not_after: NOW.plus(Duration::from_secs(30 * 86_400)),
        replaces: Some(digest("before")),
    }
}

/// An Entry with no more than it must have.
pub fn least_entry() -> Entry {
    let output = Output::Blob(BlobOutput { digest: digest("blob"), size: 4 });
    Entry { output, labels: Labels::default(), taints: Vec::new(), replaces: None, ..entry() }
}

/// A Catalog Head of this instance and sequence.
pub fn catalog_head(instance: u8, sequence: u64) -> Head {
    Head {
        project: Project::default(),
        name: text(CATALOG),
        recipe: None,
        instance: Instance::from_bytes([instance; 16]),
        sequence,
        root: digest("root"),
        size: 300,
        issued: NOW,
        not_after: NOW.plus(Duration::from_secs(86_400)),
    }
}

fn manifest_head() -> Head {
    let recipe = Some(Recipe::new("ccache@1").expect("a recipe"));
    Head { name: text("manifest/ab12"), recipe, ..catalog_head(2, 7) }
}

/// A Tree with a member of each kind.
///
/// # Panics
/// Never: the members are acceptable.
pub fn tree() -> Tree {
    let file = |of, size, executable| Kind::File { digest: digest(of), size, executable };
    let members = [
        ("bin/tool", file("tool", 4000, true)),
        ("lib/a.rlib", file("a", 96, false)),
        ("lib/latest", Kind::Symlink { target: "../bin/tool".to_owned() }),
        ("out", Kind::Directory),
    ];
    let member = |(path, kind)| Member { path: TreePath::new(path).expect("a path"), kind };
    Tree::new(members.map(member).into()).expect("a tree")
}

fn segment() -> Segment {
    let row = |of| Row { action: action(of), claim: digest(of), kind: RowKind::Entry };
    let rows = vec![row("a"), Row { kind: RowKind::Head, ..row("b") }, Row::withdrawn(action("c"))];
    Segment::new(rows).expect("a segment")
}

fn filter() -> Filter {
    Filter::build((0..20_u8).map(|n| action(&n.to_string()))).expect("a filter")
}

fn peer_messages() -> Vec<(&'static str, Vec<u8>)> {
    let topic = Topic { signer: pair(1).signer(), project: Project::default() };
    let hello =
        Hello { agent: Some(text("potluck 0.1")), holds: vec![topic.clone()], follows: vec![topic.clone()] };
    let head: peer::HeadBytes = bytes(sign(&catalog_head(1, 2)));
    let known = vec![peer::Known { instance: Instance::from_bytes([1; 16]), sequence: 1 }];
    let question =
        peer::Question { id: 1, project: Project::default(), actions: vec![action("a")], inline: 65_536 };
    let inline = peer::Inline {
        digest: digest("blob"),
        size: 4,
        packing: Packing::Raw,
        bytes: bytes(b"blob".as_slice()),
    };
    let found = peer::Found {
        action: action("a"),
        entries: vec![bytes(sign(&least_entry()))],
        heads: Vec::new(),
        blobs: vec![inline],
    };
    let run = peer::Run { first: 0, count: 2 };
    let piece = peer::Piece { id: 4, index: 1, size: 9, packing: Packing::Zstd, bytes: bytes([7; 5]) };
    vec![
        ("hello", encode(&Hello::default())),
        ("hello", encode(&hello)),
        ("heads", encode(&Heads::Push(peer::Push { heads: vec![head.clone()] }))),
        (
            "heads",
            encode(&Heads::Pull(peer::Pull { id: 2, topics: vec![peer::TopicState { topic, known }] })),
        ),
        ("heads", encode(&Heads::Given(peer::Given { id: 2, heads: vec![head] }))),
        ("ask", encode(&Ask::Question(question))),
        ("ask", encode(&Ask::Answer(peer::Answer { id: 1, found: vec![found], last: true }))),
        (
            "blobs",
            encode(&Blobs::Want(peer::Want { id: 4, digest: digest("x"), values: true, pieces: vec![run] })),
        ),
        ("blobs", encode(&Blobs::Have(peer::Have { id: 4, size: 3 << 20, bitmap: Some(bytes([5])) }))),
        ("blobs", encode(&Blobs::Values(peer::Values { id: 4, first: 0, values: bytes([9; 64]) }))),
        ("blobs", encode(&Blobs::Piece(piece))),
        ("blobs", encode(&Blobs::End(peer::End { id: 4, no: Some(peer::No::Busy) }))),
        ("blobs", encode(&Blobs::Stop(peer::Stop { id: 4 }))),
    ]
}

fn requests() -> Vec<Request> {
    let (project, recipe) = (entry().project, entry().recipe);
    let restore = control::Restore {
        digest: digest("a"),
        folder: bytes(b"/tmp".as_slice()),
        name: bytes(b"a".as_slice()),
        device: 1,
        inode: 2,
        umask: Some(0o022),
        replace: true,
        modified_ms: Some(0),
    };
    let publish = control::Publish {
        id: 7,
        project: project.clone(),
        recipe: recipe.clone(),
        key: bytes(b"key".as_slice()),
        output: entry().output,
        labels: entry().labels,
        taints: entry().taints,
    };
    let keys = vec![bytes(b"one".as_slice()), bytes(b"two".as_slice())];
    vec![
        Request::Greeting(control::Greeting { version: control::VERSION, client: text("cli") }),
        Request::Status(control::Plain { id: 1 }),
        Request::Stop(control::Plain { id: 2 }),
        Request::Lookup(control::Lookup { id: 3, project, recipe, keys, deadline_ms: Some(100) }),
        Request::Missing(control::Missing { id: 4, digests: vec![digest("a")] }),
        Request::Read(control::Read { id: 5, digest: digest("a"), offset: 1 << 20, len: Some(7) }),
        Request::Write(control::Data { id: 6, bytes: bytes(b"data".as_slice()), last: true }),
        Request::Publish(publish),
        Request::Forget(control::Plain { id: 3 }),
        Request::Work(control::Work { id: 10, job: control::Job::Pins(control::Pins { digest: None }) }),
        Request::Work(control::Work { id: 11, job: control::Job::Restore(restore) }),
        Request::Export(control::Export { id: 12, project: Some(text("acme/*")), toolchain: None }),
        Request::Import(control::Data { id: 13, bytes: bytes(b"data".as_slice()), last: true }),
    ]
}

fn replies() -> Vec<Reply> {
    let answers = vec![Known::Hit(entry().output), Known::Miss(Miss::Late)];
    let failed = control::Failed {
        id: 8,
        kind: control::Failure::NotFound,
        message: text("it is not there"),
        hint: Some(text("look elsewhere")),
    };
    vec![
        Reply::Welcome(control::Welcome { version: control::VERSION, pid: 4321 }),
        Reply::Report(control::Report { id: 1, json: bytes(b"{}".as_slice()) }),
        Reply::Progress(control::Report { id: 10, json: bytes(b"{}".as_slice()) }),
        Reply::Stopping(control::Plain { id: 2 }),
        Reply::Answers(control::Answers { id: 3, answers }),
        Reply::Missing(control::Missing { id: 4, digests: Vec::new() }),
        Reply::Data(control::Data { id: 5, bytes: bytes(b"data".as_slice()), last: false }),
        Reply::Written(control::Written { id: 6, digest: digest("data"), size: 4 }),
        Reply::Published(control::Published { id: 7, entry: digest("entry") }),
        Reply::Failed(failed),
    ]
}

fn sign<T: potluck_keys::signed::Claim>(claim: &T) -> Vec<u8> {
    Signed::sign(claim, &[&pair(1)]).expect("a sample fits").bytes().to_vec()
}

fn key_texts() -> Vec<(&'static str, Vec<u8>)> {
    let line = pair(1).public().to_openssh("ann@acme");
    let rules = format!(
        "[signer.ann]\nkey = \"{line}\"\n\n[[rule]]\nproject = \"acme/*\"\nrecipe = \"rustc@*\"\naccept = [\"ann\"]\n\
         agree = 1\nmax-age = \"30d\"\ntaints = [\"network\"]\nstrict = true\nrotate = true\nauthority = [\"ann\"]\n\
         after-revocation = \"keep-older\"\n"
    );
    let locked = include_bytes!("locked_key");
    vec![
        ("rules", rules.into_bytes()),
        ("rules", b"[[rule]]\nproject = 1\n".to_vec()),
        ("public_key", line.into_bytes()),
        ("public_key", pair(2).signer().as_bytes().to_vec()),
        ("key_file", pair(1).to_openssh(None).expect("a pair has a text form").as_bytes().to_vec()),
        ("key_file", locked.to_vec()),
        ("pattern", b"acme/*\nacme/web".to_vec()),
        ("pattern", b"{acme,a[b-d]?}/**/x@*\nacme/b/c/x@1".to_vec()),
    ]
}

/// What a node reads beside messages.
fn texts_of_the_node() -> Vec<(&'static str, Vec<u8>)> {
    let key = "5f".repeat(32);
    vec![
        (
            "dep_info",
            b"/w/target/a b.d: src/lib.rs /w/my\\ app/b.rs\n\nsrc/lib.rs:\n\n# env-dep:A=b\\nc\n".to_vec(),
        ),
        ("invite", format!("potluck-invite:1 office {key} /ip4/192.0.2.1/tcp/1/p2p/12D3").into_bytes()),
        ("invite", b"potluck-invite:1 world public".to_vec()),
        ("tokens", br#"{"artifact":"/w/target/debug/a","x":"/w\\n@potluck:target@/y @@ /work"}"#.to_vec()),
    ]
}

/// Good inputs, each under the name of its decoder in [`crate::decoders`].
///
/// # Panics
/// Never: the samples are acceptable.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let (ann, ben) = (pair(1), pair(2));
    let revocation =
        Revocation { key: ann.signer(), at: NOW, issued: NOW, reason: Some(text("the laptop was lost")) };
    let succession = Succession { old: ann.signer(), new: ben.signer(), issued: NOW };
    let both = Signed::sign(&succession, &[&ann, &ben]).expect("a sample fits");
    let mut heads = HeadSet::new(ann.signer(), Project::default());
    for instance in [1, 2] {
        let head = Signed::sign(&catalog_head(instance, 3), &[&ann]).expect("a sample fits");
        heads.add(head).expect("a catalog head belongs to the set");
    }
    let segments = vec![
        SegmentRef::of(&segment(), &filter(), 0),
        SegmentRef { digest: digest("older"), ..SegmentRef::of(&segment(), &filter(), 1) },
    ];
    let mut pieces = PieceHasher::new();
    pieces.update(&[7; (2 << 20) + 5]);
    let pieces = pieces.finish().expect("a small blob");
    let mut all = vec![
        ("entry", encode(&entry())),
        ("entry", encode(&least_entry())),
        ("head", encode(&catalog_head(1, 1))),
        ("head", encode(&manifest_head())),
        ("head_set", heads.encode()),
        ("revocation", encode(&revocation)),
        ("succession", encode(&succession)),
        ("signed_entry", sign(&entry())),
        (
            "signed_entry",
            Signed::sign(&least_entry(), &[&ann, &ben]).expect("a sample fits").bytes().to_vec(),
        ),
        ("signed_head", sign(&catalog_head(1, 1))),
        ("signed_revocation", sign(&revocation)),
        ("signed_succession", both.bytes().to_vec()),
        ("catalog", encode(&Catalog { project: entry().project, segments })),
        ("segment", segment().bytes().to_vec()),
        ("filter", filter().encode()),
        ("piece_list", encode(pieces.list())),
        ("tree", tree().encode()),
        ("tree", Tree::default().encode()),
        ("names", b"acme/web".to_vec()),
        ("names", b"rustc@1".to_vec()),
        ("names", digest("a").to_string().into_bytes()),
        ("names", NOW.to_string().into_bytes()),
    ];
    all.extend(texts_of_the_node());
    all.extend(peer_messages());
    all.extend(requests().iter().map(|request| ("request", encode(request))));
    all.extend(replies().iter().map(|reply| ("reply", encode(reply))));
    all.extend(key_texts());
    all.push(("items", b"\x84\x19\x01\xf4\x42\x00\xff\x61x\xa2\x01\xf5\x18\x18\xf6".to_vec()));
    all.push(("bundle", bundle()));
    all.push((
        "reads",
        br#"{"names":{".git":"Above","@potluck:registry@/x":"Content","cc":"Program"},"variables":false}"#
            .to_vec(),
    ));
    all
}

/// The archive within a bundle: two parts.
fn bundle() -> Vec<u8> {
    let mut to = Writer::new(Vec::new()).expect("memory takes it");
    let signed = |entry: &Entry| Signed::sign(entry, &[&pair(1)]).expect("a sample fits");
    to.entry(&signed(&entry())).expect("memory takes it");
    to.blob(Name::Blob(digest("bytes")), b"bytes").expect("memory takes it");
    to.entry(&signed(&least_entry())).expect("memory takes it");
    to.blob(Name::Tree(digest("tree")), b"tree").expect("memory takes it");
    to.finish().expect("memory takes it")
}
