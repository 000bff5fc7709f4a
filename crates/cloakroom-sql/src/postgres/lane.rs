//! The tasks that own the connections.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cloakroom_core::{Clock, StoreErrorKind, WriteOutcome};
use futures_util::future::{Either, select};
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::connect::{Connection, Connector};
use super::fault::{Fault, Remedy};
use super::work::{Job, Parcel, pack};
use crate::queue::Consumer;
use crate::row::column_millis;

/// The most jobs that one connection takes at once.
const MOST: usize = 256;
/// How many statements are under way on a connection through a proxy that pools transactions: some
/// mix up the bytes of those behind the first.
const AT_ONCE_THROUGH_A_PROXY: usize = 1;
/// How often a batch is repeated that others came in the way of.
const REPEATS: u32 = 8;
/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A server that refuses faster than this is asked again whenever somebody wants something of it.
const QUICK: Duration = Duration::from_millis(100);
/// The shortest time between two attempts to connect.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// One of the tasks that take from a queue.
pub(crate) struct Lane {
    pub(crate) consumer: Consumer<Job>,
    pub(crate) connector: Arc<Connector>,
    pub(crate) connection: Option<Connection>,
    /// How many of the lanes on this queue have a connection. One without leaves the work to them.
    pub(crate) connected: Arc<watch::Sender<usize>>,
    /// Rises whenever a lane of the store hears from the server.
    pub(crate) heard: Arc<AtomicUsize>,
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) watchdog: Watchdog,
}

/// What comes next for a lane.
enum Next {
    Work(Vec<Job>),
    /// The queue is closed and empty.
    End,
    /// The connection is lost.
    Reconnect,
}

impl Lane {
    pub(crate) async fn run(mut self) {
        loop {
            let next = if self.connection.is_some() { self.wait_for_work().await } else { self.reconnect().await };
            match next {
                Next::Work(jobs) => self.serve(jobs).await,
                Next::Reconnect => {}
                Next::End => break,
            }
        }
        if let Some(connection) = self.take_connection() {
            connection.close().await;
        }
    }

    async fn wait_for_work(&mut self) -> Next {
        let Some(connection) = &mut self.connection else { return Next::Reconnect };
        let next = match select(pin!(self.consumer.take(MOST)), pin!(connection.driving.ended())).await {
            Either::Left((jobs, _)) if jobs.is_empty() => Next::End,
            Either::Left((jobs, _)) => Next::Work(jobs),
            Either::Right(_) => Next::Reconnect,
        };
        if matches!(next, Next::Reconnect) {
            self.lose();
        }
        next
    }

