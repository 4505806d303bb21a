// SPDX-License-Identifier: MIT OR Apache-2.0
//! What local processes and the daemon say to each other over `$POTLUCK_HOME/potluck.sock`: the door of the cache
//! (look-up, missing, read, write, publish), and a few words about the daemon itself.
//!
//! The socket belongs to the user, yet a message is bounded as if a stranger had sent it: what a build feeds into a
//! wrapper ends up here. Requests carry an id chosen by the client and are answered in any order.

mod job;

pub use job::*;

use crate::action::{ActionId, Project, Recipe};
use crate::codec::{Bytes, Text};
use crate::digest::{Digest, MAX_BLOB_BYTES};
use crate::entry::{Labels, MAX_TAINTS, Output, Taint, check_taints};
use crate::frame::Message;
use crate::{choice, code, record};

/// The version of these messages. A client and a daemon that differ do not talk.
pub const VERSION: u64 = 1;
/// Most keys in one [`Lookup`], most Digests in one [`Missing`].
pub const MAX_KEYS: usize = 1024;
/// Longest key in a [`Lookup`] or [`Publish`], in bytes.
pub const MAX_KEY_BYTES: usize = crate::action::MAX_KEY_BYTES;
/// Most Blobs that one job gives another name.
pub const MAX_ALIASES: usize = 256;
/// Largest stretch of data in one message, in bytes.
pub const MAX_DATA_BYTES: usize = 256 * 1024;
/// Longest pattern over Projects, in bytes.
pub const MAX_PATTERN_BYTES: usize = 256;
/// Longest reason for a pin, in bytes.
pub const MAX_REASON_BYTES: usize = 256;
/// Longest path, in bytes.
pub const MAX_PATH_BYTES: usize = 4096;
/// Longest name of a build or of one of its units, in bytes.
pub const MAX_UNIT_BYTES: usize = 160;
/// Longest key of a unit of a build, in bytes.
pub const MAX_UNIT_KEY_BYTES: usize = 64;
/// Most keys in one [`Claims`].
pub const MAX_CLAIMS_KEYS: usize = 128;
/// Largest report in bytes.
pub const MAX_REPORT_BYTES: usize = 1 << 20;

record! {
    /// The first message of a client.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Greeting {
        /// [`VERSION`].
        1 => one version: u64,
        /// Who is calling, e.g. `rustc` or `cli`, for the log.
        2 => one client: Text<64>,
    }
}

record! {
    /// A request that has no more to say than that it is one.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Plain {
        /// Chosen by the client.
        1 => one id: u64,
    }
}

record! {
    /// "What is known under these keys?"
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Lookup {
        /// Chosen by the client.
        1 => one id: u64,
        /// The Project of all of them.
        2 => one project: Project,
        /// The Recipe of all of them.
        3 => one recipe: Recipe,
        /// The tool's own keys.
        4 => many(MAX_KEYS) keys: Bytes<MAX_KEY_BYTES>,
        /// How long the tool can wait, in milliseconds; the Front's own budget when absent.
        5 => opt deadline_ms: u32,
    }
}

record! {
    /// "Which of these Blobs can not be delivered?"
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Missing {
        /// Chosen by the client.
        1 => one id: u64,
        /// The Blobs.
        2 => many(MAX_KEYS) digests: Digest,
    }
}

record! {
    /// "Give me these bytes of this Blob."
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Read, check Read::check {
        /// Chosen by the client.
        1 => one id: u64,
        /// The Blob.
        2 => one digest: Digest,
        /// Where to start, in bytes.
        3 => one offset: u64,
        /// How many bytes; to the end when absent.
        4 => opt len: u64,
    }
}

impl Read {
    fn check(&self) -> Result<(), &'static str> {
        match self.offset.checked_add(self.len.unwrap_or(0)) {
            Some(end) if end <= MAX_BLOB_BYTES => Ok(()),
            _ => Err("it reaches beyond the largest Blob"),
        }
    }
}

record! {
    /// A stretch of a Blob: from a client that writes one, or to a client that reads one.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Data {
        /// The id of the request; a client that writes chooses one with the first stretch.
        1 => one id: u64,
        /// The bytes.
        2 => one bytes: Bytes<MAX_DATA_BYTES>,
        /// Whether this is the last stretch.
        3 => one last: bool,
    }
}

record! {
    /// "Claim that this key gave this output." All its Blobs must have been written.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Publish, check Publish::check {
        /// Chosen by the client.
        1 => one id: u64,
        /// The Project.
        2 => one project: Project,
        /// The Recipe.
        3 => one recipe: Recipe,
        /// The tool's own key.
        4 => one key: Bytes<MAX_KEY_BYTES>,
        /// What it gave.
        5 => one output: Output,
        /// For people and for collection.
        6 => one labels: Labels,
        /// What must be admitted about it, in ascending order.
        7 => many(MAX_TAINTS) taints: Taint,
    }
}

