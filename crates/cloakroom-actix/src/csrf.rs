//! Around the handlers, inside of the sessions: refuses what other sites send in a visitor's name.

use std::fmt;
use std::future::{self, Ready};
use std::marker::PhantomData;
use std::sync::Arc;

use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::error::PayloadError;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN, UPGRADE, VARY};
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage as _, HttpResponse};
use cloakroom_core::{Csrf, CsrfRequest, CsrfVerdict};
use futures_util::stream::{self, StreamExt as _};

use crate::extract::{ReadSession, exchange};
use crate::gate::{Gate, GateService};
use crate::headers::NO_STORE;
use crate::middleware::Slot;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const CSRF_TOKEN: HeaderName = HeaderName::from_static(Csrf::HEADER);

/// Lets no request through that another site may have made; [`Csrf`] says which those are.
///
/// Belongs inside of the [`SessionMiddleware`](crate::SessionMiddleware), so it is wrapped before it. A refused
/// request gets an empty 403, no handler runs, and the reason is an
/// [event](cloakroom_core::Event::RequestForged).
///
/// ```
/// use actix_web::{App, HttpResponse, web};
/// use cloakroom_actix::{CsrfMiddleware, Session, SessionError, SessionMiddleware};
/// use cloakroom_core::{Csrf, CsrfError};
///
/// async fn sign_out(session: Session) -> Result<HttpResponse, SessionError> {
///     session.logout()?;
///     Ok(HttpResponse::NoContent().finish())
/// }
///
/// fn app(sessions: SessionMiddleware) -> Result<(), CsrfError> {
///     let csrf = CsrfMiddleware::new(Csrf::new(["https://shop.example"])?);
///     let app = App::new().route("/sign-out", web::post().to(sign_out)).wrap(csrf).wrap(sessions);
/// #   drop(app);
///     Ok(())
/// }
/// ```
pub struct CsrfMiddleware<M = ()> {
    csrf: Arc<Csrf>,
    marker: PhantomData<fn() -> M>,
}

impl CsrfMiddleware {
    /// Checks tokens of the sessions behind [`Session`](crate::Session).
    #[must_use]
    pub fn new(csrf: Csrf) -> Self {
        Self::named(csrf)
    }

    /// Checks tokens of the sessions of this name.
    #[must_use]
    pub fn named<M: 'static>(csrf: Csrf) -> CsrfMiddleware<M> {
        CsrfMiddleware { csrf: Arc::new(csrf), marker: PhantomData }
    }
}

impl<S, B, M> Transform<S, ServiceRequest> for CsrfMiddleware<M>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
    M: 'static,
{
    type Response = ServiceResponse<EitherBody<B, BoxBody>>;
    type Error = Error;
    type Transform = GateService<S, Self>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        GateService::of(inner, self)
    }
}

impl<M: 'static> Gate for CsrfMiddleware<M> {
    async fn pass(&self, request: &mut ServiceRequest) -> Result<Option<HttpResponse>, Error> {
        let (fetch_site, origin) = (lines(request, &SEC_FETCH_SITE), lines(request, &ORIGIN));
        let (method, path, upgrade) = (request.method().as_str(), request.uri().path(), lines(request, &UPGRADE));
        let forgeable = Slot::<M>::exchange(&request.extensions()).is_none_or(|exchange| exchange.is_forgeable());
        let checked = match self.csrf.check_request(CsrfRequest { method, path, fetch_site, origin, upgrade }) {
            _ if !forgeable => Ok(()),
            CsrfVerdict::Pass => Ok(()),
            CsrfVerdict::Refuse(reason) => Err(reason),
            CsrfVerdict::NeedsToken => {
                let exchange = exchange::<M>(&request.extensions())?;
                let session = match ReadSession::<M>::open(&exchange, request.request().head()).await {
                    Ok(session) => session,
                    Err(_) if self.csrf.reports_only() => return Ok(None),
                    Err(error) => return Err(error.into()),
                };
                let mut form = None;
                let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
                if self.csrf.reads_form(&session, request.headers().contains_key(CSRF_TOKEN), content_type) {
                    let Ok((read, body)) = read_form(request.take_payload()).await else {
                        return Ok(Some(HttpResponse::BadRequest().finish()));
                    };
                    if read.is_none() && !self.csrf.reports_only() {
                        return Ok(Some(HttpResponse::PayloadTooLarge().finish()));
                    }
                    request.set_payload(body);
                    form = read;
                }
                self.csrf.check_token(&session, lines(request, &CSRF_TOKEN), form.as_deref())
            }
        };
        if let Err(reason) = checked
            && exchange::<M>(&request.extensions())?.refuses(&self.csrf, reason)
        {
            let vary = HeaderValue::from_static("Sec-Fetch-Site, Origin");
            return Ok(Some(
                HttpResponse::Forbidden().insert_header((CACHE_CONTROL, NO_STORE)).insert_header((VARY, vary)).finish(),
            ));
        }
        Ok(None)
    }
}

/// The form, unless it is too long, and in both cases the whole body anew. An error is that of a body that broke off.
async fn read_form(mut body: Payload) -> Result<(Option<Bytes>, Payload), PayloadError> {
    let mut read = Vec::new();
    while let Some(chunk) = body.next().await {
        read.extend_from_slice(&chunk?);
        if read.len() > Csrf::MAX_FORM {
            let begun = stream::once(future::ready(Ok(Bytes::from(read))));
            return Ok((None, Payload::Stream { payload: Box::pin(begun.chain(body)) }));
        }
    }
    let whole = Bytes::from(read);
    Ok((Some(whole.clone()), Payload::from(whole)))
}

fn lines<'a>(request: &'a ServiceRequest, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    request.headers().get_all(name).map(HeaderValue::as_bytes)
}

impl<M> Clone for CsrfMiddleware<M> {
    fn clone(&self) -> Self {
        Self { csrf: Arc::clone(&self.csrf), marker: PhantomData }
    }
}

impl<M> fmt::Debug for CsrfMiddleware<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsrfMiddleware").field("csrf", &self.csrf).finish()
    }
}
