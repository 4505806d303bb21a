// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the announcements' Plan says, on a DHT that forgets nothing for a day.

use potluck_node::announce::plan::{Do, Event, What};

use super::machine::NETWORK;
use super::{Message, Office};
use potluck_protocol::peer::Topic;

impl Office {
    pub(super) fn perform_announce(&mut self, at: usize, action: Do) {
        match action {
            Do::Say(_, what) => {
                self.machines[at].requests += what.cost();
                let walk = self.walk();
                self.after(walk, self.asker(at), Message::Said(what));
            }
            Do::Withdraw(_, what) => {
                let on = match &what {
                    What::Heads(_) => None,
                    What::Holds(topic) => self.dht.holders.get_mut(topic),
                    What::Blob(digest) => self.dht.blobs.get_mut(digest),
                };
                on.map(|who| who.remove(&at));
            }
            Do::Keep(_, what, due) => {
                let stood = &mut self.machines[at].stood;
                match due {
                    Some(due) => drop(stood.insert(what, due)),
                    None => drop(stood.remove(&what)),
                }
            }
        }
    }

    /// Holding a topic, and its Heads, is to stand on the DHT.
    pub(super) fn stand(&mut self, at: usize, topic: &Topic) {
        for what in [What::Holds(topic.clone()), What::Heads(topic.clone())] {
            self.announce(at, Event::Stand(NETWORK.to_owned(), what));
        }
    }

    /// Something was said; nobody hears it when nobody is there.
    pub(super) fn said(&mut self, at: usize, what: What) {
        let well = !self.others(at).is_empty();
        if well {
            match &what {
                What::Heads(topic) => {
                    if let Some(version) = self.machines[at].heads.get(topic).copied() {
                        let stands = self.dht.heads.entry(topic.clone()).or_insert(version);
                        *stands = if stands.sequence < version.sequence { version } else { *stands };
                    }
                }
                What::Holds(topic) => drop(self.dht.holders.entry(topic.clone()).or_default().insert(at)),
                What::Blob(digest) => drop(self.dht.blobs.entry(*digest).or_default().insert(at)),
            }
        }
        self.announce(at, Event::Said { network: NETWORK.to_owned(), what, well });
    }
}
