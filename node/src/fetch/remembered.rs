// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the next run is to know about peers, as bytes of a file: a hint that is worth nothing when it cannot be read.

use std::time::Duration;

use potluck_keys::time::Time;
use potluck_protocol::codec::{Bytes, Text, decode, encode};
use potluck_protocol::record;

use super::standing::{MAX_PEERS, Record, WAIT_SIZES, Waits};
use crate::peer::Peer;

/// The version of the file.
const VERSION: u64 = 1;
/// Longest name of a Network or a peer, in bytes.
const MAX_NAME: usize = 128;
/// Largest file, in bytes.
pub const MAX_FILE_BYTES: usize = MAX_PEERS * 512 + 64;

record! {
    /// A peer's record as it is kept.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Row {
        1 => one network: Text<MAX_NAME>,
        2 => one id: Text<MAX_NAME>,
        3 => one bad: u64,
        4 => one failures: u64,
        5 => one good: u64,
        6 => one rate: u64,
        7 => one rtt_us: u64,
        8 => one waits: Bytes<{ 2 * WAIT_SIZES }>,
    }
}

record! {
    /// All of them.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Kept {
        1 => one version: u64,
        2 => one written: Time,
        3 => many(MAX_PEERS) rows: Row,
    }
}

/// The bytes of a file with these records.
pub fn write(records: &[(Peer, Record)], now: Time) -> Vec<u8> {
    let row = |(peer, record): &(Peer, Record)| {
        let waits = record.waits.0.iter().flat_map(|count| count.to_le_bytes()).collect::<Vec<_>>();
        Some(Row {
            network: Text::new(&*peer.network)?,
            id: Text::new(&*peer.id)?,
            bad: record.bad.into(),
            failures: record.failures.into(),
            good: record.good,
            rate: record.rate,
            rtt_us: record.rtt_us,
            waits: Bytes::new(waits)?,
        })
    };
    encode(&Kept {
        version: VERSION,
        written: now,
        rows: records.iter().take(MAX_PEERS).filter_map(row).collect(),
    })
}

/// The records of a file, as they count now; none when it is not one.
pub fn read(bytes: &[u8], now: Time) -> Vec<(Peer, Record)> {
    let Ok(kept) = decode::<Kept>(bytes, MAX_FILE_BYTES) else { return Vec::new() };
    if kept.version != VERSION {
        return Vec::new();
    }
    let age: Duration = now.since(kept.written);
    let record = |row: Row| {
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let mut counts = [0; WAIT_SIZES];
        for (count, bytes) in counts.iter_mut().zip(row.waits.as_chunks().0) {
            *count = u16::from_le_bytes(*bytes);
        }
        let waits = Waits::of(counts);
        let (bad, failures) = (small(row.bad), small(row.failures));
        let (silent, empty) = (0, 0);
        let Row { good, rate, rtt_us, .. } = row;
        let record = Record { bad, failures, silent, empty, good, rate, rtt_us, waits };
        (Peer::new(&row.network, &row.id), record.after(age))
    };
    kept.rows.into_iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::super::standing::{HALF_LIFE, Standing};
    use super::*;

    #[test]
    fn what_was_known_is_known_again_and_nonsense_is_nothing() {
        let (now, ann) = (Time::from_millis(1_800_000_000_000), Peer::new("office", "ann"));
        let mut standing = Standing::default();
        (0..20).for_each(|_| standing.moved(&ann, 1 << 20, Duration::from_millis(10)));
        standing.failed(&ann);
        let records = standing.changed().unwrap();
        let bytes = write(&records, now);
        assert_eq!(read(&bytes, now)[0].1.rate, records[0].1.rate);
        assert_eq!(read(&bytes, now)[0].1.failures, 1);
        let later = read(&bytes, now.plus(2 * HALF_LIFE));
        assert_eq!((later[0].1.failures, &later[0].0), (0, &ann));
        assert!(read(&bytes[1..], now).is_empty() && read(&[], now).is_empty());
        let other = encode(&Kept { version: 2, written: now, rows: Vec::new() });
        assert!(read(&other, now).is_empty());
    }

    #[test]
    fn a_file_of_all_that_may_be_remembered_has_its_bound_and_a_larger_one_is_refused() {
        let now = Time::from_millis(1);
        let name = |number: usize| format!("{number:0>128}");
        let record = Record { bad: u32::MAX, failures: u32::MAX, good: u64::MAX, ..Record::default() };
        let many: Vec<_> =
            (0..MAX_PEERS + 5).map(|number| (Peer::new(&name(0), &name(number)), record)).collect();
        let bytes = write(&many, now);
        assert!(bytes.len() <= MAX_FILE_BYTES, "{}", bytes.len());
        assert_eq!(read(&bytes, now).len(), MAX_PEERS);
        let mut long = bytes;
        long.resize(MAX_FILE_BYTES + 1, 0);
        assert!(read(&long, now).is_empty());
    }
}
