// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers peers: one loop a purpose takes their streams, one task a stream serves it. All within limits, and only
//! about Projects that are shared in that Network.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use libp2p::PeerId;
use potluck_protocol::codec::{Bytes, Wire as _, Writer};
use potluck_protocol::frame::Message;
use potluck_protocol::names::Purpose;
use potluck_protocol::peer::{
    Answer, Ask, Blobs, End, Found, Have, Heads, Hello, MAX_VALUES_BYTES, No, Piece, Question, Values, Want,
};
use tokio::io::{AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::{Handle, limits};
use crate::link::{read_message, write_message};
use crate::observe::span;
use crate::outside::Outside;
use crate::peer::Peer;
use crate::store::Blob;
use crate::{catalog, fetch};

type PeerStream = tokio_util::compat::Compat<libp2p::Stream>;

/// Who asks, and where.
#[derive(Clone)]
struct Asker {
    outside: Arc<Outside>,
    peer: Peer,
}

/// Serves all purposes of a Network.
pub fn serve(outside: &Arc<Outside>, handle: &Handle) {
    for purpose in [Purpose::Hello, Purpose::Heads, Purpose::Ask, Purpose::Blob] {
        span::spawn("serve", accept(Arc::clone(outside), handle.clone(), purpose));
    }
}

/// Takes streams as fast as they come: libp2p-stream drops those that nobody takes.
async fn accept(outside: Arc<Outside>, handle: Handle, purpose: Purpose) {
    let mut incoming = handle.accept(purpose);
    let open: Arc<Mutex<HashMap<PeerId, usize>>> = Arc::default();
    let mut tasks = JoinSet::new();
    while let Some((peer, stream)) = incoming.next().await {
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= limits::MAX_STREAMS || !enter(&open, peer) {
            continue;
        }
        let asker = Asker { outside: Arc::clone(&outside), peer: handle.name(&peer) };
        let open = Arc::clone(&open);
        tasks.spawn(async move {
            match purpose {
                Purpose::Hello => hello(&asker, stream.compat()).await,
                Purpose::Heads => heads(&asker, stream.compat()).await,
                Purpose::Ask => ask(&asker, stream.compat()).await,
                Purpose::Blob => blobs(&asker, stream.compat()).await,
                Purpose::Kademlia => {}
            }
            leave(&open, peer);
        });
    }
}

fn enter(open: &Mutex<HashMap<PeerId, usize>>, peer: PeerId) -> bool {
    let mut open = open.lock().expect("nobody panics while counting");
    let count = open.entry(peer).or_default();
    if *count >= limits::MAX_STREAMS_PER_PEER {
        return false;
    }
    *count += 1;
    true
}

fn leave(open: &Mutex<HashMap<PeerId, usize>>, peer: PeerId) {
    let mut open = open.lock().expect("nobody panics while counting");
    if let Some(count) = open.get_mut(&peer) {
        *count -= 1;
        if *count == 0 {
            open.remove(&peer);
        }
    }
}

/// Writes a message within the time that a peer may take to read it; gives whether it did.
async fn send<M: Message>(to: &mut (impl AsyncWrite + Unpin), message: &M) -> bool {
    let sent = tokio::time::timeout(limits::WRITE_STALL, write_message(to, message)).await;
    matches!(sent, Ok(Ok(())))
}

/// The peer says what it holds and follows, again whenever that changes.
async fn hello(asker: &Asker, mut stream: PeerStream) {
    let Asker { outside, peer } = asker;
    while let Ok(Some(hello)) = read_message::<Hello>(&mut stream).await {
        let holds = hello.holds.clone();
        outside.heard(peer.clone(), hello);
        let shared = |project: &str| outside.shares(&peer.network, project);
        for topic in holds.into_iter().filter(|topic| shared(topic.project.as_str())) {
            let holders = fetch::event::Event::Holders {
                topic: topic.clone(),
                peers: vec![peer.clone()],
                sought: false,
            };
            let _ = outside.plans().fetch.send(holders).await;
            let _ = outside.plans().catalogs.send(catalog::plan::Event::Hint(topic)).await;
        }
    }
}

/// The peer pushes Heads, and asks for some.
async fn heads(asker: &Asker, mut stream: PeerStream) {
    let Asker { outside, peer } = asker;
    while let Ok(Some(message)) = read_message::<Heads>(&mut stream).await {
        match message {
            Heads::Push(push) => {
                for head in push.heads {
                    catalog::driver::pushed(outside, peer, &head).await;
                }
            }
            Heads::Pull(pull) => {
                let given = catalog::driver::given(outside, peer, pull).await;
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
    while let Ok(Some(Ask::Question(question))) = read_message::<Ask>(&mut stream).await {
        for part in parts(question.id, found(asker, question).await) {
            if !send(&mut stream, &Ask::Answer(part)).await {
                return;
            }
        }
    }
}

async fn found(asker: &Asker, question: Question) -> Vec<Found> {
    let Asker { outside, peer } = asker;
    if !outside.shares(&peer.network, question.project.as_str()) {
        // The same answer as when nothing is known.
        return Vec::new();
    }
    let engine = Arc::clone(outside.engine());
    let found = span::blocking(move || engine.tell_peer(&question)).await;
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
        let mut size = Writer::new();
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

/// The peer wants Blobs.
async fn blobs(asker: &Asker, stream: PeerStream) {
    let (reader, writer) = tokio::io::split(stream);
    let (to, messages) = mpsc::channel(limits::MAX_WAITING);
    let mut tasks = JoinSet::new();
    tasks.spawn(read_all(reader, to));
    let mut serving = Serving { asker, writer, messages, queue: VecDeque::new() };
    while let Some(want) = serving.next().await {
        if !serving.one(want).await {
            return;
        }
    }
}

async fn read_all(mut reader: ReadHalf<PeerStream>, to: mpsc::Sender<Blobs>) {
    while let Ok(Some(message)) = read_message::<Blobs>(&mut reader).await {
        if to.send(message).await.is_err() {
            return;
        }
    }
}

/// What one stream of Blobs has under way: one answer at a time, the others wait.
struct Serving<'a> {
    asker: &'a Asker,
    writer: WriteHalf<PeerStream>,
    messages: mpsc::Receiver<Blobs>,
    queue: VecDeque<Want>,
}

impl Serving<'_> {
    /// The next question; none at the end of the stream.
    async fn next(&mut self) -> Option<Want> {
        while self.queue.is_empty() {
            let message = self.messages.recv().await?;
            self.heard(message, None)?;
        }
        self.queue.pop_front()
    }

    /// Takes a message; gives whether the question that is being answered was withdrawn, or nothing when the peer
    /// does not keep to the protocol.
    fn heard(&mut self, message: Blobs, now: Option<u64>) -> Option<bool> {
        match message {
            Blobs::Want(want) if self.queue.len() < limits::MAX_WAITING => self.queue.push_back(want),
            Blobs::Stop(stop) => {
                self.queue.retain(|want| want.id != stop.id);
                return Some(now == Some(stop.id));
            }
            _ => return None,
        }
        Some(false)
    }

    /// Answers one question; gives whether the stream still stands.
    async fn one(&mut self, want: Want) -> bool {
        let id = want.id;
        let end = |no| Blobs::End(End { id, no });
        let Some(blob) = self.find(&want).await else {
            return send(&mut self.writer, &end(Some(No::NotHere))).await;
        };
        let blob = Arc::new(blob);
        let have = Have { id, size: blob.pieces().size(), bitmap: None };
        if !send(&mut self.writer, &Blobs::Have(have)).await {
            return false;
        }
        if want.values && !self.values(id, &blob).await {
            return false;
        }
        for run in &want.pieces {
            for index in run.first..(run.first + run.count).min(blob.pieces().count()) {
                while let Ok(message) = self.messages.try_recv() {
                    match self.heard(message, Some(id)) {
                        None => return false,
                        Some(true) => return send(&mut self.writer, &end(Some(No::Stopped))).await,
                        Some(false) => {}
                    }
                }
                let Some(piece) = piece(id, &blob, index).await else {
                    return send(&mut self.writer, &end(Some(No::NotHere))).await;
                };
                self.asker.outside.engine().counts().served(piece.bytes.len() as u64);
                if !send(&mut self.writer, &Blobs::Piece(piece)).await {
                    return false;
                }
            }
        }
        send(&mut self.writer, &end(None)).await
    }

    /// The Blob, if this asker may have it.
    async fn find(&mut self, want: &Want) -> Option<Blob> {
        let (outside, network) = (Arc::clone(&self.asker.outside), Arc::clone(&self.asker.peer.network));
        let digest = want.digest;
        let found = span::blocking(move || {
            outside.engine().blob_for_peer(&digest, |project| outside.shares(&network, project))
        });
        found.await.unwrap_or_else(|error| {
            tracing::warn!(blob = %digest, %error, "a blob cannot be served");
            None
        })
    }

    async fn values(&mut self, id: u64, blob: &Blob) -> bool {
        let all = &blob.pieces().list().values;
        for (at, values) in all.chunks(MAX_VALUES_BYTES / 32).enumerate() {
            let first = (at * (MAX_VALUES_BYTES / 32)) as u64;
            let values =
                Bytes::new(values.as_flattened().to_vec()).expect("a chunk has the bound of a message");
            if !send(&mut self.writer, &Blobs::Values(Values { id, first, values })).await {
                return false;
            }
        }
        true
    }
}

/// One piece as it is stored. The peer checks it.
async fn piece(id: u64, blob: &Arc<Blob>, index: u64) -> Option<Piece> {
    let size = blob.pieces().range(index).map(|range| range.end - range.start)?;
    let blob = Arc::clone(blob);
    let (packing, bytes) = span::blocking(move || blob.packed(index)).await.ok()?;
    Some(Piece { id, index, size, packing, bytes: Bytes::new(bytes)? })
}
