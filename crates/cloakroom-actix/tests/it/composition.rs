//! In every place of an application, with other middlewares, and twice.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::guard::fn_guard;
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT_ENCODING, SET_COOKIE, USER_AGENT, VARY};
use actix_web::middleware::{Compress, DefaultHeaders, Logger, Next, from_fn};
use actix_web::test::init_service;
use actix_web::web::{self, get, post};
use actix_web::{App, Error, HttpResponse};
use cloakroom_actix::{
    CsrfMiddleware, LazySession, OptionalSession, ReadSession, RequireMiddleware, Session, SessionError, SessionExt,
    SessionMiddleware,
};
use cloakroom_core::{
    Backend, CookieSettings, Csrf, HeaderSettings, Manager, OutagePolicy, Page, Principal, Require, State,
    StoreErrorKind, Transport, Verb,
};
use cloakroom_testkit::Fault;

use crate::support::{Running, Sessions, VISITS, all, body, cookie, count, request, running, visit};

struct Admin;

fn named(name: &str) -> Sessions {
    Sessions::with(CookieSettings::new().with_name(name), OutagePolicy::FailClosed)
}

/// A visit without a cookie and one with the cookie that the first was given.
async fn check(app: &Running, path: &str) {
    let first = visit(app, path, None).await;
    let cookie = cookie(&first);
    assert_eq!(body(first).await, "1", "{path}");
    assert_eq!(body(visit(app, path, Some(&cookie)).await).await, "2", "{path}");
}

#[actix_web::test]
async fn around_applications_scopes_resources_and_default_services() {
    let sessions = Sessions::new();
    let around = init_service(
        App::new()
            .route("/plain", get().to(count))
            .service(web::scope("/scope").service(web::scope("/{parameter}").route("/leaf", get().to(count))))
            .service(web::resource("/resource").route(get().to(count)))
            .default_service(get().to(count))
            .wrap(sessions.middleware()),
    );
    let around = running(around.await);
    for path in ["/plain", "/scope/a/leaf", "/resource", "/none"] {
        check(&around, path).await;
    }
    let inside = App::new()
        .service(web::scope("/scope").wrap(sessions.middleware()).route("/leaf", get().to(count)))
        .service(web::resource("/resource").wrap(sessions.middleware()).route(get().to(count)));
    let inside = running(init_service(inside).await);
    for path in ["/scope/leaf", "/resource"] {
        check(&inside, path).await;
    }
}

#[actix_web::test]
async fn in_any_order_with_the_usual_middlewares() {
    let sessions = Sessions::new();
    let headers = || DefaultHeaders::new().add(("X-Frame-Options", "DENY"));
    let outermost = App::new().route("/", get().to(count)).wrap(Compress::default()).wrap(headers());
    check(&running(init_service(outermost.wrap(Logger::default()).wrap(sessions.middleware())).await), "/").await;
    let innermost = App::new().route("/", get().to(count)).wrap(sessions.middleware()).wrap(Compress::default());
    check(&running(init_service(innermost.wrap(headers()).wrap(Logger::default())).await), "/").await;

    let long = async |_: Session| "hello ".repeat(100);
    let app = App::new().route("/", get().to(long)).wrap(sessions.middleware()).wrap(Compress::default());
    let app = running(init_service(app).await);
    let response = app(request("/", None).insert_header((ACCEPT_ENCODING, "gzip"))).await.unwrap();
    let vary = all(&response, VARY).join(", ").to_lowercase();
    assert!(vary.contains("cookie") && vary.contains("accept-encoding"), "{vary}");
}

