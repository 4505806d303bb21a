// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is remembered of a Network, in a redb file of its own: what stands on its DHT here, who its members were, and
//! what this node has said there.
//!
//! Nothing in it is missed for long. A file that cannot be read is put aside, and a new one begun.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use potluck_keys::time::Time;
use potluck_protocol::head::MAX_HEAD_SET_BYTES;
use potluck_protocol::names::DhtKey;
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};

use super::group::Group;
use super::known::Member;
use super::shelf::{Row, Source};
use super::{MAX_ADDRESS_BYTES, MAX_ADDRESSES, MAX_PEER_BYTES};

/// What redb keeps in memory, in bytes.
const CACHE_BYTES: usize = 2 << 20;
/// Most lines of one kind that are read. More than the bounds of the shelf leave room for was not written here.
const MAX_ROWS: usize = 1 << 20;
/// Longest name of something that was said, in bytes.
pub const MAX_SAID_BYTES: usize = 256;

type Key = [u8; 32];
type Bytes = &'static [u8];

/// Key: until when (milliseconds), who put it, the value.
const VALUES: TableDefinition<'_, Key, (u64, Bytes, Bytes)> = TableDefinition::new("values/1");
/// Key, peer: until when.
const PROVIDERS: TableDefinition<'_, (Key, Bytes), u64> = TableDefinition::new("providers/1");
/// What this node provides.
const OWN: TableDefinition<'_, Key, ()> = TableDefinition::new("own/1");
/// Peer: its group, its addresses.
const SOURCES: TableDefinition<'_, Bytes, (Bytes, Bytes)> = TableDefinition::new("sources/1");
/// Peer: when it was seen, its group, its addresses.
const MEMBERS: TableDefinition<'_, Bytes, (u64, Bytes, Bytes)> = TableDefinition::new("members/1");
/// What was said: when it is to be said again.
const SAID: TableDefinition<'_, Bytes, u64> = TableDefinition::new("said/1");

/// Something that was said, and when it is to be said again; with nothing, it is not said any more.
pub type Said = (Vec<u8>, Option<Time>);

/// Lines to write.
#[derive(Debug, Default)]
pub struct Lines {
    /// Of the shelf.
    pub rows: Vec<Row>,
    /// Of the members.
    pub members: Vec<(Vec<u8>, Option<Member>)>,
    /// Of what was said.
    pub said: Vec<Said>,
}

impl Lines {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.members.is_empty() && self.said.is_empty()
    }
}

/// What was in the file.
#[derive(Debug, Default)]
pub struct Contents {
    /// For the shelf, the sources first.
    pub rows: Vec<Row>,
    /// The members.
    pub members: Vec<(Vec<u8>, Member)>,
    /// What was said, and when it is to be said again.
    pub said: BTreeMap<Vec<u8>, Time>,
}

/// The file, unless there is none.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    db: Mutex<Option<Database>>,
    /// What is to be written, in this order.
    queue: Mutex<Vec<Lines>>,
}

fn told(path: &Path, error: &dyn std::fmt::Display) {
    let path = path.display();
    tracing::warn!(%path, %error, "what was remembered of a network cannot be kept");
}

impl File {
    /// One that keeps nothing.
    pub fn none() -> Self {
        Self { path: PathBuf::new(), db: Mutex::default(), queue: Mutex::default() }
    }

    /// Opens the file, or makes it, and reads it. If it is damaged it is put aside as `….damaged`, in place of an
    /// earlier one, and a new one is begun; if there can be none, nothing is kept.
    pub fn open(path: &Path) -> (Self, Contents) {
        let file = |db| Self { path: path.to_owned(), db: Mutex::new(db), queue: Mutex::default() };
        match attempt(path) {
            Ok((db, contents)) => (file(Some(db)), contents),
            Err(Fault::Busy(error)) => {
                told(path, &error);
                (file(None), Contents::default())
            }
            Err(Fault::Damaged(error)) => {
                tracing::warn!(path = %path.display(), %error, "is damaged, is put aside, and begun anew");
                let aside = path.with_extension("damaged");
                let again = std::fs::rename(path, aside).map_err(|error| Fault::Busy(error.to_string()));
                match again.and_then(|()| attempt(path)) {
                    Ok((db, contents)) => (file(Some(db)), contents),
                    Err(Fault::Busy(error) | Fault::Damaged(error)) => {
                        told(path, &error);
                        (file(None), Contents::default())
                    }
                }
            }
        }
    }

