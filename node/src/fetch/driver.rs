// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the fetch Plan says.

use std::collections::BTreeSet;
use std::sync::Arc;

use potluck_protocol::action::ActionId;
use potluck_protocol::names::DhtKey;
use potluck_protocol::peer::{Ask, MAX_INLINE_BYTES, Question, Topic};
use tokio::sync::mpsc;

use super::event::{Action, Brought, Event, Need, Space, Verdict};
use super::plan::Fetch;
use crate::drive::drive;
use crate::observe::span;
use crate::outside::Outside;
use crate::peer::Peer;
use crate::swarm::{limits, transfer};

/// How many bytes of Trees and small files are taken with an answer, for each action.
const INLINE: u64 = 4 * MAX_INLINE_BYTES as u64;

/// Runs the Plan until nobody can send events any more.
pub async fn run(outside: Arc<Outside>, events: mpsc::Receiver<Event>) {
    drive(Fetch::new(), events, |action| perform(&outside, action)).await;
}

fn perform(outside: &Arc<Outside>, action: Action) {
    match action {
        Action::Settle { look, action, miss } => outside.settle(look, action, miss),
        Action::Delivered { bring, all } => outside.delivered(bring, all),
        Action::Find(topic) => tell(outside, find(Arc::clone(outside), topic)),
        Action::Ask { question, peer, space, actions } => {
            let outside_too = Arc::clone(outside);
            outside.engine().traces().asking(&peer, &actions);
            tell(outside, async move {
                let verdicts = ask(&outside_too, &peer, &space, actions.clone()).await;
                outside_too.engine().traces().asked(&peer, &actions, verdicts.as_deref());
                Event::Answered { question, verdicts }
            });
        }
        Action::Fetch { transfer, peer, need } => {
            let outside_too = Arc::clone(outside);
            outside.engine().traces().fetching(&peer, need);
            tell(outside, async move {
                let outcome = fetch(&outside_too, &peer, need).await;
                outside_too.engine().traces().fetched(&peer, need, outcome);
                Event::Brought { transfer, outcome }
            });
        }
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
        let (engine, space) = (Arc::clone(outside.engine()), space.clone());
        let told = span::blocking(move || engine.told_by_peer(&space, &answer.found)).await;
        match told {
            Ok(told) => verdicts.extend(told),
            Err(error) => tracing::warn!(%error, "an answer cannot be kept"),
        }
        if answer.last || open.is_empty() {
            return Some(verdicts);
        }
    }
}

async fn fetch(outside: &Arc<Outside>, peer: &Peer, need: Need) -> Brought {
    let Some(handle) = outside.network(&peer.network) else { return Brought::Failed };
    let Ok(id) = handle.peer_of(peer) else { return Brought::Failed };
    transfer::fetch(outside.engine(), &handle, id, need).await
}
