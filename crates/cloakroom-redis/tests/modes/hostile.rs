use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom_core::clock::SystemClock;
use cloakroom_core::{EndReason, Load, SessionStore as _, StoreErrorKind, WriteOutcome};
use cloakroom_redis::RedisStore;
use cloakroom_services::shared;
use futures_util::FutureExt as _;

use crate::fake::Fake;
use crate::{assert_live, file, new_id, open, options};

/// What the next packet is answered, `None` for what is right; whether the connection ends then.
type Lie = Arc<Mutex<Option<(Lies, bool)>>>;

/// From the right answer and the answer to the `PING` to what is sent.
type Lies = Box<dyn FnOnce(&[u8], &[u8]) -> Vec<u8> + Send>;

type Liar = fn(&[u8], &[u8]) -> Vec<u8>;

/// Nothing is there: the right answer to `GET`.
const NOTHING: &[u8] = b"_\r\n";

async fn liar() -> (Fake, Lie, RedisStore) {
    let lie = Lie::default();
    let server = {
        let lie = Arc::clone(&lie);
        Fake::start(move |mut client| {
            let lie = Arc::clone(&lie);
            async move {
                if !client.greet().await {
                    return;
                }
                while client.read().await {
                    let lie = lie.lock().unwrap().take();
                    let (answer, ends) = match lie {
                        Some((lie, ends)) => (lie(NOTHING, &client.marker()), ends),
                        None => ([NOTHING, &client.marker()].concat(), false),
                    };
                    client.send(&answer).await;
                    if ends {
                        return;
                    }
                }
            }
        })
        .await
    };
    let store = options(&server.url())
        .with_clock(Arc::new(SystemClock))
        .with_timeout(Duration::from_millis(100))
        .open()
        .await
        .unwrap();
    (server, lie, store)
}

fn tell(lie: &Lie, ends: bool, lies: impl FnOnce(&[u8], &[u8]) -> Vec<u8> + Send + 'static) {
    *lie.lock().unwrap() = Some((Box::new(lies), ends));
}

#[tokio::test]
async fn replies_that_are_too_many_repeated_swapped_or_those_of_others_are_never_used() {
    let (_server, lie, store) = liar().await;
    let liars: [Liar; 5] = [
        |right, pong| [b"$5\r\nother\r\n", right, pong].concat(),
        |right, pong| [right, right, pong].concat(),
        |right, pong| [pong, right].concat(),
        |right, _| [right, b"$6\r\n999999\r\n"].concat(),
        |right, _| [right, right].concat(),
    ];
    for liar in liars {
        assert_eq!(store.load(&new_id()).await.unwrap(), Load::Gone(None));
        tell(&lie, false, liar);
        let error = store.load(&new_id()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
        tell(&lie, false, liar);
        let error = store.delete(&new_id(), EndReason::Destroyed).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Corrupt, WriteOutcome::Unknown), "{error}");
    }
    assert_eq!(store.load(&new_id()).await.unwrap(), Load::Gone(None));
}

#[tokio::test]
async fn replies_that_are_missing_are_waited_for_no_longer_than_the_timeout() {
    let (_server, lie, store) = liar().await;
    tell(&lie, false, |_, pong| pong.to_vec());
    let error = store.load(&new_id()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout, "{error}");
    tell(&lie, false, |right, _| right.to_vec());
    let error = store.delete(&new_id(), EndReason::Destroyed).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Timeout, WriteOutcome::Unknown), "{error}");
    assert_eq!(store.load(&new_id()).await.unwrap(), Load::Gone(None));
}

#[tokio::test]
async fn what_is_no_answer_of_a_redis_is_an_error_and_the_next_call_is_answered() {
    let (_server, lie, store) = liar().await;
    let deep = "*1\r\n".repeat(5000);
    let garbage = [
        "$99999999999999999\r\n",
        "$9223372036854775807\r\n",
        "$-7\r\n",
        "*2147483647\r\n",
        "*-9\r\n",
        "%9223372036854775807\r\n",
        "%-1\r\n",
        "|9223372036854775807\r\n",
        ">3\r\n:1\r\n:2\r\n:3\r\n",
        "~99999999999\r\n",
        "=5\r\nhello\r\n",
        "(notanumber\r\n",
        ":99999999999999999999\r\n",
        "#x\r\n",
        ",nan?\r\n",
        "!3\r\nERR\r\n",
        "-\r\n",
        "+\r\n",
        "\r\n",
        "\u{0}\u{ff}\u{1}",
        "HTTP/1.1 200 OK\r\n\r\n",
        "|1\r\n+a\r\n+b\r\n",
        "-ASK 99999 :\r\n",
        "-MOVED 1 nowhere:0\r\n",
        "*1\r\n:1\r\n",
        "%1\r\n+a\r\n+b\r\n",
        &deep,
    ];
    for text in garbage {
        let bytes = text.as_bytes().to_vec();
        tell(&lie, true, move |_, pong| [&bytes, pong].concat());
        match store.delete(&new_id(), EndReason::Destroyed).await {
            Err(_) => {}
            Ok(answer) => panic!("{text:?} was taken for {answer:?}"),
        }
        assert_eq!(store.load(&new_id()).await.unwrap(), Load::Gone(None), "after {text:?}");
    }
}

#[tokio::test]
async fn a_reply_cut_at_any_byte_is_an_error_and_the_next_call_is_answered() {
    let (_server, lie, store) = liar().await;
    let whole = NOTHING.len() + b"$1\r\n0\r\n".len();
    for cut in 0..whole {
        tell(&lie, true, move |right, pong| [right, pong].concat()[..cut].to_vec());
        // A read is sent a second time, over a new connection.
        assert_eq!(store.load(&new_id()).await.unwrap(), Load::Gone(None), "cut at {cut}");
        tell(&lie, true, move |right, pong| [right, pong].concat()[..cut].to_vec());
        let error = store.delete(&new_id(), EndReason::Destroyed).await.unwrap_err();
        assert_eq!(error.outcome(), WriteOutcome::Unknown, "cut at {cut}: {error}");
        assert_eq!(store.load(&new_id()).await.unwrap(), Load::Gone(None), "cut at {cut}");
    }
}

#[tokio::test]
async fn after_a_thousand_dropped_calls_everybody_gets_their_own() {
    let store = open(&shared::redis()).await;
    let mut sessions = Vec::new();
    for _ in 0..50 {
        sessions.push(file(&store).await);
    }
    for round in 0..1000 {
        let (id, record) = &sessions[round % sessions.len()];
        let mut load = store.load(id);
        for _ in 0..round % 5 {
            if (&mut load).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(load);
        if round % 10 == 0 {
            assert_live(store.load(id).await.unwrap(), record);
        }
    }
    let loads = futures_util::future::join_all(sessions.iter().map(|(id, _)| store.load(id))).await;
    for ((_, record), load) in sessions.iter().zip(loads) {
        assert_live(load.unwrap(), record);
    }
}
