// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real compiler: in place of this process, or beside it while what it says is passed on and kept.

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use super::Call;
use crate::observe::clock;

/// Most bytes of each of stdout and stderr that are kept; a unit that says more is not published.
pub(super) const MAX_SAID: usize = 1 << 20;

/// What a compiler did.
#[derive(Debug)]
pub(super) struct Ran {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// What it said, unless that was more than [`MAX_SAID`].
    pub(super) stdout: Option<Vec<u8>>,
    /// The same of stderr.
    pub(super) stderr: Option<Vec<u8>>,
    /// Processor time where it is known, time on the clock otherwise.
    pub(super) cost: Duration,
}

fn command(call: &Call, flags: &[String]) -> Command {
    let (compiler, args) = call.args.split_first().expect("a call without a compiler is not planned");
    let mut command = Command::new(compiler);
    command.args(flags).args(args).current_dir(&call.cwd).env_clear().envs(&call.env);
    command
}

/// Becomes the compiler. Comes back only when that is not possible.
pub(super) fn exec(call: &Call, flags: &[String]) -> io::Error {
    command(call, flags).exec()
}

/// Runs the compiler; passes on what it says as it says it, since cargo starts others by it.
pub(super) fn run(call: &Call, flags: &[String]) -> io::Result<Ran> {
    let (started, spent) = (clock::moment(), children());
    let mut child = command(call, flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = thread::scope(|scope| {
        let other = scope.spawn(|| pass_on(stdout, io::stdout()));
        let stderr = pass_on(stderr, io::stderr());
        (other.join().unwrap_or_default(), stderr)
    });
    let status = child.wait()?;
    let passed = clock::moment().since(started);
    let cost = children().zip(spent).map_or(passed, |(now, then)| now.saturating_sub(then));
    Ok(Ran { status, stdout, stderr, cost })
}

fn pass_on(from: Option<impl Read>, mut to: impl Write) -> Option<Vec<u8>> {
    let mut from = from.expect("it was piped");
    let mut kept = Some(Vec::new());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return kept,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
        // Nobody listens any more: the compiler is to end all the same, as it decides itself.
        let _ = to.write_all(&buffer[..read]).and_then(|()| to.flush());
        kept = kept.filter(|kept| kept.len() + read <= MAX_SAID);
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&buffer[..read]);
        }
    }
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
