//! Opening a store, and the errors of those that cannot be opened.

use std::collections::HashSet;

use cloakroom_core::SessionStore;
use cloakroom_services::{Postgres, shared};
use cloakroom_sql::{PostgresOptions, PostgresStore, ServerOpenErrorKind, Touches};
use futures_util::future::join_all;

use crate::support::{Place, create, live};

fn refused(url: &str) -> String {
    PostgresOptions::new(url).unwrap_err().to_string()
}

#[test]
fn a_url_says_everything() {
    let url = "postgres://app:hunter2@db1.example.com:5433,db2.example.com/app?ca=/etc/db.pem&connect_timeout=2s\
        &timeout=250ms&connections=8&queue=10&table_prefix=web_&prepared=off&touches=background&tombstones=48h\
        &migrate=off&application_name=web";
    let shown = format!("{:?}", PostgresOptions::new(url).unwrap());
    for part in [
        "postgres(db1.example.com:5433,db2.example.com:5432/app)",
        "verify: true",
        "/etc/db.pem",
        "connect_timeout: 2s",
        "timeout: 250ms",
        "connections: 8",
        "queue: 10",
        "web_",
        "prepared: false",
        "touches: Background",
        "tombstones: 172800s",
        "migrate: false",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn what_leaves_this_machine_is_encrypted_unless_told_otherwise() {
    for (url, verify) in [
        ("postgres://db.example.com/app", true),
        ("postgres://10.0.0.1/app", true),
        ("postgres://localhost,db.example.com/app", true),
        ("postgres://localhost/app?hostaddr=10.0.0.1", true),
        ("postgres://localhost/app", false),
        ("postgres://127.0.0.1/app", false),
        ("postgres:///app?host=/run/postgresql", false),
        ("postgres://db.example.com/app?sslmode=disable", false),
        ("postgres://localhost/app?sslmode=verify-full", true),
        ("postgres://localhost/app?sslmode=verify-ca", true),
        ("postgres://localhost/app?sslmode=require", true),
    ] {
        let shown = format!("{:?}", PostgresOptions::new(url).unwrap());
        assert!(shown.contains(&format!("verify: {verify}")), "{url}: {shown}");
    }
}

#[test]
fn wrong_urls_say_what_to_write() {
    for (url, says) in [
        ("mysql://u:hunter2@h/d", "postgres://user:password@host/database"),
        ("postgres://u:hunter2@h:port/d", "postgres://user:password@host:port/database"),
        ("postgres:///d", "names no host"),
        ("postgres://u:hunter2@h/d?sslmode=allow", "`verify-full`"),
        ("postgres://u:hunter2@h/d?sslmode=prefer", "whoever sits on the line"),
        ("postgres://u:hunter2@h/d?sslmode=hunter2", "is one of"),
        ("postgres://u:hunter2@localhost/d?ca=/x", "has no effect"),
        ("postgres://u:hunter2@h/d?conections=4", "did you mean `connections`?"),
        ("postgres://u:hunter2@h/d?timeout=never", "a duration"),
        ("postgres://u:hunter2@h/d?table_prefix=A-b", "a lowercase letter"),
        ("postgres://u:hunter2@h/d?prepared=perhaps", "`off`"),
    ] {
        let error = refused(url);
        assert!(error.contains(says) && !error.contains("hunter2"), "{url}: {error}");
    }
}

#[tokio::test]
async fn many_open_at_once_and_one_migrates() {
    let place = Place::new();
    let stores = join_all((0..8).map(|_| place.options().open())).await;
    let stores: Vec<PostgresStore> = stores.into_iter().map(Result::unwrap).collect();
    assert_eq!(place.number("SELECT count(*) FROM cloakroom_migrations").await, 1);
    join_all(stores.iter().map(PostgresStore::close)).await;
}

#[tokio::test]
async fn tables_of_another_release_are_refused_unless_compatible() {
    let place = Place::new();
    let error = place.options().with_migrate(false).open().await.unwrap_err();
    assert_eq!(error.kind(), ServerOpenErrorKind::Unmigrated);
    assert!(error.to_string().contains("version 0, and this release needs 1"), "{error}");
    place.open().await.close().await;
    place.run("INSERT INTO cloakroom_migrations (version, compatible_with) VALUES (2, 1)").await;
    place.open().await.close().await;
    place.run("INSERT INTO cloakroom_migrations (version, compatible_with) VALUES (3, 2)").await;
    let error = place.options().open().await.unwrap_err();
    assert_eq!(error.kind(), ServerOpenErrorKind::Newer);
    assert!(error.to_string().contains("version 3, and this release knows 1"), "{error}");
}

#[tokio::test]
async fn what_is_printed_makes_the_tables() {
    let place = Place::new();
    let steps = place.options().migrations();
    assert_eq!(steps.len(), PostgresStore::migrations().len());
    let client = place.client().await;
    for (_, text) in &steps {
        client.batch_execute(text).await.unwrap();
    }
    let store = place.options().with_migrate(false).with_clock(place.clock.clone()).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    live(&store, 1).await;
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let place = Place::new();
    place.open().await.close().await;
    let role = format!("{}poor", place.prefix);
    let grants = place.options().grants(&role);
    let rights = "REVOKE UPDATE ON cloakroom_sessions FROM";
    place.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'poor'; {grants} {rights} {role}")).await;
    let (_, address) = place.url.split_once('@').unwrap();
    let url = format!("postgres://{role}:poor@{address}");
    let options = PostgresOptions::new(&url).unwrap().with_table_prefix(&place.prefix).unwrap();
    let error = options.clone().with_migrate(false).open().await.unwrap_err();
    assert_eq!(error.kind(), ServerOpenErrorKind::Denied);
    assert!(error.to_string().contains(&format!("GRANT UPDATE ON TABLE {}sessions", place.prefix)), "{error}");
    let other = options.with_table_prefix("nobody_made_these_").unwrap();
    let error = other.open().await.unwrap_err();
    assert_eq!(error.kind(), ServerOpenErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("`migrate=off`"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_or_lets_nobody_in_is_named() {
    let url = shared::postgres();
    let (_, address) = url.split_once('@').unwrap();
    let error = PostgresStore::open(&format!("postgres://nobody:hunter2@{address}")).await.unwrap_err();
    assert_eq!(error.kind(), ServerOpenErrorKind::Credentials, "{error}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let unreachable = PostgresStore::open(&format!("postgres://u:hunter2@127.0.0.1:{free}/app")).await.unwrap_err();
    assert_eq!(unreachable.kind(), ServerOpenErrorKind::Unreachable, "{unreachable}");
    let none = PostgresStore::open("http://u:hunter2@h").await.unwrap_err();
    assert_eq!(none.kind(), ServerOpenErrorKind::Option);
    for error in [error, unreachable, none] {
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn unfit_settings_are_refused() {
    let place = Place::new();
    let mut seen = HashSet::new();
    for (setting, says) in [
        ("-c default_transaction_isolation=serializable", "default_transaction_isolation is serializable"),
        ("-c standard_conforming_strings=off", "standard_conforming_strings is off"),
        ("-c search_path=nowhere", "no schema of the search_path"),
    ] {
        let url = format!("{}?options={}", place.url, setting.replace(' ', "%20"));
        let error = PostgresOptions::new(&url).unwrap().open().await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        seen.insert(error.kind());
    }
    assert_eq!(seen, HashSet::from([ServerOpenErrorKind::Unsuitable, ServerOpenErrorKind::Denied]));
}

#[tokio::test]
async fn a_proxy_that_pools_transactions_is_recognised() {
    let error = PostgresOptions::new(&shared::pgbouncer()).unwrap().open().await.unwrap_err();
    assert!(error.to_string().contains("`prepared=off`"), "{error}");
}

#[tokio::test]
async fn the_certificate_of_the_server_is_checked() {
    let server = Postgres::builder().tls().start().unwrap();
    let place = Place::at(server.url());
    let store = place.options().with_clock(place.clock.clone()).with_touches(Touches::Answered).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    assert_eq!(live(&store, 1).await.record, place.record(1));
    store.probe().await.unwrap();
    let bare = server.url().split('?').next().unwrap().to_owned();
    let untrusted = PostgresStore::open(&format!("{bare}?sslmode=verify-full")).await.unwrap_err();
    assert_eq!(untrusted.kind(), ServerOpenErrorKind::Tls, "{untrusted}");
    let missing = PostgresStore::open(&format!("{bare}?sslmode=verify-full&ca=/nowhere.pem")).await.unwrap_err();
    assert!(missing.to_string().contains("/nowhere.pem cannot be read"), "{missing}");
    // The server refuses to speak without.
    assert!(PostgresStore::open(&format!("{bare}?sslmode=disable")).await.is_err());
}
