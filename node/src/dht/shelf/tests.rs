// SPDX-License-Identifier: MIT OR Apache-2.0
//! Crowds, floods and restarts of the shelf.

use potluck_protocol::digest::Digest;

use super::*;
use crate::dht::file::{File, Lines};
use crate::dht::group::Group;

const NOW: Time = Time::from_millis(1_800_000_000_000);

fn later(seconds: u64) -> Time {
    NOW.plus(std::time::Duration::from_secs(seconds))
}

fn key(number: u64) -> DhtKey {
    DhtKey::from_bytes(*Digest::of(&number.to_le_bytes()).as_bytes())
}

fn bounds(records: usize) -> Bounds {
    Bounds { all: records * RECORD, lot: records / 2 * RECORD, source: records / 4 * RECORD, own: records }
}

fn nowhere() -> Source {
    Source::default()
}

fn from(group: u8) -> Source {
    Source { group: Some(Group::V4([192, 0, group])), addresses: Vec::new() }
}

#[test]
fn one_peer_gets_its_share_and_others_theirs() {
    let mut shelf = Shelf::new(bounds(4000));
    for number in 0..100_000 {
        shelf.lodge((b"greedy", nowhere()), key(number), later(60));
    }
    assert_eq!(shelf.len(), 1000);
    assert!(shelf.lodge((b"modest", nowhere()), key(1), later(60)));
    assert!(shelf.lodge((b"greedy", nowhere()), key(1), later(90)), "it is here already");
    assert_eq!(shelf.providers(&key(1)).count(), 2);
}

#[test]
fn a_subnet_shares_one_share() {
    let mut shelf = Shelf::new(bounds(4000));
    for number in 0..100_000_u64 {
        let peer = (number % 64).to_le_bytes();
        shelf.lodge((&peer, from(7)), key(number), later(60));
    }
    assert_eq!(shelf.len(), 2000);
    assert!(shelf.lodge((b"neighbour", from(8)), key(1), later(60)));
}

#[test]
fn when_all_is_full_who_has_most_makes_room() {
    let mut shelf = Shelf::new(bounds(4000));
    for number in 0..100_000_u64 {
        let peer = (number % 8).to_le_bytes();
        shelf.lodge((&peer, nowhere()), key(number), later(60));
    }
    assert_eq!(shelf.len(), 4000, "eight with less than their share have filled it");
    for number in 0..100 {
        assert!(shelf.lodge((b"late", nowhere()), key(number), later(60)), "{number}");
        assert!(shelf.len() <= 4000);
    }
    assert!(shelf.put((b"late", nowhere()), key(0), (vec![1; 5000], later(60))));
    assert!(shelf.sources.all() <= 4000 * RECORD);
}

#[test]
fn own_records_always_find_room_and_stay_own() {
    let mut shelf = Shelf::new(bounds(400));
    for number in 0..10_000_u64 {
        shelf.lodge((&number.to_le_bytes(), nowhere()), key(number), later(60));
        shelf.put((&number.to_le_bytes(), nowhere()), key(number), (vec![7; 50], later(60)));
    }
    for number in 0..400 {
        assert!(shelf.provide(key(number)) && shelf.put_own(key(number), vec![1], later(60)));
    }
    assert!(!shelf.provide(key(400)) && !shelf.put_own(key(400), vec![1], later(60)), "a bound is a bound");
    assert!(shelf.put((b"other", nowhere()), key(1), (vec![1, 2], later(60))), "it was merged");
    assert!(shelf.put_own(key(1), vec![3], later(60)));
    shelf.withdraw(&key(0));
    shelf.remove(&key(0));
    assert!(shelf.provide(key(400)) && shelf.put_own(key(400), vec![1], later(60)));
}

#[test]
fn a_crowd_of_providers_does_not_hide_the_first() {
    let mut shelf = Shelf::new(bounds(4000));
    for number in 0..1000_u64 {
        shelf.lodge((&number.to_le_bytes(), nowhere()), key(1), later(60));
    }
    assert_eq!(shelf.providers(&key(1)).count(), MAX_PROVIDERS);
    assert!(shelf.providers(&key(1)).any(|provider| provider.peer == 0_u64.to_le_bytes()));
}

