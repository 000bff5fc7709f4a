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
            let other =
                facts.intents.login.as_ref().is_some_and(|next| base.principal().is_some_and(|old| old != next));
            let mut record = if other { fresh(facts, policy) } else { base.clone() };
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
            if record.idle_deadline <= base.idle_deadline {
                return nothing;
            }
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
fn see(record: &mut Record, now: u64, policy: &Policy) {
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
