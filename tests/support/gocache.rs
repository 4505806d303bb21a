// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a go says, and what its helpers leave to each other, for [`crate::decoders`].

use potluck_keys::time::Time;
use potluck_node::front::gocache::checked::{Checked, MAX_RECORD_BYTES, START_BYTES, State};
use potluck_node::front::gocache::expected::{Expected, MAX_LIST_BYTES};
use potluck_node::front::gocache::line::{self, Command, MAX_LINE_BYTES};
use potluck_node::plan::Moment;
use potluck_protocol::digest::{Digest, Sha256};

/// All that a go says, as its helper hears it.
pub(crate) fn said(bytes: &[u8]) {
    let mut from = bytes;
    while let Some(line) = line::next_line(&mut from).expect("bytes in memory can be read") {
        assert!(line.len() <= MAX_LINE_BYTES);
        let Some(request) = line::parse(&line) else { continue };
        if let Command::Put { size: mut left @ 1.., .. } = request.command {
            let taken = line::body(&mut from, left, |some| {
                left = left.checked_sub(some.len() as u64).expect("no more than was announced");
                Ok(())
            });
            assert!(taken.is_err() || left == 0, "no less than was announced");
        }
    }
}

/// What an earlier helper found files to hold, with its checksum and without.
pub(crate) fn checked(bytes: &[u8]) {
    let (start, now) = ([b'a'; START_BYTES], Time::from_millis(2_000_000_000_000));
    let summed = [bytes, Digest::of(bytes).as_bytes()].concat();
    for record in [bytes, &summed] {
        let mut checked = Checked::new(record, &start, now);
        assert!(checked.record(&start, now).is_none(), "what was only read has no news");
        let own = Digest::of(record);
        let state = State { file: (1, 2), size: 3, modified: (4, 5), changed: (6, 7) };
        checked.note(own, (Sha256::from_bytes([8; 32]), state), now);
        let again = checked.record(&start, now).expect("there is news");
        assert!(again.len() <= MAX_RECORD_BYTES);
        let again = Checked::new(&again, &start, now);
        let named = record.windows(32).take(4096).filter_map(|name| name.first_chunk().copied());
        let named = named.map(Digest::from_bytes);
        for digest in named.chain([own]) {
            assert_eq!(
                again.find(&digest, now),
                checked.find(&digest, now),
                "what is written is what is read"
            );
        }
    }
}

/// What an earlier go asked for.
pub(crate) fn list(bytes: &[u8]) {
    let mut expected = Expected::new(bytes);
    let mut all = Vec::new();
    while let Some(some) = expected.further() {
        assert!(!some.is_empty());
        for action in some {
            let _ = expected.take(&action, Moment::default());
            if !all.contains(&action) {
                all.push(action);
            }
        }
    }
    all.iter().for_each(|action| expected.note(action));
    assert!(expected.list().is_none(), "a go that asks for the same leaves the list as it is");
    let mut other = Expected::new(b"");
    all.iter().for_each(|action| other.note(action));
    let list = other.list();
    assert_eq!(list.is_some(), !all.is_empty());
    let list = list.unwrap_or_default();
    assert!(list.len() <= MAX_LIST_BYTES);
    let again: Vec<_> = Expected::new(&list).further().unwrap_or_default();
    assert_eq!(again, all[..again.len()], "what is written is what is read");
}
