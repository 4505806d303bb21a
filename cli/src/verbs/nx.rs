// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck nx COMMAND`: a run of Nx that does not fail when the daemon does.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use clap::Args as ClapArgs;
use potluck_node::control::client::Client;
use potluck_node::daemon::socket;
use potluck_node::front::http::guard::Guard;
use potluck_node::home::Home;
use potluck_node::project;
use potluck_protocol::action::Project;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Signaled, SignalKind, signal};
use tokio::sync::watch;

use crate::failure::Failure;

/// How long the daemon may take to say hello.
const HELLO: Duration = Duration::from_secs(1);

/// Where it is served.
const HERE: &str = "127.0.0.1";

/// Run a command of Nx so that it does not fail when the daemon ends: `potluck nx npx nx run-many -t build`
#[derive(Debug, ClapArgs)]
pub(crate) struct Nx {
    /// The command, which finds its cache here for as long as it runs
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Nx {
    /// Whatever is wrong here, the command runs: without a home or a daemon it is as if nobody had built anything. Gives
    /// how it ended.
    pub(crate) fn run(self, home: Option<Home>) -> Result<ExitCode, Failure> {
        // Transfers and files are served while others wait.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
        let ended = runtime.block_on(beside(self.command, home));
        runtime.shutdown_background();
        let status = ended?.map_err(|error| Failure::failed(format!("cannot wait for it: {error}")))?;
        // As shells say it.
        let code = status.code().or_else(|| Some(128 + status.signal()?));
        let code = code.and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }
}

/// Runs the command with a guard beside it.
async fn beside(words: Vec<OsString>, home: Option<Home>) -> Result<io::Result<ExitStatus>, Failure> {
    let var = |name: &str| std::env::var(name).ok();
    let off = var("POTLUCK_OFF").is_some_and(|off| off != "0");
    let home = home.filter(|home| !off && home.root().is_dir());
    let named = var("POTLUCK_PROJECT").and_then(|name| Project::new(&name).ok());
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let project = named.or_else(|| project::nearest(&cwd)).unwrap_or_default();
    let config = home.as_ref().and_then(|home| home.config().ok()).unwrap_or_default();
    let guard = Guard::open(&config).await;
    let (program, args) = words.split_first().expect("the command line has a command");
    let mut command = Command::new(program);
    command.args(args);
    let variables = guard.as_ref().ok().and_then(|guard| guard.variables(&project).ok());
    match &variables {
        Some(variables) => command.envs(variables.iter().cloned()),
        // What else is named there may fail it.
        None => command.env_remove("NX_SELF_HOSTED_REMOTE_CACHE_SERVER"),
    };
    if let Some(direct) = direct() {
        command.env("NO_PROXY", &direct).env("no_proxy", &direct);
    }
    let failed = |error| Failure::failed(format!("cannot run {}: {error}", program.display()));
    // They are listened to before there is a command that is told.
    let signals = Signals::new().map_err(failed)?;
    let child = command.spawn().map_err(failed)?;
    let (end, stop) = watch::channel(false);
    let serving = async {
        let door = match home {
            Some(home) => Client::connect(&socket(&home), "nx", HELLO).await.ok(),
            None => None,
        };
        if let Ok(guard) = guard {
            guard.serve(door, stop).await;
        }
        std::future::pending::<Infallible>().await
    };
    let ended = tokio::select! {
        ended = signals.waited_for(child) => ended,
        never = serving => match never {},
    };
    drop(end);
    Ok(ended)
}

/// What is not to be asked of a proxy, if the environment names one: Nx would ask it for what is on this machine as well.
fn direct() -> Option<String> {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].into_iter().find_map(var)?;
    let named = var("NO_PROXY").or_else(|| var("no_proxy"));
    Some(named.map_or_else(|| HERE.to_owned(), |named| format!("{named},{HERE}")))
}

/// What this process is told, and passes on. An interrupt the command hears itself, and may have something to do before
/// it ends.
struct Signals {
    interrupt: Signaled,
    terminate: Signaled,
    hangup: Signaled,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// How the command ends.
    async fn waited_for(mut self, mut child: Child) -> io::Result<ExitStatus> {
        loop {
            let told = tokio::select! {
                ended = child.wait() => return ended,
                _ = self.interrupt.recv() => continue,
                _ = self.terminate.recv() => Signal::TERM,
                _ = self.hangup.recv() => Signal::HUP,
            };
            let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
            if let Some(pid) = pid {
                // It may have ended meanwhile.
                let _ = kill_process(pid, told);
            }
        }
    }
}