    /// Notes lines to be written. They are written in the order of these calls.
    pub fn queue(&self, lines: Lines) {
        if !lines.is_empty() {
            self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(lines);
        }
    }

    /// Writes what is queued; what cannot be written is lost, and said once.
    pub fn write_queued(&self) {
        // The lock on the file comes first, or two writers could change places.
        let mut db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        let queued = std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner));
        if !queued.is_empty() {
            self.change(&mut db, |change| queued.iter().try_for_each(|lines| write_lines(change, lines)));
        }
    }

    /// Notes something that was said, and when it is to be said again. Whoever writes next writes it.
    pub fn queue_said(&self, name: Vec<u8>, again: Option<Time>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.last_mut() {
            Some(lines) => lines.said.push((name, again)),
            None => queue.push(Lines { said: vec![(name, again)], ..Lines::default() }),
        }
    }

    fn change(
        &self,
        db: &mut Option<Database>,
        write: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) {
        let Some(open) = db.as_ref() else { return };
        let done = catch_unwind(AssertUnwindSafe(|| {
            let change = open.begin_write()?;
            write(&change)?;
            change.commit()?;
            Ok::<_, redb::Error>(())
        }));
        let why = match done {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it makes no sense".to_owned(),
        };
        told(&self.path, &why);
        // Nothing more is written: the next start opens it anew, or puts it aside.
        let damaged = db.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(damaged)));
    }

    /// Lets go of the file, once what is being written is.
    pub fn close(&self) {
        if let Some(db) = self.db.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.close();
    }
}

/// Why a file cannot be used.
enum Fault {
    /// It may be good, but not now.
    Busy(String),
    /// What is in it is not what was written.
    Damaged(String),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        let error = error.into();
        match &error {
            redb::Error::DatabaseAlreadyOpen => Self::Busy(error.to_string()),
            redb::Error::Io(cause)
                if !matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Self::Busy(error.to_string())
            }
            _ => Self::Damaged(error.to_string()),
        }
    }
}

/// redb trusts what it reads as long as it can, and may panic on a damaged file, even when that is closed.
fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Fault::Damaged("it makes no sense".into())))
}

fn attempt(path: &Path) -> Result<(Database, Contents), Fault> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    let db = guarded(|| Ok(builder.create(path)?))?;
    match guarded(|| read(&db)) {
        Ok(contents) => Ok((db, contents)),
        Err(fault) => {
            guarded(|| {
                drop(db);
                Ok(())
            })?;
            Err(fault)
        }
    }
}

fn read(db: &Database) -> Result<Contents, Fault> {
    // Tables that are missing are made, so that they can be read.
    let change = db.begin_write()?;
    change.open_table(VALUES)?;
    change.open_table(PROVIDERS)?;
    change.open_table(OWN)?;
    change.open_table(SOURCES)?;
    change.open_table(MEMBERS)?;
    change.open_table(SAID)?;
    change.commit()?;
    let view = db.begin_read()?;
    let mut contents = Contents::default();
    for line in view.open_table(SOURCES)?.iter()?.take(MAX_ROWS) {
        let (peer, line) = line?;
        let (group, addresses) = line.value();
        let source = Source { group: Group::from_bytes(group), addresses: split(addresses) };
        contents.rows.push(Row::Source(peer_bytes(peer.value())?, Some(source)));
    }
    for line in view.open_table(VALUES)?.iter()?.take(MAX_ROWS) {
        let (key, line) = line?;
        let (until, by, value) = line.value();
        if value.len() > MAX_HEAD_SET_BYTES {
            return Err(Fault::Damaged("a value is too long".to_owned()));
        }
        let by = if by.is_empty() { None } else { Some(peer_bytes(by)?) };
        let value = (value.to_vec(), Time::from_millis(until), by);
        contents.rows.push(Row::Value(DhtKey::from_bytes(key.value()), Some(value)));
    }
    for line in view.open_table(PROVIDERS)?.iter()?.take(MAX_ROWS) {
        let (name, until) = line?;
        let (key, peer) = name.value();
        let until = Some(Time::from_millis(until.value()));
        contents.rows.push(Row::Provider(DhtKey::from_bytes(key), peer_bytes(peer)?, until));
    }
    for line in view.open_table(OWN)?.iter()?.take(MAX_ROWS) {
        contents.rows.push(Row::Own(DhtKey::from_bytes(line?.0.value()), true));
    }
    for line in view.open_table(MEMBERS)?.iter()?.take(MAX_ROWS) {
        let (peer, line) = line?;
        let (seen, group, addresses) = line.value();
        let (seen, group) = (Time::from_millis(seen), Group::from_bytes(group));
        let member = Member { seen, group, addresses: split(addresses) };
        contents.members.push((peer_bytes(peer.value())?, member));
    }
    for line in view.open_table(SAID)?.iter()?.take(MAX_ROWS) {
        let (name, again) = line?;
        if name.value().len() <= MAX_SAID_BYTES {
            contents.said.insert(name.value().to_vec(), Time::from_millis(again.value()));
        }
    }
    Ok(contents)
}

