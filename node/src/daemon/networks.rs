// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Networks that a daemon is in: enters and leaves them as the files of the home say, while everything else goes
//! on, and says hello to their members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use potluck_protocol::action::Project;
use potluck_protocol::names::Purpose;
use potluck_protocol::peer::{Hello, Topic};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use super::{Options, StartError};
use crate::announce;
use crate::announce::plan::{Event as Announce, What};
use crate::catalog::plan::Event as Catalogs;
use crate::fetch::event::Event as Fetch;
use crate::network::{Network, NetworkError, Networks, Reach};
use crate::observe::status::InNetwork;
use crate::observe::{clock, span};
use crate::outside::Outside;
use crate::peer::Peer;
use crate::plan::{Backoff, Moment};
use crate::swarm::{self, Handle, NetEvent, SwarmError, limits};

/// How soon a Network is tried again that could not be entered.
const ENTER_AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// How often it is looked whether a Network was left, and after how long.
const LEFT_WITHIN: (u32, Duration) = (200, Duration::from_millis(10));

/// All memberships.
pub(super) struct Memberships {
    outside: Arc<Outside>,
    networks: Networks,
    /// How members find and reach each other, by the settings.
    reach: BTreeMap<String, Reach>,
    options: Options,
    /// Held while the files are looked at and followed, which is done by one at a time.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entered: BTreeMap<String, Entered>,
    /// Those of which it is not known yet whether all that stands there is still shared.
    fresh: BTreeSet<String>,
    failed: BTreeMap<String, Failed>,
}

/// A Network that could not be entered.
struct Failed {
    /// The settings that were tried.
    settings: Network,
    why: String,
    /// When it is tried again: an address may be taken for a moment only.
    again: Moment,
    pause: Backoff,
}

/// A Network that the daemon is in.
struct Entered {
    /// Its settings as the file had them, without what is shared there.
    settings: Network,
    tasks: Vec<JoinHandle<()>>,
}

/// What came of looking at the files.
#[derive(Debug, Serialize)]
pub(super) struct Refreshed {
    /// The Networks that the daemon is in now.
    networks: BTreeMap<String, InNetwork>,
    /// Those that it could not enter, and why.
    failed: BTreeMap<String, String>,
}

impl Memberships {
    /// Those of a home, none of which is entered yet.
    pub(super) fn new(
        outside: &Arc<Outside>,
        (networks, reach): (Networks, BTreeMap<String, Reach>),
        options: &Options,
    ) -> Self {
        let (outside, options) = (Arc::clone(outside), options.clone());
        Self { outside, networks, reach, options, state: Mutex::default() }
    }

    /// What the drivers share.
    pub(super) fn outside(&self) -> &Arc<Outside> {
        &self.outside
    }

    /// Enters all Networks. Whoever starts a daemon is to hear at once which of them cannot be entered.
    ///
    /// # Errors
    /// [`StartError`].
    pub(super) async fn begin(&self) -> Result<(), StartError> {
        let mut state = self.state.lock().await;
        for network in self.networks.list()? {
            let (name, settings) = (network.name.clone(), settings(&network));
            let entered = self.enter(&network).await;
            let tasks = entered
                .map_err(|source| StartError::Swarm { name: name.clone(), source: Box::new(source) })?;
            state.fresh.insert(name.clone());
            state.entered.insert(name, Entered { settings, tasks });
        }
        Ok(())
    }

    /// Looks at the files that people and other verbs change: which Networks there are, what is shared on each, and
    /// whom to follow. A Network that could not be entered is tried again after a while, and at once when it has other
    /// settings, or when somebody asks for it by `again`.
    pub(super) async fn refresh(&self, again: bool) -> Refreshed {
        let mut state = self.state.lock().await;
        if again {
            state.failed.clear();
        }
        match self.networks.names() {
            Ok(names) => self.follow(&mut state, &names).await,
            Err(error) => tracing::warn!(%error, "the networks cannot be listed"),
        }
        self.topics().await;
        let failed = state.failed.iter().map(|(name, failed)| (name.clone(), failed.why.clone())).collect();
        Refreshed { networks: reached(&self.outside), failed }
    }

