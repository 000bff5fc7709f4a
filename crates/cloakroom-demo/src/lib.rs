//! A small shop that shows what cloakroom does: a cart that parallel requests cannot garble, sign-in
//! with a one-time code, the list of devices, and signing out here, elsewhere and everywhere.
//!
//! `cargo xtask demo` starts it. It is a library so that the tests drive the very same application.
//! Where to look for what:
//!
//! | module | shows |
//! |---|---|
//! | `cart` | `modify`, an anonymous session that survives the sign-in |
//! | `sign_in` | `set_for`, `transaction`, `login`, `persist`, `logout` |
//! | `account` | `list`, `revoke`, `revoke_others`, `logout_everywhere`, `require_fresh`, `step_up` |
//! | `visit` | `csrf_token`, `take_flashes`, `expires_at`, what every page has in common |
//! | `axum`, `actix` | sessions, CSRF and guards around routes; extracting sessions in types of one's own |
//!
//! Handlers exist once, in the words of `reply` and `visit`, and [`Framework`] says who serves them.

mod account;
mod actix;
mod axum;
mod cart;
mod html;
mod reply;
mod sign_in;
mod status;
mod visit;
mod words;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use cloakroom::{Backend, Cloakroom, Clock, Csrf, LocalPath, Manager, OsRandom, Random, Require, SystemClock};
use tokio::net::TcpListener;

/// What serves the shop. The pages and what they decide are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framework {
    /// axum, on tokio's threads.
    #[default]
    Axum,
    /// actix-web, with workers of its own.
    Actix,
}

impl Framework {
    /// All that there are.
    pub const ALL: [Self; 2] = [Self::Axum, Self::Actix];

    /// Serves the shop, with these sessions, until it is to stop and the requests that are under way have ended.
    ///
    /// # Errors
    /// Where an origin is not written as browsers send it, and where the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        sessions: &Cloakroom,
        options: Options,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let rules = Rules::new(&options).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let shop = Shop { manager: Arc::clone(sessions.manager()), options: Arc::new(options) };
        match self {
            Self::Axum => axum::serve(listener, sessions, shop, rules, stop).await,
            Self::Actix => actix::serve(listener, sessions, shop, rules, stop).await,
        }
    }
}

impl fmt::Display for Framework {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Axum => "axum",
            Self::Actix => "actix",
        })
    }
}

impl FromStr for Framework {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(|framework| framework.to_string());
        Self::ALL
            .into_iter()
            .find(|framework| framework.to_string() == name)
            .ok_or_else(|| format!("there is no framework `{name}`; there are: {}", known.join(", ")))
    }
}

/// How long requests may go on once the shop is to stop.
pub const GRACE: Duration = Duration::from_secs(5);

/// The longest form that is taken, in bytes.
const MAX_FORM: usize = 16 * 1024;

/// What the shop needs to know besides its sessions.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its own pages are, such as `http://127.0.0.1:3000`. An unsafe request of a client that
    /// sends no `Sec-Fetch-Site` must name one of these in `Origin`.
    pub origins: Vec<String>,
    /// How long after a sign-in the recovery code may be shown without another.
    pub fresh: Duration,
    /// What the pages take the time from. Default: the system's clock, as the sessions do.
    pub clock: Arc<dyn Clock>,
    /// What one-time codes are made of. Default: the system's generator.
    pub random: Arc<dyn Random>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            fresh: Duration::from_secs(5 * 60),
            clock: Arc::new(SystemClock),
            random: Arc::new(OsRandom::default()),
        }
    }
}

/// What the handlers share.
#[derive(Clone)]
struct Shop {
    manager: Arc<Manager>,
    options: Arc<Options>,
}

impl Shop {
    fn powers(&self) -> Powers {
        let Backend::SelfContained { revocations, .. } = self.manager.backend() else { return Powers::Store };
        if revocations.is_some() { Powers::RevocableCookie } else { Powers::Cookie }
    }
}

/// What can be done to sessions, by where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Powers {
    /// Everything.
    Store,
    /// They end one by one and all together, but nobody can list them.
    RevocableCookie,
    /// They end when the browser drops them, or by themselves.
    Cookie,
}

/// What the library's middlewares let through.
struct Rules {
    csrf: Csrf,
    account: Require,
    recovery_code: Require,
}

impl Rules {
    fn new(options: &Options) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let members = |then| LocalPath::new(then).map(|page| Require::sign_in().or_send_to(page));
        Ok(Self {
            csrf: Csrf::new(options.origins.iter().cloned())?.anonymous_by_origin(),
            account: members("/sign-in?next=/account")?,
            recovery_code: members("/sign-in?next=/account/recovery-code")?,
        })
    }
}

/// A file that needs no session, so caches may keep it.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

impl Asset {
    const CACHE_CONTROL: &'static str = "public, max-age=300";

    const ALL: &'static [Self] = &[
        Self { path: "/style.css", content_type: "text/css; charset=utf-8", text: include_str!("../assets/style.css") },
        Self {
            path: "/countdown.js",
            content_type: "text/javascript; charset=utf-8",
            text: include_str!("../assets/countdown.js"),
        },
        Self { path: "/icon.svg", content_type: "image/svg+xml", text: include_str!("../assets/icon.svg") },
    ];
}
