//! The model and the engine of cloakroom: no framework, no database, no network.
//!
//! A request's way through it is the order of the modules: the [transport](Transport), mostly a
//! [cookie](CookieSettings), carries a [token](Token); the [manager](Manager) checks it with the [key ring](KeyRing) and loads the
//! [record](Record) from a [store](SessionStore), or opens it with a [seal](Seal); the handler
//! reads and changes a [session](Session); when the response is there, a pure plan says what to
//! write and which cookie to set, and the [exchange](Exchange) does it.
//!
//! Applications use the facade crate `cloakroom`; this one is for adapters, stores and tests.

mod cookie;
mod transport;

mod csrf;
mod exchange;
mod foreign;
mod forgery;
mod require;

mod manager;
mod policy;
mod watch;

mod id;
mod keyring;
mod token;

pub mod envelope;
mod revocation;
mod seal;

pub mod layer;
mod memory;
mod record;
mod signals;
mod store;
mod sweeper;

mod session;

pub mod clock;
mod error;
mod events;

pub use clock::{Clock, SystemClock};
pub use cookie::{CookieError, CookieSettings, SameSite};
pub use csrf::Provenance;
pub use envelope::{Envelope, Suite};
pub use error::{InvalidPrincipal, SessionError, SessionErrorKind, StoreError, StoreErrorKind, WriteOutcome};
pub use events::{Event, EventSink, TracingSink};
pub use exchange::{Exchange, Finish, Outcome};
pub use foreign::{ForeignExpiry, ForeignRecord, ForeignSessions};
pub use forgery::{Csrf, CsrfError, CsrfRefusal, CsrfRequest, CsrfVerdict};
pub use id::{Handle, InvalidHandle, Principal, SessionId};
pub use keyring::{KEY_COMMAND, KeyError, KeyId, KeyRing, RingKey, SecretKey};
pub use manager::{Backend, BuildError, Directory, Manager, ManagerBuilder};
pub use memory::MemoryStore;
pub use policy::{MAX_LIFETIME, OutagePolicy, Policy, PolicyError, Profile};
pub use record::{Assurance, Client, DecodeError, Record, Value};
pub use require::{LocalPath, NotLocal, Require};
pub use revocation::Revocations;
pub use seal::{Seal, SealError};
pub use session::{Flash, Key, ReadSession, Session, SessionKey, State, Transaction};
pub use signals::{Signal, Signaller, Signals};
pub use store::{
    Create, Durability, EndReason, Ended, Excess, Listing, Load, Page, PageCursor, Probe, Renew, Renewal, Revision,
    SessionLimit, SessionStore, Stored, Summary, Swept, Touch, Update, Verb,
};
pub use sweeper::Sweeper;
pub use token::{OsRandom, Random, RandomError, Rejection, Token};
pub use transport::{HeaderError, HeaderSettings, RequestHeader, ResponseHeader, Transport};
pub use watch::{SessionWatch, WatchEnd};
