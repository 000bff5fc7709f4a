//! What tasks wait in until a connection is free, so that what waits together travels together.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A bounded queue of many producers and a few consumers that take all that waits, up to a number.
///
/// Producers never wait: a full queue refuses. Nothing is lost when a future of either side is dropped.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Notify,
    capacity: usize,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    closed: bool,
    consumers: usize,
}

/// Why a queue took nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

impl<T> Queue<T> {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        let state = State { waiting: VecDeque::new(), closed: false, consumers: 0 };
        Arc::new(Self { state: Mutex::new(state), ready: Notify::new(), capacity })
    }

    pub(crate) fn push(&self, item: T) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.waiting.len() >= self.capacity {
            return Err(Refused::Full);
        }
        state.waiting.push_back(item);
        drop(state);
        // A lone call goes where the last one went: that connection's caches, here and on the server, are warm.
        self.ready.notify_last();
        Ok(())
    }

    /// Takes nothing more in. What waits is still handed out.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_waiters();
    }

    /// Whoever takes from the queue holds one of these. With the last one the queue closes and what
    /// waits is dropped, so that nobody waits for a task that is no more.
    pub(crate) fn consumer(self: &Arc<Self>) -> Consumer<T> {
        self.lock().consumers += 1;
        Consumer(Arc::clone(self))
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that takes from a [`Queue`].
#[derive(Debug)]
pub(crate) struct Consumer<T>(Arc<Queue<T>>);

impl<T> Consumer<T> {
    /// Waits until something waits and takes up to `most` of it; nothing once the queue is closed
    /// and empty.
    pub(crate) async fn take(&self, most: usize) -> Vec<T> {
        let queue = &*self.0;
        loop {
            let mut ready = pin!(queue.ready.notified());
            // From here on a `close` is not missed.
            ready.as_mut().enable();
            {
                let mut state = queue.lock();
                let len = state.waiting.len().min(most);
                if len > 0 {
                    let taken = state.waiting.drain(..len).collect();
                    if !state.waiting.is_empty() {
                        queue.ready.notify_one();
                    }
                    return taken;
                }
                if state.closed {
                    return Vec::new();
                }
            }
            ready.await;
        }
    }
}

#[cfg(feature = "mysql")]
impl<T> Consumer<T> {
    /// Whether nothing more comes in. What waits is still handed out.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.lock().closed
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.consumers -= 1;
        if state.consumers == 0 {
            state.closed = true;
            let abandoned = std::mem::take(&mut state.waiting);
            drop(state);
            drop(abandoned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_closed_one_hands_out_what_waits() {
        let queue = Queue::new(2);
        let consumer = queue.consumer();
        assert_eq!((queue.push(1), queue.push(2), queue.push(3)), (Ok(()), Ok(()), Err(Refused::Full)));
        queue.close();
        assert_eq!(queue.push(4), Err(Refused::Closed));
        assert_eq!(consumer.take(1).await, [1]);
        assert_eq!(consumer.take(8).await, [2]);
        assert!(consumer.take(8).await.is_empty());
    }

    #[tokio::test]
    async fn closing_wakes_every_waiting_consumer() {
        let queue = Queue::<u8>::new(2);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let consumer = queue.consumer();
                tokio::spawn(async move { consumer.take(1).await })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for task in waiting {
            assert!(task.await.unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn the_last_consumer_takes_what_waits_with_it() {
        let queue = Queue::new(2);
        let (first, last) = (queue.consumer(), queue.consumer());
        let (answer, asked) = tokio::sync::oneshot::channel::<()>();
        queue.push(answer).unwrap();
        drop(first);
        drop(last);
        assert!(asked.await.is_err());
        let (answer, _asked) = tokio::sync::oneshot::channel();
        assert_eq!(queue.push(answer), Err(Refused::Closed));
    }
}
