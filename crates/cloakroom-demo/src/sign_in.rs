//! Signing in with a one-time code, and signing out.

use std::time::Duration;

use cloakroom::{Assurance, Key, LocalPath, Random, SessionError, SessionErrorKind};
use http::StatusCode;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::reply::{Answer, Form, Query, Reply};
use crate::visit::Visit;
use crate::{Powers, status, words};

/// How long a code is good, and how long too many wrong ones are remembered.
const CODE_LIFE: Duration = Duration::from_secs(10 * 60);
/// Wrong codes in that time, over however many new ones. A real service counts them by account as well.
const MAX_TRIES: u32 = 5;
/// How long “remember me” asks for, where the policy allows it.
const REMEMBER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const PENDING: Key<Pending> = Key::new("sign-in");
const TRIES: Key<u32> = Key::new("sign-in.tries");

/// A code that was sent and not used yet.
#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct Pending {
    email: String,
    code: String,
    purpose: Purpose,
    remember: bool,
    next: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
enum Purpose {
    SignIn,
    StepUp,
}

#[derive(Deserialize)]
pub(crate) struct Show {
    next: Option<String>,
    signed_out: Option<String>,
}

pub(crate) async fn show(visit: Visit, Query(query): Query<Show>) -> Answer {
    if visit.session.principal().is_some() {
        return Ok(Reply::redirect("/account"));
    }
    let next = local_path(query.next.as_deref().unwrap_or("/account"));
    // A session that ended carries no message, so the address does.
    let message = match query.signed_out.as_deref() {
        Some("here") => Some("You are signed out."),
        Some("everywhere") => Some("You are signed out, here and everywhere else."),
        _ => None,
    };
    let content = html! {
        @if let Some(message) = message { p .message role="status" { (message) } }
        (email_form(&visit, "", next, None)?)
    };
    visit.page("Sign in", &content)
}

