// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process that runs a build, as its children and others see it.

use std::fs;

use rustix::process::getppid;

/// One run of a build tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// A name that no other run has.
    pub name: String,
    /// Its process.
    pub pid: u32,
}

impl Run {
    /// The one that called this process.
    pub fn of_this_process() -> Option<Self> {
        let pid = u32::try_from(getppid()?.as_raw_nonzero().get()).ok()?;
        Some(Self { name: format!("{pid}-{}", began(pid)?), pid })
    }

    /// Whether it still goes on.
    pub fn goes_on(&self) -> bool {
        began(self.pid).is_some_and(|began| self.name == format!("{}-{began}", self.pid))
    }
}

/// When a process began, so that another one with its number is told from it: proc(5), field 22 of stat, and which
/// start of the system that counts from. Elsewhere than on Linux the number alone has to do.
fn began(pid: u32) -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("0".to_owned());
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let began = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.to_owned();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(format!("{began}-{}", boot.get(..8).unwrap_or("0")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_known_by_the_process_that_called_and_ends_with_it() {
        let run = Run::of_this_process().unwrap();
        assert_eq!(Run::of_this_process().unwrap(), run);
        assert!(run.goes_on());
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = child.id();
        let other = Run { name: format!("{pid}-{}", began(pid).unwrap()), pid };
        assert!(other.goes_on());
        child.kill().and_then(|()| child.wait()).unwrap();
        assert!(!other.goes_on());
    }
}
