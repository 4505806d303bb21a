// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the catalogs' Plan says: writes own Catalogs and tells of them, and answers those who follow them.
//! Looking for those of others is in `look`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use potluck_keys::ring;
use potluck_keys::signed::Signed;
use potluck_protocol::action::Project;
use potluck_protocol::codec::Bytes;
use potluck_protocol::entry::claim_digest;
use potluck_protocol::head::{Head, Ledger, Line, Seen};
use potluck_protocol::peer::{Given, HeadBytes, Heads, Pull, Push, Topic};
use tokio::sync::mpsc;

use super::evidence::{Evidence, Exhibit, MAX_FILE_BYTES, Offence};
use super::look;
use super::plan::{Action, Catalogs, Event, Wrote};
use crate::announce::plan::{Event as Announce, What};
use crate::drive::drive;
use crate::engine::Engine;
use crate::engine::publish::FlushError;
use crate::index::IndexError;
use crate::observe::{clock, span};
use crate::outside::Outside;
use crate::peer::Peer;
use crate::store::StoreError;

/// How much older than the one known a pushed Head is at least that is called a rollback: of two that were pushed one
/// after the other, the first may come last.
const STALE: std::time::Duration = std::time::Duration::from_secs(60);

/// How often what changed of the evidence is written.
const KEEP_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// Keeps the evidence for the next run, until its task is ended; see [`keep_evidence`] for the rest then.
pub async fn evidence(outside: Arc<Outside>, file: PathBuf) {
    loop {
        tokio::time::sleep(KEEP_EVERY).await;
        keep_evidence(&outside, &file).await;
    }
}

/// Takes over what earlier runs kept; nothing when it cannot be read, for all of it is only for people. Blocks.
pub fn recall_evidence(outside: &Outside, file: &Path) {
    if let Ok(bytes) = ring::read(file, MAX_FILE_BYTES) {
        outside.recall(Evidence::read(&bytes, clock::now()));
    }
}

/// Writes what changed of the evidence.
pub async fn keep_evidence(outside: &Outside, file: &Path) {
    let Some(bytes) = outside.new_evidence() else { return };
    let path = file.to_owned();
    let write = move || {
        let folder = path.parent().unwrap_or(&path);
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
        file.write_all(&bytes)?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok::<_, std::io::Error>(())
    };
    if let Err(error) = span::blocking(write).await {
        tracing::warn!(%error, "what was refused cannot be kept for the next run");
    }
}

/// Runs the Plan until nobody can send events any more.
pub async fn run(outside: Arc<Outside>, events: mpsc::Receiver<Event>) {
    let mut seed = [0; 8];
    // Without chance, nodes that start together may ask together, which is no harm.
    let _ = getrandom::fill(&mut seed);
    drive(Catalogs::new(u64::from_le_bytes(seed)), events, |action| perform(&outside, action)).await;
}

fn perform(outside: &Arc<Outside>, action: Action) {
    match action {
        Action::Flush(project) => tell("flush", outside, async move |outside| {
            let (wrote, merge) = flush(&outside, &project).await;
            Event::Flushed { project, wrote, merge }
        }),
        Action::Merge(project) => tell("merge", outside, async move |outside| {
            let more = merge(&outside, &project).await;
            Event::Merged { project, more }
        }),
        Action::Look(topic, source) => tell("look", outside, async move |outside| {
            let found = look::look(&outside, &topic, source).await;
            Event::Looked { topic, source, found }
        }),
        // The engine was told already whom to follow.
        Action::Forget(topic) => {
            tracing::info!(signer = %topic.signer, project = %topic.project, "not followed");
        }
    }
}

