// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets that carry one thing alone, Blobs or questions about actions, without a multiplexer: that costs more than
//! everything else on the way of a large Blob, and two more tasks have to be woken for each small hit.
//!
//! They come in at the door that everybody uses: a peer dials an address where another one listens for TCP, both prove
//! who they are and that they are members, and then it asks for that stream where it would ask for a multiplexer. So there is no second port to open, to forward or to tell anybody, and a stranger learns no more than
//! before. Only connected members may, and a socket ends with the last of their ordinary connections.
//!
//! A socket is dialled only to an IP address that the peer is connected from or was reached at, whatever else it says
//! about itself: nobody can have this node knock at other doors.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, ready};

use futures::future::{self, Ready};
use futures::{AsyncRead as FuturesRead, AsyncWrite as FuturesWrite};
use libp2p::core::connection::ConnectedPoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Transport as _, tcp, yamux};
use multistream_select::dialer_select_proto;
use potluck_protocol::names::{NetworkId, Purpose};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::admission::Admitted;
use super::limits;
use super::secure::{self, Secure};

/// What libp2p calls its multiplexer.
const YAMUX: &str = "/yamux/1.0.0";

/// A stream to a peer, over whatever it goes.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A [`Duplex`] of some kind.
pub type PeerStream = Box<dyn Duplex>;

/// The bulk sockets of one Network. Clones share it.
#[derive(Clone)]
pub(super) struct Bulk(Arc<Shared>);

struct Shared {
    handshake: Admitted<Secure>,
    members: Mutex<HashMap<PeerId, Member>>,
    blob: Kind,
    ask: Kind,
}

/// Sockets of one purpose.
struct Kind {
    protocol: String,
    /// For all of them together.
    places: Arc<Semaphore>,
    /// Where those go that peers opened, once somebody serves them.
    opened: OnceLock<mpsc::Sender<(PeerId, PeerStream)>>,
}

impl Kind {
    fn new(network: &NetworkId, purpose: Purpose) -> Self {
        let (places, opened) = (Arc::new(Semaphore::new(limits::MAX_BULK)), OnceLock::new());
        Self { protocol: purpose.protocol(network), places, opened }
    }
}

impl Shared {
    /// What is known of a purpose; all that have no sockets of their own count as Blobs, and are not asked for.
    fn of(&self, purpose: Purpose) -> &Kind {
        if purpose == Purpose::Ask { &self.ask } else { &self.blob }
    }
}

/// What is known of a connected peer.
struct Member {
    /// It has shown that it speaks this Network's protocols.
    admitted: bool,
    /// How many of its connections are by QUIC, and how many are not. A stream may be on any of them.
    connections: [usize; 2],
    /// Where its connections come from, or lead to.
    at: BTreeSet<IpAddr>,
    /// Where it says that it listens for TCP.
    listens: BTreeSet<SocketAddr>,
    /// Where it says that it listens for QUIC.
    listens_quic: BTreeSet<Multiaddr>,
    /// For Blobs, and for questions.
    places: [Arc<Semaphore>; 2],
    connected: CancellationToken,
    /// Ends the sockets when this goes.
    _connected: DropGuard,
}

impl Member {
    fn new() -> Self {
        let connected = CancellationToken::new();
        Self {
            admitted: false,
            connections: [0; 2],
            at: BTreeSet::new(),
            listens: BTreeSet::new(),
            listens_quic: BTreeSet::new(),
            places: [(); 2].map(|()| Arc::new(Semaphore::new(limits::MAX_BULK_PER_PEER))),
            _connected: connected.clone().drop_guard(),
            connected,
        }
    }
}

/// A place among the sockets, as long as the peer is connected.
struct Place {
    connected: CancellationToken,
    _of_peer: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Bulk {
    /// None yet, for members of a Network who know each other as `known` says.
    pub(super) fn new(network: &NetworkId, known: &Admitted<Secure>) -> Self {
        let handshake = known.handshake.in_steps(limits::READ_STEP.0);
        let handshake = Admitted { handshake, admission: known.admission.clone() };
        let (blob, ask) = (Kind::new(network, Purpose::Blob), Kind::new(network, Purpose::Ask));
        Self(Arc::new(Shared { handshake, members: Mutex::default(), blob, ask }))
    }

    fn members(&self) -> MutexGuard<'_, HashMap<PeerId, Member>> {
        self.0.members.lock().expect("nobody panics while holding the members")
    }

