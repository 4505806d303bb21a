// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the fetch Plan says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use potluck_keys::ring;
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::names::DhtKey;
use potluck_protocol::peer::{Ask, MAX_INLINE_BYTES, Question, Topic};
use tokio::sync::mpsc;

use super::download::Downloads;
use super::event::{Action, Brought, Event, Need, Space, Verdict};
use super::plan::Fetch;
use super::remembered::{self, MAX_FILE_BYTES};
use super::small::Lines;
use super::standing::Record;
use crate::drive::Spot;
use crate::link::Link;
use crate::observe::{clock, span};
use crate::outside::Outside;
use crate::peer::Peer;
use crate::swarm::limits;
use crate::swarm::transfer::{self, Job};

/// How many bytes of Trees and small files are taken with an answer, for each action.
const INLINE: u64 = 4 * MAX_INLINE_BYTES as u64;

/// Runs the Plan until nobody can send events any more. What is known about peers is kept in the file `remembered`.
pub async fn run(outside: Arc<Outside>, events: mpsc::Receiver<Event>, remembered: PathBuf) {
    let salt = salt();
    let downloads = Arc::new(Downloads::default());
    let path = remembered.clone();
    let known = span::blocking(move || {
        // Without it one learns anew.
        ring::read(&path, MAX_FILE_BYTES)
            .map(|bytes| remembered::read(&bytes, clock::now()))
            .unwrap_or_default()
    });
    let plan = Fetch::new(salt).remembering(known.await);
    let driven = Driven { outside, downloads, small: Arc::default(), remembered };
    let known = Arc::clone(&driven.outside);
    let spot = Spot::new(plan, events, move |action| perform(&driven, action));
    known.fetches(&spot);
    drop(known);
    spot.run().await;
}

/// Keeps what is known about peers for the next run.
fn remember(path: PathBuf, records: Vec<(Peer, Record)>) {
    let write = move || {
        let folder = path.parent().unwrap_or(&path);
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
        file.write_all(&remembered::write(&records, clock::now()))?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok::<_, std::io::Error>(())
    };
    span::spawn("remember", async move {
        if let Err(error) = span::blocking(write).await {
            tracing::warn!(%error, "what is known about peers cannot be kept");
        }
    });
}

/// A number that differs from node to node.
fn salt() -> u64 {
    let mut salt = [0; 8];
    // Without any, all nodes would begin with the same pieces, and share them all the same.
    let _ = getrandom::fill(&mut salt);
    u64::from_le_bytes(salt)
}

/// What the driver works with.
struct Driven {
    outside: Arc<Outside>,
    downloads: Arc<Downloads>,
    small: Arc<Lines>,
    remembered: PathBuf,
}

fn perform(Driven { outside, downloads, small, remembered }: &Driven, action: Action) {
    if let Action::Find(_) | Action::FindBlob { .. } | Action::Ask { .. } | Action::Fetch { .. } = action {
        outside.engine().counts().sent();
    }
    match action {
        Action::Settle { look, action, miss } => outside.settle(look, action, miss),
        Action::Delivered { bring, all } => outside.delivered(bring, all),
        Action::Find(topic) => tell(outside, find(Arc::clone(outside), topic)),
        Action::FindBlob { need, projects } => tell(outside, find_blob(Arc::clone(outside), need, projects)),
        Action::Ask { question, peer, space, actions } => {
            let outside_too = Arc::clone(outside);
            outside.engine().traces().asking(&peer, &actions);
            span::spawn("fetch", async move {
                let verdicts = ask(&outside_too, &peer, &space, actions.clone()).await;
                outside_too.engine().traces().asked(&peer, &actions, verdicts.as_deref());
                // A tool waits for just this.
                outside_too.fetch(Event::Answered { question, verdicts }).await;
            });
        }
        Action::Open { open, need, projects } => {
            let handles = projects.iter().flat_map(|project| outside.networks_of(project));
            let own: BTreeSet<_> = handles.map(|handle| handle.name(&handle.peer())).collect();
            let own = own.into_iter().collect();
            let (store, download) = (outside.engine().store().clone(), downloads.begin(&need, projects));
            tell(outside, async move {
                let opened = span::blocking(move || Downloads::look(&download, &store, &need)).await;
                Event::Opened { open, need, opened, own }
            });
        }
        Action::Fetch { transfer, peer, need, .. } if need.is_small() => {
            outside.engine().traces().fetching(&peer, need);
            if small.add(&peer, transfer, need) {
                span::spawn("fetch", fetch_small(Arc::clone(outside), peer, Arc::clone(small)));
            }
        }
        Action::Fetch { transfer, peer, need, pieces } => {
            let (outside_too, downloads) = (Arc::clone(outside), Arc::clone(downloads));
            // At once: it may be stopped before it has begun.
            let stopped = downloads.started(transfer);
            outside.engine().traces().fetching(&peer, need);
            tell(outside, async move {
                let download = downloads.of(&need);
                let job = Job { transfer, need, pieces, download, stopped };
                let outcome = fetch(&outside_too, &peer, job).await;
                downloads.stop(transfer);
                outside_too.engine().traces().fetched(&peer, need, outcome);
                Event::Brought { transfer, outcome }
            });
        }
        Action::Stop(transfer) => downloads.stop(transfer),
        Action::Close(need) => downloads.close(&need),
        Action::Remember(records) => remember(remembered.clone(), records),
        Action::Review(space, action) => {
            let engine = Arc::clone(outside.engine());
            let known = Arc::clone(&engine);
            tell(outside, async move {
                let verdict = span::blocking(move || engine.verdict(&space, &action)).await;
                let verdict = verdict.unwrap_or_else(|error| {
                    tracing::warn!(%error, "the store does not work");
                    Verdict::Nothing
                });
                known.traces().needs(&action, &verdict);
                Event::Reviewed { action, verdict }
            });
        }
        Action::Drop(peer) => {
            let outside = Arc::clone(outside);
            span::spawn("drop", async move {
                if let Some(handle) = outside.network(&peer.network)
                    && let Ok(id) = handle.peer_of(&peer)
                {
                    handle.drop_peer(id).await;
                }
            });
        }
    }
}

