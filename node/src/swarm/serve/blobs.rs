// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sends Blobs to peers, those that are here and what came of those that are still coming.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use potluck_protocol::codec::Bytes;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::{
    Blobs, End, Have, Inline, MAX_INLINE_BYTES, MAX_QUESTION_BYTES, MAX_VALUES_BYTES, No, Packing, Piece,
    Run, Several, Small, Values, Want,
};
use potluck_protocol::piece::{PIECE_BYTES, Pieces};
use tokio::io::{AsyncWriteExt as _, WriteHalf};
use tokio::sync::mpsc;

use super::gate::Turn;
use super::{Asker, PeerStream, heard, send};
use crate::engine::Engine;
use crate::index::View;
use crate::observe::clock;
use crate::outside::Outside;
use crate::plan::Moment;
use crate::store::{Arriving, Blob, StoreError};
use crate::swarm::limits;

/// Most bytes of small Blobs in one message: what the reader takes at once is little, and there is room for what goes
/// with each.
const SMALL_BYTES: usize = 512 * 1024;
/// More than its name and numbers take, for each.
const SMALL_EXTRA: usize = 64;

/// Blobs that were opened not long ago, whoever asked for them. Nobody who is slow keeps others from it.
#[derive(Default)]
pub(super) struct Shelf(Mutex<BTreeMap<Digest, (Moment, Arc<Blob>)>>);

impl Shelf {
    fn get(&self, digest: &Digest) -> Option<Arc<Blob>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (used, blob) = open.get_mut(digest)?;
        *used = clock::moment();
        Some(Arc::clone(blob))
    }

    fn put(&self, digest: Digest, blob: &Arc<Blob>) {
        let now = clock::moment();
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, (used, _)| now.since(*used) < limits::OPEN_BLOB_LIFE);
        if open.len() >= limits::MAX_OPEN_BLOBS
            && let Some(oldest) = open.iter().min_by_key(|(_, (used, _))| *used).map(|(digest, _)| *digest)
        {
            open.remove(&oldest);
        }
        open.insert(digest, (now, Arc::clone(blob)));
    }
}

/// What is here of a Blob.
enum Held {
    Whole(Arc<Blob>),
    /// It is still coming.
    Part(Arriving),
}

impl Held {
    fn pieces(&self) -> &Pieces {
        match self {
            Self::Whole(blob) => blob.pieces(),
            Self::Part(arriving) => arriving.pieces(),
        }
    }

    fn packed(&self, index: u64) -> Result<Option<(Packing, bytes::Bytes)>, StoreError> {
        match self {
            Self::Whole(blob) => Ok(Some(blob.packed(index)?)),
            Self::Part(arriving) => arriving.packed(index),
        }
    }

    /// Which pieces, as it is said to peers; nothing when all are here.
    fn have(&self, id: u64) -> Have {
        let bitmap = match self {
            Self::Whole(_) => None,
            Self::Part(arriving) => Bytes::new(arriving.bits().bytes().to_vec()),
        };
        Have { id, size: self.pieces().size(), bitmap }
    }
}

impl Asker {
    /// What is here of a Blob, if this asker may have it.
    async fn held(&self, digest: Digest) -> Option<Held> {
        let (outside, network) = (Arc::clone(&self.outside), Arc::clone(&self.peer.network));
        let shelf = Arc::clone(&self.bounds.shelf);
        self.work(move || find(&digest, (&outside, &network), &shelf)).await
    }

    /// One piece as it is stored, if it is here and the asker may still have it. The peer checks it.
    async fn piece(&self, (id, digest): (u64, Digest), index: u64) -> Option<Piece> {
        let (outside, network) = (Arc::clone(&self.outside), Arc::clone(&self.peer.network));
        let shelf = Arc::clone(&self.bounds.shelf);
        let found = self.work(move || {
            let held = find(&digest, (&outside, &network), &shelf)?;
            let size = held.pieces().range(index).map(|range| range.end - range.start)?;
            held.packed(index).ok().flatten().map(|packed| (size, packed))
        });
        let (size, (packing, bytes)) = found.await?;
        Some(Piece { id, index, size, packing, bytes: Bytes::new(bytes)? })
    }
}

