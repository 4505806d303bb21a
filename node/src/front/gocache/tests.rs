// SPDX-License-Identifier: MIT OR Apache-2.0
//! The helper against go's side of the conversation, with doors that work and doors that do what no daemon should.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Cursor, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use potluck_protocol::action::Project;
use potluck_protocol::control::{Answer, Miss};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Output;
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

use super::folder::Folder;
use super::line::MAX_BODY_BYTES;
use super::map::RECIPE;
use super::{Setup, serve};
use crate::cache::{Cache, CacheError, Publication, Question, Stretches};

/// How a door fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Gives other bytes.
    Lies,
    /// Gives more bytes than it said.
    Long,
    /// Gives fewer.
    Short,
    /// Ends with an error.
    Breaks,
    /// Says nothing at all.
    Hangs,
    /// Panics.
    Panics,
}

#[derive(Clone)]
struct Door {
    fault: Fault,
    blobs: Arc<Mutex<HashMap<Digest, Vec<u8>>>>,
    claims: Arc<Mutex<HashMap<Vec<u8>, Publication>>>,
    /// How many keys each question had.
    asked: Arc<Mutex<Vec<usize>>>,
}

impl Door {
    fn new() -> Self {
        Self { fault: Fault::None, blobs: Arc::default(), claims: Arc::default(), asked: Arc::default() }
    }
}

impl Cache for Door {
    async fn lookup(&self, question: Question) -> Result<Vec<Answer>, CacheError> {
        assert_eq!(question.recipe.as_str(), RECIPE);
        self.asked.lock().unwrap().push(question.keys.len());
        match self.fault {
            Fault::Hangs => std::future::pending().await,
            Fault::Panics => panic!("a fault"),
            _ => {}
        }
        let claims = self.claims.lock().unwrap();
        let answer = |key: &Vec<u8>| match claims.get(key) {
            Some(claim) => Answer::Hit(claim.output.clone()),
            None => Answer::Miss(Miss::Unclaimed),
        };
        Ok(question.keys.iter().map(answer).collect())
    }

    async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, CacheError> {
        if self.fault == Fault::Hangs {
            std::future::pending::<()>().await;
        }
        let blobs = self.blobs.lock().unwrap();
        Ok(digests.into_iter().filter(|digest| !blobs.contains_key(digest)).collect())
    }

    async fn read(&self, digest: Digest, _: Option<Range<u64>>) -> Result<Stretches, CacheError> {
        let mut bytes =
            self.blobs.lock().unwrap().get(&digest).cloned().ok_or(CacheError::NotHere(digest))?;
        match self.fault {
            Fault::Lies => bytes[0] ^= 1,
            Fault::Long => bytes.push(0),
            Fault::Short => drop(bytes.pop()),
            _ => {}
        }
        let (to, from) = mpsc::channel(2);
        to.send(Ok(bytes.into())).await.unwrap();
        if self.fault == Fault::Breaks {
            to.send(Err(CacheError::Damaged(digest))).await.unwrap();
        }
        Ok(from.into())
    }

    async fn write(&self, mut from: impl AsyncRead + Send + Unpin) -> Result<(Digest, u64), CacheError> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).await.map_err(CacheError::Source)?;
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        self.blobs.lock().unwrap().insert(digest, bytes);
        Ok((digest, size))
    }

    async fn publish(&self, publication: Publication) -> Result<Digest, CacheError> {
        assert!(self.blobs.lock().unwrap().contains_key(publication.output.digest()));
        let digest = *publication.output.digest();
        self.claims.lock().unwrap().entry(publication.key.clone()).or_insert(publication);
        Ok(digest)
    }
}

