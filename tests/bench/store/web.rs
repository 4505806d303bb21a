// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Bazel does with a cache, over sixteen connections: nginx with DAV, beside the door over the control socket.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use potluck_node::control::client::Client;
use potluck_node::observe::span;
use potluck_protocol::digest::Digest;
use potluck_tests::program::Person;
use tokio::runtime::Runtime;

use crate::door;
use crate::http::Connection;
use crate::material::build_bytes;
use crate::measure::{Figure, median, ratio, rounds, seconds};
use crate::scratch::{Report, has_program, scaled, threads};

const CONNECTIONS: usize = 16;
const ROUNDS: usize = 5;

/// Where Debian puts it, which is not in everybody's PATH.
const NGINX: &str = "/usr/sbin/nginx";

pub(crate) fn part(report: &Report) {
    report.note("ours is the door over the control socket; the part `http` has the listener");
    report.note("data of real libraries; neither side syncs: both keep what they took across a restart only");
    let server = nginx(report);
    let person = Person::at_home_in(report.folder());
    let _daemon = person.daemon();
    let runtime = door::runtime();
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| runtime.block_on(door::connect(&person.home()))).collect();
    let ours = Ours { clients, runtime };
    let sizes = [("4 KiB", 4096, scaled(2_000, 64)), ("1 MiB", 1 << 20, scaled(100, 16))];
    for (name, len, count) in sizes {
        let real = build_bytes(len * (count + 1));
        measure(report, (name, len, count), &real, (&ours, server.as_ref()));
    }
}

/// New Blobs for each round: their bytes are cut out of `real`, and begin with their number.
fn blobs((round, len, count): (usize, usize, usize), real: &[u8]) -> Vec<Vec<u8>> {
    let blob = |n: usize| {
        let mut blob = real[n * len..][..len].to_vec();
        blob[..8].copy_from_slice(&(n as u64).to_le_bytes());
        blob[8..16].copy_from_slice(&(round as u64).to_le_bytes());
        blob
    };
    (0..count).map(blob).collect()
}

fn measure(
    report: &Report,
    (name, len, count): (&str, usize, usize),
    real: &[u8],
    (ours, server): (&Ours, Option<&Server>),
) {
    let mut round = 0;
    let mut digests = Vec::new();
    let (mut puts, mut theirs) = (Vec::new(), [Vec::new(), Vec::new()]);
    let [gets] = rounds(
        ROUNDS,
        [&mut || {
            round += 1;
            let blobs = blobs((round, len, count), real);
            let put = ours.put(&blobs, &mut digests);
            let got = ours.get(&digests, len);
            if let Some(server) = server {
                let took = server.turn(&blobs);
                // The round that warms up does not count.
                if round > 1 {
                    theirs[0].push(took.0);
                    theirs[1].push(took.1);
                }
            }
            if round > 1 {
                puts.push(put);
            }
            got
        }],
    );
    let figure = |name: &str, value| Figure::new(format!("web: {name}"), value, ROUNDS);
    let rate = |seconds: &[f64]| (count as f64 / median(seconds.to_vec()), "/s");
    for (verb, ours, theirs) in [("PUT", &puts, &theirs[0]), ("GET", &gets, &theirs[1])] {
        report.figure(&figure(&format!("{verb} {name}, our door, control socket"), rate(ours)));
        if !theirs.is_empty() {
            report.figure(&figure(&format!("{verb} {name}, nginx with DAV"), rate(theirs)));
            let faster = (ratio(theirs, ours), "x");
            report.figure(&figure(&format!("{verb} {name}, ours / nginx"), faster));
        }
    }
}

/// Our side.
struct Ours {
    clients: Vec<Client>,
    runtime: Runtime,
}

impl Ours {
    fn put(&self, blobs: &[Vec<u8>], digests: &mut Vec<Digest>) -> f64 {
        let share = |at: usize| blobs.iter().skip(at).step_by(CONNECTIONS).cloned().collect::<Vec<_>>();
        let shares: Vec<_> = (0..CONNECTIONS).map(share).collect();
        digests.clear();
        seconds(|| {
            self.runtime.block_on(async {
                let writer = |(client, blobs): (&Client, Vec<Vec<u8>>)| {
                    let client = client.clone();
                    span::spawn("bench", async move {
                        let mut digests = Vec::new();
                        for blob in &blobs {
                            digests.push(door::write(&client, blob).await.digest);
                        }
                        digests
                    })
                };
                let writers: Vec<_> = self.clients.iter().zip(shares).map(writer).collect();
                for writer in writers {
                    digests.extend(writer.await.expect("a writer ends"));
                }
            });
        })
    }

