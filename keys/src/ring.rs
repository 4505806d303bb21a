// SPDX-License-Identifier: MIT OR Apache-2.0
//! Key files on disk, and the claims about keys that are kept beside them. The only I/O of this crate.
//!
//! A ring is a folder of mode 0700. Each pair is two files as `ssh-keygen` makes them, `NAME` of mode 0600 and
//! `NAME.pub`; revocations and successions are files in the folder `claims`. Nothing is ever overwritten: a file
//! appears whole under its name or not at all, and a name that is taken is refused.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::pair::{KeyError, MAX_KEY_FILE_BYTES, Outline, Pair, PublicKey};
use crate::rules::is_name;
use crate::signed::{Claim, ClaimError, Signed};
use crate::standing::{Revocation, Succession};

/// Most files that are read of a ring, or of its claims.
pub const MAX_FILES: usize = 10_000;

/// What went wrong with a ring.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The system refused.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others than the owner can read or change it.
    #[error("{path} can be used by others than its owner (mode {mode:04o})", path = path.display())]
    TooOpen {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode that it should have.
        want: u32,
    },
    /// A file holds no usable key.
    #[error("{path}: {source}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// A file holds no usable claim.
    #[error("{path}: {source}", path = path.display())]
    Claim {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ClaimError,
    },
    /// The file is larger than any of its kind.
    #[error("{path} is larger than {limit} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The cap.
        limit: usize,
    },
    /// The folder holds more files than any ring.
    #[error("{path} holds more than {MAX_FILES} files", path = path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
    /// The name cannot be a file's.
    #[error("{0:?} cannot be the name of a key")]
    BadName(String),
    /// There is no such key.
    #[error("there is no key {name:?} in {path}", path = path.display())]
    NotFound {
        /// The name.
        name: String,
        /// The ring.
        path: PathBuf,
    },
    /// The name is taken.
    #[error("there is a key {name:?} already: {path}", path = path.display())]
    Exists {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
    },
}

impl RingError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { .. } | Self::TooMany { .. } => return None,
            Self::TooOpen { path, want, .. } => format!("chmod {want:o} {}", path.display()),
            Self::Key { source: KeyError::Encrypted, .. } => {
                "run it on a terminal, or set POTLUCK_PASSPHRASE".to_owned()
            }
            Self::Key { source: KeyError::WrongPassphrase, .. } => "try again with the right one".to_owned(),
            Self::Key { source: KeyError::WrongAlgorithm(_), .. } => {
                "make one with `potluck key new NAME` or `ssh-keygen -t ed25519`".to_owned()
            }
            Self::Key { .. } => "give an OpenSSH private key of type ed25519".to_owned(),
            Self::Claim { .. } => "the file is damaged: get it again from whoever sent it".to_owned(),
            Self::TooLarge { .. } => "this is not a file of the kind expected".to_owned(),
            Self::BadName(_) => {
                "use a-z, 0-9, '.', '_' and '-', at most 64 characters, not starting with '.'".into()
            }
            Self::NotFound { .. } => "`potluck key list` shows the keys there are".to_owned(),
            Self::Exists { .. } => "choose another name, or move the old files away".to_owned(),
        })
    }
}

/// A pair in a ring, as far as it can be seen without its passphrase.
#[derive(Debug, Clone)]
pub struct KeyFile {
    /// Its name.
    pub name: String,
    /// Its public half.
    pub public: PublicKey,
    /// Its comment.
    pub comment: String,
    /// Whether a passphrase protects it.
    pub encrypted: bool,
}

/// A folder of key files.
#[derive(Debug, Clone)]
pub struct Ring {
    folder: PathBuf,
}

