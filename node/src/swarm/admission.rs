// SPDX-License-Identifier: MIT OR Apache-2.0
//! A private Network is closed: a peer that cannot prove that it has the key gets no further than the handshake that
//! shows who it is. What is proven and how is in [`potluck_protocol::admission`].
//!
//! libp2p's own pre-shared keys encrypt everything once more, which halves the throughput, and do not go with QUIC.
//! Here the proof is made once a connection: over TCP between the handshake of TLS and the multiplexer, over QUIC on
//! the first stream. No protocol is negotiated before that, so a stranger learns no name of any. The time that it may
//! take is within that of setting up a connection, which the swarm bounds.

use std::error::Error;
use std::io;

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerExt as _};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::identity::Keypair;
use libp2p::{PeerId, tls};
use potluck_protocol::admission::{AdmissionKey, LEN, Meeting, Side};

/// How the members of a Network know each other; those of a public one need not.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    key: Option<AdmissionKey>,
    own: PeerId,
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the peer did not prove that it is a member")
}

impl Admission {
    pub(super) fn new(key: Option<AdmissionKey>, own: PeerId) -> Self {
        Self { key, own }
    }

    /// Proves to a peer that this node is a member, and has it prove the same.
    async fn prove(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        peer: PeerId,
        side: Side,
    ) -> io::Result<()> {
        let Some(key) = &self.key else { return Ok(()) };
        let (mut own, mut theirs) = ([0; LEN], [0; LEN]);
        getrandom::fill(&mut own).map_err(io::Error::other)?;
        stream.write_all(&own).await?;
        stream.flush().await?;
        stream.read_exact(&mut theirs).await?;
        let (own_id, their_id) = (self.own.to_bytes(), peer.to_bytes());
        let (meeting, other) = match side {
            Side::Dialler => {
                let (dialler, listener) = (own_id.as_slice(), their_id.as_slice());
                (Meeting { dialler, listener, from_dialler: &own, from_listener: &theirs }, Side::Listener)
            }
            Side::Listener => {
                let (dialler, listener) = (their_id.as_slice(), own_id.as_slice());
                (Meeting { dialler, listener, from_dialler: &theirs, from_listener: &own }, Side::Dialler)
            }
        };
        if side == Side::Dialler {
            stream.write_all(key.proof(side, &meeting).as_bytes()).await?;
            stream.flush().await?;
        }
        let mut proof = [0; LEN];
        stream.read_exact(&mut proof).await?;
        // As hashes, which are compared in constant time.
        if key.proof(other, &meeting) != blake3::Hash::from_bytes(proof) {
            return Err(refused());
        }
        if side == Side::Listener {
            stream.write_all(key.proof(side, &meeting).as_bytes()).await?;
            stream.flush().await?;
        }
        Ok(())
    }

    /// The same on the first stream of a connection that is multiplexed by itself.
    pub(super) async fn prove_on<M>(
        self,
        (peer, mut muxer): (PeerId, M),
        point: ConnectedPoint,
    ) -> io::Result<(PeerId, M)>
    where
        M: StreamMuxer + Unpin,
        M::Substream: Unpin,
        M::Error: Send + Sync + 'static,
    {
        if self.key.is_none() {
            return Ok((peer, muxer));
        }
        let role = match point {
            ConnectedPoint::Dialer { role_override, .. } => role_override,
            ConnectedPoint::Listener { .. } => Endpoint::Listener,
        };
        let side = match role {
            Endpoint::Dialer => Side::Dialler,
            Endpoint::Listener => Side::Listener,
        };
        let opened = match side {
            Side::Dialler => futures::future::poll_fn(|context| muxer.poll_outbound_unpin(context)).await,
            Side::Listener => futures::future::poll_fn(|context| muxer.poll_inbound_unpin(context)).await,
        };
        let mut stream = opened.map_err(io::Error::other)?;
        self.prove(&mut stream, peer, side).await?;
        // Both sides are done with it; that closing fails would be found out by the next stream.
        let _ = stream.close().await;
        Ok((peer, muxer))
    }
}

/// A handshake that shows who the peer is, and after it the proof that it is a member.
#[derive(Debug, Clone)]
pub(super) struct Admitted<S> {
    pub(super) handshake: S,
    pub(super) admission: Admission,
}

impl<S: UpgradeInfo> UpgradeInfo for Admitted<S> {
    type Info = S::Info;
    type InfoIter = S::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.handshake.protocol_info()
    }
}

