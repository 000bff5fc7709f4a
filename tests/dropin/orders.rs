//! Every order in which the store calls of two requests can come, one of which signs out.

use std::sync::Arc;

use cloakroom_axum::TowerSessionsStore;
use serde_json::json;
use tower_sessions_core::{Expiry, Session};

use crate::world::{HOUR, World, on_every_store};

on_every_store!(
    no_order_of_a_save_and_a_logout_brings_a_session_back,
    no_order_of_a_cycle_and_a_logout_carries_a_session_over_its_end,
    saves_and_a_logout_that_run_at_once_leave_nothing,
);

/// All ways to put `a` steps of one request and `b` of another in order; `true` is a step of the first.
fn orders(a: usize, b: usize) -> Vec<Vec<bool>> {
    match (a, b) {
        (0, b) => vec![vec![false; b]],
        (a, 0) => vec![vec![true; a]],
        (a, b) => {
            let first = orders(a - 1, b).into_iter().map(|rest| [vec![true], rest].concat());
            let second = orders(a, b - 1).into_iter().map(|rest| [vec![false], rest].concat());
            first.chain(second).collect()
        }
    }
}

fn session(world: &World, id: Option<tower_sessions_core::session::Id>) -> Session {
    let store = TowerSessionsStore::of(&world.manager).unwrap();
    Session::new(id, Arc::new(store), Some(Expiry::AtDateTime((world.now() + HOUR).into())))
}

async fn started(world: &World, user: &str) -> tower_sessions_core::session::Id {
    let session = session(world, None);
    session.insert_value("user", json!(user)).await.unwrap();
    session.save().await.unwrap();
    session.id().unwrap()
}

async fn no_order_of_a_save_and_a_logout_brings_a_session_back(world: World) {
    for (n, order) in orders(2, 2).into_iter().enumerate() {
        let user = format!("user-{n}");
        let id = started(&world, &user).await;
        let (slow, logout) = (session(&world, Some(id)), session(&world, Some(id)));
        let (mut slow_steps, mut logout_steps) = (0, 0);
        for slow_is_next in &order {
            if *slow_is_next {
                slow_steps += 1;
                match slow_steps {
                    1 => slow.load().await.unwrap(),
                    _ => {
                        slow.insert("seen", 1).await.unwrap();
                        // Refused or not: what counts is what is there afterwards.
                        drop(slow.save().await);
                    }
                }
            } else {
                logout_steps += 1;
                match logout_steps {
                    1 => logout.load().await.unwrap(),
                    _ => logout.flush().await.unwrap(),
                }
            }
        }
        assert_eq!(world.holding("user", &format!("\"{user}\"")).await, 0, "{order:?}");
        assert_eq!(session(&world, Some(id)).get_value("user").await.unwrap(), None, "{order:?}");
    }
}

async fn no_order_of_a_cycle_and_a_logout_carries_a_session_over_its_end(world: World) {
    for (n, order) in orders(3, 2).into_iter().enumerate() {
        let user = format!("user-{n}");
        let id = started(&world, &user).await;
        let (cycling, logout) = (session(&world, Some(id)), session(&world, Some(id)));
        let (mut cycling_steps, mut logout_steps) = (0, 0);
        let mut signed_out_before_the_new_one = false;
        for cycling_is_next in &order {
            if *cycling_is_next {
                cycling_steps += 1;
                match cycling_steps {
                    1 => cycling.load().await.unwrap(),
                    2 => cycling.cycle_id().await.unwrap(),
                    _ => {
                        signed_out_before_the_new_one = logout_steps == 2;
                        drop(cycling.save().await);
                    }
                }
            } else {
                logout_steps += 1;
                match logout_steps {
                    1 => logout.load().await.unwrap(),
                    _ => logout.flush().await.unwrap(),
                }
            }
        }
        let left = world.holding("user", &format!("\"{user}\"")).await;
        // A logout that comes after the whole cycle finds nothing under its id: the limit that is documented.
        assert_eq!(left, usize::from(!signed_out_before_the_new_one), "{order:?}");
        assert_eq!(session(&world, Some(id)).get_value("user").await.unwrap(), None, "{order:?}");
    }
}

async fn saves_and_a_logout_that_run_at_once_leave_nothing(world: World) {
    let world = &world;
    let id = started(world, "ada").await;
    let mut saves = Vec::new();
    for n in 0..20 {
        let slow = session(world, Some(id));
        slow.load().await.unwrap();
        slow.insert(&format!("seen-{n}"), n).await.unwrap();
        saves.push(async move { drop(slow.save().await) });
    }
    let logout = session(world, Some(id));
    let ((), signed_out) =
        futures_util::join!(async { drop(futures_util::future::join_all(saves).await) }, logout.flush());
    signed_out.unwrap();
    assert_eq!(world.holding("user", "\"ada\"").await, 0);
    assert_eq!(session(world, Some(id)).get_value("user").await.unwrap(), None);
}
