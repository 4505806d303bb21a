// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the rest of the node speaks to a swarm. Clones share it; the swarm ends with the last one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use libp2p::{PeerId, StreamProtocol};
use potluck_protocol::frame::Message;
use potluck_protocol::names::{DhtKey, NetworkId, Purpose};
use potluck_protocol::peer::{Ask, Blobs, Heads};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::behaviour::protocol;
use super::bulk::{Bulk, PeerStream};
use super::driver::{Command, Value};
use super::limits;
use super::reach::Route;
use crate::dht::Remembered;
use crate::link::{Addressed, Link};
use crate::network::Network;
use crate::observe::{clock, span};
use crate::peer::Peer;
use crate::plan::Backoff;
use crate::reach::meter::Meter;
use crate::reach::ways::{Way, Ways};

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
            Self::Several(several) => several.id,
            Self::Small(small) => small.id,
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
#[derive(Default)]
struct Links {
    ask: Place<Ask>,
    blobs: Place<Blobs>,
    heads: Place<Heads>,
    /// Instead of those two, where they can be had.
    alone: (Alone<Ask>, Alone<Blobs>),
}

/// A stream on a socket of its own.
struct Alone<M> {
    place: Place<M>,
    /// How often in a row it could not be had.
    refused: Mutex<Option<Backoff>>,
}

impl<M> Default for Alone<M> {
    fn default() -> Self {
        Self { place: Place::default(), refused: Mutex::default() }
    }
}

impl<M: Message + Addressed + Send + Sync + 'static> Alone<M> {
    /// Lets the socket go if nothing comes by it any more, as when something on the way has forgotten it: the connection
    /// beside it may be well. Gives whether it was that one.
    fn let_go(&self, link: &Link<M, M>) -> bool {
        if !link.is_silent(limits::READ_STALL) {
            return false;
        }
        let Ok(mut kept) = self.place.try_lock() else { return false };
        let is_kept = matches!(&*kept, Kept::Link(known) if known.is(link));
        if is_kept {
            *kept = Kept::Not(Some(Instant::now() + self.pause()));
        }
        is_kept
    }

    /// How long none is opened after this.
    fn pause(&self) -> Duration {
        let (first, last) = limits::BULK_AGAIN;
        let mut refused = self.refused.lock().expect("nobody panics while counting");
        refused.get_or_insert_with(|| Backoff::new(first, last)).step()
    }
}

/// One kept stream. Held locked while it is being opened: a peer that is slow to agree is asked for one at a time, or
/// those that were given up would pile up in libp2p.
type Place<M> = tokio::sync::Mutex<Kept<M>>;

enum Kept<M> {
    Link(Link<M, M>),
    /// It could not be opened, and is not tried again before this.
    Not(Option<Instant>),
}

impl<M> Default for Kept<M> {
    fn default() -> Self {
        Self::Not(None)
    }
}

impl<M: Message + Addressed + Send + Sync + 'static> Kept<M> {
    /// The stream, or that there is none; nothing when it is time to open one.
    fn known(&self) -> Option<Option<Link<M, M>>> {
        match self {
            Self::Link(link) if !link.is_closed() => Some(Some(link.clone())),
            Self::Not(Some(again)) if *again > Instant::now() => Some(None),
            _ => None,
        }
    }
}

impl Links {
    fn is_open(&self) -> bool {
        fn open<M: Message + Addressed + Send + Sync + 'static>(place: &Place<M>) -> bool {
            place.try_lock().map_or(true, |kept| matches!(&*kept, Kept::Link(link) if !link.is_closed()))
        }
        let alone = open(&self.alone.0.place) || open(&self.alone.1.place);
        open(&self.ask) || open(&self.blobs) || open(&self.heads) || alone
    }
}

/// How many peers' places are kept before those without a stream are forgotten.
const MAX_LINKED: usize = 2 * limits::MAX_CONNECTIONS as usize;

/// A Network that this node is in.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    control: libp2p_stream::Control,
    bulk: Bulk,
}

