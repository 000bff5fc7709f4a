//! What stands between a client and its server: transparent, until it is told what to do to them.
//!
//! A fault strikes once, at a byte or a message that is counted from when it was set, on whichever
//! connection gets there; the connections that are made later are honest again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::wire::{Framer, Protocol, Way};

/// What happens to the messages on their way.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection is cut when so many bytes have passed this way.
    Cut(Way, usize),
    /// The reply of this number is not what the server sent.
    Garble(usize, Garble),
}

#[derive(Clone, Debug)]
pub(crate) enum Garble {
    Drop,
    Repeat,
    SwapWithNext,
    /// Only so many of its bytes come, and then the next reply.
    Truncate(usize),
    Replace(Vec<u8>),
    /// It does not come, and nothing after it.
    Stall,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    protocol: Protocol,
    server: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    /// What passed since the fault was set.
    seen: Seen,
    replies: usize,
    asked: usize,
    answered: usize,
}

/// What went through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) request_bytes: usize,
    pub(crate) reply_bytes: usize,
    /// How often something was asked when nothing was left to be answered.
    pub(crate) trips: usize,
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) replies: Vec<Vec<u8>>,
}

impl Proxy {
    pub(crate) async fn before(protocol: Protocol, server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { protocol, server, state: Mutex::default() });
        tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(serve(shared.clone(), client));
                }
            }
        });
        Self { address, shared }
    }

    /// Sets what is to happen next, and counts from here on.
    pub(crate) fn set(&self, fault: Option<Fault>) {
        *self.shared.state.lock().unwrap() = State { fault, ..State::default() };
    }

    pub(crate) fn seen(&self) -> Seen {
        self.shared.state.lock().unwrap().seen.clone()
    }
}

async fn serve(shared: Arc<Shared>, client: TcpStream) {
    let Ok(server) = TcpStream::connect(shared.server).await else { return };
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Whichever way ends first ends both: the halves of the other are dropped with it.
    let stalled = watch::Sender::new(false);
    tokio::select! {
        () = requests(&shared, from_client, to_server) => {}
        () = replies(&shared, from_server, to_client, &stalled) => {}
    }
}

async fn requests(shared: &Shared, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut framer = Framer::new(shared.protocol, Way::Request);
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..length];
        let cut = {
            let mut state = shared.state.lock().unwrap();
            framer.push(bytes);
            while let Some(message) = framer.next() {
                state.request(message, shared.protocol);
            }
            state.seen.request_bytes += length;
            state.cut(Way::Request, length)
        };
        if to.write_all(&bytes[..cut.unwrap_or(length)]).await.is_err() || cut.is_some() {
            return;
        }
    }
}

async fn replies(shared: &Shared, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, stalled: &watch::Sender<bool>) {
    let mut framer = Framer::new(shared.protocol, Way::Reply);
    let mut buffer = vec![0; 64 * 1024];
    let mut held = None;
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        framer.push(&buffer[..length]);
        while let Some(message) = framer.next() {
            let (out, cut) = {
                let mut state = shared.state.lock().unwrap();
                state.answered = if shared.protocol.answers_once() { state.answered + 1 } else { state.asked };
                state.reply(&message, &mut held, stalled)
            };
            if *stalled.borrow() {
                // Until the client has had enough.
                std::future::pending::<()>().await;
            }
            let end = cut.unwrap_or(out.len());
            if to.write_all(&out[..end]).await.is_err() || cut.is_some() {
                return;
            }
        }
    }
}

impl State {
    fn request(&mut self, message: Vec<u8>, protocol: Protocol) {
        if protocol.asks(&message) {
            // What is asked before the answer is there travels with it.
            self.seen.trips += usize::from(self.asked == self.answered);
            self.asked += 1;
        }
        self.seen.requests.push(message);
    }

    /// Where to cut within the bytes that have just been counted, if here.
    fn cut(&mut self, way: Way, length: usize) -> Option<usize> {
        let total = match way {
            Way::Request => self.seen.request_bytes,
            Way::Reply => self.seen.reply_bytes,
        };
        match self.fault {
            Some(Fault::Cut(there, at)) if there == way && at <= total => {
                self.fault = None;
                Some(at - (total - length))
            }
            _ => None,
        }
    }

    /// What the client gets for this reply, and where in it the connection is cut.
    fn reply(
        &mut self,
        message: &[u8],
        held: &mut Option<Vec<u8>>,
        stalled: &watch::Sender<bool>,
    ) -> (Vec<u8>, Option<usize>) {
        let number = self.replies;
        self.replies += 1;
        self.seen.replies.push(message.to_vec());
        self.seen.reply_bytes += message.len();
        if let Some(before) = held.take() {
            return ([message, &before].concat(), None);
        }
        let Some(Fault::Garble(at, garble)) = &self.fault else {
            return (message.to_vec(), self.cut(Way::Reply, message.len()));
        };
        if *at != number {
            return (message.to_vec(), None);
        }
        let out = match garble {
            Garble::Drop => Vec::new(),
            Garble::Repeat => [message, message].concat(),
            Garble::SwapWithNext => {
                *held = Some(message.to_vec());
                Vec::new()
            }
            Garble::Truncate(length) => message[..message.len().min(*length)].to_vec(),
            Garble::Replace(with) => with.clone(),
            Garble::Stall => {
                stalled.send_replace(true);
                Vec::new()
            }
        };
        self.fault = None;
        (out, None)
    }
}
