// SPDX-License-Identifier: MIT OR Apache-2.0
//! Watcher and doorstep.
//!
//! The watcher sends lines on its socket: the program's process; how it ended, as wait(2) gives it; and what was seen. A
//! watcher that ends before the first line has run nothing; one that ends before the second took the program with it.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use rustix::process::WaitOptions;

use super::filter::{self, Call, Flags};
use super::near::Near;
use super::seen::{Seen, Use, plain};
use super::{DOORSTEP, OF_LINKER, stamp};
use crate::observe::clock;

/// Children that were made by clone(2) without a signal at their end count as well (waitpid(2)).
const ALL: u32 = 0x4000_0000;
/// Longest first line of a script (BINPRM_BUF_SIZE).
const MAX_LINE: u64 = 256;
/// Longest name, in bytes (PATH_MAX).
const MAX_NAME: usize = 4096;
/// Most names are not longer.
const SHORT: usize = 256;
/// What may be there or not as a whole; where pages are larger, this divides them.
const PAGE: usize = 4096;

/// Becomes the program, once the watcher is there: `GROUP PROGRAM ARGS…`.
pub(super) fn doorstep(of_linker: bool, args: &[OsString]) -> ExitCode {
    let [group, program, args @ ..] = args else { return ExitCode::from(2) };
    let group = group.to_str().and_then(|group| rustix::process::Pid::from_raw(group.parse().ok()?));
    // Where that group has gone, the program has one of its own.
    let _ = rustix::process::setpgid(None, group);
    if nix::sys::signal::raise(Signal::SIGSTOP).is_err()
        || seccompiler::apply_filter(&filter::program(of_linker)).is_err()
    {
        return ExitCode::from(126);
    }
    let error = Command::new(program).args(args).exec();
    let _ = writeln!(io::stderr(), "potluck-rustc: cannot run {}: {error}", program.display());
    ExitCode::from(126)
}

