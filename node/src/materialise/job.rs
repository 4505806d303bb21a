// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Tree that somebody on this machine wants in a folder: the daemon writes it there itself, if it sees the same folder
//! and makes files as its client does. Otherwise it says so, and the client does it through the door.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use potluck_keys::time::Time;
use potluck_protocol::control;
use potluck_protocol::tree::{MAX_TREE_BYTES, Tree};
use serde_json::{Value, json};

use super::{Done, Manner, Place, RestoreError, umask};
use crate::cache::CacheError;
use crate::control::server::Progress;
use crate::observe::{clock, span};
use crate::plan::Moment;
use crate::store::Store;

/// How many milliseconds pass before somebody who waits is told again how far it is.
const TELL: u64 = 100;

/// Does it. The report is an object with `restored`, and with `why` where that is false: nothing was done then, and the
/// client is to do it.
///
/// # Errors
/// [`CacheError`].
pub async fn restore(store: Store, want: control::Restore, progress: Progress) -> Result<Value, CacheError> {
    let teller = Arc::new(Teller { progress, last: AtomicU64::new(0), unwanted: AtomicBool::new(false) });
    let _ends = Ends(Arc::clone(&teller));
    span::blocking(move || work(&store, &want, &teller)).await
}

/// Tells how far it is.
struct Teller {
    progress: Progress,
    /// When it was last told, in milliseconds.
    last: AtomicU64,
    /// Whether nobody waits for it any more.
    unwanted: AtomicBool,
}

impl Teller {
    fn tell(&self, done: Done, of: Done) -> bool {
        let now = u64::try_from(clock::moment().since(Moment::after_start(Duration::ZERO)).as_millis())
            .unwrap_or(u64::MAX);
        let last = self.last.load(Ordering::Relaxed);
        let order = Ordering::Relaxed;
        if now >= last + TELL && self.last.compare_exchange(last, now, order, order).is_ok() {
            let Done { files, bytes } = done;
            let far = json!({ "files": files, "bytes": bytes, "of_files": of.files, "of_bytes": of.bytes });
            // What cannot be told at once is not told: the next is newer.
            let _ = self.progress.try_send(far.to_string().into_bytes());
        }
        !self.unwanted.load(Ordering::Relaxed)
    }
}

/// Ends the work when its future is dropped.
struct Ends(Arc<Teller>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.unwanted.store(true, Ordering::Relaxed);
    }
}

