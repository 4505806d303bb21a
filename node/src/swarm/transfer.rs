// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fetches pieces of a Blob from one peer, checking each as it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes as Shared;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::{Blobs, End, Have, Inline, No, Packing, Piece, Run, Several, Stop, Want};
use potluck_protocol::piece::{PieceList, Pieces, piece_count};
use tokio::sync::{mpsc, oneshot};

use super::{Handle, limits};
use crate::content::Durability;
use crate::engine::Engine;
use crate::fetch::bits::Bits;
use crate::fetch::download::Download;
use crate::fetch::event::{Brought, Event, Has, Need};
use crate::gc::protect::Hold;
use crate::link::{Answers, Link};
use crate::observe::span;
use crate::reach::ways::Way;
use crate::store::{Arriving, StoreError, is_small, unpack};

/// What to fetch.
#[derive(Debug)]
pub struct Job {
    /// Its number.
    pub transfer: u64,
    /// The Blob.
    pub need: Need,
    /// The pieces of it; none to hear what the peer has, as long as that grows.
    pub pieces: Vec<u64>,
    /// What came of it already, when it has several pieces.
    pub download: Option<Arc<Download>>,
    /// Ends when it is to be stopped.
    pub stopped: oneshot::Receiver<()>,
}

/// Why a transfer ended otherwise than with all that was wanted.
enum Cut {
    /// The peer has not got it, or says so.
    Said(Option<No>),
    /// It is too slow, or went away.
    Failed,
    /// It has a Blob of so many bytes.
    OtherSize(u64),
    /// What came is not what was asked for.
    Bad(String),
    /// It cannot be kept here.
    NoRoom(StoreError),
}

/// Neighbours go together.
fn runs(pieces: &[u64]) -> Vec<Run> {
    let mut sorted = pieces.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for first in sorted {
        match runs.last_mut() {
            Some(run) if run.first + run.count == first => run.count += 1,
            _ => runs.push(Run { first, count: 1 }),
        }
    }
    runs
}

/// Fetches what a job says, and tells the Plan of it.
pub async fn fetch(
    (engine, events): (&Engine, &mpsc::Sender<Event>),
    (handle, peer): (&Handle, PeerId),
    job: Job,
) -> Brought {
    let Job { transfer, need, pieces, download, stopped } = job;
    let Need { digest, size } = need;
    let single = piece_count(size) == 1;
    if single && engine.store().has(&digest).unwrap_or(false) {
        return Brought::Done;
    }
    let Some((link, way)) = handle.blobs(peer).await else { return Brought::Failed };
    // One piece needs no list: its hash is the name.
    let values =
        !single && !pieces.is_empty() && download.as_ref().is_none_or(|one| one.arriving().is_none());
    let wanted = runs(&pieces);
    let want = move |id| Blobs::Want(Want { id, digest, values, pieces: wanted });
    let Some(answers) = link.ask(want).await else { return Brought::Failed };
    let id = answers.id;
    let left = pieces.iter().copied().collect();
    let from = (handle, (peer, way));
    let mut taking = Taking { engine, events, from, transfer, need, values, left, answers };
    let ended = tokio::select! {
        ended = taking.run(download) => ended,
        // Told to stop: what is under way is let go.
        _ = stopped => {
            stop(&link, id).await;
            return Brought::Part;
        }
    };
    if matches!(ended, Err(Cut::Failed)) {
        handle.failed_on(peer, (&link, way));
    }
    if !matches!(ended, Ok(_) | Err(Cut::Said(_))) {
        stop(&link, id).await;
    }
    outcome(engine, (peer, &need), ended)
}

async fn stop(link: &Link<Blobs, Blobs>, id: u64) {
    link.say(Blobs::Stop(Stop { id })).await;
}

fn outcome(engine: &Engine, (peer, need): (PeerId, &Need), ended: Result<Brought, Cut>) -> Brought {
    let blob = &need.digest;
    match ended {
        Ok(brought) => brought,
        Err(Cut::Said(None | Some(No::Stopped))) => Brought::Part,
        Err(Cut::Said(Some(No::NotHere))) => Brought::NotThere,
        Err(Cut::Said(Some(No::Busy))) => Brought::Busy,
        Err(Cut::Failed) => Brought::Failed,
        Err(Cut::OtherSize(size)) => {
            tracing::info!(%peer, %blob, size, claimed = need.size, "it is said to have another size");
            engine.counts().refused("other-size", &peer.to_base58());
            Brought::OtherSize
        }
        Err(Cut::Bad(why)) => {
            tracing::warn!(%peer, %blob, why, "a piece was refused");
            engine.counts().refused("bad-piece", &peer.to_base58());
            Brought::Bad
        }
        Err(Cut::NoRoom(error)) => {
            tracing::warn!(%blob, %error, "a blob cannot be kept");
            Brought::NoRoom
        }
    }
}

