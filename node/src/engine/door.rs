// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine as the Cache that tools see.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use potluck_protocol::action::ActionId;
use potluck_protocol::control::{Answer, Miss};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Output;
use potluck_protocol::peer::Topic;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::reading::Reading;
use super::trace::{Begun, Ended, Here};
use super::{Engine, Known, output_bytes};
use crate::buffers::{self, Lent};
use crate::cache::{Cache, CacheError, Publication, Question, Stretches};
use crate::content::Durability;
use crate::fetch::event::Space;
use crate::gc::protect::Hold;
use crate::materialise::{self, RestoreError};
use crate::observe::{clock, span};
use crate::plan::Moment;
use crate::store::{PourError, StoreError, Writing};

impl Cache for Arc<Engine> {
    async fn lookup(&self, question: Question) -> Result<Vec<Answer>, CacheError> {
        // What is answered from memory waits for nothing: somebody who asks in a loop must still let others run.
        tokio::task::coop::consume_budget().await;
        self.store.stir();
        let Question { project, recipe, keys, deadline } = question;
        let space = Arc::new(Space { project, recipe });
        let ids = keys.iter().map(|key| ActionId::derive(&space.project, &space.recipe, key, None));
        let actions =
            ids.collect::<Result<Vec<_>, _>>().map_err(|error| CacheError::Usage(error.to_string()))?;
        self.claiming.ended(&actions, deadline).await;
        let began = clock::moment();
        let mut known = self.all_known(&space, &actions, None).await;
        let sought = self.to_seek(&space, &actions, &known);
        let traced = self.trace(&space, (&actions, &known), &sought);
        let mut fetched = vec![false; actions.len()];
        if let Some(seeker) = self.seeker.get().filter(|_| !sought.is_empty()) {
            let places: Vec<_> = sought.iter().map(|(place, ..)| *place).collect();
            let wanted = sought.into_iter().map(|(_, action, topics)| (action, topics)).collect();
            let misses = seeker.seek(Space::clone(&space), wanted, deadline).await;
            for (place, miss) in places.into_iter().zip(misses) {
                match miss {
                    Some(miss) => known[place] = Err(miss),
                    None => {
                        fetched[place] = true;
                        let action = [actions[place]];
                        let again = self.all_known(&space, &action, Some(began)).await.pop();
                        known[place] = again.unwrap_or(Err(Miss::Broken));
                    }
                }
            }
        }
        let answer = |(known, fetched)| self.answer(&space, known, fetched);
        let answers: Vec<_> = known.into_iter().zip(fetched.iter().copied()).map(answer).collect();
        let ended = |(answer, fetched): (&Answer, bool)| match answer {
            Answer::Hit(_) => Ended::Hit { fetched },
            Answer::Miss(miss) => Ended::Miss(*miss),
        };
        self.traces.end(traced, answers.iter().zip(fetched).map(ended));
        Ok(answers)
    }

