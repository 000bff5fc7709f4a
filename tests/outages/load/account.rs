//! The account of a load: what the store said of every session, and what it may say after that.
//!
//! Whoever calls the store first takes a [`Before`]: only what was acknowledged before a call began
//! binds its answer. A **line** is one session with all the ids that its renewals gave it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use cloakroom_core::{
    Clock as _, Handle, Listing, Principal, Record, Revision, SessionId, StoreError, StoreErrorKind, Stored,
    SystemClock, Value, Verb, WriteOutcome,
};

/// What a store must keep through every outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Promise {
    /// What was acknowledged as ended never lives again.
    EndedStaysEnded,
    /// What a read found ended is not found alive later. Weaker stores let a read see what a failover
    /// takes back; only what was acknowledged is safe from that.
    GoneStaysGone,
    /// What an acknowledged update wrote is there, in its order.
    UpdatesAreKept,
    /// A list does not hold what was acknowledged as ended.
    ListsForgetTheEnded,
    /// A session that nobody ended is there.
    SessionsAreKept,
    /// Every record, list and value is the one asked for.
    RecordsAreTheirOwn,
    /// Of the ids of a session exactly one is live.
    OneIdIsLive,
    /// What the store says it did not do is not done.
    NotDoneIsNotDone,
    /// Every error is of a kind that the contract names for an outage.
    ErrorsAreDocumented,
    /// Every call comes back.
    CallsReturn,
    /// Every answer is one that this call can have.
    AnswersMakeSense,
}

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub(crate) struct Breach {
    pub(crate) promise: Promise,
    pub(crate) what: String,
}

/// The number of a line, of a writer, of a principal.
pub(crate) type LineNo = usize;
pub(crate) type WriterNo = usize;
pub(crate) type OwnerNo = usize;

pub(crate) struct Account {
    books: Mutex<Books>,
    writers: usize,
}

struct Books {
    lines: Vec<Line>,
    /// Those whose end nobody acknowledged. A call looks through no others, so that a long load takes
    /// no more of the machine than a short one.
    open: BTreeSet<LineNo>,
    by_handle: HashMap<Handle, LineNo>,
    owners: Vec<Owner>,
    /// The last number that each writer used, and those that the store said it did not write.
    tried: Vec<u64>,
    refuted: Vec<HashSet<u64>>,
    ended: Vec<LineNo>,
    breaches: Vec<Breach>,
}

struct Line {
    handle: Handle,
    owner: Option<OwnerNo>,
    /// Goes up when a change of owner begins and when it is over; odd outcomes leave it unclear.
    owner_epoch: u64,
    owner_unclear: u32,
    born: Born,
    ids: Vec<Known>,
    /// The last id that is known to have lived.
    current: usize,
    moves: Tally,
    ends: Tally,
    /// Acknowledged: its place among those that ended.
    ended: Option<usize>,
    /// Seen, and acknowledged to nobody.
    gone: bool,
    revision: u64,
    acked: Vec<u64>,
    /// The record that was seen last.
    last: Stored,
    /// Who was told that they wrote this revision, and with which number.
    written: HashMap<u64, (WriterNo, u64)>,
    /// A promise was broken here already: what follows from it is not counted again.
    broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Born {
    /// Under way, or nobody knows.
    Perhaps,
    Yes,
    /// The store said that it did not create it.
    No,
}

struct Known {
    id: SessionId,
    state: IdState,
    /// Whoever filed the session under it was told so.
    acknowledged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdState {
    Perhaps,
    Lived,
    /// Acknowledged.
    Over,
    /// Seen.
    Gone,
    Never,
}

/// What a broken promise is told with.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, owner_unclear, born, current, moves, ends, ended, gone, revision, .. } = self;
        let told = |known: &Known| if known.acknowledged { "acknowledged" } else { "seen or not" };
        let ids: Vec<_> = self.ids.iter().map(|known| (known.state, told(known))).collect();
        write!(f, "born {born:?}, ids {ids:?} of which {current} is current, renewals {moves:?}, ends {ends:?}, ")?;
        write!(f, "ended {ended:?}, gone {gone}, owner {owner:?}, {owner_unclear} unclear, revision {revision}")
    }
}

/// Calls of one kind on a line: begun, under way, and of unknown outcome.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    begun: u64,
    open: u32,
    unknown: u32,
}

