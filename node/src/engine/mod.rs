// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only place that joins store, index, policy and fetching.
//!
//! * this file: the engine itself, and what is known about an action *here*;
//! * [`door`]: the Cache, as tools see it;
//! * [`publish`]: own Entries and Catalogs;
//! * [`answer`]: what peers say, judged, and what they are told;
//! * [`trusting`]: the policy as it stands now, read again when its files change;
//! * [`count`]: what is counted for people.

pub mod answer;
pub mod count;
pub mod door;
pub mod publish;
#[cfg(test)]
mod tests;
pub mod trusting;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use potluck_keys::pair::Signer;
use potluck_keys::policy::{Refusal, Want};
use potluck_keys::signed::Signed;
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Entry, Output};
use potluck_protocol::head::Instance;
use potluck_protocol::peer::Topic;
use potluck_protocol::tree::{Kind, Tree};
use tokio::sync::mpsc;

use crate::cache::CacheError;
use crate::catalog::followed::Followed;
use crate::fetch::event::{Need, Space};
use crate::home::{Home, HomeError};
use crate::index::IndexError;
use crate::observe::clock;
use crate::store::{Store, StoreError};
use crate::trust::TrustError;
use count::Counts;
use trusting::{Own, Trusting};

/// Largest Tree that is taken, in bytes as encoded: that of a hundred thousand members.
pub const MAX_TREE_BYTES: u64 = 16 << 20;

/// Why the engine could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The policy.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<IndexError> for EngineError {
    fn from(error: IndexError) -> Self {
        Self::Store(error.into())
    }
}

/// What an own publication is followed by.
#[derive(Debug, Clone)]
pub enum News {
    /// An Entry was stored.
    Published(Project),
    /// Entries of this topic are held now, and can be passed on.
    Holds(Topic),
}

/// Looks for actions among peers. Without Networks there is none.
pub trait Seeker: Send + Sync {
    /// Looks for actions that followed Catalogs list; gives for each whether it is here now, or why not.
    fn seek(&self, space: Space, actions: Vec<(ActionId, Vec<Topic>)>, deadline: Duration) -> Seeking;
}

/// A search under way: one answer each, in the same order.
pub type Seeking = std::pin::Pin<Box<dyn Future<Output = Vec<Option<crate::cache::Miss>>> + Send>>;

/// The engine.
pub struct Engine {
    store: Store,
    instance: Instance,
    own: Own,
    trusting: Trusting,
    followed: RwLock<Followed>,
    shared: RwLock<BTreeSet<Project>>,
    counts: Counts,
    seeker: OnceLock<Arc<dyn Seeker>>,
    news: OnceLock<mpsc::Sender<News>>,
}

/// What is known about an action here and now.
#[derive(Debug)]
pub enum Known {
    /// An acceptable claim, with everything that it names.
    Here(Output),
    /// An acceptable claim; these Blobs are missing, or at least these.
    Lacks {
        /// What it names.
        output: Output,
        /// The Blobs.
        blobs: Vec<Need>,
        /// How long making the output again would take.
        cost: Duration,
    },
    /// Claims, all refused.
    Refused,
    /// No claim.
    Nothing,
}

