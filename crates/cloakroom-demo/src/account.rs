//! “Where you're signed in”: the list of devices, ending them, and what needs a fresh sign-in.

use std::time::SystemTime;

use cloakroom::{Handle, Page, SessionError, SessionErrorKind, Summary};
use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::reply::{Answer, Form, Reply};
use crate::visit::{Look, Member, Visit};
use crate::{Powers, sign_in, words};

pub(crate) async fn show(Member { visit, principal }: Member) -> Answer {
    let devices = match visit.shop.manager.directory() {
        Some(directory) => {
            let listing = directory.list(&principal, Page::FIRST).await?;
            device_list(&visit, &listing.sessions, listing.next.is_some())?
        }
        None => no_list(visit.shop.powers()),
    };
    let content = html! {
        div .account {
            h1 { "Where you’re signed in" }
            (devices)
            (ending(&visit)?)
            section .card aria-labelledby="recovery" {
                h2 #recovery { "Recovery code" }
                p .muted {
                    "Lets you in should you lose your address. It is shown only within "
                    (words::duration(visit.shop.options.fresh)) " after you have proved who you are."
                }
                p { a .button.secondary href="/account/recovery-code" { "Show a recovery code" } }
            }
        }
    };
    visit.page("Account", &content)
}

fn device_list(visit: &Visit, sessions: &[Summary], more: bool) -> Result<Markup, SessionError> {
    let (own, now, token) = (visit.session.handle(), visit.now(), visit.token()?);
    Ok(html! {
        ul .devices {
            @for session in sessions {
                @let here = Some(session.handle) == own;
                @let device = words::device(session.client.user_agent());
                li .card .here[here] data-handle=(session.handle) {
                    div {
                        h2 { (device) @if here { " " span .badge { "This device" } } }
                        p .muted {
                            "Signed in " (moment(session.authenticated.unwrap_or(session.created), now))
                            " · last seen " (moment(if here { now } else { session.last_seen }, now))
                            @if let Some(address) = session.client.address() { " · " (address) }
                        }
                    }
                    @if !here {
                        form method="post" action="/account/revoke" {
                            (token)
                            input type="hidden" name="handle" value=(session.handle);
                            button .secondary aria-label={ "Sign out " (device) } { "Sign out" }
                        }
                    }
                }
            }
        }
        @if more { p .muted { "And more, which this page does not show." } }
    })
}

fn no_list(powers: Powers) -> Markup {
    html! {
        section .card aria-labelledby="no-list" {
            h2 #no-list { "There is no list here" }
            p {
                "Your sessions travel in your browsers’ cookies, so nobody keeps a list of them, and none can be ended by name. "
                @if powers == Powers::Cookie { "Nor can they be ended all together: the server remembers nothing." }
                @else { "Ending them all together works: the server remembers from when on they count." }
            }
            p .muted { "Choose a store for the whole page: " code { "CLOAKROOM_STORE=memory" } ", or leave it unset." }
        }
    }
}

fn ending(visit: &Visit) -> Result<Markup, SessionError> {
    let token = visit.token()?;
    Ok(html! {
        @if visit.shop.powers() != Powers::Cookie {
            div .actions {
                form method="post" action="/account/sign-out-elsewhere" {
                    (token) button .secondary { "Sign out everywhere else" }
                }
                form method="post" action="/account/sign-out-everywhere" {
                    (token) button .danger { "Sign out everywhere" }
                }
            }
        }
    })
}

fn moment(then: SystemTime, now: SystemTime) -> Markup {
    html! { time datetime=(humantime::format_rfc3339_seconds(then)) { (words::ago(then, now)) } }
}

#[derive(Deserialize)]
pub(crate) struct Revoke {
    handle: String,
}

pub(crate) async fn revoke(Member { visit, .. }: Member, Form(form): Form<Revoke>) -> Answer {
    let Ok(handle) = form.handle.parse::<Handle>() else {
        return visit.redirect("/account", "error", "There is no such device.");
    };
    if Some(handle) == visit.session.handle() {
        visit.session.logout()?;
        return Ok(Reply::redirect("/sign-in?signed_out=here"));
    }
    match visit.session.revoke(handle).await {
        Ok(true) => visit.redirect("/account", "success", "That device is signed out."),
        Ok(false) => visit.redirect("/account", "success", "That device was signed out already."),
        Err(error) if error.kind() == SessionErrorKind::Unsupported => cannot(&visit),
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn sign_out_elsewhere(Member { visit, .. }: Member) -> Answer {
    match visit.session.revoke_others().await {
        Ok(()) => visit.redirect("/account", "success", "You are signed out everywhere else."),
        Err(error) if error.kind() == SessionErrorKind::Unsupported => cannot(&visit),
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn sign_out_everywhere(Member { visit, .. }: Member) -> Answer {
    match visit.session.logout_everywhere().await {
        Ok(()) => Ok(Reply::redirect("/sign-in?signed_out=everywhere")),
        Err(error) if error.kind() == SessionErrorKind::Unsupported => cannot(&visit),
        Err(error) => Err(error.into()),
    }
}

/// For whoever asks by hand for what the page does not offer.
fn cannot(visit: &Visit) -> Answer {
    visit.redirect("/account", "error", "Sessions that travel in the cookie cannot do that.")
}

/// Shows a recovery code, to somebody who proved a moment ago who they are.
pub(crate) async fn recovery_code(Member { visit, .. }: Member) -> Answer {
    let fresh = visit.shop.options.fresh;
    match visit.session.require_fresh(fresh) {
        Ok(_) => {}
        Err(error) if error.kind() == SessionErrorKind::ReauthenticationRequired => return ask(&visit),
        Err(error) => return Err(error.into()),
    }
    let mut bytes = [0; 10];
    visit.shop.options.random.fill(&mut bytes).map_err(SessionError::from)?;
    let content = html! {
        section .narrow.card {
            h1 { "Recovery code" }
            p .muted { "Write it down. The one before it, if there was one, is no longer good." }
            // A handle is ten bytes in letters that are hard to mix up: just what is wanted here.
            p .ticket.long { span #recovery-code { (Handle::from_bytes(bytes)) } }
            p .muted.small { "This is a demonstration: the code is made for show and kept nowhere." }
            p { a .button.secondary href="/account" { "Back to the account" } }
        }
    };
    visit.page("Recovery code", &content)
}

fn ask(visit: &Visit) -> Answer {
    let content = html! {
        section .narrow.card {
            h1 { "Is it still you?" }
            p {
                "You signed in more than " (words::duration(visit.shop.options.fresh))
                " ago. Before the recovery code is shown, enter a new code."
            }
            form .stacked method="post" action="/account/confirm" { (visit.token()?) button { "Get a code" } }
            p .small { a href="/account" { "Back to the account" } }
        }
    };
    visit.page("Is it still you?", &content)
}

pub(crate) async fn confirm(Member { visit, principal }: Member) -> Answer {
    sign_in::ask_again(&visit, principal.as_str(), "/account/recovery-code")
}

/// What a page that polls may ask: reading does not count as activity, so it keeps nobody signed in.
pub(crate) async fn session(Look { session, shop }: Look) -> Reply {
    let now = shop.options.clock.now();
    Reply::json(&SessionInfo {
        principal: session.principal().map(|principal| principal.as_str().to_owned()),
        expires_in: session.expires_at().map(|end| end.duration_since(now).unwrap_or_default().as_secs()),
    })
}

#[derive(Serialize)]
struct SessionInfo {
    principal: Option<String>,
    /// In seconds.
    expires_in: Option<u64>,
}