fn work(store: &Store, want: &control::Restore, teller: &Teller) -> Result<Value, CacheError> {
    let other = |why: &str| Ok(json!({ "restored": false, "why": why }));
    if want.umask != umask() {
        return other("the daemon makes files with another umask");
    }
    let folder = Path::new(OsStr::from_bytes(&want.folder));
    let name = Path::new(OsStr::from_bytes(&want.name));
    if !folder.is_absolute() || name.file_name() != Some(name.as_os_str()) {
        return Err(CacheError::Usage("that is no absolute folder and a name in it".to_owned()));
    }
    let Ok(place) = Place::new(&folder.join(name)) else {
        return other("the daemon cannot open the folder");
    };
    if place.folder_id().ok() != Some((want.device, want.inode)) {
        return other("the daemon sees another folder there");
    }
    let bytes = store.bytes(&want.digest, MAX_TREE_BYTES as u64)?.ok_or(CacheError::NotHere(want.digest))?;
    let tree = Tree::decode(&bytes).map_err(|error| CacheError::Usage(error.to_string()))?;
    let manner = Manner { replace: want.replace, modified: want.modified_ms.map(Time::from_millis) };
    let of = Done { files: tree.files(), bytes: tree.total() };
    let restored = super::tree(store, &tree, (&place, manner), &|done| teller.tell(done, of));
    match restored {
        Ok(restored) => {
            let Done { files, bytes } = restored.done;
            let leftover = restored.leftover.map(|path| path.display().to_string());
            Ok(json!({ "restored": true, "files": files, "bytes": bytes, "leftover": leftover }))
        }
        Err(RestoreError::Source { source: CacheError::NotHere(digest), .. }) => {
            Err(CacheError::NotHere(digest))
        }
        Err(RestoreError::Write { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            other("the daemon may not write there")
        }
        Err(error) => Err(CacheError::Store(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use potluck_protocol::codec::Bytes;
    use potluck_protocol::digest::Digest;
    use potluck_protocol::tree::{Kind, Member, TreePath};
    use tokio::sync::mpsc;

    use super::*;
    use crate::content::Durability;

    struct Asked {
        folder: tempfile::TempDir,
        store: Store,
        want: control::Restore,
    }

    fn ask() -> Asked {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&folder.path().join("store")).unwrap();
        let digest = store.keep(b"bytes", Durability::Fast).unwrap();
        let kind = Kind::File { digest, size: 5, executable: false };
        let tree = Tree::new(vec![Member { path: TreePath::new("file").unwrap(), kind }]).unwrap();
        let digest = store.keep(&tree.encode(), Durability::Fast).unwrap();
        let (device, inode) = Place::new(&folder.path().join("out")).unwrap().folder_id().unwrap();
        let bytes = folder.path().as_os_str().as_bytes().to_vec();
        let (path, name) = (Bytes::new(bytes).unwrap(), Bytes::new(b"out".to_vec()).unwrap());
        let umask = umask();
        let (replace, modified_ms) = (false, None);
        let want =
            control::Restore { digest, folder: path, name, device, inode, umask, replace, modified_ms };
        Asked { folder, store, want }
    }

    async fn done(asked: &Asked, change: impl Fn(&mut control::Restore)) -> Result<Value, CacheError> {
        let mut want = asked.want.clone();
        change(&mut want);
        restore(asked.store.clone(), want, mpsc::channel(1).0).await
    }

    #[tokio::test]
    async fn what_the_daemon_would_do_otherwise_is_left_to_its_client() {
        let asked = ask();
        let out = asked.folder.path().join("out");
        let left = [
            done(&asked, |want| want.inode += 1).await,
            done(&asked, |want| want.device += 1).await,
            done(&asked, |want| want.umask = want.umask.map_or(Some(0), |umask| Some(umask ^ 0o7))).await,
            done(&asked, |want| want.folder = Bytes::new(b"/no/such".to_vec()).unwrap()).await,
        ];
        for left in left {
            assert_eq!(left.unwrap()["restored"], false);
            assert!(!out.exists());
        }
        let report = done(&asked, |_| {}).await.unwrap();
        assert_eq!(
            (&report["restored"], &report["files"], &report["bytes"]),
            (&true.into(), &1.into(), &5.into())
        );
        assert_eq!(std::fs::read(out.join("file")).unwrap(), b"bytes");
        assert!(matches!(done(&asked, |_| {}).await, Err(CacheError::Store(_))), "it is not empty");
        assert_eq!(done(&asked, |want| want.replace = true).await.unwrap()["restored"], true);
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused() {
        let asked = ask();
        for name in ["", ".", "..", "a/b", "/a", "a/"] {
            let name = Bytes::new(Vec::from(name)).unwrap();
            let refused = done(&asked, |want| want.name = name.clone()).await;
            assert!(matches!(refused, Err(CacheError::Usage(_))), "{name:?}: {refused:?}");
        }
        let relative = done(&asked, |want| want.folder = Bytes::new(b"tmp".to_vec()).unwrap()).await;
        assert!(matches!(relative, Err(CacheError::Usage(_))));
        let none = done(&asked, |want| want.digest = Digest::of(b"none")).await;
        assert!(matches!(none, Err(CacheError::NotHere(_))));
        let no_tree = done(&asked, |want| want.digest = Digest::of(b"bytes")).await;
        assert!(matches!(no_tree, Err(CacheError::Usage(_))));
        let left = std::fs::read_dir(asked.folder.path()).unwrap().count();
        assert_eq!(left, 1, "the store alone");
    }
}
