//! What the response says, header by header.

use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use cloakroom_axum::{CsrfLayer, LazySession, ReadSession, Session, SessionError};
use cloakroom_core::{CookieSettings, Csrf, OutagePolicy};
use http::header::{CACHE_CONTROL, SET_COOKIE, VARY};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::support::{CLEARED, Sessions, VISITS, all, ann_once, body, cookie, visit};

async fn count(session: Session) -> Result<String, SessionError> {
    Ok(session.modify(VISITS, |visits| *visits += 1)?.to_string())
}

#[tokio::test]
async fn creating_a_session_hands_out_exactly_one_cookie_and_nothing_a_cache_may_keep() {
    let app = Router::new().route("/", get(count)).layer(Sessions::new().layer());
    let response = visit(&app, "/", None).await;
    let cookies = all(&response, SET_COOKIE);
    let [only] = cookies.as_slice() else { panic!("{} cookies", cookies.len()) };
    let (pair, attributes) = only.split_once(';').unwrap();
    assert!(pair.starts_with("__Host-id="), "{pair}");
    assert_eq!(attributes, " Path=/; Secure; HttpOnly; SameSite=Lax");
    assert_eq!(all(&response, VARY), ["Cookie"]);
    assert_eq!(all(&response, CACHE_CONTROL), ["no-store"]);
    assert_eq!(response.headers().get("x-session-warning"), None);
    assert_eq!(body(response).await, "1");
}

#[tokio::test]
async fn the_cookie_brings_the_session_back_and_is_not_sent_again() {
    let app = Router::new().route("/", get(count)).layer(Sessions::new().layer());
    let cookie = cookie(&visit(&app, "/", None).await);
    let response = visit(&app, "/", Some(&format!("theme=dark; {cookie}; lang=de"))).await;
    assert_eq!(all(&response, SET_COOKIE), [""; 0]);
    assert_eq!(all(&response, VARY), ["Cookie"]);
    assert_eq!(all(&response, CACHE_CONTROL), [""; 0]);
    assert_eq!(body(response).await, "2");
}

#[tokio::test]
async fn the_token_is_not_printed_with_the_headers() {
    let app = Router::new().route("/", get(count)).layer(Sessions::new().layer());
    let response = visit(&app, "/", None).await;
    let token = cookie(&response).split_once('=').unwrap().1.to_owned();
    assert!(response.headers()[SET_COOKIE].is_sensitive());
    assert!(!format!("{response:?}").contains(&token));
}

#[tokio::test]
async fn cookies_of_the_handler_stay() {
    let own = async |session: Session| -> Result<_, SessionError> {
        session.set(VISITS, 1)?;
        Ok([(SET_COOKIE, "theme=dark")])
    };
    let app = Router::new().route("/", get(own)).layer(Sessions::new().layer());
    let response = visit(&app, "/", None).await;
    let cookies = all(&response, SET_COOKIE);
    assert_eq!(cookies.len(), 2);
    assert_eq!(cookies[0], "theme=dark");
}

#[tokio::test]
async fn logout_removes_the_cookie_and_the_session() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let app = Router::new()
        .route("/", get(async |session: Session| session.logout().map_err(SessionError::from)))
        .layer(sessions.layer());
    let response = visit(&app, "/", Some(&ann)).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(all(&response, SET_COOKIE), [CLEARED]);
    assert_eq!(all(&response, CACHE_CONTROL), ["no-store"]);
    assert_eq!(sessions.stored(&ann).await, crate::support::nobody());
}

#[tokio::test]
async fn a_token_that_was_never_minted_is_cleared_without_asking_the_store() {
    let sessions = Sessions::new();
    let app = Router::new().route("/", get(async |_: ReadSession| ())).layer(sessions.layer());
    let response = visit(&app, "/", Some("__Host-id=forged")).await;
    assert_eq!(all(&response, SET_COOKIE), [CLEARED]);
    assert_eq!(sessions.store.reads(), 0);
}

#[tokio::test]
async fn a_response_whose_handler_ignores_the_session_is_left_alone() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let plain = async || ([(CACHE_CONTROL, "public"), (VARY, "Accept")], "plain");
    let app = Router::new()
        .route("/plain", get(plain))
        .route("/lazy", get(async |_: LazySession| ([(CACHE_CONTROL, "public"), (VARY, "Accept")], "plain")))
        .layer(sessions.layer());
    for path in ["/plain", "/lazy", "/missing"] {
        for cookie in [None, Some(ann.as_str()), Some("__Host-id=forged")] {
            let response = visit(&app, path, cookie).await;
            let vary: &[&str] = if path == "/missing" { &[] } else { &["Accept"] };
            assert_eq!(all(&response, VARY), vary, "{path}");
            assert_eq!(all(&response, SET_COOKIE), [""; 0], "{path}");
            assert!(all(&response, CACHE_CONTROL) != ["no-store"], "{path}");
        }
    }
    assert_eq!(sessions.store.reads() + sessions.store.writes(), 0);
}

