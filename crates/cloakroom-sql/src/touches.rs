//! Touches that wait in the background, so that a request does not.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloakroom_core::SessionId;
use tokio::sync::{Notify, watch};

/// When a touch is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Touches {
    /// When it is written, with whether the session is live: the contract to the letter.
    #[default]
    Answered,
    /// When it is queued, with [`Touched`](cloakroom_core::Touch::Touched) whatever it will find; it
    /// is written within about a second, together with what else waits, and at `close`.
    ///
    /// A process that dies takes what waits with it: a session then ends earlier by the touch
    /// interval at most, never later. A touch that comes too late revives nothing. When too many
    /// wait, a touch is answered as by [`Answered`](Self::Answered).
    Background,
}

/// One touch for each session, the furthest of those that were asked for.
#[derive(Debug)]
pub(crate) struct TouchBuffer {
    state: Mutex<State>,
    changed: Notify,
    capacity: usize,
    /// Closes when the task that empties the buffer has ended.
    emptied: watch::Receiver<()>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<SessionId, Deadlines>,
    closed: bool,
}

/// What a touch asks for, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadlines {
    pub(crate) last_seen: i64,
    pub(crate) idle_deadline: i64,
}

impl Deadlines {
    /// The further of each.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            last_seen: self.last_seen.max(other.last_seen),
            idle_deadline: self.idle_deadline.max(other.idle_deadline),
        }
    }
}

/// Held by the task that empties the buffer, for as long as it runs.
#[derive(Debug)]
pub(crate) struct Emptying(#[expect(dead_code, reason = "its end is what it says")] watch::Sender<()>);

impl TouchBuffer {
    /// How long a touch waits for others.
    const PAUSE: Duration = Duration::from_secs(1);

    pub(crate) fn new(capacity: usize) -> (Arc<Self>, Emptying) {
        let (emptying, emptied) = watch::channel(());
        let buffer = Self { state: Mutex::default(), changed: Notify::new(), capacity: capacity.max(1), emptied };
        (Arc::new(buffer), Emptying(emptying))
    }

    /// Whether there was room.
    pub(crate) fn offer(&self, id: SessionId, deadlines: Deadlines) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        let room = state.waiting.len() < self.capacity;
        if let Some(waiting) = state.waiting.get_mut(&id) {
            *waiting = waiting.and(deadlines);
            return true;
        }
        if !room {
            return false;
        }
        state.waiting.insert(id, deadlines);
        if state.waiting.len() == 1 || state.waiting.len() == self.many() {
            drop(state);
            self.changed.notify_one();
        }
        true
    }

    /// Waits until a touch has waited long enough, or many do, and takes them all; nothing once the
    /// buffer is closed and empty.
    pub(crate) async fn take(&self) -> Vec<(SessionId, Deadlines)> {
        self.until(|state| state.closed || !state.waiting.is_empty()).await;
        let many = self.until(|state| state.closed || state.waiting.len() >= self.many());
        // Either way there is something to do.
        drop(tokio::time::timeout(Self::PAUSE, many).await);
        self.lock().waiting.drain().collect()
    }

    /// Takes nothing more in, and returns when the task that empties this has done so.
    pub(crate) async fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
        let mut emptied = self.emptied.clone();
        while emptied.changed().await.is_ok() {}
    }

    /// As `close`, without waiting.
    pub(crate) fn abandon(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    const fn many(&self) -> usize {
        self.capacity.div_ceil(2)
    }

    async fn until(&self, done: impl Fn(&State) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if done(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; SessionId::LEN])
    }

    const fn deadlines(last_seen: i64, idle_deadline: i64) -> Deadlines {
        Deadlines { last_seen, idle_deadline }
    }

    #[tokio::test(start_paused = true)]
    async fn touches_of_a_session_become_one_and_wait_a_second() {
        let (buffer, _emptying) = TouchBuffer::new(8);
        assert!(buffer.offer(id(1), deadlines(5, 20)) && buffer.offer(id(1), deadlines(7, 10)));
        let started = tokio::time::Instant::now();
        assert_eq!(buffer.take().await, [(id(1), deadlines(7, 20))]);
        assert_eq!(started.elapsed(), TouchBuffer::PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn many_do_not_wait_and_a_full_buffer_refuses() {
        let (buffer, _emptying) = TouchBuffer::new(2);
        assert!(buffer.offer(id(1), deadlines(1, 1)));
        let started = tokio::time::Instant::now();
        assert_eq!(buffer.take().await.len(), 1);
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(buffer.offer(id(1), deadlines(1, 1)) && buffer.offer(id(2), deadlines(1, 1)));
        assert!(!buffer.offer(id(3), deadlines(1, 1)) && buffer.offer(id(2), deadlines(2, 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn closing_waits_for_the_task_that_empties() {
        let (buffer, emptying) = TouchBuffer::new(8);
        assert!(buffer.offer(id(1), deadlines(1, 1)));
        let task = tokio::spawn({
            let buffer = Arc::clone(&buffer);
            async move {
                let mut written = 0;
                loop {
                    let taken = buffer.take().await;
                    if taken.is_empty() {
                        drop(emptying);
                        return written;
                    }
                    written += taken.len();
                }
            }
        });
        buffer.close().await;
        assert_eq!(task.await.unwrap(), 1);
        assert!(!buffer.offer(id(2), deadlines(1, 1)));
    }
}
