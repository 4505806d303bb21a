// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real compiler: in place of this process, or beside it while what it says is passed on and kept.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

use super::Call;
use super::linker::Stand;
use super::place::Place;
use super::said::{Known, Linking, Until, Without, pass_on};
use super::watch;
use super::watch::seen::Seen;
use crate::observe::clock;

/// How long a watcher may take to end when its program has.
const AFTER: Duration = Duration::from_millis(100);

/// What a program did.
#[derive(Debug)]
pub(super) struct Ran {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// What it said, unless that was more than [`super::said::MAX_SAID`].
    pub(super) stdout: Option<Vec<u8>>,
    /// The same of stderr.
    pub(super) stderr: Option<Vec<u8>>,
    /// Processor time where it is known, time on the clock otherwise.
    pub(super) cost: Duration,
    /// What it and all that it started asked of the file system, where that was watched.
    pub(super) seen: Option<Seen>,
    /// The end of what it said on stderr, which was not passed on: see [`Said::UntilLinking`].
    pub(super) waits: Option<Vec<u8>>,
}

/// What becomes of what a program says; it is kept in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// It is passed on at once, since cargo starts others by it.
    PassedOn,
    /// The same, but that a linker has failed waits: both may be run again.
    UntilLinking,
    /// It is passed on but for these lines, which have been.
    Without(&'a [u8]),
    /// Nothing is passed on: whoever asked for it may run it once more.
    Kept,
}

/// Who is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    /// Nobody.
    Nobody,
    /// The linker that it calls.
    Linker,
    /// It itself, and all that it starts.
    All,
}

/// How a program is to be run.
#[derive(Debug, Clone, Copy)]
pub(super) struct How<'a> {
    /// More arguments, before all others.
    pub(super) flags: &'a [String],
    /// Of whom it is watched what they ask of the file system, where that is possible.
    pub(super) watched: Watched,
    /// What becomes of what it says.
    pub(super) said: Said<'a>,
}

/// The variable that names another cache's wrapper, which gets what is compiled here: `potluck setup cargo` writes it
/// where it finds one.
const BEHIND: &str = "POTLUCK_RUSTC_BEHIND";

/// The wrapper behind this one, unless that is this one again.
fn behind(call: &Call) -> Option<&Path> {
    let behind = call.var(BEHIND).map(Path::new).filter(|path| !path.as_os_str().is_empty())?;
    let own =
        ["potluck", "potluck-rustc"].iter().any(|own| behind.file_stem().is_some_and(|stem| stem == *own));
    (!own).then_some(behind)
}

/// What is called, and its arguments, with these flags before all others of the compiler's.
fn words<'a>(call: &'a Call, flags: &[String]) -> Option<(&'a OsString, Vec<OsString>)> {
    let (programs, args) = call.parts();
    let (program, rest) = programs.split_first()?;
    let flags = flags.iter().map(OsString::from);
    Some((program, rest.iter().cloned().chain(flags).chain(args.iter().cloned()).collect()))
}

/// The compiler as it was called, with these flags before all others, and behind another wrapper.
pub(super) fn command(call: &Call, flags: &[String], behind: Option<&Path>) -> Command {
    let (program, args) = words(call, flags).expect("a call without a compiler is not planned");
    let mut command = Command::new(behind.unwrap_or(Path::new(program)));
    if behind.is_some() {
        command.arg(program);
    }
    command.args(args);
    surround(&mut command, call);
    command
}

/// The same folder and variables as this process was called with.
fn surround(command: &mut Command, call: &Call) {
    command.env_clear().envs(&call.env);
    // A folder that cannot be named is kept as it is.
    if call.cwd != Path::new(".") {
        command.current_dir(&call.cwd);
    }
}

/// Becomes the compiler. Comes back only when that is not possible.
pub(super) fn exec(call: &Call, flags: &[String]) -> io::Error {
    if let Some(behind) = behind(call) {
        // One that is not there any more is done without.
        let error = command(call, flags, Some(behind)).exec();
        tracing::debug!(%error, "the wrapper behind this one cannot be run");
    }
    command(call, flags, None).exec()
}

/// Becomes the program that was called, which is no compiler. Comes back only when that is not possible.
pub(super) fn exec_itself(call: &Call) -> io::Error {
    command(call, &[], None).exec()
}

/// A program that was started.
pub(super) struct Started {
    child: Child,
    /// The program itself, which is not the child where it is watched.
    id: Option<Pid>,
    /// Where the watcher tells of it.
    report: Option<BufReader<UnixStream>>,
}

impl Started {
    /// How it ended, and what was seen.
    pub(super) async fn ended(mut self) -> io::Result<(ExitStatus, Option<Seen>)> {
        match self.report {
            Some(report) => Ok(told(report, &mut self.child).await),
            None => Ok((self.child.wait().await?, None)),
        }
    }
}

