// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon: starts everything a node is made of, and ends it.

mod networks;
mod served;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use potluck_protocol::action::Project;
use potluck_protocol::peer::Topic;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::cache::Note;
use crate::catalog::evidence::Exhibit;
use crate::catalog::followed::Summary;
use crate::catalog::plan::Event as Catalogs;
use crate::config::Config;
use crate::control::server::{self, BindError};
use crate::engine::{self, Engine, EngineError, News};
use crate::front::http::socket::serve as ccache;
use crate::front::listen::serve::{self, HTTP_SOCKET, HttpError, Listening};
use crate::home::Home;
use crate::index::{Index, IndexError};
use crate::network::{NetworkError, Networks};
use crate::observe::status::{CatalogRow, EvidenceRow, InNetwork, Path, PeerRow, Status, TopicRow};
use crate::observe::{clock, span};
use crate::outside::{Outside, Plans, Search};
use crate::plan::Moment;
use crate::swarm::{Handle, SwarmError};
use crate::{ahead, announce, catalog, fetch, gc, packing};

use networks::Memberships;

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
    /// The address for tools that speak HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
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
    /// Where to serve tools that speak HTTP instead; see [`crate::config::Http::listen`].
    pub http: Option<String>,
}

/// A running daemon.
pub struct Daemon {
    engine: Arc<Engine>,
    memberships: Memberships,
    ahead: mpsc::Sender<ahead::plan::Event>,
    started: Moment,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    http: Listening,
    /// Held as long as the daemon runs.
    _lock: File,
}

/// The control socket's path in a home.
pub fn socket(home: &Home) -> PathBuf {
    home.root().join("potluck.sock")
}

