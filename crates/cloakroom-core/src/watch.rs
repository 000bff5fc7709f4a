//! What a connection that outlives its request holds: it resolves when the session is over.
//!
//! The store is asked, and only its answer counts. Its [signals](crate::Signals) say when to ask; a
//! question now and then catches what no signal told of.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::clock::{from_unix_millis, millis, unix_millis};
use crate::error::{SessionError, SessionErrorKind, StoreError, StoreErrorKind};
use crate::events::Event;
use crate::id::{Handle, Principal, SessionId};
use crate::manager::{Backend, Manager};
use crate::record::{Assurance, Record};
use crate::session::{Origin, see};
use crate::signals::{Signal, Signals};
use crate::store::{EndReason, Load, Page, SessionStore, Touch, Verb};

/// Resolves when a session is over, whichever process ended it: for WebSockets, server-sent events and
/// whatever else stays open after its request was answered.
///
/// * From the moment at which this is made no end is missed: what ended just before shows at the first
///   await.
/// * With a store that tells of ends (Redis, PostgreSQL, memory) an end shows within milliseconds. A
///   telling may get lost with a connection: then it shows within [`ASKED_EVERY`](Self::ASKED_EVERY).
/// * Where the store does not tell (SQLite, MySQL and MariaDB, PostgreSQL behind a proxy that pools
///   transactions, sealed sessions) it is asked at least once in [`ASKED_UNTOLD`](Self::ASKED_UNTOLD) for
///   each watch, twice at most but for when it is about to end, and what is asked together travels together.
/// * It fails closed: a store that cannot be asked for [`PATIENCE`](Self::PATIENCE) ends the watch.
/// * A renewal does not end it as long as owner and assurance stay what they were.
///
/// Watching is no activity; see [`touch`](Self::touch). A sealed session carries its deadlines in its token, so its watch
/// ends with those of the token that the request brought.
///
/// ```
/// use cloakroom_core::{Session, SessionError};
///
/// async fn feed(session: Session, mut messages: tokio::sync::mpsc::Receiver<String>) -> Result<(), SessionError> {
///     let mut watch = session.watch()?;
///     // What the framework runs once the response has left:
///     tokio::spawn(async move {
///         loop {
///             tokio::select! {
///                 end = watch.ended() => return println!("closed: {end}"),
///                 message = messages.recv() => match message {
///                     Some(message) => println!("{message}"),
///                     None => return,
///                 },
///             }
///         }
///     });
///     Ok(())
/// }
/// ```
pub struct SessionWatch {
    manager: Arc<Manager>,
    subject: Subject,
    /// What was seen last; without values.
    record: Record,
    wake: Arc<Notify>,
    /// When to ask next.
    due: Instant,
    /// The question that has no answer yet; whoever waits may go and come back.
    question: Option<Question>,
    /// Since when no question was answered.
    unanswered_since: Option<Instant>,
    /// Whether the outage was told.
    failing: bool,
    end: Option<WatchEnd>,
}

/// A question that the store is asked, also while nobody waits for the answer.
struct Question {
    answer: JoinHandle<Result<Answer, StoreError>>,
    asked: Instant,
}

impl Drop for Question {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

/// Under what name the session is asked for.
#[derive(Clone)]
enum Subject {
    Stored(SessionId),
    /// Renewed since, under an id that nobody told.
    Renewed(Principal),
    SelfContained,
}

/// Why a watch is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEnd {
    /// The session ended; why, where the store remembers.
    Ended(Option<EndReason>),
    /// The session goes on under another token with another owner or assurance, or may: connect again.
    RightsChanged,
    /// The store could not be asked for too long.
    Unverified,
}

impl fmt::Display for WatchEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(reason) => f.write_str(reason.map_or("ended", EndReason::as_str)),
            Self::RightsChanged => f.write_str("rights changed"),
            Self::Unverified => f.write_str("unverified"),
        }
    }
}

/// What the store says.
enum Answer {
    Live(Record),
    /// Live, by what a list tells.
    Listed {
        idle_deadline: u64,
        absolute_deadline: u64,
    },
    Renewed(Principal),
    Over(WatchEnd),
}

impl SessionWatch {
    /// How often the store is asked that tells of ends by itself.
    pub const ASKED_EVERY: Duration = Duration::from_secs(30);
    /// How often the store is asked that does not.
    pub const ASKED_UNTOLD: Duration = Duration::from_secs(1);
    /// How long the store may give no answer.
    pub const PATIENCE: Duration = Duration::from_secs(60);
    /// How long it has for one answer, also when that time is over.
    const TIME_TO_ANSWER: Duration = Duration::from_secs(5);

