//! Every order in which the steps of requests can meet, and none in which a session comes back.
//!
//! A request is a future that stops before and after each call to the store. A schedule says which
//! future goes on next; all schedules are run, one after the other, by going back to the last place
//! where somebody else could have gone on.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cloakroom_core::{Exchange, Handle, MemoryStore, Session, SessionStore};
use cloakroom_sql::{SqliteOptions, Synchronous};
use cloakroom_testkit::ManualClock;
use tokio::runtime::Runtime;

use crate::place::{Place, Server};
use crate::setup::{Finish, Kind, Request, Stack, World, Yielding, Yields, principal, token_of};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TWO_MINUTES: Duration = Duration::from_secs(120);

/// What a request does between load and response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Set,
    Clear,
    /// Writes, and then writes again.
    CommitAndSet,
    /// Only reads, long enough after the last activity for a touch.
    Touch,
    Renew,
    /// Signs the same person in again.
    Login,
    /// Reads and writes in one step. Needs a store.
    Transaction,
}

/// What ends the session, or its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killer {
    Logout,
    LogoutEverywhere,
    RevokeAll,
    /// Ends the session by its handle. Needs a store.
    Revoke,
    Expire,
    Renew,
    Nobody,
}

/// The tasks of one schedule, and what they leave behind.
struct Scene {
    world: Rc<World>,
    token: String,
    handle: Handle,
    finishes: Rc<RefCell<Vec<Finished>>>,
    tasks: Vec<Pin<Box<dyn Future<Output = ()>>>>,
}

struct Finished {
    /// Whether the request found the session alive; if not, what it wrote is a session of its own.
    loaded: bool,
    changes: bool,
    finish: Finish,
}

/// What a scene plays on: it finds no session there.
type Ground = (Yielding, Arc<ManualClock>);

fn memory(yields: Yields) -> Ground {
    let clock = Arc::new(ManualClock::new());
    (Yielding::new(Arc::new(MemoryStore::new().with_clock(clock.clone())), yields), clock)
}

/// A store that outlives a scene, on which one plays after the other.
struct Lasting {
    store: Arc<dyn SessionStore>,
    clock: Arc<ManualClock>,
    runtime: Arc<Runtime>,
    /// Removed with it.
    _directory: Option<tempfile::TempDir>,
}

impl Lasting {
    fn in_a_file() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (directory, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
        let options = SqliteOptions::new(directory.path().join("sessions.db")).with_synchronous(Synchronous::Normal);
        let store = runtime.block_on(options.with_readers(1).with_clock(clock.clone()).open()).unwrap();
        Self { store: Arc::new(store), clock, runtime: Arc::new(runtime), _directory: Some(directory) }
    }

    fn on_a_server(place: &Place) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let clock = Arc::new(ManualClock::new());
        let store = runtime.block_on(place.open(Some(clock.clone())));
        Self { store, clock, runtime: Arc::new(runtime), _directory: None }
    }

    fn emptied(&self, yields: Yields) -> Ground {
        self.clock.advance(DAY);
        self.runtime.block_on(self.store.sweep(1000)).unwrap();
        assert_eq!(self.runtime.block_on(self.store.scan(None, 1)).unwrap().len(), 0, "the scene before is over");
        (Yielding::new(self.store.clone(), yields).waiting_on(self.runtime.clone()), self.clock.clone())
    }
}

impl Scene {
    /// A session of `owner`, last used two minutes ago.
    fn new(kind: Kind, (store, clock): Ground, owner: Option<&'static str>) -> Self {
        let world = World::on(kind, Stack::Bare, Arc::new(store), clock);
        let mut browser = world.browser();
        run(browser.visit(async |session| match owner {
            Some(owner) => session.login(owner).unwrap(),
            None => session.set("k", 1).unwrap(),
        }));
        world.clock.advance(TWO_MINUTES);
        let token = browser.token().to_owned();
        let handle = run(world.handle_of(&token)).unwrap();
        world.events.forget();
        Self { world: Rc::new(world), token, handle, finishes: Rc::default(), tasks: Vec::new() }
    }