/// Where what was refused of others is kept.
fn evidence_file(home: &Home) -> PathBuf {
    home.root().join("evidence")
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
        let config = listening(home.config().map_err(EngineError::from)?, options);
        let listener = serve::open(home, &config.http).await?;
        if let (Some(_), Some(failure)) = (&options.http, &listener.listening.failure) {
            return Err(HttpError::Taken(failure.clone()).into());
        }
        let (settings, reach) = (config.store, config.network.clone());
        let (fetch_to, fetch_from) = mpsc::channel(QUEUE);
        let (catalogs_to, catalogs_from) = mpsc::channel(QUEUE);
        let (announce_to, announce_from) = mpsc::channel(QUEUE);
        let plans = Plans { fetch: fetch_to, catalogs: catalogs_to, announce: announce_to };
        let ledger = catalog::driver::ledger(&engine)?;
        let outside = Outside::new(Arc::clone(&engine), plans, ledger);
        catalog::driver::recall_evidence(&outside, &evidence_file(home));
        let (news_to, news_from) = mpsc::channel(QUEUE);
        engine.connect(Arc::new(Search::new(&outside)), news_to);
        let memberships = Memberships::new(&outside, (Networks::of(home), reach), options);
        let (ahead_to, ahead_from) = mpsc::channel(QUEUE);
        let daemon = Arc::new(Self {
            engine,
            memberships,
            ahead: ahead_to.clone(),
            started: clock::moment(),
            stop: watch::Sender::new(false),
            tasks: Mutex::default(),
            http: listener.listening.clone(),
            _lock: lock,
        });
        *daemon.tasks() = vec![
            gc::driver::start(&daemon.engine, settings),
            span::spawn(
                "fetch plan",
                fetch::driver::run(Arc::clone(&outside), fetch_from, home.root().join("peers")),
            ),
            span::spawn("catalog plan", catalog::driver::run(Arc::clone(&outside), catalogs_from)),
            span::spawn("evidence", catalog::driver::evidence(Arc::clone(&outside), evidence_file(home))),
            span::spawn("announce plan", announce::driver::run(Arc::clone(&outside), announce_from)),
            span::spawn("ahead plan", ahead::driver::run(Arc::clone(&daemon.engine), (ahead_to, ahead_from))),
            span::spawn("packing plan", packing::driver::run(daemon.engine.store().clone())),
            span::spawn("news", news(Arc::clone(&outside), news_from)),
            span::spawn("presence", learn(Arc::downgrade(daemon.engine.store().index()))),
        ];
        daemon.begin().await?;
        let sockets = ccache::open(home, &config);
        let helping =
            ccache::run(Arc::clone(&daemon.engine), config.clone(), sockets, daemon.stop.subscribe());
        daemon.tasks().push(span::spawn("ccache", helping));
        let serving = serve::run(Arc::clone(&daemon.engine), config, listener, daemon.stop.subscribe());
        daemon.tasks().push(span::spawn("http", serving));
        Ok(daemon)
    }

    /// Where tools that speak HTTP are served.
    pub fn http(&self) -> &Listening {
        &self.http
    }

    /// Takes up where an earlier run ended: what is held, what was published and not listed, whom to follow.
    async fn begin(self: &Arc<Self>) -> Result<(), StartError> {
        for (signer, head) in self.engine.store().index().heads()? {
            if let Ok(claim) = head.authentic() {
                self.outside().hold(&Topic { signer, project: claim.project.clone() });
            }
        }
        self.memberships.begin().await?;
        self.memberships.refresh(false).await;
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
                duty.memberships.refresh(false).await;
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
        self.memberships.end().await;
        catalog::driver::keep_evidence(self.outside(), &evidence_file(home)).await;
        self.engine.settled(LAST).await;
        let engine = Arc::clone(&self.engine);
        if let Err(error) = span::blocking(move || engine.settle(true)).await {
            tracing::warn!(%error, "the index cannot be made durable");
        }
        // What was under way notices by itself. The lock is given back after the store, or the next daemon finds that
        // in use.
        let _ = tokio::time::timeout(LAST, async {
            while Arc::strong_count(self.outside()) > 1
                || Arc::strong_count(self.engine.store().index()) > 1
                || !self.outside().networks().iter().all(Handle::is_ended)
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        // A new daemon may be waiting for the lock, which is held until the end.
        let _ = std::fs::remove_file(socket(home));
        let _ = std::fs::remove_file(home.root().join(HTTP_SOCKET));
        for project in home.config().map(|config| ccache::projects(&config)).unwrap_or_default() {
            let _ = std::fs::remove_file(ccache::path(home, &project));
        }
    }

    fn outside(&self) -> &Arc<Outside> {
        self.memberships.outside()
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.tasks.lock().expect("nobody panics while holding the tasks")
    }

    /// Hears of a unit of a build. What is too much to be heard is not fetched ahead, and that is all.
    fn ahead(&self, note: Note) {
        let _ = self.ahead.try_send(ahead::plan::Event::from(note));
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
        networks::reached(self.outside())
    }

    /// The Catalogs that are followed, with how fresh they are, and the own ones.
    fn catalogs(&self) -> Vec<CatalogRow> {
        let (policy, now) = (self.engine.trusting().now(), clock::now());
        let ago = |then| now.since(then).as_secs();
        let followed = |summary: Summary| CatalogRow {
            signer: policy.name_of(&summary.topic.signer),
            project: summary.topic.project.to_string(),
            keys: summary.keys,
            unlisted: 0,
            age_s: summary.newest.map(|newest| ago(newest.issued)),
            sequence: summary.newest.map(|newest| newest.sequence),
            source: summary.newest.map(|newest| newest.source),
            looked_s: summary.looked.map(ago),
            frozen: summary.newest.is_some_and(|newest| newest.not_after < now),
            own: false,
        };
        let own = |project: Project| {
            // Before the Catalog is looked at: what is in neither was never claimed.
            let unlisted = self.engine.unlisted(&project).ok()?;
            let (catalog, head) = self.engine.own_catalog(&project).ok().flatten()?;
            let head = head.authentic().ok()?;
            Some(CatalogRow {
                signer: "me".to_owned(),
                project: project.to_string(),
                keys: catalog.rows(),
                unlisted,
                age_s: Some(ago(head.issued)),
                sequence: Some(head.sequence),
                source: None,
                looked_s: None,
                frozen: false,
                own: true,
            })
        };
        let summaries = self.engine.followed().summaries().into_iter().map(followed);
        summaries.chain(self.outside().shared().into_iter().filter_map(own)).collect()
    }

    /// Heads that were refused, for people.
    fn evidence(&self) -> Vec<EvidenceRow> {
        let policy = self.engine.trusting().now();
        let row = |exhibit: Exhibit| EvidenceRow {
            what: exhibit.offence,
            signer: policy.name_of(&exhibit.topic.signer),
            project: exhibit.topic.project.to_string(),
            instance: exhibit.instance.to_string(),
            have_sequence: exhibit.have.map(|have| have.sequence),
            have_root: exhibit.have.map(|have| have.root.to_string()),
            got_sequence: exhibit.got.sequence,
            got_root: exhibit.got.root.to_string(),
            head: exhibit.head.to_string(),
            from: exhibit.from.map(|peer| peer.to_string()),
            at_ms: exhibit.at.as_millis(),
            times: exhibit.times,
        };
        self.outside().evidence().into_iter().map(row).collect()
    }

    /// The members that are connected, Network by Network.
    async fn peers(&self) -> Vec<PeerRow> {
        let policy = self.engine.trusting().now();
        let topic = |topic: Topic| TopicRow {
            signer: policy.name_of(&topic.signer),
            project: topic.project.to_string(),
        };
        let mut peers = Vec::new();
        for handle in self.outside().networks() {
            peers.extend(handle.routes().await.into_iter().map(|route| {
                let (rate, way) = handle.rate(&route.peer);
                PeerRow {
                    network: handle.network().name.clone(),
                    peer: route.peer.to_base58(),
                    address: route.address,
                    path: if route.relayed { Path::Relayed } else { Path::Direct },
                    rtt_us: route.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
                    rate,
                    way,
                    holds: self.outside().held_by(&handle.name(&route.peer)).into_iter().map(topic).collect(),
                }
            }));
        }
        peers
    }

    async fn status(&self) -> Status {
        let peers = self.peers().await;
        let catalogs = self.catalogs();
        let store = self.engine.store().clone();
        let engine = Arc::clone(&self.engine);
        let (bytes, projects, contradictions) = span::blocking(move || {
            let contradictions = store.index().contradictions();
            // It may have begun to count only just now.
            let bytes = store.used().map_or_else(|| store.total(), Ok);
            // A status with a part missing is better than none.
            (
                (bytes.unwrap_or_default(), store.content().part_bytes().unwrap_or_default()),
                engine.tallies().unwrap_or_default(),
                contradictions.unwrap_or_default(),
            )
        })
        .await;
        Status {
            pid: std::process::id(),
            up_s: clock::moment().since(self.started).as_secs(),
            http: self.http.clone(),
            networks: self.reached(),
            peers,
            catalogs,
            evidence: self.evidence(),
            numbers: self.engine.counts().now(),
            projects,
            contradictions,
            doubted: self.engine.doubts().count(),
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

/// The settings with what differs for this run.
fn listening(mut config: Config, options: &Options) -> Config {
    if let Some(listen) = &options.http {
        config.http.listen.clone_from(listen);
    }
    config
}

fn lock_path(home: &Home) -> PathBuf {
    home.root().join("lock")
}

/// Whether a daemon has a home to itself. One that cannot be asked about is not held.
pub fn is_held(home: &Home) -> bool {
    let locked = File::open(lock_path(home)).map(|file| file.try_lock_shared());
    matches!(locked, Ok(Err(TryLockError::WouldBlock)))
}

fn lock(home: &Home) -> Result<File, StartError> {
    let path = lock_path(home);
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
            News::Holds(topic) => networks::hold(&outside, topic).await,
        }
    }
}