    /// Enters and leaves Networks as the files say, and takes over what is shared there.
    async fn follow(&self, state: &mut State, names: &BTreeSet<String>) {
        let mut present = BTreeMap::new();
        for name in names {
            match self.networks.get(name) {
                Ok(network) => drop(present.insert(name.clone(), Some(network))),
                Err(NetworkError::NotFound(_)) => {}
                Err(error) => {
                    tracing::warn!(network = name, %error, "its file cannot be read");
                    // Whatever it said before still holds.
                    present.insert(name.clone(), None);
                }
            }
        }
        state.failed.retain(|name, failed| {
            present
                .get(name)
                .is_some_and(|now| now.as_ref().is_none_or(|now| settings(now) == failed.settings))
        });
        let other = |(name, entered): (&String, &Entered)| match present.get(name) {
            None => Some(name.clone()),
            Some(now) => {
                now.as_ref().is_some_and(|now| settings(now) != entered.settings).then(|| name.clone())
            }
        };
        let left: Vec<_> = state.entered.iter().filter_map(other).collect();
        for name in left {
            if let Some(entered) = state.entered.remove(&name) {
                self.leave(&name, entered).await;
            }
        }
        for (name, network) in present.into_iter().filter_map(|(name, network)| Some((name, network?))) {
            let waits = state.failed.get(&name).is_some_and(|failed| failed.again > clock::moment());
            if !state.entered.contains_key(&name) && !waits {
                self.try_to_enter(state, &network).await;
            }
            self.share(&name, network.share).await;
            if state.fresh.remove(&name) {
                self.unsay_unshared(&name).await;
            }
        }
    }

    async fn try_to_enter(&self, state: &mut State, network: &Network) {
        let (name, settings) = (network.name.clone(), settings(network));
        match self.enter(network).await {
            Ok(tasks) => {
                state.failed.remove(&name);
                state.fresh.insert(name.clone());
                state.entered.insert(name, Entered { settings, tasks });
            }
            Err(error) => {
                let mut pause = state.failed.remove(&name).map_or(ENTER_AGAIN, |failed| failed.pause);
                if pause == ENTER_AGAIN {
                    tracing::error!(network = name, %error, "it cannot be entered");
                }
                let again = clock::moment().plus(pause.step());
                state.failed.insert(name, Failed { settings, why: error.to_string(), again, pause });
            }
        }
    }

    /// Takes back what an earlier run has said on a Network that was entered just now, and what is not shared there any
    /// more.
    async fn unsay_unshared(&self, name: &str) {
        let Some(handle) = self.outside.network(name) else { return };
        for what in announce::driver::stood(&handle).into_keys() {
            let is_shared = match &what {
                What::Heads(topic) | What::Holds(topic) => self.outside.shares(name, topic.project.as_str()),
                What::Blob(digest) => self.outside.gives(name, digest).await,
            };
            if !is_shared {
                let _ = self.outside.plans().announce.send(Announce::Unsay(name.to_owned(), what)).await;
            }
        }
    }

    /// Enters a Network as this node, with nothing shared there yet.
    async fn enter(&self, network: &Network) -> Result<Vec<JoinHandle<()>>, SwarmError> {
        let mut network = network.clone();
        let of = |given: &[(String, String)]| {
            let here = given.iter().filter(|(name, _)| *name == network.name);
            here.map(|(_, address)| address.clone()).collect::<Vec<_>>()
        };
        let (listen, peers) = (of(&self.options.listen), of(&self.options.peers));
        if !listen.is_empty() {
            network.listen = listen;
        }
        network.peers.extend(peers);
        network.reach = self.reach.get(&network.name).copied().unwrap_or_default();
        let identity = swarm::identity(&self.networks.identity_path(&network.name))?;
        let file = self.networks.dht_path(&network.name);
        let (handle, happens) = swarm::enter_again(&network, &identity, &file).await?;
        tracing::info!(network = network.name, "entered");
        self.outside.enter(handle.clone());
        let stood = Announce::Stood(network.name.clone(), announce::driver::stood(&handle));
        let _ = self.outside.plans().announce.send(stood).await;
        let upload = network.reach.upload.map(|rate| rate.0.get());
        let mut tasks = swarm::serve::serve(&self.outside, &handle, upload);
        tasks.push(span::spawn("network", members(Arc::clone(&self.outside), handle, happens)));
        Ok(tasks)
    }

