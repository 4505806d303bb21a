// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the catalogs' Plan says: writes own Catalogs and tells of them, and fetches those of others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use potluck_keys::policy::Want;
use potluck_keys::signed::Signed;
use potluck_protocol::action::Project;
use potluck_protocol::catalog::{Catalog, Filter, MAX_CATALOG_BYTES};
use potluck_protocol::codec::{self, Bytes};
use potluck_protocol::digest::Digest;
use potluck_protocol::head::{CATALOG, Head, HeadSet, Instance, Ledger, Line, Seen};
use potluck_protocol::names::DhtKey;
use potluck_protocol::peer::{Given, HeadBytes, Heads, Pull, Push, Topic, TopicState};
use tokio::sync::mpsc;

use super::followed::Listing;
use super::plan::{Action, Catalogs, Event};
use crate::announce::plan::{Event as Announce, What};
use crate::content::Durability;
use crate::drive::drive;
use crate::engine::Engine;
use crate::fetch;
use crate::fetch::event::Need;
use crate::index::IndexError;
use crate::observe::{clock, span};
use crate::outside::Outside;
use crate::peer::Peer;
use crate::store::StoreError;
use crate::swarm::limits;

/// Most holders that are asked for Heads at a time.
const MAX_PULLED: usize = 4;
/// How long the parts of a Catalog may take to come.
const BRING_WITHIN: Duration = Duration::from_secs(30);

/// Runs the Plan until nobody can send events any more.
pub async fn run(outside: Arc<Outside>, events: mpsc::Receiver<Event>) {
    drive(Catalogs::new(), events, |action| perform(&outside, action)).await;
}

fn perform(outside: &Arc<Outside>, action: Action) {
    let outside = Arc::clone(outside);
    match action {
        Action::Flush(project) => {
            span::spawn("flush", async move {
                let rest = flush(&outside, &project).await;
                let _ = outside.plans().catalogs.send(Event::Flushed { project, rest }).await;
            });
        }
        Action::Poll(topic) => {
            span::spawn("poll", async move {
                let found = poll(&outside, &topic).await;
                let _ = outside.plans().catalogs.send(Event::Polled { topic, found }).await;
            });
        }
        // The engine was told already whom to follow.
        Action::Forget(topic) => {
            tracing::info!(signer = %topic.signer, project = %topic.project, "not followed");
        }
    }
}

/// Writes an own Catalog, tells those who listen, and has the DHT told. Gives whether there is more to write.
async fn flush(outside: &Arc<Outside>, project: &Project) -> bool {
    let (engine, of) = (Arc::clone(outside.engine()), project.clone());
    let flushed = match span::blocking(move || engine.flush(&of)).await {
        Ok(flushed) => flushed,
        Err(error) => {
            tracing::error!(%project, %error, "the catalog cannot be written");
            return true;
        }
    };
    if let (Some(head), Some(signer)) = (flushed.head, outside.engine().signer()) {
        let topic = Topic { signer, project: project.clone() };
        for handle in outside.networks_of(project) {
            let say = Announce::Say(handle.network().name.clone(), What::Heads(topic.clone()));
            let _ = outside.plans().announce.send(say).await;
        }
        push(outside, &topic, &head);
    }
    flushed.rest
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

/// A peer pushed a Head. Only those of topics that are followed and that are news are kept, and they are looked at with
/// the next poll, which starts at once. Gives false when the Head is forged.
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
    // An old Head is no news, however often it is told. One that contradicts what is known is looked at, and so is one
    // whose Catalog could not be had yet.
    let loaded = outside.engine().followed().listing(&topic, &instance).is_some_and(|l| l.issued >= issued);
    let old =
        |seen: &Seen| sequence < seen.sequence || (sequence == seen.sequence && root == seen.root && loaded);
    if outside.ledger().last(&line).is_some_and(old) {
        return true;
    }
    outside.pushed(&topic, (instance, sequence), head);
    outside.holder(&topic, peer).await;
    true
}

