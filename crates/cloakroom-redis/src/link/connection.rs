//! One connection: connects, greets, and trades packets for answers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::join;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, ServerError, Value};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::open_error::{RedisOpenError, RedisOpenErrorKind};
use crate::fault::{Fault, chain};
use crate::options::Endpoint;

/// A connection that greeted a server of the kind that was expected.
///
/// The driver matches answers to packets by their order alone. So every packet ends with a `PING`
/// with a number that is never used twice: where the answer to that is not the number, a reply too
/// many or too few came before, and nothing of what came is used.
///
/// A future that is dropped leaves nothing behind: what it sent is answered to nobody.
#[derive(Debug)]
pub(super) struct Connection {
    endpoint: Endpoint,
    redis: MultiplexedConnection,
    state: Arc<State>,
    driver: AbortHandle,
    packets: AtomicU64,
    hello: Hello,
}

/// How to greet a server.
#[derive(Clone)]
pub(super) struct Greeting {
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) client_name: String,
    pub(super) database: u32,
    pub(super) mode: Mode,
    pub(super) primary: bool,
}

/// What kind of server is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Standalone,
    Sentinel,
    Cluster,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) server: String,
    pub(super) version: String,
    mode: String,
    role: String,
}

/// What the driver's task and its users both know.
#[derive(Debug, Default)]
struct State {
    ended: AtomicBool,
    /// Bytes.
    written: AtomicU64,
}

impl Connection {
    /// The caller bounds the time.
    pub(super) async fn open(endpoint: &Endpoint, greeting: &Greeting) -> Result<Self, RedisOpenError> {
        let state = Arc::new(State::default());
        let stream = Wire {
            stream: connect(endpoint, greeting.tls.as_ref()).await?,
            state: Arc::clone(&state),
            spoke: false,
            reader: None,
        };
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(256);
        // An empty greeting: the real one is ours, and its errors are explained.
        let nothing = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (redis, driver) =
            MultiplexedConnection::new_with_config(&nothing, stream, config).await.map_err(|error| {
                RedisOpenError::new(RedisOpenErrorKind::Refused, endpoint, "the connection could not be set up")
                    .with_source(error)
            })?;
        let ends = EndsWithTask(Arc::clone(&state));
        let driver = tokio::spawn(async move {
            let _ends = ends;
            driver.await;
        })
        .abort_handle();
        let mut connection = Self {
            endpoint: endpoint.clone(),
            redis,
            state,
            driver,
            packets: AtomicU64::new(0),
            hello: Hello::default(),
        };
        connection.hello = connection.greet(greeting).await?;
        Ok(connection)
    }

