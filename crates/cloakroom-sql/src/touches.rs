//! Touches that wait in the background, so that a request does not.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloakroom_core::{Record, SessionId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::row::column_millis;

/// When a touch is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Touches {
    /// When it is written, with whether the session is live: the contract to the letter.
    #[default]
    Answered,
    /// When it is queued, with [`Touched`](cloakroom_core::Touch::Touched) whatever it will find; it
    /// is written within about a second, together with what else waits, and at `close`.
    ///
    /// A process that dies takes what waits with it: a session then ends earlier by a minute and a half at most, never
    /// later, for a touch that is worth more is answered as by [`Answered`](Self::Answered). So is one of a session that
    /// is about to end, and one for which there is no room. A touch that comes too late revives nothing. It may be more
    /// for a session that was loaded more than a minute before its touch, and for one whose idle timeout was raised since.
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
    /// How many were taken last, and may be put back.
    taken: usize,
    dear: Dear,
    closed: bool,
}

/// Sessions whose next touch is worth too much to be lost, for the time that a request may take.
#[derive(Debug, Default)]
struct Dear {
    lately: HashSet<SessionId>,
    before: HashSet<SessionId>,
    /// When the older of both are forgotten.
    turn: Option<Instant>,
    /// There was no room for all of them: until then any may be one.
    crowded: Option<Instant>,
}

impl Dear {
    /// Between this and twice as long one is known.
    const KEPT: Duration = Duration::from_secs(60);

    fn add(&mut self, id: SessionId, room: usize) {
        self.turn();
        if self.lately.len() < room {
            self.lately.insert(id);
        } else {
            self.crowded = Some(Instant::now() + Self::KEPT);
        }
    }

    fn remove(&mut self, id: &SessionId) -> bool {
        self.turn();
        // Both: it may have been loaded twice.
        let noted = self.lately.remove(id) | self.before.remove(id);
        noted || self.crowded.is_some_and(|until| Instant::now() < until)
    }

    fn turn(&mut self) {
        let now = Instant::now();
        if self.turn.is_none_or(|turn| now >= turn) {
            // After a long time without any, the later ones are old as well.
            let old = self.turn.is_some_and(|turn| now >= turn + Self::KEPT);
            self.before = std::mem::take(&mut self.lately);
            if old {
                self.before.clear();
            }
            self.turn = Some(now + Self::KEPT);
        }
    }
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
    /// A touch that is worth more of a session's life than this is not to be lost.
    const WORTH: Duration = Duration::from_secs(90);
    /// Nor is one for which it is nearly too late.
    const ENDING: Duration = Duration::from_secs(10);

    pub(crate) fn new(capacity: usize) -> (Arc<Self>, Emptying) {
        let (emptying, emptied) = watch::channel(());
        let buffer = Self { state: Mutex::default(), changed: Notify::new(), capacity: capacity.max(1), emptied };
        (Arc::new(buffer), Emptying(emptying))
    }

    /// Notes what was loaded at this time, in milliseconds: how much the touch would be worth that may follow.
    pub(crate) fn saw(&self, id: SessionId, record: &Record, now: i64) {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let worth = now.saturating_sub(column_millis(record.last_seen()));
        let left = column_millis(record.idle_deadline()).saturating_sub(now);
        if worth > millis(Self::WORTH) || left < millis(Self::ENDING) {
            self.lock().dear.add(id, self.capacity);
        }
    }