async fn members<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if request.session().await?.principal().is_none() {
        return Ok(request.into_response(HttpResponse::Forbidden()));
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

#[actix_web::test]
async fn with_a_middleware_that_uses_the_session() {
    let sessions = Sessions::new();
    let app = App::new().route("/{id}", get().to(count)).wrap(from_fn(members)).wrap(sessions.middleware());
    let app = running(init_service(app).await);
    let refused = visit(&app, "/1", None).await;
    assert_eq!((refused.status(), all(&refused, VARY)), (StatusCode::FORBIDDEN, vec!["Cookie"]));
    let ann = sessions.ann().await;
    assert_eq!(body(visit(&app, "/1", Some(&ann)).await).await, "2");
    assert_eq!(sessions.store.reads(), 1);
}

#[actix_web::test]
async fn a_guard_sees_the_session_that_a_middleware_opened() {
    let sessions = Sessions::new();
    let open = async |request: ServiceRequest, next: Next<_>| {
        if request.path() == "/" {
            request.read_session().await?;
        }
        next.call(request).await
    };
    let signed_in =
        || fn_guard(|context| context.opened_session().is_some_and(|session| session.principal().is_some()));
    let resource = |path| {
        web::resource(path).route(get().guard(signed_in()).to(async || "member")).route(get().to(async || "visitor"))
    };
    let app = App::new().service(resource("/")).service(resource("/unopened"));
    let app = running(init_service(app.wrap(from_fn(open)).wrap(sessions.middleware())).await);
    let ann = sessions.ann().await;
    assert_eq!(body(visit(&app, "/", Some(&ann)).await).await, "member");
    assert_eq!(body(visit(&app, "/", None).await).await, "visitor");
    assert_eq!(body(visit(&app, "/unopened", Some(&ann)).await).await, "visitor");
}

#[actix_web::test]
async fn two_sessions_in_one_application_have_two_cookies_and_keep_apart() {
    let (customers, admins) = (Sessions::new(), named("__Host-admin"));
    let both = async |customer: Session, admin: Session<Admin>| -> Result<String, SessionError> {
        let customer = customer.modify(VISITS, |visits| *visits += 1)?;
        let admin = admin.modify(VISITS, |visits| *visits += 10)?;
        Ok(format!("{customer} {admin}"))
    };
    let lazy = async |admin: LazySession<Admin>| -> Result<String, SessionError> {
        Ok(admin.load().await?.get(VISITS)?.unwrap_or_default().to_string())
    };
    let read = async |customer: ReadSession, admin: ReadSession<Admin>| -> Result<String, SessionError> {
        Ok(format!("{:?} {:?}", customer.get(VISITS)?, admin.get(VISITS)?))
    };
    let optional = async |customer: OptionalSession, admin: OptionalSession<Admin>| {
        format!("{} {}", customer.0.is_some(), admin.0.is_some())
    };
    let extension = async |request: actix_web::HttpRequest| -> Result<String, SessionError> {
        Ok(format!("{:?}", request.session_named::<Admin>().await?.get(VISITS)?))
    };
    let app = App::new()
        .route("/", get().to(both))
        .route("/lazy", get().to(lazy))
        .route("/read", get().to(read))
        .route("/optional", get().to(optional))
        .route("/extension", get().to(extension))
        .wrap(SessionMiddleware::named::<Admin>(admins.manager.clone()))
        .wrap(customers.middleware());
    let app = running(init_service(app).await);
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
    assert_eq!(body(visit(&app, "/extension", Some(&jar)).await).await, "Some(20)");
    assert_eq!(body(visit(&app, "/read", Some(&cookies[0])).await).await, "None Some(20)");
    assert_eq!(body(visit(&app, "/optional", Some(&cookies[1])).await).await, "true false");
}

#[actix_web::test]
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
    let app = App::new()
        .service(web::resource("/").wrap(RequireMiddleware::new(Require::sign_in())).to(async || "in"))
        .service(web::resource("/admin").wrap(RequireMiddleware::named::<Admin>(Require::sign_in())).to(async || "in"))
        .service(web::resource("/change").wrap(CsrfMiddleware::new(csrf.clone())).to(async || "done"))
        .service(web::resource("/admin/change").wrap(CsrfMiddleware::named::<Admin>(csrf)).to(async || "done"))
        .route("/tokens", get().to(tokens))
        .wrap(SessionMiddleware::named::<Admin>(admins.manager.clone()))
        .wrap(customers.middleware());
    let app = running(init_service(app).await);
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
        let request = request(path, Some(&jar)).method(actix_web::http::Method::POST);
        let request = request.insert_header(("sec-fetch-site", "same-origin")).insert_header(("x-csrf-token", token));
        assert_eq!(app(request).await.unwrap().status().as_u16(), status, "{path}");
    }
}

/// A customer's token would sign an administrator in.
#[actix_web::test]
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
        let app = || App::new().route("/admin", get().to(admin)).route("/", get().to(customer));
        let (named, unnamed) = (SessionMiddleware::named::<Admin>, SessionMiddleware::new);
        let unnamed_first = app().wrap(named(inner.clone())).wrap(unnamed(outer.clone()));
        let named_first = app().wrap(unnamed(inner)).wrap(named(outer));
        let apps = [running(init_service(unnamed_first).await), running(init_service(named_first).await)];
        for (app, path) in apps.iter().flat_map(|app| [(app, "/admin"), (app, "/")]) {
            assert_eq!(visit(app, path, None).await.status(), StatusCode::INTERNAL_SERVER_ERROR, "{path}");
        }
    }
}