/// What the helper said.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says all that, and gives the answers by their ids.
fn talk(door: Option<Door>, root: &Path, lines: &[String]) -> HashMap<i64, Value> {
    let said = Said::default();
    let setup = Setup {
        project: Project::default(),
        folder: Folder::open(Some(root)).unwrap(),
        deadline: Duration::from_millis(10),
        at: root.to_owned(),
    };
    let input = Cursor::new(lines.join("\n") + "\n");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve(async { door }, setup, input, said.clone())).unwrap();
    let text = String::from_utf8(said.0.lock().unwrap().clone()).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers[0]["KnownCommands"], json!(["get", "put", "close"]));
    let count = answers.len();
    let answers: HashMap<_, _> =
        answers.into_iter().map(|answer| (answer["ID"].as_i64().unwrap(), answer)).collect();
    assert_eq!(answers.len(), count, "one answer each");
    answers
}

fn action(of: u8) -> String {
    STANDARD.encode([of; 32])
}

fn get(id: i64, of: u8) -> String {
    json!({"ID": id, "Command": "get", "ActionID": action(of)}).to_string()
}

fn put(id: i64, of: u8, body: &[u8]) -> String {
    let output = STANDARD.encode(sha2::Sha256::digest(body));
    let line = json!({"ID": id, "Command": "put", "ActionID": action(of), "OutputID": output,
        "BodySize": body.len()});
    if body.is_empty() { format!("{line}\n") } else { format!("{line}\n\n\"{}\"", STANDARD.encode(body)) }
}

fn close(id: i64) -> String {
    json!({"ID": id, "Command": "close"}).to_string()
}

/// The file of an answer, which must be what go calls it.
fn file(answer: &Value) -> Vec<u8> {
    assert!(answer["Err"].is_null() && answer["Miss"].is_null(), "{answer}");
    let path = Path::new(answer["DiskPath"].as_str().unwrap());
    assert!(path.is_absolute());
    let bytes = fs::read(path).unwrap();
    if let Some(output) = answer["OutputID"].as_str() {
        assert_eq!(output, STANDARD.encode(sha2::Sha256::digest(&bytes)));
        assert_eq!(answer["Size"], bytes.len());
    }
    bytes
}

#[test]
fn without_a_daemon_go_has_its_own_files_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let lines =
        [get(1, 9), put(2, 1, b"one"), get(3, 1), put(4, 2, b""), get(5, 2), put(6, 3, &large), close(7)];
    let answers = talk(None, home.path(), &lines);
    assert_eq!(answers[&1], json!({"ID": 1, "Miss": true}));
    assert_eq!((file(&answers[&2]), file(&answers[&3])), (b"one".to_vec(), b"one".to_vec()));
    assert_eq!((file(&answers[&4]), file(&answers[&5])), (Vec::new(), Vec::new()));
    assert!(file(&answers[&6]) == large);
    assert_eq!(answers[&7], json!({"ID": 7}));
    // What it would find is not to be believed: nobody was asked.
    assert_eq!(talk(None, home.path(), &[get(1, 1), close(2)])[&1]["Miss"], true);
}

#[test]
fn what_one_go_put_another_gets() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let door = Door::new();
    let large = vec![7; 1_000_000];
    let lines = [put(2, 1, b"one"), put(3, 2, b""), put(4, 3, &large), close(5)];
    exchange(door.clone(), home.path(), &[get(1, 1)], &lines);
    assert_eq!(door.claims.lock().unwrap().len(), 3);
    // Without a good-bye as well, and in a folder of its own or the first one's.
    for folder in [home.path(), other.path(), other.path()] {
        let answers = talk(Some(door.clone()), folder, &[get(1, 1), get(2, 2), get(3, 3), get(4, 4)]);
        assert_eq!((file(&answers[&1]), file(&answers[&2])), (b"one".to_vec(), Vec::new()));
        assert!(file(&answers[&3]) == large);
        assert_eq!(answers[&4]["Miss"], true);
    }
    let claims = door.claims.lock().unwrap();
    let cost = |of: u8| claims[&vec![of; 32]].labels.cost_ms;
    assert!(cost(1).is_some() && cost(3).is_none(), "what was asked for before took a known time");
}

