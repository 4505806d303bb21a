// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much of everything a peer, and all peers together, may take. Bounds of single messages stand beside the
//! messages, in `potluck-protocol`.

use std::time::Duration;

/// Most connections at a time in one Network.
pub const MAX_CONNECTIONS: u32 = 512;
/// Most connections to one peer: a TCP and a QUIC one, and one more that crosses them.
pub const MAX_CONNECTIONS_PER_PEER: u32 = 4;
/// Most connections that are being set up at a time, in each direction.
pub const MAX_PENDING: u32 = 64;
/// Most inbound streams of one purpose from one peer.
pub const MAX_STREAMS_PER_PEER: usize = 4;
/// Most inbound streams of one purpose at a time in one Network: as many as all connected peers together may open, so
/// that some of them cannot shut out the others.
pub const MAX_STREAMS: usize = MAX_CONNECTIONS as usize * MAX_STREAMS_PER_PEER;
/// Most questions of peers that are looked up at a time, in all: the disk is there for the tools on this machine first.
pub const MAX_WORK: usize = 32;
/// Most Blobs that are open to be sent, to all peers of one Network together.
pub const MAX_OPEN_BLOBS: usize = 128;
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
/// How soon a hello is said again that was not heard, at first and at last.
pub const HELLO_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// How long an answer may take to come.
pub const READ_STALL: Duration = Duration::from_secs(3);
/// How long the next piece may take to come, in turn with those of other Blobs from the same peer.
pub const PIECE_STALL: Duration = Duration::from_secs(15);
/// How long it may take to open a stream.
pub const OPEN_STALL: Duration = Duration::from_secs(5);
/// How long a stream is not opened again that could not be opened.
pub const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// Most bulk sockets at a time in one Network, of all peers together.
pub const MAX_BULK: usize = 128;
/// Most of them to and from one peer: one each way, and one that is not yet known to have ended.
pub const MAX_BULK_PER_PEER: usize = 4;
/// At how many of a peer's addresses one is tried.
pub const MAX_BULK_DIALS: usize = 3;
/// How long it may take to open one.
pub const BULK_STALL: Duration = Duration::from_secs(5);
/// How long whoever wants a Blob waits for that, before he takes the stream that is there already.
pub const BULK_PATIENCE: Duration = Duration::from_millis(150);
/// How long none is opened to a peer to whom it could not be done, at first and at last. A peer that was just met may
/// not know yet that this one is a member.
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
/// Most keys of others that this node keeps for the DHT, for records and for providers.
pub const MAX_DHT_KEYS: usize = 65_536;
/// Room for own keys in addition, which those of others cannot take.
pub const MAX_OWN_DHT_KEYS: usize = 8192;
/// Most of them that one peer may put there.
pub const MAX_DHT_KEYS_PER_PEER: usize = 4096;
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
