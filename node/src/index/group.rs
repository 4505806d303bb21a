// SPDX-License-Identifier: MIT OR Apache-2.0
//! Group commit: changes that are asked for at the same time share one transaction, and one wait for the disk.
//!
//! The first caller leads: it begins a transaction, does its own change, lets everybody in who is waiting, and commits.
//! The transaction goes from hand to hand: each caller makes its change on its own thread, with its own borrowed data,
//! and then sleeps until the leader has committed. Nobody is told that a change is done before that.
//!
//! Those who have nothing to change but want what waits beside (see `pending`) to be durable ride along: they sleep until
//! the next transaction is committed and are woken once.
//!
//! A change that fails or panics leaves half of itself in the transaction, so that is thrown away, and whoever had a
//! part in it repeats it in a transaction of its own. A change may therefore be made twice, and must say the same the
//! second time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use redb::WriteTransaction;

use super::file::{Db, Writing};
use super::pending::Pending;
use crate::content::Durability;

/// Most changes in one transaction. All pages that it touches stay in memory until it is committed.
pub(super) const MAX_JOBS: usize = 1024;

/// How long a leader waits for callers that took part in the last durable transaction and are about to come again: a
/// fraction of what it costs to wait for the disk once more.
const LINGER: Duration = Duration::from_micros(150);

/// A change, as often as it must be made. It fails with an error of its own or of redb.
type Job<'a, E> = dyn FnMut(&WriteTransaction) -> Result<(), E> + 'a;

/// What a caller asks for.
struct Ask<'a, 'b, E> {
    durable: bool,
    /// Most changes in its transaction: 1 when it is to be alone.
    most: usize,
    job: &'a mut Job<'b, E>,
}

/// The callers that want to change the index.
pub(super) struct Group {
    most: usize,
    /// What goes along with each change.
    pending: Arc<Pending>,
    state: Mutex<State>,
    /// Somebody may join, or lead.
    turn: Condvar,
    /// The leader may look again whether to commit.
    full: Condvar,
    /// What became of a transaction is known.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// The transaction that takes changes.
    open: Option<Batch>,
    /// Somebody leads: from before the transaction begins until its end is known.
    led: bool,
    /// Callers that sleep until they may join.
    waiting: usize,
    /// How many changes there were at once of late.
    expected: usize,
    /// Whether something was committed that may still be lost with the machine.
    owed: bool,
    /// Those who ride along with the next transaction, which is not open yet.
    next: Option<Riders>,
}

#[derive(Default)]
struct Riders {
    /// What becomes of that transaction.
    fate: Arc<OnceLock<bool>>,
    count: usize,
}

struct Batch {
    transaction: Writing,
    /// Whether it was committed, once that is known.
    fate: Arc<OnceLock<bool>>,
    jobs: usize,
    most: usize,
    durable: bool,
}

/// How far a caller got.
enum Attempt {
    Done,
    /// Somebody else's change went wrong: this one is to be made alone.
    Again,
}

impl Group {
    /// A group of callers of which at most `most` share a transaction, with which goes what waits for one.
    pub(super) fn new(most: usize, pending: Arc<Pending>) -> Self {
        let (turn, full, ended) = (Condvar::new(), Condvar::new(), Condvar::new());
        Self { most, pending, state: Mutex::default(), turn, full, ended }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("changes run behind catch_unwind")
    }

    /// Makes a change, together with those of others.
    ///
    /// # Errors
    /// That of the change, or that of redb: then nothing of it was done, as far as redb can tell.
    ///
    /// # Panics
    /// When the change does.
    pub(super) fn run<E: From<redb::Error>>(
        &self,
        db: &Db,
        durability: Durability,
        job: &mut Job<'_, E>,
    ) -> Result<(), E> {
        let mut ask = Ask { durable: durability == Durability::Durable, most: self.most, job };
        while let Attempt::Again = self.attempt(db, &mut ask)? {
            ask.most = 1;
        }
        Ok(())
    }

    /// Makes durable what is not yet; costs nothing when there is nothing.
    pub(super) fn settle<E: From<redb::Error>>(&self, db: &Db) -> Result<(), E> {
        {
            let state = self.lock();
            if !state.owed && !state.led && self.pending.is_empty() {
                return Ok(());
            }
        }
        self.run(db, Durability::Durable, &mut |_| Ok(()))
    }

