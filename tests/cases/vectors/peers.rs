// SPDX-License-Identifier: MIT OR Apache-2.0
//! Vectors of what peers say to each other, and of frames.

use potluck_keys::pair::Pair;
use potluck_keys::signed::Signed;
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::codec::{Bytes, Text};
use potluck_protocol::digest::Digest;
use potluck_protocol::frame::{Frame, Message, frame};
use potluck_protocol::head::Instance;
use potluck_protocol::peer::{
    Answer, Ask, Blobs, End, Found, Given, Have, Heads, Hello, Inline, Known, No, Packing, Piece, Pull, Push,
    Question, Run, Several, Small, Stop, Topic, TopicState, Values, Want,
};
use serde_json::json;

use super::Sheet;
use super::claims::plain_entry;
use super::shape::{Item, NULL, bent, many, text, with};
use super::show::{Show, hex};

pub(crate) fn sheets() -> Vec<Sheet> {
    vec![peer(), framed()]
}

fn topic() -> Topic {
    Topic { signer: Pair::from_seed(&[1; 32], "").signer(), project: Project::new("acme/web").unwrap() }
}

fn hello() -> Hello {
    Hello { agent: Text::new("potluck 0.1.0"), holds: vec![topic()], follows: vec![topic()] }
}

fn bytes<const MAX: usize>(bytes: &[u8]) -> Bytes<MAX> {
    Bytes::new(bytes.to_vec()).unwrap()
}

fn answer() -> Ask {
    let entry = Signed::sign(&plain_entry(), &[&Pair::from_seed(&[1; 32], "")]).unwrap();
    let packed =
        Inline { digest: Digest::of(&[0; 99]), size: 99, packing: Packing::Zstd, bytes: bytes(&[1; 9]) };
    let found = Found {
        action: ActionId::from_bytes([0xac; 32]),
        entries: vec![bytes(entry.bytes())],
        heads: vec![bytes(&[0xd2])],
        blobs: vec![small(), packed],
    };
    Ask::Answer(Answer { id: 7, found: vec![found], last: true })
}

fn small() -> Inline {
    Inline { digest: Digest::of(b"hello"), size: 5, packing: Packing::Raw, bytes: bytes(b"hello") }
}

fn want() -> Blobs {
    let pieces = vec![Run { first: 0, count: 1 }, Run { first: (1 << 20) - 1, count: 1 }];
    Blobs::Want(Want { id: 7, digest: Digest::of(b"large"), values: true, pieces })
}

fn piece() -> Blobs {
    let bytes = bytes(b"hello");
    Blobs::Piece(Piece { id: 7, index: 3, size: 5, packing: Packing::Raw, bytes })
}

/// The encodings that are spoilt.
struct Good {
    said: Vec<u8>,
    pushed: Vec<u8>,
    pull: Vec<u8>,
    question: Vec<u8>,
    answered: Vec<u8>,
    wanted: Vec<u8>,
    sent: Vec<u8>,
    ended: Vec<u8>,
    have: Vec<u8>,
    values: Vec<u8>,
}

