// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real stores with every kind of fault: nothing that was acknowledged is lost, and nothing that is wrong is served.

mod crowd;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use potluck_tests::program::{Person, Ran, potluck};
use serde_json::Value;

/// A Blob that lies in a file of its own, different for each number.
fn data(number: u64) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    let mut bytes = vec![0; 100_000];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn key(number: u64) -> String {
    format!("{number:016x}")
}

fn put(person: &Person, number: u64) -> Ran {
    let name = format!("put-{number}");
    fs::write(person.path(&name), data(number)).unwrap();
    person.run(["put", "--recipe", "r@1", "--key", &key(number), &name])
}

/// What is served under a key, if anything is.
fn get(person: &Person, number: u64) -> Result<Vec<u8>, Ran> {
    let name = format!("got-{number}");
    let ran = person.run(["get", "--recipe", "r@1", "--key", &key(number), "--deadline", "100", &name]);
    match ran.code {
        0 => Ok(fs::read(person.path(&name)).unwrap()),
        _ => {
            assert!(!person.path(&name).exists(), "what cannot be served is not written either");
            Err(ran)
        }
    }
}

/// Where a Blob lies.
fn file(person: &Person, number: u64) -> PathBuf {
    let name = blake3::hash(&data(number)).to_hex();
    person.home().join("store/blobs").join(&name[..2]).join(&*name)
}

fn verify(person: &Person) -> (i32, Value) {
    let ran = person.run(["--json", "verify"]);
    (ran.code, serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}")))
}

/// Damages three stored Blobs, each in its way.
fn damage(person: &Person) {
    let mut flipped = fs::read(file(person, 0)).unwrap();
    flipped[70_000] ^= 4;
    fs::write(file(person, 0), flipped).unwrap();
    fs::File::options().write(true).open(file(person, 1)).unwrap().set_len(50_000).unwrap();
    fs::copy(file(person, 3), file(person, 2)).unwrap();
}

#[test]
fn damaged_files_are_found_put_aside_and_healed_by_whoever_has_them() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    for number in 0..4 {
        put(&person, number).ok();
    }
    damage(&person);
    for number in 0..3 {
        let ran = get(&person, number).unwrap_err();
        assert!(ran.stderr.contains("damaged") || ran.code == 3, "{ran:?}");
        assert!(!file(&person, number).exists(), "it is put aside");
        assert_eq!(get(&person, number).unwrap_err().code, 3, "then it is a miss");
        put(&person, number).ok();
        assert_eq!(get(&person, number).unwrap(), data(number));
    }
    assert_eq!(get(&person, 3).unwrap(), data(3));
    assert_eq!(fs::read_dir(person.home().join("store/quarantine")).unwrap().count(), 3);
}

#[test]
fn verify_finds_what_nobody_has_read() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    for number in 0..4 {
        put(&person, number).ok();
    }
    let (code, report) = verify(&person);
    assert_eq!((code, &report["sound"], &report["v"]), (0, &Value::Bool(true), &Value::from(1)), "{report}");
    assert_eq!((report["blobs"].as_u64(), report["bytes"].as_u64()), (Some(4), Some(400_000)), "{report}");
    assert_eq!(report["entries"]["checked"], 4, "{report}");
    damage(&person);
    let (code, report) = verify(&person);
    assert_eq!(
        (code, report["damaged"].as_u64(), report["lost"].as_u64()),
        (1, Some(3), Some(3)),
        "{report}"
    );
    assert_eq!(report["entries"]["incomplete"], 3, "{report}");
    for number in 0..3 {
        put(&person, number).ok();
    }
    let ran = person.run(["verify"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("4 blobs checked, "), "{}", ran.stdout);
    let absent = "00".repeat(32);
    assert_eq!(person.run(["verify", absent.as_str()]).code, 3);
    let one = blake3::hash(&data(1)).to_hex();
    assert!(person.run(["verify", one.as_str()]).ok().starts_with("1 blob checked, "));
}

#[test]
fn a_store_that_is_removed_is_done_without_and_made_anew() {
    let person = Person::at_home();
    let daemon = person.daemon();
    put(&person, 0).ok();
    fs::remove_dir_all(person.home().join("store")).unwrap();
    assert_ne!(get(&person, 0).unwrap_err().code, 0);
    let ran = put(&person, 1);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(person.status()["pid"].is_u64());
    drop(daemon);
    let _daemon = person.daemon();
    assert_eq!(get(&person, 0).unwrap_err().code, 3);
    put(&person, 0).ok();
    assert_eq!(get(&person, 0).unwrap(), data(0));
}

#[test]
fn a_second_daemon_says_who_has_the_home() {
    let person = Person::at_home();
    let daemon = person.daemon();
    let ran = person.run(["up", "--foreground"]);
    assert_ne!(ran.code, 0);
    let says = format!("process {}", daemon.pid());
    assert!(ran.stderr.contains(&says), "{says}: {}", ran.stderr);
    put(&person, 0).ok();
}

#[test]
fn a_daemon_may_be_started_as_soon_as_another_has_ended() {
    let person = Person::at_home();
    for number in 0..5 {
        person.run(["up"]).ok();
        put(&person, number).ok();
        person.run(["down"]).ok();
    }
}

