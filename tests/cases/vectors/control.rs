// SPDX-License-Identifier: MIT OR Apache-2.0
//! Vectors of what local processes and the daemon say to each other.

use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::codec::{Bytes, Text};
use potluck_protocol::control::{
    Alias, Answer, Answers, Audit, Claims, Collect, Data, Doubt, Export, Failed, Failure, FileAt, Find, Give,
    Greeting, Job, Lookup, Miss, Missing, Note, Pin, Pins, Plain, Publish, Published, Read, Reply, Report,
    Request, Restore, Take, Unpin, VERSION, Verify, Welcome, Why, Work, Written,
};
use potluck_protocol::digest::{Digest, MAX_BLOB_BYTES, Sha256};
use potluck_protocol::entry::{BlobOutput, Labels, Output, TreeOutput};

use super::Sheet;
use super::shape::{Item, NULL, many, text, with};

pub(crate) fn sheets() -> Vec<Sheet> {
    vec![control()]
}

fn bytes<const MAX: usize>(bytes: &[u8]) -> Bytes<MAX> {
    Bytes::new(bytes.to_vec()).unwrap()
}

fn control() -> Sheet {
    let mut sheet = Sheet::new(
        "control",
        "What a client (Request) and the daemon (Reply) say to each other, without frames. `value` has one member, \
         named after the variant.",
    );
    requests(&mut sheet);
    replies(&mut sheet);
    sheet
}

fn requests(sheet: &mut Sheet) {
    let (project, recipe) = (Project::new("acme/web").unwrap(), Recipe::new("rustc@1").unwrap());
    let client = Text::new("cli").unwrap();
    let greeting =
        sheet.good("Request", "greeting", &Request::Greeting(Greeting { version: VERSION, client }));
    sheet.good("Request", "status", &Request::Status(Plain { id: 1 }));
    sheet.good("Request", "stop", &Request::Stop(Plain { id: 2 }));
    let keys = vec![bytes(b"key one"), bytes(b"")];
    let lookup =
        Lookup { id: 3, project: project.clone(), recipe: recipe.clone(), keys, deadline_ms: Some(250) };
    let lookup = sheet.good("Request", "lookup", &Request::Lookup(lookup));
    let missing = Missing { id: 4, digests: vec![Digest::of(b"a"), Digest::of(b"b")] };
    let missing = sheet.good("Request", "missing", &Request::Missing(missing));
    let read = |offset, len| Request::Read(Read { id: 5, digest: Digest::of(b"hello"), offset, len });
    sheet.good("Request", "read to the end", &read(0, None));
    let ranged = sheet.good("Request", "read a range", &read(MAX_BLOB_BYTES - 1, Some(1)));
    let data = Data { id: 6, bytes: bytes(b"hello"), last: true };
    let write = sheet.good("Request", "write", &Request::Write(data));
    let publish = Publish {
        id: 7,
        project,
        recipe,
        key: bytes(b"key one"),
        output: Output::Blob(BlobOutput { digest: Digest::of(b"hello"), size: 5 }),
        labels: Labels { tool: Text::new("rustc"), ..Labels::default() },
        taints: vec![Text::new("network").unwrap()],
    };
    let publish = sheet.good("Request", "publish", &Request::Publish(publish));
    sheet.good("Request", "forget", &Request::Forget(Plain { id: 3 }));
    jobs(sheet);
    let pattern = Text::new("acme/**");
    let export = Export { id: 8, project: pattern, toolchain: Text::new("rustc 1.95.0") };
    sheet.good("Request", "export", &Request::Export(export));
    sheet.good(
        "Request",
        "export everything",
        &Request::Export(Export { id: 8, project: None, toolchain: None }),
    );
    sheet.good("Request", "import", &Request::Import(Data { id: 9, bytes: bytes(b"bundle"), last: false }));
    sheet.good("Request", "refresh", &Request::Refresh(Plain { id: 11 }));
    sheet.good("Request", "why the last", &Request::Why(Why { id: 12, action: None }));
    let action = Some(ActionId::from_bytes(*Digest::of(b"action").as_bytes()));
    let why = sheet.good("Request", "why", &Request::Why(Why { id: 12, action }));
    let file = || FileAt { path: bytes(b"/tmp/libx.rlib"), device: 7, inode: u64::MAX };
    sheet.good("Request", "take", &Request::Take(Take { id: 13, file: file() }));
    let give = Give { id: 14, digest: Digest::of(b"x"), file: file() };
    sheet.good("Request", "give", &Request::Give(give));
    let (project, recipe) = (Project::new("acme/web").unwrap(), Recipe::new("rustc@1").unwrap());
    let name = |name: &str| Text::new(name).unwrap();
    let note = Note {
        build: name("4242-17-0badcafe"),
        pid: 4242,
        project,
        unit: name("serde-0123456789abcdef lib"),
        recipe,
        key: bytes(b"key one"),
        plan: Some(bytes(b"kind")),
    };
    sheet.good("Request", "a unit of a build", &Request::Note(Note { plan: None, ..note.clone() }));
    let note = sheet.good("Request", "the first unit of a build", &Request::Note(note));
    sheet.spoil_record("Request", &lookup, &[1]);
    for (why, bad) in [
        ("an unknown variant", with(&greeting, &[0], Item::Uint(15))),
        ("a name of 161 bytes", with(&note, &[1, 1], text(&"b".repeat(161)))),
        ("a unit without a name", with(&note, &[1, 4], text(""))),
        ("a key of a unit of 65 bytes", with(&note, &[1, 6], Item::Bytes(vec![b'k'; 65]))),
        ("an action of 31 bytes", with(&why, &[1, 2], Item::Bytes(vec![1; 31]))),
        ("the body of another variant", with(&greeting, &[0], Item::Uint(1))),
        ("an empty client", with(&greeting, &[1, 2], text(""))),
        ("a client of 65 bytes", with(&greeting, &[1, 2], text(&"c".repeat(65)))),
        ("a client that is not UTF-8", with(&greeting, &[1, 2], Item::Text(vec![0xff]))),
        ("an empty list of keys", with(&lookup, &[1, 4], Item::List(Vec::new()))),
        ("1025 keys", with(&lookup, &[1, 4], Item::List(vec![Item::Bytes(Vec::new()); 1025]))),
        ("a key beyond 64 KiB", with(&lookup, &[1, 4, 0], Item::Raw(vec![0x5a, 0, 1, 0, 1]))),
        ("a deadline of more than 32 bits", with(&lookup, &[1, 5], Item::Uint(1 << 32))),
        ("a deadline that is null", with(&lookup, &[1, 5], NULL)),
        ("a digest of 31 bytes", with(&missing, &[1, 2, 0], Item::Bytes(vec![1; 31]))),
        ("a read beyond the largest blob", with(&ranged, &[1, 4], Item::Uint(2))),
        ("a read that overflows", with(&ranged, &[1, 4], Item::Uint(u64::MAX))),
        ("more than 256 KiB of data", with(&write, &[1, 2], Item::Raw(vec![0x5a, 0, 4, 0, 1]))),
        ("`last` is a number", with(&write, &[1, 3], Item::Uint(1))),
        ("`last` in two bytes", with(&write, &[1, 3], Item::Raw(vec![0xf8, 0x15]))),
        ("an unknown output", with(&publish, &[1, 5, 0], Item::Uint(2))),
        ("taints out of order", with(&publish, &[1, 7], Item::List(vec![text("b"), text("a")]))),
        ("a taint twice", with(&publish, &[1, 7], Item::List(vec![text("a"), text("a")]))),
        ("seventeen taints", many(&publish, &[1, 7], 17)),
    ] {
        sheet.bad("Request", why, &bad);
    }
}