/// TLS, and after it the proof: for TCP, and inside of what a relay carries.
pub(super) fn proven_tls(
    pair: &Keypair,
    admission: Admission,
) -> Result<Admitted<tls::Config>, tls::certificate::GenError> {
    tls::Config::new(pair).map(|handshake| Admitted { handshake, admission })
}

/// Ends a handshake with the proof.
fn with_proof<C, E>(
    handshake: impl Future<Output = Result<(PeerId, C), E>> + Send + 'static,
    admission: Admission,
    side: Side,
) -> BoxFuture<'static, io::Result<(PeerId, C)>>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: Error + Send + Sync + 'static,
{
    async move {
        let (peer, mut stream) = handshake.await.map_err(io::Error::other)?;
        admission.prove(&mut stream, peer, side).await?;
        Ok((peer, stream))
    }
    .boxed()
}

impl<C, S, O> InboundConnectionUpgrade<C> for Admitted<S>
where
    S: InboundConnectionUpgrade<C, Output = (PeerId, O)>,
    S::Future: Send + 'static,
    S::Error: Error + Send + Sync + 'static,
    O: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, O);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, stream: C, info: Self::Info) -> Self::Future {
        with_proof(self.handshake.upgrade_inbound(stream, info), self.admission, Side::Listener)
    }
}

