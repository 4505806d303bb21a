// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nx, which fails a run for any answer that it does not expect; and `potluck nx`, which stands between.

use std::fs;
use std::io::{self, BufRead as _, Read, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use potluck_tests::program::{Person, Still, potluck};
use potluck_tests::tools;

use super::wire::{ask, connect};
use super::{Built, Tool, files, outlive, program, said, share, stalled};

const PROJECTS: [&str; 2] = ["soup", "bread"];

struct Nx(PathBuf);

impl Nx {
    /// A run of it.
    fn run(&self, mut nx: Command) -> Command {
        nx.arg(self.0.join("nx/dist/bin/nx.js")).args(["run-many", "-t", "build", "--outputStyle=static"]);
        nx.env("CI", "1").env("NX_DAEMON", "false").env("NX_NO_CLOUD", "true").env("NO_COLOR", "1");
        nx
    }

    /// What came of a run that has to go well.
    fn ran(mut nx: Command, folder: &Path) -> Built {
        let text = said(&mut nx);
        let hits = text.lines().filter(|line| line.contains("[remote cache]")).count();
        let names = PROJECTS.map(|name| format!("{name}/dist/out.txt"));
        Built { hits, made: PROJECTS.len() - hits, outputs: files(folder, names) }
    }
}

impl Tool for Nx {
    const KEYS: u64 = 2;
    const PARTS: usize = 2;

    fn lay(&self, folder: &Path, _: Option<&str>) {
        let settings = r#"{ "neverConnectToCloud": true, "targetDefaults": { "build": { "cache": true,
            "inputs": ["{projectRoot}/in.txt"], "outputs": ["{projectRoot}/dist"] } } }"#;
        fs::write(folder.join("nx.json"), settings).unwrap();
        fs::write(folder.join("package.json"), r#"{ "name": "small", "version": "1.0.0" }"#).unwrap();
        for name in PROJECTS {
            let project = format!(
                r#"{{ "name": "{name}", "root": "{name}", "targets": {{ "build": {{ "executor": "nx:run-commands",
                "options": {{ "command": "mkdir -p {name}/dist && cat {name}/in.txt > {name}/dist/out.txt" }} }} }} }}"#
            );
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("project.json"), project).unwrap();
            fs::write(folder.join(name).join("in.txt"), format!("{name}\n")).unwrap();
        }
        let _ = std::os::unix::fs::symlink(&self.0, folder.join("node_modules"));
    }

    fn build(&self, person: &Person, http: &str, folder: &Path) -> Built {
        let mut nx = self.run(program(person, "node", folder));
        nx.env("NX_SELF_HOSTED_REMOTE_CACHE_SERVER", format!("http://{http}/nx"));
        nx.env("NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN", "any");
        Self::ran(nx, folder)
    }
}

/// The same with `potluck nx` before the command.
struct Guarded(Nx);

impl Guarded {
    fn build(&self, person: &Person, home: &Path, folder: &Path) -> Built {
        let mut nx = program(person, potluck(), folder);
        nx.args(["nx", "node"]).env("POTLUCK_HOME", home);
        // Nobody is there, and nobody is to be asked there.
        nx.env("NX_SELF_HOSTED_REMOTE_CACHE_SERVER", "http://127.0.0.1:1/nx")
            .env("HTTP_PROXY", "http://127.0.0.1:1");
        Nx::ran(self.0.run(nx), folder)
    }
}

impl Tool for Guarded {
    const KEYS: u64 = Nx::KEYS;
    const PARTS: usize = Nx::PARTS;

    fn lay(&self, folder: &Path, ends: Option<&str>) {
        self.0.lay(folder, None);
        if let Some(pid) = ends {
            // One after the other, so that what was made is put, and more is asked for, when nobody is there any more.
            let path = folder.join("soup/project.json");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text.replace("dist/out.txt\" }", &format!("dist/out.txt && kill -9 {pid}\" }}")))
                .unwrap();
            let path = folder.join("bread/project.json");
            let text = fs::read_to_string(&path).unwrap();
            let after =
                r#""executor": "nx:run-commands", "dependsOn": [{ "projects": "soup", "target": "build" }],"#;
            fs::write(path, text.replace(r#""executor": "nx:run-commands","#, after)).unwrap();
        }
    }

    fn build(&self, person: &Person, _: &str, folder: &Path) -> Built {
        self.build(person, &person.home(), folder)
    }
}

#[test]
fn outputs_of_targets_are_shared() {
    if let Some(folder) = tools::nx() {
        share(&Nx(folder));
    }
}

#[test]
fn a_run_that_waits_for_a_peer_that_stands_still_does_not_fail() {
    if let Some(folder) = tools::nx() {
        stalled(&Nx(folder));
    }
}

#[test]
fn outputs_of_targets_are_shared_by_way_of_the_guard() {
    if let Some(folder) = tools::nx() {
        share(&Guarded(Nx(folder)));
    }
}

#[test]
fn a_guarded_run_outlives_the_daemon() {
    if let Some(folder) = tools::nx() {
        outlive(&Guarded(Nx(folder)));
    }
}

/// How much of what the daemon says passes before it is ended or stopped, which is in the middle of the large output.
const PASSES: usize = 4 << 20;
/// Size of that output, which does not become smaller when it is packed.
const LARGE: usize = 16 << 20;

/// Passes on what one says to another, and calls `stop` once when so much has passed.
fn pass(mut from: impl Read, mut to: UnixStream, mut stop: Option<impl FnOnce()>) -> io::Result<()> {
    let (mut passed, mut bytes) = (0, vec![0; 64 * 1024]);
    loop {
        let some = from.read(&mut bytes)?;
        if some == 0 {
            return to.shutdown(Shutdown::Both);
        }
        to.write_all(&bytes[..some])?;
        passed += some;
        if passed >= PASSES
            && let Some(stop) = stop.take()
        {
            stop();
        }
    }
}

/// Leaves nothing of what was built.
fn clean(folder: &Path) {
    for name in PROJECTS {
        fs::remove_dir_all(folder.join(name).join("dist")).unwrap();
    }
    fs::remove_dir_all(folder.join(".nx")).unwrap();
}

/// Nx gets a large output from a daemon to which something happens while it gives it.
fn in_the_middle_of_a_body<T: Send + 'static>(folder: PathBuf, happens: fn(String) -> T) {
    let tool = Guarded(Nx(folder));
    let person = Person::at_home();
    let up = person.up(&[]);
    let pid = up.ready["pid"].to_string();
    let src = person.path("src");
    fs::create_dir_all(&src).unwrap();
    tool.lay(&src, None);
    let mut large = vec![0; LARGE];
    blake3::Hasher::new().finalize_xof().fill(&mut large);
    fs::write(src.join("soup/in.txt"), large).unwrap();
    let first = tool.build(&person, &person.home(), &src);
    assert_eq!((first.hits, first.made), (0, PROJECTS.len()), "{first:?}");

