//! What stands before several processes of a service, as simple as one can be.
//!
//! Requests go round. One that could not be sent, because nobody listened, goes to the next process;
//! one that was sent is never sent again: when its answer does not come, that is what the browser is
//! told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The status of an answer that never came.
pub(crate) const UNKNOWN: u16 = 502;

pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    slots: Arc<[Slot]>,
}

/// A place for a process.
struct Slot {
    /// `None` while it gets no requests.
    address: Mutex<Option<SocketAddr>>,
    under_way: watch::Sender<usize>,
}

impl Balancer {
    pub(crate) async fn before(processes: impl Iterator<Item = SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slot = |address| Slot { address: Mutex::new(Some(address)), under_way: watch::Sender::new(0) };
        let slots: Arc<[Slot]> = processes.map(slot).collect();
        tokio::spawn({
            let slots = slots.clone();
            async move {
                for turn in 0.. {
                    let (browser, _) = listener.accept().await.unwrap();
                    let slots = slots.clone();
                    tokio::spawn(async move { serve(browser, &slots, turn).await });
                }
            }
        });
        Self { address, slots }
    }

    /// Where a process listens.
    pub(crate) fn process(&self, number: usize) -> SocketAddr {
        self.slots[number].address.lock().unwrap().unwrap()
    }

    /// Sends no more requests to this one, and comes back when it has answered those it has.
    pub(crate) async fn drain(&self, number: usize) {
        *self.slots[number].address.lock().unwrap() = None;
        self.slots[number].under_way.subscribe().wait_for(|count| *count == 0).await.unwrap();
    }

    pub(crate) fn replace(&self, number: usize, address: SocketAddr) {
        *self.slots[number].address.lock().unwrap() = Some(address);
    }
}

async fn serve(mut browser: TcpStream, slots: &[Slot], turn: usize) {
    let Some(request) = read_request(&mut browser).await else { return };
    let answer = forward(&request, slots, turn).await.unwrap_or_else(|| {
        format!("HTTP/1.1 {UNKNOWN} Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").into_bytes()
    });
    // A browser that is gone needs no answer.
    drop(browser.write_all(&answer).await);
    drop(browser.shutdown().await);
}

/// The answer of the first process that could be asked, if it gave a whole one.
async fn forward(request: &[u8], slots: &[Slot], turn: usize) -> Option<Vec<u8>> {
    for attempt in turn.. {
        let slot = &slots[attempt % slots.len()];
        // Counted before the address is read, so that whoever drains it sees the one or the other.
        let _counted = Counted::new(&slot.under_way);
        let address = *slot.address.lock().unwrap();
        let Some(address) = address else { continue };
        let Ok(mut process) = TcpStream::connect(address).await else { continue };
        // From here on it may have been sent.
        process.write_all(request).await.ok()?;
        let mut answer = Vec::new();
        process.read_to_end(&mut answer).await.ok()?;
        return is_whole(&answer).then_some(answer);
    }
    None
}

struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

async fn read_request(browser: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if browser.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    Some(request)
}

/// Whether this is a whole message: the head, and as much as it announces.
fn is_whole(message: &[u8]) -> bool {
    let Some(end) = message.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&message[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    message.len() - end - 4 == length.map_or(0, |length| length.trim().parse().unwrap())
}
