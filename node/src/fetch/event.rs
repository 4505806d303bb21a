// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can happen to a search or a transfer, and what can be done about it.

use std::time::Duration;

use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::control::Miss;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Topic;

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
    /// The peer has not got it, or is busy, or went away.
    Failed,
    /// A piece was not what the Digest names.
    Bad,
    /// The Blob could not be kept here, which is nobody's fault out there.
    NoRoom,
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
    /// Blobs are wanted that holders of a topic have, such as the parts of a Catalog.
    Bring {
        /// Chosen by the driver.
        bring: u64,
        /// The topic.
        topic: Topic,
        /// They.
        blobs: Vec<Need>,
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
    /// Fetch a Blob.
    Fetch {
        /// For [`Event::Brought`].
        transfer: u64,
        /// From whom.
        peer: Peer,
        /// Which.
        need: Need,
    },
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
