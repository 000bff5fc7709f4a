//! A ticket: lets one connection in that cannot carry the token.
//!
//! ```text
//! wire  = base64url( version 1 | key id 4 | session id 26 | expires 8 | nonce 16 | check 17 )      96 characters
//! check = HMAC-SHA-256(ticket key of the key id, version | key id | session id | expires | nonce | transport)[..17]
//! ```
//!
//! The session keeps the nonces of the tickets that are out; who comes with one takes it away, in one step
//! with looking for it.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use super::changes::{Change, Changes};
use super::keys::{decode, encode};
use super::{Origin, ReadSession, Session};
use crate::clock::millis;
use crate::error::{SessionError, SessionErrorKind};
use crate::events::Event;
use crate::id::SessionId;
use crate::keyring::{KeyId, RingKey};
use crate::manager::Manager;
use crate::token::Rejection;

const KEY: &str = "cloakroom.tickets";
const VERSION: u8 = 1;
const ID_AT: usize = 1 + KeyId::LEN;
const EXPIRES_AT: usize = ID_AT + SessionId::LEN;
const NONCE_AT: usize = EXPIRES_AT + 8;
const NONCE_LEN: usize = 16;
const BODY: usize = NONCE_AT + NONCE_LEN;
const LEN: usize = BODY + 17;
const TEXT_LEN: usize = LEN / 3 * 4;

