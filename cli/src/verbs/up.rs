// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck up`: starts the daemon, in the background unless told otherwise, and returns when it is ready.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;

use clap::Args as ClapArgs;
use potluck_node::daemon::{Daemon, Options};
use potluck_node::home::Home;
use potluck_node::network::Networks;
use potluck_node::observe::span;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;
use crate::signal::stopped;

/// Start the daemon that serves the build tools on this machine; returns when it is ready
///
/// It is reached by its own sockets in the home and, for tools that speak HTTP, at a loopback address; by others only if
/// the node has joined a Network.
#[derive(Debug, ClapArgs)]
pub(crate) struct Up {
    /// Stay in the foreground, and log to the terminal
    #[arg(long)]
    foreground: bool,

    /// Where to listen for peers, instead of what network.toml says; several are possible
    #[arg(long, value_name = "[NETWORK=]MULTIADDR")]
    listen: Vec<String>,

    /// A member to begin with, e.g. office=/ip4/192.0.2.1/tcp/4001/p2p/12D3…; several are possible
    #[arg(long, value_name = "[NETWORK=]MULTIADDR")]
    peer: Vec<String>,

    /// Where to serve tools that speak HTTP, instead of what config.toml says; port 0 takes any, "off" serves none
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,

    /// Put the index aside and begin an empty one: for when it is damaged. Large blobs stay; what was published and
    /// what small blobs there were is forgotten
    #[arg(long)]
    new_index: bool,
}

impl Up {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let (listen, peers) = (self.named(home, &self.listen)?, self.named(home, &self.peer)?);
        let options = Options { listen, peers, new_index: self.new_index, http: self.http.clone() };
        if self.foreground { foreground(home, &options, say) } else { self.background(home, say) }
    }

    /// Addresses with the Networks they are for; a bare one is for the only Network.
    fn named(&self, home: &Home, addresses: &[String]) -> Result<Vec<(String, String)>, Failure> {
        let networks = Networks::of(home);
        let mut named = Vec::with_capacity(addresses.len());
        for text in addresses {
            named.push(match text.split_once('=') {
                Some((network, address)) => (networks.get(network)?.name, address.to_owned()),
                None => match networks.list()?.as_slice() {
                    [only] => (only.name.clone(), text.clone()),
                    all => {
                        return Err(Failure::usage(format!("{text:?} is for one of {} networks", all.len()))
                            .hint("name it: NETWORK=/ip4/…"));
                    }
                },
            });
        }
        Ok(named)
    }

    fn background(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let log = home.root().join("daemon.log");
        let cannot = |error: std::io::Error| Failure::failed(format!("cannot start the daemon: {error}"));
        let program = std::env::current_exe().map_err(cannot)?;
        let mut daemon = Command::new(program);
        daemon.arg("--home").arg(home.root()).args(["--json", "up", "--foreground"]);
        for (flag, values) in [("--listen", &self.listen), ("--peer", &self.peer)] {
            for value in values {
                daemon.args([flag, value]);
            }
        }
        if let Some(http) = &self.http {
            daemon.args(["--http", http]);
        }
        if self.new_index {
            daemon.arg("--new-index");
        }
        // One log a run, the one before is kept; but that of a daemon that runs is its own.
        if !potluck_node::daemon::is_held(home) {
            let _ = std::fs::rename(&log, home.root().join("daemon.log.1"));
        }
        let file = OpenOptions::new().create(true).append(true).open(&log).map_err(cannot)?;
        daemon.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt as _;
            // Ctrl-C in this terminal is not meant for it.
            daemon.process_group(0);
        }
        let mut daemon = daemon.spawn().map_err(cannot)?;
        let mut line = String::new();
        if let Some(out) = daemon.stdout.take() {
            let _ = BufReader::new(out).read_line(&mut line);
        }
        let Ok(mut ready) = serde_json::from_str::<Value>(&line) else {
            let _ = daemon.wait();
            return Err(Failure::failed("the daemon ended before it was ready").hint(last_words(&log)));
        };
        if let Some(error) = ready.get("error") {
            let _ = daemon.wait();
            return Err(of(error));
        }
        if let Some(object) = ready.as_object_mut() {
            object.remove("v");
        }
        say.answer(&text(&ready), ready.clone())?;
        if let Some(failure) = ready["http_failure"].as_str() {
            let how = "say another address in config.toml, then `potluck down` and `potluck up`";
            say.warning(&format!("{failure}: tools that speak HTTP are not served; {how}"));
        }
        Ok(Exit::Done)
    }
}

fn foreground(home: &Home, options: &Options, say: &mut Say) -> Result<Exit, Failure> {
    log_to_stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let ended = runtime.block_on(async {
        let daemon = Daemon::start(home, options).await?;
        let listener = daemon.listen(home)?;
        let (pid, http) = (std::process::id(), daemon.http());
        let ready = json!({
            "ready": true, "pid": pid, "http": http.listen, "http_failure": http.failure,
            "networks": daemon.reached(),
        });
        say.answer(&text(&ready), ready)?;
        std::io::stdout().flush()?;
        let stop = Arc::clone(&daemon);
        let signals = span::spawn("signals", async move {
            stopped().await;
            stop.stop();
        });
        daemon.serve(home, listener).await;
        signals.abort();
        Ok::<_, Failure>(Exit::Done)
    });
    // What is still being said to peers need not be waited for.
    runtime.shutdown_background();
    ended
}

fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("POTLUCK_LOG");
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("warn,potluck_node=info"));
    // That something could not be logged would otherwise be said on stderr, which panics where that is on a full disk.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = log.log_internal_errors(false).try_init();
}

fn text(ready: &Value) -> String {
    let mut text = format!("ready, process {}", ready["pid"]);
    if let Some(address) = ready["http"].as_str() {
        text += &format!("\n  http: {address}");
    }
    for (name, network) in ready["networks"].as_object().into_iter().flatten() {
        for address in network["listen"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            text += &format!("\n  {name}: {address}");
        }
    }
    text
}

/// The failure that a daemon in the background printed as JSON.
fn of(error: &Value) -> Failure {
    let message = error["message"].as_str().unwrap_or("the daemon cannot be started").to_owned();
    let hints = error["hints"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut failure = Failure::failed(message);
    failure.hints.extend(hints.map(str::to_owned));
    failure
}

/// The end of the log, for somebody who wonders.
fn last_words(log: &std::path::Path) -> String {
    let lines =
        File::open(log).map(|file| BufReader::new(file).lines().map_while(Result::ok).collect::<Vec<_>>());
    let last = lines.ok().and_then(|lines| lines.last().cloned()).unwrap_or_default();
    format!("see {}: {last}", log.display())
}
