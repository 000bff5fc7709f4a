use std::time::Duration;

use cloakroom_redis::{RedisDurability, RedisOptions};

#[track_caller]
fn refused(url: &str) -> String {
    match RedisOptions::new(url) {
        Ok(options) => panic!("{url} was taken: {options:?}"),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn shown(url: &str) -> String {
    format!("{:?}", RedisOptions::new(url).unwrap())
}

#[test]
fn every_form_is_taken_apart() {
    for (url, target) in [
        ("redis://h", "\"h:6379\""),
        ("valkey://h:7000/3", "\"h:7000\""),
        ("redis://[::1]:7000", "\"[::1]:7000\""),
        ("redis+unix:///run/redis.socket?db=2", "\"/run/redis.socket\""),
        ("redis+unix://u:p@/run/redis.socket", "\"/run/redis.socket\""),
        ("redis+sentinel://a,b:1/main", "\"main at a:26379,b:1\""),
        ("rediss+sentinel://u:p@a:1/main/", ""),
        ("rediss+cluster://u:p@a:1,b:2", "\"a:1,b:2\""),
        ("valkeys+cluster://a", "\"a:6379\""),
        ("valkey+unix:///s", "\"/s\""),
    ] {
        assert!(shown(url).contains(target), "{url}: {}", shown(url));
    }
    assert!(shown("rediss://h").contains("tls: Some"));
    assert!(shown("redis://h").contains("tls: None"));
    assert!(shown("redis://h/3").contains("database: 3"));
    let options = shown(
        "redis://h?prefix=shop:&durability=acked(2,500ms)&connect_timeout=1s&timeout=250ms&client_name=shop&tombstones=2h\
         &queue=9",
    );
    for part in ["\"shop:\"", "replicas: 2", "500ms", "connect_timeout: 1s", "timeout: 250ms", "7200s", "queue: 9"] {
        assert!(options.contains(part), "{part}: {options}");
    }
}

#[test]
fn a_mistake_is_refused_with_what_to_write_instead() {
    for (url, words) in [
        ("h:6379", "redis://host:port"),
        ("http://h", "redis+cluster://host:port"),
        ("redis://", "lacks the name"),
        ("redis://h:port", "1 to 65535"),
        ("redis://h:0", "1 to 65535"),
        ("redis://a,b", "redis+sentinel://"),
        ("redis://h/first", "a number"),
        ("redis://h/1?db=2", "twice"),
        ("redis+sentinel://h", "SENTINEL MASTERS"),
        ("redis+cluster://h/1", "no databases"),
        ("redis+cluster://h?db=1", "no databases"),
        ("redis+unix://run/socket", "three slashes"),
        ("redis://h?ca=/x.pem", "rediss://"),
        ("rediss://h?cert=/x.pem", "both `cert` and `key`"),
        ("redis://h?prefx=a:", "did you mean `prefix`?"),
        ("redis://h?zzzz=a", "the options are prefix, durability"),
        ("redis://h?timeout=soon", "`250ms`"),
        ("redis://h?timeout=0s", "`250ms`"),
        ("redis://h?durability=epoch", "acked(2,500ms)"),
        ("redis://h?durability=acked(0)", "acked(2,500ms)"),
        ("redis://h?queue=0", "from 1 on"),
        ("redis://h?prefix=", "must not be empty"),
        ("redis://h?prefix=%7Ba%7D", "braces"),
        ("redis://h?prefix=a%00", "control characters"),
        ("redis://h?prefix=a*", "patterns"),
        ("redis://h?client_name=a%20b", "without spaces"),
        ("redis://h?sentinel_password=x", "redis+sentinel://"),
        ("redis://user@h", "user:password@"),
        ("redis://u:%zz@h", "%25"),
        ("redis://h?timeout=1s&timeout=2s", "twice"),
    ] {
        let error = refused(url);
        assert!(error.contains(words), "{url}: {error}");
    }
}

#[test]
fn a_password_is_neither_shown_nor_repeated_however_it_is_written() {
    const SECRET: &str = "hunter2";
    for url in [
        "redis://u:hunter2@h:x",
        "redis://u:hun@hunter2@h",
        "redis://u:a/hunter2@h",
        "redis://u:a?hunter2@h",
        "redis://u:a#hunter2@h",
        "redis://u:a?hunter2=1@h",
        "redis://u:hunter2",
        "hunter2://h",
        "redis:/u:hunter2@h",
        "redis://u:hunter2@a,b",
        "redis://u:hunter2@h?nonsense=1",
        "redis+sentinel://u:hunter2@h",
    ] {
        let error = refused(url);
        assert!(!error.contains(SECRET), "{url}: {error}");
    }
    let options = RedisOptions::new("redis+sentinel://u:hunter2@h/s?sentinel_password=hunter2").unwrap();
    assert!(!format!("{options:?}").contains(SECRET));
    let options = options.with_credentials("u", "hunter2");
    assert!(!format!("{options:?} {options:#?}").contains(SECRET));
}

#[test]
fn builders_do_what_the_url_does() {
    let acked = RedisDurability::Acked { replicas: 0, timeout: Duration::ZERO };
    let options = RedisOptions::new("redis://h")
        .unwrap()
        .with_durability(acked)
        .with_ca_file("/ca.pem")
        .with_client_certificate("/c.pem", "/c.key")
        .with_queue(0);
    let shown = format!("{options:?}");
    for part in ["replicas: 1", "timeout: 1ms", "/ca.pem", "/c.key", "queue: 1"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}