/// Runs and watches a program: `SOCKET GROUP PROGRAM ARGS…`.
pub(super) fn watch(of_linker: bool, args: &[OsString]) -> ExitCode {
    let [socket, rest @ ..] = args else { return ExitCode::from(2) };
    match run(if of_linker { OF_LINKER[1] } else { DOORSTEP }, socket, rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(doorstep: &str, socket: &OsStr, rest: &[OsString]) -> io::Result<()> {
    let mut socket = UnixStream::connect(socket)?;
    let this = std::env::current_exe()?;
    // It inherits everything else from this process, which had it from whoever wants to know.
    let child = Command::new(&this).arg(doorstep).args(rest).spawn()?;
    let main = i32::try_from(child.id()).map_err(io::Error::other)?;
    let stopped = rustix::process::waitpid(rustix::process::Pid::from_raw(main), WaitOptions::UNTRACED)?;
    if !stopped.is_some_and(|(_, status)| status.stopped()) {
        return Err(io::Error::other("the doorstep did not wait"));
    }
    let pid = Pid::from_raw(main);
    let options = Options::PTRACE_O_TRACESECCOMP
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    if let Err(error) = ptrace::seize(pid, options) {
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        return Err(error.into());
    }
    nix::sys::signal::kill(pid, Signal::SIGCONT)?;
    // Whoever reads what the program says waits until nobody can say anything any more.
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    rustix::stdio::dup2_stderr(&nothing)?;
    socket.write_all(format!("{main}\n").as_bytes())?;
    let (seen, own, settled, asked) = Default::default();
    let near = Near::new();
    Watcher { main, this, socket: Some(socket), seen, own, begun: false, settled, near, asked }.serve();
    Ok(())
}

/// A thread that was stopped at a call, and the call's arguments.
#[derive(Debug, Clone, Copy)]
struct Stopped {
    pid: i32,
    args: [u64; 6],
}

impl Stopped {
    /// The file that these arguments mean; an empty path where they mean something that is open already.
    fn path(&self, settled: &mut Settled, (folder, name): (Option<usize>, usize)) -> Option<PathBuf> {
        self.path_of(settled, folder, &self.name(name)?)
    }

    /// The name as the program has written it.
    fn name(&self, at: usize) -> Option<Vec<u8>> {
        let at = self.args[at];
        if at == 0 { Some(Vec::new()) } else { text(self.pid, at) }
    }

    fn path_of(&self, settled: &mut Settled, folder: Option<usize>, name: &[u8]) -> Option<PathBuf> {
        let name = Path::new(OsStr::from_bytes(name));
        if name.as_os_str().is_empty() {
            return Some(PathBuf::new());
        }
        if name.is_absolute() {
            return Some(settled.of(name));
        }
        // From its working folder, or from a folder that it has open.
        let folder = match folder.map(|at| low(self.args[at])) {
            Some(folder) if folder != libc::AT_FDCWD => format!("/proc/{}/fd/{folder}", self.pid),
            _ => format!("/proc/{}/cwd", self.pid),
        };
        Some(settled.of(&fs::read_link(folder).ok()?.join(name)))
    }
}

/// Paths without `..`, which after a link is not what it seems.
#[derive(Default)]
struct Settled {
    /// Folders with `..`, and where they are. Compilers name hundreds of files by way of a few of these.
    known: BTreeMap<PathBuf, PathBuf>,
}

impl Settled {
    fn of(&mut self, path: &Path) -> PathBuf {
        let upward = path.components().any(|part| part == std::path::Component::ParentDir);
        let both = path.parent().zip(path.file_name()).filter(|_| upward);
        let Some((folder, name)) = both else { return plain(path) };
        if let Some(real) = self.known.get(folder) {
            return real.join(name);
        }
        let Ok(real) = fs::canonicalize(folder) else { return plain(path) };
        let settled = real.join(name);
        self.known.insert(folder.to_path_buf(), real);
        settled
    }

    /// Folders may have become others.
    fn forget(&mut self) {
        self.known.clear();
    }
}

struct Watcher {
    main: i32,
    this: PathBuf,
    socket: Option<UnixStream>,
    seen: Seen,
    /// Which processes are this program itself, such as a wrapper of a compiler: what it reads is its own affair.
    own: BTreeMap<i32, bool>,
    /// Whether the doorstep has become the program.
    begun: bool,
    settled: Settled,
    near: Near,
    /// Names that were asked about, as programs wrote them, and mean the same wherever they are written. To ask about
    /// them again tells nothing new.
    asked: HashSet<Vec<u8>>,
}

impl Watcher {
    /// Until nobody is left.
    fn serve(mut self) {
        let any = WaitOptions::from_bits_retain(ALL);
        loop {
            let (pid, status) = match rustix::process::wait(any) {
                Ok(Some((pid, status))) => (pid.as_raw_nonzero().get(), status.as_raw()),
                Ok(None) | Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            };
            // wait(2): 0x7f in the lowest byte is a stop, whose signal is in the next, and above that ptrace's event.
            if status & 0xff != 0x7f {
                self.own.remove(&pid);
                if pid == self.main {
                    self.report(status);
                }
                continue;
            }
            let (signal, event) = ((status >> 8) & 0xff, status >> 16);
            let deliver = if event == 0 { Signal::try_from(signal).ok() } else { None };
            match event {
                libc::PTRACE_EVENT_SECCOMP => self.call(pid),
                libc::PTRACE_EVENT_EXEC => {
                    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
                    self.own.insert(pid, program.as_ref() == Some(&self.this));
                    self.begun |= pid == self.main;
                    self.near.begins(pid);
                }
                libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
                    let child = ptrace::getevent(Pid::from_raw(pid)).ok();
                    if let Some(child) = child.and_then(|child| i32::try_from(child).ok()) {
                        self.near.begins(child);
                    }
                }
                _ => {}
            }
            let _ = ptrace::cont(Pid::from_raw(pid), deliver);
        }
    }

    fn report(&mut self, status: i32) {
        let Some(mut socket) = self.socket.take() else { return };
        self.near.let_go();
        if !self.begun {
            self.seen.miss("it could not be started");
        }
        let seen = serde_json::to_vec(&self.seen).unwrap_or_default();
        // Whoever wanted to know may have gone.
        let _ = socket.write_all(format!("{status}\n").as_bytes()).and_then(|()| socket.write_all(&seen));
    }

    fn call(&mut self, pid: i32) {
        // What is seen after the report concerns nobody.
        if self.socket.is_none() || self.is_own(pid) {
            return;
        }
        self.near.stopped(pid, clock::moment());
        let told = ptrace::getevent(Pid::from_raw(pid));
        if told.is_ok_and(|told| told == libc::c_long::from(filter::FOREIGN)) {
            return self.seen.miss("a program for another kind of processor");
        }
        let Some((number, args)) = registers(pid) else {
            return self.seen.miss("a call that could not be read");
        };
        let Some(call) = filter::call(number) else { return self.seen.miss("a call that is not known") };
        if self.noted(Stopped { pid, args }, call).is_none() {
            self.seen.miss("a name that could not be read");
        }
    }

    /// A thread is of the program that its process is.
    fn is_own(&mut self, pid: i32) -> bool {
        if let Some(own) = self.own.get(&pid) {
            return *own;
        }
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let own = self.begun && program.as_ref() == Some(&self.this);
        self.own.insert(pid, own);
        own
    }

    fn noted(&mut self, stopped: Stopped, call: Call) -> Option<()> {
        let Stopped { pid, args } = stopped;
        match call {
            Call::Open { at, name, flags } => {
                let flags = match flags {
                    Flags::In(at) => low(args[at]),
                    Flags::At(at) => low(u64::from_ne_bytes(memory(pid, args[at], 8)?.try_into().ok()?)),
                    Flags::Makes => libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY,
                };
                let name = stopped.path(&mut self.settled, (at, name))?;
                self.note(&name, opened(flags, || fs::metadata(&name).is_ok()));
            }
            Call::Ask { at, name } => {
                let name = stopped.name(name)?;
                if !self.asked.contains(&name) {
                    let path = stopped.path_of(&mut self.settled, at, &name)?;
                    self.note(&path, Use::Read);
                    // One that is left as it is lies there whatever becomes of folders and links.
                    if path.as_os_str().as_bytes() == name && path.is_absolute() && self.seen.missed.is_none()
                    {
                        self.asked.insert(name);
                    }
                }
            }
            Call::Become { at, name } => {
                let name = stopped.path(&mut self.settled, (at, name))?;
                self.note(&name, Use::Run);
                // The system itself opens what runs a script, which no call shows.
                if let Some(program) = runs(&name) {
                    self.note(&program, Use::Run);
                }
            }
            // None of these does anything to what is there already.
            Call::Make { at, name } => {
                let name = stopped.path(&mut self.settled, (at, name))?;
                self.either(&name, Use::Read, Use::Make);
                self.settled.forget();
            }
            Call::Remove { at, name } => {
                let name = stopped.path(&mut self.settled, (at, name))?;
                self.either(&name, Use::Remove, Use::Read);
                self.settled.forget();
            }
            Call::Rename { from, to } => {
                let from = stopped.path(&mut self.settled, from)?;
                let to = stopped.path(&mut self.settled, to)?;
                self.either(&from, Use::Remove, Use::Read);
                self.note(&to, Use::Make);
                self.settled.forget();
            }
            Call::Connect => self.connects(pid, &args)?,
            Call::Name => self.note(Path::new("/proc/sys/kernel/hostname"), Use::Read),
            Call::Processors => self.near.let_go(),
            Call::Processor => self.near.give_up(),
            Call::Beyond => self.seen.miss("a call that gets at files in another way"),
        }
        Some(())
    }

    /// The first use where there is something, the second where there is nothing.
    fn either(&mut self, name: &Path, there: Use, not: Use) {
        self.note(name, if fs::symlink_metadata(name).is_ok() { there } else { not });
    }

    fn note(&mut self, name: &Path, how: Use) {
        if !name.as_os_str().is_empty() {
            self.seen.note(name, how, || stamp(name));
        }
    }

    /// Only what asks the system about its users is let pass: it is tried first by everybody, and mostly not there.
    fn connects(&mut self, pid: i32, args: &[u64; 6]) -> Option<()> {
        let (address, size) = (args[1], usize::try_from(args[2]).ok()?.min(110));
        // `sendto` has its address elsewhere, and mostly none; then it speaks to whom it has spoken to already.
        let (number, all) = registers(pid)?;
        let (address, size) = match filter::call(number) {
            Some(Call::Connect) if i64::try_from(number) == Ok(libc::SYS_sendto) => {
                (all[4], usize::try_from(all[5]).ok()?.min(110))
            }
            _ => (address, size),
        };
        if address == 0 || size < 2 {
            return Some(());
        }
        let address = memory(pid, address, size)?;
        let family = i32::from(u16::from_ne_bytes([*address.first()?, *address.get(1)?]));
        let name = address.get(2..)?.split(|byte| *byte == 0).next()?;
        match family {
            libc::AF_UNIX if name.starts_with(b"/var/run/nscd/") || name.starts_with(b"/run/nscd/") => {}
            libc::AF_UNIX => self.seen.miss("a question to another process"),
            libc::AF_INET | libc::AF_INET6 => self.seen.miss("a question to the network"),
            _ => {}
        }
        Some(())
    }
}

/// The program that the first line of a script names (execve(2)).
fn runs(script: &Path) -> Option<PathBuf> {
    let mut line = Vec::new();
    File::open(script).ok()?.take(MAX_LINE).read_to_end(&mut line).ok()?;
    let line = line.strip_prefix(b"#!")?.trim_ascii_start();
    let program = line.split(u8::is_ascii_whitespace).next().filter(|name| name.starts_with(b"/"))?;
    Some(plain(Path::new(OsStr::from_bytes(program))))
}

/// What opening with these flags does to what may be there.
fn opened(flags: libc::c_int, is_there: impl FnOnce() -> bool) -> Use {
    let has = |flag: libc::c_int| flags & flag != 0;
    let writes = has(libc::O_WRONLY) || has(libc::O_RDWR);
    let makes = has(libc::O_CREAT) || flags & libc::O_TMPFILE == libc::O_TMPFILE;
    if !writes && !makes {
        // By such a descriptor nothing is read.
        return if has(libc::O_PATH) { Use::Read } else { Use::List };
    }
    // An unnamed file in a folder leaves nothing there.
    if flags & libc::O_TMPFILE == libc::O_TMPFILE {
        return Use::Read;
    }
    match is_there() {
        true if writes && !has(libc::O_TRUNC) => Use::Change,
        true => Use::Make,
        false if makes => Use::Make,
        false => Use::Read,
    }
}

/// The number of the call at which a thread was stopped, and its arguments.
#[cfg(target_arch = "x86_64")]
fn registers(pid: i32) -> Option<(u64, [u64; 6])> {
    let all = ptrace::getregs(Pid::from_raw(pid)).ok()?;
    Some((all.orig_rax, [all.rdi, all.rsi, all.rdx, all.r10, all.r8, all.r9]))
}

/// The number of the call at which a thread was stopped, and its arguments.
#[cfg(target_arch = "aarch64")]
fn registers(pid: i32) -> Option<(u64, [u64; 6])> {
    let all = ptrace::getregset::<ptrace::regset::NT_PRSTATUS>(Pid::from_raw(pid)).ok()?;
    let [zero, one, two, three, four, five, .., eight] = *all.regs.first_chunk::<9>()?;
    Some((eight, [zero, one, two, three, four, five]))
}

/// So many bytes of its memory, or fewer where it ends. They are read within one page at a time, since what lies on the
/// next one may not be there.
fn memory(pid: i32, at: u64, size: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; size];
    let mut read = 0;
    while read < size {
        let base = usize::try_from(at).ok()?.checked_add(read)?;
        let end = size.min(read + PAGE - base % PAGE);
        let len = end - read;
        let into = &mut [IoSliceMut::new(&mut bytes[read..end])];
        match process_vm_readv(Pid::from_raw(pid), into, &[RemoteIoVec { base, len }]) {
            Ok(got) if got == len => read = end,
            Ok(_) | Err(_) if read > 0 => break,
            Ok(_) | Err(_) => return None,
        }
    }
    bytes.truncate(read);
    Some(bytes)
}