impl Asker {
    /// As many of these small Blobs as go into one message, the rest of them, and whether some are not here, or not for
    /// this asker.
    async fn small(&self, mut digests: VecDeque<Digest>) -> (Vec<Inline>, VecDeque<Digest>, bool) {
        let (outside, network) = (Arc::clone(&self.outside), Arc::clone(&self.peer.network));
        self.work(move || {
            let (mut blobs, mut room, mut lacks) = (Vec::new(), SMALL_BYTES, false);
            let engine = outside.engine();
            let view = match engine.store().index().view() {
                Ok(view) => view,
                Err(error) => {
                    tracing::warn!(%error, "blobs cannot be served");
                    return (blobs, VecDeque::new(), true);
                }
            };
            let shared = shared_in(&outside, &network);
            while room >= MAX_INLINE_BYTES + SMALL_EXTRA
                && let Some(digest) = digests.pop_front()
            {
                match small(&digest, (engine, &view), &shared) {
                    Some(inline) => {
                        room -= inline.bytes.len() + SMALL_EXTRA;
                        blobs.push(inline);
                    }
                    None => lacks = true,
                }
            }
            (blobs, digests, lacks)
        })
        .await
    }
}

/// Says which Projects are shared on a Network. Neighbours in a Tree are mostly of the same one, and whether that is
/// shared is looked up once.
fn shared_in(outside: &Outside, network: &str) -> impl Fn(&str) -> bool {
    let last = RefCell::new((String::new(), false));
    move |project| {
        let mut last = last.borrow_mut();
        if last.0 != project {
            *last = (project.to_owned(), outside.shares(network, project));
        }
        last.1
    }
}

/// A small Blob as it is stored, if it is one and may go to a Network. Blocks.
fn small(
    digest: &Digest,
    (engine, view): (&Engine, &View<'_>),
    shared: &impl Fn(&str) -> bool,
) -> Option<Inline> {
    let look = || {
        if !view.belongs(digest, shared)? {
            return Ok(None);
        }
        if let Some(bytes) = engine.store().small_as_it_is(view, digest)? {
            let size = bytes.len() as u64;
            let whole = |bytes| Inline { digest: *digest, size, packing: Packing::Raw, bytes };
            return Ok(Bytes::new(bytes).map(whole));
        }
        let Some(blob) = engine.store().blob(digest)? else { return Ok(None) };
        let size = blob.pieces().size();
        if size > MAX_INLINE_BYTES as u64 {
            return Ok(None);
        }
        let (packing, bytes) = blob.packed(0)?;
        Ok::<_, StoreError>(Bytes::new(bytes).map(|bytes| Inline { digest: *digest, size, packing, bytes }))
    };
    look().unwrap_or_else(|error| {
        tracing::warn!(blob = %digest, %error, "a blob cannot be served");
        None
    })
}

/// What is here of a Blob, if it may go to a Network. Blocks.
fn find(digest: &Digest, (outside, network): (&Outside, &str), shelf: &Shelf) -> Option<Held> {
    let look = || {
        let shared = |project: &str| outside.shares(network, project);
        let engine = outside.engine();
        if let Some(blob) = shelf.get(digest) {
            let may = engine.store().index().belongs(digest, shared)?;
            return Ok(may.then_some(Held::Whole(blob)));
        }
        if let Some(blob) = engine.blob_for_peer(digest, shared)? {
            let blob = Arc::new(blob);
            shelf.put(*digest, &blob);
            return Ok(Some(Held::Whole(blob)));
        }
        let arriving = engine.store().arriving(digest);
        Ok::<_, StoreError>(arriving.filter(|one| may_have(one, outside, network)).map(Held::Part))
    };
    look().unwrap_or_else(|error| {
        tracing::warn!(blob = %digest, %error, "a blob cannot be served");
        None
    })
}

/// Whether a Blob that is still coming may go to a peer: it comes for a Project, or belongs to one, that is shared there.
fn may_have(arriving: &Arriving, outside: &Outside, network: &str) -> bool {
    let shared = |project: &str| outside.shares(network, project);
    let index = outside.engine().store().index();
    arriving.belongs(shared) || index.belongs(arriving.pieces().digest(), shared).unwrap_or(false)
}

/// The peer wants Blobs.
pub(super) async fn serve(asker: &Asker, stream: PeerStream) {
    let (mut reader, writer) = tokio::io::split(stream);
    let (to, messages) = mpsc::channel(limits::MAX_WAITING);
    let reading = async move {
        while let Some(message) = heard::<Blobs>(&mut reader, MAX_QUESTION_BYTES).await {
            if to.send(message).await.is_err() {
                return;
            }
        }
    };
    let (waiting, sending, watched) = Default::default();
    let said = Moment::default();
    let serving = Serving { asker, writer, messages, waiting, sending, watched, ahead: None, said };
    tokio::select! {
        () = serving.run() => {}
        // Whoever stops asking still gets what it asked for.
        () = async { reading.await; std::future::pending().await } => {}
    }
}

/// Sends a message during a turn; gives whether the stream still stands.
async fn give(writer: &mut WriteHalf<PeerStream>, message: Blobs, turn: &Turn) -> bool {
    tokio::select! {
        sent = send(writer, &message) => sent,
        () = turn.cut() => false,
    }
}

/// What one stream of Blobs has under way. Several are sent in turn, a piece of each, so that a large one does not hold
/// up the others; the rest waits.
struct Serving<'a> {
    asker: &'a Asker,
    writer: WriteHalf<PeerStream>,
    messages: mpsc::Receiver<Blobs>,
    waiting: VecDeque<Wanted>,
    sending: VecDeque<Sending>,
    watched: Vec<Watched>,
    /// The piece that is likely to be next, by id and index, read while the one before was on its way.
    ahead: Option<((u64, u64), Option<Piece>)>,
    /// When it was last said what more there is of them.
    said: Moment,
}