    /// Returns once what waited before the call is durable.
    ///
    /// # Errors
    /// That of redb.
    pub(super) fn ride<E: From<redb::Error>>(&self, db: &Db) -> Result<(), E> {
        let mut state = self.lock();
        let fate = match &mut state.open {
            Some(batch) if batch.jobs < batch.most => {
                batch.durable = true;
                batch.jobs += 1;
                self.full.notify_one();
                Arc::clone(&batch.fate)
            }
            _ => {
                let next = state.next.get_or_insert_default();
                next.count += 1;
                Arc::clone(&next.fate)
            }
        };
        let mut nothing = |_: &WriteTransaction| Ok::<_, E>(());
        loop {
            match fate.get() {
                Some(true) => return Ok(()),
                Some(false) => {
                    drop(state);
                    break;
                }
                None if state.led => {
                    state = self.ended.wait(state).expect("changes run behind catch_unwind");
                }
                None => {
                    // Whoever leads is counted by his change.
                    if let Some(next) = state.next.as_mut().filter(|next| Arc::ptr_eq(&next.fate, &fate)) {
                        next.count -= 1;
                    }
                    let mut ask = Ask { durable: true, most: self.most, job: &mut nothing };
                    match self.lead(state, db, &mut ask)? {
                        Attempt::Done => return Ok(()),
                        Attempt::Again => break,
                    }
                }
            }
        }
        // Somebody else's change went wrong.
        self.run(db, Durability::Durable, &mut nothing)
    }

    /// One try.
    fn attempt<E: From<redb::Error>>(&self, db: &Db, ask: &mut Ask<'_, '_, E>) -> Result<Attempt, E> {
        let mut state = self.lock();
        let company = ask.most > 1;
        loop {
            if company && state.open.as_ref().is_some_and(|batch| batch.jobs < batch.most) {
                return self.join(state, ask);
            }
            if !state.led {
                return self.lead(state, db, ask);
            }
            state.waiting += usize::from(company);
            state = self.turn.wait(state).expect("changes run behind catch_unwind");
            state.waiting -= usize::from(company);
        }
    }

    /// Takes part in somebody else's transaction.
    fn join<E: From<redb::Error>>(
        &self,
        mut state: MutexGuard<'_, State>,
        ask: &mut Ask<'_, '_, E>,
    ) -> Result<Attempt, E> {
        let fate = match perform(&mut state, ask) {
            Ok(fate) => fate,
            Err(wrong) => {
                self.ended.notify_all();
                self.full.notify_one();
                drop(state);
                return wrong.give();
            }
        };
        self.full.notify_one();
        loop {
            match fate.get() {
                Some(true) => return Ok(Attempt::Done),
                Some(false) => return Ok(Attempt::Again),
                None => state = self.ended.wait(state).expect("changes run behind catch_unwind"),
            }
        }
    }

