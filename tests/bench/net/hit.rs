// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small hit from a peer on the same network, the question, its Entry, the Tree and the content: beside one round
//! trip of libp2p's own request-response.

use std::sync::Arc;

use potluck_node::observe::span;

use crate::door;
use crate::material::noise;
use crate::measure::{Figure, clock};
use crate::party::{self, Party, network};
use crate::scratch::{Report, scaled};
use crate::wire;

/// The content of each.
const LEN: usize = 2048;

pub(crate) fn part(report: &Report) {
    let runtime = door::runtime();
    let network = network();
    let count = scaled(2_000, 100);
    let key = |n: usize| format!("small {n}").into_bytes();
    let (alice, bob) = runtime.block_on(async {
        let alice = Party::start(&report.path("alice"), &network, &[]).await;
        for n in 0..count {
            let cache = alice.engine();
            let member = door::member("out", &door::write(cache, &noise(LEN, n as u64)).await);
            let (_, output) = door::write_tree(cache, vec![member]).await;
            door::publish(cache, &key(n), output).await;
        }
        let bob = Party::start(&report.path("bob"), &network, &[&alice]).await;
        bob.follows(count as u64).await;
        (alice, bob)
    });
    // In turns, in ten parts, so that both have the same machine.
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for part in 0..10 {
        let share = count / 10;
        // As the daemon asks, and as the other side does: from a task of the runtime.
        let engine = Arc::clone(bob.engine());
        let asks = async move {
            let mut took = Vec::with_capacity(share);
            for n in part * share..(part + 1) * share {
                let clock = clock();
                assert!(party::found(&engine, &key(n)).await.is_some(), "it is found");
                took.push(clock());
            }
            took
        };
        let asking = runtime.block_on(async { span::spawn("bench", asks).await });
        let took = asking.expect("it asks to the end");
        let asked = runtime.block_on(wire::requests(share));
        // The first part warms up.
        if part > 0 {
            ours.extend(took);
            theirs.extend(asked);
        }
    }
    let rounds = ours.len();
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    let at = |took: &[f64], share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
    let figure = |name: &str, value| Figure::new(format!("small-hit: {name}"), value, rounds);
    for (name, took) in
        [("ours, from question to content kept", &ours), ("request-response of 1 KiB", &theirs)]
    {
        report.figure(&figure(&format!("{name}, p50"), (at(took, 50) * 1e6, "us")));
        report.figure(&figure(&format!("{name}, p99"), (at(took, 99) * 1e6, "us")));
    }
    report
        .figure(&figure("ours / request-response, p50", (at(&ours, 50) / at(&theirs, 50), "x")).at_most(0.5));
    runtime.block_on(async {
        bob.stop().await;
        alice.stop().await;
    });
}