    fn change(&mut self, change: Change, key: &'static str) {
        self.request(true, async move |session| match change {
            Change::Set => session.set(key, 1).unwrap(),
            Change::Clear => {
                session.set(key, 1).unwrap();
                session.clear().unwrap();
            }
            Change::CommitAndSet => {
                session.modify(key, |n: &mut u32| *n += 1).unwrap();
                // Refused when the session has ended: the handler learns of it.
                drop(session.commit().await);
                drop(session.modify(key, |n: &mut u32| *n += 1));
            }
            Change::Touch => drop(session.get::<u32>(key).unwrap()),
            Change::Renew => session.renew().unwrap(),
            Change::Login => session.login("alice").unwrap(),
            Change::Transaction => {
                drop(session.transaction(|view| view.set(key, 1)).await);
            }
        });
    }

    fn kill(&mut self, killer: Killer) {
        let (world, handle) = (self.world.clone(), self.handle);
        match killer {
            Killer::Logout => self.request(false, async |session| session.logout().unwrap()),
            Killer::LogoutEverywhere => self.request(false, async |session| {
                // Whose session was renewed away meanwhile is nobody here, and still may leave.
                if session.logout_everywhere().await.is_err() {
                    session.logout().unwrap();
                }
            }),
            Killer::Renew => self.request(false, async |session| session.renew().unwrap()),
            Killer::RevokeAll => self.tasks.push(Box::pin(async move {
                world.manager.revoke_all(&principal("alice"), None).await.unwrap();
            })),
            Killer::Revoke => self.tasks.push(Box::pin(async move {
                world.manager.directory().unwrap().revoke(&principal("alice"), handle).await.unwrap();
            })),
            Killer::Expire => self.tasks.push(Box::pin(async move { world.clock.advance(DAY) })),
            Killer::Nobody => {}
        }
    }

    fn request(&mut self, changes: bool, handler: impl AsyncFnOnce(&Session) + 'static) {
        let (world, finishes) = (self.world.clone(), self.finishes.clone());
        let cookie = format!("{}={}", world.manager.cookie_name().unwrap(), self.token);
        self.tasks.push(Box::pin(async move {
            let request = Request::open(&world.manager, [cookie.as_bytes()].into_iter()).await.unwrap();
            let loaded = request.session.handle().is_some();
            handler(&request.session).await;
            let finish = request.finish().await;
            finishes.borrow_mut().push(Finished { loaded, changes, finish });
        }));
    }

    /// The tokens that give the session, or came from a request that found it alive, and still open.
    fn opening(&self) -> Vec<String> {
        let finishes = self.finishes.borrow();
        let mut tokens = vec![(true, self.token.clone())];
        tokens.extend(finishes.iter().filter_map(|done| Some((done.loaded, token_of(&done.finish)?.to_owned()))));
        let opens = |(loaded, token): (bool, String)| {
            let handle = run(self.world.handle_of(&token))?;
            (loaded || handle == self.handle).then_some(token)
        };
        tokens.into_iter().filter_map(opens).collect()
    }

    fn check(&self, killer: Killer, schedule: &str) {
        for Finished { finish, .. } in self.finishes.borrow().iter() {
            assert!(finish.error.is_none(), "{schedule}: {finish:?}");
        }
        let (opening, live) = (self.opening(), run(self.world.live_handles()));
        match killer {
            Killer::Logout | Killer::LogoutEverywhere | Killer::RevokeAll | Killer::Revoke | Killer::Expire => {
                assert_eq!(opening.len(), 0, "the end was undone by {schedule}");
                assert!(self.world.kind == Kind::Sealed || !live.contains(&self.handle), "{schedule}");
            }
            Killer::Renew => {
                assert!(!opening.contains(&self.token), "the old token lives after {schedule}");
                assert_eq!(opening.len(), 1, "one successor, {schedule}");
            }
            Killer::Nobody => assert!(!opening.is_empty(), "{schedule}"),
        }
    }

    /// Whatever was answered without a word about it is there: so many times the value was counted up.
    fn check_nothing_is_lost(&self, per_request: u32, schedule: &str) {
        let [token] = self.opening().try_into().unwrap();
        let cookie = format!("{}={token}", self.world.manager.cookie_name().unwrap());
        let exchange = Exchange::new(self.world.manager.clone());
        let session = run(exchange.read_session([cookie.as_bytes()].into_iter(), Default::default)).unwrap();
        let landed = session.get::<u32>("n").unwrap().unwrap_or_default();
        let told = self.world.events.count("session_changes_dropped") as u32;
        let changers = self.finishes.borrow().iter().filter(|done| done.loaded && done.changes).count() as u32;
        assert_eq!(landed + told, changers * per_request, "{schedule}");
    }
}

