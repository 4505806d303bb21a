// SPDX-License-Identifier: MIT OR Apache-2.0
//! Local processes that misuse the daemon's socket. It survives each, and still answers.

use std::fs::File;

use potluck_node::cache::CacheError;
use potluck_node::link::{read_message, write_message};
use potluck_protocol::codec::{Bytes, Text};
use potluck_protocol::control::{Data, Failure, Greeting, Plain, Read, Reply, Request, VERSION};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;

/// A daemon without any Network.
struct Lone {
    node: Client,
    place: Home,
    serving: tokio::task::JoinHandle<()>,
    _folder: TempDir,
}

impl Lone {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Home::locate(Some(folder.path().join("home"))).unwrap();
        place.init("test").unwrap();
        let daemon = Daemon::start(&place, &Options::default()).await.unwrap();
        let listener = daemon.listen(&place).unwrap();
        let home = place.clone();
        let serving = span::spawn("daemon", async move { daemon.serve(&home, listener).await });
        let node = Client::connect(&socket(&place), "test", HELLO).await.unwrap();
        Self { node, place, serving, _folder: folder }
    }

    async fn raw(&self) -> UnixStream {
        UnixStream::connect(socket(&self.place)).await.unwrap()
    }

    async fn greeted(&self) -> UnixStream {
        let mut stream = self.raw().await;
        let greeting = Greeting { version: VERSION, client: Text::new("raw").unwrap() };
        write_message(&mut stream, &Request::Greeting(greeting)).await.unwrap();
        assert!(matches!(reply(&mut stream).await, Some(Reply::Welcome(_))));
        stream
    }

    async fn is_well(&self) {
        let fresh = Client::connect(&socket(&self.place), "fresh", HELLO).await.unwrap();
        for client in [&fresh, &self.node] {
            let (digest, size) = client.write(&b"still here"[..]).await.unwrap();
            assert_eq!((digest, size), (Digest::of(b"still here"), 10));
            assert_eq!(client.missing(vec![digest, Digest::of(b"no")]).await.unwrap().len(), 1);
        }
    }
}

async fn reply(stream: &mut UnixStream) -> Option<Reply> {
    tokio::time::timeout(PATIENCE, read_message(stream)).await.expect("a reply").unwrap_or(None)
}

fn stretch(id: u64, len: usize, last: bool) -> Request {
    Request::Write(Data { id, bytes: Bytes::new(bytes(id, len)).unwrap(), last })
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_ends_the_connection_before_and_after_the_greeting() {
    let lone = Lone::start().await;
    for bytes in [&[0xff; 32][..], &[0, 0, 0, 2, 0xff, 0xff], &[0, 0, 0, 0], b"GET / HTTP/1.1\r\n\r\n"] {
        for mut stream in [lone.raw().await, lone.greeted().await] {
            let _ = stream.write_all(bytes).await;
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
            assert!(ended.is_ok() && rest.is_empty(), "{bytes:?}");
        }
    }
    // Half a message holds up nobody else.
    let mut half = lone.greeted().await;
    half.write_all(&[0, 0, 1]).await.unwrap();
    lone.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_end_leaves_nothing() {
    let lone = Lone::start().await;
    let before = lone.node.status().await.unwrap();
    let mut stream = lone.greeted().await;
    for _ in 0..20 {
        write_message(&mut stream, &stretch(1, 200_000, false)).await.unwrap();
    }
    drop(stream);
    let staging = lone.place.root().join("store");
    until("what was staged is gone", || async {
        let store = |status: &[u8]| {
            serde_json::from_slice::<serde_json::Value>(status).unwrap()["store"]["bytes"].clone()
        };
        let now = lone.node.status().await.unwrap();
        (store(&now) == store(&before) && !large_file(&staging)).then_some(())
    })
    .await;
    lone.is_well().await;
}

/// Whether anything but the index takes room below a folder.
fn large_file(folder: &Path) -> bool {
    let Ok(listed) = std::fs::read_dir(folder) else { return false };
    listed.flatten().any(|entry| {
        let (path, kind) = (entry.path(), entry.metadata());
        let Ok(kind) = kind else { return false };
        if kind.is_dir() { large_file(&path) } else { kind.len() > 50_000 && !path.ends_with("index.redb") }
    })
}

/// Runs a test where only so many threads may wait for the disk, far fewer than a real daemon has.
fn with_few_threads(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().worker_threads(2).max_blocking_threads(8).build().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await });
    runtime.shutdown_background();
    ended.expect("it ends");
}

#[test]
fn many_writes_that_stand_still_do_not_take_all_threads() {
    with_few_threads(async {
        let lone = Lone::start().await;
        let mut stream = lone.greeted().await;
        for id in 1..=20 {
            write_message(&mut stream, &stretch(id, 30_000, false)).await.unwrap();
        }
        lone.is_well().await;
    });
}

