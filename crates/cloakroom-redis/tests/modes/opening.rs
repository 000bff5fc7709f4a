use std::time::Duration;

use cloakroom_core::{Create, SessionStore as _, StoreErrorKind, WriteOutcome};
use cloakroom_redis::{RedisOpenError, RedisOpenErrorKind, RedisOptions};
use cloakroom_services::{Certificates, Redis, shared};

use crate::fake::Fake;
use crate::{assert_live, file, new_id, open, options, record_of};

async fn refused(url: &str) -> RedisOpenError {
    match options(url).with_connect_timeout(Duration::from_secs(1)).open().await {
        Ok(_) => panic!("this was opened: {url}"),
        Err(error) => error,
    }
}

#[track_caller]
fn assert_says(error: &RedisOpenError, kind: RedisOpenErrorKind, words: &str) {
    assert_eq!(error.kind(), kind, "{error} / {error:?}");
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
async fn a_server_alone_a_unix_socket_and_tls_with_least_rights_are_opened() {
    for url in [shared::redis(), shared::redis_unix(), shared::redis_tls()] {
        let store = open(&url).await;
        let (id, record) = file(&store).await;
        assert_live(store.load(&id).await.unwrap(), &record);
        store.close().await;
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let server = Redis::builder().tls().start().unwrap();
    let other = Certificates::create().unwrap();
    let url = server.url();
    let (place, _) = url.split_once('?').unwrap();
    let error = refused(&format!("{place}?ca={}", other.ca().display())).await;
    assert_says(&error, RedisOpenErrorKind::Tls, "`?ca=/path/of/ca.pem`");
    // The authorities of the system do not know it either.
    assert_says(&refused(place).await, RedisOpenErrorKind::Tls, "certificate");
    // The right authority, and a name that the certificate does not have.
    let elsewhere = url.replace("127.0.0.1", "127.0.0.2");
    let forwarded = server.port();
    let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut from, _) = listener.accept().await.unwrap();
        let mut to = tokio::net::TcpStream::connect(("127.0.0.1", forwarded)).await.unwrap();
        drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
    });
    let error = refused(&elsewhere.replace(&format!(":{forwarded}"), &format!(":{port}"))).await;
    assert_says(&error, RedisOpenErrorKind::Tls, "name the host of the URL");
}

