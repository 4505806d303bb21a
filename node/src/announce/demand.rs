// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pure: which Blobs are asked for by so many that others should find their holders without asking around.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use potluck_protocol::digest::Digest;

use crate::plan::Moment;

/// From how many bytes on a Blob is worth a record of its own as soon as anybody asks for it.
pub const LARGE: u64 = 8 << 20;
/// How many different peers make a smaller one hot.
pub const HOT: usize = 8;
/// Within how long they have to ask.
pub const HOT_WITHIN: Duration = Duration::from_secs(15 * 60);
/// Most Blobs whose askers are counted; the one that was asked for longest ago is forgotten.
pub const MAX_COUNTED: usize = 4096;

/// A Blob of a Network.
type Of = (String, Digest);

#[derive(Debug)]
struct Asked {
    last: Moment,
    /// Who asked, as a hash, and when.
    by: BTreeMap<u64, Moment>,
}

/// Who asked for what.
#[derive(Debug, Default)]
pub struct Demand {
    all: BTreeMap<Of, Asked>,
    by_age: BTreeSet<(Moment, Of)>,
}

impl Demand {
    /// A peer has asked for a Blob of so many bytes; gives whether it is in demand.
    pub fn asked(&mut self, now: Moment, of: Of, (size, peer): (u64, &str)) -> bool {
        if size >= LARGE {
            return true;
        }
        let asked = self.all.entry(of.clone()).or_insert_with(|| Asked { last: now, by: BTreeMap::new() });
        self.by_age.remove(&(asked.last, of.clone()));
        asked.last = now;
        asked.by.retain(|_, at| now.since(*at) < HOT_WITHIN);
        if asked.by.len() < HOT {
            let [a, b, c, d, e, f, g, h, ..] = *Digest::of(peer.as_bytes()).as_bytes();
            asked.by.insert(u64::from_le_bytes([a, b, c, d, e, f, g, h]), now);
        }
        let hot = asked.by.len() >= HOT;
        self.by_age.insert((now, of));
        if self.all.len() > MAX_COUNTED
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.all.remove(&oldest);
        }
        hot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    fn of(number: u64) -> Of {
        ("office".to_owned(), Digest::of(&number.to_le_bytes()))
    }

    #[test]
    fn many_peers_make_a_blob_hot_and_one_peer_does_not() {
        let mut demand = Demand::default();
        for second in 0..1000 {
            assert!(!demand.asked(at(second), of(1), (100, "greedy")));
        }
        for peer in 0..HOT - 2 {
            assert!(!demand.asked(at(1000), of(1), (100, &peer.to_string())));
        }
        assert!(demand.asked(at(1001), of(1), (100, "the last one")));
        assert!(!demand.asked(at(2000), of(1), (100, "much later")));
        assert!(demand.asked(at(2000), of(2), (LARGE, "anybody")));
    }

    #[test]
    fn no_more_are_counted_than_there_is_room_for() {
        let mut demand = Demand::default();
        for number in 0..3 * MAX_COUNTED as u64 {
            demand.asked(at(number), of(number), (100, "greedy"));
            for peer in 0..20 {
                demand.asked(at(number), of(number), (100, &peer.to_string()));
            }
        }
        assert_eq!((demand.all.len(), demand.by_age.len()), (MAX_COUNTED, MAX_COUNTED));
        assert!(demand.all.values().all(|asked| asked.by.len() <= HOT));
    }
}