impl Tally {
    fn begin(&mut self) {
        self.begun += 1;
        self.open += 1;
    }

    fn close(&mut self, unknown: bool) {
        self.open -= 1;
        self.unknown += u32::from(unknown);
    }

    fn is_possible(self) -> bool {
        self.open > 0 || self.unknown > 0
    }
}

struct Owner {
    principal: Principal,
    /// Calls of `revoke_all` under way: the lines that each may end.
    revokes: Vec<(u64, Vec<LineNo>)>,
    /// A `revoke_all` of unknown outcome may come at any time: nothing new is filed here.
    retired: bool,
}

/// What was certain when a call began.
#[derive(Clone)]
pub(crate) struct Before {
    pub(crate) line: LineNo,
    pub(crate) id: SessionId,
    /// Acknowledged, or only seen.
    over: bool,
    gone: bool,
    known: bool,
    current: usize,
    revision: u64,
    acked: Vec<u64>,
    ends: Tally,
    moves: Tally,
}

impl Before {
    /// Whether the session, or this id of it, had ended.
    pub(crate) fn is_over(&self) -> bool {
        self.over || self.gone
    }
}

/// What was certain when a list of a principal's sessions began.
pub(crate) struct BeforeList {
    pub(crate) principal: Principal,
    owner: OwnerNo,
    expected: Vec<(LineNo, u64, u64)>,
    /// How many had ended.
    ended: usize,
}

/// A `revoke_all` that is under way.
pub(crate) struct Revoking {
    pub(crate) principal: Principal,
    owner: OwnerNo,
    number: u64,
    victims: Vec<(LineNo, u64)>,
}

/// A renewal that is under way.
pub(crate) struct Moving {
    pub(crate) new: SessionId,
    place: usize,
    owner: Option<Option<OwnerNo>>,
}

/// What is known of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Live,
    /// Somebody renews it at this moment.
    Moving,
    /// A write of unknown outcome decides.
    Unknown,
    Over,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Done,
    /// The answer is that there was nothing to do.
    Refused,
    Failed(WriteOutcome),
}

