// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tools that speak HTTP: our listener beside nginx with DAV, by the same client, with one connection and with many.

use std::net::SocketAddr;
use std::sync::Mutex;

use potluck_tests::program::Person;

use crate::http::Connection;
use crate::material::build_bytes;
use crate::measure::{Figure, clock, median, ratio, rounds, seconds};
use crate::scratch::{Report, scaled, threads, warm};
use crate::web;

const ROUNDS: usize = 5;
const CONNECTIONS: [usize; 2] = [1, 64];
/// What each verb should reach of what nginx does, by promise.
const TARGETS: [(&str, f64); 3] = [("PUT", 1.0), ("GET, hit", 0.7), ("GET, miss", 1.0)];

/// A server, and the times that its requests took in seconds.
struct Side {
    name: &'static str,
    at: SocketAddr,
    prefix: &'static str,
    rounds: [Vec<f64>; 3],
    times: [Vec<f64>; 3],
}

pub(crate) fn part(report: &Report) {
    report.note(
        "data of real libraries; ours signs and syncs what it is sent before it answers, nginx does not sync",
    );
    report.note("with durability = \"fast\" ours does not wait for the disk either: the figures named so");
    let (durable, fast) = (Person::at_home_in(report.folder()), Person::at_home_in(report.folder()));
    fast.set("durability = \"crash-safe\"", "durability = \"fast\"");
    let (durable_up, fast_up) = (durable.up(&[]), fast.up(&[]));
    let server = web::nginx(report);
    let at = |http: String| http.parse::<SocketAddr>().expect("it is an address");
    let side =
        |name, at, prefix| Side { name, at, prefix, rounds: Default::default(), times: Default::default() };
    for (name, len, count) in [("4 KiB", 4096, scaled(2_000, 128)), ("1 MiB", 1 << 20, scaled(128, 64))] {
        let bytes = build_bytes(len * (count + 1));
        for connections in CONNECTIONS {
            let mut sides = vec![
                side("ours", at(durable_up.http()), "/gradle/"),
                side("ours, fast", at(fast_up.http()), "/gradle/"),
            ];
            sides.extend(server.as_ref().map(|server| side("nginx", server.at(), "/cas/")));
            measure((len, count, connections), &bytes, &mut sides);
            tell(report, &format!("{name}, {connections} connections"), &sides);
        }
    }
}

/// Measures all sides in turns: a round puts new values, gets them, and asks for as many that are not there.
fn measure((len, count, connections): (usize, usize, usize), bytes: &[u8], sides: &mut [Side]) {
    let mut round = 0_u64;
    let mut turn = || {
        round += 1;
        let values: Vec<_> = (0..count)
            .map(|number| {
                let mut value = bytes[number * len..][..len].to_vec();
                value[..8].copy_from_slice(&(number as u64).to_le_bytes());
                value[8..16].copy_from_slice(&(round << 8 | connections as u64).to_le_bytes());
                value
            })
            .collect();
        let names: Vec<_> = values.iter().map(|value| blake3::hash(value).to_hex().to_string()).collect();
        for side in &mut *sides {
            for verb in 0..TARGETS.len() {
                if verb == 0 {
                    warm(4 * count * len);
                }
                let times = Mutex::new(Vec::new());
                let took = seconds(|| {
                    threads(connections, |thread| {
                        let mut connection = Connection::open(side.at).expect("it listens");
                        let mut own = Vec::new();
                        for number in (thread..count).step_by(connections) {
                            let clock = clock();
                            ask(&mut connection, verb, (side.prefix, &names[number]), &values[number]);
                            own.push(clock());
                        }
                        times.lock().expect("no thread has panicked").extend(own);
                    });
                });
                // The round that warms up does not count.
                if round > 1 {
                    side.rounds[verb].push(took / count as f64);
                    side.times[verb].extend(times.into_inner().expect("no thread has panicked"));
                }
            }
        }
        0.0
    };
    rounds(ROUNDS, [&mut turn]);
}

fn ask(connection: &mut Connection, verb: usize, (prefix, name): (&str, &str), value: &[u8]) {
    match verb {
        0 => connection.put(&format!("{prefix}{name}"), value).expect("it is taken"),
        1 => {
            let got = connection.get(&format!("{prefix}{name}")).expect("it is there");
            assert_eq!(got.len(), value.len(), "it is what was put");
        }
        _ => {
            let missed = connection.get(&format!("{prefix}{name}x")).expect_err("nobody put that");
            assert!(missed.to_string().ends_with("404"), "{missed}");
        }
    }
}

fn tell(report: &Report, what: &str, sides: &[Side]) {
    let figure = |name: String, value| Figure::new(format!("http: {name}"), value, ROUNDS);
    let nginx = sides.iter().find(|side| side.name == "nginx");
    for (verb, (title, target)) in TARGETS.into_iter().enumerate() {
        for side in sides {
            let name = format!("{title} {what}, {}", side.name);
            report.figure(&figure(name.clone(), (1.0 / median(side.rounds[verb].clone()), "/s")));
            let mut times = side.times[verb].clone();
            times.sort_by(f64::total_cmp);
            for (rank, place) in [("p50", times.len() / 2), ("p99", times.len() * 99 / 100)] {
                report.figure(&figure(format!("{name}, {rank}"), (times[place] * 1e6, "us")));
            }
        }
        let Some(nginx) = nginx else { continue };
        for side in sides.iter().filter(|side| side.name != "nginx") {
            let faster = (ratio(&nginx.rounds[verb], &side.rounds[verb]), "x");
            let name = format!("{title} {what}, {} / nginx", side.name);
            report.figure(&figure(name, faster).at_least(target));
        }
    }
}
