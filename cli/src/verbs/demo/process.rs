// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes that end with the demonstration, however it ends.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// How long a process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process with all that it has started. Dropping it kills them.
pub(super) struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    /// Starts a process in a group of its own, so that Ctrl-C reaches this one first, which then ends all others.
    pub(super) fn start(command: &mut Command) -> std::io::Result<Self> {
        let child = command.process_group(0).kill_on_drop(true).stdin(Stdio::null()).spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, group })
    }

    /// What it prints.
    pub(super) fn stdout(&mut self) -> Option<tokio::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// What it complains about.
    pub(super) fn stderr(&mut self) -> Option<tokio::process::ChildStderr> {
        self.child.stderr.take()
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        // The number may belong to somebody else from now on.
        self.group = None;
        Ok(status)
    }

    /// Asks it to end, and sees to it that it does.
    pub(super) async fn end(mut self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::TERM);
        }
        let _ = tokio::time::timeout(PATIENCE, self.ended()).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