impl Session {
    /// How long a ticket is good for. OWASP ASVS 5.0, 4.4.3.
    pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);
    /// The most tickets of one session that are out at once; one more takes the place of the oldest.
    pub const MOST_TICKETS: usize = 8;

    /// A ticket with which one connection gets in as this session, once, within
    /// [`TICKET_LIFETIME`](Self::TICKET_LIFETIME): for WebSockets, whose handshake cannot carry a header from a browser,
    /// and for connections to another host. [`Manager::redeem`] takes it.
    ///
    /// Bound to the session, its token and the application: after a renewal it is worth nothing, nor after the
    /// end. It may travel in a URL, since it is worth nothing in a log. What is pending is committed first.
    ///
    /// # Errors
    /// [`NotSignedIn`](SessionErrorKind::NotSignedIn) when there is no session;
    /// [`Unsupported`](SessionErrorKind::Unsupported) for self-contained sessions, of which nobody keeps
    /// what was used; as [`transaction`](Self::transaction).
    pub async fn ticket(&self) -> Result<String, SessionError> {
        let manager = self.manager();
        let mut bytes = [0; LEN];
        manager.random().fill(&mut bytes[NONCE_AT..BODY])?;
        let nonce = URL_SAFE_NO_PAD.encode(&bytes[NONCE_AT..BODY]);
        let _one_at_a_time = self.shared.committing.lock().await;
        // A sign-in that is pending makes one; a renewal of nothing does not.
        let is_there = {
            let inner = self.lock();
            inner.base.is_some() || inner.intents.login.is_some()
        };
        if !is_there {
            let message = "there is no session that a ticket could be for: it has not begun, or has ended";
            return Err(SessionError::new(SessionErrorKind::NotSignedIn, message));
        }
        let expires: u64 = self
            .shared
            .transact(|changes, now| {
                let expires = now.saturating_add(millis(Self::TICKET_LIFETIME));
                let mut out = tickets(changes, now)?;
                out.push((nonce.clone(), expires));
                let excess = out.len().saturating_sub(Self::MOST_TICKETS);
                set(changes, &out[excess..], now)?;
                Ok::<_, SessionError>(expires)
            })
            .await?;
        let Origin::Stored { id, .. } = self.lock().origin else { return Err(SessionError::ended(None)) };
        let key = manager.keys().primary();
        bytes[0] = VERSION;
        bytes[1..ID_AT].copy_from_slice(key.id().as_bytes());
        bytes[ID_AT..EXPIRES_AT].copy_from_slice(id.as_bytes());
        bytes[EXPIRES_AT..NONCE_AT].copy_from_slice(&expires.to_be_bytes());
        let check = check(&key, &bytes[..BODY], manager);
        bytes[BODY..].copy_from_slice(&check);
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl Manager {
    /// The session that this [ticket](Session::ticket) is for, to read from and to [watch](ReadSession::watch); `None`
    /// if it is none of ours, too old, used already, or its session is over.
    ///
    /// Of any number of connections that come with one ticket, one gets in. A ticket that did not come from this
    /// application's keys costs no store call.
    ///
    /// # Errors
    /// The store's. If its answer is lost, the ticket may be used up.
    pub async fn redeem(self: &Arc<Self>, ticket: &str) -> Result<Option<ReadSession>, SessionError> {
        let rejected = |reason| {
            self.emit(&Event::TokenRejected { reason });
            Ok(None)
        };
        let (id, nonce) = match self.open_ticket(ticket.as_bytes())? {
            Ok(opened) => opened,
            Err(reason) => return rejected(reason),
        };
        let Some(session) = self.session_of(&id).await? else { return rejected(Rejection::Ended) };
        let taken = session.shared.transact(|changes: &mut Changes, now| {
            let mut out = tickets(changes, now)?;
            let before = out.len();
            out.retain(|(known, _)| !bool::from(known.as_bytes().ct_eq(nonce.as_bytes())));
            if out.len() < before {
                set(changes, &out, now)?;
            }
            Ok::<_, SessionError>(out.len() < before)
        });
        match taken.await {
            Ok(true) => Ok(Some(ReadSession::new(session))),
            Ok(false) => rejected(Rejection::Ended),
            Err(error) if error.kind() == SessionErrorKind::Ended => rejected(Rejection::Ended),
            Err(error) => Err(error),
        }
    }

    fn open_ticket(&self, text: &[u8]) -> Result<Result<(SessionId, String), Rejection>, SessionError> {
        let mut bytes = [0; LEN];
        if text.len() != TEXT_LEN || URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) != Ok(LEN) {
            return Ok(Err(Rejection::Malformed));
        }
        if bytes[0] != VERSION {
            return Ok(Err(Rejection::UnknownVersion));
        }
        let Some(key) = self.keys().find(KeyId::read(&bytes[1..])) else { return Ok(Err(Rejection::UnknownKey)) };
        if !bool::from(check(&key, &bytes[..BODY], self).ct_eq(&bytes[BODY..])) {
            return Ok(Err(Rejection::Forged));
        }
        let mut expires = [0; 8];
        expires.copy_from_slice(&bytes[EXPIRES_AT..NONCE_AT]);
        if u64::from_be_bytes(expires) <= self.now()? {
            return Ok(Err(Rejection::Expired));
        }
        let mut id = [0; SessionId::LEN];
        id.copy_from_slice(&bytes[ID_AT..EXPIRES_AT]);
        Ok(Ok((SessionId::from_bytes(id), URL_SAFE_NO_PAD.encode(&bytes[NONCE_AT..BODY]))))
    }
}

fn check(key: &RingKey, body: &[u8], manager: &Manager) -> [u8; LEN - BODY] {
    let hash = key.ticket_hash(body, manager.binding());
    let mut check = [0; LEN - BODY];
    check.copy_from_slice(&hash[..LEN - BODY]);
    check
}

/// The nonces that are out, the oldest first, with the time until which each is good.
fn tickets(changes: &Changes, now: u64) -> Result<Vec<(String, u64)>, SessionError> {
    let known: Option<Vec<(String, u64)>> = changes.get(KEY, now).map(|encoded| decode(KEY, encoded)).transpose()?;
    Ok(known.unwrap_or_default().into_iter().filter(|(_, expires)| *expires > now).collect())
}

fn set(changes: &mut Changes, out: &[(String, u64)], now: u64) -> Result<(), SessionError> {
    let change = match out.last() {
        Some((_, expires)) => Change::Set { key: KEY.into(), encoded: encode(KEY, &out)?.into(), expires: *expires },
        None => Change::Remove { key: KEY.into() },
    };
    changes.push(change, now)
}
