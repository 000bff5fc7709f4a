//! Files that are new, bad, taken or gone.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{Durability, SessionStore, StoreErrorKind, WriteOutcome};
use cloakroom_sql::{OpenError, OpenErrorKind, SqliteOptions, SqliteStore, Synchronous};
use sqlx::Connection as _;

use crate::support::{Place, create, id, live, run};

async fn refused(options: SqliteOptions) -> (OpenErrorKind, String) {
    let error: OpenError = options.open().await.expect_err("this file must not open");
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn a_new_file_is_for_its_owner_only() {
    let place = Place::new();
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    let mut names = Vec::new();
    for entry in fs::read_dir(place.directory.path()).unwrap().map(Result::unwrap) {
        names.push(entry.file_name().into_string().unwrap());
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&entry.metadata().unwrap().permissions()) & 0o777, 0o600);
    }
    names.sort();
    assert_eq!(names, ["sessions.db", "sessions.db-shm", "sessions.db-wal"]);
    assert_eq!(store.to_string(), format!("sqlite({})", store.file().display()));
}

#[tokio::test]
async fn no_directory_is_created() {
    let place = Place::new();
    let file = place.directory.path().join("missing/sessions.db");
    let (kind, text) = refused(SqliteOptions::new(&file)).await;
    assert_eq!(kind, OpenErrorKind::Path);
    let expected = format!(
        "cannot open the session database {}: its directory does not exist; create the directory first, or name a \
         file in one that exists",
        file.display()
    );
    assert_eq!(text, expected);
    assert!(!place.directory.path().join("missing").exists());
}

#[tokio::test]
async fn what_is_no_file_is_refused() {
    let place = Place::new();
    assert_eq!(refused(SqliteOptions::new(place.directory.path())).await.0, OpenErrorKind::Path);
    assert_eq!(refused(SqliteOptions::new(":memory:")).await.0, OpenErrorKind::Path);
    assert_eq!(refused(SqliteOptions::new("")).await.0, OpenErrorKind::Path);
    assert_eq!(refused(place.options().with_create(false)).await.0, OpenErrorKind::Path);
    assert!(!place.directory.path().join("sessions.db").exists());
}

