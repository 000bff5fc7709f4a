//! Connections that are open on one process end when the session is ended on another.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::{Error, Message, protocol::frame::coding::CloseCode};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::program::{Program, program};

/// How long an end may take to show on a busy test machine. A store that tells of ends is asked no more often
/// than every fifteen seconds, so what shows within ten was told.
const PATIENCE: Duration = Duration::from_secs(10);
const ROUNDS: u32 = 5;

/// A process of an example.
struct Process {
    _child: Child,
    address: SocketAddr,
}

impl Process {
    async fn start(which: Program, store: &str, key: &str, directory: &std::path::Path) -> Self {
        let mut child = Command::new(program(which).await)
            .env_clear()
            .env("LISTEN", "127.0.0.1:0")
            .env("CLOAKROOM_STORE", store)
            .env("CLOAKROOM_KEYS", key)
            .env("CLOAKROOM_TIMEOUT", "20s")
            .env("CLOAKROOM_DANGER_INSECURE_COOKIE_FOR_LOCALHOST", "true")
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        loop {
            let line = output.next_line().await.unwrap().expect("it did not start");
            if let Some(address) = line.strip_prefix("http://") {
                return Self { address: address.parse().unwrap(), _child: child };
            }
        }
    }

    /// A request of a browser with this cookie, and the response.
    async fn send(&self, way: &str, cookie: &str) -> String {
        let mut stream = self.open(way, cookie).await;
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 200"), "{way}: {response}");
        response
    }

    async fn open(&self, way: &str, cookie: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{way} HTTP/1.1\r\nhost: {}\r\ncookie: {cookie}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn sign_in(&self, name: &str) -> String {
        let response = self.send(&format!("POST /sign-in/{name}"), "").await;
        let (_, cookie) = response.split_once("set-cookie: ").unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    async fn ticket(&self, cookie: &str) -> String {
        let response = self.send("POST /ticket", cookie).await;
        // The body may come in chunks; the ticket is the one line of its length.
        response.lines().find(|line| line.len() == 96).unwrap().to_owned()
    }

    async fn socket(&self, ticket: &str) -> Result<WebSocketStream<TcpStream>, Error> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let url = format!("ws://{}/socket?ticket={ticket}", self.address);
        client_async(url, stream).await.map(|(socket, _)| socket)
    }
}

/// When the socket is closed because the session is over.
async fn closed(mut socket: WebSocketStream<TcpStream>) -> Instant {
    loop {
        let message = socket.next().await.expect("it ends with a close frame").unwrap();
        if let Message::Close(frame) = message {
            let frame = frame.unwrap();
            assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Library(4401), "revoked"));
            return Instant::now();
        }
        assert!(message.is_ping() || message.is_pong(), "{message}");
    }
}

/// When the stream is over, having told that the session is.
async fn told(mut stream: BufReader<TcpStream>) -> Instant {
    let (mut line, mut told) = (String::new(), false);
    loop {
        line.clear();
        assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "the stream broke off");
        told |= line.trim_end() == "data: revoked";
        // The last chunk of a response is the empty one.
        if line == "0\r\n" {
            assert!(told, "the stream ended without a word");
            return Instant::now();
        }
    }
}

/// Two processes, one of each framework: what hangs on one ends when the session is ended on the other.
#[expect(clippy::print_stderr, reason = "what was measured")]
pub(crate) async fn connections_end_with_the_session(store: &str) {
    let directory = tempfile::tempdir().unwrap();
    let random = cloakroom_core::OsRandom::default();
    let key = cloakroom_core::SecretKey::generate(&random).unwrap().expose_base64().to_string();
    let mut processes = Vec::new();
    for which in [Program::Live, Program::LiveActix] {
        processes.push(Process::start(which, store, &key, directory.path()).await);
    }
    let mut longest = Duration::ZERO;
    for round in 0..2 * ROUNDS {
        let (here, there) = (&processes[round as usize % 2], &processes[(round as usize + 1) % 2]);
        let bystander = here.sign_in(&format!("bystander-{round}")).await;
        let mut unconcerned = here.socket(&here.ticket(&bystander).await).await.unwrap();
        let cookie = there.sign_in(&format!("alice-{round}")).await;
        let ticket = there.ticket(&cookie).await;
        // Got from one process, it opens a connection to another; once.
        let mut socket = here.socket(&ticket).await.unwrap();
        assert!(matches!(here.socket(&ticket).await, Err(Error::Http(response)) if response.status() == 401));
        socket.send("hello".into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::from("hello"));
        let mut stream = BufReader::new(here.open("GET /events", &cookie).await);
        let mut line = String::new();
        while line.trim_end() != "event: begin" {
            line.clear();
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "the stream did not begin");
        }
        let ended = Instant::now();
        let sent = there.send("POST /sign-out-everywhere", &cookie);
        let all = async { futures_util::join!(sent, closed(socket), told(stream)) };
        let (_, closed, told) = tokio::time::timeout(PATIENCE, all).await.expect("they outlive the session");
        longest = longest.max(closed.max(told) - ended);
        unconcerned.send("still here".into()).await.unwrap();
        assert_eq!(unconcerned.next().await.unwrap().unwrap(), Message::from("still here"));
    }
    eprintln!("{} ends on one process showed on the other within {longest:?} of the request for them", 2 * ROUNDS);
}
