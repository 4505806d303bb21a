// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the drivers share: the Networks this node is in, what goes there, and the ways to the Plans. Nothing is
//! decided here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, Weak};
use std::time::Duration;

use potluck_keys::signed::Signed;
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::codec::Text;
use potluck_protocol::digest::Digest;
use potluck_protocol::head::{Head, Instance, Ledger, MAX_INSTANCES};
use potluck_protocol::peer::{Hello, MAX_TOPICS, Topic};
use tokio::sync::{mpsc, oneshot, watch};

use crate::cache::Miss;
use crate::catalog::evidence::{Evidence, Exhibit};
use crate::drive::Spot;
use crate::engine::{Engine, Seeker, Seeking};
use crate::fetch::event::{Need, Space};
use crate::fetch::plan::Fetch;
use crate::observe::{clock, span};
use crate::peer::Peer;
use crate::swarm::Handle;
use crate::{announce, catalog, fetch};

/// The ways to the Plans.
#[derive(Clone)]
pub struct Plans {
    /// Searches and transfers.
    pub fetch: mpsc::Sender<fetch::event::Event>,
    /// Catalogs.
    pub catalogs: mpsc::Sender<catalog::plan::Event>,
    /// Announcements.
    pub announce: mpsc::Sender<announce::plan::Event>,
}

/// Tools that wait, by the number of the look and the action.
type Looks = HashMap<(u64, ActionId), oneshot::Sender<Option<Miss>>>;

/// One Network with what changes about it.
struct Member {
    handle: Handle,
    shares: Mutex<BTreeSet<String>>,
    hello: watch::Sender<Hello>,
}

/// Of each machine the newest Head, with its sequence and who pushed it.
type Pushed = BTreeMap<Instance, (u64, (Signed<Head>, Peer))>;

/// What a peer said last, and on which of its streams.
struct Said {
    stream: u64,
    holds: BTreeSet<Topic>,
    follows: BTreeSet<Topic>,
}

/// A stream on which a peer says hello. When it ends, nothing that it said holds any more.
pub struct Hears<'a> {
    outside: &'a Outside,
    peer: &'a Peer,
    stream: u64,
}

impl Hears<'_> {
    /// The peer says what it holds and which news it wants, in place of what it said before.
    pub fn says(&self, holds: BTreeSet<Topic>, follows: BTreeSet<Topic>) {
        let said = Said { stream: self.stream, holds, follows };
        lock(&self.outside.said).insert(self.peer.clone(), said);
    }
}

impl Drop for Hears<'_> {
    fn drop(&mut self) {
        let mut said = lock(&self.outside.said);
        // A peer that connected again may have said it anew on another stream.
        if said.get(self.peer).is_some_and(|said| said.stream == self.stream) {
            said.remove(self.peer);
        }
    }
}

/// All of it.
pub struct Outside {
    engine: Arc<Engine>,
    plans: Plans,
    members: RwLock<BTreeMap<Arc<str>, Arc<Member>>>,
    looks: Mutex<Looks>,
    brings: Mutex<HashMap<u64, oneshot::Sender<bool>>>,
    next: AtomicU64,
    /// Heads that peers pushed and nobody has looked at yet.
    pushed: Mutex<BTreeMap<Topic, Pushed>>,
    /// What peers said in their hello.
    said: Mutex<BTreeMap<Peer, Said>>,
    holds: Mutex<BTreeSet<Topic>>,
    ledger: Mutex<Ledger>,
    evidence: Mutex<Evidence>,
    /// The fetch Plan, as long as it runs.
    fetching: OnceLock<Weak<Spot<Fetch>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding this lock")
}

impl Outside {
    /// Joins the engine and the Plans, in no Network yet. The ledger holds the Heads seen in earlier runs.
    pub fn new(engine: Arc<Engine>, plans: Plans, ledger: Ledger) -> Arc<Self> {
        Arc::new(Self {
            engine,
            plans,
            members: RwLock::default(),
            looks: Mutex::default(),
            brings: Mutex::default(),
            next: AtomicU64::new(1),
            pushed: Mutex::default(),
            said: Mutex::default(),
            holds: Mutex::default(),
            ledger: Mutex::new(ledger),
            evidence: Mutex::default(),
            fetching: OnceLock::new(),
        })
    }

    /// This Plan searches and fetches; only the first call counts.
    pub fn fetches(&self, plan: &Arc<Spot<Fetch>>) {
        let _ = self.fetching.set(Arc::downgrade(plan));
    }