    /// Connects anew, at longer and longer intervals while that fails. In between, and as long as no other lane on this
    /// queue has a connection, whoever wants something hears at once that there is none.
    async fn reconnect(&mut self) -> Next {
        let mut failures = 0u32;
        loop {
            let started = Instant::now();
            let mut known = self.heard.load(Ordering::Relaxed);
            let mut fault = match self.connect().await {
                Ok(()) => return Next::Reconnect,
                Err(fault) => fault,
            };
            let refused_quickly = started.elapsed() < QUICK;
            let pause = jitter((SHORTEST_PAUSE * (1 << failures.min(8))).min(LONGEST_PAUSE));
            failures = failures.saturating_add(1);
            tracing::warn!(%fault, failures, "no connection for sessions; next attempt in {pause:?}");
            let earliest = Instant::now() + SHORTEST_PAUSE;
            let mut over = pin!(tokio::time::sleep(pause));
            loop {
                let nobody = take_while_nobody_is_connected(&self.consumer, self.connected.subscribe());
                let jobs = match select(pin!(nobody), over.as_mut()).await {
                    Either::Left((jobs, _)) => jobs,
                    Either::Right(_) => break,
                };
                if jobs.is_empty() {
                    return Next::End;
                }
                // Another lane, of reads or of writes, has heard of the server since: what this one knows is old.
                let heard = self.heard.load(Ordering::Relaxed);
                let is_back = std::mem::replace(&mut known, heard) != heard;
                if is_back || refused_quickly && Instant::now() >= earliest {
                    tokio::time::sleep_until(earliest).await;
                    match self.connect().await {
                        Ok(()) => return Next::Work(jobs),
                        Err(newer) => fault = newer,
                    }
                }
                pack(jobs, self.connector.prepared).into_iter().for_each(|parcel| parcel.fail(&fault));
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Fault> {
        self.connection = Some(self.connector.connect().await?);
        self.connected.send_modify(|connected| *connected += 1);
        self.heard.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn take_connection(&mut self) -> Option<Connection> {
        let connection = self.connection.take()?;
        self.connected.send_modify(|connected| *connected -= 1);
        Some(connection)
    }

    fn lose(&mut self) {
        drop(self.take_connection());
    }

    /// Does all of it, and answers each.
    async fn serve(&mut self, jobs: Vec<Job>) {
        let mut parcels = pack(jobs, self.connector.prepared);
        let mut reconnected = false;
        for repeat in 0..REPEATS {
            if self.connection.is_none() {
                // Once: whoever waits is not to wait for long.
                if std::mem::replace(&mut reconnected, true) {
                    break;
                }
                if let Err(fault) = self.connect().await {
                    return parcels.into_iter().for_each(|parcel| parcel.fail(&fault));
                }
            }
            let may_repeat = MayRepeat { statements: repeat + 1 < REPEATS, broken_reads: !reconnected };
            parcels = self.send(parcels, may_repeat).await;
            if parcels.is_empty() {
                return;
            }
        }
        let message = format!("{} could not be asked again", self.connector.server);
        let fault = Fault::new(StoreErrorKind::Unavailable, WriteOutcome::NotDone, message);
        parcels.into_iter().for_each(|parcel| parcel.fail(&fault));
    }

    /// Sends all of it at once, and answers each when its answer comes. Returns what has to be sent
    /// again.
    async fn send(&mut self, parcels: Vec<Parcel>, may_repeat: MayRepeat) -> Vec<Parcel> {
        let Some(Connection { session, driving }) = &mut self.connection else { return parcels };
        let session = &*session;
        let server = &*self.connector.server;
        let now = self.clock.as_ref().map(|clock| column_millis(clock.now()));
        let mut waiting: Vec<_> = parcels.into_iter().map(|parcel| Some(Arc::new(parcel))).collect();
        let parcels: Vec<_> = waiting.iter().flatten().cloned().enumerate().collect();
        let sent = stream::iter(parcels)
            .map(|(place, parcel)| async move { (place, parcel.send(session, now).await) })
            .buffer_unordered(if self.connector.prepared { usize::MAX } else { AT_ONCE_THROUGH_A_PROXY });
        let (mut again, mut lost, mut heard) = (Vec::new(), false, false);
        let answering = async {
            let mut sent = pin!(sent);
            while let Some((place, result)) = sent.next().await {
                let Some(parcel) = waiting[place].take().and_then(Arc::into_inner) else { continue };
                match result {
                    Ok(None) => {
                        lost = true;
                        parcel.fail(&Fault::absurd(server, "fewer rows than it sent"));
                    }
                    Ok(Some(rows)) => {
                        // Before whoever is answered can ask the next.
                        if !std::mem::replace(&mut heard, true) {
                            self.heard.fetch_add(1, Ordering::Relaxed);
                        }
                        match parcel.answer(rows) {
                            Ok(overtaken) => again.extend(overtaken),
                            Err((parcel, error)) => {
                                lost = true;
                                parcel.fail(&Fault::absurd(server, error));
                            }
                        }
                    }
                    Err(error) => {
                        let (fault, remedy) = Fault::sent(&error, server);
                        lost |= matches!(remedy, Remedy::RepeatElsewhere | Remedy::Reconnect);
                        match remedy {
                            Remedy::Repeat | Remedy::RepeatElsewhere if may_repeat.statements => again.push(parcel),
                            Remedy::Reconnect if may_repeat.broken_reads && !parcel.writes() => again.push(parcel),
                            Remedy::Split => match parcel.split() {
                                Ok(each) => again.extend(each),
                                Err(alone) => alone.fail(&fault),
                            },
                            Remedy::Repeat | Remedy::RepeatElsewhere | Remedy::Reconnect | Remedy::None => {
                                parcel.fail(&fault);
                            }
                        }
                    }
                }
            }
        };
        let late = matches!(select(pin!(driving.drive(answering)), pin!(self.watchdog.late())).await, Either::Right(_));
        if late {
            lost = true;
            let fault = Fault::silent(server, self.watchdog.patience);
            let unanswered = waiting.into_iter().flatten().filter_map(Arc::into_inner);
            unanswered.for_each(|parcel| parcel.fail(&fault));
        }
        if lost {
            self.lose();
        }
        again
    }
}

/// What waits in the queue, once no lane is connected that could do it.
async fn take_while_nobody_is_connected<T>(consumer: &Consumer<T>, mut connected: watch::Receiver<usize>) -> Vec<T> {
    loop {
        // The sender lives as long as the lane.
        drop(connected.wait_for(|connected| *connected == 0).await);
        let somebody = async { drop(connected.wait_for(|connected| *connected > 0).await) };
        if let Either::Right((jobs, _)) = select(pin!(somebody), pin!(consumer.take(MOST))).await {
            return jobs;
        }
    }
}

/// What may be sent again.
#[derive(Clone, Copy)]
struct MayRepeat {
    /// What the server refused without doing anything.
    statements: bool,
    /// What reads, and whose connection broke.
    broken_reads: bool,
}

/// Notices that an answer takes too long. Has one timer, which is set anew only when it has run out:
/// one for each batch would cost more than the batch.
pub(crate) struct Watchdog {
    timer: Pin<Box<Sleep>>,
    patience: Duration,
}

impl Watchdog {
    pub(crate) fn new(patience: Duration) -> Self {
        // A time that is added to now; nobody waits longer than this.
        let patience = patience.min(Duration::from_secs(24 * 60 * 60));
        Self { timer: Box::pin(tokio::time::sleep(patience)), patience }
    }

    /// Returns when this much time has passed since the first poll.
    async fn late(&mut self) {
        let end = Instant::now() + self.patience;
        loop {
            self.timer.as_mut().await;
            if self.timer.deadline() >= end {
                return;
            }
            self.timer.as_mut().reset(end);
        }
    }
}

impl Drop for Lane {
    /// The others are to know also when the runtime ends this task.
    fn drop(&mut self) {
        self.lose();
    }
}

/// Between half of it and all of it, so that many processes do not come back at the same moment.
fn jitter(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64(0.5 + (random % 1024) as f64 / 2048.0)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::queue::Queue;

    #[tokio::test]
    async fn a_lane_without_a_connection_leaves_work_to_one_that_has() {
        let queue = Queue::new(8);
        let consumer = queue.consumer();
        let connected = watch::channel(0).0;
        let mut taken = pin!(take_while_nobody_is_connected(&consumer, connected.subscribe()));
        assert_eq!(taken.as_mut().now_or_never(), None, "nothing waits");
        connected.send_modify(|connected| *connected += 1);
        queue.push(7).unwrap();
        assert_eq!(taken.as_mut().now_or_never(), None, "another lane has connected meanwhile");
        connected.send_modify(|connected| *connected -= 1);
        assert_eq!(taken.await, [7]);
    }
}
