//! One of the tasks of a load: calls the store at random and books every answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom_core::{
    Clock as _, Create, EndReason, Handle, Load, Page, Principal, Random as _, Renew, Renewal, Revision, SessionId,
    SessionStore, StoreError, Stored, SystemClock, Touch, Update, Verb,
};
use cloakroom_testkit::SeededRandom;

use super::Shared;
use super::account::{Before, Ending, Fate, LineNo, OwnerNo, Promise, WriterNo, handed_over, with_number};
use super::report::Sample;

/// How often a change is tried again on the record that was there instead.
const ATTEMPTS: usize = 4;

pub(super) struct Worker {
    pub(super) number: WriterNo,
    pub(super) store: Arc<dyn SessionStore>,
    pub(super) shared: Arc<Shared>,
    pub(super) random: SeededRandom,
    pub(super) own: Vec<Option<LineNo>>,
    pub(super) samples: Vec<Sample>,
}

/// What a session is changed to.
struct Change {
    number: u64,
    /// A new id, for another owner perhaps.
    renewal: Option<Option<Option<OwnerNo>>>,
}

impl Worker {
    pub(super) async fn run(mut self) -> Vec<Sample> {
        while !self.shared.is_stopped() {
            self.step().await;
            if self.shared.think.is_zero() {
                // A store that never waits would keep the others from their turn.
                tokio::task::yield_now().await;
            } else {
                // tidy: sleep — people think between two requests
                tokio::time::sleep(self.shared.think).await;
            }
        }
        self.samples
    }