/// What one peer sends in answer to one question.
struct Taking<'a> {
    engine: &'a Engine,
    events: &'a mpsc::Sender<Event>,
    from: (&'a Handle, (PeerId, Way)),
    transfer: u64,
    need: Need,
    /// Whether the list was asked for.
    values: bool,
    /// The pieces that are still to come.
    left: BTreeSet<u64>,
    answers: Answers<Blobs>,
}

impl Taking<'_> {
    async fn next(&mut self, stall: Duration) -> Result<Blobs, Cut> {
        self.answers.next_within(stall, limits::TURN_STALL).await.ok_or(Cut::Failed)
    }

    async fn run(&mut self, download: Option<Arc<Download>>) -> Result<Brought, Cut> {
        let have = match self.next(limits::READ_STALL).await? {
            Blobs::Have(have) => have,
            Blobs::End(End { no, .. }) => return Err(Cut::Said(no)),
            _ => return Err(Cut::Failed),
        };
        self.has(have).await?;
        if piece_count(self.need.size) == 1 {
            return self.small().await;
        }
        // Nobody needs it any more.
        let Some(download) = download else { return Ok(Brought::Failed) };
        if self.left.is_empty() {
            return self.watch().await;
        }
        let arriving = match download.arriving() {
            // It was asked for before somebody else had given it.
            Some(arriving) => {
                if self.values {
                    self.list().await?;
                }
                arriving
            }
            None => {
                let (pieces, store) = (self.list().await?, self.engine.store().clone());
                span::blocking(move || download.listed(&store, pieces)).await.map_err(Cut::NoRoom)?
            }
        };
        self.pieces(&arriving).await
    }

    /// The peer says what it has.
    async fn has(&self, have: Have) -> Result<(), Cut> {
        if have.size != self.need.size {
            return Err(Cut::OtherSize(have.size));
        }
        let count = piece_count(have.size);
        if count == 1 {
            return Ok(());
        }
        let has = match have.bitmap {
            None => Has::All,
            Some(bitmap) => {
                let bits = Bits::read(&bitmap, count);
                Has::Some(bits.ok_or_else(|| Cut::Bad("it has pieces beyond the last".to_owned()))?)
            }
        };
        let _ = self.events.send(Event::Has { transfer: self.transfer, has }).await;
        Ok(())
    }

    /// Hears what the peer has, for as long as it says so.
    async fn watch(&mut self) -> Result<Brought, Cut> {
        loop {
            match self.answers.next().await.ok_or(Cut::Failed)? {
                Blobs::Have(have) => self.has(have).await?,
                Blobs::End(End { no, .. }) => return Err(Cut::Said(no)),
                _ => return Err(Cut::Failed),
            }
        }
    }

    /// The pieces of the Blob, by a list that was checked against its name.
    async fn list(&mut self) -> Result<Pieces, Cut> {
        let count = piece_count(self.need.size);
        let mut values = Vec::new();
        while count > 1 && (values.len() as u64) < count {
            let more = match self.next(limits::PIECE_STALL).await? {
                Blobs::Values(more) => more,
                Blobs::End(End { no, .. }) => return Err(Cut::Said(no)),
                _ => return Err(Cut::Failed),
            };
            if more.first != values.len() as u64 || more.values.is_empty() {
                return Err(Cut::Bad("its list of pieces has gaps".to_owned()));
            }
            let (more, _) = more.values.as_chunks::<32>();
            if more.len() as u64 > count - values.len() as u64 {
                return Err(Cut::Bad("its list of pieces is too long".to_owned()));
            }
            values.extend_from_slice(more);
        }
        let list = PieceList { size: self.need.size, values };
        list.verify(&self.need.digest).map_err(|error| Cut::Bad(error.to_string()))
    }

    /// The next piece, of those that are still to come; nothing after the last.
    async fn piece(&mut self) -> Result<Option<Piece>, Cut> {
        match self.next(limits::PIECE_STALL).await? {
            Blobs::Piece(piece) => {
                // Somebody who sends one piece over and over is no reason to believe that there is no room here.
                if !self.left.remove(&piece.index) {
                    return Err(Cut::Bad(format!("it sent piece {}, which nobody asked for", piece.index)));
                }
                let bytes = piece.bytes.len() as u64;
                self.engine.counts().fetched(bytes);
                self.from.0.came(self.from.1, bytes, piece_count(self.need.size) > 1);
                Ok(Some(piece))
            }
            Blobs::End(End { no: None, .. }) if self.left.is_empty() => Ok(None),
            Blobs::End(End { no, .. }) => Err(Cut::Said(no.or(Some(No::NotHere)))),
            _ => Err(Cut::Failed),
        }
    }

    /// The pieces of a larger Blob, each of which is kept at once. As many are unpacked and checked at a time as threads
    /// can run: one thread alone is slower than the peer.
    async fn pieces(&mut self, arriving: &Arriving) -> Result<Brought, Cut> {
        let (mut keeping, mut ended) = (FuturesUnordered::new(), None);
        while ended.is_none() || !keeping.is_empty() {
            tokio::select! {
                Some(kept) = keeping.next() => {
                    let (index, last) = kept?;
                    let _ = self.events.send(Event::Piece { transfer: self.transfer, index }).await;
                    if last {
                        return Ok(Brought::Done);
                    }
                }
                piece = self.piece(), if ended.is_none() && keeping.len() < span::cores() => match piece {
                    Ok(Some(piece)) => keeping.push(keep_piece(arriving.clone(), piece)),
                    Ok(None) => ended = Some(Ok(Brought::Part)),
                    // What came before is kept all the same.
                    Err(cut) => ended = Some(Err(cut)),
                },
            }
        }
        ended.unwrap_or(Ok(Brought::Part))
    }

    /// The only piece of a small one.
    async fn small(&mut self) -> Result<Brought, Cut> {
        let list = PieceList { size: self.need.size, values: Vec::new() };
        let pieces = list.verify(&self.need.digest).map_err(|error| Cut::Bad(error.to_string()))?;
        let Some(piece) = self.piece().await? else { return Err(Cut::Failed) };
        let store = self.engine.store().clone();
        let kept = span::blocking(move || {
            let mut receiving = store.receive(pieces)?;
            receiving.put(piece.index, piece.packing, &piece.bytes)?;
            receiving.finish()
        });
        kept.await.map_err(cut)?;
        Ok(Brought::Done)
    }
}