impl Account {
    pub(crate) fn new(writers: usize, owners: usize) -> Self {
        let owners = (0..owners).map(|number| Owner::new(number, 0)).collect();
        let books = Books {
            lines: Vec::new(),
            open: BTreeSet::new(),
            by_handle: HashMap::new(),
            owners,
            tried: vec![0; writers],
            refuted: vec![HashSet::new(); writers],
            ended: Vec::new(),
            breaches: Vec::new(),
        };
        Self { books: Mutex::new(books), writers }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    pub(crate) fn breaches(&self) -> Vec<Breach> {
        self.books().breaches.clone()
    }

    pub(crate) fn breach(&self, promise: Promise, what: impl Into<String>) {
        self.books().breaches.push(Breach { promise, what: what.into() });
    }

    pub(crate) fn lines(&self) -> usize {
        self.books().lines.len()
    }

    /// A line that ended, chosen by this number.
    pub(crate) fn ended_line(&self, choice: u64) -> Option<LineNo> {
        let books = self.books();
        let count = books.ended.len() as u64;
        (count > 0).then(|| books.ended[(choice % count) as usize])
    }

    /// A principal to sign in, chosen by this number; one that is retired is replaced.
    pub(crate) fn owner(&self, choice: u64) -> OwnerNo {
        let mut books = self.books();
        let live: Vec<OwnerNo> = (0..books.owners.len()).filter(|owner| !books.owners[*owner].retired).collect();
        live.get((choice % live.len().max(1) as u64) as usize).copied().unwrap_or_else(|| books.add_owner())
    }

    /// The number with which this writer makes its next change.
    pub(crate) fn next_number(&self, writer: WriterNo) -> u64 {
        let mut books = self.books();
        books.tried[writer] += 1;
        books.tried[writer]
    }

    /// A new session that is about to be filed.
    pub(crate) fn conceive(
        &self,
        handle: Handle,
        owner: Option<OwnerNo>,
        id: impl FnOnce(Option<&Principal>) -> SessionId,
    ) -> (Before, Record) {
        let mut books = self.books();
        let principal = owner.map(|owner| books.owners[owner].principal.clone());
        let id = id(principal.as_ref());
        let record = record(handle, principal.as_ref()).with_values([Value {
            key: "who",
            encoded: format!("\"{handle}\"").as_bytes(),
            expires: 0,
        }]);
        let line = books.lines.len();
        books.lines.push(Line {
            handle,
            owner,
            owner_epoch: 0,
            owner_unclear: 0,
            born: Born::Perhaps,
            ids: vec![Known { id, state: IdState::Perhaps, acknowledged: false }],
            current: 0,
            moves: Tally::default(),
            ends: Tally::default(),
            ended: None,
            gone: false,
            revision: 0,
            acked: vec![0; self.writers],
            last: Stored { record: record.clone(), revision: Revision::FIRST },
            written: HashMap::new(),
            broken: false,
        });
        books.open.insert(line);
        books.by_handle.insert(handle, line);
        if let Some(owner) = owner {
            books.threaten(line, owner);
        }
        (books.before(line, 0), record)
    }

    pub(crate) fn created(&self, before: &Before, ending: Ending) {
        let mut books = self.books();
        let line = &mut books.lines[before.line];
        match ending {
            Ending::Done => {
                line.born = Born::Yes;
                line.ids[0].state = IdState::Lived;
                line.ids[0].acknowledged = true;
                line.revision = line.revision.max(Revision::FIRST.as_u64());
            }
            Ending::Refused | Ending::Failed(WriteOutcome::NotDone) => {
                line.born = Born::No;
                line.ids[0].state = IdState::Never;
            }
            Ending::Failed(WriteOutcome::Unknown) => {}
        }
    }

    /// For a call on the session's current id.
    pub(crate) fn before(&self, line: LineNo) -> Before {
        let books = self.books();
        books.before(line, books.lines[line].current)
    }

    /// For another call on the same id.
    pub(crate) fn again(&self, before: &Before) -> Before {
        let books = self.books();
        let place = books.lines[before.line].ids.iter().position(|known| known.id == before.id).unwrap();
        books.before(before.line, place)
    }

    /// For a call on an id that the session has or had, chosen by this number, as of a request that was slow.
    pub(crate) fn before_any(&self, line: LineNo, choice: u64) -> Before {
        let books = self.books();
        let kept = &books.lines[line];
        let known: Vec<usize> = (0..kept.ids.len()).filter(|place| kept.ids[*place].acknowledged).collect();
        let place = known.get((choice % known.len().max(1) as u64) as usize).copied().unwrap_or(kept.current);
        books.before(line, place)
    }

    /// What somebody read of a session while it lived.
    pub(crate) fn stale(&self, line: LineNo) -> Stored {
        self.books().lines[line].last.clone()
    }

    /// For calls on every id that the session has, had or may have.
    pub(crate) fn before_each(&self, line: LineNo) -> Vec<Before> {
        let books = self.books();
        (0..books.lines[line].ids.len()).map(|place| books.before(line, place)).collect()
    }

    /// Whether the session can be worked with.
    pub(crate) fn fate(&self, line: LineNo) -> Fate {
        let books = self.books();
        let line = &books.lines[line];
        if line.ended.is_some() || line.gone || line.broken || line.born == Born::No {
            Fate::Over
        } else if line.born == Born::Yes && line.ids[line.current].state == IdState::Lived {
            Fate::Live
        } else if line.moves.open > 0 {
            Fate::Moving
        } else {
            Fate::Unknown
        }
    }

    pub(crate) fn handle(&self, line: LineNo) -> Handle {
        self.books().lines[line].handle
    }

    /// Whose it is, if it is certain.
    pub(crate) fn principal(&self, line: LineNo) -> Option<Principal> {
        let books = self.books();
        let owner = books.lines[line].owner?;
        (books.lines[line].owner_unclear == 0).then(|| books.owners[owner].principal.clone())
    }

    /// A call answered with this live record.
    pub(crate) fn saw_live(&self, before: &Before, stored: &Stored) {
        self.books().saw_live(before, stored);
    }

    /// A call answered that there is no live record. Whether another id of the session may be live.
    pub(crate) fn saw_gone(&self, before: &Before) -> bool {
        self.books().saw_gone(before)
    }

    /// A call answered that the session is live, and nothing else.
    pub(crate) fn saw_alive(&self, before: &Before, verb: Verb) {
        self.books().refuse_revival(before, verb);
    }

    /// A write of this number was acknowledged at this revision.
    pub(crate) fn saved(&self, before: &Before, expected: Revision, revision: Revision, by: (WriterNo, u64)) {
        self.books().saved(before, expected, revision, by);
    }

    /// A write of this number was answered with anything but success.
    pub(crate) fn not_saved(&self, (writer, number): (WriterNo, u64), ending: Ending) {
        if matches!(ending, Ending::Refused | Ending::Failed(WriteOutcome::NotDone)) {
            self.books().refuted[writer].insert(number);
        }
    }

    /// A renewal of this record begins, to another owner perhaps.
    pub(crate) fn moving(
        &self,
        before: &Before,
        record: &Record,
        owner: Option<Option<OwnerNo>>,
        id: impl FnOnce(Option<&Principal>) -> SessionId,
    ) -> (Moving, Option<Principal>) {
        let mut books = self.books();
        let next = owner.unwrap_or_else(|| books.owner_of(record));
        let principal = next.map(|owner| books.owners[owner].principal.clone());
        let new = id(principal.as_ref());
        let line = &mut books.lines[before.line];
        line.moves.begin();
        line.ids.push(Known { id: new, state: IdState::Perhaps, acknowledged: false });
        let place = line.ids.len() - 1;
        if owner.is_some() {
            line.owner_epoch += 1;
            line.owner_unclear += 1;
        }
        if let Some(next) = next {
            books.threaten(before.line, next);
        }
        (Moving { new, place, owner }, principal)
    }

    pub(crate) fn moved(&self, before: &Before, moving: &Moving, ending: Ending) {
        let mut books = self.books();
        let line = &mut books.lines[before.line];
        line.moves.close(ending == Ending::Failed(WriteOutcome::Unknown));
        match ending {
            Ending::Done => {
                let old = before.id;
                for known in &mut line.ids {
                    if known.id == old {
                        known.state = IdState::Over;
                    }
                }
                if line.ids[moving.place].state == IdState::Perhaps {
                    line.ids[moving.place].state = IdState::Lived;
                }
                line.ids[moving.place].acknowledged = true;
                line.current = line.current.max(moving.place);
            }
            Ending::Refused | Ending::Failed(WriteOutcome::NotDone) => {
                if line.ids[moving.place].state == IdState::Perhaps {
                    line.ids[moving.place].state = IdState::Never;
                }
            }
            Ending::Failed(WriteOutcome::Unknown) => {}
        }
        if let Some(owner) = moving.owner {
            line.owner_epoch += 1;
            if ending != Ending::Failed(WriteOutcome::Unknown) {
                line.owner_unclear -= 1;
            }
            if ending == Ending::Done {
                line.owner = owner;
            }
        }
    }

    /// Somebody begins to end the session.
    pub(crate) fn ending(&self, line: LineNo) {
        self.books().lines[line].ends.begin();
    }

    pub(crate) fn end(&self, before: &Before, ending: Ending) {
        let mut books = self.books();
        let line = &mut books.lines[before.line];
        line.ends.close(ending == Ending::Failed(WriteOutcome::Unknown));
        if ending == Ending::Done && line.born == Born::Yes {
            books.over(before.line);
        }
    }

    /// A `delete` of this id was answered. That there was nothing to end is said of what it was renewed to as well; but
    /// where a failover took back the renewal to this id, which was seen and not acknowledged, not of the one before.
    pub(crate) fn deleted(&self, before: &Before, ending: Ending) {
        let acknowledged = self.books().known(before).acknowledged;
        if ending == Ending::Refused && acknowledged {
            return self.end(before, Ending::Done);
        }
        self.end(before, ending);
        let mut books = self.books();
        let known = books.known(before);
        if ending == Ending::Refused && known.state != IdState::Never {
            known.state = IdState::Over;
        }
    }

    pub(crate) fn revoking(&self, owner: OwnerNo) -> Revoking {
        let mut books = self.books();
        let mut threatened = Vec::new();
        let mut victims = Vec::new();
        let Books { lines, open, .. } = &mut *books;
        for number in open.iter() {
            let line = &mut lines[*number];
            if line.owner_unclear > 0 || line.owner == Some(owner) {
                line.ends.begin();
                threatened.push(*number);
                if line.owner_unclear == 0 && line.born == Born::Yes {
                    victims.push((*number, line.owner_epoch));
                }
            }
        }
        let number = books.owners[owner].revokes.last().map_or(0, |(number, _)| number + 1);
        books.owners[owner].revokes.push((number, threatened));
        Revoking { principal: books.owners[owner].principal.clone(), owner, number, victims }
    }

    pub(crate) fn revoked(&self, revoking: &Revoking, ending: Ending) {
        let mut books = self.books();
        let revokes = &mut books.owners[revoking.owner].revokes;
        let place = revokes.iter().position(|(number, _)| *number == revoking.number).unwrap();
        let (_, threatened) = revokes.remove(place);
        // Those that came meanwhile may have been ended as well.
        for line in threatened {
            books.lines[line].ends.close(ending != Ending::Failed(WriteOutcome::NotDone));
        }
        match ending {
            Ending::Done | Ending::Refused => {
                for (line, epoch) in &revoking.victims {
                    if books.lines[*line].owner_epoch == *epoch {
                        books.over(*line);
                    }
                }
            }
            Ending::Failed(WriteOutcome::Unknown) => books.owners[revoking.owner].retired = true,
            Ending::Failed(WriteOutcome::NotDone) => {}
        }
    }

    pub(crate) fn before_list(&self, owner: OwnerNo) -> BeforeList {
        let books = self.books();
        let is_expected = |line: &Line| {
            let owned = line.owner == Some(owner) && line.owner_unclear == 0;
            owned && line.born == Born::Yes && !line.broken && !line.gone && !line.ends.is_possible()
        };
        let lines = books.open.iter().map(|number| (*number, &books.lines[*number]));
        let expected = lines.filter(|(_, line)| is_expected(line));
        let expected = expected.map(|(number, line)| (number, line.owner_epoch, line.ends.begun)).collect();
        BeforeList { principal: books.owners[owner].principal.clone(), owner, expected, ended: books.ended.len() }
    }

    /// All pages of the list.
    pub(crate) fn listed(&self, before: &BeforeList, pages: &[Listing]) {
        let mut books = self.books();
        let mut listed = HashSet::new();
        for summary in pages.iter().flat_map(|page| &page.sessions) {
            let Some(line) = books.by_handle.get(&summary.handle).copied() else {
                let what = format!("a list holds a session {} that nobody filed", summary.handle);
                books.breaches.push(Breach { promise: Promise::RecordsAreTheirOwn, what });
                continue;
            };
            listed.insert(line);
            if books.lines[line].ended.is_some_and(|place| place < before.ended) {
                books.break_line(line, Promise::ListsForgetTheEnded, "a list holds it after its end was acknowledged");
            }
            let Line { owner, owner_unclear, owner_epoch, .. } = &books.lines[line];
            if *owner_unclear == 0 && *owner_epoch == 0 && *owner != Some(before.owner) {
                books.break_line(line, Promise::RecordsAreTheirOwn, "it is in the list of another principal");
            }
        }
        for (line, epoch, begun) in &before.expected {
            let kept = &books.lines[*line];
            if !listed.contains(line) && kept.owner_epoch == *epoch && kept.ends.begun == *begun {
                books.break_line(*line, Promise::SessionsAreKept, "it is live and not in its owner's list");
            }
        }
    }

    /// Books an error. Whether it is one that an outage may cause.
    pub(crate) fn failed(&self, verb: Verb, error: &StoreError) {
        let documented = matches!(error.kind(), StoreErrorKind::Unavailable | StoreErrorKind::Timeout);
        if !documented || error.verb() != verb {
            let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
            let what = format!("{verb} failed as {:?} of {}: {error}{source}", error.kind(), error.verb());
            self.breach(Promise::ErrorsAreDocumented, what);
        }
    }

    /// After everything: how many ids of this line answered that they are live.
    pub(crate) fn settle(&self, line: LineNo, live: usize) {
        let mut books = self.books();
        let kept = &books.lines[line];
        if live > 1 {
            books.break_line(line, Promise::OneIdIsLive, format!("{live} of its ids are live"));
        } else if live == 0 && kept.born == Born::Yes && kept.ended.is_none() && !kept.gone && !kept.ends.is_possible()
        {
            books.break_line(line, Promise::SessionsAreKept, "nobody ended it, and none of its ids is live");
        }
    }
}

impl Owner {
    fn new(number: usize, generation: usize) -> Self {
        let principal = Principal::new(format!("load-{number}-{generation}")).unwrap();
        Self { principal, revokes: Vec::new(), retired: false }
    }
}

impl Books {
    fn add_owner(&mut self) -> OwnerNo {
        let number = self.owners.len();
        self.owners.push(Owner::new(number, 1));
        number
    }

