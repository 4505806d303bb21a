// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reaches the daemon of a home.

use potluck_node::cache::CacheError;
use potluck_node::control::client::{Client, HELLO};
use potluck_node::home::Home;

use crate::exit::Exit;
use crate::failure::Failure;

/// Where the daemon listens: `potluck.sock` in the home.
pub(crate) async fn daemon(home: &Home) -> Result<Client, Failure> {
    Ok(Client::connect(&potluck_node::daemon::socket(home), "potluck", HELLO).await?)
}

/// Runs something that waits, on this thread.
pub(crate) fn wait<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let done = runtime.block_on(work);
    // A thread may still wait for a standard input that says nothing more.
    runtime.shutdown_background();
    done
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        let message = error.to_string();
        match error {
            CacheError::Unreachable(_) | CacheError::Late => {
                Self::new(Exit::Unreachable, message).hint("`potluck up` starts it")
            }
            CacheError::Protocol(_) => {
                Self::new(Exit::Unreachable, message).hint("`potluck down` and `potluck up` after an update")
            }
            CacheError::NotHere(_) => Self::new(Exit::NotFound, message),
            CacheError::Usage(_) => Self::usage(message),
            _ => Self::failed(message),
        }
    }
}
