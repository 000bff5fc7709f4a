//! What a request's end does to the store and to the cookie, as a pure function.

use std::time::Duration;

use super::state::{Intents, State};
use crate::clock::millis;
use crate::id::Handle;
use crate::policy::Policy;
use crate::record::{Assurance, Client, Record};

/// What to do at the end of a request, or at an explicit commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) store: StoreOp,
    pub(crate) cookie: CookieOp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreOp {
    None,
    /// File this record, values to be filled in.
    Create(Record),
    /// Replace the record by this one, values to be filled in.
    Update(Record),
    /// Push the idle deadline as far as this record has it.
    Touch(Record),
    /// File this record under a new token, values to be filled in.
    Renew(Record),
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CookieOp {
    Leave,
    /// Hand out the token; an attribute only where the session outlives the browser.
    Set {
        max_age: Option<Duration>,
    },
    Clear,
}

/// All that a plan depends on.
pub(crate) struct Facts<'a> {
    pub(crate) state: State,
    pub(crate) base: Option<&'a Record>,
    pub(crate) intents: &'a Intents,
    pub(crate) handle: Handle,
    pub(crate) client: &'a Client,
    /// Whether this request counts as activity.
    pub(crate) touchable: bool,
    /// The token carries the record, so whatever changes the record changes the cookie.
    pub(crate) self_contained: bool,
    pub(crate) now: u64,
}

pub(crate) fn plan(facts: &Facts<'_>, policy: &Policy) -> Plan {
    let nothing = Plan { store: StoreOp::None, cookie: CookieOp::Leave };
    match (facts.state, facts.base) {
        (State::Absent, _) => nothing,
        (State::Destroyed, None) => Plan { cookie: CookieOp::Clear, ..nothing },
        (State::Destroyed, Some(_)) => Plan { store: StoreOp::Delete, cookie: CookieOp::Clear },
        (State::Created, _) | (_, None) => {
            let mut record = fresh(facts, policy);
            authenticate(&mut record, facts, policy);
            let cookie = CookieOp::Set { max_age: max_age(&record, facts.now) };
            Plan { store: StoreOp::Create(record), cookie }
        }
        (State::Renewed, Some(base)) => {
            let other = facts.handle != base.handle();
            // Somebody else in the same browser.
            let next = || fresh(facts, policy).with_client(base.client().clone());
            let mut record = if other { next() } else { base.clone() };
            record.generation = base.generation.saturating_add(1);
            authenticate(&mut record, facts, policy);
            see(&mut record, facts.now, policy);
            let cookie = CookieOp::Set { max_age: max_age(&record, facts.now) };
            Plan { store: StoreOp::Renew(record), cookie }
        }
        (State::Changed, Some(base)) => {
            let mut record = base.clone();
            see(&mut record, facts.now, policy);
            let cookie = seen_cookie(facts, base, &record, policy);
            Plan { store: StoreOp::Update(record), cookie }
        }
        (State::Unchanged, Some(base)) => {
            let due = base.last_seen.saturating_add(millis(policy.touch_interval()));
            if !facts.touchable || facts.now < due {
                return nothing;
            }
            let mut record = base.clone();
            see(&mut record, facts.now, policy);
            let cookie = seen_cookie(facts, base, &record, policy);
            Plan { store: StoreOp::Touch(record), cookie }
        }
    }
}

fn fresh(facts: &Facts<'_>, policy: &Policy) -> Record {
    let now = crate::clock::from_unix_millis(facts.now);
    let record = Record::new(facts.handle, now, policy.idle(), policy.absolute());
    record.with_client(facts.client.clone())
}

/// A sign-in, a step-up and a wish to be remembered, each of which begins the session's life anew
/// (NIST SP 800-63B-4 §5.2: reauthentication resets both timeouts).
fn authenticate(record: &mut Record, facts: &Facts<'_>, policy: &Policy) {
    let Intents { login, step_up, persist, .. } = facts.intents;
    if let Some(principal) = login {
        record.principal = Some(principal.clone());
        record.assurance = Assurance::One;
        record.client = if facts.client == &Client::default() { record.client.clone() } else { facts.client.clone() };
    }
    if let Some(assurance) = step_up {
        record.assurance = record.assurance.max(*assurance);
    }
    if login.is_some() || step_up.is_some() {
        record.authenticated = facts.now;
        record.created = facts.now;
        if record.persistent {
            record.idle_timeout = record.idle_timeout.min(millis(policy.remember()));
        }
        let lifetime = if record.persistent { record.idle_timeout } else { millis(policy.absolute()) };
        record.absolute_deadline = facts.now.saturating_add(lifetime);
        record.idle_deadline = record.absolute_deadline.min(facts.now.saturating_add(record.idle_timeout));
    }
    if let Some(lifetime) = persist {
        record.persistent = true;
        record.idle_timeout = millis(*lifetime);
        // Counted from the sign-in, so that asking again and again does not make it endless.
        record.absolute_deadline = record.created.saturating_add(record.idle_timeout);
        record.idle_deadline = record.absolute_deadline;
    }
}