#[actix_web::test]
async fn one_manager_wrapped_twice_gives_one_session() {
    let sessions = Sessions::new();
    let twice = async |session: Session, request: ServiceRequest, next: Next<_>| {
        session.modify(VISITS, |visits| *visits += 1).map_err(SessionError::from)?;
        next.call(request).await
    };
    let app = App::new().route("/", get().to(count)).wrap(sessions.middleware());
    let app = running(init_service(app.wrap(from_fn(twice)).wrap(sessions.middleware())).await);
    let response = visit(&app, "/", None).await;
    let cookie = cookie(&response);
    assert_eq!(all(&response, VARY), ["Cookie"]);
    assert_eq!(body(response).await, "2");
    assert_eq!(sessions.store.calls(Verb::Create), 1);
    assert_eq!(sessions.stored(&cookie).await.visits, 2);
}

#[actix_web::test]
async fn of_two_managers_under_one_name_the_inner_one_serves_the_handlers_inside() {
    let (outer, inner) = (Sessions::new(), named("__Host-inner"));
    let app = App::new()
        .service(web::scope("/inner").wrap(inner.middleware()).route("", get().to(count)))
        .route("/outer", get().to(count))
        .wrap(outer.middleware());
    let app = running(init_service(app).await);
    assert!(cookie(&visit(&app, "/inner", None).await).starts_with("__Host-inner="));
    assert!(cookie(&visit(&app, "/outer", None).await).starts_with("__Host-id="));
    assert_eq!((outer.store.calls(Verb::Create), inner.store.calls(Verb::Create)), (1, 1));
}

