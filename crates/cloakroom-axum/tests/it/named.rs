//! Several sessions in one application.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use cloakroom_axum::{CsrfLayer, LazySession, ReadSession, RequireLayer, Session, SessionError, SessionLayer};
use cloakroom_core::{Backend, CookieSettings, Csrf, HeaderSettings, Manager, OutagePolicy, Require, Transport, Verb};
use http::header::{SET_COOKIE, VARY};
use http::{HeaderValue, Method, StatusCode};

use crate::support::{Sessions, VISITS, all, body, cookie, visit};

struct Admin;

fn named(name: &str) -> Sessions {
    Sessions::with(CookieSettings::new().with_name(name), OutagePolicy::FailClosed)
}

#[tokio::test]
async fn two_sessions_in_one_application_have_two_cookies_and_keep_apart() {
    let (customers, admins) = (Sessions::new(), named("__Host-admin"));
    let both = async |customer: Session, admin: Session<Admin>| -> Result<String, SessionError> {
        let customer = customer.modify(VISITS, |visits| *visits += 1)?;
        let admin = admin.modify(VISITS, |visits| *visits += 10)?;
        Ok(format!("{customer} {admin}"))
    };
    let lazy = async |admin: LazySession<Admin>| -> Result<String, SessionError> {
        let admin = admin.load().await?;
        Ok(admin.get(VISITS)?.unwrap_or_default().to_string())
    };
    let read = async |customer: ReadSession, admin: ReadSession<Admin>| -> Result<String, SessionError> {
        Ok(format!("{:?} {:?}", customer.get(VISITS)?, admin.get(VISITS)?))
    };
    let optional = async |customer: Option<Session>, admin: Option<Session<Admin>>| {
        format!("{} {}", customer.is_some(), admin.is_some())
    };
    let app = Router::new()
        .route("/", get(both))
        .route("/lazy", get(lazy))
        .route("/read", get(read))
        .route("/optional", get(optional))
        .layer(SessionLayer::named::<Admin>(admins.manager.clone()))
        .layer(customers.layer());
    let response = visit(&app, "/", None).await;
    let cookies: Vec<String> =
        all(&response, SET_COOKIE).iter().map(|set| set.split(';').next().unwrap().to_owned()).collect();
    assert_eq!(
        cookies.iter().map(|pair| pair.split('=').next().unwrap()).collect::<Vec<_>>(),
        ["__Host-admin", "__Host-id"]
    );
    assert_eq!(all(&response, VARY), ["Cookie"]);
    assert_eq!(body(response).await, "1 10");

    let jar = cookies.join("; ");
    assert_eq!(body(visit(&app, "/", Some(&jar)).await).await, "2 20");
    assert_eq!(body(visit(&app, "/lazy", Some(&jar)).await).await, "20");
    assert_eq!(body(visit(&app, "/read", Some(&cookies[0])).await).await, "None Some(20)");
    assert_eq!(body(visit(&app, "/optional", Some(&cookies[1])).await).await, "true false");
}