#[test]
fn many_reads_that_nobody_takes_do_not_take_all_threads() {
    with_few_threads(async {
        let lone = Lone::start().await;
        let (digest, _) = lone.node.write(bytes(1, 4 << 20).as_slice()).await.unwrap();
        let mut stream = lone.greeted().await;
        for id in 1..=20 {
            let read = Request::Read(Read { id, digest, offset: 0, len: None });
            write_message(&mut stream, &read).await.unwrap();
        }
        lone.is_well().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn six_hundred_connections_are_served_in_the_end_and_do_not_keep_it_from_ending() {
    let lone = Lone::start().await;
    let mut streams = Vec::new();
    for _ in 0..600 {
        streams.push(lone.raw().await);
    }
    // Those that say nothing lose their places; here they go by themselves.
    let rest = streams.split_off(100);
    drop(streams);
    lone.is_well().await;
    let mut held = Vec::new();
    drop(rest);
    while held.len() < 511 {
        held.push(lone.greeted().await);
    }
    let waiting = lone.raw().await;
    lone.node.stop().await.unwrap();
    tokio::time::timeout(PATIENCE, lone.serving).await.expect("it ends").unwrap();
    drop((waiting, held));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_use_is_refused_and_may_be_used_again_later() {
    let lone = Lone::start().await;
    let mut stream = lone.greeted().await;
    write_message(&mut stream, &stretch(5, 10, false)).await.unwrap();
    write_message(&mut stream, &Request::Status(Plain { id: 5 })).await.unwrap();
    let Some(Reply::Failed(failed)) = reply(&mut stream).await else { panic!() };
    assert_eq!((failed.id, failed.kind), (5, Failure::Usage));
    write_message(&mut stream, &stretch(5, 0, true)).await.unwrap();
    let Some(Reply::Written(written)) = reply(&mut stream).await else { panic!() };
    assert_eq!((written.id, written.size), (5, 10));
    write_message(&mut stream, &Request::Status(Plain { id: 6 })).await.unwrap();
    assert!(matches!(reply(&mut stream).await, Some(Reply::Report(_))));
    lone.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_may_be_forgotten_in_the_middle_for_ever() {
    let lone = Lone::start().await;
    let (digest, size) = lone.node.write(bytes(1, 600_000).as_slice()).await.unwrap();
    // More often than questions may be open at a time: what is forgotten takes no place.
    for _ in 0..300 {
        let mut stretches = lone.node.read(digest, None).await.unwrap();
        assert!(stretches.recv().await.unwrap().is_ok());
    }
    let mut stretches = lone.node.read(digest, None).await.unwrap();
    let mut read = 0;
    while let Some(stretch) = stretches.recv().await {
        read += stretch.unwrap().len() as u64;
    }
    assert_eq!(read, size);
    lone.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_and_written_in_place_where_both_see_the_same_one() {
    let lone = Lone::start().await;
    let folder = lone.place.root().parent().unwrap().to_owned();
    let (made, moved, wanted) = (folder.join("made"), folder.join("moved"), folder.join("wanted"));
    let content = bytes(7, 3 << 20);
    std::fs::write(&made, &content).unwrap();
    // The second time another file lies at the path: the bytes of the one that is open count, and are sent.
    for elsewhere in [false, true] {
        let file = File::open(&made).unwrap();
        if elsewhere {
            std::fs::rename(&made, &moved).unwrap();
            std::fs::write(&made, "something else").unwrap();
        }
        let written = lone.node.write_file(file, &made).await.unwrap();
        assert_eq!(written, (Digest::of(&content), content.len() as u64));
    }
    for elsewhere in [false, true] {
        let file = File::create(&wanted).unwrap();
        if elsewhere {
            std::fs::rename(&wanted, folder.join("taken")).unwrap();
            std::fs::write(&wanted, "").unwrap();
        }
        let size = lone.node.read_file(Digest::of(&content), file, &wanted).await.unwrap();
        assert_eq!(size, content.len() as u64);
        let at = if elsewhere { "taken" } else { "wanted" };
        assert!(std::fs::read(folder.join(at)).unwrap() == content, "{at}");
    }
    assert_eq!(std::fs::read(&wanted).unwrap(), b"", "what lies there instead is left alone");
    let none = lone.node.read_file(Digest::of(b"none"), File::create(&wanted).unwrap(), &wanted).await;
    assert!(matches!(none, Err(CacheError::NotHere(_))), "{none:?}");
    let refused = lone.node.write_file(File::open(&folder).unwrap(), &folder).await;
    assert!(matches!(refused, Err(CacheError::Source(_))), "a folder: {refused:?}");
    lone.is_well().await;
}