#[tokio::test]
async fn a_file_of_something_else_is_refused_and_left_alone() {
    let place = Place::new();
    let file = place.directory.path().join("sessions.db");
    fs::write(&file, "dear diary, ".repeat(1000)).unwrap();
    let (kind, text) = refused(place.options()).await;
    assert_eq!(kind, OpenErrorKind::NotADatabase);
    assert!(text.contains("it is not a SQLite database; name another file"), "{text}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "dear diary, ".repeat(1000));
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let place = Place::new();
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    store.close().await;
    let file = place.directory.path().join("sessions.db");
    let mut bytes = fs::read(&file).unwrap();
    // The header stays; the schema behind it does not.
    bytes[100..4096].fill(0xee);
    fs::write(&file, bytes).unwrap();
    assert_eq!(refused(place.options()).await.0, OpenErrorKind::Corrupt);
}

#[tokio::test]
async fn a_file_that_another_process_keeps_is_refused_after_the_busy_timeout() {
    let place = Place::new();
    fs::write(place.directory.path().join("sessions.db"), "").unwrap();
    let mut other = place.sqlite().await;
    run(&mut other, "BEGIN EXCLUSIVE").await;
    let (kind, text) = refused(place.options().with_busy_timeout(Duration::from_millis(30))).await;
    assert_eq!(kind, OpenErrorKind::Locked);
    assert!(text.contains("end what holds it"), "{text}");
    run(&mut other, "ROLLBACK").await;
    place.open().await.close().await;
}

#[tokio::test]
async fn tables_of_a_newer_release_are_refused_and_left_alone() {
    let place = Place::new();
    place.open().await.close().await;
    run(&mut place.sqlite().await, "INSERT INTO cloakroom_migrations (version) VALUES (99)").await;
    let (kind, text) = refused(place.options()).await;
    assert_eq!(kind, OpenErrorKind::Newer);
    assert!(text.contains("its tables have version 99"), "{text}");
}

#[tokio::test]
async fn tables_are_not_made_where_somebody_else_makes_them() {
    let place = Place::new();
    let (kind, text) = refused(place.options().with_migrate(false)).await;
    assert_eq!(kind, OpenErrorKind::Unmigrated);
    assert!(text.contains("apply the missing migrations"), "{text}");
    let mut other = place.sqlite().await;
    for migration in SqliteStore::migrations() {
        run(&mut other, migration.sql).await;
    }
    other.close().await.unwrap();
    let store = place.options().with_migrate(false).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
}

#[tokio::test]
async fn foreign_tables_of_the_same_name_are_refused() {
    let place = Place::new();
    fs::write(place.directory.path().join("sessions.db"), "").unwrap();
    run(&mut place.sqlite().await, "CREATE TABLE cloakroom_sessions (hats TEXT)").await;
    assert_eq!(refused(place.options()).await.0, OpenErrorKind::Unmigrated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_may_open_a_new_file_at_once() {
    let place = Place::new();
    let opening: Vec<_> = (0..12).map(|_| tokio::spawn(place.options().with_readers(1).open())).collect();
    let mut stores = Vec::new();
    for store in opening {
        stores.push(store.await.unwrap().unwrap());
    }
    create(&stores[0], 1, &place.record(1)).await;
    for store in &stores {
        live(store, 1).await;
    }
}

#[tokio::test]
async fn sessions_are_there_after_a_restart() {
    let place = Place::new();
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    let before = live(&store, 1).await;
    store.close().await;
    assert_eq!(live(&place.open().await, 1).await, before);
}

#[tokio::test]
async fn a_probe_says_how_durable_it_is() {
    let place = Place::new();
    let probe = place.open().await.probe().await.unwrap();
    assert_eq!((probe.durability, probe.warnings), (Durability::Machine, vec![]));
    assert!(probe.server.starts_with("SQLite 3."), "{}", probe.server);
    let store = place.options().with_synchronous(Synchronous::Normal).open().await.unwrap();
    assert_eq!(store.probe().await.unwrap().durability, Durability::Crash);
}

#[tokio::test]
async fn a_probe_warns_of_what_is_set_up_wrongly() {
    let place = Place::new();
    let store = place.options().with_busy_timeout(Duration::from_millis(30)).open().await.unwrap();
    let file = store.file().to_owned();
    #[cfg(unix)]
    {
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let warnings = store.probe().await.unwrap().warnings;
        assert_eq!(warnings, [format!("{} is open to every user of this machine: chmod o-rwx it", file.display())]);
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let mut other = place.sqlite().await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let warnings = store.probe().await.unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].starts_with("nothing can be written: "), "{warnings:?}");
    run(&mut other, "ROLLBACK").await;
    fs::remove_file(&file).unwrap();
    let warnings = store.probe().await.unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("is not there any more"), "{warnings:?}");
}

#[tokio::test]
async fn closing_does_what_waits_and_takes_nothing_more() {
    let place = Place::new();
    let store = place.open().await;
    let mut other = place.sqlite().await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let records: Vec<_> = (0..20).map(|n| place.record(n)).collect();
    let writing = (0..20).zip(records).map(|(n, record)| {
        let store = store.clone();
        tokio::spawn(async move { create(&store, n, &record).await })
    });
    let writing: Vec<_> = writing.collect();
    tokio::task::yield_now().await;
    let closing = {
        let store = store.clone();
        tokio::spawn(async move { store.close().await })
    };
    tokio::task::yield_now().await;
    run(&mut other, "ROLLBACK").await;
    other.close().await.unwrap();
    closing.await.unwrap();
    for write in writing {
        write.await.unwrap();
    }
    let error = store.load(&id(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let error = store.delete(&id(1), cloakroom_core::EndReason::Destroyed).await.unwrap_err();
    assert_eq!(error.outcome(), WriteOutcome::NotDone);
    assert!(!place.directory.path().join("sessions.db-wal").exists(), "the log was not folded into the file");
    store.close().await;
}

#[tokio::test]
async fn the_tasks_end_with_the_last_handle() {
    let place = Place::new();
    let store = place.open().await;
    let clone = store.clone();
    drop(store);
    create(&clone, 1, &place.record(1)).await;
    let wal = place.directory.path().join("sessions.db-wal");
    assert!(wal.exists());
    drop(clone);
    // The task that writes has the clock as well; the last connection takes the log with it.
    let ended = async {
        while Arc::strong_count(&place.clock) > 1 || wal.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("the tasks go on without a handle");
}
