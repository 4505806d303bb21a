// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers peers: one loop a purpose takes their streams, one task a stream serves it. All within limits, and only
//! about Projects that are shared in that Network. Blobs are served by `blobs`, in turns that `gate` gives.

mod blobs;
mod gate;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt as _, stream};
use libp2p::PeerId;
use potluck_protocol::codec::{Wire as _, Writer};
use potluck_protocol::frame::Message;
use potluck_protocol::names::Purpose;
use potluck_protocol::peer::{Answer, Ask, Found, Heads, Hello, MAX_QUESTION_BYTES, Question, Topic};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use self::blobs::Shelf;
use self::gate::Gate;
use super::bulk::PeerStream;
use super::{Handle, limits};
use crate::catalog;
use crate::catalog::plan::Event;
use crate::link::{read_message_within, read_question_within, write_message};
use crate::observe::span;
use crate::outside::Outside;
use crate::peer::Peer;

/// Who asks, and where.
#[derive(Clone)]
struct Asker {
    outside: Arc<Outside>,
    peer: Peer,
    bounds: Bounds,
}

/// What all peers of a Network share.
#[derive(Clone)]
struct Bounds {
    /// Places for what is being looked up on the disk.
    work: Arc<Semaphore>,
    /// Blobs that are open to be sent.
    shelf: Arc<Shelf>,
    /// Whose turn it is to be sent something.
    gate: Arc<Gate>,
}

impl Asker {
    /// Looks something up on the disk, once there is a place for that.
    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let place = Arc::clone(&self.bounds.work).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        span::blocking(move || {
            let done = work();
            drop(place);
            done
        })
        .await
    }
}

/// Serves all purposes of a Network, until the tasks that are given are ended.
///
/// Blobs go out at `upload` bytes a second at most, if that is said.
pub fn serve(
    outside: &Arc<Outside>,
    handle: &Handle,
    upload: Option<u64>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let bounds = Bounds {
        work: Arc::new(Semaphore::new(limits::MAX_WORK)),
        shelf: Arc::default(),
        gate: Gate::new(upload),
    };
    let serve = |purpose| {
        // Before anything is awaited: whoever connects now is to be heard.
        let beside = handle.accept(purpose);
        let beside = beside.map(|(peer, stream)| (peer, Box::new(stream.compat()) as PeerStream));
        let incoming = match purpose {
            Purpose::Ask | Purpose::Blob => {
                let mut alone = handle.accept_bulk(purpose);
                stream::select(beside, stream::poll_fn(move |context| alone.poll_recv(context))).boxed()
            }
            _ => beside.boxed(),
        };
        let (outside, handle, bounds) = (Arc::clone(outside), handle.clone(), bounds.clone());
        span::spawn(
            "serve",
            accept(purpose, incoming, move |peer: &PeerId| Asker {
                outside: Arc::clone(&outside),
                peer: handle.name(peer),
                bounds: bounds.clone(),
            }),
        )
    };
    [Purpose::Hello, Purpose::Heads, Purpose::Ask, Purpose::Blob].map(serve).into()
}

/// Takes streams as fast as they come: libp2p-stream drops those that nobody takes.
async fn accept(
    purpose: Purpose,
    mut incoming: impl Stream<Item = (PeerId, PeerStream)> + Send + Unpin,
    asker: impl Fn(&PeerId) -> Asker + Send,
) {
    let open: Arc<Mutex<HashMap<PeerId, usize>>> = Arc::default();
    let mut tasks = JoinSet::new();
    while let Some((peer, stream)) = incoming.next().await {
        while tasks.try_join_next().is_some() {}
        let Some(place) = Place::enter(&open, peer).filter(|_| tasks.len() < limits::MAX_STREAMS) else {
            continue;
        };
        let asker = asker(&peer);
        tasks.spawn(async move {
            match purpose {
                Purpose::Hello => hello(&asker, stream).await,
                Purpose::Heads => heads(&asker, stream).await,
                Purpose::Ask => ask(&asker, stream).await,
                Purpose::Blob => blobs::serve(&asker, stream).await,
                Purpose::Kademlia => {}
            }
            drop(place);
        });
    }
}

/// A peer's place for one stream, given back however that ends.
struct Place {
    open: Arc<Mutex<HashMap<PeerId, usize>>>,
    peer: PeerId,
}

