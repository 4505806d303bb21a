// SPDX-License-Identifier: MIT OR Apache-2.0
//! libp2p, and nothing that decides: one swarm a Network.
//!
//! * `behaviour` is what it is made of, [`limits`] how much of everything it takes.
//! * `admission` keeps strangers out of private Networks; `doors` bounds what they take anywhere.
//! * `secure` is TLS between two peers; `bulk` carries Blobs beside the swarm.
//! * `driver` owns it; [`handle`] is how the rest of the node speaks to it.
//! * `reach`: mDNS, relays, holes in routers, and what each connection is like.
//! * `records` judges what others put on the DHT, `store` keeps it.
//! * [`serve`] answers peers; [`transfer`] fetches a Blob from one.

mod admission;
mod behaviour;
mod bulk;
mod doors;
mod driver;
pub mod handle;
pub mod limits;
mod reach;
mod records;
mod secure;
pub mod serve;
mod store;
pub mod transfer;

use std::path::{Path, PathBuf};

use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use potluck_keys::ring::{self, RingError};
use tokio::sync::mpsc;

pub use bulk::{Duplex, PeerStream};
pub use driver::{NetEvent, Value};
pub use handle::Handle;
pub use reach::Route;

use crate::network::Network;

/// A Network could not be entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwarmError {
    /// The identity on disk cannot be used.
    #[error("cannot use the peer identity {path}: {why}", path = path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file cannot be used.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// An address is none.
    #[error("{0:?} is no address: it should look like /ip4/192.0.2.1/tcp/4001/p2p/12D3…")]
    Address(String),
    /// Nobody can listen there.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        why: String,
    },
    /// libp2p does not start.
    #[error("the network cannot be set up: {0}")]
    Setup(String),
}

/// Whether this is an address as libp2p writes them (<https://github.com/multiformats/multiaddr>).
#[must_use]
pub fn is_address(text: &str) -> bool {
    text.parse::<Multiaddr>().is_ok()
}

/// This node's identity as a peer, made on first use. It says nothing about any Signer.
///
/// # Errors
/// [`SwarmError`].
pub fn identity(path: &Path) -> Result<Keypair, SwarmError> {
    let bad = |why: String| SwarmError::Identity { path: path.to_owned(), why };
    if !path.exists() {
        let pair = Keypair::generate_ed25519();
        let bytes = pair.to_protobuf_encoding().map_err(|error| bad(error.to_string()))?;
        ring::write_new(path, &bytes, 0o600)?;
    }
    let bytes = ring::read(path, 4096)?;
    Keypair::from_protobuf_encoding(&bytes).map_err(|error| bad(error.to_string()))
}

/// Enters a Network: listens, and dials the members it knows. What happens there comes out of the channel.
///
/// # Errors
/// [`SwarmError`].
pub async fn enter(
    network: &Network,
    identity: &Keypair,
) -> Result<(Handle, mpsc::Receiver<NetEvent>), SwarmError> {
    driver::start(network, identity, None).await
}

/// The same, with what is remembered of the Network in a file.
///
/// # Errors
/// [`SwarmError`].
pub async fn enter_again(
    network: &Network,
    identity: &Keypair,
    file: &Path,
) -> Result<(Handle, mpsc::Receiver<NetEvent>), SwarmError> {
    driver::start(network, identity, Some(file)).await
}
