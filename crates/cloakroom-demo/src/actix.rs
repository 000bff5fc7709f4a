//! The shop on actix-web: routes, and what actix-web is taught about the handlers' words.

use std::future::{Ready, ready};
use std::pin::Pin;

use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::guard;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Data, post, resource, to};
use actix_web::{App, Error, FromRequest, HttpRequest, HttpResponse, HttpServer, Resource, Responder, Route};
use cloakroom::Cloakroom;
use cloakroom::actix::{CsrfMiddleware, ReadSession, RequireMiddleware, Session, SessionError, SessionMiddleware};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;

use crate::reply::{Failure, Form, Query, Reply};
use crate::visit::{Look, Member, Visit};
use crate::{Asset, GRACE, MAX_FORM, Rules, Shop, account, cart, sign_in, status};

pub(crate) async fn serve(
    listener: TcpListener,
    sessions: &Cloakroom,
    shop: Shop,
    rules: Rules,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    // One for all workers.
    let (sessions, csrf) = (sessions.actix(), CsrfMiddleware::new(rules.csrf));
    let members = RequireMiddleware::new(rules.account);
    let recovery_code = RequireMiddleware::new(rules.recovery_code);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(Data::new(shop.clone()))
            .app_data(web::FormConfig::default().limit(MAX_FORM))
            .configure(|config| routes(config, &members, &recovery_code))
            .default_service(to(status::not_found))
            .wrap(csrf.clone())
            .wrap(SessionMiddleware::clone(&sessions))
            .wrap(from_fn(finish))
    });
    let mut server = server.disable_signals().shutdown_timeout(GRACE.as_secs()).listen(listener.into_std()?)?.run();
    let handle = server.handle();
    tokio::select! {
        ended = &mut server => return ended,
        () = stop => {}
    }
    let (ended, ()) = tokio::join!(server, handle.stop(true));
    ended
}

fn routes(config: &mut web::ServiceConfig, members: &RequireMiddleware, recovery_code: &RequireMiddleware) {
    config
        .service(resource("/").route(get().to(cart::show)))
        .service(resource("/cart").route(post().to(cart::change)))
        .service(resource("/sign-in").route(get().to(sign_in::show)).route(post().to(sign_in::send_code)))
        .service(resource("/sign-in/code").route(get().to(sign_in::show_code)).route(post().to(sign_in::enter_code)))
        .service(resource("/sign-out").route(post().to(sign_in::sign_out)))
        .service(resource("/account").route(get().to(account::show).wrap(members.clone())))
        .service(resource("/account/revoke").route(post().to(account::revoke)))
        .service(resource("/account/sign-out-elsewhere").route(post().to(account::sign_out_elsewhere)))
        .service(resource("/account/sign-out-everywhere").route(post().to(account::sign_out_everywhere)))
        .service(resource("/account/recovery-code").route(get().to(account::recovery_code).wrap(recovery_code.clone())))
        .service(resource("/account/confirm").route(post().to(account::confirm)))
        .service(resource("/session.json").route(get().to(account::session)));
    for asset in Asset::ALL {
        config.service(file(asset));
    }
}

/// `GET`, and `HEAD` as axum has it: actix sends it without the body.
fn get() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

fn file(asset: &'static Asset) -> Resource {
    let answer = move || {
        let headers = [(CONTENT_TYPE, asset.content_type), (CACHE_CONTROL, Asset::CACHE_CONTROL)];
        ready(
            headers
                .into_iter()
                .fold(HttpResponse::Ok(), |mut response, header| {
                    response.insert_header(header);
                    response
                })
                .body(asset.text),
        )
    };
    resource(asset.path).route(get().to(answer))
}

/// Around everything: gives errors without a body their page, and every response its headers.
/// What is there stays: `Retry-After`, `Set-Cookie`.
async fn finish(
    shop: Data<Shop>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody + 'static, BoxBody>>, Error> {
    let response = next.call(request).await?;
    let page = if response.headers().contains_key(CONTENT_TYPE) {
        None
    } else {
        status::explain(&shop, response.status().as_u16())
    };
    let mut response = match page {
        Some(page) => {
            let mut response = response.map_body(|_, _| EitherBody::right(BoxBody::new(page)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(Reply::HTML));
            response
        }
        None => response.map_into_left_body(),
    };
    let headers = response.headers_mut();
    for (name, value) in status::HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let (name, value) = status::UNLESS_SAID;
    let name = HeaderName::from_static(name);
    if !headers.contains_key(&name) {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

type Extraction<T> = Pin<Box<dyn Future<Output = Result<T, Error>>>>;

fn shop(request: &HttpRequest) -> Result<Shop, Error> {
    let shop = request.app_data::<Data<Shop>>().ok_or_else(|| actix_web::error::ErrorInternalServerError("no shop"))?;
    Ok(shop.get_ref().clone())
}

impl FromRequest for Visit {
    type Error = Error;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (session, shop) = (Session::<()>::from_request(request, payload), shop(request));
        Box::pin(async move { Ok(Self { session: session.await?.into_inner(), shop: shop? }) })
    }
}

impl FromRequest for Member {
    type Error = Error;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let visit = Visit::from_request(request, payload);
        Box::pin(async move { Ok(Self::of(visit.await?).map_err(Failure)?) })
    }
}

impl FromRequest for Look {
    type Error = Error;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (session, shop) = (ReadSession::<()>::from_request(request, payload), shop(request));
        Box::pin(async move { Ok(Self { session: cloakroom::ReadSession::clone(&*session.await?), shop: shop? }) })
    }
}

impl<T: DeserializeOwned + 'static> FromRequest for Form<T> {
    type Error = Error;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (form, request) = (web::Form::<T>::from_request(request, payload), request.clone());
        Box::pin(async move {
            let bad = |error| {
                let page = status::bad_form().respond_to(&request);
                actix_web::error::InternalError::from_response(error, page).into()
            };
            form.await.map(|form| Self(form.into_inner())).map_err(bad)
        })
    }
}

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let query = web::Query::from_query(request.query_string());
        ready(query.map(|query: web::Query<T>| Self(query.into_inner())).map_err(Error::from))
    }
}

impl Responder for Reply {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        match self {
            Self::Page(status, page) => {
                let status = StatusCode::from_u16(status.as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                HttpResponse::build(status).insert_header((CONTENT_TYPE, Self::HTML)).body(page.into_string())
            }
            Self::Redirect(to) => HttpResponse::SeeOther().insert_header((LOCATION, to)).finish(),
            Self::Json(json) => HttpResponse::Ok().insert_header((CONTENT_TYPE, Self::JSON)).body(json),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        SessionError::from(failure.0).into()
    }
}
