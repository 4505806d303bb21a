// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ten thousand Blobs of four KiB at once, as the members of one Tree: beside iroh-blobs, and nginx over sixteen
//! connections.

use std::fs;

use crate::door;
use crate::iroh::Iroh;
use crate::material::noise;
use crate::measure::{Figure, clock, median, ratio};
use crate::party::{Party, cpu, network};
use crate::scratch::{Report, remove, scaled};
use crate::web;

const ROUNDS: usize = 3;
const LEN: usize = 4096;
const AT_A_TIME: usize = 16;
const KEY: &[u8] = b"many";

pub(crate) fn part(report: &Report) {
    let runtime = door::runtime();
    let network = network();
    let count = scaled(10_000, 200);
    let blobs: Vec<_> = (0..count).map(|n| noise(LEN, n as u64)).collect();
    let folder = report.path("files");
    fs::create_dir_all(&folder).expect("a folder can be made");
    let files: Vec<_> = (0..count).map(|n| folder.join(format!("{n:05}"))).collect();
    for (file, blob) in files.iter().zip(&blobs) {
        fs::write(file, blob).expect("a file can be written");
    }
    let alice = runtime.block_on(async {
        let alice = Party::start(&report.path("alice"), &network, &[]).await;
        door::publish_folder(alice.engine(), &folder, KEY).await;
        alice
    });
    let mut iroh = Iroh::start(report, &files, AT_A_TIME);
    let nginx = web::nginx(report);
    let [mut ours, mut used, mut theirs, mut web] = [const { Vec::new() }; 4];
    for round in 0..=ROUNDS {
        let bob = runtime.block_on(async {
            let bob = Party::start(&report.path("bob"), &network, &[&alice]).await;
            bob.follows(1).await;
            bob
        });
        let (clock, before) = (clock(), cpu());
        assert!(runtime.block_on(bob.finds(KEY)).is_some(), "it is found and brought");
        let (took, spent) = (clock(), cpu() - before);
        runtime.block_on(bob.stop());
        remove(&report.path("bob"));
        let iroh = iroh.as_mut().map(|iroh| iroh.turn().0);
        let nginx = nginx.as_ref().map(|nginx| nginx.turn(&blobs).1);
        if round > 0 {
            ours.push(took);
            used.push(spent);
            theirs.extend(iroh);
            web.extend(nginx);
        }
    }
    let figure = |name: &str, value| Figure::new(format!("small-blobs: {name}"), value, ROUNDS);
    let rate = |seconds: &[f64]| (count as f64 / median(seconds.to_vec()), "/s");
    report.figure(&figure("ours, kept", rate(&ours)));
    let each = (median(used) / count as f64 * 1e6, "us");
    report.figure(&figure("ours, processor time of both sides for each", each));
    if !theirs.is_empty() {
        report.figure(&figure("iroh-blobs, 16 at a time, kept", rate(&theirs)));
        report.figure(&figure("ours / iroh-blobs", (ratio(&theirs, &ours), "x")).at_least(5.0));
    }
    if !web.is_empty() {
        report.figure(&figure("nginx, 16 connections, thrown away", rate(&web)));
        report.figure(&figure("ours / nginx", (ratio(&web, &ours), "x")).at_least(0.5));
    }
    runtime.block_on(alice.stop());
}