    fn owner_of(&self, record: &Record) -> Option<OwnerNo> {
        self.owners.iter().position(|owner| Some(&owner.principal) == record.principal())
    }

    /// A session comes to this owner: a `revoke_all` that is under way may end it.
    fn threaten(&mut self, line: LineNo, owner: OwnerNo) {
        let tally = &mut self.lines[line].ends;
        for (_, threatened) in &mut self.owners[owner].revokes {
            tally.begin();
            threatened.push(line);
        }
    }

    fn before(&self, line: LineNo, place: usize) -> Before {
        let kept = &self.lines[line];
        let Known { id, state, .. } = kept.ids[place];
        Before {
            line,
            id,
            over: kept.ended.is_some() || state == IdState::Over,
            gone: kept.gone || state == IdState::Gone,
            known: kept.born == Born::Yes && state == IdState::Lived,
            current: kept.current,
            revision: kept.revision,
            acked: kept.acked.clone(),
            ends: kept.ends,
            moves: kept.moves,
        }
    }

    fn known(&mut self, before: &Before) -> &mut Known {
        let ids = &mut self.lines[before.line].ids;
        ids.iter_mut().find(|known| known.id == before.id).unwrap()
    }

    fn over(&mut self, line: LineNo) {
        if self.open.remove(&line) {
            self.lines[line].ended = Some(self.ended.len());
            self.ended.push(line);
        }
    }