    // What it is when nothing happens.
    clean(&src);
    let whole = tool.build(&person, &person.home(), &src);
    assert_eq!((whole.hits, whole.made), (PROJECTS.len(), 0), "{whole:?}");
    assert!(whole.outputs == first.outputs, "the outputs differ");

    // A home whose socket is a place from which all is passed on.
    let home = person.path("passed");
    fs::create_dir_all(&home).unwrap();
    let socket = |home: &Path| home.join("potluck.sock");
    let listener = UnixListener::bind(socket(&home)).unwrap();
    let theirs = socket(&person.home());
    let passing = std::thread::spawn(move || {
        let (here, _) = listener.accept().unwrap();
        let there = UnixStream::connect(theirs).unwrap();
        let (asks, asked) = (here.try_clone().unwrap(), there.try_clone().unwrap());
        std::thread::spawn(move || pass(asks, asked, None::<fn()>));
        let mut happened = None;
        let _ = pass(there, here, Some(|| happened = Some(happens(pid))));
        happened
    });
    clean(&src);
    let second = tool.build(&person, &home, &src);
    assert!(second.hits < PROJECTS.len(), "the large output did not come to its end: {second:?}");
    assert!(second.outputs == first.outputs, "the outputs differ");
    assert!(passing.join().unwrap().is_some(), "it happened");
}

#[test]
fn a_guarded_run_goes_on_when_the_daemon_is_killed_while_it_gives_a_value() {
    if let Some(folder) = tools::nx() {
        in_the_middle_of_a_body(folder, |pid| said(Command::new("kill").args(["-9", &pid])));
    }
}

#[test]
fn a_guarded_run_goes_on_when_the_daemon_stands_still_while_it_gives_a_value() {
    if let Some(folder) = tools::nx() {
        in_the_middle_of_a_body(folder, Still::new);
    }
}

#[test]
fn a_guarded_command_ends_as_it_would_alone_and_needs_no_daemon() {
    let person = Person::new();
    let ran = |line: &str| person.command(["nx", "sh", "-c", line]).stdin(Stdio::null()).output().unwrap();
    let ended = ran("echo \"$NX_SELF_HOSTED_REMOTE_CACHE_SERVER\"; exit 7");
    let said = String::from_utf8(ended.stdout).unwrap();
    assert!(said.starts_with("http://127.0.0.1:") && said.ends_with("/nx/@default\n"), "{said}");
    assert_eq!(ended.status.code(), Some(7));
    assert_eq!(ran("kill -TERM $$").status.code(), Some(128 + 15));
    // It is told what the guard is told.
    let told = ran("trap 'exit 5' TERM; kill -TERM $PPID; while :; do sleep 1; done");
    assert_eq!(told.status.code(), Some(5));
    assert_eq!(person.run(["nx", "no-such-program"]).code, 1);
    assert!(!person.home().exists(), "nothing was made");
}

#[test]
fn only_the_guarded_command_is_answered() {
    let person = Person::new();
    let tell =
        "echo $NX_SELF_HOSTED_REMOTE_CACHE_SERVER; echo $NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN; read end";
    let mut command = person.command(["nx", "sh", "-c", tell]);
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = io::BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
    let (server, token) = (lines.next().unwrap(), lines.next().unwrap());
    let at = server.strip_prefix("http://").unwrap().strip_suffix("/nx/@default").unwrap();
    let known = format!("Authorization: Bearer {token}");
    let known = known.as_str();
    let status = |line: &str, headers: &[&str]| ask(&mut connect(at), line, headers, b"tar").status;
    for line in ["GET /nx/v1/cache/1", "PUT /nx/v1/cache/1"] {
        assert_eq!(status(line, &[]), 401, "{line}");
        assert_eq!(status(line, &["Authorization: Bearer any"]), 401, "{line}");
        assert_eq!(status(line, &[known, "Origin: http://elsewhere"]), 403, "{line}");
    }
    // Without a daemon there is nothing, and what is put is taken.
    assert_eq!(status("GET /nx/v1/cache/1", &[known]), 404);
    assert_eq!(status("PUT /nx/v1/cache/1", &[known]), 200);
    assert_eq!(status("GET /ccache/1", &[known]), 404);
    drop(run.stdin.take());
    assert_eq!(run.wait().unwrap().code(), Some(1), "there was nothing more to read");
}
