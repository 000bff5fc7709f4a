//! Around the handlers, inside of the sessions: refuses what other sites send in a visitor's name.

use std::marker::PhantomData;
use std::sync::Arc;
use std::{fmt, future, mem};

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{FromRequestParts, OriginalUri, Request};
use axum::response::{IntoResponse, Response};
use cloakroom_core::{Csrf, CsrfRequest, CsrfVerdict};
use futures_util::stream::{self, StreamExt as _};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ORIGIN, UPGRADE, VARY};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use tower_layer::Layer;

use crate::extract::{ReadSession, exchange};
use crate::gate::{Gate, GateService};
use crate::headers::no_store_value;
use crate::layer::Slot;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const CSRF_TOKEN: HeaderName = HeaderName::from_static(Csrf::HEADER);

/// Lets no request through that another site may have made; [`Csrf`] says which those are.
///
/// Belongs inside of the [`SessionLayer`](crate::SessionLayer), so it is layered before it. A refused request gets an
/// empty 403, no handler runs, and the reason is an [event](cloakroom_core::Event::RequestForged).
///
/// ```
/// use axum::{Router, routing::post};
/// use cloakroom_axum::{CsrfLayer, Session, SessionError, SessionLayer};
/// use cloakroom_core::{Csrf, CsrfError, Manager};
///
/// async fn sign_out(session: Session) -> Result<(), SessionError> {
///     Ok(session.logout()?)
/// }
///
/// fn app(manager: std::sync::Arc<Manager>) -> Result<Router, CsrfError> {
///     let csrf = Csrf::new(["https://shop.example"])?;
///     Ok(Router::new()
///         .route("/sign-out", post(sign_out))
///         .layer(CsrfLayer::new(csrf))
///         .layer(SessionLayer::new(manager)))
/// }
/// ```
pub struct CsrfLayer<M = ()> {
    csrf: Arc<Csrf>,
    marker: PhantomData<fn() -> M>,
}

impl CsrfLayer {
    /// Checks tokens of the sessions behind [`Session`](crate::Session).
    #[must_use]
    pub fn new(csrf: Csrf) -> Self {
        Self::named(csrf)
    }

    /// Checks tokens of the sessions of this name.
    #[must_use]
    pub fn named<M: 'static>(csrf: Csrf) -> CsrfLayer<M> {
        CsrfLayer { csrf: Arc::new(csrf), marker: PhantomData }
    }
}

impl<S, M: 'static> Layer<S> for CsrfLayer<M> {
    type Service = GateService<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        GateService::new(inner, self.clone())
    }
}

impl<M: 'static> Gate for CsrfLayer<M> {
    async fn pass(&self, request: Request) -> Result<Request, Response> {
        let (mut parts, mut body) = request.into_parts();
        let forgeable = Slot::<M>::exchange(&parts.extensions).is_none_or(|exchange| exchange.is_forgeable());
        let checked = match first_check(&self.csrf, &parts) {
            _ if !forgeable => Ok(()),
            CsrfVerdict::Pass => Ok(()),
            CsrfVerdict::Refuse(reason) => Err(reason),
            CsrfVerdict::NeedsToken => {
                exchange::<M>(&parts).map_err(IntoResponse::into_response)?;
                let session = <ReadSession<M> as FromRequestParts<()>>::from_request_parts(&mut parts, &()).await;
                let session = match session {
                    Ok(session) => session,
                    Err(_) if self.csrf.reports_only() => return Ok(Request::from_parts(parts, body)),
                    Err(error) => return Err(error.into_response()),
                };
                let mut form = None;
                let content_type = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
                if self.csrf.reads_form(&session, parts.headers.contains_key(CSRF_TOKEN), content_type) {
                    let read = read_form(mem::take(&mut body)).await;
                    (form, body) = read.map_err(|_| StatusCode::BAD_REQUEST.into_response())?;
                    if form.is_none() && !self.csrf.reports_only() {
                        return Err(StatusCode::PAYLOAD_TOO_LARGE.into_response());
                    }
                }
                self.csrf.check_token(&session, lines(&parts, CSRF_TOKEN), form.as_deref())
            }
        };
        if let Err(reason) = checked
            && exchange::<M>(&parts).map_err(IntoResponse::into_response)?.refuses(&self.csrf, reason)
        {
            let vary = HeaderValue::from_static("Sec-Fetch-Site, Origin");
            return Err((StatusCode::FORBIDDEN, [(CACHE_CONTROL, no_store_value()), (VARY, vary)]).into_response());
        }
        Ok(Request::from_parts(parts, body))
    }
}

/// The form, unless it is too long, and in both cases the whole body anew. An error is that of a body that broke off.
async fn read_form(body: Body) -> Result<(Option<Bytes>, Body), axum::Error> {
    if body.size_hint().lower() > Csrf::MAX_FORM as u64 {
        return Ok((None, body));
    }
    let (mut read, mut rest) = (Vec::new(), body.into_data_stream());
    while let Some(chunk) = rest.next().await {
        read.extend_from_slice(&chunk?);
        if read.len() > Csrf::MAX_FORM {
            let begun = stream::once(future::ready(Ok(Bytes::from(read))));
            return Ok((None, Body::from_stream(begun.chain(rest))));
        }
    }
    let whole = Bytes::from(read);
    Ok((Some(whole.clone()), Body::from(whole)))
}

fn first_check(csrf: &Csrf, parts: &Parts) -> CsrfVerdict {
    // As it was sent: a nest takes its prefix away.
    let path = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |OriginalUri(uri)| uri).path();
    let (fetch_site, origin) = (lines(parts, SEC_FETCH_SITE), lines(parts, ORIGIN));
    let (method, upgrade) = (parts.method.as_str(), lines(parts, UPGRADE));
    csrf.check_request(CsrfRequest { method, path, fetch_site, origin, upgrade })
}

fn lines(parts: &Parts, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    parts.headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
}

impl<M> Clone for CsrfLayer<M> {
    fn clone(&self) -> Self {
        Self { csrf: Arc::clone(&self.csrf), marker: PhantomData }
    }
}

impl<M> fmt::Debug for CsrfLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsrfLayer").field("csrf", &self.csrf).finish()
    }
}
