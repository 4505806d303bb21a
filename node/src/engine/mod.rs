// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only place that joins store, index, policy and fetching.
//!
//! * this file: the engine itself, and what is known about an action *here*;
//! * [`door`]: the Cache, as tools see it;
//! * [`newest`]: keys of which the newest claim counts;
//! * [`packed`]: Blobs as they are stored, for tools that unpack by themselves;
//! * [`publish`]: own Entries and Catalogs;
//! * [`answer`]: what peers say, judged, and what they are told;
//! * [`trusting`]: the policy as it stands now, read again when its files change;
//! * [`doubt`]: claims that are not believed whoever signed them, and [`audit`]: who claims what, and who disagrees;
//! * [`count`]: what is counted for people;
//! * [`trace`] and [`why`]: what look-ups went through, and why they were answered so.

pub mod answer;
pub mod audit;
mod behind;
mod claiming;
pub mod count;
pub mod door;
pub mod doubt;
pub mod newest;
pub mod packed;
pub mod publish;
mod reading;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod trusting;
pub mod why;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread;
use std::time::Duration;

use potluck_keys::pair::Signer;
use potluck_keys::policy::{Policy, Reason, Want};
use potluck_keys::signed::Signed;
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Entry, Output, claim_digest};
use potluck_protocol::head::Instance;
use potluck_protocol::peer::Topic;
use potluck_protocol::tree::{Kind, Tree};
use tokio::sync::{Semaphore, mpsc};

use crate::cache::CacheError;
use crate::catalog::followed::Followed;
use crate::config::Config;
use crate::fetch::event::{Need, Space};
use crate::gc::driver::Collector;
use crate::gc::protect::{Hold, Protected};
use crate::gc::score::Standing;
use crate::gc::uses::Uses;
use crate::home::{Home, HomeError};
use crate::index::{Contradiction, IndexError, View, set_aside};
use crate::observe::{clock, span};
use crate::plan::Moment;
use crate::store::{Store, StoreError};
use crate::trust::TrustError;
use count::{Counts, ProjectRow};
use doubt::{DoubtError, Doubts};
use trace::Traces;
use trusting::{Own, Trusting};

/// Largest Tree that is taken, in bytes as encoded: that of a hundred thousand members.
pub const MAX_TREE_BYTES: u64 = 16 << 20;

