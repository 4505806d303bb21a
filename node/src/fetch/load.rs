// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much is under way from each peer, and how much may be. Part of [`Transfers`].

use std::time::Duration;

use potluck_protocol::peer::MAX_INLINE_BYTES;
use potluck_protocol::piece::{PIECE_BYTES, piece_count};

use super::event::Need;
use super::peers::Peers;
use super::transfers::{MAX_TRANSFERS_PER_PEER, SMALL_ONES, Transfers};
use crate::peer::Peer;
use crate::plan::{Backoff, Moment};

/// How long a peer that is busy is left alone, at first and at last.
pub(super) const BUSY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// What is under way from a peer is what it sends in a round trip and this span, so that it never waits for questions.
pub(super) const SPARE: Duration = Duration::from_millis(250);
/// The least and the most of that, in bytes.
pub(super) const WINDOW: (u64, u64) = (2 << 20, 64 << 20);
/// The same for a peer that was never measured.
pub(super) const FIRST_WINDOW: u64 = 4 << 20;

/// All places at one peer.
const ALL_PLACES: usize = MAX_TRANSFERS_PER_PEER * SMALL_ONES;

/// One that is under way.
pub(super) struct Running {
    pub(super) need: Need,
    pub(super) peer: Peer,
    /// The pieces that are still to come.
    pub(super) pieces: Vec<u64>,
    /// Whether it only says what the peer has.
    pub(super) watch: bool,
    pub(super) asked: Moment,
    /// Whether the peer has said anything.
    pub(super) heard: bool,
    /// Whether it takes no longer than it should.
    pub(super) prompt: bool,
    /// Whether it takes longer than most do.
    pub(super) late: bool,
    /// Whether the peer went away since: how it ends says nothing of the peer, should that be back.
    pub(super) gone: bool,
    /// Whether it was told to stop, as nobody waits for it.
    pub(super) stopped: bool,
}

/// How much of a place a transfer takes, in parts of [`SMALL_ONES`].
pub(super) fn places(need: &Need) -> usize {
    let share = MAX_INLINE_BYTES as u64 / SMALL_ONES as u64;
    usize::try_from(need.size.div_ceil(share)).map_or(SMALL_ONES, |places| places.clamp(1, SMALL_ONES))
}

impl Running {
    /// What is still to come, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        if piece_count(self.need.size) == 1 {
            self.need.size
        } else {
            (self.pieces.len() * PIECE_BYTES) as u64
        }
    }
}

/// What is under way from one peer.
#[derive(Debug)]
pub(super) struct Load {
    /// See [`places`].
    pub(super) places: usize,
    pub(super) bytes: u64,
    /// When something came last.
    pub(super) last: Moment,
    /// It is not asked before this.
    pub(super) not_before: Moment,
    pub(super) busy: Backoff,
}

impl Default for Load {
    fn default() -> Self {
        let (first, last) = BUSY;
        let none = Moment::default();
        Self { places: 0, bytes: 0, last: none, not_before: none, busy: Backoff::new(first, last) }
    }
}

impl Transfers {
    /// Whether a peer can be asked for something more, or for a certain Blob. One that has nothing to do always can.
    pub(super) fn is_free(
        &self,
        (peer, need): (&Peer, Option<&Need>),
        (now, peers): (Moment, &Peers),
    ) -> bool {
        let (more, bytes) = need.map_or((1, 0), |need| (places(need), need.size));
        self.load.get(peer).is_none_or(|load| {
            load.places + more <= ALL_PLACES
                && load.not_before <= now
                && (load.bytes == 0 || load.bytes + bytes <= window(peers, peer))
        })
    }

    /// How many pieces more a peer can be asked for, and how many at most.
    pub(super) fn free_pieces(&self, peer: &Peer, (now, peers): (Moment, &Peers)) -> (usize, usize) {
        let pieces = |bytes: u64| usize::try_from(bytes / PIECE_BYTES as u64).unwrap_or(usize::MAX);
        let window = window(peers, peer);
        match self.load.get(peer) {
            Some(load) if load.places + SMALL_ONES > ALL_PLACES || load.not_before > now => {
                (0, pieces(window))
            }
            Some(load) => (pieces(window.saturating_sub(load.bytes)), pieces(window)),
            None => (pieces(window), pieces(window)),
        }
    }

    /// What is left of a transfer does not load its peer any more.
    pub(super) fn unload(&mut self, number: u64) {
        let Some(running) = self.running.get(&number).filter(|one| !one.gone && !one.watch) else { return };
        if let Some(load) = self.load.get_mut(&running.peer) {
            load.places = load.places.saturating_sub(places(&running.need));
            load.bytes = load.bytes.saturating_sub(running.bytes());
        }
    }

    pub(super) fn forget_load(&mut self, peer: &Peer) {
        if self.load.get(peer).is_some_and(|load| load.places == 0) {
            self.load.remove(peer);
        }
    }
}

/// How many bytes are to be under way from a peer: what it sends in a round trip, and a little more.
fn window(peers: &Peers, peer: &Peer) -> u64 {
    let record = peers.standing.of(peer);
    if record.rate == 0 {
        return FIRST_WINDOW;
    }
    let (least, most) = WINDOW;
    // One that was never measured again may have become faster, and a round trip is not that of a queue.
    let span = SPARE.saturating_add(Duration::from_micros(record.rtt_us).min(Duration::from_secs(1)));
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    (record.rate.saturating_mul(micros) / 1_000_000).clamp(least, most)
}
