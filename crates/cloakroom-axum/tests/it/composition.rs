//! In every place of a router, and with the layers that are usually there.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::middleware::from_fn;
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use cloakroom_axum::{Session, SessionError};
use cloakroom_core::{StoreErrorKind, Verb};
use cloakroom_testkit::Fault;
use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, ORIGIN, VARY,
};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

use crate::support::{Sessions, VISITS, all, body, cookie, request, visit};

async fn count(session: Session) -> Result<String, SessionError> {
    Ok(session.modify(VISITS, |visits| *visits += 1)?.to_string())
}

/// A visit without a cookie and one with the cookie that the first was given.
async fn check(app: &Router, path: &str) {
    let first = visit(app, path, None).await;
    let cookie = cookie(&first);
    assert_eq!(body(first).await, "1", "{path}");
    assert_eq!(body(visit(app, path, Some(&cookie)).await).await, "2", "{path}");
}

#[tokio::test]
async fn around_routers_nests_merges_fallbacks_and_single_routes() {
    let sessions = Sessions::new();
    let inside = Router::new().route("/leaf", get(count)).fallback(count);
    let app = Router::new()
        .route("/plain", get(count))
        .route("/{parameter}/deep", get(count))
        .nest("/nested", inside.clone())
        .nest("/nested/twice", Router::new().nest("/again", inside))
        .merge(Router::new().route("/merged", get(count)))
        .nest_service("/service", get(count))
        .fallback(count)
        .layer(sessions.layer())
        .route("/single", get(count).layer(sessions.layer()))
        .route("/routes", MethodRouter::<(), Infallible>::new().get(count).route_layer(sessions.layer()));
    for path in [
        "/plain",
        "/a/deep",
        "/nested/leaf",
        "/nested/none",
        "/nested/twice/again/leaf",
        "/merged",
        "/service",
        "/none",
        "/single",
        "/routes",
    ] {
        check(&app, path).await;
    }
}

#[tokio::test]
async fn as_a_route_layer_and_around_the_whole_application() {
    let sessions = Sessions::new();
    check(&Router::new().route("/", get(count)).route_layer(sessions.layer()), "/").await;

    let app = Router::new().route("/", get(count));
    check(&Router::new().fallback_service(ServiceBuilder::new().layer(sessions.layer()).service(app)), "/").await;
}

#[tokio::test]
async fn with_state() {
    let app: Router = Router::new().route("/", get(count)).layer(Sessions::new().layer()).with_state(7_u8);
    check(&app, "/").await;
}

#[tokio::test]
async fn head_requests_get_the_cookie_and_no_body() {
    let sessions = Sessions::new();
    let app = Router::new().route("/", get(count)).layer(sessions.layer());
    let response = app.clone().oneshot(request(Method::HEAD, "/", None)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(all(&response, CONTENT_LENGTH), ["1"]);
    let cookie = cookie(&response);
    assert_eq!(body(response).await, "");
    assert_eq!(sessions.stored(&cookie).await.visits, 1);
}

#[tokio::test]
async fn refused_methods_stay_as_axum_answers_them() {
    let app = Router::new().route("/", get(count)).layer(Sessions::new().layer());
    let response = app.oneshot(request(Method::POST, "/", None)).await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(all(&response, ALLOW), ["GET,HEAD"]);
    assert_eq!(all(&response, VARY), [""; 0]);
}

async fn gateway_timeout(_: tower::BoxError) -> StatusCode {
    StatusCode::GATEWAY_TIMEOUT
}

#[tokio::test]
async fn in_any_order_with_the_usual_layers() {
    let sessions = Sessions::new();
    let timeout = || TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, Duration::from_secs(60));
    let routes = || Router::new().route("/", get(count));
    let outermost = ServiceBuilder::new()
        .layer(sessions.layer())
        .layer(TraceLayer::new_for_http())
        .layer(CompressionLayer::new())
        .layer(CorsLayer::permissive())
        .layer(CatchPanicLayer::new())
        .layer(timeout());
    let innermost = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(CorsLayer::permissive())
        .layer(CompressionLayer::new())
        .layer(timeout())
        .layer(RequestBodyLimitLayer::new(1024))
        .layer(sessions.layer());
    let amidst = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(gateway_timeout))
        .timeout(Duration::from_secs(60))
        .layer(TraceLayer::new_for_http())
        .layer(CorsLayer::permissive())
        .layer(sessions.layer())
        .layer(CompressionLayer::new())
        .layer(RequestBodyLimitLayer::new(1024));
    check(&routes().layer(outermost), "/").await;
    check(&routes().layer(innermost), "/").await;
    check(&routes().layer(amidst), "/").await;
}

#[tokio::test]
async fn with_middleware_that_uses_the_session() {
    let sessions = Sessions::new();
    let guard = async |session: Session, request: axum::extract::Request, next: axum::middleware::Next| {
        if session.principal().is_none() { Err(StatusCode::FORBIDDEN) } else { Ok(next.run(request).await) }
    };
    let app = Router::new().route("/", get(count)).layer(from_fn(guard)).layer(sessions.layer());
    assert_eq!(visit(&app, "/", None).await.status(), StatusCode::FORBIDDEN);
    let ann = sessions.ann().await;
    assert_eq!(body(visit(&app, "/", Some(&ann)).await).await, "2");
    assert_eq!(sessions.store.reads(), 1);
}

#[tokio::test]
async fn around_a_service_that_is_not_axums() {
    let sessions = Sessions::new();
    let hello = service_fn(async |_: Request<Full<&'static [u8]>>| {
        Ok::<_, Infallible>(http::Response::new(Full::new(axum::body::Bytes::from_static(b"hello"))))
    });
    let service = ServiceBuilder::new().layer(sessions.layer()).service(hello);
    let response: Response = service.oneshot(Request::new(Full::new(b"".as_slice()))).await.unwrap();
    assert_eq!(body(response).await, "hello");
}

#[tokio::test]
async fn what_cors_and_compression_say_survives() {
    let sessions = Sessions::new();
    let long = async |session: Session| -> Result<String, SessionError> {
        session.set(VISITS, 1)?;
        Ok("hello ".repeat(100))
    };
    let app = Router::new()
        .route("/", get(long))
        .layer(sessions.layer())
        .layer(CompressionLayer::new())
        .layer(CorsLayer::new().allow_origin([HeaderValue::from_static("https://example.org")]));
    let mut request = request(Method::GET, "/", None);
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    request.headers_mut().insert(ORIGIN, HeaderValue::from_static("https://example.org"));
    let again = {
        let mut again = Request::new(Body::empty());
        *again.headers_mut() = request.headers().clone();
        again
    };
    let response = app.clone().oneshot(request).await.unwrap();
    assert_eq!(all(&response, CONTENT_ENCODING), ["gzip"]);
    assert_eq!(all(&response, ACCESS_CONTROL_ALLOW_ORIGIN), ["https://example.org"]);
    let mut vary: Vec<String> = all(&response, VARY).join(", ").split(", ").map(str::to_lowercase).collect();
    vary.sort_unstable();
    vary.dedup();
    assert!(vary.contains(&"cookie".to_owned()) && vary.contains(&"accept-encoding".to_owned()), "{vary:?}");

    sessions.store.once(Verb::Create, Fault::FailBefore(StoreErrorKind::Unavailable));
    let response = app.oneshot(again).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(all(&response, ACCESS_CONTROL_ALLOW_ORIGIN), ["https://example.org"], "CORS is outside");
    assert_eq!(body(response).await, "");
}
