// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the announcements' Plan says.

use std::collections::BTreeMap;
use std::sync::Arc;

use potluck_keys::pair::Signer;
use potluck_protocol::action::Project;
use potluck_protocol::digest::Digest;
use potluck_protocol::head::HeadSet;
use potluck_protocol::names::DhtKey;
use potluck_protocol::peer::Topic;
use tokio::sync::mpsc;

use super::plan::{Announce, Do, Event, HOLDS_EVERY, What};
use crate::catalog::driver::heads_of;
use crate::drive::drive;
use crate::observe::{clock, span};
use crate::outside::Outside;
use crate::plan::Moment;
use crate::swarm::Handle;

/// Runs the Plan until nobody can send events any more.
pub async fn run(outside: Arc<Outside>, events: mpsc::Receiver<Event>) {
    let mut seed = [0; 8];
    // Without any, all nodes would spread what they say in the same way, which is still spread.
    let _ = getrandom::fill(&mut seed);
    let plan = Announce::new(u64::from_le_bytes(seed));
    drive(plan, events, |action| match action {
        Do::Say(network, what) => {
            let outside = Arc::clone(&outside);
            span::spawn("announce", async move {
                let well = say(&outside, &network, &what).await;
                let _ = outside.plans().announce.send(Event::Said { network, what, well }).await;
            });
        }
        Do::Withdraw(network, what) => {
            if let Some(handle) = outside.network(&network) {
                span::spawn("withdraw", async move { withdraw(&handle, &what).await });
            }
        }
        Do::Keep(network, what, due) => {
            let due = due.map(|due| clock::now().plus(due.since(clock::moment())));
            let handle = outside.network(&network);
            if let Some(remembered) = handle.as_ref().and_then(Handle::remembered) {
                remembered.file.queue_said(name(&what), due);
            }
        }
    })
    .await;
}

/// What stood when a Network was last left, by this run's time.
pub(crate) fn stood(handle: &Handle) -> BTreeMap<What, Moment> {
    let (now, here) = (clock::now(), clock::moment());
    let said = handle.remembered().map(|remembered| remembered.said.clone()).unwrap_or_default();
    let known = said.into_iter().filter_map(|(name, due)| Some((named(&name)?, due)));
    // A clock that was set must not keep anything from being said.
    known.map(|(what, due)| (what, here.plus(due.since(now).min(HOLDS_EVERY)))).collect()
}

/// What it is called in the file.
fn name(what: &What) -> Vec<u8> {
    let topic = |kind: u8, topic: &Topic| {
        [&[kind], topic.signer.as_bytes().as_slice(), topic.project.as_str().as_bytes()].concat()
    };
    match what {
        What::Heads(of) => topic(1, of),
        What::Holds(of) => topic(2, of),
        What::Blob(digest) => [&[3], digest.as_bytes().as_slice()].concat(),
    }
}

/// The other way round; nothing of what is no such name.
fn named(name: &[u8]) -> Option<What> {
    let (kind, rest) = name.split_first()?;
    let (id, rest) = rest.split_first_chunk::<32>()?;
    if *kind == 3 && rest.is_empty() {
        return Some(What::Blob(Digest::from_bytes(*id)));
    }
    let project = Project::new(std::str::from_utf8(rest).ok()?).ok()?;
    let topic = Topic { signer: Signer::from_bytes(*id), project };
    match kind {
        1 => Some(What::Heads(topic)),
        2 => Some(What::Holds(topic)),
        _ => None,
    }
}

/// Says it; gives whether anybody took it. What is no longer shared is not said, and that is well.
async fn say(outside: &Arc<Outside>, network: &str, what: &What) -> bool {
    let Some(handle) = outside.network(network) else { return true };
    let is_shared = |topic: &Topic| outside.shares(network, topic.project.as_str());
    match what {
        What::Heads(topic) if is_shared(topic) => heads(outside, &handle, topic).await,
        What::Holds(topic) if is_shared(topic) => handle.provide(holders(topic)).await,
        What::Blob(digest) => match outside.gives(network, digest).await {
            true => handle.provide(DhtKey::blob(digest)).await,
            false => true,
        },
        What::Heads(_) | What::Holds(_) => true,
    }
}

/// Takes it back here. Others forget it in time.
async fn withdraw(handle: &Handle, what: &What) {
    match what {
        What::Heads(topic) => handle.unput(DhtKey::catalog(&topic.signer, &topic.project)).await,
        What::Holds(topic) => handle.withdraw(holders(topic)).await,
        What::Blob(digest) => handle.withdraw(DhtKey::blob(digest)).await,
    }
}

fn holders(topic: &Topic) -> DhtKey {
    DhtKey::holders(&topic.signer, &topic.project, 0)
}

/// Puts the Heads of a topic on the DHT, together with those that stand there: other machines may hold the same key.
async fn heads(outside: &Arc<Outside>, handle: &Handle, topic: &Topic) -> bool {
    let Topic { signer, project } = topic.clone();
    let key = DhtKey::catalog(&signer, &project);
    let mut set = HeadSet::new(signer, project);
    for value in handle.get(key).await {
        merge(&mut set, &value, &key);
    }
    let (engine, of) = (Arc::clone(outside.engine()), topic.clone());
    let own: Signer = topic.signer;
    for head in span::blocking(move || heads_of(&engine, &of)).await.unwrap_or_default() {
        if let Err(error) = set.add(head) {
            tracing::warn!(signer = %own, %error, "a head cannot be announced");
        }
    }
    set.expire(clock::now());
    set.heads().len() == 0 || handle.put(key, set.encode()).await
}

fn merge(set: &mut HeadSet, value: &[u8], key: &DhtKey) {
    if let Ok(standing) = HeadSet::receive(value, key) {
        for head in standing.heads() {
            let _ = set.add(head.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_what_they_name() {
        let topic = Topic { signer: Signer::from_bytes([7; 32]), project: Project::new("acme/web").unwrap() };
        for what in [What::Heads(topic.clone()), What::Holds(topic), What::Blob(Digest::of(b"x"))] {
            assert!(name(&what).len() <= crate::dht::file::MAX_SAID_BYTES);
            assert_eq!(named(&name(&what)), Some(what));
        }
        for bad in [&[][..], &[1], &[9; 40], &[3; 40], &[1; 20]] {
            assert_eq!(named(bad), None);
        }
    }
}