    pub(crate) fn new(manager: &Arc<Manager>, origin: Origin, base: Option<&Record>) -> Result<Self, SessionError> {
        let subject = match origin {
            Origin::Stored { id, .. } => Some(Subject::Stored(id)),
            Origin::SelfContained => Some(Subject::SelfContained),
            Origin::Absent => None,
        };
        let (Some(subject), Some(base)) = (subject, base) else {
            let message = "there is no session to watch: it has not begun, is not committed yet, or has ended";
            return Err(SessionError::new(SessionErrorKind::NotSignedIn, message));
        };
        let mut record = base.clone();
        record.values = bytes::Bytes::new();
        let wake = manager.watches().register(record.handle(), manager.backend());
        let due = Instant::now();
        Ok(Self {
            manager: Arc::clone(manager),
            subject,
            record,
            wake,
            due,
            question: None,
            unanswered_since: None,
            failing: false,
            end: None,
        })
    }

    /// Which session.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.record.handle()
    }

    /// Whose session.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.record.principal()
    }

    /// Waits for the end. May be dropped at any await and called again, as often as one likes: the question that
    /// the store was asked goes on. Once over, it stays over.
    pub async fn ended(&mut self) -> WatchEnd {
        loop {
            if let Some(end) = self.end {
                return end;
            }
            if self.question.is_none() {
                // Due, or woken. Who is woken while a question is open asks once more after it.
                drop(timeout_at(self.due, self.wake.notified()).await);
            }
            self.ask().await;
        }
    }

    /// Says that the client is active: pushes the idle deadline, at most once in the
    /// [touch interval](crate::Policy::touch_interval), and never over the absolute one.
    ///
    /// Does nothing for a self-contained session, whose deadlines are in the client's token, nor after
    /// a renewal, when the requests of the client push the deadline.
    ///
    /// # Errors
    /// The store's. The session is not lost by it.
    pub async fn touch(&mut self) -> Result<(), SessionError> {
        let (Subject::Stored(id), Backend::Reference(store)) = (&self.subject, self.manager.backend()) else {
            return Ok(());
        };
        let (now, policy) = (self.manager.now()?, self.manager.policy());
        if self.end.is_some() || now < self.record.last_seen.saturating_add(millis(policy.touch_interval())) {
            return Ok(());
        }
        let mut seen = self.record.clone();
        see(&mut seen, now, policy);
        match store.touch(id, seen.last_seen(), seen.idle_deadline()).await? {
            Touch::Touched => self.record = seen,
            Touch::Gone(_) => self.due = Instant::now(),
        }
        Ok(())
    }

    async fn ask(&mut self) {
        let unanswered_since = *self.unanswered_since.get_or_insert_with(Instant::now);
        let left = self.latest().map(|latest| latest.saturating_sub(unix_millis(self.manager.clock().now())));
        let question = self.question.get_or_insert_with(|| {
            let (manager, subject, record) = (Arc::clone(&self.manager), self.subject.clone(), self.record.clone());
            let answer = tokio::spawn(async move { answer(&manager, &subject, &record).await });
            Question { answer, asked: Instant::now() }
        });
        // Who did not wait for long has not heard that the store is back.
        let patience = (unanswered_since + Self::PATIENCE).max(question.asked + Self::TIME_TO_ANSWER);
        let until = left.map_or(patience, |left| patience.min(Instant::now() + Duration::from_millis(left)));
        let asked = question.asked;
        let answered = timeout_at(until, &mut question.answer).await;
        self.question = None;
        let answer = match answered {
            Ok(Ok(answer)) => answer,
            // Its runtime has ended, or the store panicked.
            Ok(Err(_)) => {
                Err(StoreError::new(StoreErrorKind::Unavailable, Verb::Load, "the question was given up unanswered"))
            }
            Err(_) if Instant::now() < patience => return self.expire(),
            Err(_) => {
                self.end = Some(WatchEnd::Unverified);
                return;
            }
        };
        let now = unix_millis(self.manager.clock().now());
        match answer {
            Ok(Answer::Live(record)) if record.is_expired(from_unix_millis(now)) => self.expire_by_answer(asked),
            Ok(Answer::Live(record)) if !self.has_rights_of(record.principal(), record.assurance()) => {
                self.end = Some(WatchEnd::RightsChanged);
            }
            Ok(Answer::Live(mut record)) => {
                record.values = bytes::Bytes::new();
                self.record = record;
                self.wait(now);
            }
            Ok(Answer::Listed { idle_deadline, absolute_deadline }) if now >= idle_deadline.min(absolute_deadline) => {
                self.expire_by_answer(asked);
            }
            Ok(Answer::Listed { idle_deadline, absolute_deadline }) => {
                (self.record.idle_deadline, self.record.absolute_deadline) = (idle_deadline, absolute_deadline);
                self.wait(now);
            }
            Ok(Answer::Renewed(owner)) => {
                self.subject = Subject::Renewed(owner);
                (self.due, self.unanswered_since) = (Instant::now(), None);
            }
            Ok(Answer::Over(end)) => self.end = Some(end),
            Err(error) => self.fail(&error, now, asked),
        }
    }

    fn has_rights_of(&self, principal: Option<&Principal>, assurance: Assurance) -> bool {
        self.record.principal() == principal && self.record.assurance() == assurance
    }

    /// When no answer could say any more that the session lives.
    fn latest(&self) -> Option<u64> {
        match self.subject {
            // Somebody may push what ends it before that.
            Subject::Stored(_) => Some(self.record.absolute_deadline),
            Subject::SelfContained => Some(unix_millis(self.record.deadline())),
            // `persist` may have moved both.
            Subject::Renewed(_) => None,
        }
    }

    /// One that was heard late speaks of what was then: requests may have pushed the deadline since.
    fn expire_by_answer(&mut self, asked: Instant) {
        if asked.elapsed() > Self::TIME_TO_ANSWER {
            self.due = Instant::now();
        } else {
            self.expire();
        }
    }

    fn expire(&mut self) {
        self.end = Some(WatchEnd::Ended(Some(EndReason::Expired)));
    }

    /// Until the next question: its turn, or the deadline, which somebody may have pushed by then.
    fn wait(&mut self, now: u64) {
        (self.unanswered_since, self.failing) = (None, false);
        let interval = if self.manager.watches().are_told() { Self::ASKED_EVERY } else { Self::ASKED_UNTOLD };
        let left = unix_millis(self.record.deadline()).saturating_sub(now).saturating_add(1);
        self.due = Instant::now() + self.spread(interval).min(Duration::from_millis(left));
    }

    fn fail(&mut self, error: &StoreError, now: u64, asked: Instant) {
        if self.latest().is_some_and(|latest| now >= latest) {
            return self.expire();
        }
        if !std::mem::replace(&mut self.failing, true) {
            self.manager.emit(&Event::StoreUnavailable { kind: error.kind() });
        }
        // What was asked before says nothing of the store as it is now, however late it is heard.
        if self.unanswered_since.is_some_and(|since| asked >= since + Self::PATIENCE) {
            self.end = Some(WatchEnd::Unverified);
        }
        self.due = Instant::now() + self.spread(Self::ASKED_UNTOLD);
    }

    /// Between half and all of it: many watches that began together must not ask together for good.
    fn spread(&self, interval: Duration) -> Duration {
        let chance = self.handle().as_bytes()[0];
        interval / 2 + interval * u32::from(chance) / 512
    }
}

