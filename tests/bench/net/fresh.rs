// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a publication until a connected follower finds it.

use std::time::Duration;

use crate::door;
use crate::material::noise;
use crate::measure::{Figure, clock, median};
use crate::party::{Party, network};
use crate::scratch::{Report, scaled};

/// How long the follower pauses between two look-ups.
const PAUSE: Duration = Duration::from_micros(500);

pub(crate) fn part(report: &Report) {
    let runtime = door::runtime();
    let network = network();
    let count = scaled(40, 5);
    let took = runtime.block_on(async {
        let alice = Party::start(&report.path("alice"), &network, &[]).await;
        let bob = Party::start(&report.path("bob"), &network, &[&alice]).await;
        let mut took = Vec::new();
        for n in 0..=count {
            let (cache, key) = (alice.engine(), format!("fresh {n}"));
            let output = door::write(cache, &noise(2048, n as u64)).await;
            let output = potluck_protocol::entry::Output::Blob(output);
            door::publish(cache, key.as_bytes(), output).await;
            // From when the tool has its answer.
            let clock = clock();
            while bob.finds(key.as_bytes()).await.is_none() {
                tokio::time::sleep(PAUSE).await;
            }
            if n > 0 {
                took.push(clock() * 1e3);
            }
        }
        bob.stop().await;
        alice.stop().await;
        took
    });
    let figure = |name: &str, value| Figure::new(format!("publish: {name}"), (value, "ms"), count);
    report.figure(&figure("until a connected follower finds it, p50", median(took.clone())).at_most(100.0));
    report.figure(&figure("at worst", took.into_iter().fold(0.0, f64::max)));
}