    /// Leaves a Network: takes back what stands there, closes all that is open, and forgets its members.
    async fn leave(&self, name: &str, entered: Entered) {
        self.share(name, BTreeSet::new()).await;
        let handle = self.outside.network(name);
        let mut gone = BTreeSet::new();
        if let Some(handle) = &handle {
            gone.extend(handle.members().await.iter().map(|peer| handle.name(peer)));
        }
        gone.extend(self.outside.leave(name));
        for task in entered.tasks {
            task.abort();
            let _ = task.await;
        }
        if let Some(handle) = handle {
            handle.end();
            // Whoever enters it again wants its file, and its addresses.
            for _ in 0..LEFT_WITHIN.0 {
                if handle.is_ended() {
                    break;
                }
                tokio::time::sleep(LEFT_WITHIN.1).await;
            }
        }
        for peer in gone {
            let _ = self.outside.plans().fetch.send(Fetch::Gone(peer)).await;
        }
        tracing::info!(network = name, "left");
    }

    /// Leaves all of them, as the daemon ends: what stands there stays until it expires.
    pub(super) async fn end(&self) {
        let entered = std::mem::take(&mut self.state.lock().await.entered);
        for task in entered.into_values().flat_map(|entered| entered.tasks) {
            task.abort();
            let _ = task.await;
        }
        self.outside.networks().iter().for_each(Handle::end);
    }

    /// Takes over what is shared on a Network.
    async fn share(&self, name: &str, share: BTreeSet<String>) {
        let before = self.outside.set_shares(name, share.clone());
        let Some(handle) = self.outside.network(name) else { return };
        for project in share.symmetric_difference(&before) {
            self.shared(&handle, project, share.contains(project)).await;
        }
    }

    /// A Project is shared on a Network from now on, or no longer: what stands there by this node's doing goes with it.
    async fn shared(&self, handle: &Handle, project: &str, now: bool) {
        let (plans, network) = (self.outside.plans(), &handle.network().name);
        let Ok(of) = Project::new(project) else { return };
        let mut topics: BTreeSet<_> = self.outside.held(project).into_iter().collect();
        if let Some(signer) = self.outside.engine().signer()
            && matches!(self.outside.engine().own_catalog(&of), Ok(Some(_)))
        {
            let own = Topic { signer, project: of.clone() };
            self.outside.hold(&own);
            topics.insert(own);
        }
        for topic in topics {
            for what in [What::Heads(topic.clone()), What::Holds(topic.clone())] {
                let event = if now { Announce::Stand } else { Announce::Unsay };
                let _ = plans.announce.send(event(network.clone(), what)).await;
            }
        }
        if !now {
            let _ = plans.announce.send(Announce::UnsayBlobs(network.clone())).await;
            return;
        }
        // Who has said before that it holds topics of it is not going to say so again.
        for topic in self.outside.engine().topics().into_iter().filter(|topic| topic.project == of) {
            for peer in self.outside.holders(&topic).iter().filter(|peer| *peer.network == **network) {
                self.outside.holder(&topic, peer, Catalogs::Hint(topic.clone())).await;
            }
        }
        let _ = plans.catalogs.send(Catalogs::Published(of)).await;
    }

    /// Follows whomever the policy names in what is shared now.
    async fn topics(&self) {
        let engine = self.outside.engine();
        let shared = self.outside.shared();
        engine.share(shared.clone());
        let own = engine.signer();
        let topics: BTreeSet<_> =
            engine.topics().into_iter().filter(|topic| Some(topic.signer) != own).collect();
        let before: BTreeSet<_> = engine.followed().topics().collect();
        let plans = self.outside.plans();
        if before != topics {
            engine.followed_mut().follow(&topics);
            let _ = plans.catalogs.send(Catalogs::Follow(topics.clone())).await;
            // Who said before that it holds them is not going to say so again.
            for topic in topics.difference(&before) {
                for peer in self.outside.holders(topic) {
                    self.outside.holder(topic, &peer, Catalogs::Hint(topic.clone())).await;
                }
            }
        }
        let _ = plans.catalogs.send(Catalogs::Share(shared)).await;
        self.outside.greet();
    }
}

impl Drop for Memberships {
    fn drop(&mut self) {
        // They hold each other, the swarms and the store: none would ever end by itself.
        for task in self.state.get_mut().entered.values().flat_map(|entered| &entered.tasks) {
            task.abort();
        }
    }
}

