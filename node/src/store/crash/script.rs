// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the store and the engine are asked to do, and what they promised by doing it.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Labels, Output, TreeOutput};
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::PIECE_BYTES;
use potluck_protocol::tree::{Kind, Member, Tree, TreePath};
use tempfile::TempDir;

use super::log::Log;
use crate::cache::{Cache as _, CacheError, Publication};
use crate::config::Config;
use crate::content::files::Files;
use crate::content::{Content as _, Durability, Repacked};
use crate::engine::publish::FlushError;
use crate::engine::{Engine, EngineError};
use crate::fetch::event::Space;
use crate::home::Home;
use crate::index::IndexError;
use crate::store::{Store, StoreError};

/// Never.
pub(super) const NEVER: usize = usize::MAX;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Flush(#[from] FlushError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<IndexError> for Fault {
    fn from(error: IndexError) -> Self {
        Self::Store(error.into())
    }
}

impl From<crate::content::ContentError> for Fault {
    fn from(error: crate::content::ContentError) -> Self {
        Self::Store(error.into())
    }
}

/// From which step on a Blob must be there, and until when.
#[derive(Debug, Clone)]
pub(super) struct Promise {
    pub(super) digest: Digest,
    /// After the death of the process.
    pub(super) killed: usize,
    /// After a power cut.
    pub(super) cut: usize,
    pub(super) until: usize,
}

/// A claim that was published.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) action: ActionId,
    pub(super) blobs: Vec<Digest>,
    pub(super) from: usize,
}

/// Pieces of a Blob that came, from which step on and until when.
#[derive(Debug, Clone)]
pub(super) struct Came {
    pub(super) digest: Digest,
    pub(super) pieces: Vec<u64>,
    pub(super) from: usize,
    pub(super) until: usize,
}

/// All that was promised, by the number of steps that had been taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// All that was ever written.
    pub(super) universe: BTreeMap<Digest, Vec<u8>>,
    pub(super) promises: Vec<Promise>,
    pub(super) claims: Vec<Claim>,
    pub(super) came: Vec<Came>,
    /// Blobs that the script spoiled, and from when on.
    pub(super) spoiled: BTreeMap<Digest, usize>,
    /// How many times a Catalog was flushed, and since when.
    pub(super) flushed: Vec<usize>,
}

impl Facts {
    /// After how many steps something was promised, or no longer.
    pub(super) fn moments(&self) -> impl Iterator<Item = usize> {
        let promises = self.promises.iter().flat_map(|one| [one.killed, one.cut, one.until]);
        let claims = self.claims.iter().map(|claim| claim.from);
        let came = self.came.iter().flat_map(|came| [came.from, came.until]);
        let all = promises.chain(claims).chain(came).chain(self.flushed.iter().copied());
        all.filter(|at| *at != NEVER)
    }
}

/// Where the script runs.
pub(super) struct Stage {
    pub(super) folder: TempDir,
    pub(super) home: Home,
    pub(super) log: Arc<Log>,
    pub(super) facts: Facts,
    files: Files,
    open: Option<(Store, Arc<Engine>)>,
    runtime: tokio::runtime::Runtime,
}

/// One operation; the number makes its Blobs differ from those of others.
pub(super) type Operation = fn(&mut Stage, u64) -> Result<(), Fault>;

/// In this order.
pub(super) const SCRIPT: &[(&str, Operation)] = &[
    ("open", Stage::reopen),
    ("a small blob", |stage, salt| stage.keep(salt, 100, Durability::Durable)),
    ("a small blob, fast", |stage, salt| stage.keep(salt, 200, Durability::Fast)),
    ("a blob", |stage, salt| stage.keep(salt, 20_000, Durability::Durable)),
    ("a blob, fast", |stage, salt| stage.keep(salt, 40_000, Durability::Fast)),
    ("a blob of two pieces", |stage, salt| stage.keep(salt, PIECE_BYTES + 5000, Durability::Durable)),
    ("the same, fast and then durable", Stage::keep_twice),
    ("several writers of one blob", Stage::write_at_once),
    ("a blob from elsewhere", Stage::receive),
    ("a tree, published", Stage::publish_tree),
    ("a file through the door, published", Stage::publish_file),
    ("a catalog", Stage::flush),
    ("removal", Stage::remove),
    ("quarantine", Stage::quarantine),
    ("packing", Stage::pack),
    ("packing what is not durable", Stage::pack_fast),
    ("collection", Stage::collect),
    ("a smaller index", Stage::shrink),
    ("a blob in two goes", Stage::arrive),
    ("a part that has to go", Stage::drop_part),
    ("open again", Stage::reopen),
    ("another tree, published", Stage::publish_tree),
    ("the next catalog", Stage::flush),
];