#[tokio::test]
async fn tls_and_no_tls_do_not_meet() {
    let secret = Redis::builder().tls().start().unwrap();
    let url = secret.url().replace("rediss://", "redis://");
    let (plain, _) = url.split_once('?').unwrap();
    assert_says(&refused(plain).await, RedisOpenErrorKind::Refused, "rediss://");

    let open = Redis::start().unwrap();
    let ca = secret.certificates().unwrap().ca();
    let url = format!("{}?ca={}", open.url().replace("redis://", "rediss://"), ca.display());
    // A server without TLS takes the handshake for the beginning of a line, and mostly says nothing.
    let error = refused(&url).await;
    assert!(error.to_string().contains("speak TLS"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_the_server_asks_for_one() {
    let authority = Certificates::create().unwrap();
    let server = Redis::builder().tls().config("tls-auth-clients optional").start().unwrap();
    server.command(&["CONFIG", "SET", "tls-ca-cert-file", &authority.ca().display().to_string()]).unwrap();
    server.command(&["CONFIG", "SET", "tls-auth-clients", "yes"]).unwrap();
    let error = refused(&server.url()).await;
    assert!(matches!(error.kind(), RedisOpenErrorKind::Tls | RedisOpenErrorKind::Refused), "{error}");
    let store =
        options(&server.url()).with_client_certificate(authority.certificate(), authority.key()).open().await.unwrap();
    file(&store).await;
    let error = refused(&format!("{}&cert=/nowhere.pem&key=/nowhere.key", server.url())).await;
    assert_says(&error, RedisOpenErrorKind::File, "/nowhere.pem");
}

#[tokio::test]
async fn wrong_credentials_are_told_apart_and_never_repeated() {
    let server = Redis::start().unwrap();
    let port = server.port();
    for (userinfo, words) in [
        ("default:hunter2@", "refuses the user name or the password"),
        (":hunter2@", "refuses the user name or the password"),
        ("nobody:hunter2@", "refuses the user name or the password"),
        ("", "asks for a password"),
    ] {
        let error = refused(&format!("redis://{userinfo}127.0.0.1:{port}")).await;
        assert_says(&error, RedisOpenErrorKind::Credentials, words);
        let whole = format!("{error} {error:?} {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(!whole.contains("hunter2"), "{whole}");
    }
}

#[tokio::test]
async fn a_missing_right_is_named_with_the_line_that_grants_it() {
    let server = Redis::start().unwrap();
    let url = format!("redis://app:pw@127.0.0.1:{}", server.port());
    server.command(&["ACL", "SETUSER", "app", "on", ">pw", "~*", "-@all", "+get"]).unwrap();
    assert_says(&refused(&url).await, RedisOpenErrorKind::Permission, "+ping");

    server.command(&["ACL", "SETUSER", "app", "+ping", "+time"]).unwrap();
    let store = open(&url).await;
    let id = new_id();
    let error = store.create(&id, &record_of(&id), None).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Misconfigured, WriteOutcome::NotDone));
    assert!(error.to_string().contains("+evalsha"), "{error}");

    server.command(&["ACL", "SETUSER", "app", "+@all", "resetkeys", "~other:*"]).unwrap();
    let error = store.load(&id).await.unwrap_err();
    assert!(error.to_string().contains("pattern of the prefix"), "{error}");

    let rule = cloakroom_redis::ACL_RULE.replace("~cloakroom:*", "~cloakroom*");
    let words: Vec<_> = rule.split_whitespace().collect();
    server.command(&[&["ACL", "SETUSER", "app", "reset", "on", ">pw"], &words[..]].concat()).unwrap();
    let (id, record) = file(&store).await;
    assert_live(store.load(&id).await.unwrap(), &record);
}

#[tokio::test]
async fn a_server_of_another_kind_is_named() {
    let alone = Redis::start().unwrap();
    let node = Redis::builder().config("cluster-enabled yes").start().unwrap();
    let at = |server: &Redis, form: &str, tail: &str| {
        format!("{form}://default:{}@127.0.0.1:{}{tail}", server.password(), server.port())
    };
    let error = refused(&at(&node, "redis", "")).await;
    assert_says(&error, RedisOpenErrorKind::WrongMode, "redis+cluster://");
    let error = refused(&at(&alone, "redis+cluster", "")).await;
    assert_says(&error, RedisOpenErrorKind::WrongMode, "write redis:// instead");
    let tail = format!("/service?sentinel_password={}", alone.password());
    let error = refused(&at(&alone, "redis+sentinel", &tail)).await;
    assert_says(&error, RedisOpenErrorKind::WrongMode, "no Sentinel");
    let error = refused(&at(&node, "redis+cluster", "")).await;
    assert_says(&error, RedisOpenErrorKind::Refused, "has no slots");
    alone.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    assert_says(&refused(&alone.url()).await, RedisOpenErrorKind::NotPrimary, "replica");
    alone.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let error = refused(&at(&alone, "redis", "/99")).await;
    assert_says(&error, RedisOpenErrorKind::Refused, "no database 99");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_from_a_name_that_does_not_exist() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It takes connections and says nothing.
    let error = options(&format!("redis://127.0.0.1:{port}"))
        .with_connect_timeout(Duration::from_millis(200))
        .open()
        .await
        .unwrap_err();
    assert_says(&error, RedisOpenErrorKind::Unreachable, "within 200ms");
    drop(listener);
    let error = refused(&format!("redis://127.0.0.1:{port}")).await;
    assert_says(&error, RedisOpenErrorKind::Unreachable, "nothing listens there");
    let error = refused("redis+unix:///nowhere/redis.socket").await;
    assert_says(&error, RedisOpenErrorKind::Unreachable, "no such socket");
    let error = refused("redis://name.invalid:6379").await;
    assert_says(&error, RedisOpenErrorKind::UnknownHost, "cannot be resolved");
}

#[tokio::test]
async fn protected_mode_an_old_server_and_no_redis_at_all_are_named() {
    let denied = Fake::start(|mut client| async move {
        // Said at once, before it is asked anything.
        client.send(b"-DENIED Redis is running in protected mode because...\r\n").await;
        client.read().await;
    });
    assert_says(&refused(&denied.await.url()).await, RedisOpenErrorKind::Credentials, "protected mode");

    let old = Fake::start(|mut client| async move {
        client.read().await;
        let marker = client.marker();
        client.send(&[&Fake::hello("6.0.16")[..], &marker].concat()).await;
        client.read().await;
    });
    assert_says(&refused(&old.await.url()).await, RedisOpenErrorKind::TooOld, "6.0.16");

    let older = Fake::start(|mut client| async move {
        client.read().await;
        let marker = client.marker();
        client
            .send(&[b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n", &marker[..]].concat())
            .await;
        client.read().await;
    });
    assert_says(&refused(&older.await.url()).await, RedisOpenErrorKind::TooOld, "Redis 6.2");

    let web = Fake::start(|mut client| async move {
        client.read().await;
        client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    assert_says(&refused(&web.await.url()).await, RedisOpenErrorKind::Refused, "does not greet like a Redis");
}

#[tokio::test]
async fn nothing_without_the_prefix_is_touched() {
    let server = Redis::start().unwrap();
    server.command(&["SET", "mine", "kept"]).unwrap();
    let url = server.url();
    let one = RedisOptions::new(&url).unwrap().with_prefix("one:").unwrap().open().await.unwrap();
    let two = RedisOptions::new(&url).unwrap().with_prefix("two:").unwrap().open().await.unwrap();
    let (id, record) = file(&one).await;
    assert!(two.load(&id).await.unwrap().live().is_none());
    assert!(matches!(two.create(&id, &record, None).await.unwrap(), Create::Created { .. }));
    let keys = server.command(&["KEYS", "*"]).unwrap();
    let strangers: Vec<_> =
        keys.lines().filter(|key| *key != "mine" && !key.starts_with("one:") && !key.starts_with("two:")).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    assert_eq!(server.command(&["GET", "mine"]).unwrap(), "kept");
}