    fn break_line(&mut self, line: LineNo, promise: Promise, what: impl Into<String>) {
        if !std::mem::replace(&mut self.lines[line].broken, true) {
            let what = format!("session {line}: {} ({:?})", what.into(), self.lines[line]);
            self.breaches.push(Breach { promise, what });
        }
    }

    /// Whether the answer may be used: the session had not ended.
    fn refuse_revival(&mut self, before: &Before, verb: Verb) -> bool {
        if before.over {
            let what = format!("{verb} found it alive after its end was acknowledged");
            self.break_line(before.line, Promise::EndedStaysEnded, what);
        } else if before.gone {
            self.break_line(before.line, Promise::GoneStaysGone, format!("{verb} found it alive after it was gone"));
        }
        let state = self.lines[before.line].ids.iter().find(|known| known.id == before.id).unwrap().state;
        if state == IdState::Never {
            let what = format!("{verb} found an id that the store had said it did not file");
            self.break_line(before.line, Promise::NotDoneIsNotDone, what);
        }
        !before.is_over() && state != IdState::Never
    }

    fn saw_live(&mut self, before: &Before, stored: &Stored) {
        if !self.is_own(before, &stored.record) {
            let what = "a record of another session was delivered";
            return self.break_line(before.line, Promise::RecordsAreTheirOwn, what);
        }
        if !self.refuse_revival(before, Verb::Load) {
            return;
        }
        self.lines[before.line].last = stored.clone();
        self.check_values(before, stored);
        self.adopt(before, &stored.record);
    }