#[test]
fn whatever_a_door_does_go_gets_a_miss_or_the_right_bytes() {
    for fault in [Fault::Lies, Fault::Long, Fault::Short, Fault::Breaks, Fault::Hangs, Fault::Panics] {
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let door = Door::new();
        talk(Some(door.clone()), home.path(), &[put(1, 1, b"one"), close(2)]);
        let faulty = Door { fault, ..door };
        let lines = [get(1, 1), put(2, 2, b"two"), get(3, 2), close(4)];
        let answers = talk(Some(faulty), other.path(), &lines);
        assert_eq!(answers[&1], json!({"ID": 1, "Miss": true}), "{fault:?}");
        assert_eq!((file(&answers[&2]), file(&answers[&3])), (b"two".to_vec(), b"two".to_vec()));
        assert_eq!(answers[&4], json!({"ID": 4}));
        let left: Vec<_> = fs::read_dir(other.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let unfinished = left.iter().filter(|path| path.display().to_string().contains("unfinished"));
        assert_eq!(unfinished.count(), 0, "{left:?}");
    }
}

#[test]
fn a_tree_or_a_blob_under_another_name_is_not_for_go() {
    let home = tempfile::tempdir().unwrap();
    let door = Door::new();
    talk(Some(door.clone()), home.path(), &[put(1, 1, b"one"), close(2)]);
    let digest = Digest::of(b"one");
    let tree = potluck_protocol::entry::TreeOutput { digest, size: 3, members: 0, total: 0 };
    door.claims.lock().unwrap().get_mut(&vec![1; 32]).unwrap().output = Output::Tree(tree);
    assert_eq!(talk(Some(door.clone()), home.path(), &[get(1, 1)])[&1]["Miss"], true);
    // go says that it is something else than it is.
    let wrong = put(1, 2, b"two").replace(
        &STANDARD.encode(sha2::Sha256::digest(b"two")),
        &STANDARD.encode(sha2::Sha256::digest(b"too")),
    );
    let answers = talk(Some(door.clone()), home.path(), &[wrong, close(2)]);
    assert_eq!(file(&answers[&1]), b"two");
    assert_eq!(door.claims.lock().unwrap().len(), 1, "it is not published");
}

#[test]
fn nonsense_is_survived_and_too_much_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let huge = put(4, 3, b"four").replace("\"BodySize\":4", &format!("\"BodySize\":{}", MAX_BODY_BYTES + 1));
    let cut = put(5, 4, b"four").replace("\"BodySize\":4", "\"BodySize\":5");
    let lines = [
        "nonsense".to_owned(),
        "x".repeat(100_000),
        json!({"ID": 1, "Command": "delete"}).to_string(),
        json!({"ID": 2, "Command": "get", "ActionID": STANDARD.encode([0; 65])}).to_string(),
        json!({"ID": 3, "Command": "get"}).to_string(),
        huge,
        cut,
        put(6, 5, b"five"),
        close(7),
        get(8, 5),
    ];
    let answers = talk(Some(Door::new()), home.path(), &lines);
    for id in 1..=5 {
        assert!(answers[&id]["Err"].is_string(), "{}", answers[&id]);
    }
    assert_eq!(file(&answers[&6]), b"five");
    assert!(answers.contains_key(&7) && !answers.contains_key(&8), "nothing is answered after the end");
}

#[test]
fn an_output_that_go_made_anew_counts_as_new() {
    let home = tempfile::tempdir().unwrap();
    let door = Door::new();
    talk(Some(door.clone()), home.path(), &[put(1, 1, b"ok 0.1s"), close(2)]);
    let first = talk(Some(door.clone()), home.path(), &[get(1, 1)])[&1].clone();
    let path = first["DiskPath"].as_str().unwrap();
    let past = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
    fs::File::open(path).unwrap().set_times(past).unwrap();
    let time = |door: &Door| {
        let answer = talk(Some(door.clone()), home.path(), &[get(1, 1)])[&1].clone();
        (file(&answer), answer["Time"].as_str().unwrap().to_owned())
    };
    assert_eq!(time(&door), (b"ok 0.1s".to_vec(), "1970-01-01T00:00:00.000Z".to_owned()));
    // It was found, and go did not want it; the first claim stands all the same.
    let again = std::thread::spawn({
        let (door, root) = (door.clone(), home.path().to_owned());
        move || exchange(door, &root, &[get(1, 1)], &[put(2, 1, b"ok 0.2s"), close(3)])
    });
    again.join().unwrap();
    let (bytes, time) = time(&door);
    assert_eq!(bytes, b"ok 0.1s");
    assert!(time.as_str() > &first["Time"].as_str().unwrap()[..4], "{time}");
}

