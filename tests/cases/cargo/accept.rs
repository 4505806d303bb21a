// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon is killed and started again, at random moments, while builds go on; and it is stopped, and goes on later.
//!
//! The quick form runs with all other tests; `POTLUCK_BUILDS=full` makes it twenty builds.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use potluck_tests::cargo::{self, Checkout, sample};
use potluck_tests::program::Person;

use super::workspace::{Built, Workspace, count, log};

/// A checkout in which nothing says what it says in one of another number.
pub(super) fn numbered(person: &Person, place: &str, number: u64) -> Workspace {
    let workspace = Workspace::new(person.path(place));
    let script = std::fs::read_to_string(workspace.folder().join("dish/build.rs")).unwrap();
    workspace.write("dish/build.rs", &script.replace("stew", &format!("stew {number}")));
    let spice = std::fs::read_to_string(workspace.folder().join("spice/src/lib.rs")).unwrap();
    workspace.write("spice/src/lib.rs", &spice.replace("salt", &format!("salt {number}")));
    let app = format!("fn main() {{ println!(\"{{}}, dish {number}\", dish::serve()); }}\n");
    workspace.write("app/src/main.rs", &app);
    workspace
}

/// What became of the units before the last one, which is the program.
fn rows(person: &Person) -> Vec<(String, String)> {
    let mut rows = log(person);
    rows.retain(|(name, _)| name != "app");
    rows
}

/// Builds with a daemon that is heard, however busy the machine is.
fn build_patiently(person: &Person, workspace: &Workspace) -> Built {
    workspace.built(workspace.command(person).env("POTLUCK_DEADLINE_MS", "60000"))
}

/// The milliseconds until the next kill.
fn moment(seed: u64, number: u64) -> Duration {
    let hash = blake3::hash(format!("{seed} {number}").as_bytes());
    let bytes = hash.as_bytes().first_chunk::<8>().expect("a hash is longer");
    Duration::from_millis(u64::from_le_bytes(*bytes) % 4000)
}

/// Builds while somebody kills the daemon over and over, and starts it again at once.
fn build_among_kills(person: &Person, workspace: &Workspace, seed: u64) -> (Built, u64) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut kills = 0;
            while !done.load(Ordering::Relaxed) {
                let daemon = person.daemon();
                std::thread::sleep(moment(seed, kills));
                // By SIGKILL, and it is gone afterwards.
                drop(daemon);
                kills += 1;
            }
            kills
        });
        let build = || build_patiently(person, workspace);
        let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(build));
        done.store(true, Ordering::Relaxed);
        let kills = killer.join().expect("the daemon starts after each kill");
        (built.unwrap_or_else(|_| panic!("seed {seed}, {kills} kills")), kills)
    })
}

