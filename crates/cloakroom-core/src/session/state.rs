//! What a handle knows: where its session came from, what is asked of it, and what the client gets.

use std::time::Duration;

use zeroize::Zeroizing;

use super::changes::Changes;
use crate::id::{Handle, Principal, SessionId};
use crate::record::{Assurance, Client, Record};
use crate::store::{EndReason, Revision};

/// Where in its life the session of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// There is none, and none will be made.
    Absent,
    /// There is none yet; one will be made when the request ends.
    Created,
    /// It is as it was loaded.
    Unchanged,
    /// It will be written when the request ends.
    Changed,
    /// It will get a new token when the request ends.
    Renewed,
    /// It has ended, or will when the request ends.
    Destroyed,
}

/// What a handler asked for besides changes to values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intents {
    pub(crate) destroy: bool,
    pub(crate) renew: bool,
    /// Make a session even if nothing is written to it: a CSRF token was handed out for it.
    pub(crate) create: bool,
    pub(crate) login: Option<Principal>,
    pub(crate) step_up: Option<Assurance>,
    pub(crate) persist: Option<Duration>,
}

impl Intents {
    pub(crate) fn renews(&self) -> bool {
        self.renew || self.login.is_some() || self.step_up.is_some() || self.persist.is_some()
    }

    /// What is left of them after the request failed: what takes power away stays, what gives some goes.
    pub(crate) fn after_failure(&self) -> Self {
        Self { destroy: self.destroy, renew: self.renews(), ..Self::default() }
    }

    /// Takes back what was to be committed and was not, under what was asked for since.
    pub(crate) fn restore(&mut self, earlier: Self) {
        self.destroy |= earlier.destroy;
        self.renew |= earlier.renew;
        self.create |= earlier.create;
        self.login = self.login.take().or(earlier.login);
        self.step_up = self.step_up.max(earlier.step_up);
        self.persist = self.persist.or(earlier.persist);
    }
}

/// Where the record is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Absent,
    Stored { id: SessionId, revision: Revision },
    SelfContained,
}

/// A session whose token another request replaced. Nothing of it can be read or changed any more,
/// but a logout still ends it under whatever token it has now.
#[derive(Clone, Debug)]
pub(crate) enum Former {
    Stored(SessionId),
    SelfContained(Record),
}

/// Whether the handle still does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Open,
    /// The store is out of reach and the route may read without it.
    ReadOnly,
    /// A write was sent and its answer never came. Repeating it could apply it twice.
    Unknown,
    Closed,
}

/// What the response does about the client's token; the names are those of the transport in a cookie.
#[derive(Debug)]
pub(crate) enum CookieReply {
    Leave,
    Clear,
    Set { token: Zeroizing<String>, max_age: Option<Duration>, required: bool },
}

pub(crate) struct Inner {
    pub(crate) origin: Origin,
    pub(crate) base: Option<Record>,
    pub(crate) former: Option<Former>,
    pub(crate) changes: Changes,
    pub(crate) intents: Intents,
    pub(crate) handle: Option<Handle>,
    pub(crate) client: Client,
    pub(crate) mode: Mode,
    /// It was opened without the store, and the response says so.
    pub(crate) read_only: bool,
    /// The response is about to leave: what was asked for is being written, and nothing more is taken.
    pub(crate) finishing: bool,
    /// Only a handle that may write counts as activity.
    pub(crate) touchable: bool,
    pub(crate) ended: Option<Option<EndReason>>,
    pub(crate) cookie: CookieReply,
    /// The token that the client has or will get, kept only where the cookie may have to be sent again.
    pub(crate) presented: Option<Zeroizing<String>>,
}

impl Inner {
    pub(crate) fn absent(client: Client, cookie: CookieReply) -> Self {
        Self {
            origin: Origin::Absent,
            base: None,
            former: None,
            changes: Changes::default(),
            intents: Intents::default(),
            handle: None,
            client,
            mode: Mode::Open,
            read_only: false,
            finishing: false,
            touchable: false,
            ended: None,
            cookie,
            presented: None,
        }
    }

    pub(crate) fn loaded(origin: Origin, record: Record) -> Self {
        Self {
            handle: Some(record.handle()),
            changes: Changes::over(Some(record.clone())),
            base: Some(record),
            origin,
            ..Self::absent(Client::default(), CookieReply::Leave)
        }
    }

    pub(crate) fn is_signed_in(&self) -> bool {
        self.base.as_ref().is_some_and(|base| base.principal().is_some())
    }

    pub(crate) fn state(&self) -> State {
        if self.intents.destroy || self.ended.is_some() {
            State::Destroyed
        } else if self.base.is_none() {
            let creates = self.intents.create || self.intents.login.is_some() || !self.changes.is_empty();
            if creates { State::Created } else { State::Absent }
        } else if self.intents.renews() {
            State::Renewed
        } else if self.changes.is_empty() {
            State::Unchanged
        } else {
            State::Changed
        }
    }

    /// The session is gone: what was asked of it goes too.
    pub(crate) fn end(&mut self, reason: Option<EndReason>) {
        let (origin, base) = (std::mem::replace(&mut self.origin, Origin::Absent), self.base.take());
        self.former = match (origin, base) {
            (Origin::Stored { id, .. }, _) if reason == Some(EndReason::Renewed) => Some(Former::Stored(id)),
            (Origin::SelfContained, Some(base)) if reason == Some(EndReason::Renewed) => {
                Some(Former::SelfContained(base))
            }
            (Origin::Absent | Origin::Stored { .. } | Origin::SelfContained, _) => None,
        };
        self.changes = Changes::default();
        self.intents = Intents::default();
        self.ended = Some(reason);
        // After a renewal by another request the client already has the new cookie.
        if reason != Some(EndReason::Renewed) {
            self.cookie = CookieReply::Clear;
        }
    }
}
