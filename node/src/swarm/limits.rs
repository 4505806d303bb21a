// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much of everything a peer, and all peers together, may take. Bounds of single messages stand beside the
//! messages, in `potluck-protocol`.

use std::num::NonZeroUsize;
use std::time::Duration;

/// Most connections at a time in one Network.
pub const MAX_CONNECTIONS: u32 = 512;
/// Most of them that others have set up: the rest is for those whom this node wants to reach.
pub const MAX_CONNECTIONS_INCOMING: u32 = 384;
/// Most connections to one peer: a TCP and a QUIC one, and one more that crosses them.
pub const MAX_CONNECTIONS_PER_PEER: u32 = 4;
/// Most connections that this node is setting up at a time.
pub const MAX_PENDING: u32 = 64;
/// Most connections that others are setting up at a time.
pub const MAX_PENDING_INCOMING: u32 = 256;
/// Most of them from one IP address.
pub const MAX_PENDING_PER_IP: usize = 32;
/// Most connections of peers that have not shown yet that they are members. The rest of the room is for members.
pub const MAX_UNPROVEN: usize = 128;
/// Most of them from one IP address.
pub const MAX_UNPROVEN_PER_IP: usize = 32;
/// How long such a peer may stay.
pub const UNPROVEN: Duration = Duration::from_secs(10);
/// Most bytes of one QUIC connection that came and were not read yet: what is on its way at 1 Gbit/s and 30 ms.
pub const QUIC_WINDOW: u32 = 4 << 20;
/// Most connections that come from one IP group, members or not, where there are such groups.
pub const MAX_CONNECTIONS_PER_GROUP: usize = 64;
/// Most inbound streams of one purpose from one peer.
pub const MAX_STREAMS_PER_PEER: usize = 4;
/// Most inbound streams of one purpose at a time in one Network: as many as all connected peers together may open, so
/// that some of them cannot shut out the others.
pub const MAX_STREAMS: usize = MAX_CONNECTIONS as usize * MAX_STREAMS_PER_PEER;
/// Most questions of peers that are looked up at a time, in all: the disk is there for the tools on this machine first.
pub const MAX_WORK: usize = 32;
/// Most Blobs that stay open to be sent, to all peers of one Network together: whoever comes back for another piece
/// finds his open, if it is not too long ago. Nobody has a place there.
pub const MAX_OPEN_BLOBS: usize = 128;
/// How long one stays open that nobody reads.
pub const OPEN_BLOB_LIFE: Duration = Duration::from_secs(10);
/// Most Blobs of which one stream is told what more comes of them here.
pub const MAX_WATCHED: usize = 16;
/// How often it is told that.
pub const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// Most Blobs that are sent in turn on one stream.
pub const MAX_SENDING: usize = 4;
/// Most requests that wait on one inbound stream.
pub const MAX_WAITING: usize = 64;
/// How long a peer may take to read one message that it asked for.
pub const WRITE_STALL: Duration = Duration::from_secs(15);
/// How long a peer may take to send the rest of a message that it began.
pub const MESSAGE_STALL: Duration = Duration::from_secs(15);
/// How long a peer may say nothing on a stream of questions before it is closed; it opens another when it needs one.
pub const IDLE: Duration = Duration::from_secs(300);
/// How long after one hello of a peer the next is not looked at. Who says more meanwhile waits.
pub const HELLO_PAUSE: Duration = Duration::from_millis(100);
/// How long after each Head that a peer pushed nothing more is heard on the stream by which it came.
pub const HEAD_PAUSE: Duration = Duration::from_millis(1);
/// How soon a hello is said again that was not heard, at first and at last.
pub const HELLO_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// How long an answer may take to come.
pub const READ_STALL: Duration = Duration::from_secs(3);
/// How long nothing may come from a peer that is to send the next piece.
pub const PIECE_STALL: Duration = Duration::from_secs(15);
/// How long something may be about to come, in turn with what else is asked of the same peer: whoever lets others wait
/// longer is asked for too much.
pub const TURN_STALL: Duration = Duration::from_secs(60);
/// How long it may take to open a stream.
pub const OPEN_STALL: Duration = Duration::from_secs(5);
/// How long a stream is not opened again that could not be opened.
pub const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// Most bulk sockets of one purpose at a time in one Network, of all peers together.
pub const MAX_BULK: usize = 128;
/// Most of them to and from one peer: one each way, and one that is not yet known to have ended.
pub const MAX_BULK_PER_PEER: usize = 4;
/// At how many of a peer's addresses one is tried.
pub const MAX_BULK_DIALS: usize = 3;
/// How long it may take to open one.
pub const BULK_STALL: Duration = Duration::from_secs(5);
/// How long whoever wants a Blob waits for that, before he takes the stream that is there already.
pub const BULK_PATIENCE: Duration = Duration::from_millis(150);
/// How long none is opened to a peer to whom it could not be done, at first and at last.
pub const BULK_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(300));
/// At least so many times as long as it was tried in vain, too: a port that swallows everything is rarely tried.
pub const BULK_SHARE: u32 = 20;
/// How many bytes are read from a socket at a time: from one that carries Blobs alone, and from others.
pub const READ_STEP: (usize, usize) = (256 * 1024, 32 * 1024);
/// How soon members that are known by address are dialled again while nobody is connected, at first and at last.
pub const REDIAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long a listener may take to say where it listens.
pub const LISTEN: Duration = Duration::from_secs(5);
/// How long a look at the DHT may take.
pub const QUERY: Duration = Duration::from_secs(10);
/// How long the DHT is searched for more holders once some were found.
pub const MORE_HOLDERS: Duration = Duration::from_millis(300);
/// Most holders that one search gives.
pub const MAX_FOUND: usize = 20;
/// How long such a search goes on at least, however fast the last ones were.
pub const QUERY_LEAST: Duration = Duration::from_secs(2);
/// How long one peer may take to answer a request of the DHT. libp2p knows one time for all.
pub const REQUEST: Duration = Duration::from_secs(3);
/// How many peers are asked at a time by one look at the DHT.
pub const PARALLEL: NonZeroUsize = NonZeroUsize::new(5).expect("five are some");
/// Most bytes of others that this node keeps for the DHT; see [`crate::dht::shelf::Bounds`].
pub const MAX_DHT_BYTES: usize = 32 << 20;
/// Most of them from one IP group, for whoever has one.
pub const MAX_DHT_BYTES_PER_GROUP: usize = 8 << 20;
/// Most of them from one peer.
pub const MAX_DHT_BYTES_PER_PEER: usize = 2 << 20;
/// Room for own values and for own providers in addition, which others cannot take.
pub const MAX_OWN_DHT_KEYS: usize = 1 << 16;
/// How many new values of one peer are judged within how long: each takes up to sixteen signatures.
pub const JUDGED: (u32, Duration) = (64, Duration::from_secs(1));
/// Most peers of one IP group in the routing table.
pub const MAX_ROUTED_IN_GROUP: usize = 8;
/// Most of them at one distance.
pub const MAX_ROUTED_IN_BUCKET: usize = 2;
/// How many remembered members are dialled at a time while nobody is connected.
pub const REMEMBERED_AT_ONCE: usize = 8;
/// How many remembered members are in the routing table from the start.
pub const REMEMBERED_ROUTED: usize = 64;
/// How often what changed of the DHT is written to disk.
pub const FLUSH: Duration = Duration::from_secs(10);
/// How many changes are written at once even before that, and at most together.
pub const FLUSH_AT: usize = 4096;
/// See [`FLUSH_AT`].
pub const FLUSH_MOST: usize = 16_384;
/// How long something stays there at most without being put again.
pub const MAX_DHT_LIFE: Duration = Duration::from_secs(48 * 60 * 60);
/// How often what has expired of them is thrown away.
pub const DHT_SWEEP: Duration = Duration::from_secs(60);
/// Most addresses that are kept of one peer.
pub const MAX_ADDRESSES: usize = 16;
/// The longest address that is kept, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 256;
/// Most events that come while the listeners start and are kept for afterwards.
pub const MAX_EARLY: usize = 1024;
/// Most commands that wait for the swarm.
pub const MAX_COMMANDS: usize = 256;
/// Most events that wait for the node; the swarm waits with them.
pub const MAX_EVENTS: usize = 256;
/// How often the local network is asked who is there. One question serves all: whoever hears the answers waits anew.
pub const LOOK_AROUND: Duration = Duration::from_secs(30);
/// How often each connection is tried.
pub const PING: Duration = Duration::from_secs(10);
/// How long an answer to a ping may take: longer than what a full and slow link holds back.
pub const PONG: Duration = Duration::from_secs(15);
/// Pings in a row without an answer after which a connection is closed.
pub const MAX_LOST_PINGS: u32 = 3;
/// Most members that hold a place at one relay.
pub const MAX_PLACES_GIVEN: usize = 512;
/// Most places of one of them.
pub const MAX_PLACES_PER_PEER: usize = 2;
/// How long a place is given for; whoever keeps it asks again in time.
pub const PLACE_LIFE: Duration = Duration::from_secs(60 * 60);
/// Most connections that one relay carries at a time.
pub const MAX_CIRCUITS: usize = 128;
/// Most of them to or from one member.
pub const MAX_CIRCUITS_PER_PEER: usize = 16;
/// How long a relay carries one connection.
pub const CIRCUIT_LIFE: Duration = Duration::from_secs(2 * 60 * 60);
/// Most bytes that a relay carries on one connection, both ways together.
pub const MAX_CIRCUIT_BYTES: u64 = 16 << 30;
/// How many places, or connections, one member may ask a relay for at once, and how soon for one more.
pub const RELAY_REQUESTS: (u32, Duration) = (30, Duration::from_secs(10));
