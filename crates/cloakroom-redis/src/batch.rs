//! What waits together travels together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, mpsc, oneshot};

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

type Waiting<Q, A> = (Q, oneshot::Sender<A>);

/// Why a call did not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many wait.
    Full,
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

    /// A lane in which up to `capacity` calls wait, and up to `most` travel in one message. Its
    /// tasks end with it.
    pub(crate) fn start(carrier: Arc<impl Carry<Q, A>>, capacity: usize, most: usize) -> Self {
        let (waiting, arrivals) = mpsc::channel(capacity);
        let arrivals = Arc::new(Mutex::new(arrivals));
        let messages = Arc::new(AtomicUsize::new(0));
        for _ in 0..Self::CARRIERS {
            let (arrivals, carrier, messages) = (Arc::clone(&arrivals), Arc::clone(&carrier), Arc::clone(&messages));
            tokio::spawn(async move {
                loop {
                    let mut taken: Vec<(Q, oneshot::Sender<A>)> = Vec::new();
                    if arrivals.lock().await.recv_many(&mut taken, most).await == 0 {
                        return;
                    }
                    // Whoever went away before it was sent gets nothing done.
                    taken.retain(|(_, asker)| !asker.is_closed());
                    if taken.is_empty() {
                        continue;
                    }
                    messages.fetch_add(1, Ordering::AcqRel);
                    let _under_way = UnderWay(&messages);
                    let (questions, askers): (Vec<Q>, Vec<oneshot::Sender<A>>) = taken.into_iter().unzip();
                    let answers = carrier.carry(questions).await;
                    for (answer, asker) in answers.into_iter().zip(askers) {
                        // Whoever asked may have gone away.
                        drop(asker.send(answer));
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
        self.waiting.try_send((question, asker)).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Refused::Full,
            mpsc::error::TrySendError::Closed(_) => Refused::Ended,
        })?;
        answer.await.map_err(|_| Refused::Ended)
    }
}
