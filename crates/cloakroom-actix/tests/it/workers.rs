//! A real server with several workers, which are threads with a runtime each.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::thread::{ThreadId, current};

use actix_web::web::{Data, get};
use actix_web::{App, HttpServer};
use cloakroom_actix::{ReadSession, Session, SessionError};
use std::sync::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Sessions, VISITS};

#[actix_web::test]
async fn all_workers_share_the_sessions_and_no_parallel_update_is_lost() {
    type Threads = Mutex<HashSet<ThreadId>>;
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let threads: Data<Threads> = Data::default();
    let (middleware, seen) = (sessions.middleware(), threads.clone());
    let count = async |session: Session, threads: Data<Threads>| -> Result<String, SessionError> {
        threads.lock().unwrap().insert(current().id());
        Ok(session.modify(VISITS, |visits| *visits += 1)?.to_string())
    };
    let who = async |session: ReadSession| format!("{:?}", session.principal().map(|it| it.as_str().to_owned()));
    let app = move || {
        App::new()
            .app_data(seen.clone())
            .route("/", get().to(count))
            .route("/who", get().to(who))
            .wrap(middleware.clone())
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = HttpServer::new(app).workers(3).listen(listener).unwrap().disable_signals().run();
    let handle = server.handle();
    let running = actix_web::rt::spawn(server);

    // Workers take connections in turn.
    let answers = futures_util::future::join_all((0..12).map(|_| fetch(address, "/", &ann))).await;
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200 OK\r\n")), "{answers:?}");
    assert_eq!(sessions.stored(&ann).await.visits, 13);
    assert_eq!(threads.lock().unwrap().len(), 3);
    assert!(fetch(address, "/who", &ann).await.ends_with("\r\n\r\nSome(\"ann\")"));
    handle.stop(false).await;
    running.await.unwrap().unwrap();
}

async fn fetch(address: SocketAddr, path: &str, cookie: &str) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    connection.read_to_string(&mut response).await.unwrap();
    response
}