/// Runs a script in a mount namespace, with a home of 12 MiB of its own, the program in `$POTLUCK`, and shorthands.
/// Gives nothing where this machine allows no such thing.
fn in_small_home(person: &Person, script: &str) -> Option<Ran> {
    if !Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine allows no mount namespaces");
        return None;
    }
    fs::write(person.path("file"), data(1)).unwrap();
    fs::write(person.path("big"), data(2).repeat(20)).unwrap();
    let all = format!(
        "set -eu
        mkdir kept; cp -a \"$POTLUCK_HOME/.\" kept
        mount -t tmpfs -o size=12m,mode=0700 tmpfs \"$POTLUCK_HOME\"
        cp -a kept/. \"$POTLUCK_HOME\"
        put() {{ \"$POTLUCK\" put --recipe r@1 --key \"$1\" \"$2\" >&2; }}
        get() {{ \"$POTLUCK\" get --recipe r@1 --key \"$1\" --deadline 100 got >&2 && cmp got \"$2\" >&2; }}
        \"$POTLUCK\" up >&2
        trap '\"$POTLUCK\" down >&2 || true' EXIT
        {script}"
    );
    let mut inside = Command::new("unshare");
    inside.args(["-rm", "sh", "-c", &all]).env_clear();
    inside.envs(person.command(["status"]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    inside.env("POTLUCK", potluck()).current_dir(person.path("")).stdin(Stdio::null());
    Some(person.ran(&mut inside))
}

#[test]
fn a_full_disk_is_said_and_got_over() {
    let person = Person::at_home();
    let script = "put 01 file
        dd if=/dev/zero of=\"$POTLUCK_HOME/fill\" bs=4096 2>/dev/null || true
        if put 02 big; then echo big was put; fi
        if put 03 file; then echo file was put; fi
        \"$POTLUCK\" status >&2
        get 01 file
        rm \"$POTLUCK_HOME/fill\"
        put 02 big
        get 02 big
        get 01 file
        for wait in $(seq 200); do
            staged=$(ls \"$POTLUCK_HOME/store/staging\"); [ -z \"$staged\" ] && break; sleep 0.1
        done
        echo \"$staged\" | grep . || true
        \"$POTLUCK\" --json verify >&2";
    let Some(ran) = in_small_home(&person, script) else { return };
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    assert!(ran.stderr.contains("no room"), "{ran:?}");
}

#[test]
fn a_folder_that_turns_read_only_is_said_and_got_over() {
    let person = Person::at_home();
    let script = "put 01 file
        for folder in staging blobs quarantine; do
            mount --bind \"$POTLUCK_HOME/store/$folder\" \"$POTLUCK_HOME/store/$folder\"
            mount -o remount,bind,ro \"$POTLUCK_HOME/store/$folder\"
        done
        if put 02 big; then echo big was put; fi
        \"$POTLUCK\" status >&2
        get 01 file
        for folder in staging blobs quarantine; do umount \"$POTLUCK_HOME/store/$folder\"; done
        put 02 big
        get 02 big";
    let Some(ran) = in_small_home(&person, script) else { return };
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    assert!(ran.stderr.contains("not allowed"), "{ran:?}");
}

/// Puts until the daemon is gone; notes what was acknowledged. Whoever notes the last of so many kills it.
fn put_until_killed(
    person: &Person,
    numbers: impl Iterator<Item = u64>,
    done: &Mutex<Vec<u64>>,
    kill: &dyn Fn(usize),
) {
    for number in numbers {
        if put(person, number).code != 0 {
            return;
        }
        let mut done = done.lock().unwrap();
        done.push(number);
        kill(done.len());
    }
}

#[test]
fn a_daemon_that_is_killed_again_and_again_keeps_what_it_acknowledged() {
    let seed = std::env::var("POTLUCK_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("POTLUCK_TEST_SEED={seed}");
    let person = Person::at_home();
    let done = Mutex::new(Vec::new());
    for round in 0..4_u64 {
        let up = person.up(&[]);
        let pid = up.ready["pid"].to_string();
        for number in done.lock().unwrap().iter() {
            assert_eq!(
                get(&person, *number).unwrap_or_else(|ran| panic!("{number} is lost: {ran:?}")),
                data(*number)
            );
        }
        let before = done.lock().unwrap().len();
        let after = before + 1 + usize::from(blake3::hash(&(seed + round).to_le_bytes()).as_bytes()[0] % 12);
        let kill = |count: usize| {
            if count == after {
                assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
            }
        };
        std::thread::scope(|scope| {
            for writer in 0..3 {
                let (person, done, kill) = (&person, &done, &kill);
                let numbers = (0..).map(move |n| 1_000_000 * round + 3 * n + writer);
                scope.spawn(move || put_until_killed(person, numbers, done, kill));
            }
        });
        // Its sockets may have gone before its lock.
        fs::File::open(person.home().join("lock")).unwrap().lock().unwrap();
        std::mem::forget(up);
    }
    let left = staged(&person.home());
    let _up = person.up(&[]);
    let (code, report) = verify(&person);
    assert_eq!(code, 0, "{report}");
    // What is just being packed has another name.
    let now = staged(&person.home());
    assert!(left.is_disjoint(&now), "what was being written is still there: {left:?}");
}

fn staged(home: &Path) -> BTreeSet<OsString> {
    fs::read_dir(home.join("store/staging")).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}