/// What the store says of a session of this record.
async fn answer(manager: &Manager, subject: &Subject, record: &Record) -> Result<Answer, StoreError> {
    match (subject, manager.backend()) {
        (Subject::Stored(id), Backend::Reference(store)) => match store.load(id).await? {
            Load::Live(stored) if !stored.record.is_filed_under(id) => Err(StoreError::misdelivered(Verb::Load)),
            Load::Live(stored) => Ok(Answer::Live(stored.record)),
            Load::Gone(Some(EndReason::Renewed)) => Ok(match record.principal() {
                Some(owner) => Answer::Renewed(owner.clone()),
                // It has an owner now, or none that could be asked for their sessions.
                None => Answer::Over(WatchEnd::RightsChanged),
            }),
            Load::Gone(reason) => Ok(Answer::Over(WatchEnd::Ended(reason))),
        },
        (Subject::Renewed(owner), Backend::Reference(store)) => listed(store.as_ref(), owner, record).await,
        (_, Backend::SelfContained { revocations, .. }) => {
            let ended = match revocations {
                Some(revocations) => revocations.reason(record).await?,
                None => None,
            };
            Ok(match ended {
                // A sealed session that was renewed goes on with what only the client has.
                Some(EndReason::Renewed) => Answer::Over(WatchEnd::RightsChanged),
                Some(reason) => Answer::Over(WatchEnd::Ended(Some(reason))),
                None => Answer::Live(record.clone()),
            })
        }
        // A subject is made for the backend there is.
        (Subject::SelfContained, Backend::Reference(_)) => Ok(Answer::Over(WatchEnd::Ended(None))),
    }
}

