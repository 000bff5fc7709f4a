//! The running stack.

use std::fmt;
use std::sync::Arc;

use cloakroom_core::Manager;

#[cfg(feature = "config")]
use crate::compose::{Background, compose};
#[cfg(feature = "config")]
use crate::config::{Config, ConfigError, Sources};

/// Sessions, ready to serve: a [`Manager`], and what works for it in the background.
///
/// Keep it for as long as the service runs: with it ends the sweeper, which removes expired records.
/// (That they are expired is checked on every request, swept or not.)
///
#[cfg_attr(
    feature = "config",
    doc = "```no_run
# async fn run() -> Result<(), cloakroom::ConfigError> {
use cloakroom::Cloakroom;

let sessions = Cloakroom::from_env().await?;
// … serve …
sessions.close().await;
# Ok(()) }
```"
)]
#[must_use = "the sweeper ends when this is dropped"]
pub struct Cloakroom {
    manager: Arc<Manager>,
    notices: Vec<String>,
    #[cfg(feature = "config")]
    background: Option<Background>,
}

impl Cloakroom {
    /// A stack that was built in code. It has no sweeper but the one that you start.
    pub const fn new(manager: Arc<Manager>) -> Self {
        Self {
            manager,
            notices: Vec::new(),
            #[cfg(feature = "config")]
            background: None,
        }
    }

    /// The whole stack, as [`cloakroom.toml` and the environment](Config) say.
    ///
    /// Where nothing says otherwise, sessions live in the SQLite file `.cloakroom/sessions.db`, under a
    /// key that is generated into `.cloakroom/key` for its owner's eyes only. Each is a warning to
    /// `tracing` and a sentence in [`notices`](Self::notices), and both are refused where
    /// `CLOAKROOM_ENVIRONMENT=production`.
    ///
    /// # Errors
    /// Every setting that is wrong, at once, with what to write instead.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[cfg(feature = "config")]
    pub async fn from_env() -> Result<Self, ConfigError> {
        Self::from_config(Config::load(&Sources::process())?).await
    }

    /// The whole stack of a configuration.
    ///
    /// # Errors
    /// When the database cannot be opened, or the key file not be made.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[cfg(feature = "config")]
    pub async fn from_config(config: Config) -> Result<Self, ConfigError> {
        let composed = compose(config).await?;
        Ok(Self { manager: composed.manager, notices: composed.notices, background: Some(composed.background) })
    }

    /// What everything goes through: directory, keys, policy.
    #[must_use]
    pub const fn manager(&self) -> &Arc<Manager> {
        &self.manager
    }

    /// The layer that gives the handlers of an axum `Router` their sessions.
    #[cfg(feature = "axum")]
    #[must_use]
    pub fn axum(&self) -> cloakroom_axum::SessionLayer {
        cloakroom_axum::SessionLayer::new(Arc::clone(&self.manager))
    }

    /// The middleware that gives the handlers of an actix-web `App` their sessions. Take it before the closure
    /// of `HttpServer::new` and clone it inside.
    #[cfg(feature = "actix")]
    #[must_use]
    pub fn actix(&self) -> cloakroom_actix::SessionMiddleware {
        cloakroom_actix::SessionMiddleware::new(Arc::clone(&self.manager))
    }

    /// This stack's store for an application that runs its sessions with `tower-sessions` or `axum-login`. `None` where
    /// sessions are sealed into the cookie.
    #[cfg(feature = "tower-sessions")]
    #[must_use]
    pub fn tower_sessions(&self) -> Option<cloakroom_axum::TowerSessionsStore> {
        cloakroom_axum::TowerSessionsStore::of(&self.manager)
    }

    /// This stack's store for an application that runs its sessions with `actix-session`. `None` where sessions are
    /// sealed into the cookie.
    #[cfg(feature = "actix-session")]
    #[must_use]
    pub fn actix_session(&self) -> Option<cloakroom_actix::ActixSessionStore> {
        cloakroom_actix::ActixSessionStore::of(&self.manager)
    }

    /// What the operator should know, a sentence each; they were logged as warnings too.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Ends the sweeper, writes what waits to be written and closes the database. Requests that come
    /// later find the store unavailable. A stack built in code is left to you.
    #[cfg_attr(not(feature = "config"), expect(clippy::unused_async, reason = "the same call with every feature"))]
    pub async fn close(self) {
        #[cfg(feature = "config")]
        if let Some(background) = self.background {
            background.close().await;
        }
    }
}

impl fmt::Debug for Cloakroom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloakroom").field("manager", &self.manager).finish_non_exhaustive()
    }
}
