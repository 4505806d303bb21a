// SPDX-License-Identifier: MIT OR Apache-2.0
//! Large Blobs, piece by piece: from several holders of whom some are bad, from those who have only a part, and after
//! the fetcher was interrupted.

use std::sync::atomic::{AtomicU64, Ordering};

use potluck_node::cache::Miss;
use potluck_node::fetch::bits::Bits;
use potluck_node::link::{read_message, write_message};
use potluck_protocol::codec::Bytes;
use potluck_protocol::peer::{Blobs, End, Found, Have, No, Packing, Piece, Values, Want};
use potluck_protocol::piece::{PIECE_BYTES, PieceHasher, Pieces};

use super::carrier::{claims, says};
use super::*;

const COUNT: u64 = 16;

/// What a stand-in does with the pieces that are asked for.
#[derive(Debug, Clone, Copy)]
enum How {
    /// Sends them.
    Well,
    /// Sends others.
    Badly,
    /// Sends so many, and then nothing more.
    Stalls(u64),
    /// Sends so many, and closes.
    Closes(u64),
}

/// Somebody who holds pieces of a Blob.
struct Holding {
    content: Vec<u8>,
    pieces: Pieces,
    has: Bits,
    how: How,
    /// How many questions for pieces came, and how many pieces went.
    asked: AtomicU64,
    sent: AtomicU64,
}

impl Holding {
    fn new(content: &[u8], has: impl Fn(u64) -> bool, how: How) -> Arc<Self> {
        let mut hasher = PieceHasher::new();
        hasher.update(content);
        let pieces = hasher.finish().unwrap();
        let mut bits = Bits::none(pieces.count());
        (0..pieces.count()).filter(|index| has(*index)).for_each(|index| assert!(bits.set(index)));
        let (asked, sent) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { content: content.to_vec(), pieces, has: bits, how, asked, sent })
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    fn piece(&self, id: u64, index: u64) -> Piece {
        let range = self.pieces.range(index).unwrap();
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let mut bytes = self.content[range].to_vec();
        if matches!(self.how, How::Badly) {
            bytes[7] ^= 1;
        }
        let (size, packing) = (bytes.len() as u64, Packing::Raw);
        Piece { id, index, size, packing, bytes: Bytes::new(bytes).unwrap() }
    }