impl Publish {
    fn check(&self) -> Result<(), &'static str> {
        check_taints(&self.taints)
    }
}

record! {
    /// "This is a unit of a build of many." It is not answered. From it the daemon learns what such a build will ask for.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Note {
        /// The build: a name that no other one has, until the system starts anew.
        1 => one build: Text<MAX_UNIT_BYTES>,
        /// The process that runs it: when it is gone, the build has ended.
        2 => one pid: u64,
        /// The Project.
        3 => one project: Project,
        /// The unit: a name that is the same when its sources have changed.
        4 => one unit: Text<MAX_UNIT_BYTES>,
        /// The Recipe of its key.
        5 => one recipe: Recipe,
        /// Its key.
        6 => one key: Bytes<MAX_UNIT_KEY_BYTES>,
        /// Of the build's first unit: what all builds have in common that ask for the same units.
        7 => opt plan: Bytes<MAX_UNIT_KEY_BYTES>,
    }
}

record! {
    /// "Do this." It is answered by [`Reply::Progress`], any number, and then by one [`Reply::Report`].
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Work {
        /// Chosen by the client.
        1 => one id: u64,
        /// What.
        2 => one job: Job,
    }
}

record! {
    /// "Give me a bundle." It is answered by stretches of [`Reply::Data`], none of which is the last, and then by one
    /// [`Reply::Report`] on what went in.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Export {
        /// Chosen by the client.
        1 => one id: u64,
        /// Only what belongs to Projects that this pattern covers.
        2 => opt project: Text<MAX_PATTERN_BYTES>,
        /// Only what a toolchain made whose name, as in [`Labels`], begins like this.
        3 => opt toolchain: Text<64>,
    }
}

record! {
    /// "Why was that look-up answered as it was?"
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Why {
        /// Chosen by the client.
        1 => one id: u64,
        /// The action; the one that was looked for last when absent.
        2 => opt action: ActionId,
    }
}

record! {
    /// A file that the client has open. The daemon opens it by its path, and goes on only if that is the same one: in
    /// another container it may not be.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct FileAt {
        /// An absolute path.
        1 => one path: Bytes<MAX_PATH_BYTES>,
        /// Its device and inode as the client sees it.
        2 => one device: u64,
        /// See `device`.
        3 => one inode: u64,
    }
}

record! {
    /// "Store the content of this file."
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Take {
        /// Chosen by the client.
        1 => one id: u64,
        /// The file.
        2 => one file: FileAt,
    }
}

record! {
    /// "Write this Blob to this file", which is empty.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Give {
        /// Chosen by the client.
        1 => one id: u64,
        /// The Blob.
        2 => one digest: Digest,
        /// The file.
        3 => one file: FileAt,
    }
}

choice! {
    /// From a client to the daemon.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Request {
        /// The first message.
        0 => Greeting(Greeting),
        /// What is going on?
        1 => Status(Plain),
        /// Please end.
        2 => Stop(Plain),
        /// The door: look-up.
        3 => Lookup(Lookup),
        /// The door: missing.
        4 => Missing(Missing),
        /// The door: read.
        5 => Read(Read),
        /// The door: write, stretch by stretch.
        6 => Write(Data),
        /// The door: publish.
        7 => Publish(Publish),
        /// The answer to this id is no longer wanted.
        8 => Forget(Plain),
        /// Something that takes long.
        9 => Work(Work),
        /// Everything that is wanted, as one stream of bytes.
        10 => Export(Export),
        /// A bundle, stretch by stretch; answered as [`Request::Work`] is.
        11 => Import(Data),
        /// Look at the files of the home now: Networks may have come or gone. Answered by a [`Reply::Report`] once they
        /// are entered and left.
        12 => Refresh(Plain),
        /// Why was a look-up answered so? Answered by a [`Reply::Report`].
        13 => Why(Why),
        /// The door: write, from a file. Answered by [`Reply::Written`]; refused with [`Failure::Usage`] when the daemon
        /// cannot get at the file.
        14 => Take(Take),
        /// The door: read, to a file. Answered in the same way.
        15 => Give(Give),
        /// What a build is about to ask for. Not answered.
        16 => Note(Note),
    }
}

impl Message for Request {
    /// A look-up of many long keys must be split; nothing a real tool sends comes near.
    const MAX_BYTES: usize = 1 << 20;
}

record! {
    /// The first message of the daemon.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Welcome {
        /// [`VERSION`].
        1 => one version: u64,
        /// The daemon's process.
        2 => one pid: u64,
    }
}

record! {
    /// A report for people and scripts.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Report {
        /// The id of the request.
        1 => one id: u64,
        /// One JSON object.
        2 => one json: Bytes<MAX_REPORT_BYTES>,
    }
}

