//! [cloakroom](cloakroom_core) sessions for [axum]: a [layer](SessionLayer) that translates
//! headers, and the extractors. Everything that decides is in the core, the same for every framework.
//!
//! ```
//! use std::sync::Arc;
//!
//! use axum::{Router, routing::get};
//! use cloakroom_axum::{Session, SessionError, SessionLayer};
//! use cloakroom_core::{Key, Manager};
//!
//! const VISITS: Key<u64> = Key::new("visits");
//!
//! async fn visit(session: Session) -> Result<String, SessionError> {
//!     let visits = session.modify(VISITS, |visits| *visits += 1)?;
//!     Ok(format!("visit {visits}"))
//! }
//!
//! fn app(manager: Arc<Manager>) -> Router {
//!     Router::new().route("/", get(visit)).layer(SessionLayer::new(manager))
//! }
//! ```
//!
//! What a handler takes says what it may do:
//!
//! | extractor | without a session | counts as activity | may change it |
//! |---|---|---|---|
//! | [`Session`] | an absent one, created by the first change | yes | yes |
//! | `Option<Session>` | `None` | yes | yes |
//! | [`ReadSession`] | an empty one | no | no |
//! | [`LazySession`] | opened by [`load`](LazySession::load), if at all | once loaded | once loaded |
//!
//! # What becomes of the response
//!
//! * Changes are written before its head leaves. Its body is not touched and may stream.
//! * Where a handler opened the session, whatever through, the response gets `Vary: Cookie`.
//! * It gets a `Set-Cookie` where the session was created, renewed or made persistent, where it has
//!   ended, where a persistent one was touched, and where a self-contained one was changed or
//!   touched. With it comes `Cache-Control: no-store` in place of what the handler said.
//! * One that the handler marked `public` goes without the cookie of a touch, and stays public. Where
//!   a token must go out or a cookie be removed, it gets the `Set-Cookie` and is public no longer.
//! * Where tokens travel in [headers](cloakroom_core::Transport::Header), read the header in place of the cookie: the
//!   response has its name in `Vary`, tokens leave in a header of their own, and nothing is removed or sent again. A 401
//!   without a `WWW-Authenticate` gets one in the bearer transport.
//! * Where writing failed, an empty response with the [error's](SessionError) status takes its place.
//! * A handler that opened no session leaves it exactly as it is, for two allocations.
//!
//! # Beside `tower-sessions`
//!
//! With the feature `tower-sessions` there is `TowerSessionsStore`: an application that keeps `tower-sessions`, with
//! `axum-login` or without, has its sessions in one of our stores.

mod csrf;
mod error;
mod extract;
mod future;
mod gate;
mod headers;
mod layer;
mod require;
#[cfg(feature = "tower-sessions")]
mod tower_sessions;

pub use csrf::CsrfLayer;
pub use error::SessionError;
pub use extract::{LazySession, ReadSession, Session};
pub use future::SessionFuture;
pub use gate::GateService;
pub use layer::{SessionLayer, SessionService};
pub use require::RequireLayer;
#[cfg(feature = "tower-sessions")]
pub use tower_sessions::TowerSessionsStore;
