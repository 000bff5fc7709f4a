//! What happened, as values, for logs, metrics and audits.

use std::fmt;
use std::time::Duration;

use crate::error::{SessionErrorKind, StoreError, StoreErrorKind};
use crate::forgery::CsrfRefusal;
use crate::id::{Handle, Principal};
use crate::store::{EndReason, Verb};
use crate::token::Rejection;

/// Something worth knowing. Names sessions by handle; holds no token, id, key or value.
///
/// The names follow OWASP's logging vocabulary where it has one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A presented token was refused. Many of one client are somebody guessing.
    TokenRejected {
        /// Why.
        reason: Rejection,
    },
    /// A request that may have been made by another site was refused by a CSRF middleware.
    RequestForged {
        /// Why.
        reason: CsrfRefusal,
        /// Whether it was let through all the same, as [`Csrf::report_only`](crate::Csrf::report_only) says.
        let_through: bool,
    },
    /// A session began.
    Created {
        /// Which.
        handle: Handle,
    },
    /// Somebody signed in, or proved again who they are.
    SignedIn {
        /// Which session.
        handle: Handle,
        /// Who. Personal data: the bundled sink leaves it out.
        principal: &'a Principal,
    },
    /// A session got a new token; the old one is dead.
    Renewed {
        /// Which.
        handle: Handle,
    },
    /// A session ended.
    Ended {
        /// Which.
        handle: Handle,
        /// Why.
        reason: EndReason,
    },
    /// All sessions of somebody were ended from outside.
    RevokedAll {
        /// Whose. Personal data: the bundled sink leaves it out.
        principal: &'a Principal,
        /// How many; unknown for self-contained sessions.
        ended: Option<u64>,
    },
    /// A sign-in was refused because the principal has as many sessions as allowed.
    LimitReached {
        /// Which session would have been signed in.
        handle: Handle,
    },
    /// Another request wrote first; the changes are made again on what it wrote.
    Conflict {
        /// Which session.
        handle: Handle,
        /// The how manieth time in this request.
        attempt: u32,
    },
    /// The session was ended while a request ran, and the request's changes went with it.
    ChangesDropped {
        /// Which session.
        handle: Handle,
        /// Why it ended, where known.
        reason: Option<EndReason>,
    },
    /// A request's changes could not be written.
    CommitFailed {
        /// Which session.
        handle: Option<Handle>,
        /// In which way.
        kind: SessionErrorKind,
    },
    /// The store gave no answer about a presented token.
    StoreUnavailable {
        /// How.
        kind: StoreErrorKind,
    },
    /// The idle deadline could not be pushed. The request goes on.
    TouchFailed {
        /// How.
        kind: StoreErrorKind,
    },
    /// A response was marked as public; it went out without the cookie of a touch, or as `no-store`
    /// with the token that had to go with it.
    PublicResponse {
        /// Whether its `Cache-Control` was replaced because the cookie had to go with it.
        downgraded: bool,
    },
    /// What had expired was removed, by [`Sweeper`](crate::Sweeper).
    Swept {
        /// How many records and tombstones.
        removed: u64,
    },
    /// What has expired could not be removed; it is expired all the same. The sweeper goes on.
    SweepFailed {
        /// What the store said.
        error: &'a StoreError,
        /// How often in a row.
        failures: u32,
        /// How long until the next attempt.
        pause: Duration,
    },
    /// A call to the store, by [`ObserveLayer`](crate::layer::ObserveLayer).
    StoreCall {
        /// Which verb.
        verb: Verb,
        /// How long it took.
        elapsed: Duration,
        /// How it failed, if it did.
        error: Option<StoreErrorKind>,
    },
}

impl Event<'_> {
    /// A stable name for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TokenRejected { .. } => "token_rejected",
            Self::RequestForged { .. } => "request_forged",
            Self::Created { .. } => "session_created",
            Self::SignedIn { .. } => "session_signed_in",
            Self::Renewed { .. } => "session_renewed",
            Self::Ended { .. } => "session_ended",
            Self::RevokedAll { .. } => "sessions_revoked",
            Self::LimitReached { .. } => "excess_sessions_exceeded",
            Self::Conflict { .. } => "session_conflict",
            Self::ChangesDropped { .. } => "session_changes_dropped",
            Self::CommitFailed { .. } => "session_commit_failed",
            Self::StoreUnavailable { .. } => "session_store_unavailable",
            Self::TouchFailed { .. } => "session_touch_failed",
            Self::PublicResponse { .. } => "session_public_response",
            Self::Swept { .. } => "sessions_swept",
            Self::SweepFailed { .. } => "session_sweep_failed",
            Self::StoreCall { .. } => "session_store_call",
        }
    }
}

/// Takes events. Called while a request waits: hand slow work to somebody else.
pub trait EventSink: fmt::Debug + Send + Sync + 'static {
    /// Takes one event.
    fn emit(&self, event: &Event<'_>);
}

/// Writes events to `tracing`, target `cloakroom`, without personal data.
///
/// What an operator must act on is `WARN`, the life of sessions `INFO`, the rest `DEBUG` and `TRACE`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingSink;

impl EventSink for TracingSink {
    fn emit(&self, event: &Event<'_>) {
        let name = event.name();
        match *event {
            Event::TokenRejected { reason } => tracing::debug!(target: "cloakroom", reason = reason.as_str(), "{name}"),
            Event::RequestForged { reason, let_through } => {
                tracing::warn!(target: "cloakroom", reason = reason.as_str(), let_through, "{name}");
            }
            Event::Created { handle } | Event::SignedIn { handle, .. } | Event::Renewed { handle } => {
                tracing::info!(target: "cloakroom", %handle, "{name}");
            }
            Event::Ended { handle, reason } => tracing::info!(target: "cloakroom", %handle, %reason, "{name}"),
            Event::RevokedAll { ended, .. } => tracing::info!(target: "cloakroom", ended, "{name}"),
            Event::LimitReached { handle } => tracing::info!(target: "cloakroom", %handle, "{name}"),
            Event::Conflict { handle, attempt } => tracing::debug!(target: "cloakroom", %handle, attempt, "{name}"),
            Event::ChangesDropped { handle, reason } => {
                tracing::warn!(target: "cloakroom", %handle, reason = reason.map(EndReason::as_str), "{name}");
            }
            Event::CommitFailed { handle, kind } => {
                let handle = handle.map(tracing::field::display);
                tracing::warn!(target: "cloakroom", handle, ?kind, "{name}");
            }
            Event::StoreUnavailable { kind } => tracing::warn!(target: "cloakroom", ?kind, "{name}"),
            Event::TouchFailed { kind } => tracing::warn!(target: "cloakroom", ?kind, "{name}"),
            Event::PublicResponse { downgraded } => tracing::warn!(target: "cloakroom", downgraded, "{name}"),
            Event::Swept { removed } => tracing::debug!(target: "cloakroom", removed, "{name}"),
            Event::SweepFailed { error, failures, pause } => {
                let source = std::error::Error::source(error).map(tracing::field::display);
                tracing::warn!(target: "cloakroom", %error, source, failures, ?pause, "{name}");
            }
            Event::StoreCall { verb, elapsed, error: None } => {
                tracing::trace!(target: "cloakroom", %verb, ?elapsed, "{name}");
            }
            Event::StoreCall { verb, elapsed, error: Some(error) } => {
                tracing::warn!(target: "cloakroom", %verb, ?elapsed, ?error, "{name}");
            }
        }
    }
}
