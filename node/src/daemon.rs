// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon: starts everything a node is made of, and ends it.

mod served;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use potluck_protocol::action::Project;
use potluck_protocol::names::DhtKey;
use potluck_protocol::peer::{Hello, Topic};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::announce::plan::{Event as Announce, What};
use crate::catalog::plan::Event as Catalogs;
use crate::control::server::{self, BindError};
use crate::engine::{self, Engine, EngineError, News};
use crate::fetch::event::Event as Fetch;
use crate::home::Home;
use crate::index::{Index, IndexError};
use crate::network::{Network, NetworkError, Networks};
use crate::observe::status::{CatalogRow, InNetwork, Status};
use crate::observe::{clock, span};
use crate::outside::{Outside, Plans, Search};
use crate::peer::Peer;
use crate::plan::{Backoff, Moment};
use crate::swarm::{self, Handle, NetEvent, SwarmError, limits};
use crate::{announce, catalog, fetch, gc, packing};

/// Most events that wait for a Plan.
const QUEUE: usize = 1024;
/// How often the files of the home are looked at, and what is to be durable soon is made so.
const DUTY: Duration = Duration::from_millis(500);

/// How many keys of the index are read in one step.
const LEARN: usize = 1 << 16;

/// How long what is under way may take to end with the daemon.
const LAST: Duration = Duration::from_secs(2);

/// The daemon could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another daemon owns the home.
    #[error("a daemon is running already on {home}, process {pid}", home = .home.display())]
    Running {
        /// The home.
        home: PathBuf,
        /// The other daemon.
        pid: String,
    },
    /// The lock cannot be taken.
    #[error("cannot lock {path}: {source}", path = path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store or the policy.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A Network's files.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A Network cannot be entered.
    #[error("network {name}: {source}")]
    Swarm {
        /// The Network.
        name: String,
        /// Why.
        source: Box<SwarmError>,
    },
    /// The control socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// What may differ from the settings for one run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where to listen instead, as (Network, address).
    pub listen: Vec<(String, String)>,
    /// Members to begin with, in addition, as (Network, address).
    pub peers: Vec<(String, String)>,
    /// Whether to put the index aside and begin an empty one.
    pub new_index: bool,
}

/// A running daemon.
pub struct Daemon {
    engine: Arc<Engine>,
    outside: Arc<Outside>,
    networks: Networks,
    started: Moment,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Held as long as the daemon runs.
    _lock: File,
}

/// The control socket's path in a home.
pub fn socket(home: &Home) -> PathBuf {
    home.root().join("potluck.sock")
}

