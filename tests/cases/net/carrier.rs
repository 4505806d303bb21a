// SPDX-License-Identifier: MIT OR Apache-2.0
//! A carrier that holds true claims of somebody who is trusted, and gives bytes as it likes. Whatever it does, the tool
//! has its answer in time, nothing false is taken, and an honest carrier is still believed.

use potluck_node::cache::Miss;
use potluck_node::link::{read_message, write_message};
use potluck_protocol::codec::Bytes;
use potluck_protocol::peer::{
    Answer as Told, Ask, Blobs, End, Found, Have, Hello, Inline, Packing, Piece, Question as Asked, Several,
    Small, Values, Want,
};
use potluck_protocol::piece::PIECE_BYTES;
use tokio::io::AsyncWriteExt as _;

use super::*;

/// How it misbehaves on the stream of Blobs.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    WrongPiece,
    WrongSize,
    OnePieceForEver,
    Silence,
    HaveForEver,
    ValuesForEver,
    LongValues,
    Unasked,
    HugeFrame,
    HalfFrame,
    Closes,
    WrongSmall,
    SmallOfOtherSize,
    SmallUnasked,
    SmallForEver,
}

const ALL: [Lie; 15] = [
    Lie::WrongPiece,
    Lie::WrongSize,
    Lie::OnePieceForEver,
    Lie::Silence,
    Lie::HaveForEver,
    Lie::ValuesForEver,
    Lie::LongValues,
    Lie::Unasked,
    Lie::HugeFrame,
    Lie::HalfFrame,
    Lie::Closes,
    Lie::WrongSmall,
    Lie::SmallOfOtherSize,
    Lie::SmallUnasked,
    Lie::SmallForEver,
];

const SIZE: usize = 2 * PIECE_BYTES + 1000;
/// One that goes with others.
const SMALL: usize = 40_000;

fn piece(id: u64, index: u64, len: usize) -> Blobs {
    let bytes = Bytes::new(bytes(99 + index, len)).unwrap();
    Blobs::Piece(Piece { id, index, size: len as u64, packing: Packing::Raw, bytes })
}

/// Answers one question about a Blob; gives whether the stream still stands.
async fn lie(how: Lie, stream: &mut Stream, Want { id, .. }: Want) -> bool {
    let have = |size| Blobs::Have(Have { id, size, bitmap: None });
    let values = |first, count: usize| {
        let values = Bytes::new(vec![7; 32 * count]).unwrap();
        Blobs::Values(Values { id, first, values })
    };
    let size = SIZE as u64;
    match how {
        Lie::Silence => true,
        Lie::Closes => false,
        Lie::HugeFrame => stream.write_all(&[0xff; 100]).await.is_ok(),
        Lie::HalfFrame => stream.write_all(&[0, 0]).await.is_ok() && stream.flush().await.is_ok(),
        Lie::WrongSize => write_message(stream, &have(size + 1)).await.is_ok(),
        Lie::Unasked => {
            let end = Blobs::End(End { id: id + 1000, no: None });
            write_message(stream, &end).await.is_ok()
        }
        Lie::HaveForEver => loop {
            if write_message(stream, &have(size)).await.is_err() {
                return false;
            }
        },
        Lie::LongValues => {
            write_message(stream, &have(size)).await.is_ok()
                && write_message(stream, &values(0, 1000)).await.is_ok()
        }
        Lie::ValuesForEver => {
            let _ = write_message(stream, &have(size)).await;
            let mut first = 0;
            while write_message(stream, &values(first, 1)).await.is_ok() {
                first += 1;
            }
            false
        }
        Lie::WrongPiece => {
            // A Blob of one piece needs no list; that of the larger one is true, or it would not come so far.
            write_message(stream, &have(100_000)).await.is_ok()
                && write_message(stream, &piece(id, 0, 100_000)).await.is_ok()
        }
        Lie::OnePieceForEver => {
            let _ = write_message(stream, &have(100_000)).await;
            while write_message(stream, &piece(id, 1, 100_000)).await.is_ok() {}
            false
        }
        Lie::WrongSmall | Lie::SmallOfOtherSize | Lie::SmallUnasked | Lie::SmallForEver => false,
    }
}

/// The same for a question about small ones.
async fn lie_small(how: Lie, stream: &mut Stream, Several { id, digests }: Several) -> bool {
    let inline = |digest, len: usize| {
        let bytes = Bytes::new(bytes(7, len)).unwrap();
        Inline { digest, size: len as u64, packing: Packing::Raw, bytes }
    };
    let blobs = match how {
        Lie::WrongSmall => digests.iter().map(|digest| inline(*digest, SMALL)).collect(),
        Lie::SmallOfOtherSize => digests.iter().map(|digest| inline(*digest, SMALL + 1)).collect(),
        Lie::SmallUnasked => vec![inline(Digest::of(b"nobody wants this"), SMALL)],
        _ => Vec::new(),
    };
    let small = Blobs::Small(Small { id, blobs });
    while write_message(stream, &small).await.is_ok() {
        if how != Lie::SmallForEver {
            return true;
        }
    }
    false
}

