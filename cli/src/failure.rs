// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a person reads when something did not work: one sentence, and what to do about it.

use std::path::{Path, PathBuf};

use potluck_keys::ring::RingError;
use potluck_keys::rules::RulesError;
use potluck_keys::signed::ClaimError;
use potluck_node::control::server::BindError;
use potluck_node::daemon::StartError;
use potluck_node::engine::EngineError;
use potluck_node::front::listen::serve::HttpError;
use potluck_node::home::{Home, HomeError};
use potluck_node::index::IndexError;
use potluck_node::network::NetworkError;
use potluck_node::store::StoreError;
use potluck_node::trust::TrustError;

use crate::exit::Exit;

/// A verb that did not work.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What went wrong, as one sentence without a full stop.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hints: Vec<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hints: Vec::new() }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl From<RingError> for Failure {
    fn from(error: RingError) -> Self {
        let exit = match error {
            RingError::NotFound { .. } => Exit::NotFound,
            RingError::BadName(_) => Exit::Usage,
            _ => Exit::Failed,
        };
        let hint = error.hint();
        Self { hints: hint.into_iter().collect(), ..Self::new(exit, error.to_string()) }
    }
}

impl From<RulesError> for Failure {
    fn from(error: RulesError) -> Self {
        Self::failed(error.to_string()).hint(error.hint())
    }
}

impl From<ClaimError> for Failure {
    fn from(error: ClaimError) -> Self {
        Self::failed(error.to_string())
    }
}

/// How to make a home at a path.
pub(crate) fn how_to_make(path: &Path) -> String {
    let usual = Home::locate(std::env::var_os("POTLUCK_HOME").map(PathBuf::from));
    match usual.is_ok_and(|usual| usual.root() == path) {
        true => "`potluck init` makes one".to_owned(),
        false => format!("`potluck --home {} init` makes one", path.display()),
    }
}

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        let message = error.to_string();
        match error {
            HomeError::Ring(error) => error.into(),
            HomeError::Missing(path) => Self::failed(message).hint(how_to_make(&path)),
            HomeError::NoFolder(_) => Self::failed(message).hint("name a folder with --home or POTLUCK_HOME"),
            HomeError::Instance(path) => Self::failed(message).hint(format!(
                "if nothing was published with it: rm {}, then `potluck init`",
                path.display()
            )),
            HomeError::Config(_) => Self::failed(message)
                .hint("mend the line; `potluck init` in an empty home writes every setting with its default"),
            _ => Self::failed(message),
        }
    }
}

impl From<TrustError> for Failure {
    fn from(error: TrustError) -> Self {
        let message = error.to_string();
        match error {
            TrustError::Home(error) => error.into(),
            TrustError::Rules(error) => error.into(),
            TrustError::Ring(error) => error.into(),
            TrustError::After(error) => Self::failed(message).hint(error.hint()),
            TrustError::NoSuchSigner { .. } => Self::new(Exit::NotFound, message)
                .hint("`potluck trust list` shows the signers and where they stand"),
            TrustError::OtherKey { .. } => {
                Self::failed(message).hint("choose another name, or remove the old signer first")
            }
            _ => Self::failed(message),
        }
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        let message = error.to_string();
        match error {
            NetworkError::Home(error) => error.into(),
            NetworkError::Ring(error) => error.into(),
            NetworkError::NotFound(_) => Self::new(Exit::NotFound, message)
                .hint("`potluck network list` shows those of this node; `network create` or `join` adds one"),
            NetworkError::BadName(_) => Self::usage(message),
            NetworkError::BadInvite(_) => {
                Self::usage(message).hint("paste the whole line that `potluck network invite` printed")
            }
            NetworkError::Exists(name) => {
                Self::failed(message).hint(format!("`potluck network leave {name}` forgets it"))
            }
            _ => Self::failed(message),
        }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        let too_long = error.source.kind() == std::io::ErrorKind::InvalidInput;
        let failure = Self::failed(error.to_string());
        if !too_long {
            return failure;
        }
        failure.hint("a path of a socket may have about 100 letters: use a shorter --home")
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::failed(error.to_string()).hint(error.hint())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        match error {
            StartError::Running { .. } => Self::failed(message).hint("`potluck down` ends it"),
            StartError::Network(error) => error.into(),
            StartError::Bind(error) => error.into(),
            StartError::Http(error) => error.into(),
            StartError::Engine(EngineError::Home(error)) => error.into(),
            StartError::Engine(EngineError::Trust(error)) => error.into(),
            StartError::Engine(EngineError::Store(StoreError::Index(IndexError::Damaged { .. }))) => {
                Self::failed(message).hint("`potluck up --new-index` puts it aside and begins an empty one")
            }
            _ => Self::failed(message),
        }
    }
}
