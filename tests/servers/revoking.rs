//! Signing out everywhere, against everything that the same person does at that moment.

use std::sync::{Arc, Mutex};

use cloakroom_core::{
    Create, Handle, Load, Page, Principal, Renew, Renewal, Revision, SessionId, SessionStore, StoreError, Stored,
    Update,
};
use futures_util::future::join_all;
use tokio::sync::Barrier;

use crate::sessions::{HOUR, new_id, principal, record, with_text};
use crate::stores::{Stores, on_every_store};

const ROUNDS: usize = 200;
const PARALLEL: usize = 50;
/// How many sessions there are when a round begins.
const SESSIONS: usize = 10;

on_every_store!(whoever_signs_out_everywhere_leaves_no_survivor_among_fifty_parallel_calls);

async fn whoever_signs_out_everywhere_leaves_no_survivor_among_fifty_parallel_calls(stores: Stores) {
    for round in 0..ROUNDS {
        Round::new(&stores, round, false).await.play().await;
    }
}

mod reshard {
    use cloakroom_services::Cluster;

    use super::*;
    use crate::place::{Place, Server};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_signs_out_everywhere_leaves_no_survivor_while_slots_move() {
        let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap().unwrap();
        let place = Place::at(Server::Cluster, &cluster.url());
        let stores = Stores::at(&place).await;
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let moving = tokio::task::spawn_blocking(move || {
            let mut times = 0;
            while stopped.try_recv().is_err() {
                cluster.reshard().unwrap();
                times += 1;
            }
            times
        });
        for round in 0..ROUNDS {
            Round::new(&stores, round, true).await.play().await;
        }
        stop.send(()).unwrap();
        assert!(moving.await.unwrap() > 0, "no slot moved meanwhile");
    }
}

/// One principal, and everything that happens to them at once.
struct Round {
    stores: Stores,
    who: Principal,
    /// Whether calls may fail, because servers change under them.
    unsteady: bool,
    /// The sessions whose sign-in was acknowledged, and every id that each of them ever had.
    known: Mutex<Vec<(Handle, SessionId)>>,
}

impl Round {
    async fn new(stores: &Stores, number: usize, unsteady: bool) -> Arc<Self> {
        let who = principal(&format!("person{number}"));
        let round = Arc::new(Self { stores: stores.clone(), who, unsteady, known: Mutex::default() });
        join_all((0..SESSIONS).map(|n| round.sign_in(n))).await;
        round
    }

    async fn play(self: Arc<Self>) {
        let sessions = self.known.lock().unwrap().clone();
        let start = Arc::new(Barrier::new(PARALLEL + 1));
        let tasks: Vec<_> = (0..PARALLEL)
            .map(|n| {
                let (round, start, (_, id)) = (self.clone(), start.clone(), sessions[n % sessions.len()]);
                tokio::spawn(async move {
                    start.wait().await;
                    match n % 5 {
                        0 => round.sign_in(n).await,
                        1 | 2 => round.renew(n, id).await,
                        _ => round.update(n, id).await,
                    }
                })
            })
            .collect();
        start.wait().await;
        // Some of the calls get ahead of the end, and some do not.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let before: Vec<Handle> = self.known.lock().unwrap().iter().map(|(handle, _)| *handle).collect();
        while let Err(error) = self.stores.one.revoke_all(&self.who, None).await {
            self.excuse(&error);
        }
        let later = self.clone().sign_in_afterwards().await;
        for task in tasks {
            task.await.unwrap();
        }
        self.check(&before, later).await;
    }

    /// Whatever was live when the end began is dead, under every id it ever had, and not listed.
    async fn check(&self, before: &[Handle], later: Handle) {
        let listed = self.list().await;
        assert!(!listed.iter().any(|handle| before.contains(handle)), "{}: a listed survivor", self.who.as_str());
        assert!(listed.contains(&later), "{}: a later sign-in was ended", self.who.as_str());
        let known = self.known.lock().unwrap().clone();
        let dead = known.iter().filter(|(handle, _)| before.contains(handle));
        let loads = dead.enumerate().map(|(n, (_, id))| {
            let store = self.stores.either(n);
            async move { self.answered(async || store.load(id).await).await }
        });
        for found in join_all(loads).await {
            assert!(matches!(found, Load::Gone(_)), "{}: a survivor", self.who.as_str());
        }
    }

    async fn list(&self) -> Vec<Handle> {
        let page = self.answered(async || self.stores.two.list(&self.who, Page::FIRST).await).await;
        page.sessions.iter().map(|session| session.handle).collect()
    }

    async fn sign_in(&self, n: usize) {
        let (id, record) = (new_id(&self.who), record(&self.who));
        match self.stores.either(n).create(&id, &record, None).await {
            Ok(Create::Created { .. }) => self.known.lock().unwrap().push((record.handle(), id)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => self.excuse(&error),
        }
    }

    async fn sign_in_afterwards(self: Arc<Self>) -> Handle {
        let (id, record) = (new_id(&self.who), record(&self.who));
        loop {
            match self.stores.two.create(&id, &record, None).await {
                // Occupied by the attempt before, of which nobody knew.
                Ok(_) => return record.handle(),
                Err(error) => self.excuse(&error),
            }
        }
    }

    /// Gives the session one new id after the other, until it has ended.
    async fn renew(&self, n: usize, id: SessionId) {
        let (store, mut old) = (self.stores.either(n), id);
        for _ in 0..8 {
            let Some(Stored { record, revision }) = self.load(&*store, &old).await else { return };
            let new = new_id(&self.who);
            // Noted before it can come to life, and whatever is answered.
            self.known.lock().unwrap().push((record.handle(), new));
            let renewal = Renewal { old: &old, new: &new, expected: revision, record: &record, limit: None };
            match store.renew(renewal).await {
                Ok(Renew::Renewed { .. }) => old = new,
                Ok(Renew::Gone(_)) => return,
                Ok(Renew::Conflict(_)) => {}
                Ok(other) => panic!("{other:?}"),
                Err(error) => self.excuse(&error),
            }
        }
    }

    async fn update(&self, n: usize, id: SessionId) {
        let store = self.stores.either(n);
        for count in 0..8 {
            let Some(Stored { record, revision }) = self.load(&*store, &id).await else { return };
            let now = record.last_seen();
            let written = match count % 3 {
                0 => store.touch(&id, now, now + 2 * HOUR).await.map(drop),
                _ => write(&*store, &id, revision, &with_text(&record, &count.to_string())).await,
            };
            if let Err(error) = written {
                self.excuse(&error);
            }
        }
    }

    async fn load(&self, store: &dyn SessionStore, id: &SessionId) -> Option<Stored> {
        match store.load(id).await {
            Ok(found) => found.live(),
            Err(error) => {
                self.excuse(&error);
                None
            }
        }
    }

    /// Asks until there is an answer.
    async fn answered<T>(&self, ask: impl AsyncFn() -> Result<T, StoreError>) -> T {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => self.excuse(&error),
            }
        }
    }

    fn excuse(&self, error: &StoreError) {
        assert!(self.unsteady && error.is_transient(), "{error:?}");
    }
}

async fn write(
    store: &dyn SessionStore,
    id: &SessionId,
    revision: Revision,
    record: &cloakroom_core::Record,
) -> Result<(), StoreError> {
    match store.update(id, revision, record).await? {
        Update::Saved(_) | Update::Conflict(_) | Update::Gone(_) => Ok(()),
    }
}
