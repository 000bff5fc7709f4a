//! What every page has in common: the session, who it belongs to, messages, and until when it lives.

use std::time::SystemTime;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use cloakroom::axum::{Session, SessionError};
use cloakroom::{Flash, Principal, State};
use maud::{Markup, html};

use crate::html::document;
use crate::{Powers, Shop, words};

/// What a handler answers with.
pub(crate) type Answer = Result<Response, SessionError>;

/// A request of somebody, signed in or not.
pub(crate) struct Visit {
    pub(crate) session: Session,
    pub(crate) shop: Shop,
}

impl FromRequestParts<Shop> for Visit {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, shop: &Shop) -> Result<Self, SessionError> {
        let session = <Session as FromRequestParts<Shop>>::from_request_parts(parts, shop).await?;
        Ok(Self { session, shop: shop.clone() })
    }
}

/// A request of somebody who is signed in; everybody else is sent to do so.
pub(crate) struct Member {
    pub(crate) visit: Visit,
    pub(crate) principal: Principal,
}

impl FromRequestParts<Shop> for Member {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shop: &Shop) -> Result<Self, Response> {
        let visit = Visit::from_request_parts(parts, shop).await.map_err(IntoResponse::into_response)?;
        match visit.session.principal() {
            Some(principal) => Ok(Self { visit, principal }),
            None => {
                // What was to be changed is not repeated after the sign-in.
                let next = if parts.method == Method::GET { parts.uri.path() } else { "/account" };
                Err(Redirect::to(&format!("/sign-in?next={next}")).into_response())
            }
        }
    }
}

impl Visit {
    pub(crate) fn now(&self) -> SystemTime {
        self.shop.options.clock.now()
    }

    /// Leaves a message for the next page and goes there.
    pub(crate) fn redirect(&self, to: &str, kind: &str, message: impl Into<String>) -> Answer {
        self.session.flash(kind, message)?;
        Ok(Redirect::to(to).into_response())
    }

    /// The hidden field that proves that a form comes from this session's pages.
    ///
    /// Nothing for a visitor without a session: a token would create one for everybody who looks around.
    pub(crate) fn token(&self) -> Result<Markup, SessionError> {
        Ok(match self.session.state() {
            State::Absent | State::Destroyed => html! {},
            State::Created | State::Unchanged | State::Changed | State::Renewed => {
                html! { input type="hidden" name="csrf" value=(self.session.csrf_token()?); }
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
        Ok((status, document(title, &self.header(title)?, &main, &self.about())).into_response())
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