impl Ring {
    /// Opens a ring; a folder that is not there is an empty ring.
    ///
    /// # Errors
    /// [`RingError::TooOpen`] when others can get at the folder.
    pub fn open(folder: &Path) -> Result<Self, RingError> {
        let ring = Self { folder: folder.to_owned() };
        match fs::metadata(folder) {
            Ok(metadata) => check_mode(folder, &metadata, 0o700)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(RingError::Io { what: "open", path: folder.to_owned(), source }),
        }
        Ok(ring)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the private half of `name` is or would be.
    ///
    /// # Errors
    /// [`RingError::BadName`].
    pub fn path_of(&self, name: &str) -> Result<PathBuf, RingError> {
        // `.pub` marks public halves, `claims` is a folder of ours.
        let free =
            is_name(name) && name != CLAIMS && Path::new(name).extension().is_none_or(|ext| ext != "pub");
        if free { Ok(self.folder.join(name)) } else { Err(RingError::BadName(name.to_owned())) }
    }

    /// Adds a pair under `name`, protected when a passphrase is given.
    ///
    /// # Errors
    /// [`RingError::Exists`] when the name is taken; [`RingError::Io`].
    pub fn add(&self, name: &str, pair: &Pair, passphrase: Option<&str>) -> Result<(), RingError> {
        let path = self.path_of(name)?;
        let text = pair.to_openssh(passphrase).map_err(|source| RingError::Key { path, source })?;
        self.put(name, text.as_bytes(), &pair.public().to_openssh(pair.comment()))
    }

    /// Takes over an OpenSSH private key file as it is, its passphrase included, after making sure that it opens.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn import(
        &self,
        name: &str,
        file: &Path,
        passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
    ) -> Result<Pair, RingError> {
        self.path_of(name)?;
        let text = Zeroizing::new(read(file, MAX_KEY_FILE_BYTES)?);
        let pair = Pair::from_openssh(&text, passphrase)
            .map_err(|source| RingError::Key { path: file.to_owned(), source })?;
        self.put(name, &text, &pair.public().to_openssh(pair.comment()))?;
        Ok(pair)
    }

    fn put(&self, name: &str, private: &[u8], public: &str) -> Result<(), RingError> {
        let path = self.path_of(name)?;
        make_folder(&self.folder)?;
        let exists = || RingError::Exists { name: name.to_owned(), path: path.clone() };
        // The public half goes first: a crash in between leaves no private key that nobody knows of.
        let public_path = with_pub(&path);
        if path.exists() || !write_new(&public_path, format!("{public}\n").as_bytes(), 0o644)? {
            return Err(exists());
        }
        match write_new(&path, private, 0o600) {
            Ok(true) => Ok(()),
            failed => {
                let _ = fs::remove_file(&public_path);
                failed.and_then(|_| Err(exists()))
            }
        }
    }

    /// The pair of this name. `passphrase` is asked for only when the file needs one.
    ///
    /// # Errors
    /// [`RingError`]; among them [`RingError::TooOpen`] when others can read the file.
    pub fn load(
        &self,
        name: &str,
        passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
    ) -> Result<Pair, RingError> {
        let (path, text) = self.private(name)?;
        let pair = Pair::from_openssh(&text, passphrase).map_err(|source| RingError::Key { path, source })?;
        Ok(pair)
    }