fn email_form(visit: &Visit, email: &str, next: &str, error: Option<&str>) -> Result<Markup, SessionError> {
    let can_remember = visit.shop.manager.policy().remember() >= REMEMBER;
    Ok(html! {
        section .narrow.card {
            h1 { "Sign in" }
            p .muted { "Any address will do. The code is shown on the next page, in place of an e-mail." }
            form .stacked method="post" action="/sign-in" {
                (visit.token()?)
                input type="hidden" name="next" value=(next);
                label for="email" { "E-mail address" }
                input #email type="email" name="email" value=(email) autocomplete="email" required maxlength="254"
                    placeholder="ada@example.org"
                    aria-invalid=[error.map(|_| "true")] aria-describedby=[error.map(|_| "email-error")];
                @if let Some(error) = error { p .field-error #email-error role="alert" { (error) } }
                @if can_remember {
                    div .check {
                        input #remember type="checkbox" name="remember" value="yes";
                        label for="remember" { "Remember me on this device for 30 days" }
                    }
                }
                button { "Get a code" }
            }
        }
    })
}

#[derive(Deserialize)]
pub(crate) struct SendCode {
    email: String,
    next: Option<String>,
    remember: Option<String>,
}

pub(crate) async fn send_code(visit: Visit, Form(form): Form<SendCode>) -> Answer {
    let next = local_path(form.next.as_deref().unwrap_or("/account"));
    let email = form.email.trim();
    if !is_email(email) {
        let error = "This is not an e-mail address. It looks like name@example.org.";
        let content = email_form(&visit, email, next, Some(error))?;
        return visit.page_with(StatusCode::UNPROCESSABLE_ENTITY, "Sign in", &content);
    }
    let code = new_code(visit.shop.options.random.as_ref())?;
    let (email, next, remember) = (email.to_ascii_lowercase(), next.to_owned(), form.remember.is_some());
    leave_code(&visit, Pending { email, code, purpose: Purpose::SignIn, remember, next })
}

/// Asks somebody who is signed in for another code, before something that needs a fresh one.
pub(crate) fn ask_again(visit: &Visit, email: &str, next: &str) -> Answer {
    let (email, next) = (email.to_owned(), next.to_owned());
    let code = new_code(visit.shop.options.random.as_ref())?;
    leave_code(visit, Pending { email, code, purpose: Purpose::StepUp, remember: false, next })
}

fn leave_code(visit: &Visit, pending: Pending) -> Answer {
    if visit.session.get(TRIES)?.unwrap_or_default() >= MAX_TRIES {
        return Ok(too_many());
    }
    visit.session.set_for(PENDING, pending, CODE_LIFE)?;
    Ok(Reply::redirect("/sign-in/code"))
}

pub(crate) async fn show_code(visit: Visit) -> Answer {
    let Some(pending) = visit.session.get(PENDING)? else { return Ok(Reply::redirect("/sign-in")) };
    let content = code_form(&visit, &pending, None)?;
    visit.page("Enter the code", &content)
}

fn code_form(visit: &Visit, pending: &Pending, error: Option<&str>) -> Result<Markup, SessionError> {
    let (front, back) = pending.code.split_at(pending.code.len() / 2);
    let described = if error.is_some() { "code-error" } else { "code-life" };
    Ok(html! {
        section .narrow.card {
            h1 { "Enter the code" }
            p .muted { "In place of an e-mail to " strong { (pending.email) } ", here it is:" }
            p .ticket { span .label { "The code is " } span #the-code { (front) " " (back) } }
            form .stacked method="post" action="/sign-in/code" {
                (visit.token()?)
                label for="code" { "Code" }
                input #code name="code" inputmode="numeric" autocomplete="one-time-code" required maxlength="12"
                    aria-invalid=[error.map(|_| "true")] aria-describedby=(described);
                @if let Some(error) = error { p .field-error #code-error role="alert" { (error) } }
                p .muted.small #code-life { "It is good once, for " (words::duration(CODE_LIFE)) "." }
                @if visit.shop.powers() != Powers::Store {
                    p .muted.small {
                        "That holds while this browser keeps one cookie: a session that travels in it has no transactions, "
                        "so whoever kept an older copy could try a code again."
                    }
                }
                button { "Go on" }
            }
            p .small { a href="/sign-in" { "Use another address" } }
        }
    })
}

#[derive(Deserialize)]
pub(crate) struct EnterCode {
    code: String,
}

pub(crate) async fn enter_code(visit: Visit, Form(form): Form<EnterCode>) -> Answer {
    let presented: String = form.code.chars().filter(char::is_ascii_digit).collect();
    match consume(&visit, &presented).await? {
        Verdict::Right(pending) => enter(&visit, &pending),
        Verdict::Wrong { pending, left } => {
            let error =
                format!("That is not the code. You have {left} more tr{}.", if left == 1 { "y" } else { "ies" });
            let content = code_form(&visit, &pending, Some(&error))?;
            visit.page_with(StatusCode::UNPROCESSABLE_ENTITY, "Enter the code", &content)
        }
        Verdict::TooMany => Ok(too_many()),
        Verdict::NoCode => {
            let hint = html! {
                p { "It was used, it is older than " (words::duration(CODE_LIFE)) ", or none was asked for." }
                p { a href="/sign-in" { "Get a new code" } }
            };
            Ok(status::page(StatusCode::UNPROCESSABLE_ENTITY, "There is no code waiting", &hint))
        }
    }
}

fn enter(visit: &Visit, pending: &Pending) -> Answer {
    let session = &visit.session;
    match pending.purpose {
        Purpose::SignIn => {
            session.login(pending.email.as_str())?;
            if pending.remember && visit.shop.manager.policy().remember() >= REMEMBER {
                session.persist(REMEMBER)?;
            }
            visit.redirect(local_path(&pending.next), "success", format!("Welcome, {}.", pending.email))
        }
        // Whoever is signed in now may not be who asked.
        Purpose::StepUp if session.principal().is_some_and(|principal| principal.as_str() == pending.email) => {
            session.step_up(Assurance::One)?;
            visit.redirect(local_path(&pending.next), "success", "Thank you, it is you.")
        }
        Purpose::StepUp => Ok(Reply::redirect("/sign-in")),
    }
}

enum Verdict {
    Right(Pending),
    Wrong { pending: Pending, left: u32 },
    TooMany,
    NoCode,
}

/// Uses the code up: out of any number of parallel attempts with the right one, one succeeds.
///
/// Sessions that travel in the cookie have no transactions. There the code is used up in the copy
/// that this request carries, and the page says what that is worth.
async fn consume(visit: &Visit, presented: &str) -> Result<Verdict, SessionError> {
    let session = &visit.session;
    let transaction = session.transaction(|view| {
        let (verdict, after) = judge(view.get(PENDING)?, view.get(TRIES)?.unwrap_or_default(), presented);
        match after {
            After::Used => {
                view.remove("sign-in")?;
                view.remove("sign-in.tries")?;
            }
            After::Tried(tries) => view.set_for(TRIES, tries, CODE_LIFE)?,
            After::Same => {}
        }
        Ok::<_, SessionError>(verdict)
    });
    match transaction.await {
        Err(error) if error.kind() == SessionErrorKind::Unsupported => {}
        done => return done,
    }
    let (verdict, after) = judge(session.get(PENDING)?, session.get(TRIES)?.unwrap_or_default(), presented);
    match after {
        After::Used => {
            session.remove("sign-in")?;
            session.remove("sign-in.tries")?;
        }
        After::Tried(tries) => session.set_for(TRIES, tries, CODE_LIFE)?,
        After::Same => {}
    }
    Ok(verdict)
}

/// What is to become of the code.
enum After {
    Used,
    Tried(u32),
    Same,
}

fn judge(pending: Option<Pending>, tries: u32, presented: &str) -> (Verdict, After) {
    let Some(pending) = pending else { return (Verdict::NoCode, After::Same) };
    if tries >= MAX_TRIES {
        (Verdict::TooMany, After::Same)
    } else if pending.code == presented {
        (Verdict::Right(pending), After::Used)
    } else {
        let tries = tries + 1;
        let verdict =
            if tries == MAX_TRIES { Verdict::TooMany } else { Verdict::Wrong { pending, left: MAX_TRIES - tries } };
        (verdict, After::Tried(tries))
    }
}

fn too_many() -> Reply {
    let hint = html! { p { "Wait " (words::duration(CODE_LIFE)) ", then ask for a new one." } };
    status::page(StatusCode::TOO_MANY_REQUESTS, "Too many wrong codes", &hint)
}

pub(crate) async fn sign_out(visit: Visit) -> Answer {
    visit.session.logout()?;
    Ok(Reply::redirect("/sign-in?signed_out=here"))
}

/// Six digits, each combination as likely as any other.
fn new_code(random: &dyn Random) -> Result<String, SessionError> {
    const COMBINATIONS: u32 = 1_000_000;
    const FAIR: u32 = u32::MAX - u32::MAX % COMBINATIONS;
    loop {
        let mut bytes = [0; 4];
        random.fill(&mut bytes).map_err(SessionError::from)?;
        let number = u32::from_ne_bytes(bytes);
        if number < FAIR {
            return Ok(format!("{:06}", number % COMBINATIONS));
        }
    }
}

/// Good enough for a demonstration; whether it is somebody's, the e-mail would tell.
fn is_email(text: &str) -> bool {
    let printable = !text.chars().any(|letter| letter.is_whitespace() || letter.is_control());
    let halves = text.split_once('@');
    printable
        && text.len() <= 254
        && halves.is_some_and(|(name, host)| !name.is_empty() && host.len() > 2 && !host.contains('@'))
}

/// A path of this site; anything that a browser could take for another site becomes the start page.
fn local_path(path: &str) -> &str {
    if LocalPath::new(path.to_owned()).is_ok() && path.len() <= 512 { path } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_this_site_are_followed() {
        for path in ["/", "/account", "/account?a=b&c=%20#d", "/a//b"] {
            assert_eq!(local_path(path), path);
        }
        let long = format!("/{}", "a".repeat(512));
        for path in ["", "account", "//evil.example", "/\\evil.example", "https://evil.example", long.as_str()] {
            assert_eq!(local_path(path), "/", "{path:?}");
        }
    }

    #[test]
    fn addresses_are_recognised() {
        assert!(is_email("ada@example.org"));
        for text in
            ["", "ada", "@example.org", "ada@", "a@b@example.org", "ada lovelace@example.org", "a\n@example.org"]
        {
            assert!(!is_email(text), "{text:?}");
        }
        assert!(!is_email(&format!("{}@example.org", "a".repeat(254))));
    }

    #[test]
    fn tries_run_out_and_the_right_code_does_not_count_then() {
        let pending = || Pending {
            email: "ada@example.org".to_owned(),
            code: "123456".to_owned(),
            purpose: Purpose::SignIn,
            remember: false,
            next: "/".to_owned(),
        };
        assert!(matches!(judge(None, 0, "123456"), (Verdict::NoCode, After::Same)));
        assert!(matches!(judge(Some(pending()), 4, "123456"), (Verdict::Right(_), After::Used)));
        assert!(matches!(judge(Some(pending()), 0, "654321"), (Verdict::Wrong { left: 4, .. }, After::Tried(1))));
        assert!(matches!(judge(Some(pending()), 4, "654321"), (Verdict::TooMany, After::Tried(5))));
        assert!(matches!(judge(Some(pending()), 5, "123456"), (Verdict::TooMany, After::Same)));
    }
}
