// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck gocacheprog`: what `GOCACHEPROG` names.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use potluck_node::control::client::Client;
use potluck_node::daemon::socket;
use potluck_node::front::gocache::folder::Folder;
use potluck_node::front::gocache::{Setup, serve};
use potluck_node::home::Home;
use potluck_node::project;
use potluck_protocol::action::Project;

use crate::exit::Exit;
use crate::failure::Failure;

/// How long a look-up may take unless `POTLUCK_DEADLINE_MS` says otherwise. Transfers may take longer.
const DEADLINE: Duration = Duration::from_millis(1000);
/// How long the daemon may take to say hello.
const HELLO: Duration = Duration::from_millis(250);

/// Answer go on standard input and output; `potluck setup go` has go start it
#[derive(Debug, ClapArgs)]
pub(crate) struct Gocacheprog {}

impl Gocacheprog {
    /// Whatever is wrong, go gets answers: without a home or a daemon it is as if nobody had built anything.
    #[expect(clippy::unused_self, reason = "all verbs are run alike")]
    pub(crate) fn run(self, home: Option<Home>) -> Result<Exit, Failure> {
        let var = |name: &str| std::env::var(name).ok();
        let off = var("POTLUCK_OFF").is_some_and(|off| off != "0");
        // Where there is no home none is made.
        let home = home.filter(|home| home.root().is_dir());
        let files = home.as_ref().map(|home| home.root().join("gocache"));
        let folder = Folder::open(files.as_deref())
            .map_err(|error| Failure::failed(format!("there is no folder for what go puts: {error}")))?;
        let named = var("POTLUCK_PROJECT").and_then(|name| Project::new(&name).ok());
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        let deadline = var("POTLUCK_DEADLINE_MS").and_then(|ms| ms.parse().ok());
        let setup = Setup {
            project: named.or_else(|| project::nearest(&cwd)).unwrap_or_default(),
            folder,
            deadline: deadline.map_or(DEADLINE, Duration::from_millis),
            at: cwd,
        };
        let door = async {
            let home = home.filter(|_| !off)?;
            Client::connect(&socket(&home), "gocacheprog", HELLO).await.ok()
        };
        // What go waits for are thousands of small things, one after another: being woken on another thread costs more
        // than each of them.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
        let served = runtime.block_on(serve(door, setup, io::stdin(), output()));
        // A thread may still wait for go, which says nothing more.
        runtime.shutdown_background();
        served.map(|()| Exit::Done).map_err(|error| Failure::failed(error.to_string()))
    }
}

/// Standard output, which closes when it is dropped: go waits for that at its end, and not for what comes after it.
fn output() -> Box<dyn Write + Send> {
    let alone = || -> io::Result<File> {
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        let nowhere = File::options().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(nowhere)?;
        Ok(output.into())
    };
    match alone() {
        Ok(output) => Box::new(output),
        // Then it closes with the process.
        Err(_) => Box::new(io::stdout()),
    }
}
