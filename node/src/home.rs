// SPDX-License-Identifier: MIT OR Apache-2.0
//! The home: one folder of mode 0700 that holds everything a node owns.
//!
//! | path | what |
//! |---|---|
//! | `config.toml` | settings, see [`crate::config`] |
//! | `trust.toml` | whom to believe, see [`crate::trust`] |
//! | `instance` | 32 hexadecimal digits that tell this node from others with the same key |
//! | `keys/` | the ring, see [`potluck_keys::ring`] |

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use etcetera::BaseStrategy as _;
use potluck_keys::pair::{KeyError, Pair};
use potluck_keys::ring::{self, Ring, RingError};
use potluck_protocol::head::Instance;

use crate::config::{Config, ConfigError, MAX_CONFIG_BYTES};
use crate::trust;

/// The name of the key that a node signs with unless told otherwise.
pub const SIGNER: &str = "me";

/// Something about the home is not as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// The system does not say where a user's data goes.
    #[error("cannot tell where this user's data belongs: {0}")]
    NoFolder(#[from] etcetera::HomeDirError),
    /// A file or folder could not be used.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The settings cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no home yet.
    #[error("there is no potluck home at {home}", home = .0.display())]
    Missing(PathBuf),
    /// The instance file is damaged.
    #[error("{path} does not hold 32 hexadecimal digits", path = .0.display())]
    Instance(PathBuf),
    /// No key could be made.
    #[error("cannot make a key: {0}")]
    Key(#[from] KeyError),
    /// A settings file is not text.
    #[error("{path} is not UTF-8 text", path = .0.display())]
    NotText(PathBuf),
}

/// A node's folder.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

/// What [`Home::init`] did.
#[derive(Debug)]
pub struct Made {
    /// Files that were made, in order; those that were there stayed as they were.
    pub files: Vec<PathBuf>,
}

impl Home {
    /// The home at `root`, or else at the platform's place for a user's data.
    ///
    /// # Errors
    /// [`HomeError::NoFolder`].
    pub fn locate(root: Option<PathBuf>) -> Result<Self, HomeError> {
        let root = match root {
            // It is written into settings that count in other folders as well.
            Some(root) => std::path::absolute(&root).unwrap_or(root),
            None => etcetera::choose_base_strategy()?.data_dir().join("potluck"),
        };
        Ok(Self { root })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the settings are.
    pub fn config_path(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Where the user's rules are.
    pub fn trust_path(&self) -> PathBuf {
        self.root.join("trust.toml")
    }

    fn instance_path(&self) -> PathBuf {
        self.root.join("instance")
    }

    /// Makes what is missing of a home: folder, settings, empty rules, instance, and the Signer `me`. Whatever is
    /// there stays, so that it can be run again after having been interrupted.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn init(&self, comment: &str) -> Result<Made, HomeError> {
        ring::make_folder(&self.root)?;
        let mut files = Vec::new();
        let mut make = |path: PathBuf, text: &str| -> Result<(), HomeError> {
            if ring::write_new(&path, text.as_bytes(), 0o600)? {
                files.push(path);
            }
            Ok(())
        };
        make(self.config_path(), &Config::template())?;
        make(self.trust_path(), trust::TEMPLATE)?;
        make(self.instance_path(), &fresh_instance()?)?;
        let ring = self.ring()?;
        match ring.add(SIGNER, &Pair::generate(comment)?, None) {
            Ok(()) => files.push(ring.path_of(SIGNER)?),
            Err(RingError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Made { files })
    }

    /// Fails when there is no home here.
    ///
    /// # Errors
    /// [`HomeError::Missing`].
    pub fn must_exist(&self) -> Result<&Self, HomeError> {
        if self.root.is_dir() { Ok(self) } else { Err(HomeError::Missing(self.root.clone())) }
    }

    /// The keys.
    ///
    /// # Errors
    /// [`HomeError::Ring`] when others can get at them.
    pub fn ring(&self) -> Result<Ring, HomeError> {
        Ok(Ring::open(&self.root.join("keys"))?)
    }

    /// The settings; the defaults when there is no file.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn config(&self) -> Result<Config, HomeError> {
        let path = self.config_path();
        match read_text(&path, MAX_CONFIG_BYTES)? {
            Some(text) => Ok(Config::read(&path, &text)?),
            None => Ok(Config::default()),
        }
    }

    /// Makes this node another one of the machines with its key, for when it has forgotten what it said as this one.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn renew_instance(&self) -> Result<(), HomeError> {
        let (path, text) = (self.instance_path(), fresh_instance()?);
        let io = |source| HomeError::Ring(RingError::Io { what: "write", path: path.clone(), source });
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.root).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(io)?;
        file.persist(&path).map_err(|error| io(error.error))?;
        File::open(&self.root).and_then(|folder| folder.sync_all()).map_err(io)
    }

    /// Which of the machines with this key this node is.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn instance(&self) -> Result<Instance, HomeError> {
        let path = self.instance_path();
        let text = read_text(&path, 64)?.ok_or_else(|| HomeError::Missing(self.root.clone()))?;
        Instance::from_str(text.trim_end()).map_err(|_| HomeError::Instance(path))
    }
}

fn fresh_instance() -> Result<String, HomeError> {
    let mut instance = [0; 16];
    getrandom::fill(&mut instance).map_err(|_| KeyError::NoRandomness)?;
    Ok(format!("{}\n", Instance::from_bytes(instance)))
}

/// The text of a file of at most `limit` bytes, or nothing when there is no such file.
pub(crate) fn read_text(path: &Path, limit: usize) -> Result<Option<String>, HomeError> {
    match ring::read(path, limit) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| HomeError::NotText(path.to_owned())),
        Err(RingError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_home_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(folder.path().join("a/b"))).unwrap();
        assert!(matches!(home.must_exist(), Err(HomeError::Missing(_))));
        assert_eq!(home.config().unwrap(), Config::default());
        assert_eq!(home.init("me@here").unwrap().files.len(), 4);
        let (instance, key) = (home.instance().unwrap(), home.ring().unwrap().show(SIGNER).unwrap().public);
        fs::remove_file(home.trust_path()).unwrap();
        assert_eq!(home.init("other").unwrap().files, [home.trust_path()]);
        assert_eq!(home.instance().unwrap(), instance);
        assert_eq!(home.ring().unwrap().show(SIGNER).unwrap().public, key);
    }

    #[test]
    fn a_renewed_instance_is_another_one_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(folder.path().join("home"))).unwrap();
        home.init("").unwrap();
        let before = home.instance().unwrap();
        home.renew_instance().unwrap();
        let after = home.instance().unwrap();
        assert_ne!(before, after);
        assert_eq!(home.instance().unwrap(), after);
    }

    #[test]
    fn damaged_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(folder.path().join("home"))).unwrap();
        home.init("").unwrap();
        fs::write(home.instance_path(), "short\n").unwrap();
        assert!(matches!(home.instance(), Err(HomeError::Instance(_))));
        fs::write(home.config_path(), [0xff]).unwrap();
        assert!(matches!(home.config(), Err(HomeError::NotText(_))));
        fs::write(home.config_path(), "#".repeat(MAX_CONFIG_BYTES + 1)).unwrap();
        assert!(matches!(home.config(), Err(HomeError::Ring(RingError::TooLarge { .. }))));
    }
}