/// Starts something whose outcome is an event.
fn tell(outside: &Arc<Outside>, work: impl Future<Output = Event> + Send + 'static) {
    let to = outside.plans().fetch.clone();
    span::spawn("fetch", async move {
        let _ = to.send(work.await).await;
    });
}

async fn find(outside: Arc<Outside>, topic: Topic) -> Event {
    let key = DhtKey::holders(&topic.signer, &topic.project, 0);
    let mut peers = Vec::new();
    outside.engine().traces().seeking(&topic);
    for handle in outside.networks_of(&topic.project) {
        peers.extend(handle.providers(key).await.iter().map(|peer| handle.name(peer)));
    }
    outside.engine().traces().sought(&topic, peers.len());
    Event::Holders { topic, peers, sought: true }
}

/// Who says on the DHT that he has a Blob, wherever it may be asked for. A Network is asked once, whatever is shared there.
async fn find_blob(outside: Arc<Outside>, need: Need, projects: BTreeSet<Project>) -> Event {
    let key = DhtKey::blob(&need.digest);
    let of = |project: &Project| outside.networks_of(project);
    let handles = projects.iter().flat_map(of).map(|handle| (handle.network().name.clone(), handle));
    let handles: BTreeMap<_, _> = handles.collect();
    let mut peers = Vec::new();
    for handle in handles.values() {
        let own = handle.peer();
        let others = handle.providers(key).await.into_iter().filter(|peer| *peer != own);
        peers.extend(others.map(|peer| handle.name(&peer)));
    }
    tracing::debug!(blob = %need.digest, peers = peers.len(), "who has it, by the DHT");
    Event::Sources { need, peers }
}

/// Asks one peer; gives what is known of each action it knew, or nothing when it did not answer.
async fn ask(
    outside: &Arc<Outside>,
    peer: &Peer,
    space: &Space,
    actions: Vec<ActionId>,
) -> Option<Vec<(ActionId, Verdict)>> {
    let handle = outside.network(&peer.network)?;
    let id = handle.peer_of(peer).ok()?;
    let link = handle.ask(id).await?;
    let answered = ask_on(outside, &link, (space, actions.clone())).await;
    if answered.is_some() {
        return answered;
    }
    let link = handle.ask_beside(id, &link).await?;
    ask_on(outside, &link, (space, actions)).await
}

/// The same on one stream.
async fn ask_on(
    outside: &Arc<Outside>,
    link: &Link<Ask, Ask>,
    (space, actions): (&Space, Vec<ActionId>),
) -> Option<Vec<(ActionId, Verdict)>> {
    let inline = INLINE.saturating_mul(actions.len() as u64);
    let (project, asked) = (space.project.clone(), actions.clone());
    let mut answers =
        link.ask(move |id| Ask::Question(Question { id, project, actions: asked, inline })).await?;
    let mut verdicts = Vec::new();
    let mut open: BTreeSet<_> = actions.into_iter().collect();
    loop {
        let answer = tokio::time::timeout(limits::READ_STALL, answers.next()).await.ok()??;
        let Ask::Answer(mut answer) = answer else { return None };
        // Only what was asked, and that once: whoever goes on without saying anything new is not listened to for ever.
        answer.found.retain(|found| open.remove(&found.action));
        if answer.found.is_empty() && !answer.last {
            return None;
        }
        match outside.engine().told_by_peer(space, answer.found).await {
            Ok(told) => verdicts.extend(told),
            Err(error) => tracing::warn!(%error, "an answer cannot be kept"),
        }
        if answer.last || open.is_empty() {
            return Some(verdicts);
        }
    }
}

async fn fetch(outside: &Arc<Outside>, peer: &Peer, job: Job) -> Brought {
    let Some(handle) = outside.network(&peer.network) else { return Brought::Failed };
    let Ok(id) = handle.peer_of(peer) else { return Brought::Failed };
    transfer::fetch((outside.engine(), &outside.plans().fetch), (&handle, id), job).await
}

/// Fetches small Blobs from one peer until none waits.
async fn fetch_small(outside: Arc<Outside>, peer: Peer, small: Arc<Lines>) {
    while let Some(batch) = small.next(&peer) {
        let needs = batch.iter().map(|(_, need)| *need).collect();
        let link = outside.network(&peer.network).and_then(|handle| {
            let id = handle.peer_of(&peer).ok()?;
            Some((handle, id))
        });
        let mut ended: BTreeMap<_, _> = match link {
            Some((handle, id)) => transfer::fetch_small(outside.engine(), (&handle, id), needs).await,
            None => Vec::new(),
        }
        .into_iter()
        .collect();
        for (transfer, need) in batch {
            let outcome = ended.remove(&need).unwrap_or(Brought::Failed);
            outside.engine().traces().fetched(&peer, need, outcome);
            let _ = outside.plans().fetch.send(Event::Brought { transfer, outcome }).await;
        }
    }
}
