//! Callers that leave, at every await of every verb.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use cloakroom_core::{Create, Principal, Record, Revision, SessionId, SessionStore, Stored};

use crate::sessions::{new_id, principal, record};
use crate::stores::{Stores, on_every_store};
use crate::verbs::{Act, Case, Left, Said};

const OTHERS: usize = 1000;
const READERS: usize = 20;

on_every_store!(a_call_dropped_at_any_await_is_done_or_not_and_a_thousand_others_read_their_own);

async fn a_call_dropped_at_any_await_is_done_or_not_and_a_thousand_others_read_their_own(stores: Stores) {
    let others = Arc::new(others(&stores.one).await);
    for act in Act::ALL {
        for polls in 1.. {
            assert!(polls < 100, "{act:?} is polled without end");
            let case = Case::new(act, polls, &*stores.one).await;
            let whole = dropped_after(polls, case.run(&*stores.one)).await;
            read_all(&stores.one, &others).await;
            let left = case.left(&*stores.two).await;
            let Some(said) = whole else { continue };
            assert_eq!(said.unwrap(), Said::Right, "{act:?}");
            assert!(left == Left::New || !act.writes(), "{act:?}");
            break;
        }
    }
}

/// Polls a future so many times, as it is woken, and drops it.
async fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn others(store: &Arc<dyn SessionStore>) -> Vec<(SessionId, Record)> {
    let owner = |n: usize| -> Principal { principal(&format!("other{}", n % READERS)) };
    let tasks: Vec<_> = (0..OTHERS)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let (id, record) = (new_id(&owner(n)), record(&owner(n)));
                assert!(matches!(store.create(&id, &record, None).await.unwrap(), Create::Created { .. }));
                (id, record)
            })
        })
        .collect();
    let mut others = Vec::new();
    for task in tasks {
        others.push(task.await.unwrap());
    }
    others
}

/// Each gets their own.
async fn read_all(store: &Arc<dyn SessionStore>, others: &Arc<Vec<(SessionId, Record)>>) {
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let (store, others) = (store.clone(), others.clone());
            tokio::spawn(async move {
                for (id, record) in others.iter().skip(reader).step_by(READERS) {
                    let found = store.load(id).await.unwrap().live();
                    assert_eq!(found, Some(Stored { record: record.clone(), revision: Revision::FIRST }));
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
}
