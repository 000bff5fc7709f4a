//! Stacks that configurations make, at work.
#![cfg(all(feature = "config", feature = "cookie", feature = "sqlite"))]
#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

use std::fs;
use std::path::Path;

use cloakroom::{Backend, Cloakroom, Config, Key, Sources, State};
use cloakroom_core::{Client, Exchange, Outcome, RequestHeader, ResponseHeader};

const KEY: &str = "4ZcMrgfzVX5AHjvkb+U4hGrKsK0l77m0GsA8/T57TJk=";
const OLD_KEY: &str = "k2OTr750YW8pXjV7wfXeTcJ4j8TlMaS5dvPW1nJS70I=";
const VISITS: Key<u64> = Key::new("visits");

fn sources(directory: &Path, variables: &[(&str, &str)]) -> Sources {
    let sources = Sources::new().in_directory(directory);
    variables.iter().fold(sources, |sources, (name, value)| sources.with_variable(*name, *value))
}

async fn start(directory: &Path, variables: &[(&str, &str)]) -> Cloakroom {
    Cloakroom::from_config(Config::load(&sources(directory, variables)).unwrap()).await.unwrap()
}

/// A request that signs in where nobody is and counts. Returns the cookie to send next.
async fn visit(sessions: &Cloakroom, cookie: &str) -> (u64, String) {
    let exchange = Exchange::new(sessions.manager().clone());
    let session = exchange.session([cookie.as_bytes()].into_iter(), Client::default).await.unwrap();
    if session.principal().is_none() {
        session.login("ada").unwrap();
    }
    let visits = session.modify(VISITS, |visits| *visits += 1).unwrap();
    let finish = exchange.finish(Outcome::Answered { status: 200, public: false }).await;
    assert!(finish.error.is_none(), "{:?}", finish.error);
    let set = finish.set.as_deref().and_then(|set| set.split(';').next());
    (visits, set.unwrap_or(cookie).to_owned())
}

async fn sign_out(sessions: &Cloakroom, cookie: &str) {
    let exchange = Exchange::new(sessions.manager().clone());
    exchange.session([cookie.as_bytes()].into_iter(), Client::default).await.unwrap().logout().unwrap();
    let finish = exchange.finish(Outcome::Answered { status: 200, public: false }).await;
    assert!(finish.error.is_none(), "{:?}", finish.error);
}

async fn state(sessions: &Cloakroom, cookie: &str) -> State {
    let exchange = Exchange::new(sessions.manager().clone());
    exchange.session([cookie.as_bytes()].into_iter(), Client::default).await.unwrap().state()
}

