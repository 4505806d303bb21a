// SPDX-License-Identifier: MIT OR Apache-2.0
//! One large Blob from one peer, or from four, that ends checked and on the disk: beside a bare stream of libp2p, which
//! checks and keeps nothing, and beside iroh-blobs.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use potluck_node::cache::{Cache as _, Publication};
use potluck_protocol::entry::{Labels, Output};
use tokio::runtime::Runtime;

use crate::door;
use crate::iroh::Iroh;
use crate::material::{build_bytes, noise as noise_bytes};
use crate::measure::{Figure, clock, median, ratio};
use crate::party::{Party, cpu, network};
use crate::scratch::{Report, remove, scaled, until_quiet};
use crate::wire::Wire;

const ROUNDS: usize = 5;
const GIB: f64 = 1_073_741_824.0;
const KEY: &[u8] = b"large";

fn len() -> usize {
    scaled(1 << 30, 32 << 20)
}

pub(crate) fn noise(report: &Report) {
    part(report, "incompressible", noise_bytes(len(), 1));
}

pub(crate) fn build_output(report: &Report) {
    part(report, "build output", build_bytes(len()));
}

/// What is measured beside each other: seconds on the clock and of the processor, round by round.
struct Turns {
    seconds: Vec<f64>,
    cpu: Vec<f64>,
}

impl Turns {
    const fn new() -> Self {
        Self { seconds: Vec::new(), cpu: Vec::new() }
    }

    /// Keeps a turn, unless it was that of the round that warms up.
    fn push(&mut self, round: usize, (seconds, cpu): (f64, f64)) {
        if round > 0 {
            self.seconds.push(seconds);
            self.cpu.push(cpu);
        }
    }

    fn print(&self, report: &Report, name: &str) {
        let size = len() as f64 / GIB;
        let speed = (size * 1.073_741_824 / median(self.seconds.clone()), "GB/s");
        report.figure(&Figure::new(name, speed, ROUNDS));
        let cpu = (median(self.cpu.clone()) / size, "s/GiB");
        report.figure(&Figure::new(format!("{name}, processor time of both sides"), cpu, ROUNDS));
    }
}

fn part(report: &Report, what: &str, bytes: Vec<u8>) {
    let runtime = door::runtime();
    let network = network();
    let alice = runtime.block_on(async {
        let alice = Party::start(&report.path("alice"), &network, &[]).await;
        publish(&alice, &bytes).await;
        alice
    });
    let file = report.path("file");
    fs::write(&file, &bytes).expect("a file can be written");
    drop(bytes);
    if !until_quiet(&report.path("alice")) {
        report.note("the packer has not come to rest");
    }
    let mut iroh = Iroh::start(report, &[file], 1);
    let wire = runtime.block_on(Wire::new(&report.path("wire"), &network, len()));
    let [mut ours, mut bare, mut theirs, mut floor] = [const { Turns::new() }; 4];
    for round in 0..=ROUNDS {
        let (took, sockets) = fetch(&runtime, &report.path("bob"), &[&alice]);
        if sockets == 0 {
            report.note("the Blob came over the multiplexer");
        }
        ours.push(round, took);
        settle();
        let (clock, used) = (clock(), cpu());
        assert_eq!(runtime.block_on(wire.take()), len());
        bare.push(round, (clock(), cpu() - used));
        floor.push(round, write(&report.path("written")));
        if let Some(iroh) = &mut iroh {
            settle();
            theirs.push(round, iroh.turn());
        }
    }
    ours.print(report, &format!("{what}: from one peer to the disk, checked"));
    bare.print(report, &format!("{what}: bare libp2p stream, TCP and TLS"));
    floor.print(report, &format!("{what}: noise of that length written to a file"));
    let figure = |name: &str, value: f64| Figure::new(format!("{what}: {name}"), (value, "x"), ROUNDS);
    report.figure(&figure("ours / bare libp2p stream", ratio(&bare.seconds, &ours.seconds)).at_least(0.9));
    if iroh.is_some() {
        theirs.print(report, &format!("{what}: iroh-blobs, to the disk"));
        report.figure(&figure("ours / iroh-blobs", ratio(&theirs.seconds, &ours.seconds)).at_least(4.0));
    }
    runtime.block_on(alice.stop());
}

/// Four peers that have the same, beside one.
pub(crate) fn four_peers(report: &Report) {
    let runtime = door::runtime();
    let network = network();
    let bytes = noise_bytes(len(), 1);
    let parties: Vec<_> = (0..4)
        .map(|at| {
            runtime.block_on(async {
                let party = Party::start(&report.path(&format!("party{at}")), &network, &[]).await;
                publish(&party, &bytes).await;
                party
            })
        })
        .collect();
    drop(bytes);
    if !until_quiet(report.folder()) {
        report.note("the packer has not come to rest");
    }
    let all: Vec<_> = parties.iter().collect();
    let [mut one, mut four] = [const { Turns::new() }; 2];
    for round in 0..=ROUNDS {
        one.push(round, fetch(&runtime, &report.path("bob"), &all[..1]).0);
        four.push(round, fetch(&runtime, &report.path("bob"), &all).0);
    }
    one.print(report, "four-peers: from one of them");
    four.print(report, "four-peers: from all of them");
    let figure = Figure::new("four-peers: four / one", (ratio(&one.seconds, &four.seconds), "x"), ROUNDS);
    report.figure(&figure.at_least(0.95));
    for party in parties {
        runtime.block_on(party.stop());
    }
}

async fn publish(party: &Party, bytes: &[u8]) {
    let output = Output::Blob(door::write(party.engine(), bytes).await);
    let (project, recipe, key) = (door::project(), door::recipe(), KEY.to_vec());
    // What was dear to make may take long to come.
    let labels = Labels { cost_ms: Some(3_600_000), ..Labels::default() };
    let publication = Publication { project, recipe, key, output, labels, taints: Vec::new() };
    party.engine().publish(publication).await.expect("it is published");
}

/// Writes as much to a file as is fetched: on virtual machines that alone may take longer than all the rest, since the
/// memory that it goes through first has to be got from the host.
fn write(path: &Path) -> (f64, f64) {
    let stretch = noise_bytes(1 << 20, 1);
    settle();
    let (clock, used) = (clock(), cpu());
    let mut file = fs::File::create(path).expect("a file can be made");
    for _ in 0..len() / stretch.len() {
        file.write_all(&stretch).expect("a file can be written");
    }
    let took = (clock(), cpu() - used);
    remove(path);
    took
}

/// Has the disk take what earlier turns left to it, so that nobody is slowed down by what others wrote.
fn settle() {
    let synced = Command::new("sync").status();
    assert!(synced.is_ok_and(|status| status.success()), "the disk takes everything");
}

/// Has a new node fetch it; gives how long that took on the clock and of the processor, and over how many bulk sockets
/// it came.
fn fetch(runtime: &Runtime, folder: &Path, others: &[&Party]) -> ((f64, f64), usize) {
    let network = others[0].network();
    let bob = runtime.block_on(async {
        let bob = Party::start(folder, &network, others).await;
        bob.follows(others.len() as u64).await;
        bob
    });
    settle();
    let (clock, used) = (clock(), cpu());
    let found = runtime.block_on(bob.finds(KEY));
    let took = (clock(), cpu() - used);
    assert!(found.is_some(), "it is found and brought");
    let sockets = bob.bulk();
    runtime.block_on(bob.stop());
    remove(folder);
    (took, sockets)
}