impl Engine {
    /// Opens the store of a home and reads its policy.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn open(home: &Home) -> Result<Self, EngineError> {
        let (store, swept) = Store::open(&home.root().join("store"))?;
        if swept.removed > 0 {
            tracing::info!(
                files = swept.removed,
                bytes = swept.removed_bytes,
                "swept what was left unfinished"
            );
        }
        Self::over(home, store)
    }

    /// The engine of a home over a store that is open.
    pub(crate) fn over(home: &Home, store: Store) -> Result<Self, EngineError> {
        Ok(Self {
            store,
            instance: home.instance()?,
            own: Own::of(home)?,
            trusting: Trusting::of(home)?,
            followed: RwLock::default(),
            shared: RwLock::default(),
            counts: Counts::default(),
            seeker: OnceLock::new(),
            news: OnceLock::new(),
        })
    }

    /// Connects the engine with the outside; only the first call counts.
    pub fn connect(&self, seeker: Arc<dyn Seeker>, news: mpsc::Sender<News>) {
        let _ = self.seeker.set(seeker);
        let _ = self.news.set(news);
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The policy.
    pub fn trusting(&self) -> &Trusting {
        &self.trusting
    }

    /// Who signs here, if anybody can.
    pub fn signer(&self) -> Option<Signer> {
        self.own.signer()
    }

    /// What is counted.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The Catalogs that are followed.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn followed(&self) -> std::sync::RwLockReadGuard<'_, Followed> {
        self.followed.read().expect("nobody panics while holding the catalogs")
    }

    /// The same, to be changed.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn followed_mut(&self) -> std::sync::RwLockWriteGuard<'_, Followed> {
        self.followed.write().expect("nobody panics while holding the catalogs")
    }

    /// Says which Projects are shared on some Network.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn share(&self, projects: BTreeSet<Project>) {
        *self.shared.write().expect("nobody panics while holding the projects") = projects;
    }

    /// The topics that the policy names in the Projects that are shared: whose Catalogs to follow.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn topics(&self) -> BTreeSet<Topic> {
        let policy = self.trusting.now();
        let shared = self.shared.read().expect("nobody panics while holding the projects");
        let mut topics = BTreeSet::new();
        for project in shared.iter() {
            let rules = policy.rules().rules.iter().filter(|rule| rule.project.covers(project.as_str()));
            for signer in rules.flat_map(|rule| &rule.accept) {
                topics.insert(Topic { signer: *signer, project: project.clone() });
            }
        }
        topics
    }

    fn tell(&self, news: News) {
        if let Some(to) = self.news.get() {
            // Whoever listens looks at everything when it starts, and is never far behind.
            let _ = to.try_send(news);
        }
    }

    /// What is known about an action, judged by the policy of now. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn known(&self, space: &Space, action: &ActionId) -> Result<Known, StoreError> {
        let entries = self.store.index().entries(action)?;
        self.judge(space, action, &entries).map(|(known, _)| known)
    }

    /// What these claims amount to, and the refusal when there is one.
    fn judge(
        &self,
        space: &Space,
        action: &ActionId,
        entries: &[Signed<Entry>],
    ) -> Result<(Known, Option<Refusal>), StoreError> {
        if entries.is_empty() {
            return Ok((Known::Nothing, None));
        }
        let now = clock::now();
        let want = want(space, action);
        let mut lacking = None;
        let policy = self.trusting.now();
        let mut refusal = None;
        // What was made here needs nobody's permission; what others made needs the owner's.
        for policy in [self.own.policy(), &policy] {
            match policy.choose(entries, &want, now).outcome {
                Ok(trusted) => {
                    let blobs = self.lacks(&trusted.output)?;
                    let output = trusted.output.clone();
                    if blobs.is_empty() {
                        return Ok((Known::Here(output), None));
                    }
                    let cost = Duration::from_millis(trusted.labels.cost_ms.unwrap_or(0));
                    lacking = Some(Known::Lacks { output, blobs, cost });
                }
                Err(why) => refusal = Some(why),
            }
        }
        Ok((lacking.unwrap_or(Known::Refused), refusal))
    }

    /// Which Blobs of an output are not here. When a Tree's own Blob is missing, what it lists is not known yet.
    pub(crate) fn lacks(&self, output: &Output) -> Result<Vec<Need>, StoreError> {
        let own = match output {
            Output::Blob(blob) => Need { digest: blob.digest, size: blob.size },
            Output::Tree(tree) => Need { digest: tree.digest, size: tree.size },
        };
        if !self.store.has(&own.digest)? {
            return Ok(vec![own]);
        }
        let Output::Tree(_) = output else { return Ok(Vec::new()) };
        let Some(tree) = self.tree(&own.digest)? else { return Ok(vec![own]) };
        let mut lacks = BTreeSet::new();
        for need in files(&tree) {
            if !self.store.has(&need.digest)? {
                lacks.insert(need);
            }
        }
        Ok(lacks.into_iter().collect())
    }

    /// The Tree of a Digest, if it is here and is one.
    pub(crate) fn tree(&self, digest: &Digest) -> Result<Option<Tree>, StoreError> {
        let bytes = self.store.bytes(digest, MAX_TREE_BYTES)?;
        Ok(bytes.and_then(|bytes| Tree::decode(&bytes).ok()))
    }
}

/// The question that an action is.
fn want<'a>(space: &'a Space, action: &'a ActionId) -> Want<'a> {
    let recipe = Some(space.recipe.as_str());
    Want { project: space.project.as_str(), recipe, subject: action.as_bytes() }
}

/// The Blobs of all files in a Tree.
pub(crate) fn files(tree: &Tree) -> impl Iterator<Item = Need> {
    tree.members().iter().filter_map(|member| match &member.kind {
        Kind::File { digest, size, .. } => Some(Need { digest: *digest, size: *size }),
        _ => None,
    })
}

impl From<StoreError> for CacheError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}
