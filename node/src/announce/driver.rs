// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the announcements' Plan says.

use std::sync::Arc;

use potluck_keys::pair::Signer;
use potluck_protocol::head::HeadSet;
use potluck_protocol::names::DhtKey;
use potluck_protocol::peer::Topic;
use tokio::sync::mpsc;

use super::plan::{Announce, Event, Say, What};
use crate::catalog::driver::heads_of;
use crate::drive::drive;
use crate::observe::{clock, span};
use crate::outside::Outside;
use crate::swarm::Handle;

/// Runs the Plan until nobody can send events any more.
pub async fn run(outside: Arc<Outside>, events: mpsc::Receiver<Event>) {
    drive(Announce::new(), events, |say| {
        let outside = Arc::clone(&outside);
        span::spawn("announce", async move {
            let well = say_it(&outside, &say).await;
            let Say { network, what } = say;
            let _ = outside.plans().announce.send(Event::Said { network, what, well }).await;
        });
    })
    .await;
}

/// Says it; gives whether anybody took it. What is no longer shared is not said, and that is well.
async fn say_it(outside: &Arc<Outside>, say: &Say) -> bool {
    let Some(handle) = outside.network(&say.network) else { return true };
    let (What::Heads(topic) | What::Holds(topic)) = &say.what;
    if !outside.shares(&say.network, topic.project.as_str()) {
        return true;
    }
    match &say.what {
        What::Heads(topic) => heads(outside, &handle, topic).await,
        What::Holds(topic) => handle.provide(DhtKey::holders(&topic.signer, &topic.project, 0)).await,
    }
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