/// A text in its memory.
fn text(pid: i32, at: u64) -> Option<Vec<u8>> {
    let rest = PAGE - usize::try_from(at).ok()? % PAGE;
    let mut bytes = memory(pid, at, rest.min(SHORT))?;
    if !bytes.contains(&0) {
        bytes = memory(pid, at, MAX_NAME)?;
    }
    let end = bytes.iter().position(|byte| *byte == 0)?;
    bytes.truncate(end);
    Some(bytes)
}

/// Descriptors and flags are numbers of 32 bits, whatever stands above.
fn low(argument: u64) -> libc::c_int {
    u32::try_from(argument & 0xffff_ffff).unwrap_or_default().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_tell_what_opening_does() {
        let flags = |flags: &[libc::c_int]| flags.iter().fold(0, |all, flag| all | *flag);
        for (given, there, expected) in [
            (flags(&[libc::O_RDONLY]), true, Use::List),
            (flags(&[libc::O_PATH]), true, Use::Read),
            (flags(&[libc::O_RDWR]), true, Use::Change),
            (flags(&[libc::O_RDWR]), false, Use::Read),
            (flags(&[libc::O_WRONLY, libc::O_CREAT]), false, Use::Make),
            (flags(&[libc::O_WRONLY, libc::O_CREAT, libc::O_APPEND]), true, Use::Change),
            (flags(&[libc::O_WRONLY, libc::O_CREAT, libc::O_TRUNC]), true, Use::Make),
            (flags(&[libc::O_RDWR, libc::O_TMPFILE]), true, Use::Read),
        ] {
            assert_eq!(opened(given, || there), expected, "{given:o}");
        }
    }
}