#[test]
fn what_go_is_likely_to_ask_for_is_asked_before_it_does_and_checked_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    let door = Door::new();
    let lines = [put(1, 1, b"one"), put(2, 2, b"two"), put(3, 3, b"three"), put(4, 4, b"four"), close(5)];
    let put = talk(Some(door.clone()), home.path(), &lines);
    // Of one nobody is believed any more, one is damaged on the disk, and one is gone.
    door.claims.lock().unwrap().remove(&vec![2; 32]);
    let path = |id: i64| Path::new(put[&id]["DiskPath"].as_str().unwrap()).to_owned();
    fs::remove_file(path(3)).unwrap();
    fs::write(path(3), b"Three").unwrap();
    fs::remove_file(path(4)).unwrap();
    door.asked.lock().unwrap().clear();
    let known = || door.asked.lock().unwrap().contains(&4);
    let answers =
        exchange_once(door.clone(), home.path(), known, &[get(1, 1), get(2, 2), get(3, 3), get(4, 4)]);
    assert_eq!((file(&answers[&1]), file(&answers[&3])), (b"one".to_vec(), b"three".to_vec()));
    assert_eq!(file(&answers[&4]), b"four");
    assert_eq!(answers[&2], json!({"ID": 2, "Miss": true}));
    // Elsewhere nothing is expected.
    door.asked.lock().unwrap().clear();
    let other = tempfile::tempdir().unwrap();
    exchange(door.clone(), other.path(), &[get(1, 1)], &[close(2)]);
    assert_eq!(*door.asked.lock().unwrap(), [1]);
}

/// Starts a helper; gives the way to it, what it says, and its end.
fn start(door: Door, root: &Path) -> (io::PipeWriter, Said, std::thread::JoinHandle<()>) {
    let (reader, writer) = io::pipe().unwrap();
    let said = Said::default();
    let folder = Folder::open(Some(root)).unwrap();
    let (project, deadline) = (Project::default(), Duration::from_millis(10));
    let setup = Setup { project, folder, deadline, at: root.to_owned() };
    let serving = {
        let said = said.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(serve(async { Some(door) }, setup, reader, said)).unwrap();
        })
    };
    (writer, said, serving)
}

/// Says some lines once something has happened; gives the answers by their ids.
fn exchange_once(
    door: Door,
    root: &Path,
    happened: impl Fn() -> bool,
    lines: &[String],
) -> HashMap<i64, Value> {
    let (mut writer, said, serving) = start(door, root);
    while !happened() {
        std::thread::yield_now();
    }
    for line in lines {
        writeln!(writer, "{line}").unwrap();
    }
    drop(writer);
    serving.join().unwrap();
    let text = String::from_utf8(said.0.lock().unwrap().clone()).unwrap();
    let answers = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    answers.map(|answer| (answer["ID"].as_i64().unwrap(), answer)).collect()
}

/// Says some lines, waits for an answer to each, and says the others.
fn exchange(door: Door, root: &Path, first: &[String], then: &[String]) {
    let (mut writer, said, serving) = start(door, root);
    for (count, line) in (2..).zip(first) {
        writeln!(writer, "{line}").unwrap();
        while said.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count() < count {
            std::thread::yield_now();
        }
    }
    for line in then {
        writeln!(writer, "{line}").unwrap();
    }
    serving.join().unwrap();
}