/// A question that waits.
enum Wanted {
    Pieces(Want),
    Small(Several),
}

impl Wanted {
    fn id(&self) -> u64 {
        match self {
            Self::Pieces(want) => want.id,
            Self::Small(several) => several.id,
        }
    }
}

/// What is being sent in answer to a question.
struct Sending {
    id: u64,
    what: What,
    /// Whether some of it was not here.
    lacks: bool,
}

enum What {
    Pieces(Sent),
    /// The small Blobs that are still to be sent.
    Small(VecDeque<Digest>),
}

/// A Blob that is being sent.
struct Sent {
    digest: Digest,
    /// How many pieces it has.
    count: u64,
    /// The pieces that are still to be sent.
    runs: VecDeque<Run>,
}

/// A Blob of which the peer wants to hear what more comes of it.
struct Watched {
    id: u64,
    digest: Digest,
    /// How many pieces it was told of.
    told: u64,
}

impl Sent {
    fn next(&mut self) -> Option<u64> {
        // What lies beyond the end is not there to be sent.
        while self.runs.front().is_some_and(|run| run.first >= self.count) {
            self.runs.pop_front();
        }
        let run = self.runs.front_mut()?;
        let index = run.first;
        (run.first, run.count) = (run.first + 1, run.count - 1);
        if run.count == 0 {
            self.runs.pop_front();
        }
        Some(index)
    }

    /// What [`Self::next`] is going to give.
    fn peek(&self) -> Option<u64> {
        self.runs.iter().map(|run| run.first).find(|first| *first < self.count)
    }
}

