// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the rest of the node speaks to a swarm. Clones share it; the swarm ends with the last one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use libp2p::{PeerId, StreamProtocol};
use potluck_protocol::names::{DhtKey, NetworkId, Purpose};
use potluck_protocol::peer::{Ask, Blobs, Heads};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::behaviour::protocol;
use super::driver::Command;
use super::limits;
use crate::link::{Addressed, Link};
use crate::network::Network;
use crate::peer::Peer;

impl Addressed for Ask {
    fn id(&self) -> Option<u64> {
        match self {
            Self::Question(question) => Some(question.id),
            Self::Answer(answer) => Some(answer.id),
        }
    }

    fn is_last(&self) -> bool {
        !matches!(self, Self::Answer(answer) if !answer.last)
    }
}

impl Addressed for Blobs {
    fn id(&self) -> Option<u64> {
        Some(match self {
            Self::Want(want) => want.id,
            Self::Have(have) => have.id,
            Self::Values(values) => values.id,
            Self::Piece(piece) => piece.id,
            Self::End(end) => end.id,
            Self::Stop(stop) => stop.id,
        })
    }

    fn is_last(&self) -> bool {
        matches!(self, Self::End(_))
    }
}

impl Addressed for Heads {
    fn id(&self) -> Option<u64> {
        match self {
            Self::Push(_) => None,
            Self::Pull(pull) => Some(pull.id),
            Self::Given(given) => Some(given.id),
        }
    }

    fn is_last(&self) -> bool {
        true
    }
}

/// The kept streams to one peer, opened when they are first needed.
#[derive(Clone, Default)]
struct Links {
    ask: Option<Link<Ask, Ask>>,
    blobs: Option<Link<Blobs, Blobs>>,
    heads: Option<Link<Heads, Heads>>,
}

/// A Network that this node is in.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    control: libp2p_stream::Control,
}

struct Shared {
    network: Network,
    id: NetworkId,
    peer: PeerId,
    listen: Vec<String>,
    links: Mutex<HashMap<PeerId, Links>>,
}

/// A peer's name in text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such peer")]
pub struct NoSuchPeer;

impl Handle {
    pub(super) fn new(
        network: &Network,
        (peer, listen): (PeerId, Vec<String>),
        commands: mpsc::Sender<Command>,
        control: libp2p_stream::Control,
    ) -> Self {
        let (network, id) = (network.clone(), network.id());
        let shared = Shared { network, id, peer, listen, links: Mutex::default() };
        Self { shared: Arc::new(shared), commands, control }
    }

    /// The Network, as it was when the swarm started.
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    /// This node's identity there.
    pub fn peer(&self) -> PeerId {
        self.shared.peer
    }

    /// Where it listens, each address with the identity at its end.
    pub fn listen(&self) -> &[String] {
        &self.shared.listen
    }

    /// How the rest of the node names a peer of this Network.
    pub fn name(&self, peer: &PeerId) -> Peer {
        Peer::new(&self.shared.network.name, &peer.to_base58())
    }

    /// The other way round.
    ///
    /// # Errors
    /// [`NoSuchPeer`].
    pub fn peer_of(&self, peer: &Peer) -> Result<PeerId, NoSuchPeer> {
        peer.id.parse().map_err(|_| NoSuchPeer)
    }

    async fn command<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Puts a value on the DHT; gives whether anybody took it.
    pub async fn put(&self, key: DhtKey, value: Vec<u8>) -> bool {
        self.command(|reply| Command::Put(key, value, reply)).await.unwrap_or(false)
    }

    /// The values that stand under a key of the DHT, as given by several holders.
    pub async fn get(&self, key: DhtKey) -> Vec<Vec<u8>> {
        self.command(|reply| Command::Get(key, reply)).await.unwrap_or_default()
    }

    /// Says on the DHT that this node provides a key; gives whether there was anybody to say it to.
    pub async fn provide(&self, key: DhtKey) -> bool {
        self.command(|reply| Command::Provide(key, reply)).await.unwrap_or(false)
    }

    /// Says so no more.
    pub async fn withdraw(&self, key: DhtKey) {
        let _ = self.commands.send(Command::Withdraw(key)).await;
    }

    /// Who provides a key, as far as they can be reached; they are connected then.
    pub async fn providers(&self, key: DhtKey) -> Vec<PeerId> {
        self.command(|reply| Command::Providers(key, reply)).await.unwrap_or_default()
    }

    /// Has nothing more to do with a peer.
    pub async fn drop_peer(&self, peer: PeerId) {
        self.forget(&peer);
        let _ = self.commands.send(Command::Drop(peer)).await;
    }

    /// The members that are connected.
    pub async fn members(&self) -> Vec<PeerId> {
        self.command(Command::Connected).await.unwrap_or_default()
    }

    /// Closes the kept streams to a peer that went away.
    pub fn forget(&self, peer: &PeerId) {
        self.links().remove(peer);
    }

    fn links(&self) -> std::sync::MutexGuard<'_, HashMap<PeerId, Links>> {
        self.shared.links.lock().expect("nobody panics while holding the kept streams")
    }

    /// The stream of look-ups to a peer.
    pub async fn ask(&self, peer: PeerId) -> Option<Link<Ask, Ask>> {
        self.link(peer, Purpose::Ask, |links| &mut links.ask).await
    }

    /// The stream of Blobs from a peer.
    pub async fn blobs(&self, peer: PeerId) -> Option<Link<Blobs, Blobs>> {
        self.link(peer, Purpose::Blob, |links| &mut links.blobs).await
    }

    /// The stream of Catalog Heads to a peer.
    pub async fn heads(&self, peer: PeerId) -> Option<Link<Heads, Heads>> {
        self.link(peer, Purpose::Heads, |links| &mut links.heads).await
    }

    async fn link<M>(
        &self,
        peer: PeerId,
        purpose: Purpose,
        place: impl Fn(&mut Links) -> &mut Option<Link<M, M>>,
    ) -> Option<Link<M, M>>
    where
        M: potluck_protocol::frame::Message + Addressed + Send + Sync + 'static,
    {
        let kept = place(self.links().entry(peer).or_default()).clone();
        if let Some(link) = kept.filter(|link| !link.is_closed()) {
            return Some(link);
        }
        let link = Link::start(self.open(peer, purpose).await?);
        // Two that opened at once both work; the later one is kept.
        *place(self.links().entry(peer).or_default()) = Some(link.clone());
        Some(link)
    }

    /// Opens a stream of its own to a connected peer.
    pub async fn open(
        &self,
        peer: PeerId,
        purpose: Purpose,
    ) -> Option<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        let mut control = self.control.clone();
        let opening = control.open_stream(peer, self.protocol(purpose));
        let stream = tokio::time::timeout(limits::OPEN_STALL, opening).await.ok()?.ok()?;
        Some(stream.compat())
    }

    /// The streams that peers open for a purpose.
    ///
    /// # Panics
    /// When it is called twice for one purpose.
    pub fn accept(&self, purpose: Purpose) -> libp2p_stream::IncomingStreams {
        let accepted = self.control.clone().accept(self.protocol(purpose));
        accepted.expect("each purpose is served by one loop")
    }

    fn protocol(&self, purpose: Purpose) -> StreamProtocol {
        protocol(&self.shared.id, purpose)
    }
}
