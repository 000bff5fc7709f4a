//! Each verb that serves a request: how it is called, what it answers, and what it may leave behind.

use std::time::SystemTime;

use cloakroom_core::{
    Create, EndReason, Handle, Load, Page, Principal, Record, Renew, Renewal, Revision, SessionId, SessionStore,
    StoreError, Stored, Touch, Update,
};

use crate::sessions::{HOUR, new_id, principal, record, with_text};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Load,
    Create,
    Update,
    Touch,
    Renew,
    Delete,
    List,
    Revoke,
    RevokeAll,
}

/// What a call said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// What an honest server answers.
    Right,
    /// Nothing, or that there is nothing: never anything of somebody else.
    Nothing,
}

/// What a call left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Old,
    New,
}

/// A session that something is about to happen to.
pub(crate) struct Case {
    act: Act,
    owner: Principal,
    id: SessionId,
    new: SessionId,
    record: Record,
    changed: Record,
    seen: SystemTime,
}

impl Act {
    pub(crate) const ALL: [Self; 9] = [
        Self::Load,
        Self::Create,
        Self::Update,
        Self::Touch,
        Self::Renew,
        Self::Delete,
        Self::List,
        Self::Revoke,
        Self::RevokeAll,
    ];

    pub(crate) const fn writes(self) -> bool {
        !matches!(self, Self::Load | Self::List)
    }
}

impl Case {
    /// Prepared through a client that nothing happens to. Names are of one length, so that messages are.
    pub(crate) async fn new(act: Act, number: usize, store: &dyn SessionStore) -> Self {
        let owner = principal(&format!("{:>9}{number:08}", format!("{act:?}")));
        let (id, new, record) = (new_id(&owner), new_id(&owner), record(&owner));
        let changed = with_text(&record, "\"changed\"");
        let seen = record.last_seen() + HOUR / 2;
        if act != Act::Create {
            assert!(matches!(store.create(&id, &record, None).await.unwrap(), Create::Created { .. }));
        }
        Self { act, owner, id, new, record, changed, seen }
    }

    /// Calls the verb. Panics when the answer is wrong.
    pub(crate) async fn run(&self, store: &dyn SessionStore) -> Result<Said, StoreError> {
        let Self { owner, id, new, record, changed, seen, .. } = self;
        match self.act {
            Act::Load => Ok(match store.load(id).await? {
                Load::Live(stored) => {
                    assert_eq!(stored, Stored { record: record.clone(), revision: Revision::FIRST }, "wrong data");
                    Said::Right
                }
                Load::Gone(_) => Said::Nothing,
            }),
            Act::Create => Ok(match store.create(id, record, None).await? {
                Create::Created { evicted } if evicted.is_empty() => Said::Right,
                Create::Created { .. } | Create::Occupied | Create::LimitReached => Said::Nothing,
            }),
            Act::Update => Ok(match store.update(id, Revision::FIRST, changed).await? {
                Update::Saved(revision) if revision == Revision::FIRST.next() => Said::Right,
                Update::Conflict(stored) => self.own(&stored),
                Update::Saved(_) | Update::Gone(_) => Said::Nothing,
            }),
            Act::Touch => Ok(match store.touch(id, *seen, *seen + HOUR).await? {
                Touch::Touched => Said::Right,
                Touch::Gone(_) => Said::Nothing,
            }),
            Act::Renew => {
                let renewal = Renewal { old: id, new, expected: Revision::FIRST, record: changed, limit: None };
                Ok(match store.renew(renewal).await? {
                    Renew::Renewed { revision, .. } if revision == Revision::FIRST.next() => Said::Right,
                    Renew::Conflict(stored) => self.own(&stored),
                    Renew::Renewed { .. } | Renew::Occupied | Renew::Gone(_) | Renew::LimitReached => Said::Nothing,
                })
            }
            Act::Delete => said(store.delete(id, EndReason::Destroyed).await?),
            Act::Revoke => said(store.revoke(owner, record.handle()).await?),
            Act::RevokeAll => said(store.revoke_all(owner, None).await? == 1),
            Act::List => {
                let listing = store.list(owner, Page::FIRST).await?;
                let handles: Vec<Handle> = listing.sessions.iter().map(|session| session.handle).collect();
                assert!(handles.iter().all(|handle| *handle == record.handle()), "wrong data");
                said(handles.len() == 1)
            }
        }
    }

    /// What stands in the way is this session or nothing.
    fn own(&self, stored: &Stored) -> Said {
        assert_eq!(stored.record.handle(), self.record.handle(), "wrong data");
        Said::Nothing
    }

    /// What is there now: the old state or the new one, and all of it.
    ///
    /// A server may still do what it was asked before a cut; then this looks again, and that is once.
    pub(crate) async fn left(&self, store: &dyn SessionStore) -> Left {
        loop {
            let left = self.record_left(store).await;
            let listed = store.list(&self.owner, Page::FIRST).await.unwrap().sessions;
            if self.record_left(store).await != left {
                continue;
            }
            let handles: Vec<Handle> = listed.iter().map(|session| session.handle).collect();
            let gone = match self.act {
                Act::Create => left == Left::Old,
                Act::Delete | Act::Revoke | Act::RevokeAll => left == Left::New,
                Act::Load | Act::Update | Act::Touch | Act::Renew | Act::List => false,
            };
            let expected = if gone { Vec::new() } else { vec![self.record.handle()] };
            assert_eq!(handles, expected, "{:?} left {left:?}, and the list says otherwise", self.act);
            return left;
        }
    }

    async fn record_left(&self, store: &dyn SessionStore) -> Left {
        let Self { id, new, record, changed, seen, .. } = self;
        let there = live(store, id).await;
        // Asked last: when the old id is dead, the new one is live or the session is lost.
        let renewed = live(store, new).await.filter(|_| there.is_none());
        let old = Stored { record: record.clone(), revision: Revision::FIRST };
        let touched = record.clone().seen(*seen, *seen + HOUR);
        let written = |record: Record| Some(Stored { record, revision: Revision::FIRST.next() });
        match (self.act, there, renewed) {
            (Act::Create, None, None) => Left::Old,
            (Act::Create, Some(stored), None) if stored == old => Left::New,
            (Act::Renew, None, stored) if stored == written(changed.clone()) => Left::New,
            (Act::Update, stored, None) if stored == written(changed.clone()) => Left::New,
            (Act::Touch, Some(stored), None) if stored == (Stored { record: touched, ..old.clone() }) => Left::New,
            (Act::Delete | Act::Revoke | Act::RevokeAll, None, None) => Left::New,
            (act, Some(stored), None) if act != Act::Create && stored == old => Left::Old,
            (act, there, renewed) => panic!("{act:?} left neither the old nor the new: {there:?} {renewed:?}"),
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it ends arms that can fail")]
fn said(right: bool) -> Result<Said, StoreError> {
    Ok(if right { Said::Right } else { Said::Nothing })
}

async fn live(store: &dyn SessionStore, id: &SessionId) -> Option<Stored> {
    store.load(id).await.unwrap().live()
}