impl Daemon {
    /// Starts a daemon on a home.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(home: &Home, options: &Options) -> Result<Arc<Self>, StartError> {
        let lock = lock(home)?;
        let engine = {
            let (home, new_index) = (home.clone(), options.new_index);
            let open = move || {
                if new_index {
                    engine::new_index(&home)?;
                }
                Engine::open(&home)
            };
            Arc::new(span::blocking(open).await?)
        };
        let settings = home.config().map_err(EngineError::from)?.store;
        let networks = Networks::of(home);
        let (fetch_to, fetch_from) = mpsc::channel(QUEUE);
        let (catalogs_to, catalogs_from) = mpsc::channel(QUEUE);
        let (announce_to, announce_from) = mpsc::channel(QUEUE);
        let plans = Plans { fetch: fetch_to, catalogs: catalogs_to, announce: announce_to };
        let (mut handles, mut events) = (Vec::new(), Vec::new());
        for mut network in networks.list()? {
            let of = |given: &[(String, String)]| {
                let here = given.iter().filter(|(name, _)| *name == network.name);
                here.map(|(_, address)| address.clone()).collect::<Vec<_>>()
            };
            let (listen, peers) = (of(&options.listen), of(&options.peers));
            if !listen.is_empty() {
                network.listen = listen;
            }
            network.peers.extend(peers);
            let name = network.name.clone();
            let entered = enter(&networks, &network).await;
            let (handle, happens) =
                entered.map_err(|source| StartError::Swarm { name, source: Box::new(source) })?;
            handles.push(handle);
            events.push(happens);
        }
        let ledger = catalog::driver::ledger(&engine)?;
        let outside = Outside::new(Arc::clone(&engine), handles.clone(), plans, ledger);
        let (news_to, news_from) = mpsc::channel(QUEUE);
        engine.connect(Arc::new(Search::new(&outside)), news_to);
        let daemon = Arc::new(Self {
            engine,
            outside: Arc::clone(&outside),
            networks,
            started: clock::moment(),
            stop: watch::Sender::new(false),
            tasks: Mutex::default(),
            _lock: lock,
        });
        let mut tasks = vec![
            gc::driver::start(&daemon.engine, settings),
            span::spawn("fetch plan", fetch::driver::run(Arc::clone(&outside), fetch_from)),
            span::spawn("catalog plan", catalog::driver::run(Arc::clone(&outside), catalogs_from)),
            span::spawn("announce plan", announce::driver::run(Arc::clone(&outside), announce_from)),
            span::spawn("packing plan", packing::driver::run(daemon.engine.store().clone())),
            span::spawn("news", news(Arc::clone(&outside), news_from)),
            span::spawn("presence", learn(Arc::downgrade(daemon.engine.store().index()))),
        ];
        for (handle, happens) in handles.into_iter().zip(events) {
            tasks.extend(swarm::serve::serve(&outside, &handle));
            tasks.push(span::spawn("network", members(Arc::clone(&outside), handle, happens)));
        }
        *daemon.tasks() = tasks;
        daemon.begin().await?;
        Ok(daemon)
    }

    /// Takes up where an earlier run ended: what was published and not listed, what is held, whom to follow.
    async fn begin(self: &Arc<Self>) -> Result<(), StartError> {
        self.refresh().await;
        let shared = self.outside.shared();
        for project in &shared {
            let _ = self.outside.plans().catalogs.send(Catalogs::Published(project.clone())).await;
        }
        let heads = self.engine.store().index().heads()?;
        let heads = heads.iter().filter_map(|(signer, head)| {
            Some(Topic { signer: *signer, project: head.authentic().ok()?.project.clone() })
        });
        let own =
            self.engine.signer().into_iter().flat_map(|signer| {
                shared.iter().map(move |project| Topic { signer, project: project.clone() })
            });
        for topic in heads.collect::<BTreeSet<_>>() {
            hold(&self.outside, topic).await;
        }
        for topic in own.collect::<Vec<_>>() {
            if self.engine.own_catalog(&topic.project).map_err(EngineError::from)?.is_some() {
                for handle in self.outside.networks_of(&topic.project) {
                    let say = Announce::Say(handle.network().name.clone(), What::Heads(topic.clone()));
                    let _ = self.outside.plans().announce.send(say).await;
                }
                hold(&self.outside, topic).await;
            }
        }
        Ok(())
    }

    /// Opens the control socket.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn listen(&self, home: &Home) -> Result<UnixListener, BindError> {
        server::bind(&socket(home))
    }

    /// Serves the control socket, and does what is to be done from time to time, until it is told to stop.
    pub async fn serve(self: Arc<Self>, home: &Home, listener: UnixListener) {
        let mut tasks = JoinSet::new();
        let duty = Arc::clone(&self);
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(DUTY).await;
                duty.refresh().await;
                let engine = Arc::clone(&duty.engine);
                if let Err(error) = span::blocking(move || engine.settle(false)).await {
                    tracing::warn!(%error, "the index cannot be made durable");
                }
            }
        });
        server::serve(Arc::new(served::Served(Arc::clone(&self))), listener, self.stop.subscribe()).await;
        tasks.shutdown().await;
        let running = std::mem::take(&mut *self.tasks());
        for task in running {
            task.abort();
            let _ = task.await;
        }
        self.outside.networks().for_each(Handle::end);
        let engine = Arc::clone(&self.engine);
        if let Err(error) = span::blocking(move || engine.settle(true)).await {
            tracing::warn!(%error, "the index cannot be made durable");
        }
        // What was under way notices by itself. The lock is given back after the store, or the next daemon finds that
        // in use.
        let _ = tokio::time::timeout(LAST, async {
            while Arc::strong_count(&self.outside) > 1 || Arc::strong_count(self.engine.store().index()) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        // A new daemon may be waiting for the lock, which is held until the end.
        let _ = std::fs::remove_file(socket(home));
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.tasks.lock().expect("nobody panics while holding the tasks")
    }

    /// Tells the daemon to end.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// The door, for programs that run a daemon within themselves.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Where this node can be reached, Network by Network.
    pub fn reached(&self) -> BTreeMap<String, InNetwork> {
        let row = |handle: &Handle| {
            let share = self.outside.shared().into_iter().map(|project| project.to_string());
            let share =
                share.filter(|project| self.outside.shares(&handle.network().name, project)).collect();
            let row = InNetwork {
                peer: handle.peer().to_base58(),
                listen: handle.listen().to_vec(),
                bulk: handle.bulk_sockets(),
                share,
            };
            (handle.network().name.clone(), row)
        };
        self.outside.networks().map(row).collect()
    }

    /// Looks at the files that people and other verbs change: what is shared, and whom to follow.
    async fn refresh(&self) {
        for handle in self.outside.networks() {
            let name = &handle.network().name;
            let share = match self.networks.get(name) {
                Ok(network) => network.share,
                // A Network that was left is not used any more, though its sockets stay until the end.
                Err(NetworkError::NotFound(_)) => BTreeSet::new(),
                Err(error) => {
                    tracing::warn!(network = name, %error, "its file cannot be read");
                    continue;
                }
            };
            let before = self.outside.set_shares(name, share.clone());
            for project in share.symmetric_difference(&before) {
                self.shared(handle, project, share.contains(project)).await;
            }
        }
        let shared = self.outside.shared();
        self.engine.share(shared.clone());
        let topics = self.engine.topics();
        let own = self.engine.signer();
        let topics: BTreeSet<_> = topics.into_iter().filter(|topic| Some(topic.signer) != own).collect();
        let before: BTreeSet<_> = self.engine.followed().topics().cloned().collect();
        let plans = self.outside.plans();
        if before != topics {
            self.engine.followed_mut().follow(&topics);
            let _ = plans.catalogs.send(Catalogs::Follow(topics.clone())).await;
            // Who said before that it holds them is not going to say so again.
            for topic in topics.difference(&before) {
                for peer in self.outside.holders(topic) {
                    self.outside.holder(topic, &peer).await;
                }
            }
        }
        let _ = plans.catalogs.send(Catalogs::Share(shared)).await;
        self.outside.greet();
    }

    /// A Project is shared on a Network from now on, or no longer: what stands there by this node's doing goes with it.
    async fn shared(&self, handle: &Handle, project: &str, now: bool) {
        let (plans, network) = (self.outside.plans(), &handle.network().name);
        let Ok(of) = Project::new(project) else { return };
        let mut topics: BTreeSet<_> = self.outside.held(project).into_iter().collect();
        if let Some(signer) = self.engine.signer()
            && matches!(self.engine.own_catalog(&of), Ok(Some(_)))
        {
            let own = Topic { signer, project: of.clone() };
            self.outside.hold(&own);
            topics.insert(own);
        }
        for topic in topics {
            for what in [What::Heads(topic.clone()), What::Holds(topic.clone())] {
                let event = if now { Announce::Say } else { Announce::Unsay };
                // Only its signer can vouch for the newest Heads.
                if matches!(what, What::Holds(_)) || !now || Some(topic.signer) == self.engine.signer() {
                    let _ = plans.announce.send(event(network.clone(), what)).await;
                }
            }
            if !now {
                handle.withdraw(DhtKey::holders(&topic.signer, &topic.project, 0)).await;
            }
        }
        if now {
            let _ = plans.catalogs.send(Catalogs::Published(of)).await;
        }
    }

    async fn status(&self) -> Status {
        let mut peers = Vec::new();
        for handle in self.outside.networks() {
            peers.extend(handle.members().await.iter().map(|peer| handle.name(peer).to_string()));
        }
        let policy = self.engine.trusting().now();
        let now = clock::now();
        let mut catalogs = Vec::new();
        for summary in self.engine.followed().summaries() {
            catalogs.push(CatalogRow {
                signer: policy.name_of(&summary.topic.signer),
                project: summary.topic.project.to_string(),
                keys: summary.keys,
                age_s: summary.issued.map(|issued| now.since(issued).as_secs()),
                own: false,
            });
        }
        for project in self.outside.shared() {
            if let Ok(Some(catalog)) = self.engine.own_catalog(&project) {
                let (signer, project) = ("me".to_owned(), project.to_string());
                catalogs.push(CatalogRow { signer, project, keys: catalog.rows(), age_s: None, own: true });
            }
        }
        let store = self.engine.store().clone();
        let engine = Arc::clone(&self.engine);
        let (bytes, projects, contradictions) = span::blocking(move || {
            let contradictions = store.index().contradictions();
            // It may have begun to count only just now.
            let bytes = store.used().map_or_else(|| store.total(), Ok);
            // A status with a part missing is better than none.
            (
                bytes.unwrap_or_default(),
                engine.tallies().unwrap_or_default(),
                contradictions.unwrap_or_default(),
            )
        })
        .await;
        Status {
            pid: std::process::id(),
            up_s: clock::moment().since(self.started).as_secs(),
            networks: self.reached(),
            peers,
            catalogs,
            numbers: self.engine.counts().now(),
            projects,
            contradictions,
            store: gc::driver::row(&self.engine, bytes),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // They hold each other, the swarms and the store: none would ever end by itself.
        for task in self.tasks().drain(..) {
            task.abort();
        }
    }
}

/// Enters a Network as this node.
async fn enter(
    networks: &Networks,
    network: &Network,
) -> Result<(Handle, mpsc::Receiver<NetEvent>), SwarmError> {
    swarm::enter(network, &swarm::identity(&networks.identity_path(&network.name))?).await
}

fn lock(home: &Home) -> Result<File, StartError> {
    let path = home.root().join("lock");
    let fail = |source| StartError::Lock { path: path.clone(), source };
    let mut file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = (&mut file).take(32).read_to_string(&mut pid);
            return Err(StartError::Running { home: home.root().to_owned(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(fail(source)),
    }
    file.set_len(0).map_err(fail)?;
    writeln!(file, "{}", std::process::id()).map_err(fail)?;
    Ok(file)
}

/// Learns which actions have Entries, in steps, so that the daemon can end in between. Until it is done, each look-up
/// asks the index.
async fn learn(index: Weak<Index>) {
    while let Some(index) = index.upgrade() {
        match span::blocking(move || index.learn(LEARN)).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "the index cannot be read");
                return;
            }
        }
    }
}

