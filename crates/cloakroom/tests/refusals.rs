//! Every configuration that is refused, and the words it is refused with.
#![cfg(all(feature = "config", feature = "cookie", feature = "sqlite"))]
#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

use std::fs;
use std::path::Path;

use cloakroom::{Cloakroom, Config, Sources};
use tempfile::TempDir;

const KEY: &str = "4ZcMrgfzVX5AHjvkb+U4hGrKsK0l77m0GsA8/T57TJk=";

/// A directory, its files and an environment, and the message they are refused with.
struct Case {
    directory: TempDir,
    sources: Sources,
}

impl Case {
    fn new(variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut sources = Sources::new().in_directory(directory.path());
        for (name, value) in variables {
            sources = sources.with_variable(format!("CLOAKROOM_{name}"), value);
        }
        Self { directory, sources }
    }

    fn file(self, name: &str, text: &str) -> Self {
        fs::write(self.path().join(name), text).unwrap();
        self
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn refusal(&self) -> String {
        let error = Config::load(&self.sources).expect_err("must be refused");
        assert_eq!(format!("{error}"), format!("{error:?}"), "a `main` that returns it prints it readably");
        error.to_string()
    }
}

fn refusal(variables: &[(&str, &str)]) -> String {
    Case::new(variables).refusal()
}

#[test]
fn production_without_anything() {
    insta::assert_snapshot!(refusal(&[("ENVIRONMENT", "production")]));
}

#[test]
fn production_without_keys() {
    insta::assert_snapshot!(refusal(&[("ENVIRONMENT", "production"), ("STORE", "memory")]));
}

#[test]
fn an_empty_key() {
    insta::assert_snapshot!(refusal(&[("ENVIRONMENT", "production"), ("STORE", "memory"), ("KEYS", "")]));
}

#[test]
fn a_short_key() {
    insta::assert_snapshot!(refusal(&[("KEYS", "c2hvcnQ=")]));
}

#[test]
fn a_passphrase_for_a_key() {
    let message = refusal(&[("KEYS", "correct horse battery staple")]);
    assert!(!message.contains("horse"));
    insta::assert_snapshot!(message);
}

#[test]
fn a_placeholder_behind_a_good_key() {
    let message = refusal(&[("KEYS", &format!("{KEY},changeme"))]);
    assert!(!message.contains(KEY) && !message.contains("changeme"));
    insta::assert_snapshot!(message);
}

#[test]
fn the_same_key_twice() {
    let case = Case::new(&[]).file("cloakroom.toml", &format!("keys = [\"{KEY}\", \"{KEY}\"]"));
    let message = case.refusal();
    assert!(!message.contains(KEY));
    insta::assert_snapshot!(message);
}

#[test]
fn keys_in_two_places() {
    insta::assert_snapshot!(Case::new(&[("KEYS", KEY)]).file("cloakroom.toml", "key_file = \"keys\"").refusal());
}

#[test]
fn a_key_where_its_file_should_be_named() {
    for key in [KEY, KEY.trim_end_matches('='), "c2hvcnQgYnV0IHN0aWxsIGEgc2VjcmV0"] {
        let message = refusal(&[("KEY_FILE", key)]);
        assert!(!message.contains(key));
        assert_eq!(message, refusal(&[("KEY_FILE", KEY)]));
    }
    insta::assert_snapshot!(refusal(&[("KEY_FILE", KEY)]));
}

#[test]
fn a_key_in_any_other_setting_is_not_repeated() {
    for name in ["ENVIRONMENT", "STORE", "PROFILE", "IDLE", "MAX_RECORD", "OUTAGE", "COOKIE__SECURE", "SEAL", "KEY"] {
        let message = refusal(&[(name, KEY)]);
        assert!(!message.contains(KEY), "{message}");
    }
}

#[test]
fn a_key_file_that_is_missing() {
    insta::assert_snapshot!(refusal(&[("KEY_FILE", "secrets/cloakroom.keys")]));
}

#[test]
#[cfg(unix)]
fn a_key_file_that_others_can_read() {
    use std::os::unix::fs::PermissionsExt;

    let case = Case::new(&[("KEY_FILE", "keys")]).file("keys", KEY);
    for mode in [0o640, 0o604, 0o620, 0o666] {
        fs::set_permissions(case.path().join("keys"), fs::Permissions::from_mode(mode)).unwrap();
        assert!(Config::load(&case.sources).is_err(), "{mode:o}");
    }
    insta::assert_snapshot!(case.refusal());
    fs::set_permissions(case.path().join("keys"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(Config::load(&case.sources).is_ok());
}

#[test]
fn a_host_cookie_with_a_domain() {
    insta::assert_snapshot!(refusal(&[("COOKIE__DOMAIN", "example.org")]));
}

#[test]
fn same_site_none_without_secure() {
    let case = Case::new(&[]).file(
        "cloakroom.toml",
        "danger_insecure_cookie_for_localhost = true\n[cookie]\nsame_site = \"None\"\npartitioned = true\n",
    );
    insta::assert_snapshot!(case.refusal());
}

#[test]
fn a_cookie_without_secure() {
    insta::assert_snapshot!(refusal(&[("COOKIE__SECURE", "false")]));
}

#[test]
fn an_insecure_cookie_in_production() {
    insta::assert_snapshot!(refusal(&[
        ("ENVIRONMENT", "production"),
        ("STORE", "memory"),
        ("KEYS", KEY),
        ("DANGER_INSECURE_COOKIE_FOR_LOCALHOST", "true"),
    ]));
}

#[test]
fn remembering_for_over_400_days() {
    insta::assert_snapshot!(refusal(&[("REMEMBER", "401d")]));
}

#[test]
fn an_idle_timeout_over_the_absolute_one() {
    insta::assert_snapshot!(refusal(&[("IDLE", "8d")]));
}

#[test]
fn limits_that_break_every_rule() {
    insta::assert_snapshot!(refusal(&[
        ("IDLE", "0s"),
        ("ABSOLUTE", "500d"),
        ("REMEMBER", "9999d"),
        ("TOUCH_INTERVAL", "2d"),
        ("MAX_RECORD", "12"),
        ("TIMEOUT", "0s"),
    ]));
}

#[test]
fn a_duration_without_a_unit() {
    insta::assert_snapshot!(Case::new(&[]).file("cloakroom.toml", "idle = 30\nabsolute = \"a week\"\n").refusal());
}

#[test]
fn settings_that_do_not_exist() {
    let text = "stroe = \"memory\"\ncookie = \"id\"\n[session]\nmax = 5\n[telemetry]\nendpoint = \"x\"\n";
    insta::assert_snapshot!(Case::new(&[("COOKIE__SAMESITE", "lax")]).file("cloakroom.toml", text).refusal());
}

#[test]
fn values_of_the_wrong_shape() {
    let text = "store = [\"memory\", \"cookie\"]\nprofile = 2026-01-01\n[audience]\nname = \"shop\"\n";
    insta::assert_snapshot!(Case::new(&[]).file("cloakroom.toml", text).refusal());
}

#[test]
fn a_file_that_is_not_toml() {
    let case = Case::new(&[]).file("cloakroom.toml", &format!("store = \"memory\"\nkeys = [\"{KEY}\n"));
    let message = case.refusal();
    assert!(!message.contains(KEY));
    insta::assert_snapshot!(message);
}

#[test]
fn a_file_that_cannot_be_read() {
    let case = Case::new(&[]);
    fs::create_dir(case.path().join("cloakroom.toml")).unwrap();
    insta::assert_snapshot!(case.refusal());
}

#[test]
fn a_named_file_that_is_missing() {
    insta::assert_snapshot!(refusal(&[("CONFIG", "etc/sessions.toml")]));
}

#[test]
#[cfg(feature = "mysql")]
fn a_server_without_a_database() {
    let message = refusal(&[("STORE", "mysql://shop:hunter2@db")]);
    assert!(!message.contains("hunter2"));
    insta::assert_snapshot!(message);
}

#[test]
#[cfg(feature = "postgres")]
fn an_option_of_a_server_that_does_not_exist() {
    let message = refusal(&[("STORE", "postgres://shop:hunter2@db/shop?conections=8")]);
    assert!(!message.contains("hunter2"));
    insta::assert_snapshot!(message);
}

#[test]
#[cfg(feature = "redis")]
fn a_kind_of_redis_that_does_not_exist() {
    let message = refusal(&[("STORE", "redis+clutser://:hunter2@a,b")]);
    assert!(!message.contains("hunter2"));
    insta::assert_snapshot!(message);
}

#[test]
fn settings_about_servers_for_a_store_that_is_none() {
    insta::assert_snapshot!(refusal(&[
        ("STORE", "memory"),
        ("PREFIX", "shop:"),
        ("TABLE_PREFIX", "shop_"),
        ("CONNECTIONS", "8"),
        ("CONNECT_TIMEOUT", "1s"),
        ("STORE_CA", "ca.pem"),
        ("DURABILITY", "acked(1)"),
        ("MIGRATE", "false"),
    ]));
}

#[test]
#[cfg(feature = "redis")]
fn settings_of_databases_for_redis() {
    let variables = [("STORE", "redis://cache"), ("TABLE_PREFIX", "shop_"), ("CONNECTIONS", "8"), ("MIGRATE", "false")];
    insta::assert_snapshot!(refusal(&variables));
}

#[test]
#[cfg(feature = "mysql")]
fn settings_that_the_url_makes_as_well() {
    let case = Case::new(&[("STORE", "mysql://shop:hunter2@db/shop?connections=4&table_prefix=shop_")])
        .file("cloakroom.toml", "connections = 8\ntable_prefix = \"shop_\"\n");
    let message = case.refusal();
    assert!(!message.contains("hunter2"));
    insta::assert_snapshot!(message);
}

#[test]
#[cfg(feature = "mysql")]
fn settings_of_a_server_that_it_cannot_have() {
    insta::assert_snapshot!(refusal(&[
        ("STORE", "mysql://shop:hunter2@db/shop"),
        ("TABLE_PREFIX", "Shop Sessions"),
        ("CONNECTIONS", "none"),
        ("CONNECT_TIMEOUT", "0s"),
        ("MIGRATE", "later"),
    ]));
}

#[test]
#[cfg(feature = "redis")]
fn a_durability_that_does_not_exist() {
    insta::assert_snapshot!(refusal(&[("STORE", "redis://cache"), ("DURABILITY", "always"), ("PREFIX", "a{b}")]));
}

#[test]
#[cfg(feature = "redis")]
fn a_ca_for_a_connection_that_is_not_encrypted() {
    let message = refusal(&[("STORE", "redis://cache"), ("STORE_CA", "/etc/ca.pem")]);
    insta::assert_snapshot!(message);
}

#[test]
#[cfg(feature = "redis")]
fn epoch_without_a_ledger() {
    insta::assert_snapshot!(refusal(&[("STORE", "redis://cache"), ("DURABILITY", "epoch")]));
}

#[test]
#[cfg(feature = "redis")]
fn a_ledger_without_epoch() {
    insta::assert_snapshot!(refusal(&[("STORE", "redis://cache"), ("LEDGER", "sqlite:ledger.db")]));
}

#[test]
#[cfg(feature = "redis")]
fn a_ledger_that_is_none() {
    let refuse = |ledger: &str| {
        let message = refusal(&[("STORE", "redis://:hunter2@cache"), ("DURABILITY", "epoch"), ("LEDGER", ledger)]);
        assert!(!message.contains("hunter2"), "{message}");
        message
    };
    insta::assert_snapshot!(refuse("redis://:hunter2@cache"));
    insta::assert_snapshot!(refuse("memory"));
    assert!(refuse("cookie").contains("ledger (environment variable CLOAKROOM_LEDGER)"));
    assert!(refuse("hunter2").contains("ledger (environment variable CLOAKROOM_LEDGER)"));
}

#[test]
#[cfg(feature = "redis")]
fn a_ledger_for_the_list_of_sealed_cookies() {
    insta::assert_snapshot!(refusal(&[
        ("STORE", "cookie+redis://:hunter2@cache"),
        ("DURABILITY", "epoch"),
        ("LEDGER", "sqlite:ledger.db"),
    ]));
}

#[test]
#[cfg(all(feature = "postgres", feature = "redis"))]
fn two_servers_of_the_platform() {
    let mut case = Case::new(&[]);
    for (name, url) in [("REDIS_URL", "redis://:hunter2@cache"), ("DATABASE_URL", "postgres://shop:hunter2@db/shop")] {
        case.sources = case.sources.with_variable(name, url);
    }
    let message = case.refusal();
    assert!(!message.contains("hunter2"));
    insta::assert_snapshot!(message);
}

/// What a store says that nobody answers, in every form of its URL.
#[tokio::test]
#[cfg(all(feature = "mysql", feature = "postgres", feature = "redis"))]
async fn servers_that_do_not_answer() {
    for place in ["127.0.0.1:1", "cloakroom.invalid:6379"] {
        for (form, rest) in [
            ("redis", ""),
            ("rediss", ""),
            ("redis+sentinel", "/shop"),
            ("redis+cluster", ""),
            ("postgres", "/shop"),
            ("mysql", "/shop"),
        ] {
            let url = format!("{form}://shop:hunter2@{place}{rest}");
            let case = Case::new(&[("STORE", &url), ("KEYS", KEY), ("CONNECT_TIMEOUT", "1s")]);
            let config = Config::load(&case.sources).unwrap();
            assert!(!config.to_string().contains("hunter2") && !format!("{config:?}").contains("hunter2"), "{config}");
            let error = Cloakroom::from_config(config).await.unwrap_err();
            assert_eq!(error.settings().collect::<Vec<_>>(), ["store"], "{error}");
            let (message, host) = (error.to_string(), place.split(':').next().unwrap());
            assert!(message.contains("store (environment variable CLOAKROOM_STORE)"), "{message}");
            assert!(message.contains(host) && !message.contains("hunter2"), "{message}");
            assert!(!message.contains("write a value within the limits"), "it says what to do: {message}");
        }
    }
}

#[test]
fn a_store_that_does_not_exist() {
    insta::assert_snapshot!(refusal(&[("STORE", "mongodb://localhost")]));
}

#[test]
fn a_session_limit_without_a_store() {
    insta::assert_snapshot!(refusal(&[("STORE", "cookie"), ("SESSIONS__MAX", "3")]));
}

#[test]
fn settings_that_would_do_nothing() {
    insta::assert_snapshot!(refusal(&[("SEAL", "aes256gcmsiv"), ("SESSIONS__EXCESS", "reject"), ("STORE", "memory")]));
}

#[test]
fn a_signed_cookie_without_the_danger() {
    insta::assert_snapshot!(refusal(&[("STORE", "cookie"), ("SEAL", "signed")]));
}

#[test]
fn everything_at_once() {
    let text = "environment = \"staging\"\nprofile = \"aal4\"\nkeys = \"changeme\"\noutage = \"open\"\nidle = \"1w\"\n";
    insta::assert_snapshot!(
        Case::new(&[("COOKIE__NAME", "my cookie"), ("COOKIE__PATH", "app"), ("SESSIONS__MAX", "0")])
            .file("cloakroom.toml", text)
            .refusal()
    );
}

#[tokio::test]
async fn a_database_in_a_directory_that_does_not_exist() {
    let case = Case::new(&[("STORE", "sqlite:missing/sessions.db"), ("KEYS", KEY)]);
    let error = Cloakroom::from_config(Config::load(&case.sources).unwrap()).await.unwrap_err();
    insta::assert_snapshot!(error.to_string().replace(&case.path().display().to_string(), "[directory]"));
}

#[tokio::test]
#[cfg(unix)]
async fn a_place_for_the_generated_key_that_others_can_read() {
    use std::os::unix::fs::PermissionsExt;

    let case = Case::new(&[("STORE", "memory")]);
    fs::create_dir(case.path().join(".cloakroom")).unwrap();
    let case = case.file(".cloakroom/key", "");
    let file = case.path().join(".cloakroom/key");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Cloakroom::from_config(Config::load(&case.sources).unwrap()).await.unwrap_err();
    assert_eq!(fs::read(&file).unwrap(), b"", "no key is written where others would read it");
    insta::assert_snapshot!(error);
}

#[test]
fn a_transport_that_does_not_exist() {
    insta::assert_snapshot!(refusal(&[("TRANSPORT", "header"), ("RESPONSE_HEADER", "X-Token")]));
}

#[test]
fn a_transport_in_a_header_that_is_not_free() {
    insta::assert_snapshot!(refusal(&[("TRANSPORT", "header:Authorization"), ("COOKIE__NAME", "id")]));
    for name in ["Cookie", "set-cookie", "Host", "Proxy-Authorization", "X-Forwarded-For", "a b", ""] {
        assert!(refusal(&[("TRANSPORT", &format!("header:{name}"))]).contains("X-Session-Token"), "{name}");
        assert!(refusal(&[("TRANSPORT", "bearer"), ("RESPONSE_HEADER", name)]).contains("instead"), "{name}");
    }
}

#[test]
fn settings_of_cookies_for_a_transport_without_them() {
    insta::assert_snapshot!(refusal(&[
        ("TRANSPORT", "bearer"),
        ("RESPONSE_HEADER", "Set-Cookie"),
        ("COOKIE__NAME", "__Host-id"),
        ("COOKIE__SECURE", "true"),
        ("DANGER_INSECURE_COOKIE_FOR_LOCALHOST", "true"),
    ]));
}

#[test]
fn a_response_header_for_cookies() {
    insta::assert_snapshot!(refusal(&[("RESPONSE_HEADER", "X-Token")]));
}
