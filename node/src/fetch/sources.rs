// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has a certain Blob, when those who hold its topics cannot give it: found on the DHT, and asked for that Blob alone.
//! Part of [`Transfers`].

use std::collections::BTreeSet;

use super::event::Need;
use super::peers::{Peers, Topics};
use super::spreading::MAX_SOURCES;
use super::transfers::Transfers;
use crate::peer::Peer;
use crate::plan::Moment;

/// Has others looked for who may have a Blob: first those who hold its topics, and when that was done a moment ago,
/// those who have just this Blob. Gives whether somebody may yet be found.
pub(super) fn find_others(now: Moment, (need, topics): (&Need, &Topics), peers: &mut Peers) -> bool {
    peers.find(now, topics) || peers.find_blob(now, need, topics)
}

/// Those of whom it is news that they may have a Blob, as many as there is room for.
pub(super) fn fresh<'a>(
    known: &BTreeSet<Peer>,
    found: impl IntoIterator<Item = &'a Peer>,
    peers: &Peers,
) -> BTreeSet<Peer> {
    let fresh = found.into_iter().filter(|peer| peers.standing.is_fit(peer) && !known.contains(peer));
    fresh.take(MAX_SOURCES.saturating_sub(known.len())).cloned().collect()
}

impl Transfers {
    /// The search for those who have a Blob ended: they can be asked for this one, and for nothing else.
    pub(super) fn sources(&mut self, now: Moment, (need, found): (Need, Vec<Peer>), peers: &mut Peers) {
        // Out of the line first, in which it stands by who may have it.
        self.displace(&need);
        let transfer = self.all.get_mut(&need);
        let known = transfer.as_ref().map(|transfer| transfer.sources.clone()).unwrap_or_default();
        let fresh = fresh(&known, &found, peers);
        if !peers.found_blob(now, &need, !fresh.is_empty()) {
            return self.place(now, need, peers);
        }
        if let Some(transfer) = transfer {
            transfer.sources.extend(fresh);
        }
        self.stirred = true;
        self.place(now, need, peers);
    }
}