/// What the engine tells of goes to the Plans that care.
async fn news(outside: Arc<Outside>, mut news: mpsc::Receiver<News>) {
    while let Some(news) = news.recv().await {
        match news {
            News::Published(project) => {
                let _ = outside.plans().catalogs.send(Catalogs::Published(project)).await;
            }
            News::Holds(topic) => hold(&outside, topic).await,
        }
    }
}

/// Entries of a topic are held here: those who look for holders should find this node.
async fn hold(outside: &Arc<Outside>, topic: Topic) {
    if !outside.hold(&topic) {
        return;
    }
    for handle in outside.networks_of(&topic.project) {
        // Its Heads as well: those who put them there may be gone when they expire.
        for what in [What::Holds(topic.clone()), What::Heads(topic.clone())] {
            let _ = outside.plans().announce.send(Announce::Say(handle.network().name.clone(), what)).await;
        }
    }
    outside.greet();
}

/// What happens in a Network.
async fn members(outside: Arc<Outside>, handle: Handle, mut happens: mpsc::Receiver<NetEvent>) {
    let mut hellos: BTreeMap<Peer, tokio::task::AbortHandle> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    while let Some(event) = happens.recv().await {
        match event {
            NetEvent::Joined => {
                let joined = Announce::Joined(handle.network().name.clone());
                let _ = outside.plans().announce.send(joined).await;
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
        if let Some(stream) = handle.open(peer, potluck_protocol::names::Purpose::Hello).await {
            keep_greeting(&mut hello, stream).await;
        }
        if clock::moment().since(began) > last {
            again.reset();
        }
        tokio::time::sleep(again.step()).await;
    }
}

/// Says hello on a stream until that breaks. Nothing comes back on it, so whatever can be read is its end.
async fn keep_greeting(
    hello: &mut watch::Receiver<Hello>,
    stream: impl AsyncRead + tokio::io::AsyncWrite + Unpin,
) {
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
