// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine as the Cache that tools see.

use std::ops::Range;
use std::sync::Arc;

use potluck_protocol::action::ActionId;
use potluck_protocol::control::{Answer, MAX_DATA_BYTES, Miss};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Output;
use potluck_protocol::peer::Topic;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

use super::{Engine, Known};
use crate::cache::{Cache, CacheError, Publication, Question, STRETCHES, Stretches};
use crate::content::Durability;
use crate::fetch::event::Space;
use crate::observe::span;
use crate::store::{Blob, Store, StoreError};

impl Cache for Arc<Engine> {
    async fn lookup(&self, question: Question) -> Result<Vec<Answer>, CacheError> {
        let Question { project, recipe, keys, deadline } = question;
        let space = Space { project, recipe };
        let ids = keys.iter().map(|key| ActionId::derive(&space.project, &space.recipe, key, None));
        let actions =
            ids.collect::<Result<Vec<_>, _>>().map_err(|error| CacheError::Usage(error.to_string()))?;
        let mut known = self.all_known(&space, &actions).await;
        let sought = self.to_seek(&space, &actions, &known);
        let mut fetched = vec![false; actions.len()];
        if let Some(seeker) = self.seeker.get().filter(|_| !sought.is_empty()) {
            let places: Vec<_> = sought.iter().map(|(place, ..)| *place).collect();
            let wanted = sought.into_iter().map(|(_, action, topics)| (action, topics)).collect();
            let misses = seeker.seek(space.clone(), wanted, deadline).await;
            for (place, miss) in places.into_iter().zip(misses) {
                match miss {
                    Some(miss) => known[place] = Err(miss),
                    None => {
                        fetched[place] = true;
                        let action = [actions[place]];
                        known[place] =
                            self.all_known(&space, &action).await.pop().unwrap_or(Err(Miss::Broken));
                    }
                }
            }
        }
        let answer = |(known, fetched)| self.answer(known, fetched);
        Ok(known.into_iter().zip(fetched).map(answer).collect())
    }

    async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, CacheError> {
        let store = self.store.clone();
        span::blocking(move || {
            let mut missing = Vec::new();
            for digest in digests {
                if !store.has(&digest)? {
                    missing.push(digest);
                }
            }
            Ok::<_, StoreError>(missing)
        })
        .await
        .map_err(Into::into)
    }

    async fn read(&self, digest: Digest, range: Option<Range<u64>>) -> Result<Stretches, CacheError> {
        let store = self.store.clone();
        let blob = {
            let store = store.clone();
            span::blocking(move || store.blob(&digest)).await?.ok_or(CacheError::NotHere(digest))?
        };
        let (to, from) = mpsc::channel(STRETCHES);
        span::spawn("read", pour(store, Arc::new(blob), range.unwrap_or(0..u64::MAX), to));
        Ok(from)
    }

    async fn write(&self, mut from: impl AsyncRead + Send + Unpin) -> Result<(Digest, u64), CacheError> {
        let mut writing = self.store.begin();
        loop {
            let mut stretch = Vec::with_capacity(MAX_DATA_BYTES);
            let reading = (&mut from).take(MAX_DATA_BYTES as u64).read_to_end(&mut stretch).await;
            reading.map_err(CacheError::Source)?;
            if stretch.is_empty() {
                return Ok(span::blocking(move || writing.finish(Durability::Fast)).await?);
            }
            // A thread is taken for each stretch and not for the whole: somebody who writes slowly must not keep one.
            writing = span::blocking(move || writing.write(&stretch).map(|()| writing)).await?;
        }
    }

    async fn publish(&self, publication: Publication) -> Result<Digest, CacheError> {
        let engine = Self::clone(self);
        span::blocking(move || engine.publish_now(publication)).await
    }
}

type KnownOrMiss = Result<Known, Miss>;

impl Engine {
    /// What is known here about each action. A store that does not work makes misses of them.
    async fn all_known(self: &Arc<Self>, space: &Space, actions: &[ActionId]) -> Vec<KnownOrMiss> {
        let (engine, space, actions) = (Arc::clone(self), space.clone(), actions.to_vec());
        span::blocking(move || {
            let known = |action| {
                engine.known(&space, action).map_err(|error| {
                    tracing::warn!(%error, "the store does not work");
                    Miss::Broken
                })
            };
            actions.iter().map(known).collect()
        })
        .await
    }

    /// Of what is not here, that which somebody who is followed lists.
    fn to_seek(
        &self,
        space: &Space,
        actions: &[ActionId],
        known: &[KnownOrMiss],
    ) -> Vec<(usize, ActionId, Vec<Topic>)> {
        let followed = self.followed();
        let sought = actions.iter().zip(known).enumerate().filter_map(|(place, (action, known))| {
            if matches!(known, Ok(Known::Here(_)) | Err(_)) {
                return None;
            }
            let topics = followed.probe(&space.project, action);
            (!topics.is_empty()).then_some((place, *action, topics))
        });
        sought.collect()
    }

    /// Looks among peers for what actions lack here, as a look-up would. What came of it is known afterwards.
    pub(crate) async fn bring(
        self: &Arc<Self>,
        space: &Space,
        actions: &[ActionId],
        deadline: std::time::Duration,
    ) {
        let known = self.all_known(space, actions).await;
        let sought = self.to_seek(space, actions, &known);
        let wanted: Vec<_> = sought.into_iter().map(|(_, action, topics)| (action, topics)).collect();
        if let Some(seeker) = self.seeker.get().filter(|_| !wanted.is_empty()) {
            seeker.seek(space.clone(), wanted, deadline).await;
        }
    }

    fn answer(&self, known: KnownOrMiss, fetched: bool) -> Answer {
        let miss = match known {
            Ok(Known::Here(output)) => {
                self.counts.hit(fetched);
                return Answer::Hit(output);
            }
            Ok(Known::Lacks { .. }) => Miss::Undeliverable,
            Ok(Known::Refused) => Miss::Refused,
            Ok(Known::Nothing) => Miss::Unclaimed,
            Err(miss) => miss,
        };
        self.counts.miss(miss);
        Answer::Miss(miss)
    }

    /// The Blobs of an output that are not here, all of them; the first is the Tree's own when that is missing.
    pub(super) fn incomplete(&self, output: &Output) -> Result<bool, StoreError> {
        Ok(!self.lacks(output)?.is_empty())
    }
}

/// Reads a stretch of a Blob, piece by piece, each checked, until nobody listens any more. A thread is taken for each
/// piece and not for the whole: somebody who reads slowly must not keep one.
async fn pour(
    store: Store,
    blob: Arc<Blob>,
    range: Range<u64>,
    to: mpsc::Sender<Result<Vec<u8>, CacheError>>,
) {
    let end = range.end.min(blob.pieces().size());
    for index in 0..blob.pieces().count() {
        let Some(place) = blob.pieces().range(index) else { return };
        if place.end <= range.start || place.start >= end {
            continue;
        }
        let (store, blob) = (store.clone(), Arc::clone(&blob));
        let piece = match span::blocking(move || store.piece(&blob, index)).await {
            Ok(piece) => piece,
            Err(error) => {
                let _ = to.send(Err(error.into())).await;
                return;
            }
        };
        let within =
            |at: u64| usize::try_from(at.saturating_sub(place.start)).unwrap_or(usize::MAX).min(piece.len());
        for stretch in piece[within(range.start)..within(end)].chunks(MAX_DATA_BYTES) {
            if to.send(Ok(stretch.to_vec())).await.is_err() {
                return;
            }
        }
    }
}
