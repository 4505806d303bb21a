// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looks for news of the Catalogs of others, wherever the Plan says, and fetches what is new of them: the list of
//! Segments, and the filters that are not here yet. Rows are fetched by nobody who only follows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use potluck_keys::policy::{Reason, Want};
use potluck_keys::signed::Signed;
use potluck_protocol::catalog::{Catalog, Filter, MAX_CATALOG_BYTES};
use potluck_protocol::codec;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::claim_digest;
use potluck_protocol::head::{CATALOG, Head, HeadSet, Instance, Line, Seen, StepError};
use potluck_protocol::names::DhtKey;
use potluck_protocol::peer::{Heads, Known, Pull, Topic, TopicState};

use super::driver::heads_of;
use super::evidence::{Exhibit, Offence};
use super::followed::{Listing, NotTaken};
use super::plan::{Found, Source, whom};
use crate::content::Durability;
use crate::fetch;
use crate::fetch::event::Need;
use crate::observe::{clock, span};
use crate::outside::Outside;
use crate::peer::Peer;
use crate::swarm::{Handle, Value, limits};

/// How long the parts of a Catalog may take to come.
const BRING_WITHIN: Duration = Duration::from_secs(30);

/// What is looked at: where it was looked for, and who offered it.
#[derive(Clone, Copy)]
struct Way<'a> {
    topic: &'a Topic,
    source: Source,
    from: Option<&'a Peer>,
}

/// A Head that was offered, and by whom; nobody in particular on the DHT.
struct Offer {
    head: Signed<Head>,
    from: Option<Peer>,
    /// Whether anybody says so who should know: what lies here for the DHT, or on the disk, says nothing of today, and
    /// those who only follow as this node does may all be behind.
    told: bool,
}

impl Offer {
    fn claim(&self) -> Option<&Head> {
        self.head.authentic().ok()
    }
}

/// Looks for news of a topic, and takes them.
pub(super) async fn look(outside: &Arc<Outside>, topic: &Topic, source: Source) -> Found {
    let offers = match source {
        Source::Disk => disk(outside, topic).await,
        Source::Push => outside
            .take_pushed(topic)
            .into_iter()
            .map(|(head, from)| Offer { head, from: Some(from), told: true })
            .collect(),
        Source::Poll => poll(outside, topic).await,
        Source::Dht => dht(outside, topic).await,
    };
    let mut lines: BTreeMap<Instance, Vec<Offer>> = BTreeMap::new();
    let mut told = false;
    for offer in offers {
        // Whoever holds several topics may mix them up.
        let fits = |claim: &Head| claim.project == topic.project && &*claim.name == CATALOG;
        let Some(claim) = offer.claim().filter(|claim| fits(claim)) else { continue };
        let instance = claim.instance;
        if offer.head.signers().eq([topic.signer]) {
            told |= offer.told;
            lines.entry(instance).or_default().push(offer);
        }
    }
    tracing::debug!(signer = %topic.signer, project = %topic.project, ?source, heads = lines.len(), "looked for news");
    if lines.is_empty() {
        return Found::Nothing;
    }
    for offers in lines.values_mut() {
        offers.sort_by_key(|offer| std::cmp::Reverse(offer.claim().map(|claim| claim.sequence)));
    }
    let mut lines: Vec<_> = lines.into_values().collect();
    // Those that have ended come last.
    lines.sort_by_key(|offers| {
        std::cmp::Reverse(offers.first().and_then(Offer::claim).map(|claim| claim.not_after))
    });
    let mut well = true;
    for offers in lines {
        let mut offers = offers.into_iter();
        let Some(newest) = offers.next() else { continue };
        let now = clock::now();
        let is_over = newest.claim().is_some_and(|claim| {
            claim.not_after <= now && outside.engine().followed().is_over(topic, &claim.instance, now)
        });
        let is_over = is_over && source != Source::Disk;
        well &= is_over || take(outside, (topic, source), &newest).await;
        offers.for_each(|offer| compare(outside, topic, &offer));
    }
    if !well {
        return Found::Failed;
    }
    match (source, told) {
        (Source::Disk, _) => Found::Well,
        // Nobody could say anything; what lay here was taken all the same.
        (_, false) => Found::Nothing,
        (_, true) => {
            outside.engine().followed_mut().looked(topic, clock::now());
            Found::Well
        }
    }
}

