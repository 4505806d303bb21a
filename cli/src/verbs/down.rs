// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck down`: ends the daemon, and waits until it has.

use std::time::Duration;

use clap::Args as ClapArgs;
use potluck_node::cache::CacheError;
use potluck_node::control::client::{Client, HELLO};
use potluck_node::daemon::{is_held, socket};
use potluck_node::home::Home;
use serde_json::json;

use crate::connect::wait;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// How long the daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// End the daemon
#[derive(Debug, ClapArgs)]
pub(crate) struct Down {}

impl Down {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        wait(async {
            let client = match Client::connect(&socket(home), "potluck down", HELLO).await {
                Ok(client) => client,
                Err(CacheError::Unreachable(_)) => {
                    say.answer("no daemon is running", json!({ "stopped": false }))?;
                    return Ok(Exit::Done);
                }
                Err(error) => return Err(error.into()),
            };
            let pid = client.pid();
            client.stop().await?;
            let gone = async {
                client.gone().await;
                // It lets go of its home at the very end: the next one may be started at once.
                while is_held(home) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            if tokio::time::timeout(PATIENCE, gone).await.is_err() {
                return Err(
                    Failure::failed(format!("process {pid} does not end")).hint(format!("kill {pid}"))
                );
            }
            say.answer(&format!("process {pid} has ended"), json!({ "stopped": true, "pid": pid }))?;
            Ok(Exit::Done)
        })
    }
}