code! {
    /// Why a key has no answer. A miss is an answer, not an error.
    pub enum Miss {
        /// Nobody whom the policy believes claims it.
        0 => Unclaimed,
        /// Claims were found, and the policy refused them all.
        1 => Refused,
        /// It is claimed, but not everything that it names can be delivered.
        2 => Undeliverable,
        /// It was not settled in time; the search goes on for the next asker.
        3 => Late,
        /// Fetching would take longer than building.
        4 => NotWorthIt,
        /// The cache is not working, which is no reason for the tool to stop.
        5 => Broken,
    }
}

choice! {
    /// What a look-up found under one key.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Answer {
        /// An output, all of which can be delivered.
        0 => Hit(Output),
        /// Nothing, and why.
        1 => Miss(Miss),
    }
}

record! {
    /// The answer to a [`Lookup`], one for each key and in the same order.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Answers {
        /// The id of the request.
        1 => one id: u64,
        /// They.
        2 => many(MAX_KEYS) answers: Answer,
    }
}

record! {
    /// The end of a [`Data`] that the client wrote.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Written {
        /// The id of the request.
        1 => one id: u64,
        /// The Blob's name.
        2 => one digest: Digest,
        /// Its size in bytes.
        3 => one size: u64,
    }
}

record! {
    /// The answer to a [`Publish`]: it is safe, by the durability that was asked for.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Published {
        /// The id of the request.
        1 => one id: u64,
        /// The name of the Entry that now stands: the Digest of its payload.
        2 => one entry: Digest,
    }
}

code! {
    /// What kind of thing went wrong, by the table of exit codes.
    pub enum Failure {
        /// Anything else.
        1 => Failed,
        /// The request makes no sense.
        2 => Usage,
        /// What was asked for is not there.
        3 => NotFound,
        /// The policy says no.
        4 => Refused,
    }
}

record! {
    /// A request could not be carried out.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Failed {
        /// The id of the request.
        1 => one id: u64,
        /// What kind of thing went wrong.
        2 => one kind: Failure,
        /// What went wrong, as one sentence.
        3 => one message: Text<512>,
        /// What to do about it.
        4 => opt hint: Text<512>,
    }
}

choice! {
    /// From the daemon to a client.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Reply {
        /// The first message.
        0 => Welcome(Welcome),
        /// The answer to a status request.
        1 => Report(Report),
        /// The answer to a request to stop: it will.
        2 => Stopping(Plain),
        /// The answer to a look-up.
        3 => Answers(Answers),
        /// The Blobs that can not be delivered.
        4 => Missing(Missing),
        /// A stretch of a Blob that is read.
        5 => Data(Data),
        /// The end of a write.
        6 => Written(Written),
        /// The answer to a publication.
        7 => Published(Published),
        /// The answer to anything that failed.
        8 => Failed(Failed),
        /// How far a piece of work is. More follows.
        9 => Progress(Report),
    }
}

impl Message for Reply {
    const MAX_BYTES: usize = MAX_REPORT_BYTES + 64;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::entry::TreeOutput;
    use crate::frame::frame;

    #[test]
    fn the_largest_replies_fit_their_frame() {
        let json = Bytes::new(vec![b' '; MAX_REPORT_BYTES]).unwrap();
        assert!(frame(&Reply::Report(Report { id: u64::MAX, json })).is_ok());
        let max = u64::MAX >> 24;
        let tree = TreeOutput { digest: Digest::of(b""), size: max, members: 1_000_000, total: max };
        let answers = vec![Answer::Hit(Output::Tree(tree)); MAX_KEYS];
        assert!(frame(&Reply::Answers(Answers { id: u64::MAX, answers })).is_ok());
        let bytes = Bytes::new(vec![0; MAX_DATA_BYTES]).unwrap();
        assert!(frame(&Request::Write(Data { id: u64::MAX, bytes, last: true })).is_ok());
    }

    #[test]
    fn what_goes_beyond_a_bound_is_refused() {
        let read = |offset, len| {
            let read = Request::Read(Read { id: 1, digest: Digest::of(b""), offset, len });
            decode::<Request>(&encode(&read), usize::MAX).is_ok()
        };
        assert!(read(0, None) && read(MAX_BLOB_BYTES, None) && read(MAX_BLOB_BYTES - 1, Some(1)));
        assert!(!read(MAX_BLOB_BYTES, Some(1)) && !read(u64::MAX, Some(u64::MAX)));
        let missing = |count| {
            let request = Request::Missing(Missing { id: 1, digests: vec![Digest::of(b""); count] });
            decode::<Request>(&encode(&request), usize::MAX).is_ok()
        };
        assert!(missing(MAX_KEYS) && !missing(MAX_KEYS + 1));
    }
}
