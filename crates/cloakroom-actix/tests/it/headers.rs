//! What the response says, header by header.

use std::future::ready;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, COOKIE, SET_COOKIE, VARY};
use actix_web::web::{ServiceConfig, get};
use cloakroom_actix::{LazySession, OptionalSession, ReadSession, Session, SessionError};

use crate::support::{CLEARED, Sessions, VISITS, all, body, cookie, count, nobody, request, visit};

#[actix_web::test]
async fn creating_a_session_hands_out_exactly_one_cookie_and_nothing_a_cache_may_keep() {
    let app = Sessions::new().app(|config| _ = config.route("/", get().to(count))).await;
    let response = visit(&app, "/", None).await;
    let cookies = all(&response, SET_COOKIE);
    let [only] = cookies.as_slice() else { panic!("{} cookies", cookies.len()) };
    let (pair, attributes) = only.split_once(';').unwrap();
    assert!(pair.starts_with("__Host-id="), "{pair}");
    assert_eq!(attributes, " Path=/; Secure; HttpOnly; SameSite=Lax");
    assert!(response.headers().get(SET_COOKIE).unwrap().is_sensitive(), "not to be printed");
    assert_eq!(all(&response, VARY), ["Cookie"]);
    assert_eq!(all(&response, CACHE_CONTROL), ["no-store"]);
    assert!(response.headers().get("x-session-warning").is_none());
    let again = visit(&app, "/", Some(&cookie(&response))).await;
    assert_eq!(all(&again, SET_COOKIE), [""; 0]);
    assert_eq!(all(&again, CACHE_CONTROL), [""; 0]);
    assert_eq!(body(again).await, "2");
}

#[actix_web::test]
async fn cookies_of_the_handler_stay() {
    let own = async |session: Session| -> Result<HttpResponse, SessionError> {
        session.set(VISITS, 1)?;
        Ok(HttpResponse::Ok().insert_header((SET_COOKIE, "theme=dark")).finish())
    };
    let app = Sessions::new().app(|config| _ = config.route("/", get().to(own))).await;
    let response = visit(&app, "/", None).await;
    assert_eq!(all(&response, SET_COOKIE).len(), 2);
    assert_eq!(all(&response, SET_COOKIE)[0], "theme=dark");
}

#[actix_web::test]
async fn logout_removes_the_cookie_and_the_session() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let logout = async |session: Session| session.logout().map(|()| "").map_err(SessionError::from);
    let app = sessions.app(|config| _ = config.route("/", get().to(logout))).await;
    let response = visit(&app, "/", Some(&ann)).await;
    assert_eq!(all(&response, SET_COOKIE), [CLEARED]);
    assert_eq!(all(&response, CACHE_CONTROL), ["no-store"]);
    assert_eq!(sessions.stored(&ann).await, nobody());
}

#[actix_web::test]
async fn a_token_that_was_never_minted_is_cleared_without_asking_the_store() {
    let sessions = Sessions::new();
    let app = sessions.app(|config| _ = config.route("/", get().to(async |_: ReadSession| ""))).await;
    let response = visit(&app, "/", Some("__Host-id=forged")).await;
    assert_eq!(all(&response, SET_COOKIE), [CLEARED]);
    assert_eq!(sessions.store.reads(), 0);
}

#[actix_web::test]
async fn a_response_whose_handler_ignores_the_session_is_left_alone() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let plain =
        || HttpResponse::Ok().insert_header((CACHE_CONTROL, "public")).insert_header((VARY, "Accept")).body("plain");
    let routes = |config: &mut ServiceConfig| {
        config.route("/plain", get().to(move || ready(plain())));
        config.route("/lazy", get().to(move |_: LazySession| ready(plain())));
    };
    let app = sessions.app(routes).await;
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

