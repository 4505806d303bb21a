// SPDX-License-Identifier: MIT OR Apache-2.0
//! A few good inputs for each decoder: what fuzzing starts from, and what tests damage.

use std::time::Duration;

use potluck_keys::codec::{Bytes, Text, encode};
use potluck_keys::pair::Pair;
use potluck_keys::signed::Signed;
use potluck_keys::standing::{Revocation, Succession};
use potluck_keys::time::Time;
use potluck_node::ahead::list::{List, Step};
use potluck_node::bundle::Name;
use potluck_node::bundle::write::Writer;
use potluck_node::catalog::evidence::{Evidence, Exhibit, Offence};
use potluck_node::front::gocache::checked::{Checked, START_BYTES, State};
use potluck_node::front::gocache::expected::Expected;
use potluck_node::front::http::alike::{ccache, sccache};
use potluck_node::peer::Peer;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::catalog::{Catalog, Filter, Row, RowKind, Segment, SegmentRef};
use potluck_protocol::control::{self, Answer as Known, Miss, Reply, Request};
use potluck_protocol::digest::{Digest, Sha256};
use potluck_protocol::entry::{BlobOutput, Entry, Labels, Output, TreeOutput};
use potluck_protocol::head::{CATALOG, Head, HeadSet, Instance, Seen};
use potluck_protocol::peer::{self, Ask, Blobs, Heads, Hello, Packing, Topic};
use potluck_protocol::piece::PieceHasher;
use potluck_protocol::tree::{Kind, Member, Tree, TreePath};

use crate::decoders::parted;

/// Requests as their tools sent them.
const CCACHE_GET: &str = "GET /ccache/6c/93d09cd65e8c0a6a2ffd0b6ddbb3e60b1f8ca4 HTTP/1.1\r\nHost: localhost:7117\r\n\
    User-Agent: ccache/4.14.2\r\nAccept: */*\r\nAccept-Encoding:\r\nConnection: keep-alive\r\n\r\n";
const BAZEL_PUT: &str = "PUT /bazel/cas/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad HTTP/1.1\r\n\
    host: 127.0.0.1:7117\r\nconnection: keep-alive\r\naccept: */*\r\nuser-agent: bazel/4.2.3\r\n\
    accept-encoding: gzip\r\ncontent-length: 3\r\n\r\n";
const SCCACHE_LOOK: &str = "PROPFIND /webdav/@acme~web/team/5/a/5/ HTTP/1.1\r\ndepth: 0\r\nhost: [::1]:7117\r\n\
    authorization: Bearer sesame\r\ncontent-length: 0\r\n\r\n";
const NX_GET: &str = "GET /nx/v1/cache/12345678901234567890 HTTP/1.1\r\nhost: build.lan\r\n\
    accept: application/octet-stream\r\nauthorization: Bearer sesame\r\nrange: bytes=10-\r\n\r\n";
const GRADLE_PUT: &str = "PUT /gradle/6159af14326d403197f46f035d3dec2a HTTP/1.1\r\nX-Gradle-Version: 4.4.1\r\n\
    Content-Length: 459\r\nHost: 127.0.0.1:7117\r\nAuthorization: Basic YW55b25lOnNlc2FtZQ==\r\n\
    Content-Type: application/vnd.gradle.build-cache-artifact.v1\r\nExpect: 100-continue\r\n\r\n";

/// An `ActionResult` with one file.
const ACTION_RESULT: &str = "124b0a03612e6f12440a40626137383136626638663031636665613431343134306465356461653232323362303033363161\
    333936313737613963623431306666363166323030313561641003";
/// The list of a folder with one file.
const FOLDER: &str = "0a4b0a490a016112440a40626137383136626638663031636665613431343134306465356461653232323362303033363161\
    333936313737613963623431306666363166323030313561641003";
const ACTION_RESULT_JSON: &str = r#"{"outputFiles":[{"path":"p1/dist/out.txt","digest":{"hash":
    "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4","sizeBytes":"3"}}],"stdoutDigest":{"hash":
    "14f3cba70f4dd8e17f76f6897ac4a8993aab0ce265ea401f8d4ea440272db9c6","sizeBytes":"5"}}"#;

/// The bytes of hexadecimal text.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.bytes().filter_map(|byte| (byte as char).to_digit(16)).collect();
    digits.chunks(2).filter_map(|two| u8::try_from(two[0] * 16 + two[1]).ok()).collect()
}

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
        blobs: vec![inline.clone()],
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
        ("blobs", encode(&Blobs::Several(peer::Several { id: 4, digests: vec![digest("x"), digest("y")] }))),
        ("blobs", encode(&Blobs::Small(peer::Small { id: 4, blobs: vec![inline] }))),
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
    let file = || control::FileAt { path: bytes(b"/tmp/a".as_slice()), device: 1, inode: 2 };
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
        Request::Take(control::Take { id: 14, file: file() }),
        Request::Give(control::Give { id: 15, digest: digest("x"), file: file() }),
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
        ("action_result", hex(ACTION_RESULT)),
        ("action_result", hex(FOLDER)),
        ("action_result", ACTION_RESULT_JSON.as_bytes().to_vec()),
        ("http_request", CCACHE_GET.as_bytes().to_vec()),
        ("http_request", BAZEL_PUT.as_bytes().to_vec()),
        ("http_request", SCCACHE_LOOK.as_bytes().to_vec()),
        ("http_request", NX_GET.as_bytes().to_vec()),
        ("http_request", GRADLE_PUT.as_bytes().to_vec()),
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
    all.push(("part", part()));
    all.push(("evidence", evidence()));
    all.extend(texts_of_tools());
    all.push(("unit_list", unit_list().encode()));
    all.push((
        "reads",
        br#"{"names":{".git":"Above","@potluck:registry@/x":"Content","cc":"Program"},"variables":false}"#
            .to_vec(),
    ));
    all.extend(archives());
    all.extend(records_of_go());
    all.extend(crate::small::samples());
    all
}