/// What earlier runs kept.
async fn disk(outside: &Arc<Outside>, topic: &Topic) -> Vec<Offer> {
    let (engine, of) = (Arc::clone(outside.engine()), topic.clone());
    let heads = span::blocking(move || heads_of(&engine, &of)).await.unwrap_or_default();
    heads.into_iter().map(|head| Offer { head, from: None, told: false }).collect()
}

/// What those have that are connected, some of them at a time and others the next time.
async fn poll(outside: &Arc<Outside>, topic: &Topic) -> Vec<Offer> {
    let turn = usize::try_from(outside.turn()).unwrap_or(0);
    let asked = whom(&outside.holders(topic), &outside.listeners(topic), turn);
    let known = known(outside, topic);
    let pull = async |(peer, holds): (&Peer, &bool)| {
        let heads = pull(outside, (peer, topic), known.clone()).await;
        heads
            .into_iter()
            .map(|head| Offer { head, from: Some(peer.clone()), told: *holds })
            .collect::<Vec<_>>()
    };
    join_all(asked.iter().map(pull)).await.into_iter().flatten().collect()
}

/// How far this node is, less one: holders then give what is newest as well if that is no news, by which it is known
/// that it is, and that all of them say the same.
fn known(outside: &Outside, topic: &Topic) -> Vec<Known> {
    let seen = outside.ledger().of(&topic.signer, &topic.project);
    let before = |(instance, seen): (Instance, Seen)| {
        Some(Known { instance, sequence: seen.sequence.checked_sub(1).filter(|before| *before > 0)? })
    };
    seen.into_iter().filter_map(before).take(potluck_protocol::head::MAX_INSTANCES).collect()
}

/// The Heads that a peer has of a topic, and that are not older than those known here.
async fn pull(
    outside: &Arc<Outside>,
    (peer, topic): (&Peer, &Topic),
    known: Vec<Known>,
) -> Vec<Signed<Head>> {
    let asked = async {
        let handle = outside.network(&peer.network)?;
        let link = handle.heads(handle.peer_of(peer).ok()?).await?;
        let state = TopicState { topic: topic.clone(), known };
        let ask = link.ask(move |id| Heads::Pull(Pull { id, topics: vec![state] }));
        let answer = async { ask.await?.next().await };
        match tokio::time::timeout(limits::READ_STALL, answer).await.ok()?? {
            Heads::Given(given) => Some(given),
            _ => None,
        }
    };
    let Some(given) = asked.await else { return Vec::new() };
    given.heads.iter().filter_map(|head| Signed::decode(head).ok()).collect()
}

/// What stands on the DHT, which may be behind: the last thing that a signer published may not have got there before it
/// went away.
async fn dht(outside: &Arc<Outside>, topic: &Topic) -> Vec<Offer> {
    let key = DhtKey::catalog(&topic.signer, &topic.project);
    let handles = outside.networks_of(&topic.project);
    let get = async |handle: &Handle| match handle.members().await.is_empty() {
        // What stands in this node's own part of the DHT is what this node put there.
        true => Vec::new(),
        false => handle.values(key).await,
    };
    let values = join_all(handles.iter().map(get)).await;
    let set = |value: &Value| Some((HeadSet::receive(&value.bytes, &key).ok()?, value.told));
    let sets = values.iter().flatten().filter_map(set);
    let offers = |(set, told): (HeadSet, bool)| {
        let heads: Vec<_> = set.heads().cloned().collect();
        heads.into_iter().map(move |head| Offer { head, from: None, told })
    };
    sets.flat_map(offers).collect()
}

fn line(topic: &Topic, claim: &Head) -> Line {
    let Head { name, instance, .. } = claim.clone();
    Line { signer: topic.signer, project: topic.project.clone(), name, instance }
}