#[tokio::test]
async fn a_gate_of_a_name_looks_at_the_session_of_that_name() {
    let (customers, admins) = (Sessions::new(), named("__Host-admin"));
    let customer = customers.ann().await;
    // The second, as both draw the same numbers.
    admins.ann().await;
    let admin = admins.ann().await;
    let tokens = async |customer: Session, admin: Session<Admin>| -> Result<String, SessionError> {
        Ok(format!("{} {}", customer.csrf_token()?, admin.csrf_token()?))
    };
    let csrf = Csrf::new(["https://shop.example"]).unwrap();
    let app = Router::new()
        .route("/", get(async || "in").layer(RequireLayer::new(Require::sign_in())))
        .route("/admin", get(async || "in").layer(RequireLayer::named::<Admin>(Require::sign_in())))
        .route("/change", post(async || "done").layer(CsrfLayer::new(csrf.clone())))
        .route("/admin/change", post(async || "done").layer(CsrfLayer::named::<Admin>(csrf)))
        .route("/tokens", get(tokens))
        .layer(SessionLayer::named::<Admin>(admins.manager.clone()))
        .layer(customers.layer());
    for (path, cookie, status) in
        [("/", &customer, 200), ("/", &admin, 401), ("/admin", &customer, 401), ("/admin", &admin, 200)]
    {
        assert_eq!(visit(&app, path, Some(cookie)).await.status().as_u16(), status, "{path} {cookie}");
    }
    let jar = format!("{customer}; {admin}");
    let tokens = body(visit(&app, "/tokens", Some(&jar)).await).await;
    let (of_customer, of_admin) = tokens.split_once(' ').unwrap();
    let cases = [
        ("/change", of_customer, 200),
        ("/change", of_admin, 403),
        ("/admin/change", of_customer, 403),
        ("/admin/change", of_admin, 200),
    ];
    for (path, token, status) in cases {
        let mut request = crate::support::request(Method::POST, path, Some(&jar));
        request.headers_mut().insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
        request.headers_mut().insert("x-csrf-token", HeaderValue::from_str(token).unwrap());
        let response = tower::ServiceExt::oneshot(app.clone(), request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{path}");
    }
}

/// A customer's token would sign an administrator in.
#[tokio::test]
async fn two_sessions_that_share_a_header_are_both_refused() {
    let customers = Sessions::new();
    let bearer = |transport| {
        let backend = Backend::store(customers.store.clone());
        Manager::builder(backend, customers.manager.keys().clone()).transport(transport).build().unwrap()
    };
    let way_out = |name: &str| bearer(Transport::Header(HeaderSettings::named(name).with_response("X-Token")));
    let pairs = [
        (customers.manager.clone(), customers.manager.clone()),
        (customers.manager.clone(), Sessions::new().manager),
        (bearer(Transport::bearer()), bearer(Transport::bearer())),
        (way_out("X-Customer"), way_out("X-Admin")),
    ];
    for (outer, inner) in pairs {
        let admin = async |admin: ReadSession<Admin>| format!("{:?}", admin.principal());
        let customer = async |customer: ReadSession| format!("{:?}", customer.principal());
        for named_first in [false, true] {
            let app = Router::new().route("/admin", get(admin)).route("/", get(customer));
            let (outer, inner) = (outer.clone(), inner.clone());
            let app = if named_first {
                app.layer(SessionLayer::new(inner)).layer(SessionLayer::named::<Admin>(outer))
            } else {
                app.layer(SessionLayer::named::<Admin>(inner)).layer(SessionLayer::new(outer))
            };
            for path in ["/admin", "/"] {
                assert_eq!(visit(&app, path, None).await.status(), StatusCode::INTERNAL_SERVER_ERROR, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn one_manager_layered_twice_gives_one_session() {
    let sessions = Sessions::new();
    let count = async |session: Session, request: Request, next: Next| -> Result<Response, SessionError> {
        session.modify(VISITS, |visits| *visits += 1)?;
        Ok(next.run(request).await)
    };
    let visits = async |session: Session| -> Result<String, SessionError> {
        Ok(session.modify(VISITS, |visits| *visits += 1)?.to_string())
    };
    let app =
        Router::new().route("/", get(visits)).layer(sessions.layer()).layer(from_fn(count)).layer(sessions.layer());
    let response = visit(&app, "/", None).await;
    let cookie = cookie(&response);
    assert_eq!(all(&response, VARY), ["Cookie"]);
    assert_eq!(body(response).await, "2");
    assert_eq!(sessions.store.calls(Verb::Create), 1);
    assert_eq!(sessions.stored(&cookie).await.visits, 2);
}

#[tokio::test]
async fn of_two_managers_under_one_name_the_inner_one_serves_the_handlers_inside() {
    let (outer, inner) = (Sessions::new(), named("__Host-inner"));
    let visits = async |session: Session| session.set(VISITS, 1).map_err(SessionError::from);
    let app = Router::new()
        .route("/inner", get(visits))
        .layer(inner.layer())
        .route("/outer", get(visits))
        .layer(outer.layer());
    let response = visit(&app, "/inner", None).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(cookie(&response).starts_with("__Host-inner="));
    assert!(cookie(&visit(&app, "/outer", None).await).starts_with("__Host-id="));
    assert_eq!((outer.store.calls(Verb::Create), inner.store.calls(Verb::Create)), (1, 1));
}
