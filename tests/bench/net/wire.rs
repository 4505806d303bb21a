// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the transports can do when nobody checks or keeps anything: a bare stream, and a bare request.

use std::path::Path;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::request_response::{self, Codec, Event, Message, ProtocolSupport};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, tcp, tls, yamux};
use potluck_node::network::Network;
use potluck_node::observe::span;
use potluck_node::swarm::{self, Handle, NetEvent};
use potluck_protocol::names::Purpose;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use crate::material::noise;
use crate::measure;

/// What is written at a time.
const STRETCH: usize = 256 * 1024;

/// Two members of a Network with nothing behind them.
pub(crate) struct Wire {
    to: Handle,
    from: PeerId,
    _both: [(Handle, mpsc::Receiver<NetEvent>); 2],
}

async fn enter(folder: &Path, name: &str, network: &Network) -> (Handle, mpsc::Receiver<NetEvent>) {
    std::fs::create_dir_all(folder).expect("a folder can be made");
    let identity = swarm::identity(&folder.join(name)).expect("there is an identity");
    swarm::enter(network, &identity).await.expect("it enters")
}

impl Wire {
    /// Connects two members, one of whom sends `len` bytes of noise to whoever opens a stream.
    pub(crate) async fn new(folder: &Path, network: &Network, len: usize) -> Self {
        let (from, from_events) = enter(folder, "from", network).await;
        let mut incoming = from.accept(Purpose::Blob);
        span::spawn("bench", async move {
            let stretch = noise(STRETCH, 1);
            while let Some((_, mut stream)) = incoming.next().await {
                let mut left = len;
                while left > 0 {
                    let part = left.min(STRETCH);
                    stream.write_all(&stretch[..part]).await.expect("the other reads");
                    left -= part;
                }
                let _ = stream.close().await;
            }
        });
        let known = Network { peers: from.listen(), ..network.clone() };
        let (to, mut to_events) = enter(folder, "to", &known).await;
        while !matches!(to_events.recv().await, Some(NetEvent::Met(_))) {}
        let peer = from.peer();
        Self { to: to.clone(), from: peer, _both: [(from, from_events), (to, to_events)] }
    }

    /// Takes all of it once; gives how many bytes came.
    pub(crate) async fn take(&self) -> usize {
        let mut stream = self.to.open(self.from, Purpose::Blob).await.expect("a stream opens");
        let (mut room, mut len) = (vec![0; STRETCH], 0);
        while let Ok(count @ 1..) = stream.read(&mut room).await {
            len += count;
        }
        len
    }
}

/// Requests and answers of so many bytes, as they are.
#[derive(Clone, Default)]
struct Plain;

/// How many bytes go each way.
pub(crate) const REQUEST: usize = 1024;

async fn read(io: &mut (impl futures::AsyncRead + Unpin + Send)) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; REQUEST];
    io.read_exact(&mut bytes).await?;
    Ok(bytes)
}

impl Codec for Plain {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &Self::Protocol, io: &mut T) -> std::io::Result<Vec<u8>>
    where
        T: futures::AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn read_response<T>(&mut self, _: &Self::Protocol, io: &mut T) -> std::io::Result<Vec<u8>>
    where
        T: futures::AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &Self::Protocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> std::io::Result<()>
    where
        T: futures::AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }

    async fn write_response<T>(
        &mut self,
        _: &Self::Protocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> std::io::Result<()>
    where
        T: futures::AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }
}

type Asking = Swarm<request_response::Behaviour<Plain>>;

fn asking() -> Asking {
    let protocol = (StreamProtocol::new("/bench/1"), ProtocolSupport::Full);
    libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), tls::Config::new, yamux::Config::default)
        .expect("there is TCP")
        .with_behaviour(|_| request_response::Behaviour::new([protocol], request_response::Config::default()))
        .expect("there is a behaviour")
        .build()
}

/// Asks over libp2p's own request-response, one request after the other; gives the seconds that each took.
pub(crate) async fn requests(count: usize) -> Vec<f64> {
    let mut answers = asking();
    let peer = *answers.local_peer_id();
    answers.listen_on("/ip4/127.0.0.1/tcp/0".parse::<Multiaddr>().expect("an address")).expect("it listens");
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = answers.select_next_some().await {
            break address;
        }
    };
    let answering = span::spawn("bench", async move {
        loop {
            if let SwarmEvent::Behaviour(Event::Message {
                message: Message::Request { channel, .. }, ..
            }) = answers.select_next_some().await
            {
                let _ = answers.behaviour_mut().send_response(channel, vec![7; REQUEST]);
            }
        }
    });
    let asking = span::spawn("bench", async move {
        let mut asks = asking();
        asks.dial(address).expect("it can be dialled");
        while !matches!(asks.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
        let mut took = Vec::with_capacity(count);
        for _ in 0..count {
            let clock = measure::clock();
            asks.behaviour_mut().send_request(&peer, vec![7; REQUEST]);
            loop {
                match asks.select_next_some().await {
                    SwarmEvent::Behaviour(Event::Message { message: Message::Response { .. }, .. }) => break,
                    SwarmEvent::Behaviour(Event::OutboundFailure { error, .. }) => panic!("{error}"),
                    _ => {}
                }
            }
            took.push(clock());
        }
        took
    });
    let took = asking.await.expect("it asks to the end");
    answering.abort();
    took
}