/// Keeps a piece; gives which one it was, and whether it was the last one that was missing.
async fn keep_piece(to: Arriving, piece: Piece) -> Result<(u64, bool), Cut> {
    let kept = span::blocking(move || {
        let last = to.put(piece.index, piece.packing, &piece.bytes)?;
        if last {
            to.finish()?;
        }
        Ok((piece.index, last))
    });
    kept.await.map_err(cut)
}

/// Fetches small Blobs, many in a message; gives what became of each. At most [`MAX_INLINE`] of them.
///
/// [`MAX_INLINE`]: potluck_protocol::peer::MAX_INLINE
pub async fn fetch_small(
    engine: &Arc<Engine>,
    (handle, peer): (&Handle, PeerId),
    needs: Vec<Need>,
) -> Vec<(Need, Brought)> {
    let mut several = Small { engine, from: (handle, peer), left: BTreeMap::new(), ended: Vec::new() };
    let rest = several.run(needs).await;
    let left = std::mem::take(&mut several.left);
    several.ended.extend(left.into_values().map(|need| (need, rest)));
    several.ended
}

/// Several small Blobs on their way.
struct Small<'a> {
    engine: &'a Arc<Engine>,
    from: (&'a Handle, PeerId),
    /// Those that are still to come.
    left: BTreeMap<Digest, Need>,
    ended: Vec<(Need, Brought)>,
}

