//! The shop on axum: routes, and what axum is taught about the handlers' words.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::FormRejection;
use axum::extract::{DefaultBodyLimit, FromRef, FromRequest, FromRequestParts, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, get, post};
use cloakroom::Cloakroom;
use cloakroom::axum::{CsrfLayer, ReadSession, RequireLayer, Session, SessionError};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;

use crate::reply::{Failure, Form, Query, Reply};
use crate::visit::{Look, Member, Visit};
use crate::{Asset, MAX_FORM, Rules, Shop, account, cart, sign_in, status};

pub(crate) async fn serve(
    listener: TcpListener,
    sessions: &Cloakroom,
    shop: Shop,
    rules: Rules,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let service = router(sessions, shop, rules).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stop).await
}

fn router(sessions: &Cloakroom, shop: Shop, rules: Rules) -> Router {
    let Rules { csrf, account: members, recovery_code } = rules;
    let mut router = Router::new()
        .route("/", get(cart::show))
        .route("/cart", post(cart::change))
        .route("/sign-in", get(sign_in::show).post(sign_in::send_code))
        .route("/sign-in/code", get(sign_in::show_code).post(sign_in::enter_code))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/account", get(account::show).route_layer(RequireLayer::new(members)))
        .route("/account/revoke", post(account::revoke))
        .route("/account/sign-out-elsewhere", post(account::sign_out_elsewhere))
        .route("/account/sign-out-everywhere", post(account::sign_out_everywhere))
        .route("/account/recovery-code", get(account::recovery_code).route_layer(RequireLayer::new(recovery_code)))
        .route("/account/confirm", post(account::confirm))
        .route("/session.json", get(account::session));
    for asset in Asset::ALL {
        router = router.route(asset.path, file(asset));
    }
    router
        .fallback(status::not_found)
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .layer(CsrfLayer::new(csrf))
        .layer(sessions.axum())
        .layer(from_fn_with_state(shop.clone(), finish))
        .with_state(shop)
}

fn file(asset: &'static Asset) -> MethodRouter<Shop> {
    get(
        move || async move { ([(CONTENT_TYPE, asset.content_type), (CACHE_CONTROL, Asset::CACHE_CONTROL)], asset.text) },
    )
}

/// Around everything: gives errors without a body their page, and every response its headers.
/// What is there stays: `Retry-After`, `Set-Cookie`.
async fn finish(State(shop): State<Shop>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if !response.headers().contains_key(CONTENT_TYPE)
        && let Some(page) = status::explain(&shop, response.status().as_u16())
    {
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(Reply::HTML));
        *response.body_mut() = Body::from(page);
    }
    let headers = response.headers_mut();
    for (name, value) in status::HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let (name, value) = status::UNLESS_SAID;
    headers.entry(name).or_insert(HeaderValue::from_static(value));
    response
}

impl FromRequestParts<Shop> for Visit {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, shop: &Shop) -> Result<Self, SessionError> {
        let session = <Session as FromRequestParts<Shop>>::from_request_parts(parts, shop).await?;
        Ok(Self { session: session.into_inner(), shop: Shop::from_ref(shop) })
    }
}

impl FromRequestParts<Shop> for Member {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, shop: &Shop) -> Result<Self, SessionError> {
        Ok(Self::of(Visit::from_request_parts(parts, shop).await?)?)
    }
}

impl FromRequestParts<Shop> for Look {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, shop: &Shop) -> Result<Self, SessionError> {
        let session = <ReadSession as FromRequestParts<Shop>>::from_request_parts(parts, shop).await?;
        Ok(Self { session: cloakroom::ReadSession::clone(&session), shop: Shop::from_ref(shop) })
    }
}

impl<T: DeserializeOwned> FromRequest<Shop> for Form<T> {
    type Rejection = Reply;

    async fn from_request(request: Request, shop: &Shop) -> Result<Self, Reply> {
        let form = axum::Form::from_request(request, shop).await;
        form.map(|axum::Form(form)| Self(form)).map_err(|_: FormRejection| status::bad_form())
    }
}

impl<T: DeserializeOwned> FromRequestParts<Shop> for Query<T> {
    type Rejection = axum::extract::rejection::QueryRejection;

    async fn from_request_parts(parts: &mut Parts, shop: &Shop) -> Result<Self, Self::Rejection> {
        axum::extract::Query::from_request_parts(parts, shop).await.map(|axum::extract::Query(query)| Self(query))
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match self {
            Self::Page(status, page) => (status, [(CONTENT_TYPE, Self::HTML)], page.into_string()).into_response(),
            Self::Redirect(to) => Redirect::to(&to).into_response(),
            Self::Json(json) => ([(CONTENT_TYPE, Self::JSON)], json).into_response(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        SessionError::from(self.0).into_response()
    }
}