/// What compilers' caches keep, and how one of them asks for it.
fn archives() -> Vec<(&'static str, Vec<u8>)> {
    let outputs: [(&str, &[u8]); 2] = [("unit.d", b"unit: unit.rs"), ("libunit.rlib", b"code")];
    let key = [&[20_u8][..], &[0xab; 20]].concat();
    // As a machine writes numbers whose bytes come in the order of most machines.
    let put = [&[1], &key[..], &[1, 5, 0, 0, 0, 0, 0, 0, 0], b"value"].concat();
    vec![
        ("ccache_entry", ccache::sample(1_795_299_131, "4.14.2", b"what was made")),
        ("ccache_request", [&[0], &key[..], &put, &[4, 5], &key].concat()),
        ("sccache_archive", sccache::sample(&outputs)),
    ]
}

/// What build tools say.
fn texts_of_tools() -> Vec<(&'static str, Vec<u8>)> {
    let go = include_str!("../../node/src/front/gocache/samples/exchange.txt");
    let said: String =
        go.lines().filter_map(|line| line.strip_prefix('>')).map(|line| format!("{line}\n")).collect();
    let part =
        |text: &'static str, nth: usize| text.split("\n\n").nth(nth).unwrap_or_default().as_bytes().to_vec();
    let nix = include_str!("../../node/src/front/nix/samples/requests.txt");
    let turbo = include_str!("../../node/src/front/turborepo/samples/requests.txt");
    vec![
        ("gocache", said.into_bytes()),
        ("narinfo", include_bytes!("../../node/src/front/nix/samples/dish.narinfo").to_vec()),
        ("nix_request", part(nix, 2)),
        ("nix_request", part(nix, 7)),
        ("turbo_request", part(turbo, 4)),
        ("turbo_request", b"{\"duration\":1,\"tag\":\"dGFn\",\"sha\":\"1f\",\"dirty_hash\":\"2e\"}".to_vec()),
    ]
}

/// What a helper of go leaves to the next one.
fn records_of_go() -> Vec<(&'static str, Vec<u8>)> {
    let (start, now) = ([b'a'; START_BYTES], Time::from_millis(2_000_000_000_000));
    let mut checked = Checked::default();
    let state = State { file: (1, 2), size: 3, modified: (4, 5), changed: (6, 7) };
    checked.note(digest("a"), (Sha256::from_bytes([8; 32]), state), now);
    let record = checked.record(&start, now).expect("there is news");
    let without_sum = record[..record.len() - 32].to_vec();
    let mut expected = Expected::default();
    for name in ["a", "b", "c"] {
        expected.note(digest(name).as_bytes());
    }
    let list = expected.list().expect("there is news");
    vec![("gocache_checked", record), ("gocache_checked", without_sum), ("gocache_list", list)]
}

/// What a build asks for.
fn unit_list() -> List {
    let step = |unit: &str, key: u8| Step {
        unit: Text::new(unit).expect("a sample fits"),
        recipe: entry().recipe,
        key: Bytes::new(vec![key; 32]).expect("a sample fits"),
        bytes: 4096,
    };
    List { steps: vec![step("serde-1 lib", 1), step("app-2 lib", 2)] }
}

/// Both files of what came of a Blob, as [`crate::decoders`] takes them: one piece as it is, and one packed.
fn part() -> Vec<u8> {
    let mut pieces = PieceHasher::new();
    pieces.update(&parted());
    let pieces = pieces.finish().expect("a small blob");
    let list = pieces.list();
    let mut notes = [b"ptl-part".as_slice(), &1_u32.to_le_bytes(), &list.size.to_le_bytes()].concat();
    notes.extend(list.values.as_flattened());
    // One zstd frame of a mebibyte: eight blocks of one byte that is repeated.
    let mut packed = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &(1_u32 << 20).to_le_bytes()].concat();
    for block in 0..8 {
        let header = 131_072_u32 << 3 | 1 << 1 | u32::from(block == 7);
        packed.extend(&header.to_le_bytes()[..3]);
        packed.push(b'x');
    }
    let raw = [b'x'; 100];
    let rows = [(0, packed.len(), 0_u32, 1_u8), (packed.len(), raw.len(), 1, 0)];
    for (offset, len, index, form) in rows {
        notes.extend((offset as u64).to_le_bytes());
        notes.extend(u32::try_from(len).expect("it is short").to_le_bytes());
        notes.extend(index.to_le_bytes());
        notes.push(form);
    }
    let len = u16::try_from(notes.len()).expect("they are short").to_le_bytes();
    [&len[..], &notes, &packed, &raw].concat()
}

/// The file of Heads that were refused.
fn evidence() -> Vec<u8> {
    let mut evidence = Evidence::default();
    let topic = Topic { signer: pair(1).signer(), project: Project::default() };
    let seen = |sequence| Seen { sequence, root: digest("root") };
    for (number, offence) in [Offence::Rollback, Offence::Fork, Offence::Freeze].into_iter().enumerate() {
        evidence.note(Exhibit {
            topic: topic.clone(),
            instance: Instance::from_bytes([1; 16]),
            offence,
            have: (number > 0).then(|| seen(7)),
            got: seen(number as u64),
            head: digest("head"),
            from: (number > 1).then(|| Peer::new("office", "12D3")),
            at: NOW,
            times: 3,
        });
    }
    evidence.changed().expect("there is something in it")
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
