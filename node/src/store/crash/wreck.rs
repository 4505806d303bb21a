// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a power cut may leave of a file system, by the rules of those that promise least: what was not synced is there,
//! or is not, or in part, each for itself and in any order; a name is there only once its folder was synced, whatever
//! became of the file. So ALICE takes it (Pillai and others, OSDI 2014).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blake3::Hasher;
use fastrand::Rng;

use super::log::Taken;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

type Id = usize;

/// A change of a file that was not synced.
#[derive(Debug, Clone)]
enum Change {
    Write(usize, Arc<[u8]>),
    Length(usize),
}

#[derive(Debug, Default)]
struct Data {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Default)]
struct Names {
    durable: BTreeMap<OsString, Id>,
    /// A name and what has it from then on, if anything.
    pending: Vec<(OsString, Option<Id>)>,
}

#[derive(Debug)]
enum Node {
    File(Data),
    Folder(Names),
}

/// What becomes of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Lost,
    Kept,
    /// Some sectors of it, picked by this seed. A change that has none is lost or kept.
    Torn(u64),
}

/// A file system with all that was not synced.
pub(super) struct Wreck {
    nodes: Vec<Node>,
    /// Names as the living see them.
    live: BTreeMap<PathBuf, Id>,
}

/// A file system after the power came back: folders, and files with what they hold.
#[derive(Debug, Default)]
pub(super) struct Left {
    folders: Vec<PathBuf>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Wreck {
    /// An empty folder, which lasts.
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::Folder(Names::default())], live: BTreeMap::from([(PathBuf::new(), 0)]) }
    }

    pub(super) fn take(&mut self, step: &Taken) {
        match step {
            Taken::Make(path) => self.add(path, Node::Folder(Names::default())),
            Taken::Create(path) => self.add(path, Node::File(Data::default())),
            Taken::Write(path, offset, bytes) => {
                let offset = usize::try_from(*offset).unwrap();
                self.data(path).pending.push(Change::Write(offset, Arc::clone(bytes)));
            }
            Taken::Length(path, len) => {
                self.data(path).pending.push(Change::Length(usize::try_from(*len).unwrap()));
            }
            Taken::Sync(path) => {
                let Data { durable, pending } = self.data(path);
                pending.drain(..).for_each(|change| change.apply(durable, Fate::Kept));
            }
            Taken::SyncFolder(path) => {
                let Names { durable, pending } = self.names(path);
                pending.drain(..).for_each(|edit| rename(durable, edit));
            }
            Taken::Rename(from, to) => {
                let id = self.live.remove(from).unwrap();
                self.live.insert(to.clone(), id);
                self.edit(to, Some(id));
                self.edit(from, None);
            }
            Taken::Remove(path) => {
                self.live.remove(path).unwrap();
                self.edit(path, None);
            }
        }
    }

    fn add(&mut self, path: &Path, node: Node) {
        let id = self.nodes.len();
        self.nodes.push(node);
        self.live.insert(path.to_owned(), id);
        self.edit(path, Some(id));
    }

    fn edit(&mut self, path: &Path, id: Option<Id>) {
        let name = path.file_name().unwrap().to_owned();
        self.names(path.parent().unwrap()).pending.push((name, id));
    }

    fn data(&mut self, path: &Path) -> &mut Data {
        match &mut self.nodes[self.live[path]] {
            Node::File(data) => data,
            Node::Folder(_) => panic!("{path:?} is no file"),
        }
    }

    fn names(&mut self, path: &Path) -> &mut Names {
        match &mut self.nodes[self.live[path]] {
            Node::Folder(names) => names,
            Node::File(_) => panic!("{path:?} is no folder"),
        }
    }

    /// How many changes were not synced.
    pub(super) fn pending(&self) -> usize {
        let pending = |node: &Node| match node {
            Node::File(data) => data.pending.len(),
            Node::Folder(names) => names.pending.len(),
        };
        self.nodes.iter().map(pending).sum()
    }

    /// What is left when each change meets its fate, as told by its number.
    pub(super) fn left(&self, mut fate: impl FnMut(usize) -> Fate) -> Left {
        let mut number = 0;
        let mut next = || {
            number += 1;
            fate(number - 1)
        };
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            nodes.push(match node {
                Node::File(data) => {
                    let mut bytes = data.durable.clone();
                    data.pending.iter().for_each(|change| change.apply(&mut bytes, next()));
                    Node::File(Data { durable: bytes, pending: Vec::new() })
                }
                Node::Folder(names) => {
                    let mut durable = names.durable.clone();
                    for edit in &names.pending {
                        if next() != Fate::Lost {
                            rename(&mut durable, edit.clone());
                        }
                    }
                    Node::Folder(Names { durable, pending: Vec::new() })
                }
            });
        }
        let mut left = Left::default();
        left.gather(&nodes, 0, Path::new(""));
        left
    }
}

fn rename(names: &mut BTreeMap<OsString, Id>, (name, id): (OsString, Option<Id>)) {
    match id {
        Some(id) => drop(names.insert(name, id)),
        None => drop(names.remove(&name)),
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>, fate: Fate) {
        match (self, fate) {
            (_, Fate::Lost) => {}
            (Self::Length(len), _) => file.resize(*len, 0),
            (Self::Write(offset, bytes), Fate::Kept) => put(file, *offset, bytes),
            (Self::Write(offset, bytes), Fate::Torn(seed)) => {
                let mut rng = Rng::with_seed(seed);
                // The length often reaches the disk before what is in it.
                if rng.bool() && file.len() < offset + bytes.len() {
                    file.resize(offset + bytes.len(), 0);
                }
                let mut at = 0;
                while at < bytes.len() {
                    let end = ((offset + at) / SECTOR + 1) * SECTOR - offset;
                    let end = end.min(bytes.len());
                    if rng.bool() {
                        put(file, offset + at, &bytes[at..end]);
                    }
                    at = end;
                }
            }
        }
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Left {
    fn gather(&mut self, nodes: &[Node], folder: Id, path: &Path) {
        let Node::Folder(names) = &nodes[folder] else { return };
        for (name, id) in &names.durable {
            let path = path.join::<&OsStr>(name);
            match &nodes[*id] {
                Node::File(data) => self.files.push((path, data.durable.clone())),
                Node::Folder(_) => {
                    self.folders.push(path.clone());
                    self.gather(nodes, *id, &path);
                }
            }
        }
    }

    /// Makes it real.
    pub(super) fn write(&self, root: &Path) {
        for folder in &self.folders {
            let made = crate::content::files::Files::default().make_folder(&root.join(folder));
            made.unwrap();
        }
        for (path, bytes) in &self.files {
            fs::write(root.join(path), bytes).unwrap();
        }
    }

    /// The same for two that are the same.
    pub(super) fn name(&self) -> blake3::Hash {
        let mut hasher = Hasher::new();
        let mut take = |bytes: &[u8]| {
            hasher.update(&bytes.len().to_le_bytes());
            hasher.update(bytes);
        };
        for folder in &self.folders {
            take(folder.as_os_str().as_encoded_bytes());
        }
        for (path, bytes) in &self.files {
            take(path.as_os_str().as_encoded_bytes());
            take(bytes);
        }
        hasher.finalize()
    }
}
