// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work that is done once its asker was answered: what may be lost is kept behind the tool's back, which is busy with what
//! comes next. There is a bound to how much of it waits.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cache::CacheError;
use crate::observe::span;

/// Most KiB in memory that all such work is about.
const MOST_KIB: u32 = 16 * 1024;
/// What a piece of work counts at least: it takes time however small it is.
const LEAST_KIB: u32 = 128;

type Work = Box<dyn FnOnce() -> Result<(), CacheError> + Send>;

/// What is yet to be done.
pub(super) struct Behind {
    room: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    work: VecDeque<(Work, OwnedSemaphorePermit)>,
    /// How many threads do it.
    workers: usize,
}

impl Default for Behind {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(MOST_KIB as usize)), waiting: Mutex::default() }
    }
}

impl Behind {
    /// Has work about so many bytes done by another thread, as soon as there is room for it.
    pub(super) async fn add(
        self: &Arc<Self>,
        bytes: usize,
        work: impl FnOnce() -> Result<(), CacheError> + Send + 'static,
    ) {
        let kib = u32::try_from(bytes / 1024).unwrap_or(MOST_KIB).saturating_add(LEAST_KIB).min(MOST_KIB);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await;
        let room = room.expect("the semaphore is never closed");
        let mut waiting = self.waiting();
        waiting.work.push_back((Box::new(work), room));
        if waiting.workers < span::cores() {
            waiting.workers += 1;
            drop(waiting);
            let behind = Arc::clone(self);
            drop(span::blocking_task(move || behind.run()));
        }
    }

    fn run(&self) {
        while let Some((work, room)) = self.next() {
            match catch_unwind(AssertUnwindSafe(work)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a value was not kept"),
                Err(_) => tracing::warn!("keeping a value came to an unexpected end"),
            }
            drop(room);
        }
    }

    fn next(&self) -> Option<(Work, OwnedSemaphorePermit)> {
        let mut waiting = self.waiting();
        let next = waiting.work.pop_front();
        if next.is_none() {
            waiting.workers -= 1;
        }
        next
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::{Context, Waker};

    use super::*;

    const ALL: usize = MOST_KIB as usize * 1024;

    #[tokio::test]
    async fn what_there_is_no_room_for_waits_and_all_is_done_whatever_becomes_of_some_of_it() {
        let behind = Arc::new(Behind::default());
        let (said, heard) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        behind.add(usize::MAX, move || gone.recv().map_err(|_| CacheError::Late)).await;
        let say = |number: u32| {
            let said = said.clone();
            move || {
                said.send(number).unwrap();
                Ok(())
            }
        };
        {
            let mut late = pin!(behind.add(0, say(0)));
            assert!(late.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert!(heard.try_recv().is_err());
            go.send(()).unwrap();
            late.await;
        }
        assert_eq!(heard.recv(), Ok(0));
        behind.add(ALL, || panic!("somebody made a mistake")).await;
        behind.add(ALL, || Err(CacheError::Late)).await;
        for number in 1..2 * MOST_KIB / LEAST_KIB {
            behind.add(0, say(number)).await;
        }
        let mut done: Vec<_> = (1..2 * MOST_KIB / LEAST_KIB).map(|_| heard.recv().unwrap()).collect();
        done.sort_unstable();
        assert!(done.into_iter().eq(1..2 * MOST_KIB / LEAST_KIB));
        // Nothing is left of it.
        drop(behind.room.acquire_many(MOST_KIB).await.unwrap());
        while behind.waiting().workers > 0 {
            std::thread::yield_now();
        }
    }
}