#[tokio::test]
async fn every_way_to_the_session_adds_vary() {
    let sessions = Sessions::new();
    let load = async |session: LazySession| session.load().await.map(|_| ());
    let app = Router::new()
        .route("/session", get(async |_: Session| ()))
        .route("/option", get(async |_: Option<Session>| ()))
        .route("/read", get(async |_: ReadSession| ()))
        .route("/lazy", get(load))
        .layer(sessions.layer());
    let ann = sessions.ann().await;
    for path in ["/session", "/option", "/read", "/lazy"] {
        for cookie in [None, Some(ann.as_str())] {
            let response = visit(&app, path, cookie).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(all(&response, VARY), ["Cookie"], "{path} {cookie:?}");
        }
    }
}

#[tokio::test]
async fn vary_is_added_once_and_what_was_there_stays() {
    let cases: [(&[&'static str], &[&str]); 6] = [
        (&["Accept-Encoding"], &["Accept-Encoding", "Cookie"]),
        (&["Accept-Encoding, cookie"], &["Accept-Encoding, cookie"]),
        (&["Accept", "COOKIE"], &["Accept", "COOKIE"]),
        (&["*"], &["*"]),
        (&["Accept, *"], &["Accept, *"]),
        (&["Cookie-Jar, X-Cookie"], &["Cookie-Jar, X-Cookie", "Cookie"]),
    ];
    for (given, expected) in cases {
        let handler = move |_: ReadSession| async move {
            let mut response: Response = Response::default();
            for value in given {
                response.headers_mut().append(VARY, HeaderValue::from_static(value));
            }
            response
        };
        let app = Router::new().route("/", get(handler)).layer(Sessions::new().layer());
        assert_eq!(all(&visit(&app, "/", None).await, VARY), expected);
    }
}

fn app_that_answers(sessions: &Sessions, cache_control: &'static str) -> Router {
    let change = async move |session: Session| -> Result<_, SessionError> {
        session.set(VISITS, 9)?;
        Ok([(CACHE_CONTROL, cache_control)])
    };
    Router::new()
        .route("/read", get(async move |_: Session| [(CACHE_CONTROL, cache_control)]))
        .route("/change", get(change))
        .layer(sessions.layer())
}

#[tokio::test]
async fn a_public_response_never_carries_a_touch_cookie() {
    for cache_control in ["public", "max-age=60, Public", "S-MaxAge=60", "s-maxage = 60", "max-age=1,s-maxage=2"] {
        let sessions = Sessions::new();
        let ann = sessions.remembered_ann().await;
        sessions.clock.advance(Duration::from_secs(3600));
        for path in ["/read", "/change"] {
            let response = visit(&app_that_answers(&sessions, cache_control), path, Some(&ann)).await;
            assert_eq!(all(&response, SET_COOKIE), [""; 0], "{path} {cache_control}");
            assert_eq!(all(&response, CACHE_CONTROL), [cache_control]);
            assert_eq!(all(&response, VARY), ["Cookie"], "{path} {cache_control}");
        }
        assert_eq!(sessions.stored(&ann).await.visits, 9, "{cache_control}");
    }
}

#[tokio::test]
async fn a_private_response_carries_the_touch_cookie_and_is_not_stored() {
    for cache_control in ["private", "max-age=60", "x-public", "no-cache=\"public-key\""] {
        let sessions = Sessions::new();
        let ann = sessions.remembered_ann().await;
        sessions.clock.advance(Duration::from_secs(3600));
        let response = visit(&app_that_answers(&sessions, cache_control), "/change", Some(&ann)).await;
        assert_eq!(cookie(&response), ann, "{cache_control}");
        assert_eq!(all(&response, CACHE_CONTROL), ["no-store"]);
    }
}

#[tokio::test]
async fn a_public_response_that_must_hand_out_a_token_is_public_no_more() {
    let sessions = Sessions::new();
    let response = visit(&app_that_answers(&sessions, "public, max-age=60"), "/change", None).await;
    assert_eq!(all(&response, CACHE_CONTROL), ["no-store"]);
    assert_eq!(sessions.stored(&cookie(&response)).await.visits, 9);
}

#[tokio::test]
async fn reading_does_not_count_as_activity() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    sessions.clock.advance(Duration::from_secs(3600));
    let app = Router::new()
        .route("/read", get(async |_: ReadSession| ()))
        .route("/session", get(async |_: Session| ()))
        .layer(sessions.layer());
    visit(&app, "/read", Some(&ann)).await;
    assert_eq!(sessions.store.writes(), 0);
    visit(&app, "/session", Some(&ann)).await;
    assert_eq!(sessions.store.writes(), 1);
}

#[tokio::test]
async fn cookies_split_over_several_headers_are_read() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let app = Router::new()
        .route("/", get(async |session: ReadSession| session.principal().is_some().to_string()))
        .layer(sessions.layer());
    let mut request = crate::support::request(http::Method::GET, "/", Some("theme=dark"));
    request.headers_mut().append(http::header::COOKIE, ann.parse().unwrap());
    let response = tower::ServiceExt::oneshot(app, request).await.unwrap();
    assert_eq!(body(response).await, "true");
}