#[actix_web::test]
async fn every_way_to_the_session_adds_vary() {
    let sessions = Sessions::new();
    let load = async |session: LazySession| session.load().await.map(|_| "");
    let routes = |config: &mut ServiceConfig| {
        config.route("/session", get().to(async |_: Session| ""));
        config.route("/option", get().to(async |_: OptionalSession| ""));
        config.route("/read", get().to(async |_: ReadSession| ""));
        config.route("/lazy", get().to(load));
    };
    let app = sessions.app(routes).await;
    let ann = sessions.ann().await;
    for path in ["/session", "/option", "/read", "/lazy"] {
        for cookie in [None, Some(ann.as_str())] {
            assert_eq!(all(&visit(&app, path, cookie).await, VARY), ["Cookie"], "{path} {cookie:?}");
        }
    }
}

#[actix_web::test]
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
            let mut response = HttpResponse::Ok();
            for value in given {
                response.append_header((VARY, *value));
            }
            response.finish()
        };
        let app = Sessions::new().app(|config| _ = config.route("/", get().to(handler))).await;
        assert_eq!(all(&visit(&app, "/", None).await, VARY), expected);
    }
}

#[actix_web::test]
async fn a_public_response_never_carries_a_touch_cookie_and_a_private_one_does() {
    let answer = |cache_control: &'static str| {
        move |session: Session| async move {
            session.set(VISITS, 9).unwrap();
            HttpResponse::Ok().insert_header((CACHE_CONTROL, cache_control)).finish()
        }
    };
    for (cache_control, public) in [
        ("public", true),
        ("max-age=60, Public", true),
        ("s-maxage = 60", true),
        ("private", false),
        ("x-public", false),
        ("no-cache=\"public-key\"", false),
    ] {
        let sessions = Sessions::new();
        let ann = sessions.remembered_ann().await;
        sessions.clock.advance(Duration::from_secs(3600));
        let app = sessions.app(|config| _ = config.route("/", get().to(answer(cache_control)))).await;
        let response = visit(&app, "/", Some(&ann)).await;
        assert_eq!(all(&response, SET_COOKIE).len(), usize::from(!public), "{cache_control}");
        assert_eq!(all(&response, CACHE_CONTROL), [if public { cache_control } else { "no-store" }]);
        assert_eq!(sessions.stored(&ann).await.visits, 9, "{cache_control}");
        let created = visit(&app, "/", None).await;
        assert_eq!(all(&created, CACHE_CONTROL), ["no-store"], "a token must go out: public no more");
    }
}

#[actix_web::test]
async fn cookies_split_over_several_headers_are_read() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let read = async |session: ReadSession| session.principal().is_some().to_string();
    let app = sessions.app(|config| _ = config.route("/", get().to(read))).await;
    let split = request("/", Some("theme=dark")).append_header((COOKIE, ann));
    assert_eq!(body(app(split).await.unwrap()).await, "true");
}

/// RFC 9213: whoever understands such a header does not look at `Cache-Control`.
#[actix_web::test]
async fn no_header_for_some_caches_lets_them_keep_a_token() {
    for (name, value, serves, stores) in [
        ("cdn-cache-control", "max-age=60", true, true),
        ("cdn-cache-control", "no-cache", false, true),
        ("surrogate-control", "content=\"ESI/1.0\"", false, false),
    ] {
        let sessions = Sessions::new();
        let ann = sessions.remembered_ann().await;
        sessions.clock.advance(Duration::from_secs(3600));
        let answer = move |session: Session| async move {
            session.set(VISITS, 9).unwrap();
            HttpResponse::Ok().insert_header((name, value)).finish()
        };
        let app = sessions.app(|config| _ = config.route("/", get().to(answer))).await;
        let touched = visit(&app, "/", Some(&ann)).await;
        assert_eq!(all(&touched, SET_COOKIE).len(), usize::from(!serves), "{name}: {value}");
        assert_eq!(touched.headers().contains_key(name), serves || !stores, "{name}: {value}");
        let created = visit(&app, "/", None).await;
        assert_eq!(all(&created, SET_COOKIE).len(), 1, "{name}: {value}");
        assert_eq!(all(&created, CACHE_CONTROL), ["no-store"], "{name}: {value}");
        assert_eq!(created.headers().contains_key(name), !stores, "{name}: {value}");
    }
}