impl<C, S, O> OutboundConnectionUpgrade<C> for Admitted<S>
where
    S: OutboundConnectionUpgrade<C, Output = (PeerId, O)>,
    S::Future: Send + 'static,
    S::Error: Error + Send + Sync + 'static,
    O: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, O);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, stream: C, info: Self::Info) -> Self::Future {
        with_proof(self.handshake.upgrade_outbound(stream, info), self.admission, Side::Dialler)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use libp2p::multiaddr::Protocol;
    use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
    use libp2p::{Multiaddr, Swarm, relay, tcp, yamux};

    use super::*;

    /// A relay that asks nobody for any proof, and knows no key.
    async fn relay() -> (Swarm<relay::Behaviour>, Multiaddr) {
        let mut swarm = libp2p::SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), tls::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|pair| {
                relay::Behaviour::new(pair.public().to_peer_id(), relay::Config::default())
            })
            .unwrap()
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                swarm.add_external_address(address.clone());
                let peer = *swarm.local_peer_id();
                return (swarm, address.with(Protocol::P2p(peer)));
            }
        }
    }

    /// A node that goes to relays like anybody, and asks for a proof whoever comes by way of one.
    fn node(key: Option<AdmissionKey>) -> Swarm<relay::client::Behaviour> {
        libp2p::SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), tls::Config::new, yamux::Config::default)
            .unwrap()
            .with_relay_client(
                |pair: &Keypair| proven_tls(pair, Admission::new(key, pair.public().to_peer_id())),
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|_, carried| carried)
            .unwrap()
            .build()
    }

    async fn drive(mut swarm: Swarm<impl NetworkBehaviour>) {
        loop {
            swarm.select_next_some().await;
        }
    }

    /// Whether a node with one key gets through to one with another.
    async fn gets_in(dialler: Option<AdmissionKey>, listener: Option<AdmissionKey>) -> bool {
        let (relay, address) = relay().await;
        let (mut inside, mut outside) = (node(listener), node(dialler));
        let place = address.with(Protocol::P2pCircuit);
        inside.listen_on(place.clone()).unwrap();
        let peer = *inside.local_peer_id();
        let mut carrying = Box::pin(drive(relay));
        loop {
            tokio::select! {
                () = &mut carrying => unreachable!("it goes on for ever"),
                event = inside.select_next_some() => if let SwarmEvent::NewListenAddr { .. } = event { break },
            }
        }
        let mut inside = Box::pin(drive(inside));
        outside.dial(place.with(Protocol::P2p(peer))).unwrap();
        loop {
            let event = tokio::select! {
                () = &mut carrying => unreachable!("it goes on for ever"),
                () = &mut inside => unreachable!("it goes on for ever"),
                event = outside.select_next_some() => event,
            };
            match event {
                SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } if peer_id == peer => {
                    assert!(endpoint.is_relayed());
                    return true;
                }
                SwarmEvent::OutgoingConnectionError { peer_id: Some(to), .. } if to == peer => return false,
                _ => {}
            }
        }
    }

    /// Somebody who has the key, or thinks so, and one end of a stream to him.
    fn proves(
        (key, own): (Option<&AdmissionKey>, PeerId),
        peer: PeerId,
        side: Side,
    ) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (near, far) = tokio::io::duplex(4096);
        let admission = Admission::new(key.cloned(), own);
        let proving = async move {
            let far = tokio_util::compat::TokioAsyncReadCompatExt::compat(far);
            admission.prove(&mut { far }, peer, side).await
        };
        (near, crate::observe::span::spawn("test", proving))
    }

    /// Takes exactly so many bytes.
    async fn takes(from: &mut tokio::io::DuplexStream, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        tokio::io::AsyncReadExt::read_exact(from, &mut bytes).await.unwrap();
        bytes
    }

    async fn gives(to: &mut tokio::io::DuplexStream, bytes: &[u8]) {
        // He may have hung up.
        let _ = tokio::io::AsyncWriteExt::write_all(to, bytes).await;
    }

    /// Everything that is left to be heard.
    async fn rest(from: &mut tokio::io::DuplexStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(from, &mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn what_was_overheard_passed_on_or_thrown_back_is_no_proof() {
        let key = AdmissionKey::of(&[1; 32]);
        let [ann, ben, mallory] = [(); 3].map(|()| PeerId::random());
        let member = |own| (Some(&key), own);
        // An honest meeting, of which every byte is overheard.
        let (mut dialler, one) = proves(member(ann), ben, Side::Dialler);
        let (mut listener, other) = proves(member(ben), ann, Side::Listener);
        let nonces = (takes(&mut dialler, LEN).await, takes(&mut listener, LEN).await);
        gives(&mut dialler, &nonces.1).await;
        gives(&mut listener, &nonces.0).await;
        let of_ann = takes(&mut dialler, LEN).await;
        gives(&mut listener, &of_ann).await;
        let of_ben = takes(&mut listener, LEN).await;
        gives(&mut dialler, &of_ben).await;
        assert!(one.await.unwrap().is_ok() && other.await.unwrap().is_ok());
        // Played again, though under the names of both.
        let (mut listener, proving) = proves(member(ben), ann, Side::Listener);
        gives(&mut listener, &[&nonces.0[..], &of_ann].concat()).await;
        assert_eq!(rest(&mut listener).await.len(), LEN, "a nonce and nothing else");
        assert!(proving.await.unwrap().is_err());
        let (mut dialler, proving) = proves(member(ann), ben, Side::Dialler);
        gives(&mut dialler, &[&nonces.1[..], &of_ben].concat()).await;
        assert!(proving.await.unwrap().is_err());
        // Whatever is said is thrown back, nonce and proof.
        for side in [Side::Dialler, Side::Listener] {
            let (mut mirror, proving) = proves(member(ann), mallory, side);
            let nonce = takes(&mut mirror, LEN).await;
            gives(&mut mirror, &nonce).await;
            let proof = if side == Side::Dialler { takes(&mut mirror, LEN).await } else { nonce };
            gives(&mut mirror, &proof).await;
            assert!(proving.await.unwrap().is_err(), "{side:?}");
        }
        // Mallory stands between two who both know that it is Mallory, and passes on what each says.
        let (mut dialler, one) = proves(member(ann), mallory, Side::Dialler);
        let (mut listener, other) = proves(member(ben), mallory, Side::Listener);
        let _ = tokio::io::copy_bidirectional(&mut dialler, &mut listener).await;
        drop((dialler, listener));
        assert!(one.await.unwrap().is_err() && other.await.unwrap().is_err());
        // Both dial him, and what one proves is said to the other as if it were an answer.
        let (mut to_ann, one) = proves(member(ann), mallory, Side::Dialler);
        let (mut to_ben, other) = proves(member(ben), mallory, Side::Dialler);
        let _ = tokio::io::copy_bidirectional(&mut to_ann, &mut to_ben).await;
        drop((to_ann, to_ben));
        assert!(one.await.unwrap().is_err() && other.await.unwrap().is_err());
        // No key is as good as a wrong one.
        let (mut dialler, one) = proves((Some(&AdmissionKey::of(&[2; 32])), ann), ben, Side::Dialler);
        let (mut listener, other) = proves(member(ben), ann, Side::Listener);
        let _ = tokio::io::copy_bidirectional(&mut dialler, &mut listener).await;
        drop((dialler, listener));
        assert!(one.await.unwrap().is_err() && other.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_relay_lets_nobody_in_who_has_not_got_the_key() {
        let [ours, others] = [1, 2].map(|key| Some(AdmissionKey::of(&[key; 32])));
        assert!(gets_in(ours.clone(), ours.clone()).await);
        assert!(!gets_in(others, ours).await);
    }
}
