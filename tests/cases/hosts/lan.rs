// SPDX-License-Identifier: MIT OR Apache-2.0
//! One local network, without any configuration: mDNS.

use potluck_tests::hosts::Lab;

use super::{Office, expect, follows, meets, noise, put};

#[test]
fn five_hosts_on_a_bridge_find_each_other_and_share() {
    let Some(mut lab) = Lab::new() else { return };
    let switch = lab.switch("switch");
    let mut hosts = Vec::new();
    for number in 1..=5 {
        let host = lab.host(&format!("host{number}"));
        lab.plug(&host, &switch, &format!("10.77.0.{number}/24"));
        hosts.push(host);
    }
    let office = Office::on(&hosts);
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    for person in &office.people {
        meets(person, 4);
    }
    let (ann, others) = office.people.split_first().unwrap();
    let output = noise(3 << 20, 1);
    put(ann, "01", &output);
    for person in others {
        follows(person, 1);
        expect(person, "01", &output);
    }
}

#[test]
fn an_interface_that_comes_up_later_is_used() {
    let Some(mut lab) = Lab::new() else { return };
    let switch = lab.switch("switch");
    let (here, late) = (lab.host("here"), lab.host("late"));
    lab.plug(&here, &switch, "10.77.0.1/24");
    let office = Office::on(&[here, late.clone()]);
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    let listens = |person: &potluck_tests::program::Person| {
        let status = person.status();
        super::rows(&status["networks"][super::NETWORK]["listen"])
            .iter()
            .any(|address| address.as_str().unwrap().starts_with("/ip4/10.77.0.2/"))
    };
    let [ann, ben] = &office.people[..] else { unreachable!() };
    assert!(!listens(ben), "it has no such address yet");
    lab.plug(&late, &switch, "10.77.0.2/24");
    meets(ben, 1);
    ben.until("the new address", |_| listens(ben));
    let output = noise(3 << 20, 1);
    put(ann, "01", &output);
    follows(ben, 1);
    expect(ben, "01", &output);
}