    fn choose(&self, below: u64) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) % below
    }

    async fn step(&mut self) {
        let dice = self.choose(100);
        match dice {
            0..8 => return self.haunt().await,
            8..11 => return self.list().await,
            11 => return self.revoke_all().await,
            _ => {}
        }
        let Some(line) = self.pick().await else { return };
        match dice {
            12..45 => self.load(line).await,
            45..70 => self.change(line, false, |_| None).await,
            70..80 => self.touch(line).await,
            80..88 => self.change(line, true, |_| None).await,
            88..94 => self.change(line, true, |worker| Some(worker.some_owner())).await,
            94..96 => self.revoke(line).await,
            _ => self.delete(line).await,
        }
    }

    /// An owner for a session, or none.
    fn some_owner(&self) -> Option<OwnerNo> {
        (self.choose(4) > 0).then(|| self.shared.account.owner(self.choose(u64::MAX)))
    }

    /// A live session: one of its own, or one that all tasks share. Files a new one where there is none.
    async fn pick(&mut self) -> Option<LineNo> {
        let choice = self.choose(u64::MAX);
        let own = choice.is_multiple_of(2);
        let place = (choice / 2) as usize % if own { self.own.len() } else { self.shared.lines.len() };
        let line = if own { self.own[place] } else { *self.shared.lines[place].lock().unwrap() };
        if let Some(line) = line {
            match self.shared.account.fate(line) {
                Fate::Live => return Some(line),
                Fate::Moving => return None,
                Fate::Unknown if self.find(line).await => return Some(line),
                Fate::Unknown | Fate::Over => {}
            }
        }
        let line = self.create().await;
        if own {
            self.own[place] = line;
        } else {
            *self.shared.lines[place].lock().unwrap() = line;
        }
        line
    }

    /// Asks for every id that a session may have. Whether one is live.
    async fn find(&mut self, line: LineNo) -> bool {
        for before in self.shared.account.before_each(line) {
            self.look(&before).await;
        }
        self.shared.account.fate(line) == Fate::Live
    }

    async fn look(&mut self, before: &Before) -> Option<Stored> {
        let store = Arc::clone(&self.store);
        match self.call(Verb::Load, store.load(&before.id)).await.ok()? {
            Load::Live(stored) => {
                self.shared.account.saw_live(before, &stored);
                Some(stored)
            }
            Load::Gone(_) => {
                self.shared.account.saw_gone(before);
                None
            }
        }
    }

    async fn create(&mut self) -> Option<LineNo> {
        let owner = self.some_owner();
        let (handle, random) = (new_handle(&self.random), &self.random);
        let (before, record) = self.shared.account.conceive(handle, owner, |owner| new_id(random, owner));
        let store = Arc::clone(&self.store);
        let ending = match self.call(Verb::Create, store.create(&before.id, &record, None)).await {
            Ok(Create::Created { .. }) => Ending::Done,
            Ok(answer @ (Create::Occupied | Create::LimitReached)) => {
                self.nonsense(Verb::Create, format!("{answer:?} for a fresh id without a limit"));
                Ending::Refused
            }
            Err(error) => Ending::Failed(error.outcome()),
        };
        self.shared.account.created(&before, ending);
        (ending == Ending::Done).then_some(before.line)
    }

    async fn load(&mut self, line: LineNo) {
        let before = self.shared.account.before(line);
        let live = self.look(&before).await;
        if live.is_none() && self.shared.account.fate(line) == Fate::Unknown {
            self.find(line).await;
        }
    }

    async fn touch(&mut self, line: LineNo) {
        let before = self.shared.account.before(line);
        self.touch_as(&before).await;
    }

    async fn touch_as(&mut self, before: &Before) {
        let now = SystemClock.now();
        let store = Arc::clone(&self.store);
        match self.call(Verb::Touch, store.touch(&before.id, now, now + Duration::from_secs(2 * 60 * 60))).await {
            Ok(Touch::Touched) => self.shared.account.saw_alive(before, Verb::Touch),
            Ok(Touch::Gone(_)) => {
                self.shared.account.saw_gone(before);
            }
            Err(_) => {}
        }
    }

    /// Updates or renews a session, from the record that is there.
    async fn change(&mut self, line: LineNo, renew: bool, owner: impl FnOnce(&Self) -> Option<Option<OwnerNo>>) {
        let before = self.shared.account.before(line);
        let Some(mut stored) = self.look(&before).await else { return };
        let owner = owner(self);
        let change = Change { number: self.shared.account.next_number(self.number), renewal: renew.then_some(owner) };
        for _ in 0..ATTEMPTS {
            let before = self.shared.account.again(&before);
            match self.write(&before, &stored, &change).await {
                Some(current) => stored = current,
                None => return,
            }
        }
        // Every attempt met a conflict: the number was never written.
        self.shared.account.not_saved((self.number, change.number), Ending::Refused);
    }

    /// One attempt. The record to try again on, if there was a conflict.
    async fn write(&mut self, before: &Before, stored: &Stored, change: &Change) -> Option<Stored> {
        match change.renewal {
            None => self.update(before, stored, change.number).await,
            Some(owner) => self.renew(before, stored, change.number, owner).await,
        }
    }

    async fn update(&mut self, before: &Before, stored: &Stored, number: u64) -> Option<Stored> {
        let record = with_number(&stored.record, (self.number, number));
        let (store, by) = (Arc::clone(&self.store), (self.number, number));
        let ending = match self.call(Verb::Update, store.update(&before.id, stored.revision, &record)).await {
            Ok(Update::Saved(revision)) => {
                self.shared.account.saved(before, stored.revision, revision, by);
                Ending::Done
            }
            Ok(Update::Conflict(current)) => {
                self.shared.account.saw_live(before, &current);
                return Some(current);
            }
            Ok(Update::Gone(_)) => {
                // Whether it was written to what is over matters to nobody: that nobody finds it there does.
                self.shared.account.saw_gone(before);
                return None;
            }
            Err(error) => Ending::Failed(error.outcome()),
        };
        self.shared.account.not_saved(by, ending);
        None
    }

    async fn renew(
        &mut self,
        before: &Before,
        stored: &Stored,
        number: u64,
        owner: Option<Option<OwnerNo>>,
    ) -> Option<Stored> {
        let by = (self.number, number);
        let random = &self.random;
        let (moving, principal) =
            self.shared.account.moving(before, &stored.record, owner, |owner| new_id(random, owner));
        let mut record = with_number(&stored.record, by);
        if owner.is_some() {
            record = handed_over(&record, principal.as_ref());
        }
        let (old, new, expected) = (&before.id, &moving.new, stored.revision);
        let store = Arc::clone(&self.store);
        let renewal = Renewal { old, new, expected, record: &record, limit: None };
        let (mut conflict, mut revision) = (None, Revision::FIRST);
        let ending = match self.call(Verb::Renew, store.renew(renewal)).await {
            Ok(Renew::Renewed { revision: now, .. }) => {
                revision = now;
                Ending::Done
            }
            Ok(Renew::Conflict(current)) => {
                self.shared.account.saw_live(before, &current);
                conflict = Some(current);
                Ending::Refused
            }
            Ok(Renew::Gone(_)) => {
                self.shared.account.saw_gone(before);
                Ending::Refused
            }
            Ok(answer @ (Renew::Occupied | Renew::LimitReached)) => {
                self.nonsense(Verb::Renew, format!("{answer:?} for a fresh id without a limit"));
                Ending::Refused
            }
            Err(error) => Ending::Failed(error.outcome()),
        };
        if ending == Ending::Done {
            self.shared.account.saved(before, expected, revision, by);
        }
        self.shared.account.moved(before, &moving, ending);
        if conflict.is_none() {
            self.shared.account.not_saved(by, ending);
        }
        conflict
    }

    async fn delete(&mut self, line: LineNo) {
        let slow = self.choose(3) == 0;
        let before = match slow {
            // Who signs out by an id that was renewed meanwhile ends the session as well.
            true => self.shared.account.before_any(line, self.choose(u64::MAX)),
            false => self.shared.account.before(line),
        };
        self.shared.account.ending(line);
        let store = Arc::clone(&self.store);
        let ending = match self.call(Verb::Delete, store.delete(&before.id, EndReason::Destroyed)).await {
            Ok(true) => Ending::Done,
            Ok(false) => Ending::Refused,
            Err(error) => Ending::Failed(error.outcome()),
        };
        self.shared.account.deleted(&before, ending);
    }

    async fn revoke(&mut self, line: LineNo) {
        let Some(principal) = self.shared.account.principal(line) else { return };
        let before = self.shared.account.before(line);
        let handle = self.shared.account.handle(line);
        self.shared.account.ending(line);
        let store = Arc::clone(&self.store);
        let ending = match self.call(Verb::Revoke, store.revoke(&principal, handle)).await {
            Ok(true) => Ending::Done,
            Ok(false) => Ending::Refused,
            Err(error) => Ending::Failed(error.outcome()),
        };
        self.shared.account.end(&before, ending);
    }

    async fn revoke_all(&mut self) {
        let owner = self.shared.account.owner(self.choose(u64::MAX));
        let revoking = self.shared.account.revoking(owner);
        let store = Arc::clone(&self.store);
        let ending = match self.call(Verb::RevokeAll, store.revoke_all(&revoking.principal, None)).await {
            Ok(_) => Ending::Done,
            Err(error) => Ending::Failed(error.outcome()),
        };
        self.shared.account.revoked(&revoking, ending);
    }

    /// Uses a session that ended, as a slow request, a second tab or a thief would.
    async fn haunt(&mut self) {
        let Some(line) = self.shared.account.ended_line(self.choose(u64::MAX)) else { return };
        let all = self.shared.account.before_each(line);
        let before = &all[self.choose(all.len() as u64) as usize];
        if !before.is_over() {
            return;
        }
        match self.choose(3) {
            0 => drop(self.look(before).await),
            1 => self.touch_as(before).await,
            _ => {
                // What a slow request read before the end and writes after it.
                let stored = self.shared.account.stale(line);
                let number = self.shared.account.next_number(self.number);
                self.update(before, &stored, number).await;
            }
        }
    }

    async fn list(&mut self) {
        let owner = self.shared.account.owner(self.choose(u64::MAX));
        let before = self.shared.account.before_list(owner);
        let (mut pages, mut page) = (Vec::new(), Page::FIRST);
        loop {
            let store = Arc::clone(&self.store);
            let Ok(listing) = self.call(Verb::List, store.list(&before.principal, page)).await else { return };
            page.after = listing.next;
            pages.push(listing);
            if page.after.is_none() {
                return self.shared.account.listed(&before, &pages);
            }
        }
    }

    fn nonsense(&self, verb: Verb, what: String) {
        self.shared.account.breach(Promise::AnswersMakeSense, format!("{verb}: {what}"));
    }

    /// Makes the call, with its time and its error booked.
    async fn call<T>(
        &mut self,
        verb: Verb,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let answer = tokio::time::timeout(self.shared.patience, call).await.unwrap_or_else(|_| {
            let what = format!("{verb} did not come back in {:?}", self.shared.patience);
            self.shared.account.breach(Promise::CallsReturn, &*what);
            Err(StoreError::new(cloakroom_core::StoreErrorKind::Timeout, verb, what))
        });
        let error = answer.as_ref().err().map(|error| (error.kind(), error.outcome()));
        self.samples.push(Sample { verb, begun, took: begun.elapsed(), error });
        match &answer {
            Ok(_) => self.shared.succeeded(self.number),
            Err(error) => {
                self.shared.account.failed(verb, error);
                self.shared.failed(self.number, error);
                // tidy: sleep — the pace of a client whose server is away; nothing is decided by it
                tokio::time::sleep(super::PACE).await;
            }
        }
        answer
    }
}

/// An id that nobody has had, in the shard of its owner.
pub(super) fn new_id(random: &SeededRandom, owner: Option<&Principal>) -> SessionId {
    let mut bytes = [0; SessionId::LEN];
    random.fill(&mut bytes).unwrap();
    if let Some(owner) = owner {
        bytes[..SessionId::SHARD_LEN].copy_from_slice(&owner.shard());
    }
    SessionId::from_bytes(bytes)
}

fn new_handle(random: &SeededRandom) -> Handle {
    let mut bytes = [0; Handle::LEN];
    random.fill(&mut bytes).unwrap();
    Handle::from_bytes(bytes)
}
