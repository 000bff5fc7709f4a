//! Connections that end with their session: a WebSocket that a ticket lets in, and server-sent events.
//!
//! `cargo run -p cloakroom --example live --features axum,config,sqlite`, then
//!
//! ```text
//! POST /sign-in/NAME            signs in
//! POST /ticket                  a ticket for one WebSocket, good for 30 seconds
//! GET  /socket?ticket=TICKET    the WebSocket: echoes, and closes with 4401 when the session is over
//! GET  /events                  server-sent events: one `end` when the session is over
//! POST /sign-out-everywhere     ends all sessions of whoever is signed in, and what hangs on them
//! ```
//!
//! Without a ticket a page of another site could open a WebSocket with your visitor's cookie: browsers
//! send it along, and do not ask. `CsrfLayer` does for the forms what the ticket does for the socket.

#![expect(clippy::print_stdout, reason = "an example says where it listens")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, serve};
use cloakroom::axum::{ReadSession, Session, SessionError};
use cloakroom::{Cloakroom, Manager, SessionWatch};
use futures_util::stream::{self, Stream};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cloakroom = Cloakroom::from_env().await?;
    let app = Router::new()
        .route("/sign-in/{name}", post(sign_in))
        .route("/sign-out-everywhere", post(sign_out_everywhere))
        .route("/ticket", post(ticket))
        .route("/socket", get(socket))
        .route("/events", get(events))
        .layer(cloakroom.axum())
        .with_state(Arc::clone(cloakroom.manager()));
    let listener = TcpListener::bind(std::env::var("LISTEN").as_deref().unwrap_or("127.0.0.1:3000")).await?;
    println!("http://{}", listener.local_addr()?);
    Ok(serve(listener, app).await?)
}

async fn sign_in(session: Session, Path(name): Path<String>) -> Result<(), SessionError> {
    Ok(session.login(name.as_str())?)
}

async fn sign_out_everywhere(session: Session) -> Result<(), SessionError> {
    Ok(session.logout_everywhere().await?)
}

async fn ticket(session: Session) -> Result<String, SessionError> {
    Ok(session.ticket().await?)
}

async fn socket(
    State(manager): State<Arc<Manager>>,
    Query(query): Query<HashMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, SessionError> {
    let ticket = query.get("ticket").map_or("", String::as_str);
    let Some(session) = manager.redeem(ticket).await? else { return Ok(StatusCode::UNAUTHORIZED.into_response()) };
    let watch = session.watch()?;
    Ok(upgrade.on_upgrade(move |socket| talk(socket, watch)))
}

async fn talk(mut socket: WebSocket, mut watch: SessionWatch) {
    loop {
        tokio::select! {
            end = watch.ended() => {
                let frame = CloseFrame { code: 4401, reason: end.to_string().into() };
                // A client that is gone need not be told.
                drop(socket.send(Message::Close(Some(frame))).await);
                return;
            }
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    // Whoever talks is active. Should the store be away, the watch decides.
                    drop(watch.touch().await);
                    if socket.send(Message::Text(text)).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            }
        }
    }
}

async fn events(session: ReadSession) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, SessionError> {
    let watch = session.watch()?;
    let begin = stream::once(async { Ok(Event::default().event("begin").data("")) });
    let end = stream::once(async move {
        let mut watch = watch;
        Ok(Event::default().event("end").data(watch.ended().await.to_string()))
    });
    Ok(Sse::new(stream::StreamExt::chain(begin, end)).keep_alive(KeepAlive::default()))
}