/// Looks at a Head that is not the newest that was offered: whether it contradicts what was seen.
fn compare(outside: &Outside, topic: &Topic, offer: &Offer) {
    let Some(claim) = offer.claim() else { return };
    let last = outside.ledger().last(&line(topic, claim)).copied();
    if let Some(last) = last.filter(|last| last.sequence == claim.sequence && last.root != claim.root) {
        refuse(outside, topic, (offer, claim), (Offence::Fork, Some(last)));
    }
}

/// Notes why a Head was refused.
fn refuse(
    outside: &Outside,
    topic: &Topic,
    (offer, claim): (&Offer, &Head),
    (offence, have): (Offence, Option<Seen>),
) {
    let (topic, instance, got) = (topic.clone(), claim.instance, Seen::of(claim));
    let (head, from, at) = (claim_digest(&offer.head), offer.from.clone(), clock::now());
    outside.refused(Exhibit { topic, instance, offence, have, got, head, from, at, times: 1 });
}

/// Whether the policy lets a Head pass and it does not go back; what is wrong is reported.
fn passes(outside: &Outside, (topic, source): (&Topic, Source), offer: &Offer) -> bool {
    let policy = outside.engine().trusting().now();
    let want = Want { project: topic.project.as_str(), recipe: None, subject: CATALOG.as_bytes() };
    let Some(claim) = offer.claim() else { return false };
    let last = outside.ledger().last(&line(topic, claim)).copied();
    match policy.judge(&offer.head, &want, clock::now()) {
        // It was taken by an earlier run.
        Ok(_) if source == Source::Disk => true,
        Ok(trusted) => match outside.ledger().take(&trusted) {
            Ok(_) => true,
            // Those who hold a record of the DHT know nothing of each other.
            Err(StepError::Rollback { .. }) if source == Source::Dht => false,
            Err(StepError::Rollback { .. }) => {
                refuse(outside, topic, (offer, claim), (Offence::Rollback, last));
                false
            }
            Err(StepError::Fork { .. }) => {
                refuse(outside, topic, (offer, claim), (Offence::Fork, last));
                false
            }
        },
        Err(refusal) => {
            let ended = matches!(refusal.reason, Reason::Expired { .. });
            if ended {
                refuse(outside, topic, (offer, claim), (Offence::Freeze, last));
            } else {
                outside.engine().counts().refused(refusal.reason.code(), &policy.name_of(&topic.signer));
            }
            tracing::warn!(signer = %topic.signer, project = %topic.project, reason = refusal.reason.code(), "a head was refused");
            // What it leads to is judged by itself, and better than nothing.
            ended && source == Source::Disk
        }
    }
}

/// Takes one Head, and fetches what is new of its Catalog; gives whether all is well with it.
async fn take(outside: &Arc<Outside>, (topic, source): (&Topic, Source), offer: &Offer) -> bool {
    if !passes(outside, (topic, source), offer) {
        return false;
    }
    let Some(claim) = offer.claim().cloned() else { return false };
    let instance = claim.instance;
    let engine = outside.engine();
    let held = engine.followed().listing(topic, &instance).map(|listing| (listing.issued, listing.not_after));
    if held == Some((claim.issued, claim.not_after)) {
        return true;
    }
    let way = Way { topic, source, from: offer.from.as_ref() };
    let Some(listing) = load(outside, way, &claim).await else { return false };
    if source != Source::Disk {
        let (engine, signer, head) = (Arc::clone(engine), topic.signer, offer.head.clone());
        let kept = span::blocking(move || engine.store().index().keep_head(&signer, &head)).await;
        if let Err(error) = kept {
            tracing::warn!(%error, "a head cannot be remembered");
        }
    }
    let keys = listing.catalog.rows();
    let taken = engine.followed_mut().take(topic, instance, listing);
    match taken {
        Ok(()) => {
            tracing::info!(signer = %topic.signer, project = %topic.project, keys, ?source, "followed a catalog");
            let _ = outside.plans().fetch.send(fetch::event::Event::Moved(topic.clone())).await;
            true
        }
        Err(NotTaken::TooLarge) => {
            engine.counts().refused("too-large", &engine.trusting().now().name_of(&topic.signer));
            tracing::warn!(signer = %topic.signer, project = %topic.project, keys, "a catalog is too large to be followed");
            false
        }
        Err(NotTaken::Older | NotTaken::Stranger) => true,
    }
}

