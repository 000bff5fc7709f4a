//! Opening, migrating, and errors that say what to do.

use std::process::Command;

use cloakroom_core::{SessionStore, Swept};
use cloakroom_services::MariaDb;
use cloakroom_sql::{MySqlOptions, MySqlStore, ServerOpenErrorKind};
use sqlx::mysql::MySqlConnection;
use sqlx::{Connection as _, Executor as _};

use crate::support::{Place, create, live, server};

const PREFIX: &str = "CLOAKROOM_TEST_MYSQL_PREFIX";

/// The test below runs it in several processes at once; by itself it is one of them.
#[tokio::test]
async fn a_process_that_migrates() {
    let place = Place::bare();
    let prefix = std::env::var(PREFIX).unwrap_or_else(|_| place.prefix.clone());
    let store = place.options().with_table_prefix(prefix).open().await.unwrap();
    assert!(store.probe().await.unwrap().server.starts_with("MariaDB 1"));
    store.close().await;
}

#[tokio::test]
async fn several_processes_migrate_at_once() {
    let place = Place::bare();
    let mut processes: Vec<_> = (0..4)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "opening::a_process_that_migrates"])
                .env(PREFIX, &place.prefix)
                .spawn()
                .unwrap()
        })
        .collect();
    for process in &mut processes {
        assert!(process.wait().unwrap().success());
    }
    let store = place.options().with_migrate(false).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    live(&store, 1).await;
}

#[tokio::test]
async fn a_migration_that_was_cut_short_is_repeated() {
    let place = Place::bare();
    place.options().open().await.unwrap().close().await;
    let mut admin = place.admin().await;
    // As if it had ended after some of its steps.
    admin.execute(place.sql("DELETE FROM cloakroom_migrations")).await.unwrap();
    admin.execute(place.sql("DROP PROCEDURE cloakroom_sweep")).await.unwrap();
    admin.execute(place.sql("DELETE FROM cloakroom_locks WHERE stripe > 7")).await.unwrap();
    let store = place.options().open().await.unwrap();
    assert_eq!(store.sweep(10).await.unwrap(), Swept::default());
}

#[tokio::test]
async fn tables_that_are_not_this_releases_are_refused() {
    let place = Place::bare();
    let error = place.options().with_migrate(false).open().await.unwrap_err();
    assert_eq!(error.kind(), ServerOpenErrorKind::Unmigrated);
    assert!(error.to_string().contains("MySqlStore::migrations"), "{error}");

    place.options().open().await.unwrap().close().await;
    let mut admin = place.admin().await;
    admin.execute(place.sql("DELETE FROM cloakroom_locks WHERE stripe = 7")).await.unwrap();
    let error = place.options().open().await.unwrap_err();
    assert_eq!(error.kind(), ServerOpenErrorKind::Unmigrated);
    assert!(error.to_string().contains("255 of 256"), "{error}");

    admin.execute(place.sql("INSERT INTO cloakroom_migrations VALUES (99, 0)")).await.unwrap();
    let error = place.options().open().await.unwrap_err();
    assert_eq!(error.kind(), ServerOpenErrorKind::Newer);
    assert!(error.to_string().contains("version 99"), "{error}");
}

/// Each connection sets the strict mode for itself, and is refused if that is not what the server then says.
#[tokio::test]
async fn a_server_that_is_not_strict_is_used_strictly() {
    let server = MariaDb::builder().option("--sql-mode=").start().unwrap();
    let store = MySqlOptions::new(&server.url()).unwrap().open().await.unwrap();
    let place = Place::bare();
    create(&store, 1, &place.by_the_servers_clock().record(1)).await;
    live(&store, 1).await;
    let mut admin: MySqlConnection = MySqlConnection::connect(&server.url()).await.unwrap();
    let (mode,): (String,) = sqlx::query_as("SELECT @@GLOBAL.sql_mode").fetch_one(&mut admin).await.unwrap();
    assert_eq!(mode, "", "the server is not what the test is about");
}

#[tokio::test]
async fn procedures_that_were_made_without_the_strict_mode_are_refused() {
    let place = Place::bare();
    place.options().open().await.unwrap().close().await;
    let mut admin = place.admin().await;
    admin.execute("SET SESSION sql_mode = ''").await.unwrap();
    admin.execute(place.sql("DROP PROCEDURE cloakroom_revoke")).await.unwrap();
    admin.execute(place.sql("CREATE PROCEDURE cloakroom_revoke(a INT, b INT, c INT) SELECT 1")).await.unwrap();
    let error = place.options().open().await.unwrap_err();
    assert_eq!(error.kind(), ServerOpenErrorKind::Unsuitable);
    assert!(error.to_string().contains("sql_mode"), "{error}");
}

