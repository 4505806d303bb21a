// SPDX-License-Identifier: MIT OR Apache-2.0
//! What local processes get to see of a daemon.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use potluck_protocol::action::ActionId;
use potluck_protocol::control::{Export, Job, MAX_REPORT_BYTES, Note};
use potluck_protocol::digest::Digest;
use tokio::io::AsyncRead;

use super::Daemon;
use crate::cache::{Answer, Cache, CacheError, Publication, Question, Stretches};
use crate::control::server::{self, Progress, Reported};
use crate::observe::span;
use crate::work;

/// How long those who ask how things are wait for what is being claimed.
const SETTLED: Duration = Duration::from_millis(500);

/// The daemon as the control socket sees it.
pub(super) struct Served(pub(super) Arc<Daemon>);

impl Cache for Served {
    async fn lookup(&self, question: Question) -> Result<Vec<Answer>, CacheError> {
        self.0.engine.lookup(question).await
    }

    async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, CacheError> {
        self.0.engine.missing(digests).await
    }

    async fn read(&self, digest: Digest, range: Option<Range<u64>>) -> Result<Stretches, CacheError> {
        self.0.engine.read(digest, range).await
    }

    async fn write(&self, from: impl AsyncRead + Send + Unpin) -> Result<(Digest, u64), CacheError> {
        self.0.engine.write(from).await
    }

    async fn write_file(&self, file: File, path: &Path) -> Result<(Digest, u64), CacheError> {
        self.0.engine.write_file(file, path).await
    }

    async fn read_file(&self, digest: Digest, file: File, path: &Path) -> Result<u64, CacheError> {
        self.0.engine.read_file(digest, file, path).await
    }

    async fn publish(&self, publication: Publication) -> Result<Digest, CacheError> {
        self.0.engine.publish(publication).await
    }
}

impl server::Daemon for Served {
    async fn status(&self) -> Vec<u8> {
        // Whoever handed something over and did not wait for it finds it here all the same.
        self.0.engine.settled(SETTLED).await;
        let status = self.0.status().await;
        let json = serde_json::to_vec(&status).unwrap_or_default();
        if json.len() > MAX_REPORT_BYTES { b"{}".to_vec() } else { json }
    }

    fn stop(&self) {
        self.0.stop();
    }

    fn hear(&self, note: Note) {
        self.0.ahead(note);
    }

    async fn refresh(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0.memberships.refresh(true).await).unwrap_or_default()
    }

    async fn why(&self, action: Option<ActionId>) -> Result<Vec<u8>, CacheError> {
        let engine = Arc::clone(&self.0.engine);
        let why = span::blocking(move || engine.why(action)).await?;
        serde_json::to_vec(&why).map_err(|error| CacheError::Store(error.to_string()))
    }

    async fn work(&self, job: Job, progress: Progress) -> Result<Vec<u8>, CacheError> {
        let report = work::run(&self.0.engine, job, progress).await?;
        serde_json::to_vec(&report).map_err(|error| CacheError::Store(error.to_string()))
    }

    async fn export(&self, what: Export) -> Result<(Stretches, Reported), CacheError> {
        work::export(&self.0.engine, what).await
    }

    async fn import(
        &self,
        from: impl AsyncRead + Send + Unpin + 'static,
        progress: Progress,
    ) -> Result<Vec<u8>, CacheError> {
        let report = work::import(&self.0.engine, from, progress).await?;
        serde_json::to_vec(&report).map_err(|error| CacheError::Store(error.to_string()))
    }
}