impl Serving<'_> {
    /// Serves until the stream ends or the peer does not keep to the protocol.
    async fn run(mut self) {
        while self.step().await.is_some() {}
        let _ = self.writer.shutdown().await;
    }

    /// Does the next thing; nothing when there will be none.
    async fn step(&mut self) -> Option<()> {
        if self.sending.is_empty() && self.waiting.is_empty() {
            self.rest().await?;
        }
        while let Ok(message) = self.messages.try_recv() {
            self.heard(message).await?;
        }
        self.news().await?;
        while self.sending.len() < limits::MAX_SENDING
            && let Some(wanted) = self.waiting.pop_front()
        {
            match wanted {
                Wanted::Pieces(want) => self.begin(want).await?,
                Wanted::Small(Several { id, digests }) => {
                    self.sending.push_back(Sending { id, what: What::Small(digests.into()), lacks: false });
                }
            }
        }
        let Some(mut sending) = self.sending.pop_front() else { return Some(()) };
        let id = sending.id;
        let more = match &mut sending.what {
            What::Pieces(sent) => sent.next(),
            What::Small(digests) => digests.front().map(|_| 0),
        };
        let Some(index) = more else { return self.end(id, sending.lacks.then_some(No::NotHere)).await };
        // A turn lasts until the peer has taken what is sent: who is slow has one, and others have theirs.
        let Some(turn) = self.asker.bounds.gate.turn(&self.asker.peer, PIECE_BYTES as u64).await else {
            return self.end(id, Some(No::Busy)).await;
        };
        let (sent, lacks) = match &mut sending.what {
            What::Pieces(sent) => self.piece(id, (sent, index), &turn).await,
            What::Small(digests) => self.several(id, digests, &turn).await,
        };
        if !sent {
            return None;
        }
        sending.lacks |= lacks;
        self.sending.push_back(sending);
        Some(())
    }

    /// Sends a piece; gives whether the stream still stands, and whether the piece was not here.
    async fn piece(&mut self, id: u64, (sent, index): (&Sent, u64), turn: &Turn) -> (bool, bool) {
        let (asker, digest) = (self.asker, sent.digest);
        let piece = match self.ahead.take() {
            Some((which, piece)) if which == (id, index) => piece,
            _ => asker.piece((id, digest), index).await,
        };
        let Some(piece) = piece else { return (true, true) };
        turn.sends(piece.bytes.len());
        asker.outside.engine().counts().served(piece.bytes.len() as u64);
        let alone = self.sending.is_empty() && self.waiting.is_empty();
        let next = sent.peek().filter(|_| alone);
        let ahead = async { Some(((id, next?), asker.piece((id, digest), next?).await)) };
        let (sent, ahead) = tokio::join!(give(&mut self.writer, Blobs::Piece(piece), turn), ahead);
        self.ahead = ahead;
        (sent, false)
    }

    /// Sends some small Blobs; gives whether the stream still stands, and whether some were not here.
    async fn several(&mut self, id: u64, digests: &mut VecDeque<Digest>, turn: &Turn) -> (bool, bool) {
        let (blobs, rest, lacks) = self.asker.small(std::mem::take(digests)).await;
        *digests = rest;
        if blobs.is_empty() {
            return (true, lacks);
        }
        let Asker { outside, peer, .. } = self.asker;
        let bytes = blobs.iter().map(|blob| blob.bytes.len()).sum::<usize>();
        turn.sends(bytes);
        outside.engine().counts().served(bytes as u64);
        for blob in &blobs {
            outside.asked(peer, blob.digest, blob.size);
        }
        (give(&mut self.writer, Blobs::Small(Small { id, blobs }), turn).await, lacks)
    }

    /// Waits for the peer, or until there may be news for it.
    async fn rest(&mut self) -> Option<()> {
        let next = self.messages.recv();
        let message = if self.watched.is_empty() {
            next.await?
        } else {
            match tokio::time::timeout(limits::WATCH_PAUSE, next).await {
                Ok(message) => message?,
                Err(_) => return Some(()),
            }
        };
        self.heard(message).await
    }

    /// Says what more is here of what the peer watches, not too often.
    async fn news(&mut self) -> Option<()> {
        let now = clock::moment();
        if self.watched.is_empty() || now.since(self.said) < self.pause() {
            return Some(());
        }
        self.said = now;
        for mut watched in std::mem::take(&mut self.watched) {
            match self.asker.held(watched.digest).await {
                None => self.end(watched.id, Some(No::NotHere)).await?,
                Some(held @ Held::Whole(_)) => {
                    self.say(Blobs::Have(held.have(watched.id))).await?;
                    self.end(watched.id, None).await?;
                }
                Some(Held::Part(arriving)) => {
                    let ones = arriving.bits().ones();
                    if ones > watched.told {
                        watched.told = ones;
                        self.say(Blobs::Have(Held::Part(arriving).have(watched.id))).await?;
                    }
                    self.watched.push(watched);
                }
            }
        }
        Some(())
    }

    /// Long bitmaps are said more rarely.
    fn pause(&self) -> Duration {
        let pieces: u64 = self.watched.iter().map(|watched| watched.told).sum();
        limits::WATCH_PAUSE.saturating_add(Duration::from_millis(pieces / 64))
    }

    async fn say(&mut self, message: Blobs) -> Option<()> {
        send(&mut self.writer, &message).await.then_some(())
    }

    async fn end(&mut self, id: u64, no: Option<No>) -> Option<()> {
        self.say(Blobs::End(End { id, no })).await
    }

    /// Takes a message; nothing when the peer does not keep to the protocol.
    async fn heard(&mut self, message: Blobs) -> Option<()> {
        match message {
            Blobs::Want(want) => self.wanted(Wanted::Pieces(want))?,
            Blobs::Several(several) => self.wanted(Wanted::Small(several))?,
            Blobs::Stop(stop) => {
                let open = |this: &Self| this.waiting.len() + this.sending.len() + this.watched.len();
                let before = open(self);
                self.waiting.retain(|wanted| wanted.id() != stop.id);
                self.sending.retain(|sending| sending.id != stop.id);
                self.watched.retain(|watched| watched.id != stop.id);
                if open(self) < before {
                    self.end(stop.id, Some(No::Stopped)).await?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Takes a question, if there is room for it and it is a new one.
    fn wanted(&mut self, wanted: Wanted) -> Option<()> {
        let id = wanted.id();
        let waiting = self.waiting.iter().map(Wanted::id);
        let sending = self.sending.iter().map(|sending| sending.id);
        let mut known = waiting.chain(sending).chain(self.watched.iter().map(|watched| watched.id));
        if known.any(|known| known == id) || self.waiting.len() >= limits::MAX_WAITING {
            return None;
        }
        drop(known);
        self.waiting.push_back(wanted);
        Some(())
    }

    /// Begins to answer one question.
    async fn begin(&mut self, want: Want) -> Option<()> {
        let Want { id, digest, values, pieces } = want;
        let Some(held) = self.asker.held(digest).await else { return self.end(id, Some(No::NotHere)).await };
        let (have, count) = (held.have(id), held.pieces().count());
        self.asker.outside.asked(&self.asker.peer, digest, have.size);
        if pieces.is_empty()
            && !values
            && let Held::Part(arriving) = &held
        {
            if self.watched.len() >= limits::MAX_WATCHED {
                return self.end(id, Some(No::Busy)).await;
            }
            self.watched.push(Watched { id, digest, told: arriving.bits().ones() });
            return self.say(Blobs::Have(have)).await;
        }
        self.say(Blobs::Have(have)).await?;
        if values {
            self.values(id, held.pieces()).await?;
        }
        let what = What::Pieces(Sent { digest, count, runs: pieces.into() });
        self.sending.push_back(Sending { id, what, lacks: false });
        Some(())
    }

    async fn values(&mut self, id: u64, pieces: &Pieces) -> Option<()> {
        let all = &pieces.list().values;
        for (at, values) in all.chunks(MAX_VALUES_BYTES / 32).enumerate() {
            let first = (at * (MAX_VALUES_BYTES / 32)) as u64;
            let values =
                Bytes::new(values.as_flattened().to_vec()).expect("a chunk has the bound of a message");
            self.say(Blobs::Values(Values { id, first, values })).await?;
        }
        Some(())
    }
}
