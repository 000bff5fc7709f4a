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
//! | `csrf` | `csrf_token`, `verify_csrf`, `Provenance` |
//! | `visit` | `take_flashes`, `expires_at`, what every page has in common |

mod account;
mod cart;
mod csrf;
mod html;
mod sign_in;
mod status;
mod visit;
mod words;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};
use cloakroom::{Backend, Cloakroom, Clock, Manager, OsRandom, Random, SystemClock};

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

/// The shop, with these sessions.
pub fn router(sessions: &Cloakroom, options: Options) -> Router {
    let shop = Shop { manager: Arc::clone(sessions.manager()), options: Arc::new(options) };
    Router::new()
        .route("/", get(cart::show))
        .route("/cart", post(cart::change))
        .route("/sign-in", get(sign_in::show).post(sign_in::send_code))
        .route("/sign-in/code", get(sign_in::show_code).post(sign_in::enter_code))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/account", get(account::show))
        .route("/account/revoke", post(account::revoke))
        .route("/account/sign-out-elsewhere", post(account::sign_out_elsewhere))
        .route("/account/sign-out-everywhere", post(account::sign_out_everywhere))
        .route("/account/recovery-code", get(account::recovery_code))
        .route("/account/confirm", post(account::confirm))
        .route("/session.json", get(account::session))
        .layer(sessions.axum())
        .route("/style.css", asset("text/css; charset=utf-8", include_str!("../assets/style.css")))
        .route("/countdown.js", asset("text/javascript; charset=utf-8", include_str!("../assets/countdown.js")))
        .route("/icon.svg", asset("image/svg+xml", include_str!("../assets/icon.svg")))
        .fallback(status::not_found)
        .layer(DefaultBodyLimit::max(16 * 1024))
        .layer(middleware::from_fn_with_state(shop.clone(), csrf::refuse_foreign))
        .layer(middleware::map_response(status::explain))
        .layer(middleware::map_response(status::secure))
        .with_state(shop)
}

/// A file that needs no session, so caches may keep it.
fn asset(content_type: &'static str, text: &'static str) -> MethodRouter<Shop> {
    get(move || async move { ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, "public, max-age=300")], text) })
}