pub(super) fn space() -> Space {
    Space { project: Project::new("p").unwrap(), recipe: Recipe::new("r@1").unwrap() }
}

/// A piece of a Blob.
pub(super) fn piece(bytes: &[u8], index: u64) -> &[u8] {
    bytes.chunks(PIECE_BYTES).nth(usize::try_from(index).unwrap()).unwrap()
}

/// A folder in memory where there is one: thousands of states are written and synced.
pub(super) fn scratch() -> TempDir {
    let builder = tempfile::Builder::new();
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).unwrap()
}

impl Stage {
    pub(super) fn new() -> Self {
        let folder = scratch();
        let home = Home::locate(Some(folder.path().join("home"))).unwrap();
        home.init("").unwrap();
        let watched = folder.path().join("watched");
        std::fs::create_dir(&watched).unwrap();
        let log = Log::of(&watched);
        let files = Files::watched(Arc::<Log>::clone(&log));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { folder, home, log, facts: Facts::default(), files, open: None, runtime }
    }

    pub(super) fn watched(&self) -> std::path::PathBuf {
        self.folder.path().join("watched")
    }

    /// The store, opened if it is not.
    pub(super) fn store(&mut self) -> Result<Store, Fault> {
        Ok(self.opened()?.0)
    }

    fn opened(&mut self) -> Result<(Store, Arc<Engine>), Fault> {
        if self.open.is_none() {
            let store = Store::open_by(&self.watched().join("store"), Default::default(), &self.files)?.0;
            let engine = Arc::new(Engine::over(&self.home, store.clone(), Config::default())?);
            self.open = Some((store, engine));
        }
        Ok(self.open.clone().expect("it was just opened"))
    }

    /// Begins anew, with nothing but what an operation needs before it.
    pub(super) fn begin_anew(&mut self, operation: &str, salt: u64) {
        self.open = None;
        let _ = std::fs::remove_dir_all(self.watched().join("store"));
        self.facts = Facts::default();
        match operation {
            "open" => {}
            "a catalog" => self.publish_tree(salt + 1_000_000).unwrap(),
            _ => self.reopen(0).unwrap(),
        }
    }

    fn reopen(&mut self, _: u64) -> Result<(), Fault> {
        self.open = None;
        self.opened().map(drop)
    }

    /// Half of it shrinks.
    fn data(&mut self, salt: u64, len: usize) -> (Digest, Vec<u8>) {
        let mut rng = Rng::with_seed(salt << 24 | len as u64);
        let half = std::iter::repeat_with(|| rng.u8(..)).take(len / 2);
        let mut bytes: Vec<u8> = half.collect();
        bytes.resize(len, b'x');
        let digest = Digest::of(&bytes);
        self.facts.universe.insert(digest, bytes.clone());
        (digest, bytes)
    }

    fn promise(&mut self, digest: Digest, killed: usize, cut: usize) {
        self.facts.promises.push(Promise { digest, killed, cut, until: NEVER });
    }

    fn durable(&mut self, digest: Digest) {
        self.promise(digest, self.log.len(), self.log.len());
    }

    fn keep(&mut self, salt: u64, len: usize, durability: Durability) -> Result<(), Fault> {
        let (digest, bytes) = self.data(salt, len);
        self.store()?.keep(&bytes, durability)?;
        match durability {
            Durability::Durable => self.durable(digest),
            // What lies in the index goes with the next durable change.
            Durability::Fast if len <= crate::index::MAX_INLINE_BYTES => {}
            Durability::Fast => self.promise(digest, self.log.len(), NEVER),
        }
        Ok(())
    }

    fn keep_twice(&mut self, salt: u64) -> Result<(), Fault> {
        self.keep(salt, 50_000, Durability::Fast)?;
        self.keep(salt, 50_000, Durability::Durable)
    }

