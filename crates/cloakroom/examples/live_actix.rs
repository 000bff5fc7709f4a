//! Connections that end with their session, on actix-web: see the example `live`, whose routes these are.
//!
//! `cargo run -p cloakroom --example live_actix --features actix,config,sqlite`

#![expect(clippy::print_stdout, reason = "an example says where it listens")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use actix_web::web::{self, Bytes, Data, Path, Payload, Query};
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer};
use actix_ws::{CloseCode, CloseReason, Message, MessageStream};
use cloakroom::actix::{ReadSession, Session, SessionError};
use cloakroom::{Cloakroom, Manager, SessionWatch};
use futures_util::stream::{self, StreamExt as _};

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cloakroom = Cloakroom::from_env().await?;
    let (sessions, manager) = (cloakroom.actix(), Data::from(Arc::clone(cloakroom.manager())));
    let server = HttpServer::new(move || {
        App::new()
            .wrap(sessions.clone())
            .app_data(manager.clone())
            .route("/sign-in/{name}", web::post().to(sign_in))
            .route("/sign-out-everywhere", web::post().to(sign_out_everywhere))
            .route("/ticket", web::post().to(ticket))
            .route("/socket", web::get().to(socket))
            .route("/events", web::get().to(events))
    });
    let server = server.bind(std::env::var("LISTEN").as_deref().unwrap_or("127.0.0.1:3000"))?;
    for address in server.addrs() {
        println!("http://{address}");
    }
    Ok(server.run().await?)
}

async fn sign_in(session: Session, name: Path<String>) -> Result<HttpResponse, SessionError> {
    session.login(name.as_str())?;
    Ok(HttpResponse::Ok().finish())
}

async fn sign_out_everywhere(session: Session) -> Result<HttpResponse, SessionError> {
    session.logout_everywhere().await?;
    Ok(HttpResponse::Ok().finish())
}

async fn ticket(session: Session) -> Result<String, SessionError> {
    Ok(session.ticket().await?)
}

async fn socket(
    manager: Data<Manager>,
    query: Query<HashMap<String, String>>,
    request: HttpRequest,
    body: Payload,
) -> Result<HttpResponse, Error> {
    let ticket = query.get("ticket").map_or("", String::as_str);
    let session = manager.into_inner().redeem(ticket).await.map_err(SessionError::from)?;
    let Some(session) = session else { return Ok(HttpResponse::Unauthorized().finish()) };
    let watch = session.watch().map_err(SessionError::from)?;
    let (response, sender, messages) = actix_ws::handle(&request, body)?;
    actix_web::rt::spawn(talk(sender, messages, watch));
    Ok(response)
}

async fn talk(mut sender: actix_ws::Session, mut messages: MessageStream, mut watch: SessionWatch) {
    loop {
        tokio::select! {
            end = watch.ended() => {
                let reason = CloseReason { code: CloseCode::Other(4401), description: Some(end.to_string()) };
                // A client that is gone need not be told.
                drop(sender.close(Some(reason)).await);
                return;
            }
            message = messages.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    // Whoever talks is active. Should the store be away, the watch decides.
                    drop(watch.touch().await);
                    if sender.text(text).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            }
        }
    }
}

async fn events(session: ReadSession) -> Result<HttpResponse, SessionError> {
    let mut watch = session.watch()?;
    let begin = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"event: begin\ndata:\n\n")) });
    let end = stream::once(async move { Ok(Bytes::from(format!("event: end\ndata: {}\n\n", watch.ended().await))) });
    Ok(HttpResponse::Ok().content_type("text/event-stream").streaming(begin.chain(end)))
}
