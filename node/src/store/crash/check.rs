// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must hold of a store after a crash.

use std::path::Path;

use potluck_keys::signed::Signed;
use potluck_protocol::catalog::Segment;
use potluck_protocol::digest::Digest;
use potluck_protocol::head::Head;

use super::script::{Facts, piece, space};
use crate::config::Config;
use crate::content::{Content as _, ContentError, Durability};
use crate::engine::{Engine, Known};
use crate::home::Home;
use crate::store::{Store, StoreError};

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The process was killed.
    Killed,
    /// The power was cut.
    Cut,
}

/// A store, and after how many steps it is looked at.
pub(super) struct After<'a> {
    pub(super) facts: &'a Facts,
    pub(super) steps: usize,
    pub(super) end: End,
}

type Checked = Result<(), String>;

/// That `right` holds.
fn that(right: bool, what: impl FnOnce() -> String) -> Checked {
    if right { Ok(()) } else { Err(what()) }
}

impl After<'_> {
    /// Opens what is left below `root` and looks at all of it.
    pub(super) fn opens(&self, root: &Path, home: &Home) -> Checked {
        let store = self.open(root)?;
        self.holds(&store, home)?;
        self.goes_on(&store)?;
        drop(store);
        // Now and then once more, after what was done to open it and to go on.
        if self.steps.is_multiple_of(8) { self.open(root).map(drop) } else { Ok(()) }
    }

    fn open(&self, root: &Path) -> Result<Store, String> {
        let folder = root.join("store");
        let store = Store::open(&folder).map_err(|error| format!("it does not open: {error}"))?.0;
        that(staged(root) == 0, || "staging is not swept".to_owned())?;
        let parts = in_staging(root, true);
        let paired = |name: &String| parts.iter().filter(|other| other[..64] == name[..64]).count() == 2;
        that(parts.iter().all(paired), || format!("half of a part is left: {parts:?}"))?;
        Ok(store)
    }

    /// Everything that was promised is there, and nothing else is served.
    pub(super) fn holds(&self, store: &Store, home: &Home) -> Checked {
        let mut strangers = Vec::new();
        let listed = store.content.each(&mut |digest, _| {
            if !self.facts.universe.contains_key(&digest) {
                strangers.push(digest);
            }
        });
        listed.map_err(|error| error.to_string())?;
        that(strangers.is_empty(), || format!("nobody wrote {strangers:?}"))?;
        for (digest, bytes) in &self.facts.universe {
            self.blob(store, digest, bytes)?;
        }
        self.claims(store, home)?;
        self.catalog(store)
    }

    fn promised(&self, digest: &Digest) -> bool {
        self.facts.promises.iter().any(|promise| {
            let from = if self.end == End::Cut { promise.cut } else { promise.killed };
            promise.digest == *digest && from <= self.steps && self.steps <= promise.until
        })
    }

    fn blob(&self, store: &Store, digest: &Digest, bytes: &[u8]) -> Checked {
        let (promised, len) = (self.promised(digest), bytes.len());
        match store.bytes(digest, u64::MAX) {
            Ok(Some(found)) => that(found == bytes, || format!("blob {digest} of {len} bytes is another")),
            Ok(None) => {
                that(!promised, || format!("blob {digest} of {len} bytes is lost"))?;
                self.part(store, digest, bytes)
            }
            Err(StoreError::Damaged(_) | StoreError::Content(ContentError::Damaged { .. })) => {
                let may = self.end == End::Cut
                    || self.facts.spoiled.get(digest).is_some_and(|from| *from <= self.steps);
                that(may && !promised, || format!("blob {digest} of {len} bytes is damaged"))?;
                let again = store.bytes(digest, u64::MAX);
                that(matches!(again, Ok(None)), || format!("blob {digest}, damaged, is still there"))
            }
            Err(error) => Err(format!("blob {digest} of {len} bytes cannot be read: {error}")),
        }
    }

    /// What came of a Blob is right, and after the death of the process all of it is there.
    fn part(&self, store: &Store, digest: &Digest, bytes: &[u8]) -> Checked {
        let fail = |error: StoreError| error.to_string();
        let arriving = store.take_up(digest, bytes.len() as u64).map_err(fail)?;
        let has = |index: u64| arriving.as_ref().is_some_and(|arriving| arriving.bits().has(index));
        let stands = |from: usize, until: usize| from <= self.steps && self.steps <= until;
        for came in self.facts.came.iter().filter(|came| came.digest == *digest) {
            let all = came.pieces.iter().all(|index| has(*index));
            let must = self.end == End::Killed && stands(came.from, came.until);
            that(all || !must, || format!("of blob {digest}, pieces {:?} are lost", came.pieces))?;
        }
        let Some(arriving) = &arriving else { return Ok(()) };
        for index in (0..arriving.pieces().count()).filter(|index| has(*index)) {
            let (_, packed) = arriving.packed(index).map_err(fail)?.ok_or("a piece that is here is not")?;
            that(packed == piece(bytes, index), || format!("piece {index} of blob {digest} is another"))?;
        }
        Ok(())
    }

    /// A published claim is there, and what is claimed either all there or missing.
    fn claims(&self, store: &Store, home: &Home) -> Checked {
        let engine =
            Engine::over(home, store.clone(), Config::default()).map_err(|error| error.to_string())?;
        for claim in &self.facts.claims {
            let known = engine.known(&space(), &claim.action).map_err(|error| error.to_string())?;
            let promised = claim.from <= self.steps;
            let whole = claim.blobs.iter().all(|digest| self.promised(digest));
            match known {
                Known::Here(_) => {
                    for digest in &claim.blobs {
                        let there = matches!(store.bytes(digest, u64::MAX), Ok(Some(_)));
                        that(there, || format!("a look-up promises blob {digest} in vain"))?;
                    }
                }
                Known::Lacks { .. } => that(!(promised && whole), || "a claim lacks its blobs".to_owned())?,
                Known::Nothing => that(!promised, || "a claim is lost".to_owned())?,
                Known::Refused => return Err("an own claim is refused".to_owned()),
            }
        }
        Ok(())
    }

    /// Every claim is in the Catalog or waits to be, and the Catalog is whole.
    fn catalog(&self, store: &Store) -> Checked {
        let fail = |error: &dyn std::fmt::Display| error.to_string();
        let project = space().project;
        let outbox = store.index.outbox(&project, usize::MAX).map_err(|error| fail(&error))?;
        let own = store.index.own_catalog(&project).map_err(|error| fail(&error))?;
        let flushed = self.facts.flushed.iter().filter(|at| **at <= self.steps).count() as u64;
        let mut listed = 0;
        let mut sequence = 0;
        if let Some(own) = own {
            let head: Signed<Head> = Signed::decode(&own.head).map_err(|error| fail(&error))?;
            let head = head.authentic().map_err(|error| fail(&error))?;
            sequence = head.sequence;
            let root = store.bytes(&head.root, head.size).map_err(|error| fail(&error))?;
            that(root.is_some(), || "the catalog's root is lost".to_owned())?;
            for segment in &own.catalog.segments {
                let bytes = store.bytes(&segment.digest, segment.size).map_err(|error| fail(&error))?;
                let segment = bytes.and_then(|bytes| Segment::decode(bytes).ok());
                listed += segment.ok_or("a segment of the catalog is lost")?.len();
            }
        }
        that(sequence >= flushed, || format!("catalog {flushed} was flushed, {sequence} is there"))?;
        let claimed = self.facts.claims.iter().filter(|claim| claim.from <= self.steps).count();
        that(listed + outbox.len() >= claimed, || "a claim is neither listed nor waiting".to_owned())
    }

    /// It can be written to, and what was lost can come again.
    fn goes_on(&self, store: &Store) -> Checked {
        let again = self.facts.universe.values().nth(self.steps % self.facts.universe.len().max(1));
        for bytes in again.map(Vec::as_slice).into_iter().chain([&b"fresh"[..], &[7; 20_000]]) {
            let kept = store.keep(bytes, Durability::Durable);
            let digest = kept.map_err(|error| format!("it takes nothing more: {error}"))?;
            let found = store.bytes(&digest, u64::MAX).map_err(|error| error.to_string())?;
            that(found.as_deref() == Some(bytes), || "what is written again is lost".to_owned())?;
        }
        Ok(())
    }
}

/// How many files lie in staging that are no parts of Blobs.
pub(super) fn staged(root: &Path) -> usize {
    in_staging(root, false).len()
}

/// The files in staging that are parts of Blobs, or the others.
fn in_staging(root: &Path, parts: bool) -> Vec<String> {
    let names = std::fs::read_dir(root.join("store/staging")).into_iter().flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| (name.ends_with(".part") || name.ends_with(".list")) == parts).collect()
}
