// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hosts in different networks, with routers between them, who know nothing but one member to begin with.

use potluck_tests::hosts::{Host, Lab, Nat};
use potluck_tests::program::Person;
use serde_json::Value;

use super::{Office, bootstrap, expect, follows, invitation, noise, put, rows};

/// Two inner networks behind a router each, and an outer one with a host of its own.
struct Town {
    /// Not in an inner network.
    outer: Host,
    /// In the first.
    here: Host,
    /// In the second.
    there: Host,
    _lab: Lab,
}

impl Town {
    fn new(nat: Nat) -> Option<Self> {
        let mut lab = Lab::new()?;
        let switches = ["street", "left", "right"].map(|name| lab.switch(name));
        let [outer, here, there] = ["boot", "here", "there"].map(|name| lab.host(name));
        let [street, left, right] = &switches;
        lab.plug(&outer, street, "10.77.0.1/24");
        // Not the same network behind both routers: without NAT they have to differ.
        lab.plug(&here, left, "10.77.1.2/24");
        lab.plug(&there, right, "10.77.2.2/24");
        let one = lab.router("router1", [(left, "10.77.1.1/24"), (street, "10.77.0.11/24")], nat);
        let two = lab.router("router2", [(right, "10.77.2.1/24"), (street, "10.77.0.12/24")], nat);
        here.through("10.77.1.1");
        there.through("10.77.2.1");
        if nat == Nat::None {
            outer.ip("route add 10.77.1.0/24 via 10.77.0.11");
            outer.ip("route add 10.77.2.0/24 via 10.77.0.12");
            one.ip("route add 10.77.2.0/24 via 10.77.0.12");
            two.ip("route add 10.77.1.0/24 via 10.77.0.11");
        }
        Some(Self { outer, here, there, _lab: lab })
    }
}

/// How a peer of somebody's is reached, and where.
fn path<'a>(status: &'a Value, to: &str) -> Option<(&'a str, &'a str)> {
    let row = rows(&status["peers"]).iter().find(|row| row["peer"] == to)?;
    Some((row["path"].as_str().unwrap(), row["address"].as_str().unwrap()))
}

/// Somebody's identity.
fn identity(person: &Person) -> String {
    person.status()["networks"][super::NETWORK]["peer"].as_str().unwrap().to_owned()
}

/// Has the second fetch what the first one put, and gives how they reach each other then.
fn share(ann: &Person, ben: &Person) -> String {
    let output = noise(5 << 20, 7);
    put(ann, "01", &output);
    follows(ben, 1);
    expect(ben, "01", &output);
    let status = ben.status();
    let (path, _) = path(&status, &identity(ann)).expect("she is connected");
    path.to_owned()
}

#[test]
fn two_local_networks_share_by_way_of_one_bootstrap_node() {
    let Some(town) = Town::new(Nat::None) else { return };
    let boot = bootstrap(&town.outer, "");
    let _boot = boot.up(&[]);
    let office = Office::invited(&[town.here.clone(), town.there.clone()], &invitation(&boot));
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    let [ann, ben] = &office.people[..] else { unreachable!() };
    assert_eq!(share(ann, ben), "direct");
}

#[test]
fn two_hosts_behind_routers_that_scatter_share_by_way_of_a_relay() {
    let Some(town) = Town::new(Nat::Scattering) else { return };
    let boot = bootstrap(&town.outer, "[network.office]\nrelay = true\n");
    let _boot = boot.up(&[]);
    let office = Office::invited(&[town.here.clone(), town.there.clone()], &invitation(&boot));
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    let [ann, ben] = &office.people[..] else { unreachable!() };
    assert_eq!(share(ann, ben), "relayed");
}

#[test]
fn two_hosts_behind_routers_that_keep_ports_reach_each_other_directly() {
    let Some(town) = Town::new(Nat::Keeping) else { return };
    let boot = bootstrap(&town.outer, "[network.office]\nrelay = true\n");
    let _boot = boot.up(&[]);
    let office = Office::invited(&[town.here.clone(), town.there.clone()], &invitation(&boot));
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    let [ann, ben] = &office.people[..] else { unreachable!() };
    share(ann, ben);
    let hers = identity(ann);
    // At her router, which lets nobody in whom she has not spoken to.
    ben.until("a hole", |status| {
        path(status, &hers).is_some_and(|(path, at)| path == "direct" && at.starts_with("/ip4/10.77.0.11/"))
    });
}
