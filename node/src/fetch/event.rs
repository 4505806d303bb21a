// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can happen to a search or a transfer, and what can be done about it.

use std::collections::BTreeSet;
use std::time::Duration;

use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::control::Miss;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::{MAX_INLINE_BYTES, Topic};

use super::bits::Bits;
use super::standing::Record;
use crate::peer::Peer;
use crate::plan::Moment;

/// What the keys of one search have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Space {
    /// The Project.
    pub project: Project,
    /// The Recipe.
    pub recipe: Recipe,
}

/// A Blob that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl Need {
    /// Whether it fits into a message with others.
    pub fn is_small(&self) -> bool {
        self.size <= MAX_INLINE_BYTES as u64
    }
}

/// What the claims about an action amount to, as judged now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// An acceptable one, and all it names is here.
    Here,
    /// An acceptable one; these Blobs are still to be brought.
    Needs {
        /// They; the list may grow once they are here.
        blobs: Vec<Need>,
        /// How long making the output again would take.
        cost: Duration,
    },
    /// There are some, and the policy refuses them all.
    Refused,
    /// There is none.
    Nothing,
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brought {
    /// The Blob is here, and checked.
    Done,
    /// All pieces that were asked for came, or it was told to stop; of the Blob others are still missing.
    Part,
    /// The peer has not got it, or not all that was asked for.
    NotThere,
    /// The peer sends as much as it wants to, and can be asked again later.
    Busy,
    /// The peer went away, or does not keep to the protocol.
    Failed,
    /// The peer has a Blob of another size under that name. Either it lies or the claim is wrong that this node goes by:
    /// which one, nobody knows before the last piece was checked.
    OtherSize,
    /// A piece was not what the Digest names.
    Bad,
    /// The Blob could not be kept here, which is nobody's fault out there.
    NoRoom,
}

/// What is here of a Blob of several pieces when somebody begins to need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// All of it.
    Here,
    /// These pieces, from an earlier run or none.
    Part(Bits),
}

/// Which pieces of a Blob a peer says that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Has {
    /// All.
    All,
    /// These, for now.
    Some(Bits),
}

/// What can happen.
#[derive(Debug)]
pub enum Event {
    /// A tool wants to know about actions, each listed in the Catalogs of these topics.
    Look {
        /// Chosen by the driver.
        look: u64,
        /// What they have in common.
        space: Space,
        /// The actions, each once.
        actions: Vec<(ActionId, Vec<Topic>)>,
        /// When the tool has waited long enough for somebody who has it.
        until: Moment,
    },
    /// Nobody wants to know any more what a look was about, and searches that were for it alone end at once.
    Leave {
        /// The look.
        look: u64,
    },
    /// Blobs are wanted that holders of a topic have, such as the parts of a Catalog.
    Bring {
        /// Chosen by the driver.
        bring: u64,
        /// The topic.
        topic: Topic,
        /// They.
        blobs: Vec<Need>,
        /// Who may have these as well, and may hold nothing of the topic.
        among: Vec<Peer>,
        /// When to give up.
        until: Moment,
    },
    /// These peers hold Entries of a topic.
    Holders {
        /// The topic.
        topic: Topic,
        /// They.
        peers: Vec<Peer>,
        /// Whether this is the end of an [`Action::Find`], which may have found nobody.
        sought: bool,
    },
    /// The answer to [`Action::FindBlob`]: these peers say that they have a Blob, whatever else they hold.
    Sources {
        /// The Blob.
        need: Need,
        /// They; perhaps nobody.
        peers: Vec<Peer>,
    },
    /// This peer went away.
    Gone(Peer),
    /// A question was answered, and what came was judged; actions that are left out are unknown there.
    Answered {
        /// The question.
        question: u64,
        /// What is now known about each action; nothing when no answer came at all.
        verdicts: Option<Vec<(ActionId, Verdict)>>,
    },
    /// The answer to [`Action::Review`].
    Reviewed {
        /// The action.
        action: ActionId,
        /// What is now known about it.
        verdict: Verdict,
    },
    /// The answer to [`Action::Open`].
    Opened {
        /// Which opening.
        open: u64,
        /// The Blob.
        need: Need,
        /// What is here of it; nothing when it cannot be kept here.
        opened: Option<Opened>,
        /// How others know this node, in each Network where it may be asked for.
        own: Vec<Peer>,
    },
    /// A peer says what it has of the Blob of a transfer, at first and whenever that grew.
    Has {
        /// The transfer.
        transfer: u64,
        /// What.
        has: Has,
    },
    /// A piece of a Blob of several pieces came by a transfer, was checked and is kept.
    Piece {
        /// The transfer.
        transfer: u64,
        /// Which.
        index: u64,
    },
    /// A transfer ended.
    Brought {
        /// The transfer.
        transfer: u64,
        /// How.
        outcome: Brought,
    },
    /// A Catalog of this topic moved: what nobody had a moment ago may be there now.
    Moved(Topic),
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask a peer.
    Ask {
        /// For [`Event::Answered`].
        question: u64,
        /// Whom.
        peer: Peer,
        /// What the actions have in common.
        space: Space,
        /// About these.
        actions: Vec<ActionId>,
    },
    /// Find out who holds Entries of a topic.
    Find(Topic),
    /// Find out who has a certain Blob, which the holders of its topics cannot give.
    FindBlob {
        /// Which.
        need: Need,
        /// In which Projects it is needed: it is asked for where one of those is shared.
        projects: BTreeSet<Project>,
    },
    /// See what is here of a Blob of several pieces, and make ready to take the others.
    Open {
        /// For [`Event::Opened`].
        open: u64,
        /// Which.
        need: Need,
        /// In which Projects it is needed: while it comes, its pieces may go where one of those is shared.
        projects: BTreeSet<Project>,
    },
    /// Fetch pieces of a Blob.
    Fetch {
        /// For [`Event::Brought`].
        transfer: u64,
        /// From whom.
        peer: Peer,
        /// Which Blob.
        need: Need,
        /// Which pieces, in the order in which they are wanted, at most [`super::spread::MAX_RUN`]; none to hear what the
        /// peer has as long as that grows. A Blob of one piece has piece 0.
        pieces: Vec<u64>,
    },
    /// What is left of a transfer is not wanted any more.
    Stop(u64),
    /// Nobody needs a Blob any more that was opened: what came of it stays for the next one who does.
    Close(Need),
    /// Keep what is known about peers for the next run.
    Remember(Vec<(Peer, Record)>),
    /// All Blobs asked for are here: see what is known about the action now.
    Review(Space, ActionId),
    /// Answer a tool.
    Settle {
        /// Which look.
        look: u64,
        /// About which action.
        action: ActionId,
        /// Nothing when it is here, or why not.
        miss: Option<Miss>,
    },
    /// All Blobs of a [`Event::Bring`] are here, or will not come.
    Delivered {
        /// Which.
        bring: u64,
        /// Whether all are here.
        all: bool,
    },
    /// Have nothing more to do with a peer.
    Drop(Peer),
}
