//! How a store tells of ends: hints that wake whoever watches a session, never the truth about it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;

use crate::id::Handle;

/// What a store tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The session of this name ended, or was renewed.
    Ended(Handle),
    /// Some may have ended of which nothing was told: ask about each. From now on it is told.
    Unsure,
    /// The store cannot hear of ends at the moment: until [`Unsure`](Self::Unsure) comes nothing is told.
    Deaf,
}

/// What a store tells of ends, from the moment on at which this was asked for.
///
/// The first is [`Signal::Unsure`], once the store listens: what ends from then on is told. Even so a
/// signal may be missing, late, doubled or wrong: whoever gets one asks the store, and asks from time
/// to time without one.
#[derive(Debug)]
pub struct Signals {
    /// Told before anything else.
    first: Option<Signal>,
    receiver: broadcast::Receiver<Signal>,
}

impl Signals {
    /// The next signal; `None` once the store is closed.
    ///
    /// Who falls behind misses some and is told [`Signal::Unsure`]. May be dropped at its await.
    pub async fn next(&mut self) -> Option<Signal> {
        if self.first.is_some() {
            return self.first.take();
        }
        match self.receiver.recv().await {
            Ok(signal) => Some(signal),
            Err(RecvError::Lagged(_)) => Some(Signal::Unsure),
            Err(RecvError::Closed) => None,
        }
    }
}

/// For stores: where signals come from. Clones are the same.
#[derive(Clone)]
pub struct Signaller(Arc<Mutex<State>>);

struct State {
    /// `None` once the store is closed.
    sender: Option<broadcast::Sender<Signal>>,
    /// Listens to the server.
    task: Option<AbortHandle>,
    /// Whether it does by now.
    listens: bool,
}

impl Signaller {
    /// How far a listener may fall behind before it misses some.
    const ROOM: usize = 1024;

    /// With nobody listening.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            sender: Some(broadcast::Sender::new(Self::ROOM)),
            task: None,
            listens: false,
        })))
    }

    /// From now on.
    #[must_use]
    pub fn signals(&self) -> Signals {
        self.lock().signals(Some(Signal::Unsure))
    }

    /// From now on, with a task that listens to the server for as long as anybody listens here. What it runs
    /// connects anew by itself, and may be dropped at any await.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn signals_of<F>(&self, listen: impl Fn(Self) -> F + Send + 'static) -> Signals
    where
        F: Future<Output = ()> + Send,
    {
        let mut state = self.lock();
        // One that ended did so with the runtime that it was on.
        if state.task.as_ref().is_some_and(AbortHandle::is_finished) {
            (state.task, state.listens) = (None, false);
        }
        // If it does not listen yet, the first signal comes once it does.
        let signals = state.signals(state.listens.then_some(Signal::Unsure));
        if let (Some(sender), None) = (&state.sender, &state.task) {
            let (signaller, sender) = (self.clone(), sender.clone());
            let task = tokio::spawn(async move {
                loop {
                    tokio::select! {
                        () = listen(signaller.clone()) => return,
                        () = sender.closed() => {}
                    }
                    // Somebody may have come meanwhile, who found this task running.
                    let mut state = signaller.lock();
                    state.listens = false;
                    if sender.receiver_count() == 0 {
                        state.task = None;
                        return;
                    }
                }
            });
            state.task = Some(task.abort_handle());
        }
        signals
    }

    /// Tells all who listen.
    pub fn tell(&self, signal: Signal) {
        let mut state = self.lock();
        match signal {
            Signal::Unsure => state.listens = true,
            Signal::Deaf => state.listens = false,
            Signal::Ended(_) => {}
        }
        if let Some(sender) = &state.sender {
            // An error means that nobody listens.
            drop(sender.send(signal));
        }
    }

    /// The store is closed: whoever listens gets an end.
    pub fn close(&self) {
        let mut state = self.lock();
        state.sender = None;
        if let Some(task) = state.task.take() {
            task.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn signals(&self, first: Option<Signal>) -> Signals {
        let receiver = match &self.sender {
            Some(sender) => sender.subscribe(),
            None => broadcast::channel(1).1,
        };
        Signals { first, receiver }
    }
}

impl Default for Signaller {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Signaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listeners = self.lock().sender.as_ref().map(broadcast::Sender::receiver_count);
        f.debug_struct("Signaller").field("listeners", &listeners).finish()
    }
}