#[test]
fn who_is_full_cannot_keep_a_value_from_being_renewed() {
    let mut shelf = Shelf::new(bounds(400));
    assert!(shelf.put((b"first", nowhere()), key(1), (vec![1], later(60))));
    for number in 0..1000 {
        shelf.lodge((b"first", nowhere()), key(number), later(60));
    }
    assert!(shelf.put((b"signer", nowhere()), key(1), (vec![2; 500], later(90))));
    assert_eq!(shelf.value(&key(1)), Some((&[2; 500][..], later(90))));
}

/// The time after which a value goes is said by who puts it, and anybody can put again what he was given.
#[test]
fn nobody_can_have_a_value_go_sooner() {
    let mut shelf = Shelf::new(bounds(10));
    assert!(shelf.put_own(key(1), vec![1], later(1000)));
    assert!(shelf.put((b"ann", from(1)), key(2), (vec![2], later(1000))));
    for (number, bytes) in [(1, vec![1]), (2, vec![2]), (1, vec![1, 1]), (2, vec![2, 2])] {
        assert!(shelf.put((b"eve", from(2)), key(number), (bytes.clone(), later(1))));
        assert_eq!(shelf.value(&key(number)), Some((&*bytes, later(1000))));
    }
    assert!(shelf.put((b"ben", from(3)), key(2), (vec![2, 2], later(2000))));
    assert_eq!(shelf.value(&key(2)), Some((&[2, 2][..], later(2000))), "and longer is fine");
}

#[test]
fn names_and_addresses_beyond_their_bounds_are_not_kept() {
    let mut shelf = Shelf::new(bounds(400));
    assert!(!shelf.lodge((&[1; 65], nowhere()), key(1), later(60)));
    assert!(!shelf.lodge((&[], nowhere()), key(1), later(60)));
    let addresses = std::iter::once(vec![0; 1000]).chain(vec![vec![1; 100]; 50]).collect();
    assert!(shelf.lodge((b"a", Source { group: None, addresses }), key(1), later(60)));
    assert_eq!(shelf.providers(&key(1)).next().unwrap().addresses, vec![vec![1; 100]; 8]);
}

#[test]
fn what_holds_no_more_goes_and_leaves_nothing() {
    let mut shelf = Shelf::new(bounds(400));
    let addresses = vec![vec![1; 100]];
    for number in 0..50_u64 {
        let source = Source { group: None, addresses: addresses.clone() };
        shelf.lodge((&number.to_le_bytes(), source), key(number), later(number));
        shelf.put((&number.to_le_bytes(), nowhere()), key(number), (vec![1], later(number)));
    }
    assert_eq!(shelf.sweep(later(20)), 42);
    shelf.forget_source(&30_u64.to_le_bytes());
    assert_eq!(shelf.len(), 56);
    assert_eq!(shelf.sweep(later(1000)), 56);
    while !shelf.changes(10).is_empty() {}
    assert_eq!((shelf.sources.all(), shelf.sources.largest()), (0, None));
}

/// Everything at random, and after each step the books are right.
fn world(seed: u64) {
    let mut chance = fastrand::Rng::with_seed(seed);
    let bounds = bounds(100);
    let mut shelf = Shelf::new(bounds);
    for step in 0..400 {
        let (number, key) = (chance.u64(..30).to_le_bytes(), key(chance.u64(..40)));
        let group = chance.bool().then(|| Group::V4([chance.u8(..4); 3]));
        let addresses = vec![vec![1; chance.usize(..100)]; chance.usize(..3)];
        let by: (&[u8], _) = (&number, Source { group, addresses });
        let until = later(step + chance.u64(..200));
        match chance.u8(..10) {
            0..4 => drop(shelf.lodge(by, key, until)),
            4..6 => drop(shelf.put(by, key, (vec![1; chance.usize(..900)], until))),
            6 => drop(shelf.put_own(key, vec![2; 10], until)),
            7 => drop(shelf.sweep(later(step))),
            8 => shelf.forget_source(&number),
            _ => drop(shelf.changes(chance.usize(..20))),
        }
        let values = shelf.values.values().filter(|value| value.by.is_some());
        let held = shelf.providers.len() * RECORD + values.map(Value::weight).sum::<usize>();
        assert!(shelf.sources.all() >= held && shelf.sources.all() <= held + 30 * 200, "{held}");
        let lots: usize = shelf.sources.largest().map_or(0, |(most, _)| most);
        assert!(lots <= bounds.lot + 300 && shelf.sources.all() <= bounds.all + 300);
    }
    shelf.sweep(later(10_000));
    while !shelf.changes(20).is_empty() {}
    assert_eq!(shelf.sources.all(), 0);
}

