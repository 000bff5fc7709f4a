use std::sync::Mutex;

use cloakroom_core::{Event, EventSink};

/// Keeps every event, in full, for tests to ask about.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Vec<(&'static str, String)>>);

impl EventSink for Recorder {
    fn emit(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push((event.name(), format!("{event:?}")));
    }
}

impl Recorder {
    /// How many events of this name there were since [`forget`](Self::forget).
    pub(crate) fn count(&self, name: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|(known, _)| *known == name).count()
    }

    /// The events of this name, in full.
    pub(crate) fn of(&self, name: &str) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|(known, _)| *known == name).map(|(_, text)| text.clone()).collect()
    }

    /// Every event but the calls to the store, by name.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let events = self.0.lock().unwrap();
        events.iter().map(|(name, _)| *name).filter(|name| *name != "session_store_call").collect()
    }

    pub(crate) fn forget(&self) {
        self.0.lock().unwrap().clear();
    }

    /// Everything, as text.
    pub(crate) fn dump(&self) -> String {
        self.0.lock().unwrap().iter().map(|(_, text)| format!("{text}\n")).collect()
    }
}