impl Place {
    fn enter(open: &Arc<Mutex<HashMap<PeerId, usize>>>, peer: PeerId) -> Option<Self> {
        let mut counts = open.lock().expect("nobody panics while counting");
        let count = counts.entry(peer).or_default();
        if *count >= limits::MAX_STREAMS_PER_PEER {
            return None;
        }
        *count += 1;
        Some(Self { open: Arc::clone(open), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.lock().expect("nobody panics while counting");
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

/// The next question on a stream. Nothing at its end, and nothing when the peer is silent for long, says half of
/// something, or says nonsense: it opens another when it needs one.
async fn heard<M: Message>(from: &mut (impl AsyncRead + Unpin), most: usize) -> Option<M> {
    read_question_within(from, (Some(limits::IDLE), limits::MESSAGE_STALL), most).await.ok().flatten()
}

/// Writes a message within the time that a peer may take to read it; gives whether it did.
async fn send<M: Message>(to: &mut (impl AsyncWrite + Unpin), message: &M) -> bool {
    let sent = tokio::time::timeout(limits::WRITE_STALL, write_message(to, message)).await;
    matches!(sent, Ok(Ok(())))
}

/// The peer says what it holds and follows, again whenever that changes. It may be silent for as long as it likes.
async fn hello(asker: &Asker, mut stream: PeerStream) {
    let Asker { outside, peer, .. } = asker;
    let heard = outside.hears(peer);
    let mut held = BTreeSet::new();
    while let Ok(Some(hello)) = read_message_within::<Hello>(&mut stream, None, limits::MESSAGE_STALL).await {
        let followed = outside.engine().topics();
        let holds: BTreeSet<_> = hello.holds.into_iter().collect();
        heard.says(holds.clone(), hello.follows.into_iter().collect());
        let new = |topic: &&Topic| {
            followed.contains(*topic) && outside.shares(&peer.network, topic.project.as_str())
        };
        for topic in holds.difference(&held).filter(new) {
            outside.holder(topic, peer, Event::Hint(topic.clone())).await;
        }
        held = holds;
        // Nobody has that much news: the others on this machine are not to wait for one who talks all the time.
        tokio::time::sleep(limits::HELLO_PAUSE).await;
    }
}

/// The peer pushes Heads, and asks for some.
async fn heads(asker: &Asker, mut stream: PeerStream) {
    let Asker { outside, peer, .. } = asker;
    while let Some(message) = heard::<Heads>(&mut stream, Heads::MAX_BYTES).await {
        match message {
            Heads::Push(push) => {
                let count = push.heads.len();
                for head in push.heads {
                    if !catalog::driver::pushed(outside, peer, &head).await {
                        return;
                    }
                }
                // Each may have cost a signature, whether or not it was news: nobody is to keep a thread busy with them.
                tokio::time::sleep(
                    limits::HEAD_PAUSE.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)),
                )
                .await;
            }
            Heads::Pull(pull) => {
                let (outside, peer) = (Arc::clone(outside), peer.clone());
                let given = asker.work(move || catalog::driver::given(&outside, &peer, pull)).await;
                if !send(&mut stream, &Heads::Given(given)).await {
                    return;
                }
            }
            Heads::Given(_) => return,
        }
    }
}

/// The peer looks for actions.
async fn ask(asker: &Asker, mut stream: PeerStream) {
    while let Some(Ask::Question(question)) = heard(&mut stream, MAX_QUESTION_BYTES).await {
        for part in parts(question.id, found(asker, question).await) {
            if !send(&mut stream, &Ask::Answer(part)).await {
                return;
            }
        }
    }
}

async fn found(asker: &Asker, mut question: Question) -> Vec<Found> {
    let Asker { outside, peer, .. } = asker;
    if !outside.shares(&peer.network, question.project.as_str()) {
        // The same answer as when nothing is known.
        return Vec::new();
    }
    // Asking for one thing a thousand times is no way to get it a thousand times.
    question.actions.sort_unstable();
    question.actions.dedup();
    let engine = Arc::clone(outside.engine());
    let found = match engine.tell_peer_at_once(&question) {
        Some(found) => found,
        None => asker.work(move || engine.tell_peer(&question)).await,
    };
    found.unwrap_or_else(|error| {
        tracing::warn!(%error, "a peer's question cannot be answered");
        Vec::new()
    })
}

/// As many messages as the answer needs, at least one.
fn parts(id: u64, found: Vec<Found>) -> Vec<Answer> {
    let mut parts = vec![Answer { id, found: Vec::new(), last: false }];
    let mut room = 0;
    for found in found {
        let mut size = Writer::with_capacity(4096);
        found.write(&mut size);
        let size = size.into_bytes().len();
        // What does not fit into a message by itself is not sent.
        if size > Ask::MAX_BYTES - 64 {
            continue;
        }
        if size > room {
            parts.push(Answer { id, found: Vec::new(), last: false });
            room = Ask::MAX_BYTES - 64;
        }
        room -= size;
        parts.last_mut().expect("there is at least one").found.push(found);
    }
    if parts.len() > 1 {
        parts.remove(0);
    }
    parts.last_mut().expect("there is at least one").last = true;
    parts
}