#[test]
fn in_any_world_the_books_are_right() {
    for seed in 0..300 {
        std::panic::catch_unwind(|| world(seed)).unwrap_or_else(|_| panic!("seed {seed}"));
    }
}

/// What this process has in memory that is not in any file: pages of the program itself come as they are needed.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[test]
fn a_record_takes_some_hundred_bytes() {
    const RECORDS: u64 = 100_000;
    let before = resident();
    let mut shelf = Shelf::new(bounds(400_000));
    for number in 0..RECORDS {
        let peer = [&[0; 30][..], &(number % 500).to_le_bytes()].concat();
        let source = Source { group: None, addresses: vec![vec![1; 60]; 4] };
        assert!(shelf.lodge((&peer, source), key(number), later(60)));
        if shelf.waiting() >= 4096 {
            shelf.changes(usize::MAX);
        }
    }
    let full = resident().saturating_sub(before) / RECORDS;
    println!("{full} bytes a provider record");
    assert!(full <= RECORD as u64, "{full}");
}

#[test]
fn what_was_written_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dht.redb");
    let (file, nothing) = File::open(&path);
    assert!(nothing.rows.is_empty() && nothing.said.is_empty());
    let mut shelf = Shelf::new(bounds(4000));
    for number in 0..300_u64 {
        let source = Source { group: Some(Group::V4([1, 2, 3])), addresses: vec![vec![9; 40], vec![8; 41]] };
        assert!(shelf.lodge((&(number % 5).to_le_bytes(), source), key(number), later(number)));
    }
    shelf.put((b"a", from(9)), key(1), (b"value".to_vec(), later(60)));
    shelf.put_own(key(2), b"own".to_vec(), later(60));
    shelf.provide(key(3));
    while shelf.waiting() > 0 {
        file.queue(Lines { rows: shelf.changes(100), ..Lines::default() });
        file.write_queued();
    }
    shelf.leave(&key(299), &4_u64.to_le_bytes());
    file.queue(Lines { rows: shelf.changes(100), ..Lines::default() });
    file.write_queued();
    for (name, again) in [(b"x".to_vec(), later(5)), (b"y".to_vec(), NOW), (vec![0; 1000], NOW)] {
        file.queue_said(name, Some(again));
    }
    file.queue_said(b"y".to_vec(), None);
    file.write_queued();
    file.close();
    let (_file, contents) = File::open(&path);
    assert_eq!(contents.said.into_iter().collect::<Vec<_>>(), [(b"x".to_vec(), later(5))]);
    let mut again = Shelf::new(bounds(4000));
    again.restore(contents.rows, later(100));
    assert_eq!(again.waiting(), 0);
    shelf.sweep(later(100));
    assert_eq!(again.len(), shelf.len());
    for number in 0..300 {
        assert!(again.providers(&key(number)).eq(shelf.providers(&key(number))), "{number}");
    }
    assert!(again.provides(&key(3)) && again.value(&key(1)).is_none(), "that was over");
}

#[test]
fn a_damaged_file_is_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dht.redb");
    for damage in [vec![0; 5000], b"no database".to_vec(), vec![0xff; 1 << 16]] {
        std::fs::write(&path, &damage).unwrap();
        let (file, contents) = File::open(&path);
        assert!(contents.rows.is_empty());
        assert_eq!(std::fs::read(path.with_extension("damaged")).unwrap(), damage);
        file.queue_said(b"x".to_vec(), Some(NOW));
        file.write_queued();
        file.close();
        assert_eq!(File::open(&path).1.said.len(), 1);
    }
    // Bytes turned within a file that was good are found out, or do no harm.
    let good = std::fs::read(&path).unwrap();
    let mut chance = fastrand::Rng::with_seed(7);
    for _ in 0..30 {
        let mut bad = good.clone();
        for _ in 0..100 {
            let at = chance.usize(..bad.len());
            bad[at] = chance.u8(..);
        }
        std::fs::write(&path, &bad).unwrap();
        let (file, _) = File::open(&path);
        file.queue_said(b"x".to_vec(), Some(NOW));
        file.write_queued();
    }
    // Two cannot have it at once: the second keeps nothing, and spoils nothing.
    std::fs::write(&path, &good).unwrap();
    let (first, _) = File::open(&path);
    let (second, contents) = File::open(&path);
    assert!(contents.said.is_empty());
    second.queue_said(b"z".to_vec(), Some(NOW));
    second.write_queued();
    drop(first);
    assert_eq!(File::open(&path).1.said.len(), 1);
}
