// SPDX-License-Identifier: MIT OR Apache-2.0
//! 64 writers and 64 readers at once on one engine, while collection keeps a budget that is too small for all of it and
//! Blobs are taken away besides. What is served is right, and
//! what is gone is a miss. `POTLUCK_TEST_SECONDS` says for how long.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use potluck_node::cache::{Answer, Cache as _, CacheError, Publication, Question};
use potluck_node::config::Store as Settings;
use potluck_node::engine::Engine;
use potluck_node::gc;
use potluck_node::gc::budget::Amount;
use potluck_node::home::Home;
use potluck_node::observe::{clock, span};
use potluck_protocol::action::{Project, Recipe};
use potluck_protocol::entry::{BlobOutput, Labels, Output};

const WRITERS: u64 = 64;
const READERS: u64 = 64;
/// So many different keys, so that everybody meets.
const KEYS: u64 = 200;

/// What a key gives: small ones in the index, larger ones as files.
fn data(number: u64) -> Vec<u8> {
    let len = if number.is_multiple_of(2) { 500 } else { 30_000 };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    let mut bytes = vec![0; len];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

struct Crowd {
    engine: Arc<Engine>,
    blobs: PathBuf,
    stop: AtomicBool,
    written: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

fn space() -> (Project, Recipe) {
    (Project::new("p").unwrap(), Recipe::new("r@1").unwrap())
}

impl Crowd {
    async fn write(&self, number: u64) {
        let (digest, size) = self.engine.write(data(number).as_slice()).await.unwrap();
        let ((project, recipe), output) = (space(), Output::Blob(BlobOutput { digest, size }));
        let (key, labels, taints) = (number.to_le_bytes().to_vec(), Labels::default(), Vec::new());
        match self.engine.publish(Publication { project, recipe, key, output, labels, taints }).await {
            Ok(_) => self.written.fetch_add(1, Ordering::Relaxed),
            // It was taken away again already.
            Err(CacheError::Usage(_)) => 0,
            Err(error) => panic!("{error}"),
        };
    }

    async fn read(&self, number: u64) {
        let ((project, recipe), keys) = (space(), vec![number.to_le_bytes().to_vec()]);
        let question = Question { project, recipe, keys, deadline: Duration::from_millis(10) };
        let Some(Answer::Hit(Output::Blob(blob))) = self.engine.lookup(question).await.unwrap().pop() else {
            self.misses.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut stretches = match self.engine.read(blob.digest, None).await {
            Ok(stretches) => stretches,
            Err(CacheError::NotHere(_)) => return,
            Err(error) => panic!("{error}"),
        };
        let mut bytes = Vec::new();
        while let Some(stretch) = stretches.recv().await {
            bytes.extend(stretch.expect("whoever has it open reads on"));
        }
        assert!(bytes == data(number), "what is served is something else");
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes something away that somebody may count on, which collection never does.
    fn take_away(&self, number: u64) {
        let digest = potluck_protocol::digest::Digest::of(&data(number));
        if number.is_multiple_of(2) {
            self.engine.store().index().forget_small(&digest).unwrap();
        } else {
            let name = digest.to_string();
            let _ = fs::remove_file(self.blobs.join(&name[..2]).join(name));
        }
    }
}

/// Numbers that look like chance, the same in every run.
fn numbers(of: u64) -> impl Iterator<Item = u64> {
    (0_u64..).map(move |n| {
        let hash = blake3::hash(&(of << 32 | n).to_le_bytes());
        u64::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) % KEYS
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_readers_and_writers_is_served_right() {
    let seconds = std::env::var("POTLUCK_TEST_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let folder = tempfile::tempdir().unwrap();
    let home = Home::locate(Some(folder.path().join("home"))).unwrap();
    home.init("").unwrap();
    let engine = Arc::new(Engine::open(&home).unwrap());
    // A third of what all keys give.
    let budget = Settings { budget: Amount::Bytes(1_000_000), ..Settings::default() };
    let collecting = gc::driver::start(&engine, budget);
    let crowd = Arc::new(Crowd {
        engine,
        blobs: home.root().join("store/blobs"),
        stop: AtomicBool::new(false),
        written: AtomicU64::new(0),
        hits: AtomicU64::new(0),
        misses: AtomicU64::new(0),
    });
    let mut tasks = Vec::new();
    for one in 0..WRITERS + READERS {
        let crowd = Arc::clone(&crowd);
        tasks.push(span::spawn("one", async move {
            for number in numbers(one) {
                if crowd.stop.load(Ordering::Relaxed) {
                    return;
                }
                if one < WRITERS { crowd.write(number).await } else { crowd.read(number).await }
            }
        }));
    }
    let until = clock::moment().plus(Duration::from_secs(seconds));
    for number in numbers(1000) {
        if clock::moment() >= until {
            break;
        }
        let crowd = Arc::clone(&crowd);
        span::blocking(move || crowd.take_away(number)).await;
    }
    crowd.stop.store(true, Ordering::Relaxed);
    collecting.abort();
    for task in tasks {
        task.await.unwrap();
    }
    let [written, hits, misses] =
        [&crowd.written, &crowd.hits, &crowd.misses].map(|count| count.load(Ordering::Relaxed));
    assert!(written > 0 && hits > 0 && misses > 0, "{written} written, {hits} hits, {misses} misses");
    eprintln!("{written} written, {hits} hits, {misses} misses");
}