/// Runs one future to its end.
fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("the future waits for something that nobody does");
}

/// Runs the scene in every possible order, and says in how many.
fn every_schedule(scene: impl Fn() -> Scene, check: impl Fn(&Scene, &[usize])) -> usize {
    let mut count = 0;
    // Which of the unfinished tasks goes on, and how many of them there are.
    let mut choices: Vec<(usize, usize)> = Vec::new();
    loop {
        let mut scene = scene();
        let mut context = Context::from_waker(Waker::noop());
        let mut unfinished: Vec<usize> = (0..scene.tasks.len()).collect();
        let mut schedule = Vec::new();
        while !unfinished.is_empty() {
            let depth = schedule.len();
            if depth == choices.len() {
                choices.push((0, unfinished.len()));
            }
            let (choice, options) = choices[depth];
            assert_eq!(options, unfinished.len(), "a schedule must be repeatable");
            let task = unfinished[choice];
            schedule.push(task);
            if scene.tasks[task].as_mut().poll(&mut context).is_ready() {
                unfinished.remove(choice);
            }
        }
        check(&scene, &schedule);
        count += 1;
        while choices.last().is_some_and(|(choice, options)| choice + 1 == *options) {
            choices.pop();
        }
        match choices.last_mut() {
            Some((choice, _)) => *choice += 1,
            None => return count,
        }
    }
}

/// One request against one end, in every order. A sealed session asks for more, so there it gives
/// way before each call only.
fn duel(kind: Kind, change: Change, killer: Killer) -> usize {
    duel_on(memory, kind, change, killer)
}

fn duel_on(ground: impl Fn(Yields) -> Ground, kind: Kind, change: Change, killer: Killer) -> usize {
    let yields = if kind == Kind::Sealed { Yields::Before } else { Yields::BeforeAndAfter };
    let scene = || {
        let mut scene = Scene::new(kind, ground(yields), Some("alice"));
        scene.change(change, "n");
        scene.kill(killer);
        scene
    };
    every_schedule(scene, |scene, schedule| {
        let schedule = &format!("{change:?} × {killer:?} {schedule:?}");
        scene.check(killer, schedule);
        if kind != Kind::Sealed && killer == Killer::Renew && change == Change::Set {
            scene.check_nothing_is_lost(1, schedule);
        }
    })
}

/// Two requests against one end, in every order.
fn three(kind: Kind, changes: [Change; 2], killer: Killer) -> usize {
    three_on(memory, kind, changes, killer)
}

fn three_on(ground: impl Fn(Yields) -> Ground, kind: Kind, changes: [Change; 2], killer: Killer) -> usize {
    let owner = (kind != Kind::Sealed).then_some("alice");
    let scene = || {
        let mut scene = Scene::new(kind, ground(Yields::Before), owner);
        for change in changes {
            scene.change(change, "n");
        }
        scene.kill(killer);
        scene
    };
    every_schedule(scene, |scene, schedule| {
        let schedule = &format!("{changes:?} × {killer:?} {schedule:?}");
        scene.check(killer, schedule);
        if kind != Kind::Sealed && killer == Killer::Nobody && changes == [Change::CommitAndSet; 2] {
            scene.check_nothing_is_lost(2, schedule);
        }
    })
}

#[test]
fn no_order_of_one_request_and_one_end_brings_a_stored_session_back() {
    use Killer::{Expire, Logout, LogoutEverywhere, Renew, Revoke, RevokeAll};
    let killers = [Logout, LogoutEverywhere, RevokeAll, Revoke, Expire, Renew];
    let counts = [
        (Change::Set, [252, 792, 56, 56, 6, 312]),
        (Change::Clear, [252, 792, 56, 56, 6, 312]),
        (Change::CommitAndSet, [732, 2572, 106, 106, 8, 1986]),
        (Change::Touch, [242, 656, 50, 50, 6, 242]),
        (Change::Renew, [242, 646, 50, 50, 6, 232]),
        (Change::Login, [252, 782, 56, 56, 6, 242]),
        (Change::Transaction, [722, 2312, 100, 100, 8, 876]),
    ];
    for (change, expected) in counts {
        assert_eq!(killers.map(|killer| duel(Kind::Memory, change, killer)), expected, "{change:?}");
    }
}

