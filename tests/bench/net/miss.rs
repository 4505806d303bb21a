// SPDX-License-Identifier: MIT OR Apache-2.0
//! A key that nobody has, at a node that follows fifty Catalogs of a hundred thousand keys and has a peer to ask: how
//! long that takes, and how much is said for it.

use std::path::Path;
use std::time::Duration;

use potluck_keys::pair::Pair;
use potluck_keys::signed::Signed;
use potluck_keys::time::Time;
use potluck_node::catalog::own;
use potluck_node::content::Durability;
use potluck_node::engine::Engine;
use potluck_node::observe::clock;
use potluck_node::trust::{self, Addition};
use potluck_protocol::action::ActionId;
use potluck_protocol::codec::Text;
use potluck_protocol::digest::Digest;
use potluck_protocol::head::{CATALOG, Head, Instance};
use potluck_tests::samples;

use crate::door;
use crate::measure::{self, Figure};
use crate::party::{Party, network};
use crate::scratch::{Report, scaled};

/// A key that is in every Catalog.
const LISTED: &[u8] = b"listed";
/// How many signers are followed.
const SIGNERS: u8 = 50;

fn keys() -> u64 {
    scaled(100_000, 1_000) as u64
}

pub(crate) fn part(report: &Report) {
    let runtime = door::runtime();
    let network = network();
    let asked = scaled(100_000, 2_000);
    let home = report.path("bob");
    fill(&home);
    let (took, sent, packets) = runtime.block_on(async {
        let alice = Party::start(&report.path("alice"), &network, &[]).await;
        let bob = Party::start(&home, &network, &[&alice]).await;
        bob.follows(all_keys()).await;
        let mut took = Vec::with_capacity(asked);
        // What a Catalog lists is asked for: so what is counted is what is sent.
        let counted = || bob.engine().counts().now().sent;
        let before = counted();
        assert!(bob.finds(LISTED).await.is_none(), "nobody has it, whatever the Catalog says");
        assert!(counted() > before, "whoever is there was asked");
        settled().await;
        let before = (counted(), segments());
        for n in 0..asked {
            let key = format!("nobody has {n}").into_bytes();
            let clock = measure::clock();
            assert!(bob.finds(&key).await.is_none(), "nobody has it");
            took.push(clock());
        }
        let (sent, packets) = (counted() - before.0, segments() - before.1);
        bob.stop().await;
        alice.stop().await;
        (took, sent, packets)
    });
    let figure = |name: &str, value| Figure::new(format!("miss: {name}"), value, asked);
    report.note(&format!("{SIGNERS} followed Catalogs of {} keys, all misses asked for one by one", keys()));
    report.figure(&figure("p50", (measure::median(took) * 1e6, "us")).at_most(5.0));
    report.note("messages are questions and requests to peers and searches on the DHT, as they are sent");
    report.figure(&figure("messages a miss", (sent as f64 / asked as f64, "")).at_most(0.0));
    report.note("packets are all TCP segments of this machine in that time, whoever sent them");
    report.figure(&figure("packets a miss", (packets / asked as f64, "")).at_most(0.01));
}

/// TCP segments that this machine has sent.
fn segments() -> f64 {
    let table = std::fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let names = rows.next().unwrap_or_default().split(' ');
    let mut pairs = names.zip(rows.next().unwrap_or_default().split(' '));
    let sent = pairs.find(|(name, _)| *name == "OutSegs").and_then(|(_, count)| count.parse().ok());
    sent.unwrap_or(f64::NAN)
}

/// Waits until next to nothing is sent on this machine: what a node says about itself when it has just come is not what
/// a miss costs.
async fn settled() {
    for _ in 0..60 {
        let before = segments();
        tokio::time::sleep(Duration::from_millis(500)).await;
        if segments() - before < 20.0 {
            return;
        }
    }
}

/// How many keys all of them list.
pub(crate) fn all_keys() -> u64 {
    u64::from(SIGNERS) * keys()
}

/// A home whose owner trusts fifty signers and has seen their Catalogs.
pub(crate) fn fill(folder: &Path) {
    let home = door::home(folder);
    let engine = Engine::open(&home).expect("the engine can be opened");
    for number in 0..SIGNERS {
        let signer = samples::pair(number + 1);
        let addition = Addition {
            name: format!("signer{number}"),
            key: signer.public(),
            comment: String::new(),
            project: door::PROJECT.to_owned(),
            recipe: None,
        };
        trust::add(&home, &addition).expect("the rule can be written");
        list(&engine, number, &signer);
    }
}

fn list(engine: &Engine, number: u8, signer: &Pair) {
    let claim = |n: u64| Digest::of(format!("{number} {n}").as_bytes());
    let listed = ActionId::derive(&door::project(), &door::recipe(), LISTED, None).expect("the key is short");
    let actions = (1..keys()).map(|n| ActionId::from_bytes(*claim(n).as_bytes()));
    let mut entries: Vec<_> = std::iter::once(listed).chain(actions).zip((0..).map(claim)).collect();
    entries.sort_unstable();
    let next = own::next(&door::project(), None, &entries, |_| Err(())).expect("a catalog can be made");
    let mut last = None;
    for blob in &next.blobs {
        let digest = engine.store().keep(blob, Durability::Fast).expect("a blob can be kept");
        last = Some((digest, blob.len() as u64));
    }
    let (root, size) = last.expect("the catalog itself comes last");
    let issued: Time = clock::now();
    let head = Head {
        project: door::project(),
        name: Text::new(CATALOG).expect("it is a name"),
        recipe: None,
        instance: Instance::from_bytes([number; 16]),
        sequence: 1,
        root,
        size,
        issued,
        not_after: issued.plus(Duration::from_secs(24 * 60 * 60)),
    };
    let head = Signed::sign(&head, &[signer]).expect("it can be signed");
    engine.store().index().keep_head(&signer.signer(), &head).expect("a head can be kept");
}