    /// What can be seen of the pair of this name without its passphrase.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn show(&self, name: &str) -> Result<KeyFile, RingError> {
        let (path, text) = self.private(name)?;
        let outline =
            Outline::from_openssh(&text).map_err(|source| RingError::Key { path: path.clone(), source })?;
        let mut comment = outline.comment;
        if let Ok(line) = read(&with_pub(&path), MAX_KEY_FILE_BYTES)
            && let Ok((public, told)) = PublicKey::from_openssh(&String::from_utf8_lossy(&line))
            && public == outline.public
        {
            comment = told;
        }
        Ok(KeyFile { name: name.to_owned(), public: outline.public, comment, encrypted: outline.encrypted })
    }

    fn private(&self, name: &str) -> Result<(PathBuf, Zeroizing<Vec<u8>>), RingError> {
        let path = self.path_of(name)?;
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(RingError::NotFound { name: name.to_owned(), path: self.folder.clone() });
            }
            Err(source) => return Err(RingError::Io { what: "read", path, source }),
        };
        check_mode(&path, &metadata, 0o600)?;
        let text = Zeroizing::new(read(&path, MAX_KEY_FILE_BYTES)?);
        Ok((path, text))
    }

    /// Every pair, by name. A file that cannot be read does not hide the others: its error stands in its place.
    ///
    /// # Errors
    /// [`RingError`] when the folder itself cannot be read.
    pub fn list(&self) -> Result<Vec<Result<KeyFile, RingError>>, RingError> {
        let names = files(&self.folder)?;
        let names = names.iter().filter_map(|path| path.file_name()?.to_str());
        Ok(names.filter(|name| self.path_of(name).is_ok()).map(|name| self.show(name)).collect())
    }

    /// Keeps a revocation, whoever it is about; gives the file. One that is kept already stays as it is.
    ///
    /// # Errors
    /// [`RingError::Claim`] when it is not genuine; [`RingError::Io`].
    pub fn keep_revocation(&self, claim: &Signed<Revocation>) -> Result<PathBuf, RingError> {
        self.keep("revocation", claim, |claim| claim.key.to_string())
    }

    /// Keeps a succession; gives the file. One that is kept already stays as it is.
    ///
    /// # Errors
    /// [`RingError::Claim`] when it is not genuine; [`RingError::Io`].
    pub fn keep_succession(&self, claim: &Signed<Succession>) -> Result<PathBuf, RingError> {
        self.keep("succession", claim, |claim| claim.old.to_string())
    }

    fn keep<T: Claim>(
        &self,
        kind: &str,
        claim: &Signed<T>,
        about: impl FnOnce(&T) -> String,
    ) -> Result<PathBuf, RingError> {
        let folder = self.folder.join(CLAIMS);
        let content =
            claim.authentic().map_err(|source| RingError::Claim { path: folder.clone(), source })?;
        let plain = |text: String| -> String {
            text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
        };
        let by: Vec<_> = claim.signers().map(|signer| plain(signer.to_string()[7..15].to_owned())).collect();
        let about = plain(about(content)[7..23].to_owned());
        make_folder(&self.folder)?;
        make_folder(&folder)?;
        // Numbered: one key may be the subject of several claims by the same signers.
        for number in 0..MAX_FILES {
            let path = folder.join(format!("{kind}-{about}-by-{}-{number}.cose", by.join("-")));
            if write_new(&path, claim.bytes(), 0o600)?
                || read(&path, Signed::<T>::MAX_BYTES)? == claim.bytes()
            {
                return Ok(path);
            }
        }
        Err(RingError::TooMany { path: folder })
    }

    /// All revocations kept. As with [`Ring::list`], a bad file does not hide the others.
    ///
    /// # Errors
    /// [`RingError`] when the folder itself cannot be read.
    pub fn revocations(&self) -> Result<Vec<Result<Signed<Revocation>, RingError>>, RingError> {
        self.claims("revocation-")
    }

    /// All successions kept. As with [`Ring::list`], a bad file does not hide the others.
    ///
    /// # Errors
    /// [`RingError`] when the folder itself cannot be read.
    pub fn successions(&self) -> Result<Vec<Result<Signed<Succession>, RingError>>, RingError> {
        self.claims("succession-")
    }

    fn claims<T: Claim>(&self, prefix: &str) -> Result<Vec<Result<Signed<T>, RingError>>, RingError> {
        let paths = files(&self.folder.join(CLAIMS))?;
        let of_kind =
            |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        let load = |path: &PathBuf| {
            let bytes = read(path, Signed::<T>::MAX_BYTES)?;
            Signed::decode(&bytes).map_err(|source| RingError::Claim { path: path.clone(), source })
        };
        Ok(paths.iter().filter(of_kind).map(load).collect())
    }
}

/// The folder of claims within a ring.
const CLAIMS: &str = "claims";