#[tokio::test]
async fn a_role_without_rights_is_told_so() {
    let place = Place::new().await;
    let mut admin = place.admin().await;
    let role = place.prefix.trim_end_matches('_');
    let revoke = format!("REVOKE EXECUTE ON PROCEDURE cloakroom_renew FROM '{role}'@'%'");
    admin.execute(place.sql(&revoke)).await.unwrap();
    let error = place.options().with_migrate(false).open().await.unwrap_err();
    assert!(error.to_string().contains("script of grants"), "{error}");
    // It may not migrate either.
    admin.execute(place.sql("DELETE FROM cloakroom_migrations")).await.unwrap();
    let error = place.options().open().await.unwrap_err();
    assert_eq!(error.kind(), ServerOpenErrorKind::Denied);
    assert!(error.to_string().contains("CREATE ROUTINE"), "{error}");
}

#[tokio::test]
async fn whoever_cannot_sign_in_is_told_why_and_no_password_is_shown() {
    let (scheme, rest) = server().split_once("://").map(|(s, r)| (s.to_owned(), r.to_owned())).unwrap();
    let (_, place) = rest.split_once('@').unwrap();
    let host = place.split('/').next().unwrap();
    for (url, kind) in [
        (format!("{scheme}://nobody:hunter2@{place}"), ServerOpenErrorKind::Credentials),
        (format!("{scheme}://{}/no_such_database", rest.split('/').next().unwrap()), ServerOpenErrorKind::Credentials),
        ("mysql://u:hunter2@127.0.0.1:1/d".to_owned(), ServerOpenErrorKind::Unreachable),
        (format!("{scheme}://u:hunter2@{host}/d?sslmode=verify-full"), ServerOpenErrorKind::Tls),
    ] {
        let options = MySqlOptions::new(&url).unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
        let error = options.open().await.unwrap_err();
        // A role without rights anywhere is not told that there is no such database.
        let expected = [kind, ServerOpenErrorKind::Denied];
        assert!(expected.contains(&error.kind()), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn urls_that_cannot_be_used_say_what_to_write() {
    for (url, hint) in [
        ("postgres://u:hunter2@h/d", "mysql://user:password@host/database"),
        ("mysql://u:hunter2@h", "mysql://user:password@host:3306/database"),
        ("mysql://h/d", "who signs in"),
        ("mysql://u:hunter2@h:99999/d", "port"),
        ("mysql://u:hunter2@h/d?conections=3", "connections"),
        ("mysql://u:hunter2@h/d?sslmode=maybe", "verify-full"),
        ("mysql://u:hunter2@h/d?cert=/a", "together"),
        ("mysql://u:hunter2@h/d?table_prefix=a-b", "table prefix"),
        ("mysql://u:hunter2@h/d?timeout=soon", "duration"),
        ("mysql://u:hunter2@h/d?touches=never", "background"),
    ] {
        let error = MySqlOptions::new(url).unwrap_err().to_string();
        assert!(error.contains(hint) && !error.contains("hunter2"), "{url}: {error}");
    }
    for url in [
        "mysql://u@h/d",
        "mariadb://u:p%40@[::1]:33/d?sslmode=disable&connections=8&connect_timeout=1s&timeout=2s",
        "mysql://u:p@localhost/d?socket=/run/mysqld.sock&touches=background&queue=9&tombstones=1h&migrate=off",
        "mysql://u:p@h/d?ca=/a.pem&cert=/b.pem&key=/c.pem&table_prefix=app_",
    ] {
        assert!(MySqlOptions::new(url).is_ok(), "{url}");
    }
}

#[test]
fn what_is_printed_is_what_is_applied() {
    let migrations = MySqlStore::migrations();
    assert!(migrations[0].sql.contains("CREATE TABLE IF NOT EXISTS cloakroom_sessions"));
    for procedure in migrations[0].sql.lines().filter_map(|line| line.strip_prefix("CREATE PROCEDURE ")) {
        let name = procedure.split('(').next().unwrap();
        assert!(MySqlStore::grants().contains(&format!("EXECUTE ON PROCEDURE {name} ")), "{name}");
    }
}