    fn lead<'s, E: From<redb::Error>>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        db: &Db,
        ask: &mut Ask<'_, '_, E>,
    ) -> Result<Attempt, E> {
        state.led = true;
        drop(state);
        let begun = catch_unwind(AssertUnwindSafe(|| db.begin_write()));
        let mut state = self.lock();
        let transaction = match begun {
            Ok(Ok(transaction)) => transaction,
            Ok(Err(error)) => {
                self.strand(state);
                return Err(error.into());
            }
            Err(panic) => {
                self.strand(state);
                resume_unwind(panic);
            }
        };
        let Riders { fate, count: jobs } = state.next.take().unwrap_or_default();
        state.open = Some(Batch { transaction, fate, jobs, most: ask.most.max(jobs + 1), durable: jobs > 0 });
        if let Err(wrong) = perform(&mut state, ask) {
            self.give_up(state);
            return wrong.give();
        }
        self.turn.notify_all();
        let mut state = self.gather(state);
        let Some(batch) = state.open.take() else {
            self.give_up(state);
            return Ok(Attempt::Again);
        };
        drop(state);
        self.commit(batch)
    }

    /// Lets everybody in who is waiting, and those who are likely to come in a moment.
    fn gather<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let open = |state: &State| state.open.as_ref().is_some_and(|batch| batch.jobs < batch.most);
        let inside = |state: &State| state.waiting > 0 && open(state);
        state = self.full.wait_while(state, |state| inside(state)).expect("changes run behind catch_unwind");
        let few = |state: &State| {
            let batch = state.open.as_ref();
            open(state) && batch.is_some_and(|batch| batch.durable && batch.jobs < state.expected)
        };
        if few(&state) {
            let waited = self.full.wait_timeout_while(state, LINGER, |state| few(state));
            state = waited.expect("changes run behind catch_unwind").0;
        }
        state
    }

    fn commit<E: From<redb::Error>>(&self, batch: Batch) -> Result<Attempt, E> {
        let Batch { mut transaction, fate, jobs, durable, .. } = batch;
        let ended = catch_unwind(AssertUnwindSafe(|| {
            if !durable {
                transaction.set_durability(redb::Durability::None).map_err(redb::Error::from)?;
            }
            let landing = self.pending.land(&transaction)?;
            transaction.commit()?;
            Ok::<_, redb::Error>(landing)
        }));
        let ended = ended.map(|ended| ended.map(|landing| self.pending.landed(landing)));
        let done = matches!(ended, Ok(Ok(())));
        let mut state = self.lock();
        // Whoever asks sees this under the same lock.
        let _ = fate.set(done);
        state.owed = if done { !durable } else { true };
        state.expected = jobs + state.waiting + state.next.as_ref().map_or(0, |next| next.count);
        self.give_up(state);
        match ended {
            Ok(Ok(())) => Ok(Attempt::Done),
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// The same, of a transaction that could not even begin: those who wanted to ride along find out for themselves.
    fn strand(&self, mut state: MutexGuard<'_, State>) {
        if let Some(next) = state.next.take() {
            let _ = next.fate.set(false);
        }
        self.give_up(state);
    }

    /// Ends leading: the next one may.
    fn give_up(&self, mut state: MutexGuard<'_, State>) {
        state.led = false;
        drop(state);
        self.turn.notify_all();
        self.ended.notify_all();
    }
}

/// A change that went wrong.
enum Wrong<E> {
    Error(E),
    Panic(Box<dyn std::any::Any + Send>),
}

impl<E> Wrong<E> {
    fn give(self) -> Result<Attempt, E> {
        match self {
            Self::Error(error) => Err(error),
            Self::Panic(panic) => resume_unwind(panic),
        }
    }
}

/// Makes a change in the open transaction. When it goes wrong the transaction is thrown away.
fn perform<E>(state: &mut State, ask: &mut Ask<'_, '_, E>) -> Result<Arc<OnceLock<bool>>, Wrong<E>> {
    let batch = state.open.as_mut().expect("there is an open transaction, or nobody could join it");
    batch.jobs += 1;
    batch.durable |= ask.durable;
    let wrong = match catch_unwind(AssertUnwindSafe(|| (ask.job)(&batch.transaction))) {
        Ok(Ok(())) => return Ok(Arc::clone(&batch.fate)),
        Ok(Err(error)) => Wrong::Error(error),
        Err(panic) => Wrong::Panic(panic),
    };
    if let Some(Batch { transaction, fate, .. }) = state.open.take() {
        let _ = fate.set(false);
        // It is aborted when it is dropped; a panic in there must not take this lock along.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(transaction)));
    }
    Err(wrong)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use redb::{ReadableTable as _, TableDefinition};

    use super::*;

    const NUMBERS: TableDefinition<'_, (), u64> = TableDefinition::new("numbers");

    #[test]
    fn those_who_ride_along_share_one_transaction() {
        const RIDERS: usize = 32;
        let db = Db::in_memory().unwrap();
        let group = Group::new(8, Arc::default());
        let before = db.ended();
        // As long as somebody else writes, the first of them cannot begin, and the others gather behind it.
        let other = db.begin_write().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..RIDERS {
                scope.spawn(|| group.ride::<redb::Error>(&db).unwrap());
            }
            while group.lock().next.as_ref().is_none_or(|next| next.count < RIDERS - 1) {
                std::thread::yield_now();
            }
            drop(other);
        });
        assert_eq!(db.ended() - before, 2, "the other one, and theirs");
        let state = group.lock();
        assert!(state.next.is_none() && state.open.is_none() && !state.led && !state.owed);
    }

    #[test]
    fn whoever_rides_along_with_a_change_that_goes_wrong_is_carried_by_another() {
        let db = Db::in_memory().unwrap();
        let group = Group::new(8, Arc::default());
        std::thread::scope(|scope| {
            for round in 0..64 {
                scope.spawn(|| group.ride::<redb::Error>(&db).unwrap());
                let mut wrong = |_: &WriteTransaction| Err::<(), _>(redb::Error::DatabaseClosed);
                let mut panics =
                    |_: &WriteTransaction| -> Result<(), redb::Error> { panic!("as a fault would") };
                if round % 2 == 0 {
                    assert!(group.run(&db, Durability::Fast, &mut wrong).is_err());
                } else {
                    let run = || group.run(&db, Durability::Fast, &mut panics);
                    assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
                }
            }
        });
        let state = group.lock();
        assert!(state.next.is_none() && state.open.is_none() && !state.led && !state.owed);
    }

    #[test]
    fn one_transaction_takes_a_bounded_number_of_changes() {
        let db = Db::in_memory().unwrap();
        let add = |change: &WriteTransaction| {
            let mut table = change.open_table(NUMBERS).unwrap();
            let now = table.get(()).unwrap().map_or(0, |row| row.value());
            table.insert((), now + 1).unwrap();
            now
        };
        let group = Group::new(4, Arc::default());
        let first = |change: &WriteTransaction| {
            add(change);
            Ok::<_, redb::Error>(())
        };
        group.run(&db, Durability::Durable, &mut { first }).unwrap();
        let barrier = Barrier::new(32);
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    barrier.wait();
                    let mut job = |change: &WriteTransaction| {
                        let now = add(change);
                        let before = db.begin_read().unwrap().open_table(NUMBERS).unwrap();
                        let before = before.get(()).unwrap().unwrap().value();
                        assert!(now - before < 4, "{now} after {before}");
                        Ok::<_, redb::Error>(())
                    };
                    group.run(&db, Durability::Durable, &mut job).unwrap();
                });
            }
        });
        let all = db.begin_read().unwrap().open_table(NUMBERS).unwrap();
        assert_eq!(all.get(()).unwrap().unwrap().value(), 33);
        assert!(!group.lock().owed && !group.lock().led);
    }
}
