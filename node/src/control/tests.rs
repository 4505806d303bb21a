// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client and the daemon's side of the socket, before a daemon that does what the test tells it.

use std::ops::Range;
use std::sync::Arc;

use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::control::{Export, Job, Note};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Labels, Output};
use tokio::io::AsyncRead;
use tokio::sync::{Notify, watch};

use super::client::{Client, HELLO};
use super::server::{self, Daemon, Progress, Reported};
use crate::cache::{Answer, Cache, CacheError, Publication, Question, Stretches};
use crate::observe::span;

/// A daemon that answers no look-up, and publishes when it is told to.
#[derive(Default)]
struct Slow {
    asked: Notify,
    /// Nobody waits for the look-up any more.
    gone: Arc<Notify>,
    publishes: Notify,
    published: Notify,
}

struct Gone(Arc<Notify>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn not_here<T>() -> Result<T, CacheError> {
    Err(CacheError::Usage("not in this test".to_owned()))
}

impl Cache for Slow {
    async fn lookup(&self, _: Question) -> Result<Vec<Answer>, CacheError> {
        let _gone = Gone(Arc::clone(&self.gone));
        self.asked.notify_one();
        std::future::pending().await
    }

    async fn missing(&self, _: Vec<Digest>) -> Result<Vec<Digest>, CacheError> {
        Ok(Vec::new())
    }

    async fn read(&self, _: Digest, _: Option<Range<u64>>) -> Result<Stretches, CacheError> {
        not_here()
    }

    async fn write(&self, _: impl AsyncRead + Send + Unpin) -> Result<(Digest, u64), CacheError> {
        not_here()
    }

    async fn publish(&self, publication: Publication) -> Result<Digest, CacheError> {
        if publication.key == b"wrong" {
            return not_here();
        }
        self.publishes.notified().await;
        self.published.notify_one();
        Ok(Digest::of(b"entry"))
    }
}

impl Daemon for Slow {
    async fn status(&self) -> Vec<u8> {
        b"{}".to_vec()
    }

    fn stop(&self) {}

    async fn refresh(&self) -> Vec<u8> {
        b"{}".to_vec()
    }

    fn hear(&self, _: Note) {}

    async fn why(&self, _: Option<ActionId>) -> Result<Vec<u8>, CacheError> {
        not_here()
    }

    async fn work(&self, _: Job, _: Progress) -> Result<Vec<u8>, CacheError> {
        not_here()
    }

    async fn export(&self, _: Export) -> Result<(Stretches, Reported), CacheError> {
        not_here()
    }

    async fn import(
        &self,
        _: impl AsyncRead + Send + Unpin + 'static,
        _: Progress,
    ) -> Result<Vec<u8>, CacheError> {
        not_here()
    }
}

fn publication(key: &[u8]) -> Publication {
    let (project, recipe) = (Project::default(), Recipe::new("test@1").unwrap());
    let output = Output::Blob(BlobOutput { digest: Digest::of(b"x"), size: 1 });
    Publication { project, recipe, key: key.to_vec(), output, labels: Labels::default(), taints: Vec::new() }
}

#[tokio::test]
async fn what_was_handed_over_is_published_when_whoever_did_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (daemon, (stop, stopped)) = (Arc::new(Slow::default()), watch::channel(false));
    let listener = server::bind(&path).unwrap();
    let serving = span::spawn("test", server::serve(Arc::clone(&daemon), listener, stopped));
    let client = Client::connect(&path, "test", HELLO).await.unwrap();
    let Publication { project, recipe, key, .. } = publication(b"key");
    let question = Question { project, recipe, keys: vec![key], deadline: HELLO };
    let handing_over = async {
        daemon.asked.notified().await;
        client.hand_over(publication(b"key")).await.unwrap();
        assert!(client.publish(publication(b"wrong")).await.is_err(), "whoever waits hears of it");
    };
    tokio::select! {
        _ = client.lookup(question) => panic!("nobody answers it"),
        () = handing_over => {}
    }
    drop(client);
    // What it only asked for ends with it.
    daemon.gone.notified().await;
    daemon.publishes.notify_one();
    daemon.published.notified().await;
    stop.send_replace(true);
    serving.await.unwrap();
}