    /// Tells the fetch Plan what happened, on the spot where it runs already. Gives whether anybody hears it.
    pub async fn fetch(&self, event: fetch::event::Event) -> bool {
        match self.fetching.get() {
            None => self.plans.fetch.send(event).await.is_ok(),
            Some(plan) => plan.upgrade().map(|plan| plan.feed(event)).is_some(),
        }
    }

    /// This node is in a Network from now on, where nothing is shared yet.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn enter(&self, handle: Handle) {
        let name = Arc::from(handle.network().name.as_str());
        let member = Member { handle, shares: Mutex::default(), hello: watch::Sender::new(Hello::default()) };
        let mut members = self.members.write().expect("nobody panics while holding the networks");
        members.insert(name, Arc::new(member));
    }

    /// It is no longer, and what peers said there is forgotten; gives who said anything.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn leave(&self, network: &str) -> BTreeSet<Peer> {
        self.members.write().expect("nobody panics while holding the networks").remove(network);
        let mut said = lock(&self.said);
        let gone: BTreeSet<_> = said.keys().filter(|peer| &*peer.network == network).cloned().collect();
        said.retain(|peer, _| !gone.contains(peer));
        gone
    }

    fn members(&self) -> Vec<Arc<Member>> {
        let members = self.members.read().expect("nobody panics while holding the networks");
        members.values().cloned().collect()
    }

    fn member(&self, network: &str) -> Option<Arc<Member>> {
        self.members.read().expect("nobody panics while holding the networks").get(network).cloned()
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The ways to the Plans.
    pub fn plans(&self) -> &Plans {
        &self.plans
    }

    /// All Networks.
    pub fn networks(&self) -> Vec<Handle> {
        self.members().iter().map(|member| member.handle.clone()).collect()
    }

    /// The Network of that name.
    pub fn network(&self, name: &str) -> Option<Handle> {
        self.member(name).map(|member| member.handle.clone())
    }

    /// The Networks on which a Project is shared.
    pub fn networks_of(&self, project: &Project) -> Vec<Handle> {
        let mut members = self.members();
        members.retain(|member| lock(&member.shares).contains(project.as_str()));
        members.iter().map(|member| member.handle.clone()).collect()
    }

    /// Whether a Project is shared on a Network.
    pub fn shares(&self, network: &str, project: &str) -> bool {
        self.member(network).is_some_and(|member| lock(&member.shares).contains(project))
    }

    /// Takes over what is shared on a Network now; gives what was until now.
    pub fn set_shares(&self, network: &str, shares: BTreeSet<String>) -> BTreeSet<String> {
        let member = self.member(network);
        member.map(|member| std::mem::replace(&mut *lock(&member.shares), shares)).unwrap_or_default()
    }

    /// Every Project that is shared anywhere.
    pub fn shared(&self) -> BTreeSet<Project> {
        let members = self.members();
        let names = members.iter().flat_map(|member| lock(&member.shares).clone());
        names.filter_map(|name| Project::new(&name).ok()).collect()
    }

    /// A number that nobody else got.
    pub fn turn(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A Head was refused as going back, contradicting or having ended.
    pub fn refused(&self, exhibit: Exhibit) {
        let who = self.engine.trusting().now().name_of(&exhibit.topic.signer);
        self.engine.counts().refused(exhibit.offence.word(), &who);
        let from = exhibit.from.as_ref().map(ToString::to_string);
        tracing::warn!(signer = who, project = %exhibit.topic.project, reason = exhibit.offence.word(), from, "a head was refused");
        lock(&self.evidence).note(exhibit);
    }

    /// Takes over what an earlier run kept of such Heads.
    pub fn recall(&self, evidence: Evidence) {
        *lock(&self.evidence) = evidence;
    }

    /// What the next run is to know of them, as bytes of a file, if anything changed since this was asked last.
    pub fn new_evidence(&self) -> Option<Vec<u8>> {
        lock(&self.evidence).changed()
    }

    /// Heads that were refused so.
    pub fn evidence(&self) -> Vec<Exhibit> {
        lock(&self.evidence).all().cloned().collect()
    }

    /// The Heads seen so far.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Notes that Entries of a topic are held here; gives whether that is news.
    pub fn hold(&self, topic: &Topic) -> bool {
        lock(&self.holds).insert(topic.clone())
    }

    /// The topics of a Project of which Entries are held here.
    pub fn held(&self, project: &str) -> Vec<Topic> {
        lock(&self.holds).iter().filter(|topic| topic.project.as_str() == project).cloned().collect()
    }

    /// Whether Entries of a topic are held here.
    pub fn holds(&self, topic: &Topic) -> bool {
        lock(&self.holds).contains(topic)
    }

    /// Says hello anew wherever that changed: what is held and followed, of what is shared there.
    pub fn greet(&self) {
        let (holds, follows) = (lock(&self.holds).clone(), self.engine.topics());
        for member in self.members() {
            let shares = lock(&member.shares).clone();
            let there = |topics: &BTreeSet<Topic>| {
                let topics = topics.iter().filter(|topic| shares.contains(topic.project.as_str()));
                topics.take(MAX_TOPICS).cloned().collect()
            };
            let agent = Text::new(concat!("potluck/", env!("CARGO_PKG_VERSION")));
            let hello = Hello { agent, holds: there(&holds), follows: there(&follows) };
            member.hello.send_if_modified(|now| std::mem::replace(now, hello.clone()) != hello);
        }
    }

    /// What to say in a Network as hello, now and whenever it changes.
    pub fn hello(&self, network: &str) -> Option<watch::Receiver<Hello>> {
        self.member(network).map(|member| member.hello.subscribe())
    }

    /// Begins to hear a peer's hello.
    pub fn hears<'a>(&'a self, peer: &'a Peer) -> Hears<'a> {
        Hears { outside: self, peer, stream: self.turn() }
    }

    /// Who wants the news of a topic, of those in whose Network it is shared.
    pub fn listeners(&self, topic: &Topic) -> Vec<Peer> {
        self.who_says(topic, |said| &said.follows)
    }

    /// Who says that it holds a topic, of those in whose Network it is shared.
    pub fn holders(&self, topic: &Topic) -> Vec<Peer> {
        self.who_says(topic, |said| &said.holds)
    }

    /// What a peer says that it holds, of what is shared in its Network.
    pub fn held_by(&self, peer: &Peer) -> Vec<Topic> {
        let said = lock(&self.said);
        let holds = said.get(peer).into_iter().flat_map(|said| &said.holds);
        holds.filter(|topic| self.shares(&peer.network, topic.project.as_str())).cloned().collect()
    }

    fn who_says(&self, topic: &Topic, which: impl Fn(&Said) -> &BTreeSet<Topic>) -> Vec<Peer> {
        let says = |(peer, said): &(&Peer, &Said)| {
            which(said).contains(topic) && self.shares(&peer.network, topic.project.as_str())
        };
        lock(&self.said).iter().filter(says).map(|(peer, _)| peer.clone()).collect()
    }

    /// A peer holds Entries of a topic that is followed: it can be asked. What that means for the Catalog comes after.
    pub async fn holder(&self, topic: &Topic, peer: &Peer, then: catalog::plan::Event) {
        let (topic, peers) = (topic.clone(), vec![peer.clone()]);
        let _ = self.plans.fetch.send(fetch::event::Event::Holders { topic, peers, sought: false }).await;
        let _ = self.plans.catalogs.send(then).await;
    }

    /// Keeps a pushed Head, and who pushed it, until the topic's Catalog is looked at: of each machine the newest.
    pub fn pushed(&self, topic: &Topic, (instance, sequence): (Instance, u64), head: (Signed<Head>, Peer)) {
        let mut pushed = lock(&self.pushed);
        let heads = pushed.entry(topic.clone()).or_default();
        let newer = heads.get(&instance).is_none_or(|(known, _)| *known < sequence);
        if newer && (heads.contains_key(&instance) || heads.len() < MAX_INSTANCES) {
            heads.insert(instance, (sequence, head));
        }
    }

    /// The Heads that were pushed since the last time.
    pub fn take_pushed(&self, topic: &Topic) -> Vec<(Signed<Head>, Peer)> {
        lock(&self.pushed).remove(topic).unwrap_or_default().into_values().map(|(_, head)| head).collect()
    }

    /// Answers a tool that waits for an action.
    pub fn settle(&self, look: u64, action: ActionId, miss: Option<Miss>) {
        if let Some(waits) = lock(&self.looks).remove(&(look, action)) {
            let _ = waits.send(miss);
        }
    }

    /// Answers whoever waits for Blobs.
    pub fn delivered(&self, bring: u64, all: bool) {
        if let Some(waits) = lock(&self.brings).remove(&bring) {
            let _ = waits.send(all);
        }
    }

    /// A peer was given a Blob. When there is much else to say, that is not noted.
    pub fn asked(&self, peer: &Peer, digest: Digest, size: u64) {
        let (network, peer) = (peer.network.to_string(), peer.id.to_string());
        let asked = announce::plan::Event::Asked { network, digest, size, peer };
        let _ = self.plans.announce.try_send(asked);
    }

    /// Whether peers on a Network are given a Blob.
    pub async fn gives(&self, network: &str, digest: &Digest) -> bool {
        let (engine, digest) = (Arc::clone(&self.engine), *digest);
        let shares = self.member(network).map(|member| lock(&member.shares).clone());
        let Some(shares) = shares else { return false };
        let found = span::blocking(move || {
            engine.blob_for_peer(&digest, |project| shares.contains(project)).is_ok_and(|blob| blob.is_some())
        });
        found.await
    }

    /// Has Blobs brought that holders of a topic have, or these peers; gives whether all came.
    pub async fn bring(
        &self,
        topic: &Topic,
        (blobs, among): (Vec<Need>, Vec<Peer>),
        within: Duration,
    ) -> bool {
        let bring = self.turn();
        let (to, from) = oneshot::channel();
        lock(&self.brings).insert(bring, to);
        let until = clock::moment().plus(within);
        let event = fetch::event::Event::Bring { bring, topic: topic.clone(), blobs, among, until };
        if self.plans.fetch.send(event).await.is_err() {
            lock(&self.brings).remove(&bring);
            return false;
        }
        from.await.unwrap_or(false)
    }
}

/// The engine's way to the peers. It holds no part of the engine, which holds it.
pub struct Search {
    outside: Weak<Outside>,
}

impl Search {
    /// Searches by way of `outside`, as long as that is there.
    pub fn new(outside: &Arc<Outside>) -> Self {
        Self { outside: Arc::downgrade(outside) }
    }
}

impl Seeker for Search {
    fn seek(&self, space: Space, actions: Vec<(ActionId, Vec<Topic>)>, deadline: Duration) -> Seeking {
        self.look((space, actions), deadline, false)
    }

    fn seek_ahead(&self, space: Space, actions: Vec<(ActionId, Vec<Topic>)>, deadline: Duration) -> Seeking {
        self.look((space, actions), deadline, true)
    }
}

impl Search {
    fn look(
        &self,
        (space, actions): (Space, Vec<(ActionId, Vec<Topic>)>),
        deadline: Duration,
        ahead: bool,
    ) -> Seeking {
        let Some(outside) = self.outside.upgrade() else {
            return Box::pin(async move { vec![Some(Miss::Unclaimed); actions.len()] });
        };
        Box::pin(async move {
            let look = outside.turn();
            let mut waits = Vec::with_capacity(actions.len());
            {
                let mut looks = lock(&outside.looks);
                for (action, _) in &actions {
                    let (to, from) = oneshot::channel();
                    looks.insert((look, *action), to);
                    waits.push(from);
                }
            }
            let until = clock::moment().plus(deadline);
            let left = ahead.then(|| Left {
                outside: Arc::downgrade(&outside),
                look,
                actions: actions.iter().map(|(action, _)| *action).collect(),
            });
            let event = fetch::event::Event::Look { look, space, actions, until };
            // Without a Plan nobody answers, and the waits end with their other halves.
            let sent = outside.fetch(event).await;
            drop(outside);
            let mut misses = Vec::with_capacity(waits.len());
            for wait in waits {
                misses.push(if sent { wait.await.unwrap_or(Some(Miss::Broken)) } else { Some(Miss::Broken) });
            }
            drop(left);
            misses
        })
    }
}

/// Says that nobody waits any more, however the waiting ends.
struct Left {
    outside: Weak<Outside>,
    look: u64,
    actions: Vec<ActionId>,
}

impl Drop for Left {
    fn drop(&mut self) {
        let Some(outside) = self.outside.upgrade() else { return };
        let mut looks = lock(&outside.looks);
        self.actions.iter().for_each(|action| drop(looks.remove(&(self.look, *action))));
        drop(looks);
        // If the Plan has too much to do to hear it, the searches end by themselves.
        let _ = outside.plans.fetch.try_send(fetch::event::Event::Leave { look: self.look });
    }
}