fn peer() -> Sheet {
    let mut sheet = Sheet::new(
        "peer",
        "What peers say, without frames. `type` is the stream, and `value` of a choice has one member, named after \
         the variant. Signed claims within are only bytes to the reader of a message.",
    );
    let nothing = Hello::default();
    sheet.good("Hello", "nothing to say", &nothing);
    let said = sheet.good("Hello", "something to say", &hello());
    let heads = vec![bytes(&[0xd2, 0x84]), bytes(&[])];
    let pushed = sheet.good("Heads", "push", &Heads::Push(Push { heads: heads.clone() }));
    sheet.good("Heads", "push of nothing", &Heads::Push(Push { heads: Vec::new() }));
    let known = vec![Known { instance: Instance::from_bytes([0x1a; 16]), sequence: 41 }];
    let topics = vec![TopicState { topic: topic(), known }, TopicState { topic: topic(), known: Vec::new() }];
    let pull = sheet.good("Heads", "pull", &Heads::Pull(Pull { id: 7, topics }));
    sheet.good("Heads", "given", &Heads::Given(Given { id: 7, heads }));
    let actions = vec![ActionId::from_bytes([0xac; 32]); 2];
    let project = Project::new("acme/web").unwrap();
    let question = Question { id: 7, project, actions, inline: 65_536 };
    let question = sheet.good("Ask", "question", &Ask::Question(question));
    let answered = sheet.good("Ask", "answer", &answer());
    sheet.good("Ask", "answer of nothing", &Ask::Answer(Answer { id: 7, found: Vec::new(), last: false }));
    let wanted = sheet.good("Blobs", "want", &want());
    let ask = Want { id: 7, digest: Digest::of(b""), values: false, pieces: Vec::new() };
    sheet.good("Blobs", "want to know", &Blobs::Want(ask));
    sheet.good("Blobs", "have all", &Blobs::Have(Have { id: 7, size: 1 << 30, bitmap: None }));
    let some = Have { id: 7, size: (8 << 20) + 1, bitmap: Some(bytes(&[0b101, 1])) };
    let have = sheet.good("Blobs", "have some", &Blobs::Have(some));
    let values =
        sheet.good("Blobs", "values", &Blobs::Values(Values { id: 7, first: 0, values: bytes(&[9; 64]) }));
    let sent = sheet.good("Blobs", "piece", &piece());
    sheet.good("Blobs", "end", &Blobs::End(End { id: 7, no: None }));
    let ended = sheet.good("Blobs", "end with a no", &Blobs::End(End { id: 7, no: Some(No::Busy) }));
    sheet.good("Blobs", "stop", &Blobs::Stop(Stop { id: u64::MAX }));
    let digests = vec![Digest::of(b"hello"), Digest::of(b"x")];
    sheet.good("Blobs", "several small ones", &Blobs::Several(Several { id: 7, digests }));
    sheet.good("Blobs", "some of them", &Blobs::Small(Small { id: 7, blobs: vec![small()] }));
    sheet.good("Blobs", "none of them", &Blobs::Small(Small { id: 7, blobs: Vec::new() }));

    refuse(&mut sheet, &Good { said, pushed, pull, question, answered, wanted, sent, ended, have, values });
    sheet
}

fn refuse(sheet: &mut Sheet, good: &Good) {
    let Good { said, pushed, pull, question, answered, wanted, sent, ended, have, values } = good;
    sheet.spoil("Hello", said, &[]);
    sheet.spoil_record("Heads", pull, &[1]);
    sheet.spoil_record("Ask", question, &[1]);
    sheet.spoil_record("Blobs", sent, &[1]);
    let inline = |field: u64| [1, 2, 0, 4, 0, field];
    for (kind, why, bad) in [
        ("Hello", "an agent of 65 bytes", with(said, &[1], text(&"a".repeat(65)))),
        ("Hello", "an agent that is not UTF-8", with(said, &[1], Item::Text(vec![0xff]))),
        ("Hello", "an empty agent", with(said, &[1], text(""))),
        ("Hello", "an agent with a control character", with(said, &[1], text("\u{1b}[0m"))),
        ("Hello", "an empty list", with(said, &[2], Item::List(Vec::new()))),
        ("Hello", "an agent that turns its direction", with(said, &[1], text("a\u{202e}b"))),
        ("Hello", "an agent with a mark that is not seen", with(said, &[1], text("a\u{200b}b"))),
        ("Hello", "257 topics", with(said, &[2], Item::Raw(vec![0x99, 0x01, 0x01]))),
        ("Hello", "a signer of 31 bytes", with(said, &[2, 0, 1], Item::Bytes(vec![1; 31]))),
        ("Hello", "a topic without a project", bent(said, &[2, 0], |topic| drop(topic.pairs().pop()))),
        ("Heads", "an unknown variant", with(pull, &[0], Item::Uint(3))),
        ("Heads", "the body of another variant", with(pull, &[0], Item::Uint(0))),
        ("Heads", "seventeen instances", many(pull, &[1, 2, 0, 2], 17)),
        ("Heads", "a head of 501 bytes", [&[0x82, 0, 0xa1, 1, 0x81, 0x59, 1, 0xf5][..], &[0; 501]].concat()),
        ("Heads", "257 heads", many(pushed, &[1, 1], 257)),
        ("Ask", "an unknown variant", with(question, &[0], Item::Uint(2))),
        ("Ask", "an action of 33 bytes", with(question, &[1, 3, 0], Item::Bytes(vec![1; 33]))),
        ("Ask", "1025 actions", with(question, &[1, 3], Item::Raw(vec![0x99, 0x04, 0x01]))),
        ("Ask", "an answer whose `last` is a number", with(answered, &[1, 3], Item::Uint(1))),
        ("Ask", "an answer whose `last` is null", with(answered, &[1, 3], NULL)),
        ("Ask", "a raw blob of another size", with(answered, &inline(2), Item::Uint(6))),
        ("Ask", "a packed blob that is no smaller", with(answered, &inline(3), Item::Uint(1))),
        ("Ask", "an unknown packing", with(answered, &inline(3), Item::Uint(2))),
        (
            "Ask",
            "a blob that unpacks to more than a piece",
            with(answered, &[1, 2, 0, 4, 1, 2], Item::Uint((1 << 20) + 1)),
        ),
        ("Ask", "a packed blob beyond 64 KiB", with(answered, &inline(4), Item::Raw(vec![0x5a, 0, 1, 0, 1]))),
        ("Ask", "seventeen entries", many(answered, &[1, 2, 0, 2], 17)),
        (
            "Ask",
            "an entry beyond its bound",
            with(answered, &[1, 2, 0, 2, 0], Item::Raw(vec![0x59, 0x12, 0x41])),
        ),
        ("Blobs", "an unknown variant", with(sent, &[0], Item::Uint(6))),
        ("Blobs", "an empty run", with(wanted, &[1, 4, 0, 2], Item::Uint(0))),
        ("Blobs", "a run beyond the largest blob", with(wanted, &[1, 4, 1, 2], Item::Uint(2))),
        ("Blobs", "a run that overflows", with(wanted, &[1, 4, 1, 1], Item::Uint(u64::MAX))),
        ("Blobs", "65 runs", many(wanted, &[1, 4], 65)),
        ("Blobs", "a piece of another size", with(sent, &[1, 3], Item::Uint(4))),
        ("Blobs", "a piece of more than 1 MiB", with(sent, &[1, 5], Item::Raw(vec![0x5a, 0, 0x10, 0, 1]))),
        ("Blobs", "a bitmap with a byte too many", with(have, &[1, 3], Item::Bytes(vec![1; 3]))),
        ("Blobs", "a bitmap with a byte too few", with(have, &[1, 3], Item::Bytes(vec![1]))),
        ("Blobs", "a size beyond the largest blob", with(have, &[1, 2], Item::Uint((1 << 40) + 1))),
        ("Blobs", "no values", with(values, &[1, 3], Item::Bytes(Vec::new()))),
        ("Blobs", "half a value", with(values, &[1, 3], Item::Bytes(vec![9; 48]))),
        ("Blobs", "values beyond the largest blob", with(values, &[1, 2], Item::Uint((1 << 20) - 1))),
        ("Blobs", "an unknown no", with(ended, &[1, 2], Item::Uint(3))),
    ] {
        sheet.bad(kind, why, &bad);
    }
}

