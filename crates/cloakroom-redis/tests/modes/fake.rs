//! A server that says what a test wants it to.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Listens until it is dropped.
pub(crate) struct Fake {
    port: u16,
    task: JoinHandle<()>,
}

/// One client of it.
pub(crate) struct Client {
    stream: TcpStream,
    /// What came with the last read.
    pub(crate) said: Vec<u8>,
}

impl Fake {
    /// Serves one client after another.
    pub(crate) async fn start<F, S>(serve: F) -> Self
    where
        F: Fn(Client) -> S + Send + 'static,
        S: Future<Output = ()> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(Client { stream, said: Vec::new() }).await;
            }
        });
        Self { port, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The answer to `HELLO` of a server alone.
    pub(crate) fn hello(version: &str) -> Vec<u8> {
        format!("%4\r\n+server\r\n+redis\r\n+version\r\n+{version}\r\n+mode\r\n+standalone\r\n+role\r\n+master\r\n")
            .into_bytes()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// A packet, or nothing when the client has gone. Each ends with an `PING`.
    pub(crate) async fn read(&mut self) -> bool {
        self.said.clear();
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return false,
                Ok(count) => self.said.extend_from_slice(&buffer[..count]),
            }
            let text = String::from_utf8_lossy(&self.said).into_owned();
            let last: Vec<_> = text.trim_end().rsplit("\r\n").take(4).collect();
            if text.ends_with("\r\n") && last.get(2) == Some(&"PING") {
                return true;
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes).await);
    }

    /// The answer to the `PING` at the end of what was read.
    pub(crate) fn marker(&self) -> Vec<u8> {
        let text = String::from_utf8_lossy(&self.said).into_owned();
        let number = text.trim_end().rsplit("\r\n").next().unwrap_or_default().to_owned();
        format!("${}\r\n{number}\r\n", number.len()).into_bytes()
    }

    /// Greets like a server that is well.
    pub(crate) async fn greet(&mut self) -> bool {
        if !self.read().await {
            return false;
        }
        let answer = [Fake::hello("7.2.0"), self.marker()].concat();
        self.send(&answer).await;
        true
    }
}