struct Shared {
    network: Network,
    id: NetworkId,
    peer: PeerId,
    listen: watch::Receiver<Vec<String>>,
    flows: Mutex<HashMap<PeerId, Flow>>,
    links: Mutex<HashMap<PeerId, Arc<Links>>>,
    driver: OnceLock<(tokio::task::AbortHandle, Remembered)>,
}

/// How Blobs come from a peer.
#[derive(Default)]
struct Flow {
    meter: Meter,
    ways: Ways,
    /// The way by which any came last.
    last: Option<Way>,
}

/// A peer's name in text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such peer")]
pub struct NoSuchPeer;

impl Handle {
    pub(super) fn new(
        network: &Network,
        (peer, listen): (PeerId, watch::Receiver<Vec<String>>),
        commands: mpsc::Sender<Command>,
        (control, bulk): (libp2p_stream::Control, Bulk),
    ) -> Self {
        let (network, id) = (network.clone(), network.id());
        let (links, flows, driver) = (Mutex::default(), Mutex::default(), OnceLock::new());
        let shared = Shared { network, id, peer, listen, flows, links, driver };
        Self { shared: Arc::new(shared), commands, control, bulk }
    }

    /// Says which task owns the swarm, and what it remembers.
    pub(super) fn is_driven_by(&self, driver: tokio::task::AbortHandle, remembered: Remembered) {
        let _ = self.shared.driver.set((driver, remembered));
    }

    /// What is remembered of earlier runs.
    pub fn remembered(&self) -> Option<&Remembered> {
        self.shared.driver.get().map(|(_, remembered)| remembered)
    }

    /// Whether the Network was left, and everything that is remembered of it is on disk.
    pub fn is_ended(&self) -> bool {
        self.shared.driver.get().is_none_or(|(driver, _)| driver.is_finished())
    }

    /// Leaves the Network: all connections close, and whoever waits for something from there is told that it failed.
    pub fn end(&self) {
        if let Some((driver, _)) = self.shared.driver.get() {
            driver.abort();
        }
    }

    /// The Network, as it was when the swarm started.
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    /// This node's identity there.
    pub fn peer(&self) -> PeerId {
        self.shared.peer
    }

    /// Where it can be reached now, each address with the identity at its end.
    pub fn listen(&self) -> Vec<String> {
        self.shared.listen.borrow().clone()
    }

    /// How the members that are connected are reached.
    pub async fn routes(&self) -> Vec<Route> {
        self.command(Command::Routes).await.unwrap_or_default()
    }

    /// Notes that bytes of a Blob came from a peer; whether of a `large` one, which comes as fast as it can.
    pub fn came(&self, (peer, way): (PeerId, Way), bytes: u64, large: bool) {
        let now = clock::moment();
        self.of_flow(peer, |flow| {
            flow.meter.count(now, bytes);
            flow.last = Some(way);
            if large {
                flow.ways.came(now, way, bytes);
            }
        });
    }

    fn failed(&self, peer: PeerId, way: Way) {
        self.of_flow(peer, |flow| flow.ways.failed(way));
    }

    /// How many bytes a second came from a peer when any came last, and by which way.
    pub fn rate(&self, peer: &PeerId) -> (Option<u64>, Option<Way>) {
        self.flows().get(peer).map(|flow| (flow.meter.rate(), flow.last)).unwrap_or_default()
    }