/// What takes long.
fn jobs(sheet: &mut Sheet) {
    let mut job = |name: &str, job| sheet.good("Request", name, &Request::Work(Work { id: 10, job }));
    let digest = Digest::of(b"hello");
    job(
        "collect down to the budget",
        Job::Collect(Collect { keep: None, toolchain: None, project: None, dry: false }),
    );
    let (toolchain, project) = (Text::new("1.94"), Text::new("acme/*"));
    let collect =
        job("what would go", Job::Collect(Collect { keep: Some(0), toolchain, project, dry: true }));
    job("verify everything", Job::Verify(Verify { digest: None, repair: false }));
    job("verify and repair one", Job::Verify(Verify { digest: Some(digest), repair: true }));
    let pin = job("pin", Job::Pin(Pin { digest, reason: Text::new("release 1.0").unwrap() }));
    job("unpin", Job::Unpin(Unpin { digest }));
    job("all pins", Job::Pins(Pins { digest: None }));
    let restore = Restore {
        digest,
        folder: bytes(b"/tmp"),
        name: bytes(b"a"),
        device: 1,
        inode: 2,
        umask: None,
        replace: false,
        modified_ms: None,
    };
    let all = Restore { umask: Some(0o022), replace: true, modified_ms: Some(0), ..restore.clone() };
    job("restore, modes and times as they come", Job::Restore(restore));
    let restore = job("restore in place of another", Job::Restore(all));
    let alias = job("find these by their SHA-256", Job::Alias(Alias { digests: vec![digest; 2] }));
    let find = job("find by SHA-256", Job::Find(Find { sha256: Sha256::from_bytes([7; 32]) }));
    let (project, recipe) = (Project::new("acme/web").unwrap(), Recipe::new("rustc@1").unwrap());
    let claims = Claims { project, recipe, keys: vec![bytes(b"key one"), bytes(b"key two")], ask: true };
    let claims = job("who claims these", Job::Claims(claims));
    let action = ActionId::from_bytes(*Digest::of(b"action").as_bytes());
    let doubt = Doubt { entry: digest, action, reason: Text::new("it came out differently") };
    let doubt = job("do not believe", Job::Doubt(doubt));
    job("believe again", Job::Doubt(Doubt { entry: digest, action, reason: None }));
    job("who disagrees", Job::Audit(Audit { project: Text::new("acme/*") }));
    for (why, bad) in [
        ("an unknown job", with(&pin, &[1, 2, 0], Item::Uint(11))),
        ("the body of another job", with(&pin, &[1, 2, 0], Item::Uint(5))),
        ("a pattern of 257 bytes", with(&collect, &[1, 2, 1, 3], text(&"p".repeat(257)))),
        ("a pin without a reason", with(&pin, &[1, 2, 1, 2], text(""))),
        ("a name beyond 255 bytes", with(&restore, &[1, 2, 1, 3], Item::Bytes(vec![b'n'; 256]))),
        ("a umask of more than 32 bits", with(&restore, &[1, 2, 1, 6], Item::Uint(1 << 32))),
        ("129 keys", many(&claims, &[1, 2, 1, 3], 129)),
        ("a key of 65 bytes", with(&claims, &[1, 2, 1, 3, 0], Item::Bytes(vec![b'k'; 65]))),
        ("an empty reason", with(&doubt, &[1, 2, 1, 3], text(""))),
        ("257 blobs", many(&alias, &[1, 2, 1, 1], 257)),
        ("a SHA-256 of 31 bytes", with(&find, &[1, 2, 1, 1], Item::Bytes(vec![7; 31]))),
        ("a path beyond 4096 bytes", with(&restore, &[1, 2, 1, 2], Item::Raw(vec![0x59, 0x10, 0x01]))),
    ] {
        sheet.bad("Request", why, &bad);
    }
}

