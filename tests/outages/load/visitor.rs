//! A browser of a load: signs in, counts, renews and signs out through the engine, as requests do.

use std::sync::Arc;

use cloakroom_core::{
    Exchange, Finish, Manager, Outcome, Random as _, Session, SessionError, SessionErrorKind, StoreError, WriteOutcome,
};
use cloakroom_testkit::SeededRandom;
use tokio::time::timeout;

use super::Shared;
use super::account::Promise;

/// How many tokens of its past a visitor keeps.
const PAST: usize = 64;

pub(super) struct Visitor {
    /// Its place among all tasks, and its name.
    pub(super) number: usize,
    pub(super) managers: Vec<Arc<Manager>>,
    pub(super) shared: Arc<Shared>,
    pub(super) random: SeededRandom,
    pub(super) jar: Option<String>,
    /// Tokens that were acknowledged as dead.
    pub(super) past: Vec<String>,
    /// How often it counted for certain, and how often perhaps.
    pub(super) counted: u64,
    pub(super) perhaps: u64,
    /// Whether a write of unknown outcome may have ended its session.
    pub(super) uncertain: bool,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Read,
    Count,
    SignIn,
    Renew,
    SignOut,
}

impl Visitor {
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        while !shared.is_stopped() {
            if timeout(shared.patience, self.step()).await.is_err() {
                let what = format!("a request was not answered in {:?}", shared.patience);
                // What became of it nobody knows, so nothing more can be said.
                return self.breach(Promise::CallsReturn, &what);
            }
            tokio::task::yield_now().await;
        }
        // Nothing is under way any more: what was promised is there.
        if timeout(shared.patience, self.visit(Action::Read)).await.is_err() {
            self.breach(Promise::CallsReturn, "the last request was not answered");
        }
    }

    async fn step(&mut self) {
        match self.choose(100) {
            0..45 => self.visit(Action::Read).await,
            45..75 => self.visit(Action::Count).await,
            75..83 => self.visit(Action::SignIn).await,
            83..88 => self.visit(Action::Renew).await,
            88..92 => self.visit(Action::SignOut).await,
            _ => self.haunt().await,
        }
    }

    fn choose(&self, below: u64) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) % below
    }

    /// One request to one of the processes.
    async fn visit(&mut self, action: Action) {
        let manager = Arc::clone(&self.managers[self.choose(self.managers.len() as u64) as usize]);
        let exchange = Exchange::new(Arc::clone(&manager));
        let session = match open(&exchange, &manager, self.jar.as_deref()).await {
            Ok(session) => session,
            Err(error) => return self.failed(Action::Read, &error).await,
        };
        self.look(&session);
        self.act(&session, action).unwrap();
        let finish = exchange.finish(Outcome::Answered { status: 200, public: false }).await;
        match &finish.error {
            None => {
                self.shared.succeeded(self.number);
                self.receive(&finish, action);
            }
            Some(error) => self.failed(action, error).await,
        }
    }

    /// Compares the session with what was promised.
    fn look(&mut self, session: &Session) {
        if self.jar.is_none() {
            return;
        }
        if session.handle().is_none() {
            if !self.uncertain {
                self.breach(Promise::SessionsAreKept, "was signed out by nobody");
            }
            return self.forget();
        }
        let whose = session.get::<usize>("whose").unwrap();
        if whose.is_some_and(|whose| whose != self.number) {
            return self.breach(Promise::RecordsAreTheirOwn, &format!("was given the session of {whose:?}"));
        }
        let (seen, least) = (session.get::<u64>("count").unwrap().unwrap_or(0), self.counted);
        let most = least + self.perhaps;
        if seen < least {
            self.breach(Promise::UpdatesAreKept, &format!("counted to {least} and finds {seen}"));
        } else if seen > most {
            self.breach(Promise::NotDoneIsNotDone, &format!("counted to {most} at most and finds {seen}"));
        }
        // What was read and not acknowledged may be taken back. What was lost is not missed a second time.
        if !(least..=most).contains(&seen) {
            (self.counted, self.perhaps) = (seen, 0);
        }
    }

    fn act(&self, session: &Session, action: Action) -> Result<(), SessionError> {
        match action {
            Action::Read => Ok(()),
            Action::Count => {
                session.set("whose", self.number)?;
                session.modify("count", |count: &mut u64| *count += 1).map(drop)
            }
            Action::SignIn => {
                session.login(format!("visitor-{}-{}", self.number, self.choose(3)))?;
                session.set("whose", self.number)?;
                session.set("count", 0)
            }
            Action::Renew if session.handle().is_some() => session.renew(),
            Action::Renew => Ok(()),
            Action::SignOut => session.logout(),
        }
    }

    /// Takes the cookie of an acknowledged response into the jar.
    fn receive(&mut self, finish: &Finish, action: Action) {
        match action {
            Action::Read | Action::Renew => {}
            Action::Count => self.counted += 1,
            Action::SignIn => (self.counted, self.perhaps, self.uncertain) = (0, 0, false),
            Action::SignOut => {
                self.bury();
                self.forget();
            }
        }
        let Some(header) = &finish.set else { return };
        let value = header.split_once(';').and_then(|(pair, _)| pair.split_once('=')).map(|(_, value)| value).unwrap();
        self.bury();
        match value {
            "" => self.forget(),
            token => self.jar = Some(token.to_owned()),
        }
    }

    /// The token in the jar was acknowledged as dead.
    fn bury(&mut self) {
        if let Some(token) = self.jar.take() {
            if self.past.len() == PAST {
                self.past.remove(self.choose(PAST as u64) as usize);
            }
            self.past.push(token);
        }
    }

    fn forget(&mut self) {
        (self.jar, self.counted, self.perhaps, self.uncertain) = (None, 0, 0, false);
    }

    /// Presents a token that is dead.
    async fn haunt(&mut self) {
        if self.past.is_empty() {
            return;
        }
        let token = self.past[self.choose(self.past.len() as u64) as usize].clone();
        let manager = Arc::clone(&self.managers[0]);
        let exchange = Exchange::new(Arc::clone(&manager));
        match open(&exchange, &manager, Some(&token)).await {
            Ok(session) if session.handle().is_some() => {
                self.breach(Promise::EndedStaysEnded, "opened a session by a token that was acknowledged as dead");
                self.past.retain(|past| *past != token);
            }
            Ok(_) => self.shared.succeeded(self.number),
            Err(error) => self.failed(Action::Read, &error).await,
        }
    }

    async fn failed(&mut self, action: Action, error: &SessionError) {
        let source: Option<&StoreError> = std::error::Error::source(error).and_then(|source| source.downcast_ref());
        let outcome = match error.kind() {
            SessionErrorKind::Unavailable if action == Action::Read => WriteOutcome::NotDone,
            SessionErrorKind::NotCommitted => WriteOutcome::NotDone,
            SessionErrorKind::Unknown => WriteOutcome::Unknown,
            kind => {
                self.breach(Promise::ErrorsAreDocumented, &format!("{action:?} failed as {kind:?}: {error}"));
                WriteOutcome::Unknown
            }
        };
        if outcome == WriteOutcome::Unknown {
            match action {
                Action::Read => {}
                Action::Count => self.perhaps += 1,
                Action::SignIn | Action::Renew | Action::SignOut => self.uncertain = true,
            }
        }
        match source {
            Some(error) => {
                self.shared.account.failed(error.verb(), error);
                self.shared.failed(self.number, error);
            }
            None => self.breach(Promise::ErrorsAreDocumented, &format!("no store failed: {error}")),
        }
        // tidy: sleep — the pace of a client whose server is away; nothing is decided by it
        tokio::time::sleep(super::PACE).await;
    }

    fn breach(&self, promise: Promise, what: &str) {
        self.shared.account.breach(promise, format!("visitor {}: {what}", self.number));
    }
}

async fn open(exchange: &Exchange, manager: &Manager, token: Option<&str>) -> Result<Session, SessionError> {
    let cookie = token.map(|token| format!("{}={token}", manager.cookie_name().unwrap()));
    exchange.session(cookie.iter().map(String::as_bytes), Default::default).await
}