    /// A connection to a peer stands.
    pub(super) fn connected(&self, peer: PeerId, point: &ConnectedPoint) {
        let address = point.get_remote_address();
        let mut members = self.members();
        let member = members.entry(peer).or_insert_with(Member::new);
        member.connections[usize::from(!is_quic(point))] += 1;
        let (Some(ip), false) = (ip_of(address), point.is_relayed()) else { return };
        if member.at.len() < limits::MAX_ADDRESSES {
            member.at.insert(ip);
        }
        if point.is_dialer() {
            member.listens.extend(socket_of(address));
        }
    }

    /// One of several connections to a peer ended.
    pub(super) fn closed(&self, peer: &PeerId, point: &ConnectedPoint) {
        if let Some(member) = self.members().get_mut(peer) {
            let count = &mut member.connections[usize::from(!is_quic(point))];
            *count = count.saturating_sub(1);
        }
    }

    /// A peer is a member, and says where it listens.
    pub(super) fn admitted<'a>(&self, peer: PeerId, listens: impl IntoIterator<Item = &'a Multiaddr>) {
        let mut members = self.members();
        let member = members.entry(peer).or_insert_with(Member::new);
        member.admitted = true;
        for address in listens {
            if member.listens.len() + member.listens_quic.len() >= limits::MAX_ADDRESSES {
                break;
            }
            member.listens.extend(socket_of(address));
            member.listens_quic.extend(quic_of(address));
        }
    }

    /// A peer is no longer connected: its sockets end.
    pub(super) fn gone(&self, peer: &PeerId) {
        self.members().remove(peer);
    }

    /// All sockets end, and no more are opened.
    pub(super) fn end(&self) {
        for kind in [&self.0.blob, &self.0.ask] {
            kind.places.close();
        }
        self.members().clear();
    }

    /// For which purposes a peer may open a socket: it is connected, and somebody serves it. That it is a member it has
    /// proven on that very socket; on its ordinary connection it may not have come to saying so.
    fn serves(&self, peer: &PeerId) -> Vec<Purpose> {
        if !self.members().contains_key(peer) {
            return Vec::new();
        }
        let served = |purpose: &Purpose| self.0.of(*purpose).opened.get().is_some();
        [Purpose::Blob, Purpose::Ask].into_iter().filter(served).collect()
    }

    /// How many sockets for Blobs stand, those that are being opened included.
    pub(super) fn open(&self) -> usize {
        limits::MAX_BULK - self.0.blob.places.available_permits()
    }

    /// A place for a socket to or from a peer, if it is connected and there is one.
    fn place(&self, peer: &PeerId, purpose: Purpose) -> Option<Place> {
        let members = self.members();
        let member = members.get(peer)?;
        let of_peer = &member.places[usize::from(purpose == Purpose::Ask)];
        Some(Place {
            connected: member.connected.clone(),
            _of_peer: Arc::clone(of_peer).try_acquire_owned().ok()?,
            _of_all: Arc::clone(&self.0.of(purpose).places).try_acquire_owned().ok()?,
        })
    }

    /// Where a socket to a peer may be dialled.
    fn addresses(&self, peer: &PeerId) -> Vec<SocketAddr> {
        let members = self.members();
        let Some(member) = members.get(peer).filter(|member| member.admitted) else { return Vec::new() };
        let near = member.listens.iter().filter(|address| member.at.contains(&address.ip()));
        near.copied().take(limits::MAX_BULK_DIALS).collect()
    }

    /// Whether it is known where a socket to a peer might be dialled. A peer may be asked for something before it has
    /// said where it listens.
    pub(super) fn knows(&self, peer: &PeerId) -> bool {
        !self.addresses(peer).is_empty()
    }

    /// Whether all connections to a peer are by QUIC, and there may be a socket to it, which is TCP.
    pub(super) fn has_both(&self, peer: &PeerId) -> bool {
        let connections = self.members().get(peer).map(|member| member.connections);
        connections.is_some_and(|[quic, others]| quic > 0 && others == 0) && self.knows(peer)
    }

    /// Where a peer that is connected otherwise may be reached by QUIC. As with sockets, it is nowhere but where that peer
    /// is connected from.
    pub(super) fn quic_addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let members = self.members();
        let Some(member) = members.get(peer).filter(|member| member.admitted) else { return Vec::new() };
        let is_near = |address: &&Multiaddr| ip_of(address).is_some_and(|ip| member.at.contains(&ip));
        member.listens_quic.iter().filter(is_near).take(limits::MAX_BULK_DIALS).cloned().collect()
    }

    /// Opens a socket to a connected member, if there is a way.
    pub(super) async fn dial(&self, peer: PeerId, purpose: Purpose) -> Option<PeerStream> {
        let addresses = self.addresses(&peer);
        let place = self.place(&peer, purpose).filter(|_| !addresses.is_empty())?;
        let connected = place.connected.clone();
        let dialling = async {
            for address in addresses {
                match self.dial_at(address, peer, purpose).await {
                    Ok(stream) => return Some(stream),
                    Err(error) => tracing::debug!(%peer, %address, %error, "no bulk socket"),
                }
            }
            None
        };
        let stream = tokio::select! {
            stream = tokio::time::timeout(limits::BULK_STALL, dialling) => stream.ok()??,
            () = connected.cancelled() => return None,
        };
        Some(Box::new(Leashed::new(stream, place)))
    }

    async fn dial_at(&self, address: SocketAddr, peer: PeerId, purpose: Purpose) -> io::Result<PeerStream> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let socket = tcp::tokio::TcpStream(socket);
        let agreed = dialer_select_proto(socket, [secure::PROTOCOL], Version::V1Lazy).await;
        let (protocol, stream) = agreed.map_err(io::Error::other)?;
        let (who, stream) = self.0.handshake.clone().upgrade_outbound(stream, protocol).await?;
        if who != peer {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "somebody else is there"));
        }
        let agreed = dialer_select_proto(stream, [&self.0.of(purpose).protocol], Version::V1).await;
        let (_, stream) = agreed.map_err(io::Error::other)?;
        Ok(Box::new(stream.compat()))
    }

    /// The sockets that members open for a purpose from now on; none are taken before.
    ///
    /// # Panics
    /// When it is called twice.
    pub(super) fn accept(&self, purpose: Purpose) -> mpsc::Receiver<(PeerId, PeerStream)> {
        let (to, opened) = mpsc::channel(limits::MAX_BULK);
        assert!(self.0.of(purpose).opened.set(to).is_ok(), "bulk sockets are served by one loop");
        opened
    }

    /// Takes a socket that a peer opened, if it may.
    fn take(&self, peer: PeerId, purpose: Purpose, stream: PeerStream) {
        let place = self.place(&peer, purpose);
        if let (Some(to), Some(place)) = (self.0.of(purpose).opened.get(), place) {
            let _ = to.try_send((peer, Box::new(Leashed::new(stream, place))));
        }
    }

    /// The swarm's way over TCP, which is where bulk sockets come in.
    pub(super) fn transport(&self, handshake: Admitted<Secure>) -> Boxed<(PeerId, StreamMuxerBox)> {
        let bulk = self.clone();
        tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .upgrade(Version::V1Lazy)
            .authenticate(handshake)
            .multiplex_ext(move |peer, point| {
                let serves = if point.is_listener() { bulk.serves(peer) } else { Vec::new() };
                Multiplex { bulk: bulk.clone(), peer: *peer, or: serves }
            })
            .boxed()
    }
}

fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether a connection is by QUIC, and no relay carries it.
pub(super) fn is_quic(point: &ConnectedPoint) -> bool {
    quic_of(point.get_remote_address()).is_some()
}

/// The address as one of QUIC alone, if it is that.
fn quic_of(address: &Multiaddr) -> Option<Multiaddr> {
    let mut parts = address.iter();
    ip_of(address)?;
    match (parts.nth(1), parts.next(), parts.next(), parts.next()) {
        (Some(Protocol::Udp(_)), Some(Protocol::QuicV1), None | Some(Protocol::P2p(_)), None) => {
            Some(address.iter().take(3).collect())
        }
        _ => None,
    }
}

/// The address as one of TCP alone, if it is that.
fn socket_of(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = ip_of(address)?;
    match (parts.nth(1), parts.next(), parts.next()) {
        (Some(Protocol::Tcp(port)), None | Some(Protocol::P2p(_)), None) if port != 0 => {
            Some(SocketAddr::new(ip, port))
        }
        _ => None,
    }
}

/// The multiplexer, or for those who dial in and want it, none.
#[derive(Clone)]
struct Multiplex {
    bulk: Bulk,
    peer: PeerId,
    /// The purposes for which that may be.
    or: Vec<Purpose>,
}

impl UpgradeInfo for Multiplex {
    type Info = String;
    type InfoIter = Vec<String>;