/// Activity now. Deadlines only ever move forward, whatever the clock does.
pub(crate) fn see(record: &mut Record, now: u64, policy: &Policy) {
    let idle = if record.persistent { record.idle_timeout } else { millis(policy.idle()) };
    record.idle_timeout = idle;
    record.last_seen = record.last_seen.max(now);
    record.idle_deadline = record.idle_deadline.max(now.saturating_add(idle)).min(record.absolute_deadline);
}

fn seen_cookie(facts: &Facts<'_>, base: &Record, seen: &Record, policy: &Policy) -> CookieOp {
    let due = facts.now >= base.last_seen.saturating_add(millis(policy.touch_interval()));
    if facts.self_contained || (base.persistent && due) {
        CookieOp::Set { max_age: max_age(seen, facts.now) }
    } else {
        CookieOp::Leave
    }
}

fn max_age(record: &Record, now: u64) -> Option<Duration> {
    let left = record.idle_deadline.min(record.absolute_deadline).saturating_sub(now);
    record.persistent.then(|| Duration::from_millis(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_unix_millis;
    use crate::id::Principal;
    use proptest::prelude::*;

    const START: u64 = 1_800_000_000_000;
    const MINUTE: u64 = 60_000;
    const HANDLE: Handle = Handle::from_bytes([1; Handle::LEN]);

    fn principal(name: &str) -> Principal {
        Principal::new(name).unwrap()
    }

    fn base(owner: Option<&str>, persistent: bool, generation: u32) -> Record {
        let policy = Policy::default();
        let mut record = Record::new(HANDLE, from_unix_millis(START), policy.idle(), policy.absolute());
        if let Some(owner) = owner {
            record = record.owned_by(principal(owner));
        }
        record.generation = generation;
        record.persistent = persistent;
        if persistent {
            record.idle_timeout = millis(Duration::from_secs(30 * 24 * 60 * 60));
            record.absolute_deadline = START + record.idle_timeout;
            record.idle_deadline = record.absolute_deadline;
        }
        record
    }

    fn run(
        state: State,
        base: Option<&Record>,
        intents: &Intents,
        now: u64,
        self_contained: bool,
        touchable: bool,
    ) -> Plan {
        let client = Client::default();
        // The handle gives somebody else's sign-in a handle of its own.
        let other =
            |base: &&Record| intents.login.as_ref().is_none_or(|next| base.principal().is_none_or(|old| old == next));
        let handle = base.filter(other).map_or(Handle::from_bytes([2; Handle::LEN]), Record::handle);
        let facts = Facts { state, base, intents, handle, client: &client, touchable, self_contained, now };
        plan(&facts, &Policy::default())
    }

    fn written(plan: &Plan) -> Option<&Record> {
        match &plan.store {
            StoreOp::Create(record) | StoreOp::Update(record) | StoreOp::Touch(record) | StoreOp::Renew(record) => {
                Some(record)
            }
            StoreOp::None | StoreOp::Delete => None,
        }
    }

    fn kind(plan: &Plan) -> (&'static str, &'static str) {
        let store = match plan.store {
            StoreOp::None => "none",
            StoreOp::Create(_) => "create",
            StoreOp::Update(_) => "update",
            StoreOp::Touch(_) => "touch",
            StoreOp::Renew(_) => "renew",
            StoreOp::Delete => "delete",
        };
        let cookie = match plan.cookie {
            CookieOp::Leave => "leave",
            CookieOp::Set { .. } => "set",
            CookieOp::Clear => "clear",
        };
        (store, cookie)
    }

    /// Every state, with what the cookie does for a session that ends with the browser, one that
    /// outlives it, and one that its token carries; a touch being due, and not.
    #[test]
    fn the_table_of_states() {
        type Row = (State, bool, &'static str, [&'static str; 3]);
        let table: [Row; 11] = [
            (State::Absent, false, "none", ["leave"; 3]),
            (State::Absent, true, "none", ["leave"; 3]),
            (State::Created, false, "create", ["set"; 3]),
            (State::Unchanged, false, "none", ["leave"; 3]),
            (State::Unchanged, true, "touch", ["leave", "set", "set"]),
            (State::Changed, false, "update", ["leave", "leave", "set"]),
            (State::Changed, true, "update", ["leave", "set", "set"]),
            (State::Renewed, false, "renew", ["set"; 3]),
            (State::Renewed, true, "renew", ["set"; 3]),
            (State::Destroyed, false, "delete", ["clear"; 3]),
            (State::Destroyed, true, "delete", ["clear"; 3]),
        ];
        for (state, due, store, cookies) in table {
            for (at, cookie) in cookies.into_iter().enumerate() {
                let known = base(None, at == 1, 0);
                let known = (!matches!(state, State::Absent | State::Created)).then_some(known);
                let now = START + if due { 2 * MINUTE } else { 1 };
                let plan = run(state, known.as_ref(), &Intents::default(), now, at == 2, true);
                assert_eq!(kind(&plan), (store, cookie), "{state:?} due={due} column {at}");
            }
        }
        let unknown = run(State::Destroyed, None, &Intents::default(), START, false, true);
        assert_eq!(kind(&unknown), ("none", "clear"), "an unknown session is removed from the browser only");
        let reading =
            run(State::Unchanged, Some(&base(None, false, 0)), &Intents::default(), START + 9 * MINUTE, true, false);
        assert_eq!(kind(&reading), ("none", "leave"), "reading is no activity");
    }

    #[test]
    fn a_sign_in_as_somebody_else_takes_nothing_over_but_the_generation() {
        let known = base(Some("alice"), true, 4).with_client(Client::new(Some("Browser/1.0"), None));
        let intents = Intents { login: Some(principal("bob")), ..Intents::default() };
        let plan = run(State::Renewed, Some(&known), &intents, START + MINUTE, false, true);
        let record = written(&plan).unwrap();
        assert_eq!((record.principal(), record.generation), (Some(&principal("bob")), 5));
        assert_ne!(record.handle(), known.handle());
        assert_eq!(record.client(), known.client(), "it is the same browser");
        assert!(!record.is_persistent() && record.assurance == Assurance::One);
    }

    fn states() -> impl Strategy<Value = State> {
        prop::sample::select(vec![
            State::Absent,
            State::Created,
            State::Unchanged,
            State::Changed,
            State::Renewed,
            State::Destroyed,
        ])
    }

    fn intents() -> impl Strategy<Value = Intents> {
        let name = prop::option::of(prop::sample::select(vec!["alice", "bob"]));
        let step_up = prop::option::of(prop::sample::select(vec![Assurance::Two, Assurance::Three]));
        (any::<bool>(), name, step_up, prop::option::of(1u64..=30)).prop_map(|(renew, login, step_up, days)| Intents {
            renew,
            login: login.map(principal),
            step_up,
            persist: days.map(|days| Duration::from_secs(days * 24 * 60 * 60)),
            ..Intents::default()
        })
    }

    proptest! {
        #[test]
        fn whatever_happens_life_is_bounded_and_the_cookie_says_what_was_written(
            state in states(), intents in intents(), owner in prop::option::of(prop::sample::select(vec!["alice", "bob"])),
            persistent: bool, generation in 0u32..1000, seen in 0u64..6 * 24 * 60, self_contained: bool, touchable: bool,
            // Up to a day before the session began: the clock may go back.
            now in START - 24 * 60 * MINUTE..START + 40 * 24 * 60 * MINUTE,
        ) {
            let policy = Policy::default();
            let mut known = base(owner, persistent, generation);
            known.last_seen = START + seen * MINUTE;
            known.idle_deadline = (known.last_seen + known.idle_timeout).min(known.absolute_deadline);
            let known = (!matches!(state, State::Absent | State::Created)).then_some(known);
            let plan = run(state, known.as_ref(), &intents, now, self_contained, touchable);

            let authenticates = intents.login.is_some() || intents.step_up.is_some();
            if let Some(record) = written(&plan) {
                prop_assert!(record.idle_deadline <= record.absolute_deadline);
                let longest = millis(policy.absolute().max(policy.remember()));
                prop_assert!(record.absolute_deadline <= record.created + longest);
                prop_assert!(record.created <= now.max(START));
                if let (Some(before), false) = (&known, state == State::Renewed) {
                    prop_assert_eq!(record.absolute_deadline, before.absolute_deadline);
                    prop_assert_eq!(record.generation, before.generation);
                    prop_assert_eq!(record.authenticated, before.authenticated);
                    prop_assert!(record.idle_deadline >= before.idle_deadline && record.last_seen >= before.last_seen);
                }
                if let (Some(before), State::Renewed) = (&known, state) {
                    prop_assert_eq!(record.generation, before.generation + 1);
                    if !authenticates && intents.persist.is_none() {
                        prop_assert_eq!(record.absolute_deadline, before.absolute_deadline);
                        prop_assert!(record.idle_deadline >= before.idle_deadline);
                    }
                    if !authenticates {
                        prop_assert_eq!((record.created, record.authenticated), (before.created, before.authenticated));
                        prop_assert_eq!(record.principal(), before.principal());
                    }
                }
            }
            match plan.cookie {
                CookieOp::Set { max_age } => {
                    let record = written(&plan).expect("a cookie for what is written only");
                    prop_assert_eq!(max_age.is_some(), record.persistent);
                    prop_assert!(max_age.is_none_or(|age| age <= Duration::from_millis(record.absolute_deadline.saturating_sub(now))));
                    let fresh = matches!(plan.store, StoreOp::Create(_) | StoreOp::Renew(_));
                    prop_assert!(fresh || self_contained || record.persistent);
                }
                CookieOp::Clear => prop_assert_eq!(state, State::Destroyed),
                CookieOp::Leave => prop_assert!(!matches!(plan.store, StoreOp::Create(_) | StoreOp::Renew(_) | StoreOp::Delete)),
            }
            if state == State::Absent {
                prop_assert_eq!(kind(&plan), ("none", "leave"));
            }
            if state == State::Destroyed {
                prop_assert_eq!(kind(&plan), ("delete", "clear"));
            }
        }
    }
}