    /// Whether it will be written; if not, nothing was done.
    pub(crate) fn offer(&self, id: SessionId, deadlines: Deadlines) -> bool {
        let mut state = self.lock();
        if state.closed || state.dear.remove(&id) {
            return false;
        }
        let room = state.waiting.len() + state.taken < self.capacity;
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

    /// For touches that found none in the queue for writing.
    pub(crate) async fn wait_for_room() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    /// Takes back what was taken and could not be written yet.
    pub(crate) fn put_back(&self, id: SessionId, deadlines: Deadlines) {
        let mut state = self.lock();
        state.taken = state.taken.saturating_sub(1);
        let waiting = state.waiting.entry(id).or_insert(deadlines);
        *waiting = waiting.and(deadlines);
    }

    /// Waits until a touch has waited long enough, or many do, and takes them all; nothing once the
    /// buffer is closed and empty. What was taken before has been written or put back.
    pub(crate) async fn take(&self) -> Vec<(SessionId, Deadlines)> {
        self.lock().taken = 0;
        self.until(|state| state.closed || !state.waiting.is_empty()).await;
        let many = self.until(|state| state.closed || state.waiting.len() >= self.many());
        // Either way there is something to do.
        drop(tokio::time::timeout(Self::PAUSE, many).await);
        let mut state = self.lock();
        state.taken = state.waiting.len();
        state.waiting.drain().collect()
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
        let started = Instant::now();
        assert_eq!(buffer.take().await, [(id(1), deadlines(7, 20))]);
        assert_eq!(started.elapsed(), TouchBuffer::PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn many_do_not_wait_and_a_full_buffer_refuses() {
        let (buffer, _emptying) = TouchBuffer::new(2);
        assert!(buffer.offer(id(1), deadlines(1, 1)));
        let started = Instant::now();
        assert_eq!(buffer.take().await.len(), 1);
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(buffer.offer(id(1), deadlines(1, 1)));
        assert!(!buffer.offer(id(2), deadlines(1, 1)), "what was taken may be put back");
        assert!(buffer.offer(id(1), deadlines(2, 2)));
        assert_eq!(buffer.take().await, [(id(1), deadlines(2, 2))]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_keeps_its_room_until_it_is_written() {
        let (buffer, _emptying) = TouchBuffer::new(2);
        assert!(buffer.offer(id(1), deadlines(1, 1)) && buffer.offer(id(2), deadlines(1, 1)));
        for _ in 0..3 {
            let taken = buffer.take().await;
            assert_eq!(taken.len(), 2);
            assert!(!buffer.offer(id(3), deadlines(1, 1)));
            taken.into_iter().for_each(|(id, deadlines)| buffer.put_back(id, deadlines));
            assert!(!buffer.offer(id(3), deadlines(1, 1)));
        }
    }

    fn record(last_seen: u64, lives: u64) -> Record {
        let at = std::time::UNIX_EPOCH + Duration::from_secs(last_seen);
        let lives = Duration::from_secs(lives);
        Record::new(cloakroom_core::Handle::from_bytes([1; cloakroom_core::Handle::LEN]), at, lives, 2 * lives)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_worth_much_or_nearly_too_late_is_not_taken() {
        let (buffer, _emptying) = TouchBuffer::new(8);
        let offered = |n| buffer.offer(id(n), deadlines(1, 1));
        for (last_seen, lives, now, taken) in [
            (1000, 1800, 1090, true),
            (1000, 1800, 1091, false),
            (1000, 1800, 2740, false),
            (1000, 60, 1050, true),
            (1000, 60, 1051, false),
        ] {
            buffer.saw(id(1), &record(last_seen, lives), now * 1000);
            assert_eq!(offered(1), taken, "{last_seen} {lives} {now}");
            assert!(offered(1), "the touch that was not taken has been written, and the next is worth little");
        }
        buffer.saw(id(2), &record(1000, 1800), 2_000_000);
        tokio::time::advance(Dear::KEPT).await;
        assert!(!offered(2), "a request may take a while");
        buffer.saw(id(2), &record(1000, 1800), 2_000_000);
        tokio::time::advance(2 * Dear::KEPT).await;
        assert!(offered(2), "nobody asked for it");
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_no_room_to_note_all_none_is_taken_for_a_while() {
        let (buffer, _emptying) = TouchBuffer::new(2);
        for n in 1..=3 {
            buffer.saw(id(n), &record(1000, 1800), 2_000_000);
        }
        assert!((1..=4).all(|n| !buffer.offer(id(n), deadlines(1, 1))));
        tokio::time::advance(Dear::KEPT - Duration::from_millis(1)).await;
        assert!(!buffer.offer(id(4), deadlines(1, 1)), "a request may take a while");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(buffer.offer(id(4), deadlines(1, 1)));
        // Whatever else is forgotten at that time.
        tokio::time::advance(Dear::KEPT - Duration::from_millis(1)).await;
        for n in 1..=3 {
            buffer.saw(id(n), &record(1000, 1800), 2_000_000);
        }
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!buffer.offer(id(4), deadlines(1, 1)));
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