#[tokio::test]
async fn with_nothing_configured_sessions_survive_a_restart_and_nobody_else_can_read_them() {
    let directory = tempfile::tempdir().unwrap();
    let sessions = start(directory.path(), &[]).await;
    let (visits, cookie) = visit(&sessions, "").await;
    assert_eq!(visits, 1);
    assert!(sessions.notices().iter().any(|notice| notice.contains("generated into .cloakroom/key")));
    assert!(sessions.notices().iter().any(|notice| notice.contains(".cloakroom/sessions.db")));
    let Backend::Reference(store) = sessions.manager().backend() else { panic!("must be a store") };
    assert!(store.to_string().starts_with("observe(timeout(2s, sqlite("), "{store}");
    sessions.close().await;

    let again = start(directory.path(), &[]).await;
    assert_eq!(visit(&again, &cookie).await.0, 2);
    assert!(again.notices().iter().any(|notice| notice.contains("generated earlier into .cloakroom/key")));
    again.close().await;

    assert_eq!(fs::read_to_string(directory.path().join(".cloakroom/.gitignore")).unwrap(), "*\n");
    #[cfg(unix)]
    for (path, mode) in [(".cloakroom", 0o700), (".cloakroom/key", 0o600), (".cloakroom/sessions.db", 0o600)] {
        use std::os::unix::fs::PermissionsExt;
        let metadata = fs::metadata(directory.path().join(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stacks_that_start_at_once_share_one_generated_key() {
    let directory = tempfile::tempdir().unwrap();
    let starts: Vec<_> = (0..8)
        .map(|_| {
            let directory = directory.path().to_owned();
            tokio::spawn(
                async move { start(&directory, &[("CLOAKROOM_STORE", "memory")]).await.manager().keys().ids() },
            )
        })
        .collect();
    let mut ids = Vec::new();
    for start in starts {
        ids.push(start.await.unwrap());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn a_sealed_cookie_does_not_survive_its_logout_nor_the_restart_after_it() {
    let directory = tempfile::tempdir().unwrap();
    for seal in ["xchacha20poly1305", "aes256gcmsiv", "danger-signed-readable-by-client"] {
        let variables =
            [("CLOAKROOM_STORE", "cookie+sqlite:ended.db"), ("CLOAKROOM_KEYS", KEY), ("CLOAKROOM_SEAL", seal)];
        let sessions = start(directory.path(), &variables).await;
        assert!(sessions.notices().is_empty(), "{:?}", sessions.notices());
        let (_, cookie) = visit(&sessions, "").await;
        assert_eq!(visit(&sessions, &cookie).await.0, 2);
        sign_out(&sessions, &cookie).await;
        assert_eq!(state(&sessions, &cookie).await, State::Absent);
        sessions.close().await;

        let again = start(directory.path(), &variables).await;
        assert_eq!(state(&again, &cookie).await, State::Absent);
        again.close().await;
    }
}

#[tokio::test]
async fn a_sealed_cookie_without_a_lasting_list_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let sessions = start(directory.path(), &[("CLOAKROOM_STORE", "cookie"), ("CLOAKROOM_KEYS", KEY)]).await;
    assert!(sessions.notices()[0].contains("a copied cookie may outlive a logout"));
    let (_, cookie) = visit(&sessions, "").await;
    sign_out(&sessions, &cookie).await;
    assert_eq!(state(&sessions, &cookie).await, State::Absent);
}

#[tokio::test]
async fn a_rotated_key_keeps_everybody_signed_in() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    let start = || start(directory.path(), &[("CLOAKROOM_STORE", "sqlite:s.db"), ("CLOAKROOM_KEY_FILE", "keys")]);
    let write = |text: String| {
        fs::write(&file, text).unwrap();
        #[cfg(unix)]
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    write(format!("# since spring\n{OLD_KEY}\n"));
    let before = start().await;
    let (_, cookie) = visit(&before, "").await;
    let old = before.manager().keys().primary().id();
    before.close().await;

    write(format!("{KEY}   # since summer\n\n{OLD_KEY}\n"));
    let after = start().await;
    assert_eq!(visit(&after, &cookie).await.0, 2);
    assert_eq!(after.manager().keys().ids()[1], old);
    after.close().await;
}

#[test]
fn the_configuration_in_force_prints_with_its_sources_and_without_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let text = concat!(
        "store = \"sqlite:a.db\"\nprofile = \"aal2\"\nidle = \"20m\"\n",
        "[cookie]\nsame_site = \"Strict\"\n[sessions]\nmax = 5\n"
    );
    fs::write(directory.path().join("cloakroom.toml"), text).unwrap();
    let variables = [
        ("CLOAKROOM_KEYS", &*format!("{KEY}, {OLD_KEY}")),
        ("CLOAKROOM_IDLE", "15m"),
        ("CLOAKROOM_SERVICE_HOST", "10.0.0.1"),
        ("DATABASE_URL", "sqlite:b.db"),
    ];
    let sources =
        sources(directory.path(), &variables).with_default("audience", "shop").with_default("profile", "aal1");
    let config = Config::load(&sources).unwrap();
    let printed = config.to_string();
    assert_eq!(format!("{config:?}"), printed);
    assert!(!printed.contains(KEY) && !printed.contains(OLD_KEY) && !format!("{sources:?}").contains(KEY));
    insta::assert_snapshot!(printed);
}

#[test]
fn the_defaults_print_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let sources = sources(directory.path(), &[]).with_default("danger_insecure_cookie_for_localhost", "true");
    let config = Config::load(&sources).unwrap();
    let notices = [
        "no store is configured: sessions are in .cloakroom/sessions.db",
        "the session cookie is sent without encryption; never deploy this",
    ];
    assert_eq!(config.notices(), notices);
    insta::assert_snapshot!(config);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "looking makes nothing");
}

#[test]
fn the_platforms_database_is_used_where_it_is_one_we_have() {
    let directory = tempfile::tempdir().unwrap();
    let load = |url: &str| Config::load(&sources(directory.path(), &[("DATABASE_URL", url)])).unwrap();
    let ours = load("sqlite://app.db?mode=rwc").to_string();
    assert!(ours.lines().any(|line| line.contains("sqlite:app.db") && line.ends_with("DATABASE_URL")), "{ours}");
    let theirs = load("mongodb://shop:hunter2@db/shop");
    assert!(theirs.to_string().contains("sqlite:.cloakroom/sessions.db"));
    assert_eq!(theirs.notices()[0], "DATABASE_URL is not used for sessions: there is no store `mongodb`");
}

#[test]
#[cfg(feature = "mysql")]
fn the_platforms_server_is_used_and_its_password_is_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let variables =
        [("DATABASE_URL", "mysql://shop:hunter2@db/shop?charset=utf8&ssl-ca=/etc/ca.pem"), ("REDIS_URL", "")];
    let config = Config::load(&sources(directory.path(), &variables)).unwrap();
    let printed = config.to_string();
    assert!(!printed.contains("hunter2") && config.notices().iter().all(|notice| !notice.contains("hunter2")));
    let row = printed.lines().find(|line| line.starts_with("store ")).unwrap();
    assert!(row.contains("mysql://shop:***@db/shop?…") && row.ends_with("environment variable DATABASE_URL"), "{row}");
}

#[test]
#[cfg(all(feature = "postgres", feature = "redis"))]
fn a_server_and_its_ledger_print_without_their_passwords() {
    let directory = tempfile::tempdir().unwrap();
    let variables = [
        ("CLOAKROOM_STORE", "redis+sentinel://shop:hunter2@a,b,c/shop"),
        ("CLOAKROOM_PREFIX", "shop:"),
        ("CLOAKROOM_DURABILITY", "epoch"),
        ("CLOAKROOM_LEDGER", "postgres://shop:hunter2@db/shop"),
        ("CLOAKROOM_KEYS", KEY),
    ];
    let config = Config::load(&sources(directory.path(), &variables)).unwrap();
    assert!(!config.to_string().contains("hunter2") && !format!("{config:?}").contains("hunter2"));
    insta::assert_snapshot!(config);
}

#[test]
#[cfg(unix)]
fn keys_in_a_file_that_others_can_read_are_worth_a_word() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cloakroom.toml");
    fs::write(&file, format!("keys = \"{KEY}\"")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let load = || Config::load(&sources(directory.path(), &[("CLOAKROOM_STORE", "memory")])).unwrap();
    assert_eq!(load().notices(), ["cloakroom.toml holds keys and is open to others: run `chmod 600 cloakroom.toml`"]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(load().notices().is_empty());
}

#[tokio::test]
async fn a_bearer_transport_is_in_force_and_prints_without_a_word_on_cookies() {
    let directory = tempfile::tempdir().unwrap();
    for (variables, request, response) in [
        (&[("CLOAKROOM_TRANSPORT", "bearer")][..], RequestHeader::Authorization, "x-session-token"),
        (
            &[("CLOAKROOM_TRANSPORT", "bearer"), ("CLOAKROOM_RESPONSE_HEADER", "X-New-Token")],
            RequestHeader::Authorization,
            "x-new-token",
        ),
        (&[("CLOAKROOM_TRANSPORT", "header:X-Shop")], RequestHeader::Named("x-shop"), "x-shop"),
    ] {
        let variables = [variables, &[("CLOAKROOM_STORE", "memory"), ("CLOAKROOM_KEYS", KEY)]].concat();
        let config = Config::load(&sources(directory.path(), &variables)).unwrap();
        let printed = config.to_string();
        assert!(
            printed.contains("environment variable CLOAKROOM_TRANSPORT") && !printed.contains("cookie."),
            "{printed}"
        );
        let line = printed.lines().find(|line| line.starts_with("response_header")).unwrap();
        assert!(line.to_ascii_lowercase().contains(response), "{line}");
        let sessions = Cloakroom::from_config(config).await.unwrap();
        let exchange = Exchange::new(sessions.manager().clone());
        assert_eq!(exchange.request_header(), request);
        assert_eq!(exchange.response_header(), ResponseHeader::Named(response));
        assert_eq!(sessions.manager().cookie_name(), None);
    }
}