/// Two of each kind: what was made of the first is there for the second, or half of it is.
#[test]
fn builds_go_well_while_the_daemon_is_killed() {
    let full = std::env::var("POTLUCK_BUILDS").is_ok_and(|how| how == "full");
    let builds = if full { 20 } else { 4 };
    let person = Person::at_home();
    let (mut kills, mut restored, mut published) = (0, 0, 0);
    for build in 0..builds {
        let number = build / 2;
        let plain = numbered(&person, "plain", number);
        let _ = std::fs::remove_dir_all(plain.folder().join("target"));
        let plain = plain.plainly(&person);
        assert_eq!(plain.printed, format!("stew {number} with salt {number}, dish {number}\n"));
        let place = if build % 2 == 0 { format!("{number}") } else { format!("deeper/by/far/{number}") };
        let wrapped = numbered(&person, &place, number);
        let (built, killed) = build_among_kills(&person, &wrapped, build);
        assert_eq!(built, plain, "seed {build}, {killed} kills");
        kills += killed;
        let rows = rows(&person);
        restored += count(&rows, "restored");
        published += count(&rows, "compiled: unclaimed");
    }
    eprintln!("{builds} builds, {kills} kills, {restored} units restored, {published} published");
    // What all of that has left behind is whole, and of use.
    let _ = std::fs::remove_file(person.home().join("stalled"));
    let _daemon = person.daemon();
    let verified = person.run(["--json", "verify"]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    for (place, outcome) in [("last", "compiled: "), ("deeper/last", "restored")] {
        let wrapped = numbered(&person, place, builds);
        assert_eq!(
            build_patiently(&person, &wrapped).printed,
            format!("stew {builds} with salt {builds}, dish {builds}\n")
        );
        let rows = rows(&person);
        assert_eq!(count(&rows, outcome), 4, "{place}: {rows:?}");
    }
}

/// Sends the daemon a signal.
fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

/// A daemon that is there and says nothing: one unit waits for it, and none after that. Once it goes on, the next build
/// uses it again.
#[test]
fn a_build_beside_a_stopped_daemon_waits_for_it_once() {
    let person = Person::at_home();
    let daemon = person.daemon();
    let plain = numbered(&person, "plain", 1).plainly(&person);
    signal("STOP", daemon.pid());
    let wrapped = numbered(&person, "wrapped", 1);
    assert_eq!(wrapped.build(&person), plain);
    let rows = rows(&person);
    assert_eq!(count(&rows, "passed: the daemon is not reachable"), 3, "nobody asked: {rows:?}");
    let mark = person.home().join("stalled");
    let text = std::fs::read_to_string(&mark).unwrap();
    assert!(text.starts_with("silent ") && text.len() > "silent ".len(), "it names the build: {text}");
    signal("CONT", daemon.pid());
    person.until("the daemon", |status| status["pid"] == daemon.pid());
    // As when the time to leave it alone has passed.
    std::fs::remove_file(mark).unwrap();
    let again = numbered(&person, "again", 1);
    assert_eq!(build_patiently(&person, &again), plain);
    let rows = self::rows(&person);
    assert_eq!(count(&rows, "compiled: unclaimed"), 4, "{rows:?}");
}

/// Stands between somebody's daemon and all who ask it, and counts them.
fn counted(person: &Person) -> Arc<AtomicUsize> {
    let (asked, daemon) = (person.home().join("potluck.sock"), person.home().join("daemon.sock"));
    std::fs::rename(&asked, &daemon).unwrap();
    let listener = UnixListener::bind(asked).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    // It ends with the process.
    std::thread::spawn(move || {
        for asker in listener.incoming().map_while(Result::ok) {
            counter.fetch_add(1, Ordering::SeqCst);
            let Ok(answerer) = UnixStream::connect(&daemon) else { continue };
            for (from, to) in [(&asker, &answerer), (&answerer, &asker)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    count
}

/// A project with packages from a registry, several units at a time, beside a stopped daemon that holds all of it. Should
/// this machine be so slow that the time to leave it alone passes during the build, it is asked again.
#[test]
fn the_sample_is_built_beside_a_stopped_daemon_that_is_not_asked_for_each_unit() {
    let person = Person::at_home();
    let daemon = person.daemon();
    let connections = counted(&person);
    let patiently = |place: &str| {
        let checkout = Checkout::new(&person, &sample(), place);
        let built = checkout.cargo(&person).env("POTLUCK_DEADLINE_MS", "60000").output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        checkout
    };
    let first = patiently("first");
    let made = first.units();
    assert!(cargo::count(&made, "compiled") == made.len() && !made.is_empty(), "{made:?}");
    signal("STOP", daemon.pid());
    let before = connections.load(Ordering::SeqCst);
    let stopped = Checkout::new(&person, &sample(), "stopped");
    assert_eq!(stopped.build(&person), [], "it gave nothing and got nothing");
    let asked = connections.load(Ordering::SeqCst) - before;
    let passed = std::fs::read_to_string(person.path("stopped.units")).unwrap();
    let passed = passed.matches("the daemon is not reachable").count();
    eprintln!("{asked} of {passed} units asked");
    assert!((1..passed).contains(&asked), "{asked} of {passed} units asked");
    assert_eq!(stopped.run("small-app"), first.run("small-app"));
    signal("CONT", daemon.pid());
    person.until("the daemon", |status| status["pid"] == daemon.pid());
    // As when the time to leave it alone has passed.
    std::fs::remove_file(person.home().join("stalled")).unwrap();
    let again = patiently("deeper/again");
    let restored = again.units();
    assert_eq!(cargo::count(&restored, "restored"), made.len(), "{restored:?}");
    assert!(again.program("small-app") == first.program("small-app"), "the programs differ");
}
