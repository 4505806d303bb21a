// SPDX-License-Identifier: MIT OR Apache-2.0
//! The half of a kept stream that speaks. Who has the only question on it says that himself, at once: to wake another
//! task for it, which may come to run on another processor, takes longer than the question. What would have to wait goes
//! by way of a queue, all that waits there at once: on a stream without a multiplexer each write costs a packet.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use potluck_protocol::frame::{Frame, Message, frame};
use tokio::io::AsyncWrite;
use tokio::sync::{Notify, mpsc};

/// How many bytes are said at once at most, but for a message that is larger by itself.
pub(super) const TOGETHER: usize = 16 * 1024;

/// What speaks, until the stream ends.
pub(super) struct Mouth {
    saying: Mutex<Option<Saying>>,
    /// Something was begun that has to be ended by who empties the queue.
    begun: Notify,
}

struct Saying {
    to: Box<dyn AsyncWrite + Send + Unpin>,
    /// What is being said, without what was said of its end, and how much of its beginning was.
    frame: Frame,
    at: usize,
    /// Whether anything of that has yet to leave.
    owes: bool,
    /// How many messages are in the queue, or about to be.
    queued: usize,
}

impl Saying {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let begin = &self.frame.begin[self.at..];
            let next = if begin.is_empty() { &self.frame.end } else { begin };
            if next.is_empty() {
                break;
            }
            let count = ready!(Pin::new(&mut self.to).poll_write(context, next))?;
            match count {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count if begin.is_empty() => self.frame.end.advance(count),
                count => self.at += count,
            }
        }
        if self.owes {
            ready!(Pin::new(&mut self.to).poll_flush(context))?;
        }
        (self.at, self.owes) = (0, false);
        self.frame.begin.clear();
        // What was sent of it would be kept for as long as nothing else is said.
        self.frame.end = Bytes::new();
        Poll::Ready(Ok(()))
    }

    /// Whether more may go along.
    fn has_room(&self) -> bool {
        self.frame.begin.len() < TOGETHER && self.frame.end.is_empty()
    }

    /// Adds a message, for which there must be room.
    fn add(&mut self, frame: Frame) {
        self.owes = true;
        if self.frame.begin.is_empty() {
            self.frame = frame;
        } else {
            self.frame.begin.extend(frame.begin);
            self.frame.end = frame.end;
        }
    }
}

impl Mouth {
    /// One that speaks to `to`.
    pub(super) fn new(to: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        let saying = Saying { to: Box::new(to), frame: Frame::default(), at: 0, owes: false, queued: 0 };
        Self { saying: Mutex::new(Some(saying)), begun: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Saying>> {
        self.saying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is said any more.
    pub(super) fn close(&self) {
        *self.lock() = None;
    }

    /// Says something at once if nothing else is to be said before, and else has it wait in its place.
    pub(super) fn say<M: Message>(&self, message: M, place: mpsc::Permit<'_, M>) {
        let mut saying = self.lock();
        if let Some(saying) = saying.as_mut()
            && !saying.owes
            && saying.queued == 0
            && let Ok(frame) = frame(&message)
        {
            saying.add(frame);
            // What cannot leave yet, or never, is found by who empties the queue.
            if !matches!(saying.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))) {
                self.begun.notify_one();
            }
            return;
        }
        drop(saying);
        self.queue(message, place);
    }

    /// Has something wait in its place.
    pub(super) fn queue<M>(&self, message: M, place: mpsc::Permit<'_, M>) {
        if let Some(saying) = self.lock().as_mut() {
            saying.queued += 1;
        }
        place.send(message);
    }

    /// Takes a message from the queue, and those that are behind it, as far as they go together; gives whether they can
    /// be said.
    fn take<M: Message>(&self, first: M, queue: &mut mpsc::Receiver<M>) -> bool {
        let mut saying = self.lock();
        let Some(saying) = saying.as_mut() else { return false };
        let mut next = Some(first);
        while let Some(message) = next {
            saying.queued = saying.queued.saturating_sub(1);
            let Ok(frame) = frame(&message) else { return false };
            saying.add(frame);
            next = if saying.has_room() { queue.try_recv().ok() } else { None };
        }
        true
    }

    /// Says what remains of what was begun.
    async fn rest(&self) -> io::Result<()> {
        std::future::poll_fn(|context| match self.lock().as_mut() {
            Some(saying) => saying.poll(context),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        })
        .await
    }

    /// Says what is in the queue, until nobody asks any more; gives whether the stream still stands then.
    pub(super) async fn speak<M: Message>(&self, queue: &mut mpsc::Receiver<M>) -> bool {
        loop {
            let next = tokio::select! {
                next = queue.recv() => Some(next),
                () = self.begun.notified() => None,
            };
            let last = matches!(next, Some(None));
            if let Some(Some(message)) = next
                && !self.take(message, queue)
            {
                return false;
            }
            if !matches!(tokio::time::timeout(super::STALL, self.rest()).await, Ok(Ok(()))) {
                return false;
            }
            if last {
                return true;
            }
        }
    }
}