fn replies(sheet: &mut Sheet) {
    sheet.good("Reply", "welcome", &Reply::Welcome(Welcome { version: VERSION, pid: 4242 }));
    sheet.good("Reply", "report", &Reply::Report(Report { id: 1, json: bytes(b"{\"v\":1}") }));
    sheet.good("Reply", "progress", &Reply::Progress(Report { id: 1, json: bytes(b"{\"done\":1}") }));
    sheet.good("Reply", "stopping", &Reply::Stopping(Plain { id: 2 }));
    let tree = TreeOutput { digest: Digest::of(b"tree"), size: 300, members: 4, total: 70_000 };
    let hits = [
        Answer::Hit(Output::Blob(BlobOutput { digest: Digest::of(b"hello"), size: 5 })),
        Answer::Hit(Output::Tree(tree)),
    ];
    let answers = hits.into_iter().chain(Miss::ALL.iter().copied().map(Answer::Miss)).collect();
    let answers = sheet.good("Reply", "answers", &Reply::Answers(Answers { id: 3, answers }));
    sheet.good("Reply", "all can be delivered", &Reply::Missing(Missing { id: 4, digests: Vec::new() }));
    let some = Missing { id: 4, digests: vec![Digest::of(b"a")] };
    sheet.good("Reply", "one cannot be delivered", &Reply::Missing(some));
    let data = Data { id: 5, bytes: bytes(b"hello"), last: false };
    sheet.good("Reply", "data", &Reply::Data(data));
    let written = Written { id: 6, digest: Digest::of(b"hello"), size: 5 };
    sheet.good("Reply", "written", &Reply::Written(written));
    let published = Published { id: 7, entry: Digest::of(b"entry") };
    sheet.good("Reply", "published", &Reply::Published(published));
    for kind in Failure::ALL {
        let (message, hint) = (Text::new("It did not work.").unwrap(), Text::new("Try again."));
        let failed = Failed { id: 8, kind: *kind, message, hint };
        sheet.good("Reply", &format!("failed: {kind:?}"), &Reply::Failed(failed));
    }
    let message = Text::new("It did not work.").unwrap();
    let failed = Failed { id: 8, kind: Failure::Failed, message, hint: None };
    let failed = sheet.good("Reply", "failed without a hint", &Reply::Failed(failed));
    sheet.spoil_record("Reply", &failed, &[1]);
    for (why, bad) in [
        ("an unknown variant", with(&failed, &[0], Item::Uint(10))),
        ("failure 0", with(&failed, &[1, 2], Item::Uint(0))),
        ("failure 5", with(&failed, &[1, 2], Item::Uint(5))),
        ("a message of 513 bytes", with(&failed, &[1, 3], text(&"m".repeat(513)))),
        ("a message with a line end", with(&failed, &[1, 3], text("a\nb"))),
        ("an unknown answer", with(&answers, &[1, 2, 0, 0], Item::Uint(2))),
        ("an unknown miss", with(&answers, &[1, 2, 2, 1], Item::Uint(6))),
        ("a miss that is a record", with(&answers, &[1, 2, 2, 1], Item::Map(Vec::new()))),
    ] {
        sheet.bad("Reply", why, &bad);
    }
}