fn framed() -> Sheet {
    let mut sheet = Sheet::new(
        "frame",
        "Frames. `hex` is the frame of a message; `type` is the type of the message and the word Frame.",
    );
    fn good<M: Message + Show>(sheet: &mut Sheet, kind: &str, name: &str, message: &M) -> Vec<u8> {
        let Frame { begin, end } = frame(message).unwrap();
        let bytes = [&begin[..], &end].concat();
        sheet.push(json!({ "name": name, "type": kind, "hex": hex(&bytes), "value": message.show() }));
        bytes
    }
    good(&mut sheet, "HelloFrame", "a hello that says nothing", &Hello::default());
    let stop = good(&mut sheet, "BlobsFrame", "a stop", &Blobs::Stop(Stop { id: 7 }));
    good(&mut sheet, "BlobsFrame", "a piece", &piece());
    good(&mut sheet, "AskFrame", "an answer", &answer());
    let mut cut = stop.clone();
    cut[3] -= 1;
    let mut short = stop.clone();
    short[3] += 1;
    for (why, bad) in [
        ("no header", Vec::new()),
        ("half a header", vec![0, 0]),
        ("a body of no bytes", vec![0; 4]),
        ("the header says less than there is", cut.clone()),
        ("the header says more than there is", short),
        ("the body is cut where the header says so", cut[..cut.len() - 1].to_vec()),
        ("the header has its bytes the wrong way round", [&[stop[3], 0, 0, 0], &stop[4..]].concat()),
        ("a message beyond its bound", vec![0, 0x10, 0, 0x41]),
        ("a message far beyond its bound", vec![0xff; 4]),
    ] {
        sheet.bad("BlobsFrame", why, &bad);
    }
    let max = u32::try_from(Hello::MAX_BYTES).unwrap();
    sheet.bad("HelloFrame", "a hello beyond its bound", &(max + 1).to_be_bytes());
    sheet.bad("HelloFrame", "a message of another stream", &stop);
    sheet
}