/// Runs the compiler.
///
/// Ctrl-C reaches the whole process group, and the compiler with it. SIGTERM may be meant for this process alone, which
/// the one who sends it takes for the compiler; so it is passed on, lest the compiler goes on without anybody. Against
/// SIGKILL nothing can be done without unsafe code in the child.
pub(super) async fn run(call: &Call, place: &Place, how: How<'_>) -> io::Result<Ran> {
    let (began, spent) = (clock::moment(), children());
    let mut terminate = if is_ignored(Signal::TERM) { None } else { Some(signal(SignalKind::terminate())?) };
    let stand = if how.watched == Watched::Linker { Stand::new(call).ok() } else { None };
    let mut started = start(call, how, stand.as_ref()).await?;
    let id = started.id;
    let (stdout, stderr) = (started.child.stdout.take(), started.child.stderr.take());
    let mut linking = Linking::default();
    let work = async {
        let (as_it_is, local) = (<[u8]>::to_vec, |line: &[u8]| place.localize(line));
        let stdout = async {
            match how.said {
                Said::Kept => pass_on(stdout, io::sink(), as_it_is).await,
                _ => pass_on(stdout, io::stdout(), as_it_is).await,
            }
        };
        let stderr = async {
            let to = io::stderr();
            match how.said {
                Said::Kept => pass_on(stderr, io::sink(), as_it_is).await,
                Said::PassedOn => pass_on(stderr, to, local).await,
                Said::UntilLinking => pass_on(stderr, Until { to, linking: &mut linking }, local).await,
                Said::Without(known) => pass_on(stderr, Without { to, known: Known::of(known) }, local).await,
            }
        };
        let (stdout, stderr) = tokio::join!(stdout, stderr);
        let (status, seen) = started.ended().await?;
        Ok::<_, io::Error>((status, stdout, stderr, seen, linking.waits()))
    };
    let mut work = std::pin::pin!(work);
    let (status, stdout, stderr, seen, waits) = loop {
        let terminated = async {
            match &mut terminate {
                Some(terminate) => drop(terminate.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = &mut work => break done?,
            () = terminated => drop(id.map(|id| kill_process(id, Signal::TERM))),
        }
    };
    let passed = clock::moment().since(began);
    let cost = children().zip(spent).map_or(passed, |(now, then)| now.saturating_sub(then));
    let seen = seen.or_else(|| stand?.seen());
    Ok(Ran { status, stdout, stderr, cost, seen, waits })
}

/// Starts the compiler: watched where that is wanted and possible, else behind another wrapper if there is one.
async fn start(call: &Call, how: How<'_>, stand: Option<&Stand>) -> io::Result<Started> {
    if let Some(Ok(flag)) = stand.map(Stand::flag) {
        let flags: Vec<_> = how.flags.iter().cloned().chain([flag]).collect();
        return plain(command(call, &flags, None), outputs());
    }
    // What is to be watched is not handed on: another cache may have it compiled where nobody sees it.
    let first = match how.watched {
        Watched::Nobody => {
            behind(call).and_then(|behind| plain(command(call, how.flags, Some(behind)), outputs()).ok())
        }
        Watched::Linker | Watched::All => watched(call, how.flags, (watch::WATCHER, outputs())).await.ok(),
    };
    first.map_or_else(|| plain(command(call, how.flags, None), outputs()), Ok)
}

/// What it says comes here.
fn outputs() -> [Stdio; 2] {
    [Stdio::piped(), Stdio::piped()]
}

fn plain(command: Command, [stdout, stderr]: [Stdio; 2]) -> io::Result<Started> {
    let child = tokio::process::Command::from(command).stdout(stdout).stderr(stderr).spawn()?;
    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    Ok(Started { child, id, report: None })
}

/// By way of a watcher. Where that does not get so far as to run the program, nothing was run.
pub(super) async fn watched(
    call: &Call,
    flags: &[String],
    (word, outputs): (&str, [Stdio; 2]),
) -> io::Result<Started> {
    let this = call.this.as_ref().filter(|_| watch::is_possible()).ok_or(io::ErrorKind::Unsupported)?;
    let post = watch::Post::new()?;
    post.listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(post.listener.try_clone()?)?;
    let (program, args) = words(call, flags).ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = watch::command((this, word), &post, program, args);
    surround(&mut command, call);
    let mut started = plain(command, outputs)?;
    let stream = tokio::select! {
        biased;
        stream = listener.accept() => stream?.0,
        _ = started.child.wait() => return Err(io::ErrorKind::Unsupported.into()),
    };
    let mut report = BufReader::new(stream);
    let id = line(&mut report).await.and_then(Pid::from_raw);
    started.id = Some(id.ok_or(io::ErrorKind::Unsupported)?);
    started.report = Some(report);
    Ok(started)
}

/// A number on a line of its own.
async fn line(from: &mut BufReader<UnixStream>) -> Option<i32> {
    let mut line = String::new();
    from.take(32).read_line(&mut line).await.ok()?;
    line.strip_suffix('\n')?.parse().ok()
}

/// How the program ended, and what was seen. A watcher that is killed takes the program with it.
async fn told(mut report: BufReader<UnixStream>, child: &mut Child) -> (ExitStatus, Option<Seen>) {
    let Some(status) = line(&mut report).await else {
        return (ExitStatus::from_raw(Signal::KILL.as_raw()), None);
    };
    let mut seen = Vec::new();
    let read = report.take(watch::MAX_REPORT + 1).read_to_end(&mut seen).await;
    let whole = read.is_ok_and(|read| read as u64 <= watch::MAX_REPORT);
    let seen = if whole { serde_json::from_slice(&seen).ok() } else { None };
    // It goes on when the program has left somebody behind; otherwise its time is the program's.
    let _ = tokio::time::timeout(AFTER, child.wait()).await;
    (ExitStatus::from_raw(status), seen)
}

/// Whether whoever started this process wanted the signal to have no effect; on other systems than Linux it is taken
/// that nobody did.
fn is_ignored(signal: Signal) -> bool {
    let mask = || {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    mask().is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

/// Processor time of all children that have ended: Linux counts it in hundredths of a second (proc(5), fields 16, 17).
fn children() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(13);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((next()? + next()?) * 10))
}

/// Ends this process as the compiler ended: by the same code, or by the same signal.
pub(super) fn end_as(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal() {
        // The first SIGSEGV or SIGBUS only takes away the handler that Rust has set.
        for _ in 0..2 {
            let _ = Signal::from_named_raw(signal).map(|signal| kill_process(getpid(), signal));
        }
        return ExitCode::from(u8::try_from(128 + signal).unwrap_or(1));
    }
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use potluck_protocol::action::Project;

    use super::*;
    use crate::front::rustc::said::MAX_SAID;
    use crate::relocate::token::Roots;

    async fn ran(script: &str) -> Ran {
        ran_behind(script, None).await
    }

    async fn ran_behind(script: &str, behind: Option<&Path>) -> Ran {
        let path = ("PATH".into(), std::env::var_os("PATH").unwrap());
        let behind = behind.map(|behind| (BEHIND.into(), behind.as_os_str().to_owned()));
        let call = Call {
            args: ["/bin/sh", "-c", script].map(Into::into).to_vec(),
            cwd: ".".into(),
            env: BTreeMap::from_iter([path].into_iter().chain(behind)),
            project: Project::new("default").unwrap(),
            deadline: Duration::ZERO,
            toolchains: "x".into(),
            stalled: None,
            log: None,
            home: None,
            this: None,
        };
        let place = Place { roots: Roots::default(), package: "/".into(), immutable: false, home: None };
        run(&call, &place, How { flags: &[], watched: Watched::Nobody, said: Said::PassedOn }).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_to_end_the_wrapper_ends_the_compiler() {
        let ran = ran("kill -TERM $PPID; exec sleep 100").await;
        assert_eq!(ran.status.signal(), Some(15));
    }

    #[tokio::test]
    async fn another_wrapper_gets_what_is_compiled_and_is_not_needed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other");
        let missing = ran_behind("echo one", Some(&path)).await;
        assert_eq!(missing.stdout.unwrap(), b"one\n");
        std::fs::write(&path, "#!/bin/sh\necho behind; exec \"$@\"\n").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(ran_behind("echo one", Some(&path)).await.stdout.unwrap(), b"behind\none\n");
        let own = ran_behind("echo one", Some(Path::new("/x/potluck-rustc"))).await;
        assert_eq!(own.stdout.unwrap(), b"one\n");
    }

    #[tokio::test]
    async fn what_it_says_is_kept_up_to_a_limit_and_its_end_is_told() {
        let small = ran("echo one; printf two >&2; exit 3").await;
        assert_eq!((small.stdout.unwrap(), small.stderr.unwrap()), (b"one\n".to_vec(), b"two".to_vec()));
        assert_eq!(small.status.code(), Some(3));
        let large = ran("head -c 1048576 /dev/zero | tr '\\0' '\\n'; head -c 3000000 /dev/zero >&2").await;
        assert_eq!((large.stdout.map(|said| said.len()), large.stderr), (Some(MAX_SAID), None));
        assert!(large.status.success());
    }

    #[tokio::test]
    async fn it_can_read_what_the_wrapper_was_given_to_read() {
        // A test has nothing on stdin, but the compiler must have the same nothing, not a closed pipe.
        let ran = ran("[ \"$(readlink /proc/self/fd/0)\" = \"$(readlink /proc/$PPID/fd/0)\" ]").await;
        assert!(ran.status.success() || !cfg!(target_os = "linux"));
    }
}
