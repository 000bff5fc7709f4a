//! What waits together travels together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

/// Calls of one kind on their way to the server. A call that finds the way free goes at once and by
/// itself; those that come while others are under way wait for a task that carries them, in one
/// message with all that wait.
#[derive(Debug)]
pub(crate) struct Lane<Q, A> {
    waiting: mpsc::Sender<Waiting<Q, A>>,
    messages: Arc<AtomicUsize>,
}

/// A message under way, until it is answered or given up.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

type Waiting<Q, A> = (Q, Instant, oneshot::Sender<Result<A, Refused>>);

/// Why a call did not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many wait.
    Full,
    /// It waited so long that the server is out of reach, or far too slow.
    Late,
    /// The tasks that carry the calls have ended.
    Ended,
}

/// Carries questions to the server and brings one answer for each, in order.
pub(crate) trait Carry<Q, A>: Send + Sync + 'static {
    fn carry(&self, questions: Vec<Q>) -> impl Future<Output = Vec<A>> + Send;
}

impl<Q: Send + 'static, A: Send + 'static> Lane<Q, A> {
    /// How many messages are under way at once, besides one that went by itself.
    const CARRIERS: usize = 2;

    /// A lane in which up to `capacity` calls wait for as long as `patience`, and up to `most` travel in one message. Its
    /// tasks end with it.
    pub(crate) fn start(carrier: Arc<impl Carry<Q, A>>, capacity: usize, most: usize, patience: Duration) -> Self {
        let (waiting, arrivals) = mpsc::channel(capacity);
        let arrivals = Arc::new(Mutex::new(arrivals));
        let messages = Arc::new(AtomicUsize::new(0));
        for _ in 0..Self::CARRIERS {
            let (arrivals, carrier, messages) = (Arc::clone(&arrivals), Arc::clone(&carrier), Arc::clone(&messages));
            tokio::spawn(async move {
                loop {
                    let mut taken: Vec<Waiting<Q, A>> = Vec::new();
                    if arrivals.lock().await.recv_many(&mut taken, most).await == 0 {
                        return;
                    }
                    // Whoever went away before it was sent gets nothing done.
                    taken.retain(|(_, _, asker)| !asker.is_closed());
                    let (questions, askers) = in_time(taken, patience);
                    if questions.is_empty() {
                        continue;
                    }
                    messages.fetch_add(1, Ordering::AcqRel);
                    let _under_way = UnderWay(&messages);
                    let answers = carrier.carry(questions).await;
                    for (answer, asker) in answers.into_iter().zip(askers) {
                        // Whoever asked may have gone away.
                        drop(asker.send(Ok(answer)));
                    }
                }
            });
        }
        Self { waiting, messages }
    }

    pub(crate) async fn call(&self, carrier: &impl Carry<Q, A>, question: Q) -> Result<A, Refused> {
        if self.messages.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            let _under_way = UnderWay(&self.messages);
            return carrier.carry(vec![question]).await.pop().ok_or(Refused::Ended);
        }
        let (asker, answer) = oneshot::channel();
        self.waiting.try_send((question, Instant::now(), asker)).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Refused::Full,
            mpsc::error::TrySendError::Closed(_) => Refused::Ended,
        })?;
        answer.await.unwrap_or(Err(Refused::Ended))
    }
}

/// Those that have not waited for too long. The others hear of it.
fn in_time<Q, A>(taken: Vec<Waiting<Q, A>>, patience: Duration) -> (Vec<Q>, Vec<oneshot::Sender<Result<A, Refused>>>) {
    let (mut questions, mut askers) = (Vec::with_capacity(taken.len()), Vec::with_capacity(taken.len()));
    for (question, since, asker) in taken {
        if since.elapsed() < patience {
            questions.push(question);
            askers.push(asker);
        } else {
            drop(asker.send(Err(Refused::Late)));
        }
    }
    (questions, askers)
}

#[cfg(test)]
mod tests {
    use futures_util::future::join;
    use tokio::sync::Notify;

    use super::*;

    /// A server that answers when it is told to.
    struct Slow(Notify);

    impl Carry<u8, u8> for Slow {
        async fn carry(&self, questions: Vec<u8>) -> Vec<u8> {
            self.0.notified().await;
            questions
        }
    }

    #[tokio::test]
    async fn whoever_waited_for_too_long_is_told_so_and_not_sent() {
        let slow = Arc::new(Slow(Notify::new()));
        let lane = Lane::start(Arc::clone(&slow), 8, 8, Duration::ZERO);
        let late = async {
            let late = lane.call(&*slow, 2).await;
            slow.0.notify_one();
            late
        };
        let both = tokio::time::timeout(Duration::from_secs(10), join(lane.call(&*slow, 1), late)).await;
        assert_eq!(both.unwrap(), (Ok(1), Err(Refused::Late)));
    }
}