    async fn greet(&self, greeting: &Greeting) -> Result<Hello, RedisOpenError> {
        let mut hello = Cmd::new();
        hello.arg("HELLO").arg(3);
        if let Some(password) = &greeting.password {
            hello.arg("AUTH").arg(greeting.username.as_deref().unwrap_or("default")).arg(password);
        }
        hello.arg("SETNAME").arg(&greeting.client_name);
        let mut rest = Pipeline::new();
        if greeting.database != 0 {
            rest.cmd("SELECT").arg(greeting.database);
        }
        let marker = self.next_marker();
        let mut redis = self.redis.clone();
        // By itself, as a server that wants no more of this client says so once and hangs up.
        let (hello, rest) = join(redis.send_packed_command(&hello), self.trade(&mut rest, &marker)).await;
        let hello = match hello {
            Ok(Value::ServerError(error)) => return Err(RedisOpenError::refused(&self.endpoint, &error)),
            Ok(value) => Hello::from_value(&value),
            Err(_) => None,
        };
        let (Some(hello), Ok(rest)) = (hello, rest) else {
            let message = match greeting.tls {
                Some(_) => "what answers there does not greet like a Redis server",
                None => {
                    "what answers there does not greet like a Redis server: is it one, and does it ask for TLS (write \
                     rediss:// then)?"
                }
            };
            return Err(RedisOpenError::new(RedisOpenErrorKind::Refused, &self.endpoint, message));
        };
        let refusal =
            rest.iter().find_map(|answer| if let Value::ServerError(error) = answer { Some(error) } else { None });
        if let Some(error) = refusal.filter(|error| !is_passing(error)) {
            return Err(match error.details().is_some_and(|details| details.contains("out of range")) {
                true => {
                    let message = format!("the server has no database {}", greeting.database);
                    RedisOpenError::new(RedisOpenErrorKind::Refused, &self.endpoint, message)
                }
                false => RedisOpenError::refused(&self.endpoint, error),
            });
        }
        hello.suits(&self.endpoint, greeting)?;
        Ok(hello)
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Whether it is known that nothing more will come.
    pub(super) fn has_ended(&self) -> bool {
        self.state.ended.load(Ordering::Acquire)
    }

    /// Sends the commands in one packet; their answers in order. Adds to the pipeline what the
    /// packet ends with.
    ///
    /// After a timeout the connection stays right, and answers to others go on being theirs; but
    /// it may be dead without saying so, so the caller should take another.
    ///
    /// The first `writes` of the commands may write: one of them that was answered is never said to be not done.
    pub(super) async fn exchange(
        &self,
        packet: &mut Pipeline,
        writes: usize,
        patience: Duration,
    ) -> Result<Vec<Value>, Fault> {
        let wanted = packet.len();
        let marker = self.next_marker();
        let mut answers = match timeout(patience, self.trade(packet, &marker)).await {
            Ok(answers) => answers?,
            Err(_) => return Err(Fault::timeout(&self.endpoint, patience)),
        };
        let pong = answers.pop();
        let passing = |answer: &Value| matches!(answer, Value::ServerError(error) if is_passing(error));
        match pong {
            Some(Value::BulkString(pong)) if answers.len() == wanted && pong == marker.as_bytes() => Ok(answers),
            // A server that is loading refuses the ping as well, and of what came before it all but
            // what it may do meanwhile, such as telling the time.
            Some(pong)
                if answers.len() == wanted
                    && passing(&pong)
                    && answers.iter().any(passing)
                    && answers.iter().take(writes).all(passing) =>
            {
                Ok(answers.into_iter().map(|answer| if passing(&answer) { answer } else { pong.clone() }).collect())
            }
            // It began to in the middle of the packet, as when that waited for replicas: what was written is.
            Some(pong) if answers.len() == wanted && passing(&pong) => Err(Fault::cut(&self.endpoint)),
            Some(_) | None => {
                self.end();
                Err(Fault::desynchronised(&self.endpoint))
            }
        }
    }

    fn next_marker(&self) -> String {
        self.packets.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// The answers, that to the marker included.
    async fn trade(&self, packet: &mut Pipeline, marker: &str) -> Result<Vec<Value>, Fault> {
        packet.cmd("PING").arg(marker);
        let written = self.state.written.load(Ordering::Acquire);
        if self.has_ended() {
            return Err(Fault::not_sent(&self.endpoint));
        }
        let mut redis = self.redis.clone();
        redis.send_packed_commands(packet, 0, packet.len()).await.map_err(|_| {
            // The driver has ended, and writes nothing more: where it wrote nothing since, nothing
            // of this packet left.
            self.end();
            match self.state.written.load(Ordering::Acquire) == written {
                true => Fault::not_sent(&self.endpoint),
                false => Fault::cut(&self.endpoint),
            }
        })
    }

    /// For everybody.
    fn end(&self) {
        self.state.ended.store(true, Ordering::Release);
        self.driver.abort();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end();
    }
}

/// Answers of a server that serves nobody at the moment, whatever the command.
fn is_passing(error: &ServerError) -> bool {
    matches!(error.code(), "LOADING" | "BUSY" | "MASTERDOWN")
}

impl Hello {
    fn from_value(value: &Value) -> Option<Self> {
        let Value::Map(pairs) = value else { return None };
        let mut hello = Self::default();
        for (name, value) in pairs {
            let (Some(name), Some(value)) = (text(name), text(value)) else { continue };
            let field = match name {
                "server" => &mut hello.server,
                "version" => &mut hello.version,
                "mode" => &mut hello.mode,
                "role" => &mut hello.role,
                _ => continue,
            };
            value.clone_into(field);
        }
        Some(hello).filter(|hello| !hello.version.is_empty())
    }

    fn suits(&self, endpoint: &Endpoint, greeting: &Greeting) -> Result<(), RedisOpenError> {
        let error = |kind, message: String| Err(RedisOpenError::new(kind, endpoint, message));
        let wrong_mode = |message: &str| error(RedisOpenErrorKind::WrongMode, message.to_owned());
        match (greeting.mode, self.mode.as_str()) {
            (Mode::Standalone, "cluster") => {
                return wrong_mode("this is a node of a Redis Cluster: write redis+cluster:// instead");
            }
            (Mode::Standalone | Mode::Cluster, "sentinel") => {
                return wrong_mode("this is a Sentinel: write redis+sentinel://host:port/service instead");
            }
            (Mode::Cluster, "standalone") => {
                return wrong_mode("this server is no node of a cluster: write redis:// instead of redis+cluster://");
            }
            (Mode::Sentinel, "standalone" | "cluster") => {
                return wrong_mode(
                    "this is no Sentinel but a server itself (Sentinels mostly listen on port 26379): name the \
                     Sentinels, or write redis://",
                );
            }
            _ => {}
        }
        if self.server != "valkey" && is_older(&self.version, 6, 2) {
            let message =
                format!("the server is Redis {}: this store needs Redis 6.2 or newer, or Valkey", self.version);
            return error(RedisOpenErrorKind::TooOld, message);
        }
        if greeting.primary && self.role != "master" {
            let message = "the server is a replica, and sessions are written: name its primary, or have it found \
                           (redis+sentinel://, redis+cluster://)";
            return error(RedisOpenErrorKind::NotPrimary, message.to_owned());
        }
        Ok(())
    }

    /// As in `Redis 7.0.15`.
    pub(super) fn server_name(&self) -> String {
        let name = if self.server == "valkey" { "Valkey" } else { "Redis" };
        format!("{name} {}", self.version)
    }
}

pub(super) fn text(value: &Value) -> Option<&str> {
    if let Value::BulkString(bytes) = value {
        return std::str::from_utf8(bytes).ok();
    }
    if let Value::SimpleString(text) | Value::VerbatimString { text, .. } = value { Some(text) } else { None }
}

fn is_older(version: &str, major: u32, minor: u32) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (major, minor)
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) async fn connect(
    endpoint: &Endpoint,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Box<dyn Stream>, RedisOpenError> {
    let error = |kind, message: &str| RedisOpenError::new(kind, endpoint, message);
    let (host, port) = match endpoint {
        Endpoint::Unix(path) => return connect_unix(endpoint, path).await,
        Endpoint::Tcp { host, port } => (host.as_str(), *port),
    };
    let addresses: Vec<_> = match tokio::net::lookup_host((host, port)).await {
        Ok(addresses) => addresses.collect(),
        Err(cause) => {
            let message =
                "the name of the host cannot be resolved: is it spelt right, and does the name server answer?";
            return Err(error(RedisOpenErrorKind::UnknownHost, message).with_source(cause));
        }
    };
    let stream = TcpStream::connect(&*addresses).await.map_err(|cause| {
        let message = if cause.kind() == io::ErrorKind::ConnectionRefused {
            "nothing listens there: is the server running, and is the port right?"
        } else {
            "the server cannot be reached: is the host up, and does a firewall let this machine through?"
        };
        error(RedisOpenErrorKind::Unreachable, message).with_source(cause)
    })?;
    stream.set_nodelay(true).map_err(|cause| {
        error(RedisOpenErrorKind::Unreachable, "the connection was lost at once").with_source(cause)
    })?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(host.to_owned()).map_err(|cause| {
        error(RedisOpenErrorKind::Tls, "the host is no name a certificate can have").with_source(cause)
    })?;
    match TlsConnector::from(Arc::clone(tls)).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(cause) => Err(error(RedisOpenErrorKind::Tls, &tls_advice(&cause)).with_source(cause)),
    }
}

fn tls_advice(cause: &io::Error) -> String {
    let inner = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let what = match inner {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "the server's certificate is not accepted: it must be signed by an authority of the system, or of the file \
             `?ca=/path/of/ca.pem`, and name the host of the URL"
        }
        Some(rustls::Error::AlertReceived(_)) => {
            "the server broke TLS off: does it ask for a client certificate (`?cert=…&key=…`)?"
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "the server does not speak TLS on this port: use its TLS port, or write redis:// for no TLS"
        }
        Some(_) | None => "TLS did not come about: does the server speak TLS on this port?",
    };
    format!("{what} ({})", chain(cause))
}