/// The same orders as in memory, and as many of them: the two stores answer alike.
mod in_a_file {
    use super::*;

    fn no_order_brings_it_back(change: Change, expected: [usize; 4]) {
        let file = Lasting::in_a_file();
        let killers = [Killer::Logout, Killer::RevokeAll, Killer::Expire, Killer::Renew];
        let duel = |killer| duel_on(|yields| file.emptied(yields), Kind::Sqlite, change, killer);
        assert_eq!(killers.map(duel), expected);
    }

    #[test]
    fn no_order_of_a_change_and_one_end_brings_the_session_back() {
        no_order_brings_it_back(Change::Set, [252, 56, 6, 312]);
    }

    #[test]
    fn no_order_of_a_commit_and_one_end_brings_the_session_back() {
        no_order_brings_it_back(Change::CommitAndSet, [732, 106, 8, 1986]);
    }

    #[test]
    fn no_order_of_a_touch_and_one_end_brings_the_session_back() {
        no_order_brings_it_back(Change::Touch, [242, 50, 6, 242]);
    }

    #[test]
    fn no_order_of_two_commits_loses_an_update() {
        let (file, changes) = (Lasting::in_a_file(), [Change::CommitAndSet; 2]);
        assert_eq!(three_on(|yields| file.emptied(yields), Kind::Sqlite, changes, Killer::Nobody), 102);
    }
}

/// A part of the same orders. On Redis they are not tried: to see that a scene has ended, all keys of
/// the server would have to be looked at, each time.
mod on_a_server {
    use super::*;

    fn no_order_brings_it_back(server: Server, kind: Kind) {
        let place = Place::on(server);
        let ground = Lasting::on_a_server(&place);
        let killers = [Killer::Logout, Killer::RevokeAll, Killer::Expire];
        let duel = |killer| duel_on(|yields| ground.emptied(yields), kind, Change::Touch, killer);
        assert_eq!(killers.map(duel), [242, 50, 6]);
        let duel = |killer| duel_on(|yields| ground.emptied(yields), kind, Change::Set, killer);
        assert_eq!([Killer::RevokeAll, Killer::Expire].map(duel), [56, 6]);
        ground.runtime.block_on(place.remove());
    }

    #[test]
    fn no_order_of_one_request_and_one_end_brings_a_session_in_postgres_back() {
        no_order_brings_it_back(Server::Postgres, Kind::Postgres);
    }

    #[test]
    fn no_order_of_one_request_and_one_end_brings_a_session_in_mariadb_back() {
        no_order_brings_it_back(Server::MariaDb, Kind::MariaDb);
    }
}

#[test]
fn no_order_of_one_request_and_one_end_brings_a_sealed_session_back() {
    let killers = [Killer::Logout, Killer::RevokeAll, Killer::Expire, Killer::Renew];
    let counts = [
        (Change::Set, [252, 56, 6, 792]),
        (Change::CommitAndSet, [792, 120, 8, 3432]),
        (Change::Touch, [252, 56, 6, 792]),
        (Change::Renew, [792, 120, 8, 3432]),
        (Change::Login, [1287, 165, 9, 6435]),
    ];
    for (change, expected) in counts {
        assert_eq!(killers.map(|killer| duel(Kind::Sealed, change, killer)), expected, "{change:?}");
    }
}

#[test]
fn no_order_of_two_requests_and_one_end_brings_a_stored_session_back() {
    let killers = [Killer::Logout, Killer::RevokeAll, Killer::Expire, Killer::Renew];
    let changes = [Change::Set, Change::Renew];
    assert_eq!(killers.map(|killer| three(Kind::Memory, changes, killer)), [1784, 545, 116, 2068]);
}

#[test]
fn no_order_of_two_requests_and_one_end_brings_a_sealed_session_back() {
    assert_eq!(three(Kind::Sealed, [Change::Set, Change::Renew], Killer::Expire), 293);
    assert_eq!(three(Kind::Sealed, [Change::Set, Change::Touch], Killer::Logout), 3910);
}

#[test]
fn no_order_of_three_requests_loses_an_update() {
    let changes = [Change::CommitAndSet, Change::CommitAndSet];
    assert_eq!(three(Kind::Memory, changes, Killer::Nobody), 102);
}