fn with_pub(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

/// Reads a file of at most `limit` bytes; no more than that is ever taken into memory.
///
/// # Errors
/// [`RingError::TooLarge`] or [`RingError::Io`].
pub fn read(path: &Path, limit: usize) -> Result<Vec<u8>, RingError> {
    let io = |source| RingError::Io { what: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > limit { Err(RingError::TooLarge { path: path.to_owned(), limit }) } else { Ok(bytes) }
}

/// The plain files in a folder, sorted; none when there is no such folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, RingError> {
    let io = |source| RingError::Io { what: "list", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io)?;
        if paths.len() == MAX_FILES {
            return Err(RingError::TooMany { path: folder.to_owned() });
        }
        if entry.file_type().map_err(io)?.is_file() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Makes `path` appear with all of `bytes`, durably; gives false when there is something of that name.
///
/// # Errors
/// [`RingError::Io`].
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, RingError> {
    let io = |source| RingError::Io { what: "write", path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    // The temporary file starts with a dot and has mode 0600 from its creation on.
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    set_mode(file.as_file(), mode).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(io(error.error)),
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(true)
}

/// Makes a folder that only its owner can use; one that is there must already be so.
///
/// # Errors
/// [`RingError::TooOpen`] or [`RingError::Io`].
pub fn make_folder(path: &Path) -> Result<(), RingError> {
    let io = |source| RingError::Io { what: "make the folder", path: path.to_owned(), source };
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    match builder.recursive(true).create(path) {
        Ok(()) => {}
        Err(source) => return Err(io(source)),
    }
    check_mode(path, &fs::metadata(path).map_err(io)?, 0o700)
}

#[cfg(unix)]
fn check_mode(path: &Path, metadata: &fs::Metadata, want: u32) -> Result<(), RingError> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(RingError::TooOpen { path: path.to_owned(), mode, want }) }
}

#[cfg(unix)]
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// Elsewhere access is a matter of lists that a mode cannot express; the user's own folder is private by default.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on unix")]
fn check_mode(_: &Path, _: &fs::Metadata, _: u32) -> Result<(), RingError> {
    Ok(())
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on unix")]
fn set_mode(_: &File, _: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::pair::Signer;
    use crate::time::Time;

    fn ring() -> (tempfile::TempDir, Ring) {
        let home = tempfile::tempdir().unwrap();
        let ring = Ring::open(&home.path().join("keys")).unwrap();
        (home, ring)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn keys_are_kept_with_tight_modes_and_found_again() {
        let (_home, ring) = ring();
        assert!(ring.list().unwrap().is_empty());
        let plain = Pair::generate("me@here").unwrap();
        ring.add("me", &plain, None).unwrap();
        let locked = Pair::generate("ci@there").unwrap();
        ring.add("ci", &locked, Some("secret")).unwrap();
        assert_eq!(mode(ring.folder()), 0o700);
        assert_eq!(mode(&ring.path_of("me").unwrap()), 0o600);
        let seen: Vec<_> = ring.list().unwrap().into_iter().map(Result::unwrap).collect();
        let seen: Vec<_> = seen.iter().map(|e| (e.name.as_str(), e.comment.as_str(), e.encrypted)).collect();
        assert_eq!(seen, [("ci", "ci@there", true), ("me", "me@here", false)]);
        assert_eq!(ring.load("me", || None).unwrap().signer(), plain.signer());
        let error = ring.load("ci", || None).unwrap_err();
        assert!(matches!(error, RingError::Key { source: KeyError::Encrypted, .. }));
        let ask = || Some(Zeroizing::new("secret".to_owned()));
        assert_eq!(ring.load("ci", ask).unwrap().signer(), locked.signer());
    }

    #[test]
    fn a_taken_name_is_refused_and_nothing_is_written() {
        let (_home, ring) = ring();
        let first = Pair::generate("a").unwrap();
        ring.add("me", &first, None).unwrap();
        let error = ring.add("me", &Pair::generate("b").unwrap(), None).unwrap_err();
        assert!(matches!(error, RingError::Exists { .. }));
        assert_eq!(ring.load("me", || None).unwrap().signer(), first.signer());
        // A public half alone also takes the name, and stays.
        fs::remove_file(ring.path_of("me").unwrap()).unwrap();
        assert!(ring.add("me", &first, None).is_err());
        assert_eq!(fs::read_dir(ring.folder()).unwrap().count(), 1);
    }

    #[test]
    fn loose_modes_are_refused() {
        let (_home, ring) = ring();
        ring.add("me", &Pair::generate("a").unwrap(), None).unwrap();
        let file = ring.path_of("me").unwrap();
        chmod(&file, 0o640);
        let error = ring.load("me", || None).unwrap_err();
        assert!(matches!(error, RingError::TooOpen { mode: 0o640, want: 0o600, .. }));
        assert_eq!(error.hint().unwrap(), format!("chmod 600 {}", file.display()));
        chmod(&file, 0o600);
        chmod(ring.folder(), 0o755);
        assert!(matches!(Ring::open(ring.folder()), Err(RingError::TooOpen { mode: 0o755, .. })));
        assert!(ring.add("x", &Pair::generate("a").unwrap(), None).is_err());
    }

    #[test]
    fn bad_names_and_bad_files_are_refused() {
        let (home, ring) = ring();
        for name in ["", ".", "..", "a/b", "../x", "A", "x.pub", "claims", ".hidden", "a b", &"x".repeat(65)]
        {
            let error = ring.add(name, &Pair::generate("a").unwrap(), None).unwrap_err();
            assert!(matches!(error, RingError::BadName(_)), "{name:?}");
        }
        let file = home.path().join("file");
        fs::write(&file, vec![b'x'; MAX_KEY_FILE_BYTES + 1]).unwrap();
        assert!(matches!(ring.import("x", &file, || None), Err(RingError::TooLarge { .. })));
        fs::write(&file, "not a key").unwrap();
        assert!(matches!(ring.import("x", &file, || None), Err(RingError::Key { .. })));
        assert!(matches!(ring.import("x", &home.path().join("none"), || None), Err(RingError::Io { .. })));
        assert!(matches!(ring.load("nobody", || None), Err(RingError::NotFound { .. })));
        assert!(!ring.folder().exists(), "nothing was written");
    }

    #[test]
    fn a_damaged_file_does_not_hide_the_others() {
        let (_home, ring) = ring();
        ring.add("good", &Pair::generate("a").unwrap(), None).unwrap();
        ring.add("bad", &Pair::generate("a").unwrap(), None).unwrap();
        let path = ring.path_of("bad").unwrap();
        let half = fs::read(&path).unwrap();
        fs::write(&path, &half[..half.len() / 2]).unwrap();
        let (good, bad): (Vec<_>, Vec<_>) = ring.list().unwrap().into_iter().partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (1, 1));
    }

    #[test]
    fn claims_about_keys_are_kept_once() {
        let (_home, ring) = ring();
        let (old, new) = (Pair::generate("a").unwrap(), Pair::generate("b").unwrap());
        let revoke = |at| {
            let at = Time::from_millis(at);
            let claim = Revocation { key: old.signer(), at, issued: at, reason: None };
            Signed::sign(&claim, &[&old]).unwrap()
        };
        let first = ring.keep_revocation(&revoke(1)).unwrap();
        assert_eq!(ring.keep_revocation(&revoke(1)).unwrap(), first);
        assert_ne!(ring.keep_revocation(&revoke(2)).unwrap(), first);
        let claim = Succession { old: old.signer(), new: new.signer(), issued: Time::from_millis(3) };
        ring.keep_succession(&Signed::sign(&claim, &[&old, &new]).unwrap()).unwrap();
        assert_eq!(ring.revocations().unwrap().len(), 2);
        assert_eq!(ring.successions().unwrap().len(), 1);
        // A forged one is not kept.
        let forged =
            Revocation { key: Signer::from_bytes([9; 32]), ..revoke(1).authentic().unwrap().clone() };
        let mut bytes = Signed::sign(&forged, &[&old]).unwrap().bytes().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let forged = Signed::<Revocation>::decode(&bytes).unwrap();
        assert!(matches!(ring.keep_revocation(&forged), Err(RingError::Claim { .. })));
    }
}
