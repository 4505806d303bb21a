// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a Front is given, and what it gives.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};

use super::asked::Asked;
use super::body::{Body, Upload};
use crate::config::Config;
use crate::engine::Engine;

/// What is answered.
pub type Answer = Response<Body>;

/// An answer on its way.
pub type Serving = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A Front that is reached by HTTP.
#[derive(Debug, Clone, Copy)]
pub struct Front {
    /// The first part of the path, and the name of its table in the settings.
    pub name: &'static str,
    /// Answers a request. What it does is given up when whoever asked goes away.
    pub serve: fn(Door, Asked, Upload) -> Serving,
}

/// What a Front is given.
#[derive(Clone)]
pub struct Door {
    pub(super) engine: Arc<Engine>,
    pub(super) config: Arc<Config>,
    pub(super) name: &'static str,
}

impl Door {
    /// For a Front that is not reached by HTTP.
    pub(in crate::front) const fn new(engine: Arc<Engine>, config: Arc<Config>, name: &'static str) -> Self {
        Self { engine, config, name }
    }

    /// The door itself: it is the [`Cache`](crate::cache::Cache), and has what only the daemon can do as well.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// How long a tool waits until somebody is found who has what it asks for: as the settings say, or else `usual`.
    pub fn deadline(&self, usual: Duration) -> Duration {
        self.config.deadline(self.name, usual)
    }

    /// Whether this node adds a signature of its own in the tool's manner, as the settings say.
    pub fn signs(&self) -> bool {
        self.config.front.get(self.name).is_some_and(|front| front.sign)
    }
}

/// An answer with this status and nothing else.
pub fn plain(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = status;
    answer
}

/// An answer with this status and a line for whoever looks at it.
pub fn said(status: StatusCode, text: impl Into<bytes::Bytes>) -> Answer {
    let mut answer = Response::new(Body::Whole(text.into()));
    *answer.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    answer
}
