// SPDX-License-Identifier: MIT OR Apache-2.0
//! Group commit: changes that are asked for at the same time share one transaction, and one wait for the disk.
//!
//! The first caller leads: it begins a transaction, does its own change, lets everybody in who is waiting, and commits.
//! The transaction goes from hand to hand: each caller makes its change on its own thread, with its own borrowed data,
//! and then sleeps until the leader has committed. Nobody is told that a change is done before that.
//!
//! A change that fails or panics leaves half of itself in the transaction, so that is thrown away, and whoever had a
//! part in it repeats it in a transaction of its own. A change may therefore be made twice, and must say the same the
//! second time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use redb::WriteTransaction;

use super::file::Db;
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
}

struct Batch {
    transaction: WriteTransaction,
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
                self.give_up(state);
                return Err(error.into());
            }
            Err(panic) => {
                self.give_up(state);
                resume_unwind(panic);
            }
        };
        let fate = Arc::default();
        state.open = Some(Batch { transaction, fate, jobs: 0, most: ask.most, durable: false });
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
            transaction.commit().map_err(redb::Error::from)?;
            Ok::<_, redb::Error>(landing)
        }));
        let ended = ended.map(|ended| ended.map(|landing| self.pending.landed(landing)));
        let done = matches!(ended, Ok(Ok(())));
        let mut state = self.lock();
        // Whoever asks sees this under the same lock.
        let _ = fate.set(done);
        state.owed = if done { !durable } else { true };
        state.expected = jobs + state.waiting;
        self.give_up(state);
        self.ended.notify_all();
        match ended {
            Ok(Ok(())) => Ok(Attempt::Done),
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Ends leading: the next one may.
    fn give_up(&self, mut state: MutexGuard<'_, State>) {
        state.led = false;
        drop(state);
        self.turn.notify_all();
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