/// One that connects to `victim` and says that it holds what Alice made.
async fn carrier(network: &Network, (how, victim): (Lie, &Node), topic: Topic, found: Found) -> Stranger {
    let stranger = Stranger::enter(network, &[victim]).await;
    stranger.serves(Purpose::Blob, move |mut stream| async move {
        span::spawn("liar", async move {
            while let Ok(Some(asked)) = read_message(&mut stream).await {
                let stands = match asked {
                    Blobs::Want(want) => lie(how, &mut stream, want).await,
                    Blobs::Several(several) => lie_small(how, &mut stream, several).await,
                    // It is told to stop.
                    _ => false,
                };
                if !stands {
                    return;
                }
            }
        });
    });
    says(&stranger, victim, topic, found).await;
    stranger
}

/// Has a stranger say that it holds a topic, and what it knows.
pub(super) async fn says(stranger: &Stranger, victim: &Node, topic: Topic, found: Found) {
    stranger.serves(Purpose::Ask, move |mut stream| {
        let found = found.clone();
        async move {
            span::spawn("liar", async move {
                while let Ok(Some(Ask::Question(question))) = read_message::<Ask>(&mut stream).await {
                    let told = Told { id: question.id, found: vec![found.clone()], last: true };
                    let _ = write_message(&mut stream, &Ask::Answer(told)).await;
                }
            });
        }
    });
    let mut hello = stranger.handle.open(victim.peer, Purpose::Hello).await.unwrap();
    write_message(&mut hello, &Hello { agent: None, holds: vec![topic], follows: Vec::new() }).await.unwrap();
    // The stream must outlive this: with it ends what was said.
    span::spawn("hello", async move {
        let _: Result<Option<Hello>, _> = read_message(&mut hello).await;
    });
}

pub(super) async fn claims(stranger: &Stranger, node: &Node, key: &str) -> Found {
    let action =
        potluck_protocol::action::ActionId::derive(&project(), &recipe(), key.as_bytes(), None).unwrap();
    let link = stranger.handle.ask(node.peer).await.unwrap();
    let ask = move |id| Ask::Question(Asked { id, project: project(), actions: vec![action], inline: 0 });
    let Some(Ask::Answer(told)) = link.ask(ask).await.unwrap().next().await else { panic!() };
    told.found.into_iter().next().unwrap()
}

async fn endures(how: Lie) {
    let network = network();
    let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
    bob.trusts("alice", &alice, None);
    let a = Node::start(&alice, &[]).await;
    let size = match how {
        Lie::WrongPiece | Lie::OnePieceForEver => 100_000,
        Lie::WrongSmall | Lie::SmallOfOtherSize | Lie::SmallUnasked | Lie::SmallForEver => SMALL,
        _ => SIZE,
    };
    let content = bytes(1, size);
    a.publish("key", &content).await;
    let b = Node::start(&bob, &[&a.address]).await;
    b.follows(1).await;
    let found = claims(&Stranger::enter(&network, &[&a]).await, &a, "key").await;
    a.stop().await;
    let liar = carrier(&network, (how, &b), alice.topic(), found).await;
    // Until Bob has heard of the liar there is nobody to ask.
    let answer = until("the liar is asked", || async {
        match b.lookup("key").await {
            Answer::Miss(Miss::Unclaimed) => None,
            answer => Some(answer),
        }
    });
    let answer = answer.await;
    assert!(matches!(answer, Answer::Miss(Miss::Undeliverable | Miss::Late)), "{how:?}: {answer:?}");
    assert_eq!(b.client.missing(vec![Digest::of(&content)]).await.unwrap().len(), 1);
    let caught = match how {
        Lie::WrongPiece | Lie::OnePieceForEver | Lie::LongValues | Lie::WrongSmall => Some("bad-piece"),
        // Nobody knows yet whose size is wrong.
        Lie::WrongSize | Lie::SmallOfOtherSize => Some("other-size"),
        _ => None,
    };
    if let Some(reason) = caught {
        assert!(b.refused(reason).await, "{how:?} is noticed");
    }
    let a = Node::start(&alice, &[&b.address]).await;
    assert_eq!(b.read(*b.finds("key").await.digest()).await, content);
    drop(liar);
    a.stop().await;
    b.stop().await;
}

macro_rules! endures {
    ($($name:ident: $lie:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            endures(Lie::$lie).await;
        })*

        #[test]
        fn every_lie_is_told() {
            assert_eq!([$(Lie::$lie),*], ALL);
        }
    };
}

endures! {
    wrong_pieces: WrongPiece,
    a_wrong_size: WrongSize,
    one_piece_over_and_over: OnePieceForEver,
    silence: Silence,
    endless_news_of_what_it_has: HaveForEver,
    endless_values: ValuesForEver,
    too_many_values: LongValues,
    what_nobody_asked_for: Unasked,
    a_huge_frame: HugeFrame,
    half_a_frame: HalfFrame,
    the_end: Closes,
    wrong_small_ones: WrongSmall,
    a_small_one_of_another_size: SmallOfOtherSize,
    a_small_one_that_nobody_asked_for: SmallUnasked,
    small_ones_without_end: SmallForEver,
}
