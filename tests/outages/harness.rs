//! The load finds what is broken, and nothing where nothing is.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{MemoryStore, SessionStore, StoreErrorKind, Verb};
use cloakroom_sql::SqliteOptions;
use cloakroom_testkit::{Fault, FaultyStore};

use crate::broken::{Broken, Defect};
use crate::load::{Load, Promise, Report};

async fn run_on(store: impl SessionStore) -> Report {
    let load = Load::on(vec![Arc::new(store)]).with_visitors(4).with_patience(Duration::from_millis(500));
    load.run(8_000).await
}

async fn assert_caught(defect: Defect, promises: &[Promise]) {
    let report = run_on(Broken::new(defect)).await;
    let caught = promises.iter().any(|promise| report.broke(*promise) > 0);
    assert!(caught, "{defect:?} was not noticed: {}", report.text("a broken store"));
}

mod memory {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_store_that_keeps_its_promises_is_found_flawless() {
        let report = run_on(MemoryStore::new()).await;
        report.assert_flawless();
        assert_eq!(report.errors(), 0);
        for verb in [
            Verb::Load,
            Verb::Create,
            Verb::Update,
            Verb::Touch,
            Verb::Renew,
            Verb::Delete,
            Verb::List,
            Verb::Revoke,
            Verb::RevokeAll,
        ] {
            assert!(report.samples.iter().any(|sample| sample.verb == verb), "the load never calls {verb}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn failures_before_and_after_the_write_are_no_broken_promises() {
        let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
        for verb in [Verb::Create, Verb::Update, Verb::Touch, Verb::Renew, Verb::Delete, Verb::Revoke, Verb::RevokeAll]
        {
            for _ in 0..10 {
                store.once(verb, Fault::FailBefore(StoreErrorKind::Unavailable));
                store.once(verb, Fault::FailAfter(StoreErrorKind::Timeout));
            }
        }
        let report = Load::on(vec![store]).with_visitors(4).run(8_000).await;
        assert!(report.errors() > 100);
        report.assert_flawless();
    }
}

mod sqlite {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_clients_of_one_file_keep_every_promise() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sessions.db");
        let mut stores: Vec<Arc<dyn SessionStore>> = Vec::new();
        for _ in 0..2 {
            stores.push(Arc::new(SqliteOptions::new(&file).open().await.unwrap()));
        }
        let report = Load::on(stores).with_visitors(4).run(4_000).await;
        report.assert_flawless();
        assert_eq!(report.errors(), 0, "{}", report.text("SQLite"));
    }
}

mod visitors_catch {
    use super::*;

    async fn assert_caught_through_the_engine(defect: Defect, promise: Promise) {
        let load = Load::on(vec![Arc::new(Broken::new(defect))]).with_workers(0).with_visitors(8);
        let report = load.run(4_000).await;
        assert!(report.broke(promise) > 0, "{defect:?} was not noticed: {}", report.text("a broken store"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_token_that_opens_what_ended() {
        assert_caught_through_the_engine(Defect::ServesTheDead, Promise::EndedStaysEnded).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_count_that_is_forgotten() {
        assert_caught_through_the_engine(Defect::ForgetsUpdates, Promise::UpdatesAreKept).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_session_that_is_lost() {
        assert_caught_through_the_engine(Defect::LosesSessions, Promise::SessionsAreKept).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_count_that_was_denied_and_done() {
        assert_caught_through_the_engine(Defect::LiesAboutFailure, Promise::NotDoneIsNotDone).await;
    }
}

mod catches {
    use super::*;

    macro_rules! catches {
        ($($name:ident: $defect:ident => $($promise:ident)|+;)*) => {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    assert_caught(Defect::$defect, &[$(Promise::$promise),+]).await;
                }
            )*
        };
    }

    catches! {
        a_store_that_serves_what_ended: ServesTheDead => EndedStaysEnded;
        an_update_that_creates: UpdateCreates => EndedStaysEnded;
        a_touch_that_revives: TouchRevives => EndedStaysEnded;
        updates_that_are_forgotten: ForgetsUpdates => UpdatesAreKept;
        updates_that_overwrite: Overwrites => UpdatesAreKept;
        records_that_are_swapped: SwapsRecords => RecordsAreTheirOwn;
        values_that_are_swapped: SwapsValues => RecordsAreTheirOwn;
        a_renewal_that_leaves_the_old_id: RenewCopies => EndedStaysEnded | RecordsAreTheirOwn;
        a_renewal_that_loses_the_session: RenewLoses => SessionsAreKept;
        sessions_that_are_lost: LosesSessions => SessionsAreKept;
        a_sign_out_that_stops_at_a_renewed_id: DeletesOneId => EndedStaysEnded | ListsForgetTheEnded;
        a_revocation_that_leaves_one_out: RevokesAllButOne => EndedStaysEnded | ListsForgetTheEnded;
        a_list_that_leaves_one_out: ListsTooFew => SessionsAreKept;
        a_write_that_was_denied_and_done: LiesAboutFailure => NotDoneIsNotDone;
        an_error_that_no_outage_explains: CallsItCorrupt => ErrorsAreDocumented;
        a_call_that_never_returns: Hangs => CallsReturn;
    }
}