    fn get(&self, digests: &[Digest], len: usize) -> f64 {
        let share = |at: usize| digests.iter().skip(at).step_by(CONNECTIONS).copied().collect::<Vec<_>>();
        let shares: Vec<_> = (0..CONNECTIONS).map(share).collect();
        seconds(|| {
            self.runtime.block_on(async {
                let reader = |(client, digests): (&Client, Vec<Digest>)| {
                    let client = client.clone();
                    span::spawn("bench", async move {
                        for digest in digests {
                            assert_eq!(door::read(&client, digest).await, len);
                        }
                    })
                };
                let readers: Vec<_> = self.clients.iter().zip(shares).map(reader).collect();
                for reader in readers {
                    reader.await.expect("a reader ends");
                }
            });
        })
    }
}

/// nginx, which ends with the part.
pub(crate) struct Server {
    child: Child,
    at: SocketAddr,
}

impl Server {
    /// Where it listens.
    pub(crate) const fn at(&self) -> SocketAddr {
        self.at
    }

    /// How long it takes to put all Blobs, and to get them.
    pub(crate) fn turn(&self, blobs: &[Vec<u8>]) -> (f64, f64) {
        let path = |blob: &[u8]| format!("/cas/{}", blake3::hash(blob).to_hex());
        let paths: Vec<_> = blobs.iter().map(|blob| path(blob)).collect();
        let on_all = |work: &(dyn Fn(&mut Connection, usize) + Sync)| {
            threads(CONNECTIONS, |thread| {
                let mut connection = Connection::open(self.at).expect("nginx listens");
                for n in (thread..blobs.len()).step_by(CONNECTIONS) {
                    work(&mut connection, n);
                }
            });
        };
        let put = seconds(|| {
            on_all(&|connection, n| connection.put(&paths[n], &blobs[n]).expect("nginx takes it"));
        });
        let got = seconds(|| {
            on_all(&|connection, n| {
                assert_eq!(connection.get(&paths[n]).expect("nginx has it").len(), blobs[n].len());
            });
        });
        (put, got)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its workers go with it only when it is asked to end, and not when it is killed.
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Starts nginx in the part's folder, on loopback, if it is here.
pub(crate) fn nginx(report: &Report) -> Option<Server> {
    let program = if has_program("nginx") { "nginx" } else { NGINX };
    if !has_program(program) {
        report.note("nginx is not here: install nginx with its DAV module");
        return None;
    }
    let folder = report.path("nginx");
    fs::create_dir_all(folder.join("data/cas")).expect("a folder can be made");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let at = free.expect("a port is free");
    let config = folder.join("nginx.conf");
    fs::write(&config, settings(&folder, at)).expect("a file can be written");
    let log = fs::File::create(folder.join("log")).expect("a file can be made");
    let mut command = Command::new(program);
    command.arg("-c").arg(&config).arg("-p").arg(&folder).stdin(Stdio::null()).stderr(log);
    let mut child = command.spawn().expect("nginx can be started");
    // Not a measurement: until it listens.
    for _ in 0..500 {
        if Connection::open(at).is_ok() {
            return Some(Server { child, at });
        }
        if let Ok(Some(_)) = child.try_wait() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    drop(Server { child, at });
    report.note(&format!("nginx does not start: {}", log.lines().next().unwrap_or_default()));
    None
}

fn settings(folder: &Path, at: SocketAddr) -> String {
    let folder = folder.display();
    // Its workers would otherwise be nobody, who may not write here, when it is root that measures.
    let user = Command::new("id").arg("-un").output().map(|output| output.stdout).unwrap_or_default();
    let user = String::from_utf8_lossy(&user).trim().to_owned();
    let user = if user == "root" { "user root;" } else { "" };
    format!(
        "daemon off; worker_processes 2; pid {folder}/pid; {user}
error_log stderr;
events {{ worker_connections 128; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  client_body_temp_path {folder}/data/temp; client_max_body_size 64m; client_body_buffer_size 64k;
  proxy_temp_path {folder}/t1; fastcgi_temp_path {folder}/t2; uwsgi_temp_path {folder}/t3; scgi_temp_path {folder}/t4;
  server {{
    listen {at};
    root {folder}/data;
    location / {{ dav_methods PUT; create_full_put_path on; }}
  }}
}}
"
    )
}
