// SPDX-License-Identifier: MIT OR Apache-2.0
//! The filter: which system calls stop a program so that the watcher sees them. All others cost a few nanoseconds.
//!
//! It is written in the instructions of the classic Berkeley packet filter (seccomp(2)): load a word, compare, return.

use nix::libc;
use seccompiler::sock_filter;

/// What the watcher is told with a stop: a call that it knows by its number.
pub(super) const KNOWN: u32 = 0;
/// A call of another kind of program, such as one for 32 bits, whose numbers mean other things.
pub(super) const FOREIGN: u32 = 1;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;
/// On x86-64, numbers from here on belong to the form with pointers of 32 bits.
const X32: u32 = 0x4000_0000;
const TRACE: u32 = 0x7ff0_0000;
const ALLOW: u32 = 0x7fff_0000;
const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// What a call does, and which of its arguments say to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Opens the file at a folder's descriptor and a name, with flags.
    Open { at: Option<usize>, name: usize, flags: Flags },
    /// Asks about a file.
    Ask { at: Option<usize>, name: usize },
    /// Becomes another program.
    Become { at: Option<usize>, name: usize },
    /// Makes something that has this name.
    Make { at: Option<usize>, name: usize },
    /// Takes a name away.
    Remove { at: Option<usize>, name: usize },
    /// Gives another name to what has one.
    Rename { from: (Option<usize>, usize), to: (Option<usize>, usize) },
    /// Speaks to another process, here or elsewhere.
    Connect,
    /// Asks what the machine is called.
    Name,
    /// Asks on which processors it may run.
    Processors,
    /// Says on which processors it wants to run.
    Processor,
    /// Gets at files in a way that is not followed.
    Beyond,
}

/// Where the flags of an opening stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flags {
    /// In this argument.
    In(usize),
    /// At the address in this argument.
    At(usize),
    /// It makes the file.
    Makes,
}

const fn open(at: Option<usize>, name: usize, flags: Flags) -> Call {
    Call::Open { at, name, flags }
}

const fn ask(at: Option<usize>, name: usize) -> Call {
    Call::Ask { at, name }
}

/// The calls that both kinds of processors have.
const CALLS: &[(libc::c_long, Call)] = &[
    (libc::SYS_openat, open(Some(0), 1, Flags::In(2))),
    (libc::SYS_openat2, open(Some(0), 1, Flags::At(2))),
    (libc::SYS_newfstatat, ask(Some(0), 1)),
    (libc::SYS_statx, ask(Some(0), 1)),
    (libc::SYS_faccessat, ask(Some(0), 1)),
    (libc::SYS_faccessat2, ask(Some(0), 1)),
    (libc::SYS_readlinkat, ask(Some(0), 1)),
    (libc::SYS_execve, Call::Become { at: None, name: 0 }),
    (libc::SYS_execveat, Call::Become { at: Some(0), name: 1 }),
    (libc::SYS_mkdirat, Call::Make { at: Some(0), name: 1 }),
    (libc::SYS_symlinkat, Call::Make { at: Some(1), name: 2 }),
    (libc::SYS_linkat, Call::Make { at: Some(2), name: 3 }),
    (libc::SYS_mknodat, Call::Make { at: Some(0), name: 1 }),
    (libc::SYS_unlinkat, Call::Remove { at: Some(0), name: 1 }),
    (libc::SYS_renameat2, Call::Rename { from: (Some(0), 1), to: (Some(2), 3) }),
    (libc::SYS_renameat, Call::Rename { from: (Some(0), 1), to: (Some(2), 3) }),
    (libc::SYS_connect, Call::Connect),
    (libc::SYS_sendto, Call::Connect),
    (libc::SYS_uname, Call::Name),
    (libc::SYS_sched_getaffinity, Call::Processors),
    (libc::SYS_sched_setaffinity, Call::Processor),
    (libc::SYS_io_uring_setup, Call::Beyond),
    (libc::SYS_open_by_handle_at, Call::Beyond),
    (libc::SYS_truncate, Call::Beyond),
    (libc::SYS_chroot, Call::Beyond),
    (libc::SYS_mount, Call::Beyond),
    (libc::SYS_unshare, Call::Beyond),
    (libc::SYS_setns, Call::Beyond),
    (libc::SYS_pivot_root, Call::Beyond),
];

#[cfg(target_arch = "x86_64")]
const OLDER: &[(libc::c_long, Call)] = &[
    (libc::SYS_open, open(None, 0, Flags::In(1))),
    (libc::SYS_creat, open(None, 0, Flags::Makes)),
    (libc::SYS_stat, ask(None, 0)),
    (libc::SYS_lstat, ask(None, 0)),
    (libc::SYS_access, ask(None, 0)),
    (libc::SYS_readlink, ask(None, 0)),
    (libc::SYS_mkdir, Call::Make { at: None, name: 0 }),
    (libc::SYS_symlink, Call::Make { at: None, name: 1 }),
    (libc::SYS_link, Call::Make { at: None, name: 1 }),
    (libc::SYS_mknod, Call::Make { at: None, name: 0 }),
    (libc::SYS_unlink, Call::Remove { at: None, name: 0 }),
    (libc::SYS_rmdir, Call::Remove { at: None, name: 0 }),
    (libc::SYS_rename, Call::Rename { from: (None, 0), to: (None, 1) }),
];
#[cfg(target_arch = "aarch64")]
const OLDER: &[(libc::c_long, Call)] = &[];

/// What a call with this number does, if it is one that stops a program.
pub(super) fn call(number: u64) -> Option<Call> {
    let own = |(known, call): &(libc::c_long, Call)| (u64::try_from(*known) == Ok(number)).then_some(*call);
    CALLS.iter().chain(OLDER).find_map(own)
}

/// Asks where a link leads.
const LINKS: &[libc::c_long] = &[
    libc::SYS_readlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// The filter itself: for a linker, see [`super::OF_LINKER`].
pub(super) fn program(of_linker: bool) -> Vec<sock_filter> {
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let foreign = || step(RETURN, 0, 0, TRACE | FOREIGN);
    // The processor's kind stands behind the number (seccomp_data).
    let mut program = vec![step(LOAD, 0, 0, 4), step(EQUAL, 1, 0, ARCH), foreign(), step(LOAD, 0, 0, 0)];
    program.extend([step(AT_LEAST, 0, 1, X32), foreign()]);
    let passed = |number: &libc::c_long| of_linker && LINKS.contains(number);
    for (number, _) in CALLS.iter().chain(OLDER).filter(|(number, _)| !passed(number)) {
        let number = u32::try_from(*number).expect("numbers of system calls are small");
        program.extend([step(EQUAL, 0, 1, number), step(RETURN, 0, 0, TRACE | KNOWN)]);
    }
    program.push(step(RETURN, 0, 0, ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_of_a_linker_links_are_not_asked_about() {
        let stops = |of_linker: bool, number: libc::c_long| {
            let number = u32::try_from(number).unwrap();
            program(of_linker).iter().any(|step| step.code == EQUAL && step.k == number)
        };
        for (number, _) in CALLS.iter().chain(OLDER) {
            assert!(stops(false, *number), "{number}");
            assert_eq!(stops(true, *number), !LINKS.contains(number), "{number}");
        }
        assert!(!LINKS.is_empty() && stops(true, libc::SYS_openat));
    }
}
