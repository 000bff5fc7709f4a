//! What every page has in common: the session, who it belongs to, messages, and until when it lives.

use std::time::SystemTime;

use cloakroom::{Assurance, Csrf, Flash, Principal, ReadSession, Session, SessionError, State};
use http::StatusCode;
use maud::{Markup, html};

use crate::html::document;
use crate::reply::{Answer, Reply};
use crate::{Powers, Shop, words};

/// A request of somebody, signed in or not.
pub(crate) struct Visit {
    pub(crate) session: Session,
    pub(crate) shop: Shop,
}

/// A request of somebody who is signed in.
pub(crate) struct Member {
    pub(crate) visit: Visit,
    pub(crate) principal: Principal,
}

impl Member {
    /// # Errors
    /// 401 where nobody is signed in and no guard before this sent them to do so.
    pub(crate) fn of(visit: Visit) -> Result<Self, SessionError> {
        let principal = visit.session.require_assurance(Assurance::None)?;
        Ok(Self { visit, principal })
    }
}

/// A request that only looks, which is no activity.
pub(crate) struct Look {
    pub(crate) session: ReadSession,
    pub(crate) shop: Shop,
}

impl Visit {
    pub(crate) fn now(&self) -> SystemTime {
        self.shop.options.clock.now()
    }

    /// Leaves a message for the next page and goes there.
    pub(crate) fn redirect(&self, to: &str, kind: &str, message: impl Into<String>) -> Answer {
        self.session.flash(kind, message)?;
        Ok(Reply::redirect(to))
    }

    /// The hidden field that proves that a form comes from this session's pages.
    ///
    /// Nothing for a visitor without a session: a token would create one for everybody who looks around.
    pub(crate) fn token(&self) -> Result<Markup, SessionError> {
        Ok(match self.session.state() {
            State::Absent | State::Destroyed => html! {},
            State::Created | State::Unchanged | State::Changed | State::Renewed => {
                html! { input type="hidden" name=(Csrf::FIELD) value=(self.session.csrf_token()?); }
            }
        })
    }

    pub(crate) fn page(&self, title: &str, content: &Markup) -> Answer {
        self.page_with(StatusCode::OK, title, content)
    }

    pub(crate) fn page_with(&self, status: StatusCode, title: &str, content: &Markup) -> Answer {
        let main = html! {
            (self.messages()?)
            (content)
        };
        Ok(Reply::Page(status, document(title, &self.header(title)?, &main, &self.about())))
    }

    fn header(&self, title: &str) -> Result<Markup, SessionError> {
        let link = |to: &str, name: &str| {
            html! { a href=(to) aria-current=[(title == name).then_some("page")] { (name) } }
        };
        let principal = self.session.principal();
        Ok(html! {
            nav aria-label="Main" {
                (link("/", "Shop"))
                @if principal.is_some() { (link("/account", "Account")) } @else { (link("/sign-in", "Sign in")) }
            }
            @if let Some(principal) = &principal {
                div .who {
                    p { span .label { "Signed in as " } strong { (principal.as_str()) } }
                    form method="post" action="/sign-out" { (self.token()?) button .quiet { "Sign out" } }
                }
            }
            (self.countdown(principal.is_some()))
        })
    }

    /// Until when the session lives, ticking where scripts run.
    fn countdown(&self, signed_in: bool) -> Markup {
        let Some(end) = self.session.expires_at() else { return html! {} };
        let left = end.duration_since(self.now()).unwrap_or_default();
        html! {
            p .countdown {
                @if signed_in { "You will be signed out in " } @else { "Your cart is kept for " }
                time role="timer" datetime=(humantime::format_rfc3339_seconds(end)) data-seconds=(left.as_secs()) {
                    (words::duration(left))
                }
            }
        }
    }

    /// Messages of earlier requests, those of parallel ones counted.
    fn messages(&self) -> Result<Markup, SessionError> {
        let mut counted: Vec<(Flash, u64)> = Vec::new();
        for flash in self.session.take_flashes()? {
            match counted.iter_mut().find(|(known, _)| *known == flash) {
                Some((_, count)) => *count += 1,
                None => counted.push((flash, 1)),
            }
        }
        Ok(html! {
            @for (Flash { kind, text }, count) in counted {
                p .message .error[kind == "error"] role=(if kind == "error" { "alert" } else { "status" }) {
                    (text) @if count > 1 { " (" (count) " times)" }
                }
            }
        })
    }

    /// What holds for sessions where they are.
    fn about(&self) -> Markup {
        html! {
            p {
                @match self.shop.powers() {
                    Powers::Store => {
                        "Sessions are kept in a store on the server. The cookie is only a ticket: it can be called in at any time, "
                        "and parallel requests add up."
                    }
                    Powers::RevocableCookie => {
                        "Sessions travel sealed in the cookie, and the server remembers which ones ended. "
                        "Of parallel changes the browser keeps the last one."
                    }
                    Powers::Cookie => {
                        "Sessions travel sealed in the cookie, and the server remembers nothing: signing out removes the cookie from this browser, "
                        "but a copy of it would work until it expires. Of parallel changes the browser keeps the last one."
                    }
                }
                " Another place is one variable away: " code { "CLOAKROOM_STORE" } "."
            }
        }
    }
}