fn peer_bytes(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    if bytes.len() > MAX_PEER_BYTES {
        return Err(Fault::Damaged("a peer's name is too long".to_owned()));
    }
    Ok(bytes.to_vec())
}

fn write_lines(change: &WriteTransaction, lines: &Lines) -> Result<(), redb::Error> {
    for row in &lines.rows {
        write_row(change, row)?;
    }
    let mut table = change.open_table(MEMBERS)?;
    for (peer, member) in &lines.members {
        match member {
            None => drop(table.remove(peer.as_slice())?),
            Some(Member { seen, group, addresses }) => {
                let (group, addresses) = (group_bytes(*group), join(addresses));
                table.insert(peer.as_slice(), (seen.as_millis(), &*group, &*addresses))?;
            }
        }
    }
    let mut table = change.open_table(SAID)?;
    for (name, again) in lines.said.iter().filter(|(name, _)| name.len() <= MAX_SAID_BYTES) {
        match again {
            None => drop(table.remove(name.as_slice())?),
            Some(again) => drop(table.insert(name.as_slice(), again.as_millis())?),
        }
    }
    Ok(())
}

fn write_row(change: &WriteTransaction, row: &Row) -> Result<(), redb::Error> {
    match row {
        Row::Value(key, value) => {
            let mut table = change.open_table(VALUES)?;
            match value {
                None => drop(table.remove(key.as_bytes())?),
                Some((value, until, by)) => {
                    let by = by.as_deref().unwrap_or_default();
                    table.insert(key.as_bytes(), (until.as_millis(), by, value.as_slice()))?;
                }
            }
        }
        Row::Provider(key, peer, until) => {
            let mut table = change.open_table(PROVIDERS)?;
            let name = (*key.as_bytes(), peer.as_slice());
            match until {
                None => drop(table.remove(name)?),
                Some(until) => drop(table.insert(name, until.as_millis())?),
            }
        }
        Row::Own(key, now) => {
            let mut table = change.open_table(OWN)?;
            if *now {
                table.insert(key.as_bytes(), ())?;
            } else {
                table.remove(key.as_bytes())?;
            }
        }
        Row::Source(peer, source) => {
            let mut table = change.open_table(SOURCES)?;
            match source {
                None => drop(table.remove(peer.as_slice())?),
                Some(Source { group, addresses }) => {
                    let (group, addresses) = (group_bytes(*group), join(addresses));
                    table.insert(peer.as_slice(), (&*group, &*addresses))?;
                }
            }
        }
    }
    Ok(())
}

fn group_bytes(group: Option<Group>) -> Vec<u8> {
    group.map(Group::to_bytes).unwrap_or_default()
}

/// Addresses one after the other, each after its length.
fn join(addresses: &[Vec<u8>]) -> Vec<u8> {
    let short = addresses.iter().take(MAX_ADDRESSES);
    let one = |address: &Vec<u8>| {
        let len = u8::try_from(address.len()).ok().filter(|len| usize::from(*len) <= MAX_ADDRESS_BYTES)?;
        Some([&[len], address.as_slice()].concat())
    };
    short.filter_map(one).flatten().collect()
}

/// What [`join`] made, as far as it makes sense.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut addresses = Vec::new();
    while let Some((len, rest)) = bytes.split_first()
        && addresses.len() < MAX_ADDRESSES
        && let Some((address, rest)) = rest.split_at_checked(usize::from(*len))
    {
        addresses.push(address.to_vec());
        bytes = rest;
    }
    addresses
}