    fn protocol_info(&self) -> Vec<String> {
        let alone = self.or.iter().map(|purpose| self.bulk.0.of(*purpose).protocol.clone());
        std::iter::once(YAMUX.to_owned()).chain(alone).collect()
    }
}

impl<C> InboundConnectionUpgrade<C> for Multiplex
where
    C: FuturesRead + FuturesWrite + Send + Unpin + 'static,
{
    type Output = yamux::Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Output>>;

    fn upgrade_inbound(self, stream: C, protocol: String) -> Self::Future {
        let Self { bulk, peer, or } = self;
        match or.into_iter().find(|purpose| bulk.0.of(*purpose).protocol == protocol) {
            None => yamux::Config::default().upgrade_inbound(stream, YAMUX),
            Some(purpose) => {
                bulk.take(peer, purpose, Box::new(stream.compat()));
                // The swarm is to have nothing more to do with it.
                future::ready(Err(io::Error::other("this connection carries one thing alone")))
            }
        }
    }
}

impl<C> OutboundConnectionUpgrade<C> for Multiplex
where
    C: FuturesRead + FuturesWrite + Send + Unpin + 'static,
{
    type Output = yamux::Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Output>>;

    fn upgrade_outbound(self, stream: C, _: String) -> Self::Future {
        yamux::Config::default().upgrade_outbound(stream, YAMUX)
    }
}

/// A stream that ends when the peer is no longer connected, and gives its place back then.
struct Leashed {
    stream: PeerStream,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    place: Place,
}

impl Leashed {
    fn new(stream: PeerStream, place: Place) -> Self {
        Self { stream, ended: Box::pin(place.connected.clone().cancelled_owned()), place }
    }

    fn check(&self) -> io::Result<()> {
        if self.place.connected.is_cancelled() { Err(ended()) } else { Ok(()) }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the peer is no longer connected")
}

impl AsyncRead for Leashed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        // Whoever serves a stream or hears answers always reads, so this is enough to wake him.
        match Pin::new(&mut self.stream).poll_read(context, into) {
            Poll::Pending => {
                ready!(self.ended.as_mut().poll(context));
                Poll::Ready(Err(ended()))
            }
            done => done,
        }
    }
}

