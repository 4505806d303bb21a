// SPDX-License-Identifier: MIT OR Apache-2.0
//! The policy as it stands now: read again whenever its files change, so that an edit of `trust.toml` or a revocation
//! counts from the next look-up on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, SystemTime};

use potluck_keys::pair::{Pair, Signer};
use potluck_keys::policy::Policy;
use potluck_keys::ring::RingError;
use potluck_keys::rules::{Layer, Rules};

use crate::home::{Home, HomeError, SIGNER};
use crate::observe::clock;
use crate::plan::Moment;
use crate::trust::{Trust, TrustError};

/// How long after a look at the files of the policy something that began before that look goes by it.
const JUST_NOW: Duration = Duration::from_millis(1);

/// What tells one state of some files from another.
type Stamp = Vec<Option<(SystemTime, u64)>>;

/// The owner's policy.
pub struct Trusting {
    home: Home,
    files: Vec<PathBuf>,
    /// What they were when they were looked at last, and when that was.
    stamp: Mutex<(Moment, Stamp)>,
    policy: RwLock<Arc<Policy>>,
}

impl Trusting {
    /// Reads the policy of a home.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn of(home: &Home) -> Result<Self, TrustError> {
        let files = vec![home.config()?.trust.system, home.trust_path(), home.root().join("keys")];
        let stamp = (clock::moment(), stamp(&files));
        let policy = Trust::read(home)?.policy;
        let (stamp, policy) = (Mutex::new(stamp), RwLock::new(Arc::new(policy)));
        Ok(Self { home: home.clone(), files, stamp, policy })
    }

    /// The policy of now. A policy that has become unreadable believes nobody until it is mended.
    ///
    /// # Panics
    /// Never: nobody panics while holding the locks.
    pub fn now(&self) -> Arc<Policy> {
        let (looked, stamp) = (clock::moment(), stamp(&self.files));
        let mut last = self.lock();
        last.0 = looked;
        if last.1 != stamp {
            last.1 = stamp;
            let policy = match Trust::read(&self.home) {
                Ok(trust) => trust.policy,
                Err(error) => {
                    tracing::error!(%error, "the policy cannot be read: nobody is believed");
                    Policy::new(nobody())
                }
            };
            *self.policy.write().expect("nobody panics while holding the policy") = Arc::new(policy);
        }
        self.seen()
    }

    /// The policy of now, for what began at `since`: if its files were looked at after that and only just now, they are
    /// not looked at again. So an edit counts for everything that begins after it.
    pub(super) fn now_since(&self, since: Moment) -> Arc<Policy> {
        let looked = self.lock().0;
        if looked >= since && clock::moment().since(looked) < JUST_NOW { self.seen() } else { self.now() }
    }

    fn lock(&self) -> MutexGuard<'_, (Moment, Stamp)> {
        self.stamp.lock().expect("nobody panics while holding the stamp")
    }

    /// The policy as it was when somebody last asked for that of now: for what follows from that within one answer.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn seen(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().expect("nobody panics while holding the policy"))
    }
}

fn stamp(files: &[PathBuf]) -> Stamp {
    let one = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(one).collect()
}

fn nobody() -> Rules {
    Rules::read(&[]).expect("no rules are rules")
}

/// This node's own Signer, and the policy by which it believes itself.
pub struct Own {
    pair: Option<Pair>,
    policy: Policy,
}

impl Own {
    /// The Signer of a home. Without one, or when it is locked by a passphrase, the node reads and does not publish.
    ///
    /// # Errors
    /// [`HomeError`] when the keys are open to others or damaged.
    pub fn of(home: &Home) -> Result<Self, HomeError> {
        let pair = match home.ring()?.load(SIGNER, || None) {
            Ok(pair) => Some(pair),
            Err(RingError::NotFound { .. }) => None,
            Err(error @ RingError::Key { .. }) => {
                tracing::warn!(%error, "nothing is published");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let rules = match &pair {
            None => nobody(),
            Some(pair) => {
                let line = pair.public().to_openssh("");
                let text = format!(
                    "[signer.me]\nkey = \"{}\"\n[[rule]]\nproject = \"*\"\naccept = [\"me\"]\n\
                     taints = [\"unwatched\"]\n",
                    line.trim()
                );
                Rules::read(&[Layer::new(Path::new("(own)"), text)]).expect("these rules are sound")
            }
        };
        Ok(Self { pair, policy: Policy::new(rules) })
    }

    /// The policy that believes what this node has signed.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The pair that signs.
    pub fn pair(&self) -> Option<&Pair> {
        self.pair.as_ref()
    }

    /// Its public half's name.
    pub fn signer(&self) -> Option<Signer> {
        self.pair.as_ref().map(Pair::signer)
    }
}