    fn is_own(&self, before: &Before, record: &Record) -> bool {
        let line = &self.lines[before.line];
        let who = record.values().find(|value| value.key == "who").map(|value| value.encoded);
        let owner = line.owner.map(|owner| &self.owners[owner].principal);
        let owned = line.owner_unclear > 0 || line.owner_epoch > 0 || record.principal() == owner;
        record.handle() == line.handle && who == Some(format!("\"{}\"", line.handle).as_bytes()) && owned
    }

    fn check_values(&mut self, before: &Before, stored: &Stored) {
        let revision = stored.revision.as_u64();
        if revision < before.revision {
            let what = format!("it is at revision {revision} after {} was acknowledged", before.revision);
            return self.break_line(before.line, Promise::UpdatesAreKept, what);
        }
        let seen = numbers(&stored.record, before.acked.len());
        let written = self.lines[before.line].written.get(&revision).copied();
        for (writer, number) in seen.into_iter().enumerate() {
            if number < before.acked[writer] {
                let what =
                    format!("number {} of writer {writer} was acknowledged, {number} is there", before.acked[writer]);
                self.break_line(before.line, Promise::UpdatesAreKept, what);
            } else if written.is_some_and(|(wrote, acked)| wrote == writer && acked != number) {
                let what = format!("revision {revision} holds number {number} of writer {writer}, who wrote another");
                self.break_line(before.line, Promise::UpdatesAreKept, what);
            } else if number > self.tried[writer] {
                let what = format!("it holds number {number} of writer {writer}, who never wrote it");
                self.break_line(before.line, Promise::RecordsAreTheirOwn, what);
            } else if self.refuted[writer].contains(&number) {
                let what =
                    format!("number {number} of writer {writer} is there, which the store had said it did not write");
                self.break_line(before.line, Promise::NotDoneIsNotDone, what);
            }
        }
    }

