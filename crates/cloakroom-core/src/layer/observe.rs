use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::{Layer, forward_every_verb};
use crate::error::StoreError;
use crate::events::{Event, EventSink};
use crate::store::{SessionStore, Verb};

/// Tells a sink of every call to the store: verb, duration, and how it failed.
///
/// Goes outermost, so that it sees what the request sees. A call that is dropped before it ends is
/// not reported.
#[derive(Clone, Debug)]
pub struct ObserveLayer {
    sink: Arc<dyn EventSink>,
}

impl ObserveLayer {
    /// Reports to this sink.
    #[must_use]
    pub fn new(sink: Arc<dyn EventSink>) -> Self {
        Self { sink }
    }
}

impl Layer for ObserveLayer {
    fn wrap(self, inner: Arc<dyn SessionStore>) -> Arc<dyn SessionStore> {
        Arc::new(Observe { inner, sink: self.sink })
    }
}

#[derive(Debug)]
struct Observe {
    inner: Arc<dyn SessionStore>,
    sink: Arc<dyn EventSink>,
}

impl Observe {
    async fn observe<T>(&self, verb: Verb, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let start = Instant::now();
        let answer = call.await;
        let error = answer.as_ref().err().map(StoreError::kind);
        self.sink.emit(&Event::StoreCall { verb, elapsed: start.elapsed(), error });
        answer
    }
}

impl fmt::Display for Observe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "observe({})", self.inner)
    }
}

forward_every_verb!(Observe, observe);