/// What the list of its owner's sessions says.
async fn listed(store: &dyn SessionStore, owner: &Principal, record: &Record) -> Result<Answer, StoreError> {
    let mut page = Page::FIRST;
    loop {
        let listing = store.list(owner, page).await?;
        if let Some(summary) = listing.sessions.iter().find(|summary| summary.handle == record.handle()) {
            return Ok(match summary.assurance == record.assurance() {
                true => Answer::Listed {
                    idle_deadline: unix_millis(summary.idle_deadline),
                    absolute_deadline: unix_millis(summary.absolute_deadline),
                },
                false => Answer::Over(WatchEnd::RightsChanged),
            });
        }
        match listing.next {
            Some(after) => page.after = Some(after),
            None => break,
        }
    }
    let ended = store.explain(record.handle()).await?.map(|ended| ended.reason);
    Ok(Answer::Over(WatchEnd::Ended(ended)))
}

impl Drop for SessionWatch {
    fn drop(&mut self) {
        self.manager.watches().forget(self.handle(), &self.wake);
    }
}

impl fmt::Debug for SessionWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionWatch").field("handle", &self.handle()).field("end", &self.end).finish_non_exhaustive()
    }
}

/// The watches of one process, woken by the signals of the store.
#[derive(Debug, Default)]
pub(crate) struct Watches(Arc<Mutex<Watched>>);

#[derive(Debug, Default)]
struct Watched {
    by_handle: HashMap<Handle, Vec<Arc<Notify>>>,
    /// Listens to the store, if it tells of ends; begun with the first watch.
    listener: Option<Option<Listener>>,
    /// Whether the store tells at the moment.
    told: bool,
}

#[derive(Debug)]
struct Listener(JoinHandle<()>);

impl Listener {
    fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watches {
    fn register(&self, handle: Handle, backend: &Backend) -> Arc<Notify> {
        let wake = Arc::new(Notify::new());
        let mut watched = self.lock();
        watched.by_handle.entry(handle).or_default().push(Arc::clone(&wake));
        // One that ended did so with the runtime that it was on, or with the store.
        if watched.listener.as_ref().is_some_and(|listener| listener.as_ref().is_some_and(Listener::has_ended)) {
            watched.listener = None;
        }
        watched.listener.get_or_insert_with(|| match backend {
            Backend::Reference(store) => {
                store.signals().map(|signals| Listener(tokio::spawn(listen(Arc::downgrade(&self.0), signals))))
            }
            Backend::SelfContained { .. } => None,
        });
        wake
    }

    fn forget(&self, handle: Handle, wake: &Arc<Notify>) {
        let mut watched = self.lock();
        if let Some(wakes) = watched.by_handle.get_mut(&handle) {
            wakes.retain(|other| !Arc::ptr_eq(other, wake));
            if wakes.is_empty() {
                watched.by_handle.remove(&handle);
            }
        }
    }

    fn are_told(&self) -> bool {
        self.lock().told
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes who is meant, until nobody watches any more or the store is closed.
async fn listen(watched: Weak<Mutex<Watched>>, mut signals: Signals) {
    let ear = Ear(watched);
    while let Some(signal) = signals.next().await {
        match signal {
            Signal::Ended(handle) => ear.wake(handle),
            Signal::Unsure => ear.wake_all(true),
            Signal::Deaf => ear.wake_all(false),
        }
    }
}

/// Whoever watches is woken when nobody listens any more, however that came: also with a runtime that ended.
struct Ear(Weak<Mutex<Watched>>);

impl Ear {
    fn wake(&self, handle: Handle) {
        self.with(|watched| watched.by_handle.get(&handle).into_iter().flatten().for_each(|wake| wake.notify_one()));
    }

    /// Each asks, and then as often as it has to from now on.
    fn wake_all(&self, told: bool) {
        self.with(|watched| {
            watched.told = told;
            watched.by_handle.values().flatten().for_each(|wake| wake.notify_one());
        });
    }

    fn with(&self, act: impl FnOnce(&mut Watched)) {
        if let Some(watched) = self.0.upgrade() {
            act(&mut watched.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.wake_all(false);
    }
}