#[tokio::test]
async fn an_outage_on_a_route_that_may_read_without_the_store_is_announced() {
    let sessions = Sessions::with(CookieSettings::new(), OutagePolicy::AnonymousReadOnly);
    let ann = sessions.ann().await;
    let fault = cloakroom_testkit::Fault::FailBefore(cloakroom_core::StoreErrorKind::Unavailable);
    sessions.store.once(cloakroom_core::Verb::Load, fault);
    let app = Router::new()
        .route("/", get(async |session: ReadSession| session.principal().is_some().to_string().into_response()))
        .layer(sessions.layer());
    let response = visit(&app, "/", Some(&ann)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let warning = HeaderName::from_static("x-session-warning");
    assert_eq!(all(&response, warning), ["session store unavailable; anonymous view"]);
    assert_eq!(all(&response, SET_COOKIE), [""; 0]);
    assert_eq!(all(&response, VARY), ["Cookie"]);
    assert_eq!(body(response).await, "false");
    assert_eq!(sessions.stored(&ann).await, ann_once());
}

#[tokio::test]
async fn a_group_of_routes_has_an_outage_policy_of_its_own() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let fault = cloakroom_testkit::Fault::FailBefore(cloakroom_core::StoreErrorKind::Unavailable);
    sessions.store.always(cloakroom_core::Verb::Load, fault);
    let read = async |session: ReadSession| session.principal().is_some().to_string();
    let readable =
        Router::new().route("/shop", get(read)).layer(sessions.layer().with_outage(OutagePolicy::AnonymousReadOnly));
    let app = Router::new().route("/account", get(read)).merge(readable).layer(sessions.layer());

    let shop = visit(&app, "/shop", Some(&ann)).await;
    assert_eq!(shop.status(), StatusCode::OK);
    assert_eq!(all(&shop, HeaderName::from_static("x-session-warning")).len(), 1);
    assert_eq!(body(shop).await, "false");
    let account = visit(&app, "/account", Some(&ann)).await;
    assert_eq!(account.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(all(&account, SET_COOKIE), [""; 0]);
}

/// Who looks at the session first may be a gate around everything, and does not decide for the routes inside.
#[tokio::test]
async fn a_group_that_fails_closed_is_not_given_what_a_gate_around_it_was() {
    let sessions = Sessions::with(CookieSettings::new(), OutagePolicy::AnonymousReadOnly);
    let ann = sessions.ann().await;
    let fault = cloakroom_testkit::Fault::FailBefore(cloakroom_core::StoreErrorKind::Unavailable);
    sessions.store.always(cloakroom_core::Verb::Load, fault);
    let read = async |session: ReadSession| session.principal().is_some().to_string();
    let csrf = Csrf::new(["https://shop.example"]).unwrap().anonymous_by_origin();
    let app = Router::new()
        .route("/pay", post(read))
        .layer(sessions.layer().with_outage(OutagePolicy::FailClosed))
        .route("/look", post(read))
        .layer(CsrfLayer::new(csrf))
        .layer(sessions.layer());
    let warning = HeaderName::from_static("x-session-warning");
    for (path, status, warnings) in [("/pay", StatusCode::SERVICE_UNAVAILABLE, 0), ("/look", StatusCode::OK, 1)] {
        let mut request = crate::support::request(http::Method::POST, path, Some(&ann));
        request.headers_mut().insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
        let response = tower::ServiceExt::oneshot(app.clone(), request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(all(&response, warning.clone()).len(), warnings, "{path}");
    }
}

/// RFC 9213: whoever understands such a header does not look at `Cache-Control`.
#[tokio::test]
async fn no_header_for_some_caches_lets_them_keep_a_token() {
    for (name, value, serves, stores) in [
        ("cdn-cache-control", "max-age=60", true, true),
        ("cdn-cache-control", "no-cache", false, true),
        ("surrogate-control", "content=\"ESI/1.0\"", false, false),
    ] {
        let sessions = Sessions::new();
        let ann = sessions.remembered_ann().await;
        sessions.clock.advance(Duration::from_secs(3600));
        let answer = async move |session: Session| -> Result<_, SessionError> {
            session.set(VISITS, 9)?;
            Ok([(HeaderName::from_static(name), value)])
        };
        let app = Router::new().route("/", get(answer)).layer(sessions.layer());
        let name = HeaderName::from_static(name);
        let touched = visit(&app, "/", Some(&ann)).await;
        assert_eq!(all(&touched, SET_COOKIE).len(), usize::from(!serves), "{name}: {value}");
        assert_eq!(all(&touched, name.clone()).is_empty(), stores && !serves, "{name}: {value}");
        let created = visit(&app, "/", None).await;
        assert_eq!(all(&created, SET_COOKIE).len(), 1, "{name}: {value}");
        assert_eq!(all(&created, CACHE_CONTROL), ["no-store"], "{name}: {value}");
        assert_eq!(all(&created, name.clone()).is_empty(), stores, "{name}: {value}");
    }
}