/// Fetches the Catalog that a Head points to, and the filters that are not here yet.
async fn load(outside: &Arc<Outside>, way: Way<'_>, head: &Head) -> Option<Listing> {
    let Way { topic, source, .. } = way;
    if head.size > MAX_CATALOG_BYTES as u64 {
        return None;
    }
    let bytes = part(outside, way, Need { digest: head.root, size: head.size }).await?;
    let catalog: Catalog = codec::decode(&bytes, MAX_CATALOG_BYTES).ok()?;
    if catalog.project != topic.project {
        return None;
    }
    let known = {
        let followed = outside.engine().followed();
        let listing = followed.listing(topic, &head.instance);
        let filters = |listing: &Listing| {
            let digests = listing.catalog.segments.iter().map(|segment| segment.filter);
            digests.zip(listing.filters.iter().cloned()).collect::<BTreeMap<Digest, Arc<Filter>>>()
        };
        listing.map(filters).unwrap_or_default()
    };
    let missing = catalog.segments.iter().filter(|segment| !known.contains_key(&segment.filter));
    let missing: Vec<_> =
        missing.map(|segment| Need { digest: segment.filter, size: segment.filter_size }).collect();
    if !missing.is_empty() && !bring(outside, way, missing).await {
        return None;
    }
    let mut filters = Vec::with_capacity(catalog.segments.len());
    for segment in &catalog.segments {
        let filter = match known.get(&segment.filter) {
            Some(filter) => Arc::clone(filter),
            None => {
                let need = Need { digest: segment.filter, size: segment.filter_size };
                Arc::new(Filter::decode(&part(outside, way, need).await?).ok()?)
            }
        };
        // A filter for other rows than the Segment has would make misses of hits, or the other way round.
        if filter.keys() != segment.rows {
            return None;
        }
        filters.push(filter);
    }
    let Head { sequence, issued, not_after, .. } = *head;
    Some(Listing { catalog, filters, sequence, issued, not_after, source })
}

/// All bytes of one part of a Catalog.
async fn part(outside: &Arc<Outside>, way: Way<'_>, need: Need) -> Option<Vec<u8>> {
    if !bring(outside, way, vec![need]).await {
        return None;
    }
    let store = outside.engine().store().clone();
    span::blocking(move || store.bytes(&need.digest, need.size)).await.ok()?
}

/// Brings parts of a Catalog, which then may be passed on where the Project is shared. What earlier runs kept is all
/// there is on the disk, and no packet goes out for more.
async fn bring(outside: &Arc<Outside>, way: Way<'_>, needs: Vec<Need>) -> bool {
    let Way { topic, source, from } = way;
    let digests: Vec<_> = needs.iter().map(|need| need.digest).collect();
    let store = outside.engine().store().clone();
    let here = store.clone();
    let absent = span::blocking(move || {
        needs.into_iter().filter(|need| !here.has(&need.digest).unwrap_or(false)).collect::<Vec<_>>()
    })
    .await;
    let lacks = !absent.is_empty();
    if lacks {
        let wanted = (absent, others(outside, topic, from));
        if source == Source::Disk || !outside.bring(topic, wanted, BRING_WITHIN).await {
            return false;
        }
    }
    let project = topic.project.clone();
    span::blocking(move || store.index().belong(&digests, &project, Durability::Fast)).await.is_ok()
}

/// Who may have the parts of a Catalog beside those who hold the topic: whoever offered the Head, as those do who only
/// follow, and all of them where nobody holds it.
fn others(outside: &Outside, topic: &Topic, from: Option<&Peer>) -> Vec<Peer> {
    let holders = outside.holders(topic);
    let followers = if holders.is_empty() { outside.listeners(topic) } else { Vec::new() };
    let mut others: Vec<_> = from.into_iter().cloned().chain(followers).collect();
    others.retain(|peer| !holders.contains(peer));
    others
}
