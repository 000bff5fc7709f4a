//! A proxy that counts what the client sends, and can fall silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Between a client and a server that speak without TLS.
pub(crate) struct Proxy {
    port: u16,
    counts: Arc<Counts>,
    /// Takes everything and hands on nothing, as a line that is cut somewhere in the middle.
    silent: Arc<AtomicBool>,
    /// Goes up when every connection that there is closes.
    cuts: watch::Sender<u64>,
}

#[derive(Default)]
struct Counts {
    statements: AtomicU64,
    parses: AtomicU64,
    connections: AtomicU64,
}

impl Proxy {
    pub(crate) async fn to(url: &str) -> Self {
        let server = address(url).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts = Arc::new(Counts::default());
        let (silent, cuts) = (Arc::<AtomicBool>::default(), watch::Sender::new(0));
        tokio::spawn({
            let (counts, silent, cuts) = (Arc::clone(&counts), Arc::clone(&silent), cuts.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let cut = cuts.subscribe();
                    counts.connections.fetch_add(1, Ordering::Relaxed);
                    let server = TcpStream::connect(&server).await.unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let (counts, silent) = (Arc::clone(&counts), Arc::clone(&silent));
                    tokio::spawn(requests(from_client, to_server, counts, Arc::clone(&silent), cut.clone()));
                    tokio::spawn(answers(from_server, to_client, silent, cut));
                }
            }
        });
        Self { port, counts, silent, cuts }
    }

    /// The server's URL, through this.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(address(url), &self.address())
    }

    /// Its own `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many statements were executed, and how many parsed, since this was asked last.
    pub(crate) fn take_counts(&self) -> (u64, u64) {
        (self.counts.statements.swap(0, Ordering::SeqCst), self.counts.parses.swap(0, Ordering::SeqCst))
    }

    /// How many connections there ever were.
    pub(crate) fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    pub(crate) fn speak(&self) {
        self.silent.store(false, Ordering::SeqCst);
    }

    /// Closes the connections that there are. New ones are taken.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

/// `host:port` of a URL.
fn address(url: &str) -> &str {
    let rest = url.split_once('@').unwrap().1;
    rest.split(['/', '?']).next().unwrap()
}

/// Knows where messages begin: the first has no type byte, all others do.
async fn requests(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    counts: Arc<Counts>,
    silent: Arc<AtomicBool>,
    mut cut: watch::Receiver<u64>,
) -> Option<()> {
    let mut started = false;
    loop {
        let mut head = vec![0; if started { 5 } else { 4 }];
        tokio::select! {
            read = client.read_exact(&mut head) => { read.ok()?; }
            cut = cut.changed() => return cut.ok(),
        }
        let length = u32::from_be_bytes(head[head.len() - 4..].try_into().unwrap()) as usize;
        let mut body = vec![0; length - 4];
        client.read_exact(&mut body).await.ok()?;
        match (started, head[0]) {
            (true, b'E' | b'Q') => drop(counts.statements.fetch_add(1, Ordering::SeqCst)),
            (true, b'P') => drop(counts.parses.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
        started = true;
        if silent.load(Ordering::SeqCst) {
            continue;
        }
        head.extend(body);
        server.write_all(&head).await.ok()?;
    }
}

async fn answers(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    silent: Arc<AtomicBool>,
    mut cut: watch::Receiver<u64>,
) -> Option<()> {
    let mut buffer = vec![0; 16384];
    loop {
        let read = tokio::select! {
            read = server.read(&mut buffer) => read.ok().filter(|read| *read > 0)?,
            cut = cut.changed() => return cut.ok(),
        };
        if !silent.load(Ordering::SeqCst) {
            client.write_all(&buffer[..read]).await.ok()?;
        }
    }
}