/// The Heads that a peer asks for, of what is shared in its Network, if they are newer than those it has. Blocks.
pub fn given(outside: &Outside, peer: &Peer, pull: Pull) -> Given {
    let Pull { id, topics } = pull;
    let mut heads = Vec::new();
    let mut seen = BTreeSet::new();
    for state in topics {
        let shared = outside.shares(&peer.network, state.topic.project.as_str());
        if !shared || !seen.insert(state.topic.clone()) {
            continue;
        }
        for head in heads_of(outside.engine(), &state.topic).unwrap_or_default() {
            let Ok(claim) = head.authentic() else { continue };
            let known = state.known.iter().find(|known| known.instance == claim.instance);
            if known.is_none_or(|known| known.sequence < claim.sequence) {
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
    for (signer, head) in engine.store().index().heads()? {
        if signer == topic.signer && head.authentic().is_ok_and(|claim| claim.project == topic.project) {
            heads.push(head);
        }
    }
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

/// Looks for news of a topic; gives whether something is known of it now.
async fn poll(outside: &Arc<Outside>, topic: &Topic) -> bool {
    let mut newest: BTreeMap<Instance, Signed<Head>> = BTreeMap::new();
    for head in candidates(outside, topic).await {
        let Ok(claim) = head.authentic() else { continue };
        let known = newest.get(&claim.instance).and_then(|known| known.authentic().ok());
        if known.is_none_or(|known| known.sequence < claim.sequence) {
            newest.insert(claim.instance, head);
        }
    }
    tracing::debug!(signer = %topic.signer, project = %topic.project, heads = newest.len(), "looked for news");
    let mut well = true;
    for (instance, head) in newest {
        well &= take(outside, topic, instance, &head).await;
    }
    well && outside.engine().followed().knows(topic)
}

/// The Heads that a peer has of a topic and that are newer than those known here.
async fn pull(outside: &Arc<Outside>, peer: &Peer, topic: &Topic) -> Option<Vec<Signed<Head>>> {
    let handle = outside.network(&peer.network)?;
    let link = handle.heads(handle.peer_of(peer).ok()?).await?;
    let state = TopicState { topic: topic.clone(), known: Vec::new() };
    let ask = link.ask(move |id| Heads::Pull(Pull { id, topics: vec![state] }));
    let answer = async { ask.await?.next().await };
    let Heads::Given(given) = tokio::time::timeout(limits::READ_STALL, answer).await.ok()?? else {
        return None;
    };
    Some(given.heads.iter().filter_map(|head| Signed::decode(head).ok()).collect())
}

/// All Heads of a topic that can be had: pushed, remembered from an earlier run, of those who hold its Entries, and on
/// the DHT. The DHT may be behind: the last thing that a signer published may not have got there before it went away.
async fn candidates(outside: &Arc<Outside>, topic: &Topic) -> Vec<Signed<Head>> {
    let mut heads = outside.take_pushed(topic);
    let (engine, of) = (Arc::clone(outside.engine()), topic.clone());
    heads.extend(span::blocking(move || heads_of(&engine, &of)).await.unwrap_or_default());
    for peer in outside.holders(topic).into_iter().take(MAX_PULLED) {
        heads.extend(pull(outside, &peer, topic).await.unwrap_or_default());
    }
    // A holder may know Heads of other signers as well.
    heads.retain(|head| head.signers().eq([topic.signer]));
    let key = DhtKey::catalog(&topic.signer, &topic.project);
    for handle in outside.networks_of(&topic.project) {
        for value in handle.get(key).await {
            if let Ok(set) = HeadSet::receive(&value, &key) {
                heads.extend(set.heads().cloned());
            }
        }
    }
    heads
}

/// Takes one Head, if the policy lets it and it does not go back, and fetches what is new of its Catalog; gives
/// whether all is well with it.
async fn take(outside: &Arc<Outside>, topic: &Topic, instance: Instance, head: &Signed<Head>) -> bool {
    let engine = outside.engine();
    let policy = engine.trusting().now();
    let want = Want { project: topic.project.as_str(), recipe: None, subject: CATALOG.as_bytes() };
    let refused = |reason: &str| {
        engine.counts().refused(reason, &policy.name_of(&topic.signer));
        tracing::warn!(signer = %topic.signer, project = %topic.project, reason, "a head was refused");
        false
    };
    let claim = match policy.judge(head, &want, clock::now()) {
        Ok(trusted) => match outside.ledger().take(&trusted) {
            Ok(_) => head.authentic().expect("it was judged").clone(),
            Err(error) => return refused(step_word(&error)),
        },
        Err(refusal) => return refused(refusal.reason.code()),
    };
    let held = engine.followed().listing(topic, &instance).map(|listing| (listing.issued, listing.not_after));
    if held == Some((claim.issued, claim.not_after)) {
        return true;
    }
    match load(outside, topic, instance, &claim).await {
        Some(listing) => {
            if let Err(error) = engine.store().index().keep_head(&topic.signer, head) {
                tracing::warn!(%error, "a head cannot be remembered");
            }
            let keys = listing.catalog.rows();
            tracing::info!(signer = %topic.signer, project = %topic.project, keys, "followed a catalog");
            engine.followed_mut().take(topic, instance, listing);
            let _ = outside.plans().fetch.send(fetch::event::Event::Moved).await;
            true
        }
        None => false,
    }
}

fn step_word(error: &potluck_protocol::head::StepError) -> &'static str {
    use potluck_protocol::head::StepError;
    match error {
        StepError::Rollback { .. } => "rollback",
        StepError::Fork { .. } => "fork",
    }
}

/// Fetches the Catalog that a Head points to, and the filters that are not here yet.
async fn load(outside: &Arc<Outside>, topic: &Topic, instance: Instance, head: &Head) -> Option<Listing> {
    if head.size > MAX_CATALOG_BYTES as u64 {
        return None;
    }
    let bytes = part(outside, topic, Need { digest: head.root, size: head.size }).await?;
    let catalog: Catalog = codec::decode(&bytes, MAX_CATALOG_BYTES).ok()?;
    if catalog.project != topic.project {
        return None;
    }
    let known = {
        let followed = outside.engine().followed();
        let listing = followed.listing(topic, &instance);
        let filters = |listing: &Listing| {
            let digests = listing.catalog.segments.iter().map(|segment| segment.filter);
            digests.zip(listing.filters.iter().cloned()).collect::<BTreeMap<Digest, Filter>>()
        };
        listing.map(filters).unwrap_or_default()
    };
    let missing = catalog.segments.iter().filter(|segment| !known.contains_key(&segment.filter));
    let missing: Vec<_> =
        missing.map(|segment| Need { digest: segment.filter, size: segment.filter_size }).collect();
    if !missing.is_empty() && !bring(outside, topic, missing).await {
        return None;
    }
    let mut filters = Vec::with_capacity(catalog.segments.len());
    for segment in &catalog.segments {
        let filter = match known.get(&segment.filter) {
            Some(filter) => filter.clone(),
            None => {
                let need = Need { digest: segment.filter, size: segment.filter_size };
                Filter::decode(&part(outside, topic, need).await?).ok()?
            }
        };
        // A filter for other rows than the Segment has would make misses of hits, or the other way round.
        if filter.keys() != segment.rows {
            return None;
        }
        filters.push(filter);
    }
    Some(Listing { catalog, filters, issued: head.issued, not_after: head.not_after })
}

/// All bytes of one part of a Catalog.
async fn part(outside: &Arc<Outside>, topic: &Topic, need: Need) -> Option<Vec<u8>> {
    if !bring(outside, topic, vec![need]).await {
        return None;
    }
    let store = outside.engine().store().clone();
    span::blocking(move || store.bytes(&need.digest, need.size)).await.ok()?
}

/// Brings parts of a Catalog, which then may be passed on where the Project is shared.
async fn bring(outside: &Arc<Outside>, topic: &Topic, needs: Vec<Need>) -> bool {
    let digests: Vec<_> = needs.iter().map(|need| need.digest).collect();
    let store = outside.engine().store().clone();
    let absent =
        needs.into_iter().filter(|need| !store.has(&need.digest).unwrap_or(false)).collect::<Vec<_>>();
    if !absent.is_empty() && !outside.bring(topic, absent, BRING_WITHIN).await {
        return false;
    }
    let project = topic.project.clone();
    span::blocking(move || store.index().belong(&digests, &project, Durability::Fast)).await.is_ok()
}
