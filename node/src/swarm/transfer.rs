// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fetches one Blob from one peer, checking each piece as it comes.

use std::time::Duration;

use libp2p::PeerId;
use potluck_protocol::peer::{Blobs, Run, Stop, Want};
use potluck_protocol::piece::{PieceList, Pieces, piece_count};

use super::{Handle, limits};
use crate::engine::Engine;
use crate::fetch::event::{Brought, Need};
use crate::link::Answers;
use crate::observe::span;
use crate::store::{Receiving, StoreError};

/// Why a transfer ended before its time.
enum Cut {
    /// The peer has not got it, is too slow, or went away.
    Failed,
    /// What came is not what was asked for.
    Bad(String),
    /// It cannot be kept here.
    NoRoom(StoreError),
}

/// Fetches a Blob, unless it is here already.
pub async fn fetch(engine: &Engine, handle: &Handle, peer: PeerId, need: Need) -> Brought {
    if engine.store().has(&need.digest).unwrap_or(false) {
        return Brought::Done;
    }
    eprintln!("FETCH {} {}", need.digest, need.size);
    let Some(link) = handle.blobs(peer).await else { eprintln!("NOLINK"); return Brought::Failed };
    let Need { digest, size } = need;
    // One piece needs no list: its hash is the name.
    let count = piece_count(size);
    let pieces = vec![Run { first: 0, count }];
    let want = move |id| Blobs::Want(Want { id, digest, values: count > 1, pieces });
    let Some(mut answers) = link.ask(want).await else { return Brought::Failed };
    let ended = take(engine, need, &mut answers).await;
    if ended.is_err() {
        link.say(Blobs::Stop(Stop { id: answers.id })).await;
    }
    match ended {
        Ok(()) => Brought::Done,
        Err(Cut::Failed) => { eprintln!("FAILED {} sockets {}", need.size, handle.bulk_sockets()); Brought::Failed }
        Err(Cut::Bad(why)) => {
            tracing::warn!(%peer, blob = %digest, why, "a piece was refused");
            engine.counts().refused("bad-piece", &peer.to_base58());
            Brought::Bad
        }
        Err(Cut::NoRoom(error)) => {
            tracing::warn!(blob = %digest, %error, "a blob cannot be kept");
            Brought::NoRoom
        }
    }
}

async fn next(answers: &mut Answers<Blobs>, stall: Duration) -> Result<Blobs, Cut> {
    let next = tokio::time::timeout(stall, answers.next()).await;
    next.ok().flatten().ok_or(Cut::Failed)
}

async fn take(engine: &Engine, need: Need, answers: &mut Answers<Blobs>) -> Result<(), Cut> {
    match next(answers, limits::READ_STALL).await? {
        // A partial holder will do once pieces come from several peers; for now it does not.
        Blobs::Have(have) if have.bitmap.is_none() => {
            if have.size != need.size {
                return Err(Cut::Bad(format!("it has {} bytes instead of {}", have.size, need.size)));
            }
        }
        _ => return Err(Cut::Failed),
    }
    let pieces = list(need, answers).await?;
    let store = engine.store().clone();
    let count = pieces.count();
    let mut receiving = span::blocking(move || store.receive(pieces)).await.map_err(Cut::NoRoom)?;
    for index in 0..count {
        let Blobs::Piece(piece) = next(answers, limits::PIECE_STALL).await? else { return Err(Cut::Failed) };
        // Somebody who sends one piece over and over is no reason to believe that there is no room here.
        if piece.index != index {
            return Err(Cut::Bad(format!("it sent piece {} instead of {index}", piece.index)));
        }
        engine.counts().fetched(piece.bytes.len() as u64);
        receiving = put(receiving, piece).await?;
    }
    match next(answers, limits::READ_STALL).await? {
        Blobs::End(_) => span::blocking(move || receiving.finish()).await.map_err(Cut::NoRoom),
        _ => Err(Cut::Failed),
    }
}

/// The pieces of the Blob, by a list that was checked against its name.
async fn list(need: Need, answers: &mut Answers<Blobs>) -> Result<Pieces, Cut> {
    let count = piece_count(need.size);
    let mut values = Vec::new();
    while count > 1 && (values.len() as u64) < count {
        let Blobs::Values(more) = next(answers, limits::PIECE_STALL).await? else { return Err(Cut::Failed) };
        if more.first != values.len() as u64 || more.values.is_empty() {
            return Err(Cut::Bad("its list of pieces has gaps".to_owned()));
        }
        let (more, _) = more.values.as_chunks::<32>();
        if more.len() as u64 > count - values.len() as u64 {
            return Err(Cut::Bad("its list of pieces is too long".to_owned()));
        }
        values.extend_from_slice(more);
    }
    let list = PieceList { size: need.size, values };
    list.verify(&need.digest).map_err(|error| Cut::Bad(error.to_string()))
}

async fn put(mut receiving: Receiving, piece: potluck_protocol::peer::Piece) -> Result<Receiving, Cut> {
    span::blocking(move || match receiving.put(piece.index, piece.packing, &piece.bytes) {
        Ok(()) => Ok(receiving),
        Err(error) if error.is_refusal() => Err(Cut::Bad(error.to_string())),
        Err(error) => Err(Cut::NoRoom(error)),
    })
    .await
}
