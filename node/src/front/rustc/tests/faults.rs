// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever happens to the door, the unit is compiled, and waited for no longer than once.

use std::fs;
use std::time::Duration;

use super::{CODE, Checkout, Fault, Limits, Memory};

#[tokio::test]
async fn a_door_that_hangs_is_waited_for_once_and_others_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let full = Memory::default();
    Checkout::new(&folder.path().join("full"), CODE).build(&full).await;
    let hangs = async |at: &'static str, door: &Memory| {
        door.set(Fault::Hangs(at));
        let one = Checkout::new(&folder.path().join(at), CODE);
        let line = one.build(door).await;
        assert_eq!(
            (&line["outcome"], &line["published"]),
            (&"compiled".into(), &false.into()),
            "{at}: {line}"
        );
        assert_eq!(one.outputs(), ["app-1.d", "libapp-1.rlib", "libapp-1.rmeta"], "{at}");
        assert!(one.folder.join("target/stalled").is_file(), "{at}");
        // It was waited for once, was asked once whether it is alive, and nothing more was asked of it.
        assert_eq!((door.called(at), door.called("missing")), (1, 1), "{at}");
        assert_eq!(door.0.lock().unwrap().calls.last(), Some(&"missing"), "{at}");
    };
    let empty = [Memory::default(), Memory::default(), Memory::default()];
    tokio::join!(
        hangs("lookup", &empty[0]),
        hangs("read", &full),
        hangs("write", &empty[1]),
        hangs("publish", &empty[2]),
    );
}

/// One that is alive, and does not come to an end with what it is asked: the build waits once, and asks only for what is
/// at hand from then on.
#[tokio::test]
async fn a_door_that_dawdles_is_waited_for_once() {
    let folder = tempfile::tempdir().unwrap();
    let full = Memory::default();
    Checkout::new(&folder.path().join("full"), CODE).build(&full).await;
    let brief = Limits {
        answer: Duration::from_millis(300),
        whole: Duration::from_millis(600),
        publish: Some(Duration::from_millis(300)),
    };
    for (at, publishes) in [("lookup", false), ("read", false), ("write", true), ("publish", true)] {
        let door = if publishes { Memory::default() } else { full.clone() };
        door.set(Fault::Dawdles(at));
        let mut one = Checkout::new(&folder.path().join(at), CODE);
        // However busy this machine is, what is at hand comes in time.
        one.limits = [brief, Limits { whole: Duration::from_secs(60), ..Limits::TIRED }];
        let line = one.build(&door).await;
        assert_eq!(
            (&line["outcome"], &line["published"]),
            (&"compiled".into(), &false.into()),
            "{at}: {line}"
        );
        assert_eq!(line["reason"], "the daemon took too long", "{at}: {line}");
        // Reading may take less than it takes until that is asked.
        assert!(at == "read" || door.called("missing") > 0, "{at}: it was asked whether it is alive");
        assert_eq!(fs::read_to_string(one.folder.join("target/stalled")).unwrap(), "late 1-a");
        // What is at hand is still used; nothing is sent any more.
        door.set(Fault::None);
        one.write("src/lib.rs", format!("{CODE}// {at}"));
        let line = one.build(&door).await;
        assert_eq!(line["reason"], "the daemon took too long for this build before", "{at}: {line}");
        assert_eq!(door.called("write") + door.called("publish"), 0, "{at}");
        let asked = door.0.lock().unwrap().deadlines.clone();
        assert!(asked.iter().all(|deadline| *deadline < Duration::from_millis(50)), "{asked:?}");
        full.set(Fault::None);
        one.write("src/lib.rs", CODE);
        let line = one.build(&full).await;
        assert_eq!(line["outcome"], "restored", "{at}: {line}");
        // Who waits in vain for that as well, has everybody stay away.
        door.set(Fault::Dawdles("lookup"));
        one.build(&door).await;
        assert_eq!(fs::read_to_string(one.folder.join("target/stalled")).unwrap(), "silent 1-a");
    }
}

#[tokio::test]
async fn a_door_that_goes_away_or_panics_costs_nothing_but_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let full = Memory::default();
    Checkout::new(&folder.path().join("full"), CODE).build(&full).await;
    for (name, fault, restores) in [
        ("1", Fault::Gone("lookup"), true),
        ("2", Fault::Gone("read"), true),
        ("3", Fault::Gone("write"), false),
        ("4", Fault::Gone("publish"), false),
        ("5", Fault::Panics("lookup"), true),
        ("6", Fault::Panics("read"), true),
        ("7", Fault::Panics("write"), false),
        ("8", Fault::Panics("publish"), false),
    ] {
        let empty = Memory::default();
        let door = if restores { &full } else { &empty };
        door.set(fault);
        let one = Checkout::new(&folder.path().join(name), CODE);
        let line = one.build(door).await;
        assert_eq!(line["outcome"], "compiled", "{fault:?}: {line}");
        assert_eq!(one.outputs(), ["app-1.d", "libapp-1.rlib", "libapp-1.rmeta"], "{fault:?}");
    }
}

#[tokio::test]
async fn what_a_killed_wrapper_has_left_is_swept_away_later() {
    let folder = tempfile::tempdir().unwrap();
    let one = Checkout::new(folder.path(), CODE);
    let (old, young) = (one.output(".potluck-old"), one.output(".potluck-young"));
    fs::write(&young, "").unwrap();
    let file = fs::File::create(&old).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    assert_eq!(one.build(&Memory::default()).await["published"], true);
    assert!(!old.exists() && young.exists());
}