/// Most Entries about an action that are judged without going to a thread that may block.
const SOON_ENTRIES: usize = 4;
/// Most members of a Tree that are looked for there.
const SOON_MEMBERS: u64 = 16;
/// Most Blobs that one thread looks for while others could help.
const FEW_NEEDS: usize = 1024;
/// Threads that look for the Blobs of one Tree.
const NEED_THREADS: usize = 4;

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
    /// What is not to be believed.
    #[error(transparent)]
    Doubt(#[from] DoubtError),
    /// The index could not be put aside.
    #[error("cannot put the index {path} aside: {source}", path = .path.display())]
    Aside {
        /// The index.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Puts the index of a home aside, so that the next opening begins an empty one; Blobs in files of their own stay. The
/// node becomes another instance of its Signer: the numbers of its Heads were in the index, and those who follow it
/// would take a Head with a lower one for an attempt to turn the clock back.
///
/// # Errors
/// [`EngineError`].
pub fn new_index(home: &Home) -> Result<(), EngineError> {
    let path = home.root().join("store/index.redb");
    // First the instance: another one with the old index does no harm, the old one with a new index would.
    home.renew_instance()?;
    let aside = set_aside(&path).map_err(|source| EngineError::Aside { path, source })?;
    if let Some(aside) = aside {
        tracing::warn!(path = %aside.display(), "the index was put aside, and an empty one begun");
    }
    Ok(())
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

    /// The same for somebody who is likely to go: what is only for him ends when the answer is dropped.
    fn seek_ahead(&self, space: Space, actions: Vec<(ActionId, Vec<Topic>)>, deadline: Duration) -> Seeking {
        self.seek(space, actions, deadline)
    }
}

/// A search under way: one answer each, in the same order.
pub type Seeking = std::pin::Pin<Box<dyn Future<Output = Vec<Option<crate::cache::Miss>>> + Send>>;

/// The engine.
pub struct Engine {
    store: Store,
    config: Config,
    instance: Instance,
    own: Own,
    trusting: Trusting,
    doubts: Doubts,
    followed: RwLock<Followed>,
    shared: RwLock<BTreeSet<Project>>,
    counts: Counts,
    claiming: claiming::Claiming,
    behind: Arc<behind::Behind>,
    /// Places for large values that come into memory.
    coming: Semaphore,
    traces: Traces,
    seeker: OnceLock<Arc<dyn Seeker>>,
    news: OnceLock<mpsc::Sender<News>>,
    /// The topics of which it was told that they are held: it is news once.
    held: Mutex<BTreeSet<Topic>>,
    /// The Projects of which it was told that something was published, and whose Catalogs were not written since.
    unlisted: Mutex<BTreeSet<Project>>,
    uses: Uses,
    collector: OnceLock<Arc<Collector>>,
    /// Held while an own Catalog is replaced: the numbers of its Heads must never be given twice.
    catalogs: Mutex<()>,
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
        let config = home.config()?;
        let (store, swept) =
            Store::open_with(&home.root().join("store"), config.store.free_floor, Protected::default())?;
        if swept.removed > 0 {
            tracing::info!(
                files = swept.removed,
                bytes = swept.removed_bytes,
                "swept what was left unfinished"
            );
        }
        Self::over(home, store, config)
    }

    /// The engine of a home over a store that is open.
    pub(crate) fn over(home: &Home, store: Store, config: Config) -> Result<Self, EngineError> {
        Ok(Self {
            store,
            config,
            instance: home.instance()?,
            own: Own::of(home)?,
            trusting: Trusting::of(home)?,
            doubts: Doubts::of(home.root())?,
            followed: RwLock::default(),
            shared: RwLock::default(),
            counts: Counts::default(),
            traces: Traces::default(),
            seeker: OnceLock::new(),
            news: OnceLock::new(),
            held: Mutex::default(),
            unlisted: Mutex::default(),
            uses: Uses::default(),
            collector: OnceLock::new(),
            catalogs: Mutex::default(),
            claiming: claiming::Claiming::default(),
            behind: Arc::default(),
            coming: Semaphore::new(newest::COMING),
        })
    }

    /// Connects the engine with the outside; only the first call counts.
    pub fn connect(&self, seeker: Arc<dyn Seeker>, news: mpsc::Sender<News>) {
        let _ = self.seeker.set(seeker);
        let _ = self.news.set(news);
    }

    /// Says who makes room here; only the first call counts.
    pub fn collect_by(&self, collector: Arc<Collector>) {
        let _ = self.collector.set(collector);
    }

    /// Who makes room here, if anybody does.
    pub fn collector(&self) -> Option<&Arc<Collector>> {
        self.collector.get()
    }

    /// When Entries were used.
    pub fn uses(&self) -> &Uses {
        &self.uses
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

    /// What is not believed, whoever signed it.
    pub fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    /// What is counted.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What the last look-ups went through.
    pub fn traces(&self) -> &Traces {
        &self.traces
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

    pub(crate) fn tell(&self, news: News) {
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
        if !self.store.index().maybe(action) {
            return Ok(Known::Nothing);
        }
        let view = self.store.index().view()?;
        let entries = view.entries(action)?;
        self.judge(&view, (space, action), &entries)
    }

    /// The same where it may not block, or nothing when it might take longer than going to a thread that may. That
    /// there is no Entry is known from memory. A few Entries whose outputs are Blobs or Trees of a few files are read
    /// here: that takes some microseconds from the page cache, and being woken on another thread takes several times
    /// that. When a page must come from a disk, one of the runtime's threads waits for that one read, as it would for
    /// any page of the program itself. redb's readers never wait for a commit that is under way.
    ///
    /// With `since`, what began then is judged; see [`Trusting::now_since`].
    fn known_at_once(
        &self,
        (space, action): (&Space, &ActionId),
        since: Option<Moment>,
    ) -> Option<Result<Known, StoreError>> {
        if !self.store.index().maybe(action) {
            return Some(Ok(Known::Nothing));
        }
        let judged = || {
            let view = self.store.index().view()?;
            let entries = view.entries(action)?;
            if entries.len() > SOON_ENTRIES || !entries.iter().all(is_soon) {
                return Ok(None);
            }
            let policy = || since.map_or_else(|| self.trusting.now(), |since| self.trusting.now_since(since));
            self.judge_by((&view, &policy), (space, action), &entries).map(Some)
        };
        judged().transpose()
    }

    /// What these claims amount to.
    pub(crate) fn judge(
        &self,
        view: &View<'_>,
        of: (&Space, &ActionId),
        entries: &[Signed<Entry>],
    ) -> Result<Known, StoreError> {
        if entries.is_empty() {
            return Ok(Known::Nothing);
        }
        self.judge_by((view, &|| self.trusting.now()), of, entries)
    }

    /// The same by this policy, which is asked for only where it counts.
    fn judge_by(
        &self,
        (view, policy): (&View<'_>, &dyn Fn() -> Arc<Policy>),
        (space, action): (&Space, &ActionId),
        entries: &[Signed<Entry>],
    ) -> Result<Known, StoreError> {
        if entries.is_empty() {
            return Ok(Known::Nothing);
        }
        if let Some(rest) = self.doubts.without(entries) {
            let known = self.judge_by((view, policy), (space, action), &rest)?;
            return Ok(if let Known::Nothing = known { Known::Refused } else { known });
        }
        if newest::counts(&space.recipe) {
            return self.judge_newest((view, policy), (space, action), entries);
        }
        let now = clock::now();
        let want = want(space, action);
        let mut lacking = None;
        // What was made here needs nobody's permission; what others made needs the owner's, whose files are looked at only
        // then.
        for own in [true, false] {
            let owner;
            let policy = if own {
                self.own.policy()
            } else {
                owner = policy();
                &owner
            };
            let choice = policy.choose(entries, &want, now);
            for found in &choice.equivocations {
                let (earlier, later) = (claim_digest(found.earlier), claim_digest(found.later));
                self.counts
                    .contradicted((found.signer, *action), Contradiction { earlier, later, seen: now });
            }
            if let Ok(trusted) = choice.outcome {
                let blobs = self.lacks(view, &trusted.output, Some(Hold::Promise))?;
                let output = trusted.output.clone();
                if blobs.is_empty() {
                    return Ok(Known::Here(output));
                }
                let cost = Duration::from_millis(trusted.labels.cost_ms.unwrap_or(0));
                lacking = Some(Known::Lacks { output, blobs, cost });
            }
        }
        Ok(lacking.unwrap_or(Known::Refused))
    }

    /// What this node has signed itself it believes by this policy.
    pub(crate) fn own(&self) -> &Own {
        &self.own
    }

    /// How an Entry stands by the policy and the clock of the present. One that lacks the agreement of others may get it.
    pub fn standing_of(&self, policy: &Policy, entry: &Signed<Entry>, now: Time) -> Standing {
        let Ok(claim) = entry.authentic() else { return Standing::Refused };
        if claim.not_after < now {
            return Standing::Expired;
        }
        let recipe = Some(claim.recipe.as_str());
        let want = Want { project: claim.project.as_str(), recipe, subject: claim.action.as_bytes() };
        let refuses = |policy: &Policy| {
            let refusal = policy.judge(entry, &want, now).err();
            refusal.is_some_and(|refusal| !matches!(refusal.reason, Reason::TooFew { .. }))
        };
        if refuses(self.own.policy()) && refuses(policy) { Standing::Refused } else { Standing::Good }
    }

    /// Which Blobs of an output are not here; the others stay for a while if they are held. When a Tree's own Blob is missing, what it
    /// lists is not known yet.
    pub(crate) fn lacks(
        &self,
        view: &View<'_>,
        output: &Output,
        hold: Option<Hold>,
    ) -> Result<Vec<Need>, StoreError> {
        let here = |need: &Need| match hold {
            Some(hold) => self.store.holds_sized(view, (&need.digest, need.size), hold),
            None => self.store.has_in(view, &need.digest),
        };
        let Output::Tree(own) = output else {
            let need = Need { digest: *output.digest(), size: output_bytes(output) };
            return Ok(if here(&need)? { Vec::new() } else { vec![need] });
        };
        let own = Need { digest: own.digest, size: own.size };
        if !here(&own)? {
            return Ok(vec![own]);
        }
        let Some(tree) = self.tree_in(view, &own.digest)? else { return Ok(vec![own]) };
        let needs: BTreeSet<_> = files(&tree).collect();
        if hold == Some(Hold::Publish)
            && self.store.protected().enter_all(needs.iter().map(|need| &need.digest), Hold::Publish)
        {
            return self.absent(&needs.into_iter().collect::<Vec<_>>());
        }
        let mut lacks = Vec::new();
        for need in needs {
            if !here(&need)? {
                lacks.push(need);
            }
        }
        Ok(lacks)
    }

    /// Which of these are not here. All of them were entered before: what is here will stay. Many are looked for by
    /// several threads, since whoever publishes waits for it.
    fn absent(&self, needs: &[Need]) -> Result<Vec<Need>, StoreError> {
        let some = &|needs: &[Need]| {
            let view = self.store.index().view()?;
            let absent = |need: &Need| {
                let here = self.store.has_sized(&view, (&need.digest, need.size))?;
                Ok((!here).then_some(*need))
            };
            needs.iter().filter_map(|need| absent(need).transpose()).collect::<Result<Vec<_>, StoreError>>()
        };
        let threads = span::cores().min(NEED_THREADS);
        let (first, rest) = needs.split_at(needs.len().div_ceil(threads).max(FEW_NEEDS).min(needs.len()));
        thread::scope(|scope| {
            let others = rest.chunks(first.len().max(1)).map(|needs| scope.spawn(move || some(needs)));
            let others: Vec<_> = others.collect();
            let mut absent = some(first)?;
            for other in others {
                absent.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(absent)
        })
    }

    /// The Tree of a Digest, if it is here and is one.
    pub(crate) fn tree(&self, digest: &Digest) -> Result<Option<Tree>, StoreError> {
        // Whoever counts on it has said so already.
        let bytes = self.store.peek_bytes(digest, MAX_TREE_BYTES)?;
        Ok(bytes.and_then(|bytes| Tree::decode(&bytes).ok()))
    }

    /// The same by a view, which most of them are in.
    fn tree_in(&self, view: &View<'_>, digest: &Digest) -> Result<Option<Tree>, StoreError> {
        match view.small(digest)? {
            Some(bytes) if Digest::of(&bytes) == *digest => Ok(Tree::decode(&bytes).ok()),
            _ => self.tree(digest),
        }
    }

    /// Makes durable what was to be so soon, and with it what was counted and, now and then or at the last occasion,
    /// what was used. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn settle(&self, last: bool) -> Result<(), StoreError> {
        let index = self.store.index();
        self.uses.write(index, last)?;
        let (tallies, contradictions) = self.counts.take();
        if !tallies.is_empty() || !contradictions.is_empty() {
            let noted = index.note(&tallies, &contradictions);
            if noted.is_err() {
                self.counts.put_back(tallies, contradictions);
            }
            noted?;
        }
        Ok(index.settle()?)
    }

    /// What was counted for each Project and Recipe, ever since the index was made. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tallies(&self) -> Result<Vec<ProjectRow>, StoreError> {
        Ok(self.counts.with_kept(self.store.index().tallies()?))
    }
}

/// Whether looking for the output of an Entry is a matter of microseconds.
fn is_soon(entry: &Signed<Entry>) -> bool {
    entry.authentic().is_ok_and(|entry| match &entry.output {
        Output::Blob(_) => true,
        Output::Tree(tree) => tree.members <= SOON_MEMBERS,
    })
}

/// How many bytes an output has, unpacked.
pub(crate) fn output_bytes(output: &Output) -> u64 {
    match output {
        Output::Blob(blob) => blob.size,
        Output::Tree(tree) => tree.total,
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