    /// An id of unknown fate turned out to be live: the session goes on under it.
    fn adopt(&mut self, before: &Before, record: &Record) {
        let owner = self.owner_of(record);
        let line = &mut self.lines[before.line];
        let place = line.ids.iter().position(|known| known.id == before.id).unwrap();
        if line.ids[place].state == IdState::Perhaps {
            line.ids[place].state = IdState::Lived;
            line.born = Born::Yes;
            if place > line.current {
                line.ids[line.current].state = IdState::Gone;
                line.current = place;
            }
            if line.owner_unclear > 0 {
                line.owner = owner;
            }
        }
    }

    fn saw_gone(&mut self, before: &Before) -> bool {
        let line = &mut self.lines[before.line];
        let moved =
            before.moves.is_possible() || line.moves.begun != before.moves.begun || line.current != before.current;
        let ended =
            line.ended.is_some() || line.gone || before.ends.is_possible() || line.ends.begun != before.ends.begun;
        let place = line.ids.iter().position(|known| known.id == before.id).unwrap();
        if !before.known {
            return moved;
        }
        if !moved && !ended {
            self.break_line(before.line, Promise::SessionsAreKept, "nobody ended it, and it is gone");
            return false;
        }
        if line.ids[place].state == IdState::Lived {
            line.ids[place].state = IdState::Gone;
        }
        line.gone |= !moved;
        moved
    }

    fn saved(&mut self, before: &Before, expected: Revision, revision: Revision, (writer, number): (WriterNo, u64)) {
        if !self.refuse_revival(before, Verb::Update) {
            return;
        }
        if revision != expected.next() {
            let what =
                format!("a write of revision {} was acknowledged as {}", expected.as_u64() + 1, revision.as_u64());
            self.break_line(before.line, Promise::AnswersMakeSense, what);
        }
        let line = &mut self.lines[before.line];
        let other = line.written.insert(revision.as_u64(), (writer, number));
        line.acked[writer] = line.acked[writer].max(number);
        line.revision = line.revision.max(revision.as_u64());
        if other.is_some() {
            let what = format!("two writers were told that they wrote revision {}", revision.as_u64());
            self.break_line(before.line, Promise::UpdatesAreKept, what);
        }
    }
}

/// A record of this handle and owner that outlives every test.
fn record(handle: Handle, principal: Option<&Principal>) -> Record {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let record = Record::new(handle, SystemClock.now(), HOUR, 8 * HOUR);
    match principal {
        Some(principal) => record.owned_by(principal.clone()),
        None => record,
    }
}

/// The last number of each writer.
fn numbers(record: &Record, writers: usize) -> Vec<u64> {
    let mut numbers = vec![0; writers];
    for value in record.values() {
        let writer = value.key.strip_prefix('w').and_then(|writer| writer.parse::<usize>().ok());
        let number = std::str::from_utf8(value.encoded).ok().and_then(|number| number.parse().ok());
        if let (Some(writer), Some(number)) = (writer, number)
            && writer < writers
        {
            numbers[writer] = number;
        }
    }
    numbers
}

/// The record with this number of this writer in it.
pub(crate) fn with_number(record: &Record, (writer, number): (WriterNo, u64)) -> Record {
    let (key, encoded) = (format!("w{writer}"), number.to_string());
    let own = Value { key: &key, encoded: encoded.as_bytes(), expires: 0 };
    let values: Vec<Value<'_>> = record.values().filter(|value| value.key != key).chain([own]).collect();
    record.clone().with_values(values)
}

/// The record with the values of this one, of another owner.
pub(crate) fn handed_over(stored: &Record, principal: Option<&Principal>) -> Record {
    record(stored.handle(), principal).with_values(stored.values())
}