impl Small<'_> {
    /// Gives what becomes of those that are left.
    async fn run(&mut self, needs: Vec<Need>) -> Brought {
        let store = self.engine.store().clone();
        // What somebody else has brought meanwhile.
        let looked = span::blocking(move || {
            let view = store.index().view()?;
            let here = |need: &Need| store.holds_sized(&view, (&need.digest, need.size), Hold::Promise);
            needs.into_iter().map(|need| Ok((need, here(&need)?))).collect::<Result<Vec<_>, StoreError>>()
        });
        match looked.await {
            Ok(looked) => {
                let (here, absent): (Vec<_>, Vec<_>) = looked.into_iter().partition(|(_, here)| *here);
                self.ended.extend(here.into_iter().map(|(need, _)| (need, Brought::Done)));
                self.left.extend(absent.into_iter().map(|(need, _)| (need.digest, need)));
            }
            Err(error) => {
                tracing::warn!(%error, "the store does not work");
                return Brought::NoRoom;
            }
        }
        if self.left.is_empty() {
            return Brought::Done;
        }
        let Some((link, way)) = self.from.0.blobs(self.from.1).await else { return Brought::Failed };
        let digests = self.left.keys().copied().collect();
        let several = move |id| Blobs::Several(Several { id, digests });
        let Some(mut answers) = link.ask(several).await else { return Brought::Failed };
        loop {
            match answers.next_within(limits::PIECE_STALL, limits::TURN_STALL).await {
                Some(Blobs::Small(small)) => {
                    if !self.came(small.blobs, way).await {
                        stop(&link, answers.id).await;
                        return Brought::Failed;
                    }
                }
                Some(Blobs::End(End { no, .. })) => {
                    return match no {
                        Some(No::Busy) => Brought::Busy,
                        Some(No::Stopped) => Brought::Part,
                        Some(No::NotHere) | None => Brought::NotThere,
                    };
                }
                _ => {
                    self.from.0.failed_on(self.from.1, (&link, way));
                    stop(&link, answers.id).await;
                    return Brought::Failed;
                }
            }
        }
    }

    /// Keeps some; gives whether only those came that were asked for, and each as it should be.
    async fn came(&mut self, blobs: Vec<Inline>, way: Way) -> bool {
        let count = blobs.len();
        let known = |inline: Inline| self.left.remove(&inline.digest).map(|need| (need, inline));
        let known: Vec<_> = blobs.into_iter().filter_map(known).collect();
        // Whoever goes on without saying anything new is not listened to for ever.
        let mut well = count > 0 && known.len() == count;
        let bytes = known.iter().map(|(_, inline)| inline.bytes.len() as u64).sum();
        self.engine.counts().fetched(bytes);
        self.from.0.came((self.from.1, way), bytes, false);
        let engine = Arc::clone(self.engine);
        let kept = span::blocking(move || keep_all(&engine, known));
        for (need, kept) in kept.await {
            let brought = outcome(self.engine, (self.from.1, &need), kept.map(|()| Brought::Done));
            well &= brought == Brought::Done || brought == Brought::NoRoom;
            self.ended.push((need, brought));
        }
        well
    }
}

/// Checks and keeps small Blobs, those that lie in the index all at once. Blocks.
fn keep_all(engine: &Engine, known: Vec<(Need, Inline)>) -> Vec<(Need, Result<(), Cut>)> {
    let (mut kept, mut good, mut needs) = (Vec::with_capacity(known.len()), Vec::new(), Vec::new());
    for (need, inline) in known {
        if !is_small(need.size) {
            kept.push((need, keep(engine, &need, &inline)));
            continue;
        }
        match checked(&need, inline) {
            Ok(bytes) => {
                good.push((need.digest, bytes));
                needs.push(need);
            }
            Err(wrong) => kept.push((need, Err(wrong))),
        }
    }
    match engine.store().keep_checked(&good) {
        Ok(_) => {
            engine.make_room_soon();
            kept.extend(needs.into_iter().map(|need| (need, Ok(()))));
        }
        Err(error) => {
            tracing::warn!(%error, "small blobs cannot be kept");
            // Each for itself, so that it is known which of them are here.
            let one_by_one = good.iter().zip(needs).map(|((_, bytes), need)| {
                let again = engine.store().keep(bytes, Durability::Fast);
                (need, again.map(drop).map_err(Cut::NoRoom))
            });
            kept.extend(one_by_one);
        }
    }
    kept
}

/// The bytes of a small Blob, if they are what was asked for.
fn checked(need: &Need, Inline { size, packing, bytes, .. }: Inline) -> Result<Shared, Cut> {
    if size != need.size {
        return Err(Cut::OtherSize(size));
    }
    let bytes = match packing {
        Packing::Raw => bytes.into_shared(),
        packed @ Packing::Zstd => unpack(packed, &bytes, size).map_err(cut)?.into(),
    };
    if bytes.len() as u64 != size || Digest::of(&bytes) != need.digest {
        return Err(Cut::Bad("it is not what its name says".to_owned()));
    }
    Ok(bytes)
}

/// Checks and keeps a Blob that goes with others and is a file of its own here. Blocks.
fn keep(engine: &Engine, need: &Need, inline: &Inline) -> Result<(), Cut> {
    if inline.size != need.size {
        return Err(Cut::OtherSize(inline.size));
    }
    let list = PieceList { size: need.size, values: Vec::new() };
    let pieces = list.verify(&need.digest).map_err(|error| Cut::Bad(error.to_string()))?;
    let kept = || {
        let mut receiving = engine.store().receive(pieces)?;
        receiving.put(0, inline.packing, &inline.bytes)?;
        receiving.finish()
    };
    kept().map_err(cut)
}

fn cut(error: StoreError) -> Cut {
    if error.is_refusal() { Cut::Bad(error.to_string()) } else { Cut::NoRoom(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_go_together() {
        let run = |first, count| Run { first, count };
        assert_eq!(runs(&[7, 2, 3, 1, 9]), [run(1, 3), run(7, 1), run(9, 1)]);
        assert_eq!(runs(&[]), []);
    }
}