    fn write_at_once(&mut self, salt: u64) -> Result<(), Fault> {
        let (digest, bytes) = self.data(salt, 60_000);
        let store = self.store()?;
        let one = || store.keep(&bytes, Durability::Durable);
        let all = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        if all.iter().any(Result::is_ok) {
            self.durable(digest);
        }
        all.into_iter().try_for_each(|one| Ok(one.map(drop)?))
    }

    fn receive(&mut self, salt: u64) -> Result<(), Fault> {
        let (digest, bytes) = self.data(salt, 70_000);
        let mut hasher = potluck_protocol::piece::PieceHasher::new();
        hasher.update(&bytes);
        let mut receiving = self.store()?.receive(hasher.finish().unwrap())?;
        receiving.put(0, Packing::Raw, &bytes)?;
        receiving.finish()?;
        self.promise(digest, self.log.len(), NEVER);
        Ok(())
    }

    /// Some pieces come, and the rest when somebody takes it up.
    fn arrive(&mut self, salt: u64) -> Result<(), Fault> {
        let (digest, bytes) = self.data(salt, 2 * PIECE_BYTES + 9000);
        self.pieces_come(&bytes, &[2, 0])?;
        let Some(arriving) = self.store()?.take_up(&digest, bytes.len() as u64)? else {
            panic!("what came is there")
        };
        let missing: Vec<_> = (0..3).filter(|index| !arriving.bits().has(*index)).collect();
        for index in missing {
            arriving.put(index, Packing::Raw, piece(&bytes, index))?;
        }
        self.part_ends(&digest);
        arriving.finish()?;
        self.promise(digest, self.log.len(), NEVER);
        Ok(())
    }

    /// A part of which more never comes makes room.
    fn drop_part(&mut self, salt: u64) -> Result<(), Fault> {
        let (digest, bytes) = self.data(salt, PIECE_BYTES + 6000);
        self.pieces_come(&bytes, &[1])?;
        self.part_ends(&digest);
        let thinned = self.store()?.content.drop_parts(1, false)?;
        assert!(thinned.freed >= 6000 && thinned.left == 0, "{thinned:?}");
        Ok(())
    }

    fn pieces_come(&mut self, bytes: &[u8], pieces: &[u64]) -> Result<(), Fault> {
        let mut hasher = potluck_protocol::piece::PieceHasher::new();
        hasher.update(bytes);
        let arriving = self.store()?.arrive(hasher.finish().unwrap())?;
        let digest = *arriving.pieces().digest();
        for (count, index) in pieces.iter().enumerate() {
            arriving.put(*index, Packing::Raw, piece(bytes, *index))?;
            let pieces = pieces[..=count].to_vec();
            self.facts.came.push(Came { digest, pieces, from: self.log.len(), until: NEVER });
        }
        Ok(())
    }

    fn part_ends(&mut self, digest: &Digest) {
        let now = self.log.len();
        let came = self.facts.came.iter_mut();
        for came in came.filter(|came| came.digest == *digest && came.until == NEVER) {
            came.until = now;
        }
    }

    fn publish(&mut self, salt: u64, output: Output, blobs: Vec<Digest>) -> Result<(), Fault> {
        let Space { project, recipe } = space();
        let key = salt.to_le_bytes().to_vec();
        let action = ActionId::derive(&project, &recipe, &key, None).unwrap();
        let (labels, taints) = (Labels::default(), Vec::new());
        let publication = Publication { project, recipe, key, output, labels, taints };
        let engine = self.opened()?.1;
        self.runtime.block_on(engine.publish(publication))?;
        self.facts.claims.push(Claim { action, blobs, from: self.log.len() });
        Ok(())
    }

    fn publish_tree(&mut self, salt: u64) -> Result<(), Fault> {
        let (small, large) = (self.data(salt, 300), self.data(salt, 30_000));
        let member = |name: &str, (digest, bytes): &(Digest, Vec<u8>)| Member {
            path: TreePath::new(name).unwrap(),
            kind: Kind::File { digest: *digest, size: bytes.len() as u64, executable: false },
        };
        let tree = Tree::new(vec![member("a", &small), member("b", &large)]).unwrap().encode();
        let store = self.store()?;
        for bytes in [&small.1, &large.1, &tree] {
            let digest = store.keep(bytes, Durability::Durable)?;
            self.facts.universe.insert(digest, bytes.clone());
            self.durable(digest);
        }
        let (digest, size) = (Digest::of(&tree), tree.len() as u64);
        let output = Output::Tree(TreeOutput { digest, size, members: 2, total: 30_300 });
        self.publish(salt, output, vec![digest, small.0, large.0])
    }