    async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, CacheError> {
        let store = self.store.clone();
        store.stir();
        span::blocking(move || {
            let view = store.index().view()?;
            let mut missing = Vec::new();
            for digest in digests {
                // Only what is here is promised. What is absent will be written, and is protected as such.
                if !store.has_in(&view, &digest)? || !store.holds_in(&view, &digest, Hold::Promise)? {
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
        span::blocking(move || {
            let blob = store.blob(&digest)?.ok_or(CacheError::NotHere(digest))?;
            let mut reading = Reading::begin(store, blob, range.unwrap_or(0..u64::MAX));
            Ok(Stretches::new(move |context| reading.poll(context)))
        })
        .await
    }

    async fn write(&self, from: impl AsyncRead + Send + Unpin) -> Result<(Digest, u64), CacheError> {
        let (mut writing, last) = self.begin(from, None).await?;
        if writing.is_empty()
            && let Some(digest) = self.store.keep_at_once(&last)?
        {
            self.make_room_soon();
            return Ok((digest, last.len() as u64));
        }
        let end = move || {
            writing.write(&last)?;
            writing.finish(Durability::Fast)
        };
        Ok(span::blocking(end).await?)
    }

    async fn write_file(&self, file: File, _: &Path) -> Result<(Digest, u64), CacheError> {
        let mut writing = self.store.begin();
        // A file does not keep anybody waiting, so that one thread does all of it.
        span::blocking(move || {
            writing.pour(file).map_err(|error| match error {
                PourError::Source(error) => CacheError::Source(error),
                PourError::Store(error) => error.into(),
            })?;
            Ok(writing.finish(Durability::Fast)?)
        })
        .await
    }

    async fn read_file(&self, digest: Digest, file: File, path: &Path) -> Result<u64, CacheError> {
        let (store, path) = (self.store.clone(), path.to_owned());
        let poured =
            span::blocking(move || materialise::into(&store, (&digest, None), (file, &path), &|_| true));
        poured.await.map_err(|error| match error {
            RestoreError::Source { source, .. } => source,
            RestoreError::Write { source, .. } => CacheError::Sink(source),
            other => CacheError::Store(other.to_string()),
        })
    }

    async fn publish(&self, publication: Publication) -> Result<Digest, CacheError> {
        let Publication { project, recipe, key, .. } = &publication;
        // One that makes no sense is refused below.
        let action = ActionId::derive(project, recipe, key, None).ok();
        let _claiming = action.map(|action| self.claiming.begin(action));
        let engine = Self::clone(self);
        span::blocking(move || engine.publish_now(publication)).await
    }
}

/// Most keys of one question that may have Entries and are read without going to a thread that may block.
const AT_ONCE: usize = 8;

/// So many bytes of a stream are written while the next ones come. To hand a stretch to another thread and to hear that
/// it is written takes as long as to write a hundred KiB; each stream that comes has two stretches in memory.
const STRETCH_BYTES: usize = 512 * 1024;

/// The next bytes of a stream, where the ones before the last were: fewer than [`STRETCH_BYTES`] at its end only.
async fn next_stretch(from: &mut (impl AsyncRead + Unpin), mut stretch: Lent) -> Result<Lent, CacheError> {
    stretch.clear();
    let mut from = from.take(STRETCH_BYTES as u64);
    while from.read_buf(&mut *stretch).await.map_err(CacheError::Source)? > 0 {}
    Ok(stretch)
}

impl Engine {
    /// Writes a stream of so many bytes at most, if that is known, to a Blob but for its last bytes, no more than
    /// [`STRETCH_BYTES`], so that its end takes one thread along with what comes after it.
    pub(super) async fn begin(
        &self,
        mut from: impl AsyncRead + Unpin,
        most: Option<u64>,
    ) -> Result<(Writing, Lent), CacheError> {
        let mut writing = self.store.begin();
        let (mut stretch, mut spare) = (next_stretch(&mut from, buffers::lend()).await?, buffers::lend());
        let mut came = stretch.len() as u64;
        while stretch.len() == STRETCH_BYTES && Some(came) != most {
            // A thread is taken for each stretch and not for the whole: somebody who writes slowly must not keep one.
            let written = span::blocking(move || writing.write(&stretch).map(|()| (writing, stretch)));
            let (written, next) = tokio::join!(written, next_stretch(&mut from, spare));
            (writing, spare) = written?;
            stretch = next?;
            came += stretch.len() as u64;
        }
        if stretch.len() == STRETCH_BYTES {
            // All that was announced is here; that there is no more is known at once.
            came += next_stretch(&mut from, spare).await?.len() as u64;
        }
        if most.is_some_and(|most| came > most) {
            return Err(CacheError::Source(io::ErrorKind::InvalidData.into()));
        }
        Ok((writing, stretch))
    }
}

pub(super) type KnownOrMiss = Result<Known, Miss>;

/// What is to be looked for: its place in the question, the action, and whose Catalogs list it.
type Sought = (usize, ActionId, Vec<Topic>);

impl Engine {
    /// What is known here about each action, for what began at `since`, if it did not just begin. A store that does not
    /// work makes misses of them.
    pub(super) async fn all_known(
        self: &Arc<Self>,
        space: &Space,
        actions: &[ActionId],
        since: Option<Moment>,
    ) -> Vec<KnownOrMiss> {
        let broken = |error: StoreError| {
            tracing::warn!(%error, "the store does not work");
            Miss::Broken
        };
        let mut room = AT_ONCE;
        let mut at_once = |action: &ActionId| {
            // What is absent costs nothing, however much is asked.
            if self.store.index().maybe(action) {
                room = usize::checked_sub(room, 1)?;
            }
            self.known_at_once((space, action), since)
        };
        let known: Vec<_> = actions.iter().map(&mut at_once).collect();
        let later = actions.iter().zip(&known).filter(|(_, known)| known.is_none());
        let later: Vec<_> = later.map(|(action, _)| *action).collect();
        let mut rest = if later.is_empty() {
            Vec::new()
        } else {
            let (engine, space) = (Arc::clone(self), space.clone());
            span::blocking(move || later.iter().map(|action| engine.known(&space, action)).collect()).await
        }
        .into_iter();
        let known = known.into_iter().filter_map(|known| known.or_else(|| rest.next()));
        let known: Vec<_> = known.map(|known| known.map_err(broken)).collect();
        let now = clock::now();
        for (action, known) in actions.iter().zip(&known) {
            if let Ok(Known::Here(_)) = known {
                self.uses.touch(action, now);
            }
        }
        known
    }

    /// Remembers what is known of a look-up at its beginning; gives its number.
    fn trace(
        &self,
        space: &Arc<Space>,
        (actions, known): (&[ActionId], &[KnownOrMiss]),
        sought: &[Sought],
    ) -> u64 {
        let here = |known: &KnownOrMiss| match known {
            Ok(Known::Here(_)) => Here::All,
            Ok(Known::Lacks { blobs, .. }) => Here::Part(blobs.len()),
            Ok(Known::Refused) => Here::Refused,
            Ok(Known::Nothing) => Here::Nothing,
            Err(_) => Here::Broken,
        };
        let mut sought = sought.iter().peekable();
        let begun = actions.iter().zip(known).enumerate().map(|(place, (action, known))| {
            let topics = sought.next_if(|(sought, ..)| *sought == place).map(|(_, _, topics)| topics.clone());
            Begun { action: *action, here: here(known), listed: topics.unwrap_or_default() }
        });
        self.traces.begin(space, self.followed().count(&space.project), begun)
    }

    /// Of what is not here, that which somebody who is followed lists.
    fn to_seek(&self, space: &Space, actions: &[ActionId], known: &[KnownOrMiss]) -> Vec<Sought> {
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

    #[cfg(feature = "net")]
    /// Looks among peers for what actions lack here, as a look-up would. What came of it is known afterwards.
    pub(crate) async fn bring(
        self: &Arc<Self>,
        space: &Space,
        actions: &[ActionId],
        deadline: std::time::Duration,
    ) {
        let known = self.all_known(space, actions, None).await;
        let sought = self.to_seek(space, actions, &known);
        let wanted: Vec<_> = sought.into_iter().map(|(_, action, topics)| (action, topics)).collect();
        if let Some(seeker) = self.seeker.get().filter(|_| !wanted.is_empty()) {
            seeker.seek(space.clone(), wanted, deadline).await;
        }
    }

    #[cfg(feature = "net")]
    /// The same for a build that will ask for them, which may end before. What is fetched comes in this order.
    pub(crate) async fn bring_ahead(
        self: &Arc<Self>,
        space: &Arc<Space>,
        actions: &[ActionId],
        deadline: std::time::Duration,
    ) {
        let known = self.all_known(space, actions, None).await;
        let sought = self.to_seek(space, actions, &known);
        let Some(seeker) = self.seeker.get().filter(|_| !sought.is_empty()) else { return };
        // Only what is looked for among others needs an explanation.
        let (places, wanted): (Vec<_>, Vec<_>) =
            sought.into_iter().map(|(place, action, topics)| (place, (action, topics))).unzip();
        let actions: Vec<_> = wanted.iter().map(|(action, _)| *action).collect();
        let mut known: Vec<_> = known.into_iter().map(Some).collect();
        let known: Vec<_> = places.into_iter().filter_map(|place| known[place].take()).collect();
        let sought =
            wanted.iter().enumerate().map(|(place, (action, topics))| (place, *action, topics.clone()));
        let traced = self.trace(space, (&actions, &known), &sought.collect::<Vec<_>>());
        let misses = seeker.seek_ahead(Space::clone(space), wanted, deadline).await;
        let ended = |miss: Option<Miss>| miss.map_or(Ended::Hit { fetched: true }, Ended::Miss);
        self.traces.end(traced, misses.into_iter().map(ended));
    }

    #[cfg(feature = "net")]
    /// Asks those whose Catalogs list them for their claims, also about what is known here. They are kept as far as the
    /// policy has a use for them.
    pub(crate) async fn ask_claims(
        &self,
        space: &Space,
        actions: &[ActionId],
        deadline: std::time::Duration,
    ) {
        let listed = |action: &ActionId| Some((*action, self.followed().probe(&space.project, action)));
        let wanted: Vec<_> =
            actions.iter().filter_map(listed).filter(|(_, topics)| !topics.is_empty()).collect();
        if let Some(seeker) = self.seeker.get().filter(|_| !wanted.is_empty()) {
            seeker.seek(space.clone(), wanted, deadline).await;
        }
    }

    fn answer(&self, space: &Space, known: KnownOrMiss, fetched: bool) -> Answer {
        let miss = match known {
            Ok(Known::Here(output)) => {
                self.counts.hit(space, output_bytes(&output), fetched);
                return Answer::Hit(output);
            }
            Ok(Known::Lacks { .. }) => Miss::Undeliverable,
            Ok(Known::Refused) => Miss::Refused,
            Ok(Known::Nothing) => Miss::Unclaimed,
            Err(miss) => miss,
        };
        self.counts.miss(space, miss);
        Answer::Miss(miss)
    }

    /// The Blobs of an output that are not here, all of them; the first is the Tree's own when that is missing.
    pub(super) fn incomplete(&self, output: &Output) -> Result<bool, StoreError> {
        Ok(!self.lacks(&self.store.index().view()?, output, Some(Hold::Publish))?.is_empty())
    }
}