    /// Answers one question; gives whether the stream still stands.
    async fn answer(&self, stream: &mut Stream, want: Want) -> bool {
        let Want { id, digest, values, pieces } = want;
        let end = |no| Blobs::End(End { id, no });
        if digest != *self.pieces.digest() {
            return write_message(stream, &end(Some(No::NotHere))).await.is_ok();
        }
        self.asked.fetch_add(u64::from(!pieces.is_empty()), Ordering::SeqCst);
        let bitmap = (!self.has.is_full()).then(|| Bytes::new(self.has.bytes().to_vec()).unwrap());
        let watch = pieces.is_empty() && bitmap.is_some();
        let _ = write_message(stream, &Blobs::Have(Have { id, size: self.pieces.size(), bitmap })).await;
        if values {
            let values = Bytes::new(self.pieces.list().values.as_flattened().to_vec()).unwrap();
            let _ = write_message(stream, &Blobs::Values(Values { id, first: 0, values })).await;
        }
        if watch {
            return true;
        }
        let mut lacks = false;
        for index in pieces.into_iter().flat_map(|run| run.first..run.first + run.count) {
            match self.how {
                How::Stalls(after) if self.sent() >= after => return true,
                How::Closes(after) if self.sent() >= after => return false,
                _ if !self.has.has(index) => lacks = true,
                _ => {
                    if write_message(stream, &Blobs::Piece(self.piece(id, index))).await.is_err() {
                        return false;
                    }
                    self.sent.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        write_message(stream, &end(lacks.then_some(No::NotHere))).await.is_ok()
    }

    /// Serves this to `victim`, to which it says that it holds the topic.
    async fn serve(
        self: &Arc<Self>,
        network: &Network,
        victim: &Node,
        (topic, found): (Topic, Found),
    ) -> Stranger {
        let stranger = Stranger::enter(network, &[victim]).await;
        let holding = Arc::clone(self);
        stranger.serves(Purpose::Blob, move |mut stream| {
            let holding = Arc::clone(&holding);
            async move {
                span::spawn("stand-in", async move {
                    while let Ok(Some(message)) = read_message(&mut stream).await {
                        let Blobs::Want(want) = message else { continue };
                        if !holding.answer(&mut stream, want).await {
                            return;
                        }
                    }
                });
            }
        });
        says(&stranger, victim, topic, found).await;
        stranger
    }
}

fn large(number: u64) -> Vec<u8> {
    let count = usize::try_from(COUNT).unwrap();
    bytes(number, (count - 1) * PIECE_BYTES + 1000)
}

async fn fetched(node: &Node) -> u64 {
    node.status().await["bytes_fetched"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_holders_of_whom_one_lies_and_one_goes_away() {
    let network = network();
    let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
    bob.trusts("alice", &alice, None);
    let a = Node::start(&alice, &[]).await;
    let content = large(1);
    a.publish("key", &content).await;
    let b = Node::start(&bob, &[&a.address]).await;
    b.follows(1).await;
    let found = claims(&Stranger::enter(&network, &[&a]).await, &a, "key").await;
    a.stop().await;
    // All who are there at first: what they leave undone only Alice can bring.
    let liar = Holding::new(&content, |_| true, How::Badly);
    let leaver = Holding::new(&content, |_| true, How::Closes(3));
    let one = liar.serve(&network, &b, (alice.topic(), found.clone())).await;
    let other = leaver.serve(&network, &b, (alice.topic(), found)).await;
    until("both were asked, and neither was of use", || async {
        let answer = b.lookup("key").await;
        // A miss of another kind comes while it is still being tried.
        let ended = match answer {
            Answer::Miss(miss) => miss == Miss::Undeliverable,
            Answer::Hit(_) => panic!("nobody has given it"),
        };
        (ended && liar.sent() > 0 && leaver.sent() >= 3 && b.refused("bad-piece").await).then_some(())
    })
    .await;
    let asked = liar.asked();
    let a = Node::start(&alice, &[&b.address]).await;
    assert_eq!(b.read(*b.finds("key").await.digest()).await, content);
    // Who sent a bad piece is not asked again for that Blob, however often that is looked for.
    assert_eq!(liar.asked(), asked);
    drop((one, other));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_fetch_is_taken_up_where_it_ended() {
    const FIRST: u64 = 6;
    let network = network();
    let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
    bob.trusts("alice", &alice, None);
    let a = Node::start(&alice, &[]).await;
    let content = large(2);
    a.publish("key", &content).await;
    let b = Node::start(&bob, &[&a.address]).await;
    b.follows(1).await;
    let found = claims(&Stranger::enter(&network, &[&a]).await, &a, "key").await;
    a.stop().await;
    let holding = Holding::new(&content, |_| true, How::Stalls(FIRST));
    let stranger = holding.serve(&network, &b, (alice.topic(), found)).await;
    until("some pieces came", || async {
        b.lookup("key").await;
        (fetched(&b).await >= FIRST * PIECE_BYTES as u64 - PIECE_BYTES as u64).then_some(())
    })
    .await;
    // Of what was sent, the last one may not have been kept yet.
    until("they are kept", || async {
        let staging = bob.home.root().join("store/staging");
        let parts = std::fs::read_dir(staging).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        (parts.max() >= Some((FIRST - 1) * PIECE_BYTES as u64)).then_some(())
    })
    .await;
    b.stop().await;
    drop(stranger);
    let a = Node::start(&alice, &[]).await;
    let b = Node::start(&bob, &[&a.address]).await;
    assert_eq!(b.read(*b.finds("key").await.digest()).await, content);
    let missing = content.len() as u64 - (FIRST - 1) * PIECE_BYTES as u64;
    let fetched = fetched(&b).await;
    // The Catalog comes as well.
    assert!(fetched <= missing + 100_000, "{fetched} bytes came, and {missing} were missing");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_have_half_each_make_it_whole_for_each_other() {
    let network = network();
    let [alice, bob, cem] = [(); 3].map(|()| Place::new(&network, true));
    bob.trusts("alice", &alice, None);
    cem.trusts("alice", &alice, None);
    let a = Node::start(&alice, &[]).await;
    let content = large(3);
    a.publish("key", &content).await;
    let b = Node::start(&bob, &[&a.address]).await;
    let c = Node::start(&cem, &[&a.address, &b.address]).await;
    b.follows(1).await;
    c.follows(1).await;
    let found = claims(&Stranger::enter(&network, &[&a]).await, &a, "key").await;
    a.stop().await;
    let even = Holding::new(&content, |index| index.is_multiple_of(2), How::Well);
    let odd = Holding::new(&content, |index| !index.is_multiple_of(2), How::Well);
    let one = even.serve(&network, &b, (alice.topic(), found.clone())).await;
    let other = odd.serve(&network, &c, (alice.topic(), found)).await;
    let (of_b, of_c) = tokio::join!(b.finds("key"), c.finds("key"));
    assert_eq!(of_b, of_c);
    assert_eq!(b.read(*of_b.digest()).await, content);
    assert_eq!(c.read(*of_c.digest()).await, content);
    for node in [&b, &c] {
        let served = node.status().await["bytes_served"].as_u64().unwrap();
        assert!(served >= 7 * PIECE_BYTES as u64, "{served} bytes went to the other");
    }
    drop((one, other));
    b.stop().await;
    c.stop().await;
}