#[actix_web::test]
async fn a_scope_has_an_outage_policy_of_its_own() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    sessions.store.always(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
    let read = async |session: ReadSession| session.principal().is_some().to_string();
    let readable = sessions.middleware().with_outage(OutagePolicy::AnonymousReadOnly);
    let app = App::new()
        .route("/account", get().to(read))
        .service(web::scope("/shop").wrap(readable).route("", get().to(read)))
        .wrap(sessions.middleware());
    let app = running(init_service(app).await);
    let shop = visit(&app, "/shop", Some(&ann)).await;
    assert_eq!(shop.status(), StatusCode::OK);
    assert_eq!(shop.headers().get("x-session-warning").unwrap(), "session store unavailable; anonymous view");
    assert_eq!(body(shop).await, "false");
    let account = visit(&app, "/account", Some(&ann)).await;
    assert_eq!(account.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(all(&account, SET_COOKIE), [""; 0]);
}

/// Who looks at the session first may be a gate around everything, and does not decide for the routes inside.
#[actix_web::test]
async fn a_scope_that_fails_closed_is_not_given_what_a_gate_around_it_was() {
    let sessions = Sessions::with(CookieSettings::new(), OutagePolicy::AnonymousReadOnly);
    let ann = sessions.ann().await;
    sessions.store.always(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
    let read = async |session: ReadSession| session.principal().is_some().to_string();
    let closed = sessions.middleware().with_outage(OutagePolicy::FailClosed);
    let csrf = Csrf::new(["https://shop.example"]).unwrap().anonymous_by_origin();
    let app = App::new()
        .service(web::scope("/pay").wrap(closed).route("", post().to(read)))
        .route("/look", post().to(read))
        .wrap(CsrfMiddleware::new(csrf))
        .wrap(sessions.middleware());
    let app = running(init_service(app).await);
    for (path, status, warnings) in [("/pay", StatusCode::SERVICE_UNAVAILABLE, 0), ("/look", StatusCode::OK, 1)] {
        let request = request(path, Some(&ann)).method(actix_web::http::Method::POST);
        let response = app(request.insert_header(("sec-fetch-site", "same-origin"))).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers().get_all("x-session-warning").count(), warnings, "{path}");
    }
}

#[actix_web::test]
async fn an_optional_session_is_none_where_there_is_none() {
    let sessions = Sessions::new();
    let state = async |OptionalSession(session): OptionalSession| format!("{:?}", session.map(|it| it.state()));
    let ended = async |session: Session, request: actix_web::HttpRequest| {
        session.logout().unwrap();
        format!("{:?}", request.extract_optional().await)
    };
    let routes = |config: &mut web::ServiceConfig| {
        config.route("/", get().to(state)).route("/ended", get().to(ended));
    };
    let app = sessions.app(routes).await;
    let ann = sessions.ann().await;
    assert_eq!(body(visit(&app, "/", None).await).await, "None");
    assert_eq!(body(visit(&app, "/", Some("__Host-id=forged")).await).await, "None");
    assert_eq!(body(visit(&app, "/", Some(&ann)).await).await, format!("{:?}", Some(State::Unchanged)));
    sessions.store.once(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
    assert_eq!(visit(&app, "/", Some(&ann)).await.status(), StatusCode::SERVICE_UNAVAILABLE, "not nobody");
    assert_eq!(body(visit(&app, "/ended", Some(&ann)).await).await, "None");
    assert_eq!(body(visit(&app, "/", Some(&ann)).await).await, "None");
}

trait ExtractOptional {
    async fn extract_optional(&self) -> Option<State>;
}

impl ExtractOptional for actix_web::HttpRequest {
    async fn extract_optional(&self) -> Option<State> {
        let session = <OptionalSession as actix_web::FromRequest>::extract(self).await.unwrap();
        session.0.map(|session| session.state())
    }
}

#[actix_web::test]
async fn all_extractors_of_a_request_share_one_session_that_is_loaded_once() {
    let sessions = Sessions::new();
    let share = async |one: Session, read: ReadSession, lazy: LazySession, two: Session| -> Result<_, SessionError> {
        one.set(VISITS, 5)?;
        two.modify(VISITS, |visits| *visits += 1)?;
        lazy.load().await?.modify(VISITS, |visits| *visits += 1)?;
        Ok(read.get(VISITS)?.unwrap_or_default().to_string())
    };
    let app = sessions.app(|config| _ = config.route("/", get().to(share))).await;
    let ann = sessions.ann().await;
    assert_eq!(body(visit(&app, "/", Some(&ann)).await).await, "7");
    assert_eq!((sessions.store.reads(), sessions.store.writes()), (1, 1));
    assert_eq!(sessions.stored(&ann).await.visits, 7);
}

#[actix_web::test]
async fn no_extractor_prints_the_token() {
    let sessions = Sessions::new();
    let print = async |session: Session, read: ReadSession, lazy: LazySession| format!("{session:?} {read:?} {lazy:?}");
    let app = sessions.app(|config| _ = config.route("/", get().to(print))).await;
    let ann = sessions.ann().await;
    let token = ann.split_once('=').unwrap().1;
    let printed = body(visit(&app, "/", Some(&ann)).await).await;
    assert!(printed.contains("LazySession") && printed.contains("Unchanged"), "{printed}");
    assert!(!printed.contains(token));
    assert!(!format!("{:?}", sessions.middleware()).contains(token));
}

#[actix_web::test]
async fn the_session_remembers_the_client_that_began_it() {
    let begin = async |session: Session| session.login("ann").map(|()| "").map_err(SessionError::from);
    let lazily = async |session: LazySession| -> Result<&str, SessionError> {
        session.load().await?.login("ann")?;
        Ok("")
    };
    for path in ["/session", "/lazy"] {
        let sessions = Sessions::new();
        let routes = |config: &mut web::ServiceConfig| {
            config.route("/session", get().to(begin)).route("/lazy", get().to(lazily));
        };
        let app = sessions.app(routes).await;
        let request = request(path, None).insert_header((USER_AGENT, "Lynx/2.9"));
        app(request.peer_addr("[::ffff:192.0.2.7]:50000".parse().unwrap())).await.unwrap();
        let directory = sessions.manager.directory().unwrap();
        let ann = Principal::try_from("ann").unwrap();
        let listing = directory.list(&ann, Page { after: None, limit: 10 }).await.unwrap();
        let [summary] = listing.sessions.as_slice() else { panic!("{listing:?}") };
        assert_eq!(summary.client.user_agent(), Some("Lynx/2.9"), "{path}");
        assert_eq!(summary.client.address(), Some("192.0.2.7".parse().unwrap()), "{path}");
    }
}

#[actix_web::test]
async fn a_handler_without_a_middleware_around_it_fails_and_says_so_to_the_operator_only() {
    let app = App::new().route("/", get().to(count)).route("/lazy", get().to(async |_: LazySession<Admin>| "")).route(
        "/look",
        get().to(async |request: actix_web::HttpRequest| request.session().await.unwrap_err().to_string()),
    );
    let app = running(init_service(app).await);
    for path in ["/", "/lazy"] {
        let response = visit(&app, path, None).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body(response).await, "");
    }
    let text = body(visit(&app, "/look", None).await).await;
    assert!(text.contains(".wrap(SessionMiddleware::new(manager))"), "{text}");
}