/// Starts something whose outcome is an event.
fn tell<F>(name: &'static str, outside: &Arc<Outside>, work: impl FnOnce(Arc<Outside>) -> F)
where
    F: Future<Output = Event> + Send + 'static,
{
    let (to, event) = (outside.plans().catalogs.clone(), work(Arc::clone(outside)));
    span::spawn(name, async move {
        let _ = to.send(event.await).await;
    });
}

/// Writes an own Catalog and tells of it. Gives what came of that, and whether Segments wait to be merged.
async fn flush(outside: &Arc<Outside>, project: &Project) -> (Wrote, bool) {
    let (engine, of) = (Arc::clone(outside.engine()), project.clone());
    match span::blocking(move || engine.flush(&of)).await {
        Ok(flushed) => {
            if let Some(head) = &flushed.head {
                spread(outside, project, head).await;
            }
            (if flushed.rest { Wrote::Part } else { Wrote::All }, flushed.merge)
        }
        Err(error) => (failed(project, &error), false),
    }
}

fn failed(project: &Project, error: &FlushError) -> Wrote {
    tracing::error!(%project, %error, "the catalog cannot be written");
    Wrote::Failed
}

/// Merges Segments of an own Catalog and tells of it. Gives whether more are waiting, or nothing when it failed.
async fn merge(outside: &Arc<Outside>, project: &Project) -> Option<bool> {
    let (engine, of) = (Arc::clone(outside.engine()), project.clone());
    match span::blocking(move || engine.merge(&of)).await {
        Ok(merged) => {
            if let Some(head) = &merged.head {
                spread(outside, project, head).await;
            }
            Some(merged.more)
        }
        Err(error) => {
            failed(project, &error);
            None
        }
    }
}

/// Tells those who listen of a new Head, and has the DHT told.
async fn spread(outside: &Arc<Outside>, project: &Project, head: &Signed<Head>) {
    let Some(signer) = outside.engine().signer() else { return };
    let topic = Topic { signer, project: project.clone() };
    push(outside, &topic, head);
    for handle in outside.networks_of(project) {
        let say = Announce::Say(handle.network().name.clone(), What::Heads(topic.clone()));
        let _ = outside.plans().announce.send(say).await;
    }
}

/// Pushes a new Head to everyone who wants it.
fn push(outside: &Arc<Outside>, topic: &Topic, head: &Signed<Head>) {
    let Some(bytes) = Bytes::new(head.bytes().to_vec()) else { return };
    for peer in outside.listeners(topic) {
        let (outside, bytes) = (Arc::clone(outside), bytes.clone());
        // One that is slow holds up nobody else.
        span::spawn("push", async move {
            let Some(handle) = outside.network(&peer.network) else { return };
            let Ok(id) = handle.peer_of(&peer) else { return };
            if let Some(link) = handle.heads(id).await {
                link.say(Heads::Push(Push { heads: vec![bytes] })).await;
            }
        });
    }
}

/// A peer pushed a Head. Only those of topics that are followed and that are news are kept, and they are looked at at
/// once. Gives false when the Head is forged.
pub async fn pushed(outside: &Arc<Outside>, peer: &Peer, bytes: &HeadBytes) -> bool {
    let Ok(head) = Signed::<Head>::decode(bytes) else { return false };
    let Some(signer) = head.signers().next() else { return false };
    let topics = outside.engine().topics();
    // Checking the signature costs more than whoever made one up.
    if !topics.iter().any(|topic| topic.signer == signer) {
        return true;
    }
    let Ok(claim) = head.authentic() else { return false };
    let topic = Topic { signer, project: claim.project.clone() };
    if !outside.shares(&peer.network, topic.project.as_str()) || !topics.contains(&topic) {
        return true;
    }
    let (instance, sequence, root, issued) = (claim.instance, claim.sequence, claim.root, claim.issued);
    let line = Line { signer, project: claim.project.clone(), name: claim.name.clone(), instance };
    let listed = outside.engine().followed().listing(&topic, &instance).map(|listing| listing.issued);
    let last = outside.ledger().last(&line).copied();
    if let (Some(last), Some(listed)) = (last, listed)
        && sequence < last.sequence
        && issued.plus(STALE) < listed
    {
        let (have, got, from) = (Some(last), Seen { sequence, root }, Some(peer.clone()));
        let (offence, head, at) = (Offence::Rollback, claim_digest(&head), clock::now());
        outside.refused(Exhibit { topic, instance, offence, have, got, head, from, at, times: 1 });
        return true;
    }
    // An old Head is no news, however often it is told. One that contradicts what is known is looked at, and so is one
    // whose Catalog could not be had yet.
    let loaded = listed.is_some_and(|listed| listed >= issued);
    let old =
        |seen: Seen| sequence < seen.sequence || (sequence == seen.sequence && root == seen.root && loaded);
    if last.is_some_and(old) {
        return true;
    }
    outside.pushed(&topic, (instance, sequence), (head, peer.clone()));
    outside.holder(&topic, peer, Event::Pushed(topic.clone())).await;
    true
}

/// The Heads that a peer asks for, of what is shared in its Network, if they are newer than those it has. One that has
/// ended is no news to anybody: it would seem that this node held back what came after. Blocks.
pub fn given(outside: &Outside, peer: &Peer, pull: Pull) -> Given {
    let Pull { id, topics } = pull;
    let mut heads = Vec::new();
    let (mut seen, now) = (BTreeSet::new(), clock::now());
    for state in topics {
        let shared = outside.shares(&peer.network, state.topic.project.as_str());
        if !shared || !seen.insert(state.topic.clone()) {
            continue;
        }
        for head in heads_of(outside.engine(), &state.topic).unwrap_or_default() {
            let Ok(claim) = head.authentic() else { continue };
            let known = state.known.iter().find(|known| known.instance == claim.instance);
            if claim.not_after > now && known.is_none_or(|known| known.sequence < claim.sequence) {
                heads.extend(Bytes::new(head.bytes().to_vec()));
            }
        }
        if heads.len() >= potluck_protocol::peer::MAX_HEADS {
            break;
        }
    }
    heads.truncate(potluck_protocol::peer::MAX_HEADS);
    Given { id, heads }
}

/// All Heads of a topic that are known here, the own one among them. Blocks.
///
/// # Errors
/// [`StoreError`].
pub fn heads_of(engine: &Engine, topic: &Topic) -> Result<Vec<Signed<Head>>, StoreError> {
    let mut heads = Vec::new();
    if engine.signer() == Some(topic.signer) {
        match engine.own_head(&topic.project) {
            Ok(head) => heads.extend(head),
            Err(error) => tracing::error!(project = %topic.project, %error, "there is no own head to give"),
        }
    }
    heads.extend(engine.store().index().heads_of(&topic.signer, &topic.project)?);
    Ok(heads)
}

/// The ledger of the Heads seen in earlier runs. Blocks.
///
/// # Errors
/// [`IndexError`].
pub fn ledger(engine: &Engine) -> Result<Ledger, IndexError> {
    let heads = engine.store().index().heads()?;
    let lines = heads.into_iter().filter_map(|(signer, head)| {
        let claim = head.authentic().ok()?;
        let (project, name, instance) = (claim.project.clone(), claim.name.clone(), claim.instance);
        Some((Line { signer, project, name, instance }, Seen::of(claim)))
    });
    Ok(Ledger::restore(lines))
}