#[cfg(unix)]
async fn connect_unix(endpoint: &Endpoint, path: &std::path::Path) -> Result<Box<dyn Stream>, RedisOpenError> {
    match tokio::net::UnixStream::connect(path).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(cause) => {
            let message = if cause.kind() == io::ErrorKind::NotFound {
                "there is no such socket: is the server running, and is the path right?"
            } else if cause.kind() == io::ErrorKind::PermissionDenied {
                "the socket may not be opened: give the service's user the right to (unixsocketperm)"
            } else {
                "the socket cannot be opened: is the server running?"
            };
            Err(RedisOpenError::new(RedisOpenErrorKind::Unreachable, endpoint, message).with_source(cause))
        }
    }
}

#[cfg(not(unix))]
async fn connect_unix(endpoint: &Endpoint, _: &std::path::Path) -> Result<Box<dyn Stream>, RedisOpenError> {
    let message = "this system has no Unix sockets: write redis://host:port";
    Err(RedisOpenError::new(RedisOpenErrorKind::Unreachable, endpoint, message))
}

/// The stream as the driver sees it.
///
/// Counts what is written. What a server says before it was spoken to (that it is in protected
/// mode, say) is kept until the greeting is out, so that it is taken for the answer to that.
struct Wire {
    stream: Box<dyn Stream>,
    state: Arc<State>,
    spoke: bool,
    reader: Option<Waker>,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.spoke {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        if let Ok(count) = &written {
            self.state.written.fetch_add(*count as u64, Ordering::AcqRel);
            self.spoke = true;
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Says that the driver has ended, however it did: also when it panicked or its runtime went.
struct EndsWithTask(Arc<State>);

impl Drop for EndsWithTask {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}