impl AsyncWrite for Leashed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::core::Endpoint;
    use libp2p::core::transport::PortUse;
    use libp2p::identity::Keypair;
    use tokio::net::TcpListener;

    use super::super::admission::Admission;
    use super::*;
    use crate::network::Network;
    use crate::observe::span;

    /// A peer of a public Network, who takes sockets.
    fn somebody() -> (Bulk, Admitted<Secure>, PeerId) {
        let pair = Keypair::generate_ed25519();
        let own = pair.public().to_peer_id();
        let handshake = Secure::new(&pair, limits::READ_STEP.1).unwrap();
        let known = Admitted { handshake, admission: Admission::new(None, own) };
        (Bulk::new(&Network::new("office", true).unwrap().id(), &known), known, own)
    }

    fn dialled(at: &str) -> ConnectedPoint {
        let (address, role_override, port_use) = (at.parse().unwrap(), Endpoint::Dialer, PortUse::New);
        ConnectedPoint::Dialer { address, role_override, port_use }
    }

    fn connected(bulk: &Bulk, peer: PeerId, at: &str) {
        bulk.connected(peer, &dialled(at));
    }

    fn member(bulk: &Bulk, peer: PeerId, at: &str, listens: &[&str]) {
        connected(bulk, peer, at);
        let listens: Vec<Multiaddr> = listens.iter().map(|address| address.parse().unwrap()).collect();
        bulk.admitted(peer, &listens);
    }

    #[test]
    fn only_where_a_peer_is_connected_from_is_dialled() {
        let (bulk, _, _) = somebody();
        let ann = PeerId::random();
        let says = [
            "/ip4/10.0.0.7/tcp/4001",
            "/ip4/10.0.0.8/tcp/22",
            "/ip4/10.0.0.7/udp/4001/quic-v1",
            "/ip4/10.0.0.7/tcp/0",
            "/ip4/10.0.0.7/tcp/80/ws",
            "/dns4/localhost/tcp/22",
        ];
        member(&bulk, ann, "/ip4/10.0.0.7/udp/5000/quic-v1", &says);
        assert_eq!(bulk.addresses(&ann), ["10.0.0.7:4001".parse().unwrap()]);
        // Whoever is reached through somebody else is nowhere.
        let ben = PeerId::random();
        let relay = format!("/ip4/10.0.0.7/tcp/1/p2p/{ann}/p2p-circuit");
        member(&bulk, ben, &relay, &["/ip4/10.0.0.7/tcp/22"]);
        assert_eq!(bulk.addresses(&ben), []);
        // However many it names, few are kept and fewer tried.
        let many: Vec<_> = (1..1000).map(|port| format!("/ip4/10.0.0.9/tcp/{port}")).collect();
        let cat = PeerId::random();
        member(&bulk, cat, "/ip4/10.0.0.9/tcp/1000", &many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(bulk.members()[&cat].listens.len() <= limits::MAX_ADDRESSES);
        assert_eq!(bulk.addresses(&cat).len(), limits::MAX_BULK_DIALS);
    }

    #[test]
    fn it_is_known_who_is_reached_by_quic_alone_and_who_might_be() {
        let (bulk, _, _) = somebody();
        let says = ["/ip4/10.0.0.7/tcp/1", "/ip4/10.0.0.7/udp/2/quic-v1", "/ip4/10.0.0.8/udp/22/quic-v1"];
        let [ann, ben] = [(); 2].map(|()| PeerId::random());
        member(&bulk, ann, "/ip4/10.0.0.7/tcp/1", &says);
        assert!(!bulk.has_both(&ann), "what would be on its connection is TCP as well");
        assert_eq!(bulk.quic_addresses(&ann), [says[1].parse().unwrap()]);
        connected(&bulk, ann, says[1]);
        assert!(!bulk.has_both(&ann), "nobody knows on which of the two a stream would be");
        bulk.closed(&ann, &dialled("/ip4/10.0.0.7/tcp/1"));
        assert!(bulk.has_both(&ann));
        bulk.closed(&ann, &dialled(says[1]));
        assert!(!bulk.has_both(&ann));
        // Without an address for TCP there is but one way.
        member(&bulk, ben, &format!("{}/p2p/{ben}", says[1]), &says[1..]);
        assert!(!bulk.has_both(&ben));
        let relay = format!("{}/p2p/{ann}/p2p-circuit", says[1]);
        assert!(!is_quic(&dialled(&relay)), "what a relay carries is none of its own");
        let many: Vec<_> = (1..1000).map(|port| format!("/ip4/10.0.0.7/udp/{port}/quic-v1")).collect();
        member(&bulk, ben, says[1], &many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(bulk.members()[&ben].listens_quic.len() <= limits::MAX_ADDRESSES);
        assert_eq!(bulk.quic_addresses(&ben).len(), limits::MAX_BULK_DIALS);
    }

    #[test]
    fn there_are_so_many_places_for_a_peer_and_for_all() {
        let (bulk, _, _) = somebody();
        let ann = PeerId::random();
        assert!(bulk.place(&ann, Purpose::Blob).is_none());
        connected(&bulk, ann, "/ip4/10.0.0.7/tcp/1");
        assert!(bulk.addresses(&ann).is_empty(), "it has not shown yet that it speaks our protocols");
        member(&bulk, ann, "/ip4/10.0.0.7/tcp/1", &[]);
        let mut held: Vec<_> = std::iter::from_fn(|| bulk.place(&ann, Purpose::Blob)).collect();
        assert_eq!(held.len(), limits::MAX_BULK_PER_PEER);
        // One that takes all that it may leaves the others theirs.
        for _ in 0..2 * limits::MAX_BULK / limits::MAX_BULK_PER_PEER {
            let peer = PeerId::random();
            member(&bulk, peer, "/ip4/10.0.0.8/tcp/1", &[]);
            held.extend(std::iter::from_fn(|| bulk.place(&peer, Purpose::Blob)));
        }
        assert_eq!((held.len(), bulk.open()), (limits::MAX_BULK, limits::MAX_BULK));
        drop(held);
        assert_eq!(bulk.open(), 0);
        let place = bulk.place(&ann, Purpose::Blob).unwrap();
        bulk.gone(&ann);
        assert!(place.connected.is_cancelled() && bulk.place(&ann, Purpose::Blob).is_none());
        member(&bulk, ann, "/ip4/10.0.0.7/tcp/1", &[]);
        bulk.end();
        member(&bulk, ann, "/ip4/10.0.0.7/tcp/1", &[]);
        assert!(bulk.place(&ann, Purpose::Blob).is_none(), "who has left opens no more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_port_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
        let (bulk, _, _) = somebody();
        let ann = PeerId::random();
        member(&bulk, ann, &at, &[]);
        assert!(bulk.dial(ann, Purpose::Blob).await.is_none());
        assert_eq!(bulk.open(), 0);
    }

    /// Listens as a swarm does, for as long as the test runs.
    async fn listens(bulk: &Bulk, known: Admitted<Secure>) -> String {
        let mut transport = bulk.transport(known);
        let any = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
        transport.listen_on(libp2p::core::transport::ListenerId::next(), any).unwrap();
        let (to, address) = tokio::sync::oneshot::channel();
        let mut to = Some(to);
        span::spawn("test", async move {
            loop {
                let event = future::poll_fn(|context| Pin::new(&mut transport).poll(context)).await;
                match event {
                    libp2p::core::transport::TransportEvent::NewAddress { listen_addr, .. } => {
                        let _ = to.take().unwrap().send(listen_addr.to_string());
                    }
                    libp2p::core::transport::TransportEvent::Incoming { upgrade, .. } => {
                        span::spawn("test", async move { drop(upgrade.await) });
                    }
                    _ => {}
                }
            }
        });
        address.await.unwrap()
    }

    #[tokio::test]
    async fn a_socket_leads_to_the_peer_that_was_meant_or_nowhere() {
        let (ann, of_ann, ann_id) = somebody();
        let (ben, _, ben_id) = somebody();
        let at = listens(&ann, of_ann).await;
        // Ann takes none yet.
        member(&ben, ann_id, &at, &[]);
        assert!(ben.dial(ann_id, Purpose::Blob).await.is_none());
        // She does, but does not know Ben.
        let mut opened = ann.accept(Purpose::Blob);
        assert!(ben.dial(ann_id, Purpose::Blob).await.is_none());
        member(&ann, ben_id, "/ip4/127.0.0.1/tcp/1", &[]);
        let mut socket = ben.dial(ann_id, Purpose::Blob).await.unwrap();
        let (who, mut other) = opened.recv().await.unwrap();
        assert_eq!(who, ben_id);
        tokio::io::AsyncWriteExt::write_all(&mut socket, b"x").await.unwrap();
        tokio::io::AsyncWriteExt::flush(&mut socket).await.unwrap();
        assert_eq!(tokio::io::AsyncReadExt::read_u8(&mut other).await.unwrap(), b'x');
        // Somebody else at that address is not who was meant.
        let cat = PeerId::random();
        member(&ben, cat, &at, &[]);
        assert!(ben.dial(cat, Purpose::Blob).await.is_none());
        // When either is no longer connected to the other, both ends end.
        ann.gone(&ben_id);
        assert!(tokio::io::AsyncReadExt::read_u8(&mut other).await.is_err());
        drop(other);
        assert!(tokio::io::AsyncReadExt::read_u8(&mut socket).await.is_err());
        drop(socket);
        assert_eq!((ann.open(), ben.open()), (0, 0));
    }
}
