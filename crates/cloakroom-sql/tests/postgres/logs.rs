//! What the driver tells the log, at its most talkative.

use std::sync::{Mutex, PoisonError};

use cloakroom_core::{Page, Principal, Record, Revision, SessionStore as _, Value};

use crate::support::{Place, create, id, live};

static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        TOLD.lock().unwrap_or_else(PoisonError::into_inner).push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// As `Debug` writes bytes.
fn written(bytes: &[u8]) -> String {
    bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn what_a_statement_is_given_is_in_no_log() {
    log::set_logger(&Log).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let owner = Principal::new("hunter2").unwrap();
    for prepared in [true, false] {
        let place = Place::new();
        let store = place.options().with_clock(place.clock.clone()).with_prepared(prepared).open().await.unwrap();
        let values = [Value { key: "pet", encoded: b"\"swordfish\"", expires: 0 }];
        let record: Record = place.record(77).owned_by(owner.clone()).with_values(values);
        create(&store, 77, &record).await;
        live(&store, 77).await;
        store.update(&id(77), Revision::FIRST, &record).await.unwrap();
        assert_eq!(store.list(&owner, Page::FIRST).await.unwrap().sessions.len(), 1);
        store.close().await;
    }
    let told = TOLD.lock().unwrap();
    assert!(told.iter().any(|line| line.contains("parameters")), "the driver tells nothing, so this shows nothing");
    for secret in ["hunter2".to_owned(), written(b"hunter2"), written(b"swordfish"), written(&[77; 10])] {
        let line = told.iter().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{secret}");
    }
}