/// What makes a Network another one than before; what is shared there does not.
fn settings(network: &Network) -> Network {
    Network { share: BTreeSet::new(), ..network.clone() }
}

/// Where this node can be reached, Network by Network.
pub(super) fn reached(outside: &Outside) -> BTreeMap<String, InNetwork> {
    let row = |handle: Handle| {
        let name = handle.network().name.clone();
        let share = outside.shared().into_iter().map(|project| project.to_string());
        let share = share.filter(|project| outside.shares(&name, project)).collect();
        (
            name,
            InNetwork {
                peer: handle.peer().to_base58(),
                listen: handle.listen(),
                bulk: handle.bulk_sockets(),
                share,
            },
        )
    };
    outside.networks().into_iter().map(row).collect()
}

/// Entries of a topic are held here: those who look for holders should find this node.
pub(super) async fn hold(outside: &Arc<Outside>, topic: Topic) {
    if !outside.hold(&topic) {
        return;
    }
    for handle in outside.networks_of(&topic.project) {
        // Its Heads as well: those who put them there may be gone when they expire.
        for what in [What::Holds(topic.clone()), What::Heads(topic.clone())] {
            let _ = outside.plans().announce.send(Announce::Stand(handle.network().name.clone(), what)).await;
        }
    }
    outside.greet();
}

/// How many keys this node can answer for, about: what it may say about them grows with them.
fn keys(outside: &Outside) -> u64 {
    let engine = outside.engine();
    let followed: u64 = engine.followed().summaries().iter().map(|summary| summary.keys).sum();
    let own = outside.shared().into_iter().filter_map(|project| engine.own_catalog(&project).ok().flatten());
    followed + own.map(|catalog| catalog.0.rows()).sum::<u64>()
}

/// What happens in a Network.
async fn members(outside: Arc<Outside>, handle: Handle, mut happens: mpsc::Receiver<NetEvent>) {
    let mut hellos: BTreeMap<Peer, AbortHandle> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    while let Some(event) = happens.recv().await {
        match event {
            NetEvent::Joined => {
                let joined = Announce::Joined(handle.network().name.clone());
                for event in [Announce::Keys(keys(&outside)), joined] {
                    let _ = outside.plans().announce.send(event).await;
                }
                for topic in outside.engine().topics() {
                    let _ = outside.plans().catalogs.send(Catalogs::Hint(topic)).await;
                }
            }
            NetEvent::Met(id) => {
                while tasks.try_join_next().is_some() {}
                let task = tasks.spawn(greet(Arc::clone(&outside), handle.clone(), id));
                if let Some(before) = hellos.insert(handle.name(&id), task) {
                    before.abort();
                }
            }
            NetEvent::Gone(id) => {
                let peer = handle.name(&id);
                if let Some(task) = hellos.remove(&peer) {
                    task.abort();
                }
                handle.forget(&id);
                let _ = outside.plans().fetch.send(Fetch::Gone(peer)).await;
            }
        }
    }
}

/// Says hello to a member, now and whenever it changes, as long as it is connected. The stream may break although the
/// peer stays: one of several connections went, or the peer had no room for it. It is said again then.
async fn greet(outside: Arc<Outside>, handle: Handle, peer: libp2p::PeerId) {
    let Some(mut hello) = outside.hello(&handle.network().name) else { return };
    let (first, last) = limits::HELLO_AGAIN;
    let mut again = Backoff::new(first, last);
    loop {
        let began = clock::moment();
        if let Some(stream) = handle.open(peer, Purpose::Hello).await {
            keep_greeting(&mut hello, stream).await;
        }
        if clock::moment().since(began) > last {
            again.reset();
        }
        tokio::time::sleep(again.step()).await;
    }
}

/// Says hello on a stream until that breaks. Nothing comes back on it, so whatever can be read is its end.
async fn keep_greeting(hello: &mut watch::Receiver<Hello>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    loop {
        let now = hello.borrow_and_update().clone();
        let said = crate::link::write_message(&mut writer, &now);
        if !matches!(tokio::time::timeout(limits::WRITE_STALL, said).await, Ok(Ok(()))) {
            return;
        }
        tokio::select! {
            _ = reader.read_u8() => return,
            changed = hello.changed() => if changed.is_err() { return },
        }
    }
}
