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
/// Most inbound streams of one purpose at a time in one Network.
pub const MAX_STREAMS: usize = 1024;
/// Most inbound streams of one purpose from one peer.
pub const MAX_STREAMS_PER_PEER: usize = 4;
/// Most requests that wait on one inbound stream.
pub const MAX_WAITING: usize = 64;
/// How long a peer may take to read one message that it asked for.
pub const WRITE_STALL: Duration = Duration::from_secs(15);
/// How long an answer, or the next piece, may take to begin.
pub const READ_STALL: Duration = Duration::from_secs(3);
/// How long it may take to open a stream.
pub const OPEN_STALL: Duration = Duration::from_secs(5);
/// How long a look at the DHT may take.
pub const QUERY: Duration = Duration::from_secs(10);
/// How long the DHT is searched for more holders once some were found.
pub const MORE_HOLDERS: Duration = Duration::from_millis(300);
/// Most holders that one search gives.
pub const MAX_FOUND: usize = 20;
/// Most keys of others that this node keeps for the DHT, for records and for providers.
pub const MAX_DHT_KEYS: usize = 65_536;
/// Most of them that one peer may put there.
pub const MAX_DHT_KEYS_PER_PEER: usize = 4096;
/// Most commands that wait for the swarm.
pub const MAX_COMMANDS: usize = 256;
/// Most events that wait for the node; the swarm waits with them.
pub const MAX_EVENTS: usize = 256;