    fn of_flow<T>(&self, peer: PeerId, work: impl FnOnce(&mut Flow) -> T) -> T {
        let mut flows = self.flows();
        // Room is bounded by forgetting all: what is measured anew is there a second later.
        if flows.len() >= MAX_LINKED && !flows.contains_key(&peer) {
            flows.clear();
        }
        work(flows.entry(peer).or_default())
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<PeerId, Flow>> {
        self.shared.flows.lock().expect("nobody panics while holding the flows")
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
        self.values(key).await.into_iter().map(|value| value.bytes).collect()
    }

    /// The same, with whether anybody else says so.
    pub async fn values(&self, key: DhtKey) -> Vec<Value> {
        self.command(|reply| Command::Get(key, reply)).await.unwrap_or_default()
    }

    /// Says on the DHT that this node provides a key; gives whether there was anybody to say it to.
    pub async fn provide(&self, key: DhtKey) -> bool {
        self.command(|reply| Command::Provide(key, reply)).await.unwrap_or(false)
    }

    /// Puts a value no more; others keep it until it expires.
    pub async fn unput(&self, key: DhtKey) {
        let _ = self.commands.send(Command::Unput(key)).await;
    }

    /// Says so no more.
    pub async fn withdraw(&self, key: DhtKey) {
        let _ = self.commands.send(Command::Withdraw(key)).await;
    }

    /// Who provides a key, as far as they can be reached; they are connected then.
    pub async fn providers(&self, key: DhtKey) -> Vec<PeerId> {
        self.command(|reply| Command::Providers(key, reply)).await.unwrap_or_default()
    }

    /// How much is kept for the DHT.
    pub async fn kept(&self) -> Option<crate::dht::Kept> {
        self.command(Command::Kept).await
    }

    /// Has nothing more to do with a peer.
    pub async fn drop_peer(&self, peer: PeerId) {
        self.forget(&peer);
        self.bulk.gone(&peer);
        let _ = self.commands.send(Command::Drop(peer)).await;
    }

    /// The members that are connected.
    pub async fn members(&self) -> Vec<PeerId> {
        self.command(Command::Connected).await.unwrap_or_default()
    }

    /// Closes the kept streams to a peer that went away.
    pub fn forget(&self, peer: &PeerId) {
        self.shared.links.lock().expect("nobody panics while holding the kept streams").remove(peer);
        if let Some(flow) = self.flows().get_mut(peer) {
            // It may come back by other ways.
            flow.ways = Ways::default();
        }
    }

    /// The places of a peer's kept streams.
    fn links(&self, peer: PeerId) -> Arc<Links> {
        let mut all = self.shared.links.lock().expect("nobody panics while holding the kept streams");
        if all.len() >= MAX_LINKED && !all.contains_key(&peer) {
            // Most of them went away, and were asked for something once more after that.
            all.retain(|_, links| Arc::strong_count(links) > 1 || links.is_open());
        }
        Arc::clone(all.entry(peer).or_default())
    }

    /// The stream of look-ups to a peer: a socket of its own once there is one, until then one beside the others. Nobody
    /// who asks waits for the former.
    pub async fn ask(&self, peer: PeerId) -> Option<Link<Ask, Ask>> {
        match self.alone(peer, (Purpose::Ask, Duration::ZERO), |links| &links.alone.0).await {
            Some(link) => Some(link),
            None => self.link(peer, Purpose::Ask, |links| &links.ask).await,
        }
    }

    /// The stream of look-ups beside the others, when `silent` was the socket, and nothing comes by it any more.
    pub async fn ask_beside(&self, peer: PeerId, silent: &Link<Ask, Ask>) -> Option<Link<Ask, Ask>> {
        if !self.links(peer).alone.0.let_go(silent) {
            return None;
        }
        tracing::debug!(%peer, "a socket for questions is silent");
        self.link(peer, Purpose::Ask, |links| &links.ask).await
    }

    /// Notes that Blobs that were asked for on a stream did not come.
    pub fn failed_on(&self, peer: PeerId, (link, way): (&Link<Blobs, Blobs>, Way)) {
        self.failed(peer, way);
        if self.links(peer).alone.1.let_go(link) {
            tracing::debug!(%peer, "a socket for blobs is silent");
        }
    }

    /// The stream of Blobs from a peer, and the way it goes: a socket of its own where one can be had and is not the slower
    /// way, or else one beside the others.
    pub async fn blobs(&self, peer: PeerId) -> Option<(Link<Blobs, Blobs>, Way)> {
        let beside = || self.link(peer, Purpose::Blob, |links| &links.blobs);
        let (both, now) = (self.bulk.has_both(&peer), clock::moment());
        let (way, wanted) = self.of_flow(peer, |flow| (flow.ways.way(now, both), flow.ways.wants_other(now)));
        if wanted {
            // Nobody waits for that.
            let _ = self.commands.try_send(Command::ByQuic(peer));
        }
        if way == Way::Connection {
            if let Some(link) = beside().await {
                return Some((link, Way::Connection));
            }
            self.failed(peer, Way::Connection);
        }
        let alone = (Purpose::Blob, limits::BULK_PATIENCE);
        match self.alone(peer, alone, |links| &links.alone.1).await {
            Some(link) => Some((link, Way::Socket)),
            None => Some((beside().await?, Way::Connection)),
        }
    }

    /// How many bulk sockets for Blobs stand, to and from all peers.
    pub fn bulk_sockets(&self) -> usize {
        self.bulk.open()
    }

    /// The socket to a peer for one purpose. Where it takes longer to open than somebody has patience, that goes on for
    /// those who come later.
    async fn alone<M>(
        &self,
        peer: PeerId,
        (purpose, patience): (Purpose, Duration),
        which: fn(&Links) -> &Alone<M>,
    ) -> Option<Link<M, M>>
    where
        M: Message + Addressed + Send + Sync + 'static,
    {
        let links = self.links(peer);
        match which(&links).place.try_lock() {
            Ok(kept) => {
                if let Some(known) = kept.known() {
                    return known;
                }
            }
            // It is being opened.
            Err(_) if patience.is_zero() => return None,
            Err(_) => {}
        }
        if !self.bulk.knows(&peer) {
            return None;
        }
        let bulk = self.bulk.clone();
        let opening = span::spawn("bulk", async move {
            let alone = which(&links);
            let mut kept = alone.place.lock().await;
            if let Some(known) = kept.known() {
                return known;
            }
            let started = Instant::now();
            let link = bulk.dial(peer, purpose).await.map(Link::start);
            *kept = match &link {
                Some(link) => {
                    *alone.refused.lock().expect("nobody panics while counting") = None;
                    Kept::Link(link.clone())
                }
                None => {
                    let pause = alone.pause().max(started.elapsed() * limits::BULK_SHARE);
                    Kept::Not(Some(Instant::now() + pause.min(limits::BULK_AGAIN.1)))
                }
            };
            link
        });
        tokio::time::timeout(patience, opening).await.ok()?.ok()?
    }

    /// The stream of Catalog Heads to a peer.
    pub async fn heads(&self, peer: PeerId) -> Option<Link<Heads, Heads>> {
        self.link(peer, Purpose::Heads, |links| &links.heads).await
    }

    async fn link<M>(
        &self,
        peer: PeerId,
        purpose: Purpose,
        place: impl Fn(&Links) -> &Place<M>,
    ) -> Option<Link<M, M>>
    where
        M: Message + Addressed + Send + Sync + 'static,
    {
        let links = self.links(peer);
        let mut kept = place(&links).lock().await;
        if let Some(known) = kept.known() {
            return known;
        }
        match self.open(peer, purpose).await {
            Some(stream) => {
                let link = Link::start(stream);
                *kept = Kept::Link(link.clone());
                Some(link)
            }
            None => {
                *kept = Kept::Not(Some(Instant::now() + limits::OPEN_AGAIN));
                None
            }
        }
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

    /// The bulk sockets that members open for Blobs, or for questions. Until somebody takes them, none are.
    ///
    /// # Panics
    /// When it is called twice for one purpose.
    pub fn accept_bulk(&self, purpose: Purpose) -> mpsc::Receiver<(PeerId, PeerStream)> {
        self.bulk.accept(purpose)
    }

    fn protocol(&self, purpose: Purpose) -> StreamProtocol {
        protocol(&self.shared.id, purpose)
    }
}