    fn publish_file(&mut self, salt: u64) -> Result<(), Fault> {
        let (digest, bytes) = self.data(salt, 80_000);
        let engine = self.opened()?.1;
        self.runtime.block_on(engine.write(bytes.as_slice()))?;
        let output = Output::Blob(BlobOutput { digest, size: bytes.len() as u64 });
        self.publish(salt, output, vec![digest])?;
        self.durable(digest);
        Ok(())
    }

    fn flush(&mut self, _: u64) -> Result<(), Fault> {
        let engine = self.opened()?.1;
        if engine.flush(&space().project)?.head.is_some() {
            self.facts.flushed.push(self.log.len());
        }
        Ok(())
    }

    /// Ends what was promised about a Blob.
    fn end(&mut self, digest: &Digest) {
        let now = self.log.len();
        let promises = self.facts.promises.iter_mut();
        for promise in promises.filter(|promise| promise.digest == *digest && promise.until == NEVER) {
            promise.until = now;
        }
    }

    fn remove(&mut self, salt: u64) -> Result<(), Fault> {
        for (len, small) in [(400, true), (90_000, false)] {
            self.keep(salt, len, Durability::Durable)?;
            let digest = self.data(salt, len).0;
            self.end(&digest);
            let store = self.store()?;
            match small {
                true => store.index.forget_small(&digest)?,
                false => store.content.remove(&digest)?,
            };
        }
        Ok(())
    }

    /// What was written raw is packed, and is as durable as it was before.
    fn pack(&mut self, salt: u64) -> Result<(), Fault> {
        self.keep(salt, PIECE_BYTES + 7000, Durability::Durable)?;
        let digest = self.data(salt, PIECE_BYTES + 7000).0;
        let packed = self.store()?.pack(&digest, &mut || true)?;
        assert!(matches!(packed, Repacked::Done { .. }), "{packed:?}");
        Ok(())
    }

    fn pack_fast(&mut self, salt: u64) -> Result<(), Fault> {
        self.keep(salt, 120_000, Durability::Fast)?;
        let digest = self.data(salt, 120_000).0;
        self.store()?.pack(&digest, &mut || true)?;
        Ok(())
    }

    /// Removes several at once, as collection does.
    fn collect(&mut self, salt: u64) -> Result<(), Fault> {
        let mut all = Vec::new();
        for len in [500, 95_000, 96_000] {
            self.keep(salt, len, Durability::Durable)?;
            all.push(self.data(salt, len).0);
        }
        all.iter().for_each(|digest| self.end(digest));
        Ok(self.store()?.remove_all(&all)?)
    }

    /// The index gets a smaller file.
    fn shrink(&mut self, _: u64) -> Result<(), Fault> {
        let index = self.store()?.index;
        let shrunk = index.shrink(0, |_| Ok::<_, IndexError>(()), &mut || true)?;
        assert!(matches!(shrunk, crate::index::Shrunk::Done { .. }), "{shrunk:?}");
        Ok(())
    }

    /// A bit flips; whoever reads finds out; whoever has it writes it again.
    fn quarantine(&mut self, salt: u64) -> Result<(), Fault> {
        let (digest, bytes) = self.data(salt, 110_000);
        let store = self.store()?;
        store.keep(&bytes, Durability::Durable)?;
        self.end(&digest);
        let name = digest.to_string();
        let path = self.watched().join("store/blobs").join(&name[..2]).join(&name);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let now = self.log.len();
        let spoiled = self.files.write_at((&file, &path), 1000, b"spoiled");
        spoiled.map_err(|error| crate::content::ContentError::io("spoil", &path, error))?;
        self.facts.spoiled.insert(digest, now);
        match store.bytes(&digest, u64::MAX) {
            Err(StoreError::Content(crate::content::ContentError::Damaged { .. })) => {}
            other => panic!("what is spoiled is found out: {:?}", other.map(|_| ())),
        }
        store.keep(&bytes, Durability::Durable)?;
        self.durable(digest);
        Ok(())
    }
}
