//! What is sent for a verb, and how the server does it.

use std::time::Duration;

use cloakroom_core::{
    Clock as _, Create, EndReason, Excess, Page, Renewal, Revision, SessionLimit, SessionStore, SystemClock, Update,
};
use cloakroom_services::Postgres;
use cloakroom_services::shared;
use futures_util::future::poll_fn;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::proxy::Proxy;
use crate::support::{Place, alice, handle, id};

const LIMIT: SessionLimit = SessionLimit { max: std::num::NonZeroU32::new(3).unwrap(), excess: Excess::EvictOldest };

/// Every verb once. Returns what each cost in statements.
async fn cost_of_verbs(place: &Place, proxy: &Proxy, prepared: bool) -> Vec<(&'static str, u64)> {
    let options = place.options().with_prepared(prepared).with_clock(place.clock.clone());
    let store = options.open().await.unwrap();
    let record = place.record(1);
    let mut costs = Vec::new();
    let mut cost = |verb| {
        let (statements, parses) = proxy.take_counts();
        assert_eq!(parses, if prepared { 0 } else { statements }, "{verb}: parsed anew");
        costs.push((verb, statements));
    };
    proxy.take_counts();
    store.create(&id(1), &record, None).await.unwrap();
    cost("create");
    store.create(&id(2), &place.record(2), Some(LIMIT)).await.unwrap();
    cost("create with a limit");
    store.load(&id(1)).await.unwrap();
    cost("load");
    assert_eq!(store.update(&id(1), Revision::FIRST, &record).await.unwrap(), Update::Saved(Revision::FIRST.next()));
    cost("update");
    assert!(matches!(store.update(&id(1), Revision::FIRST, &record).await.unwrap(), Update::Conflict(_)));
    cost("update with a conflict");
    store.touch(&id(1), place.clock.now(), place.clock.now() + Duration::from_secs(90)).await.unwrap();
    cost("touch");
    let expected = Revision::FIRST.next();
    let renewal = Renewal { old: &id(1), new: &id(3), expected, record: &record, limit: None };
    store.renew(renewal).await.unwrap();
    cost("renew");
    assert!(store.delete(&id(1), EndReason::Destroyed).await.unwrap());
    cost("delete of a renewed id");
    store.list(&alice(), Page::FIRST).await.unwrap();
    cost("list");
    store.scan(None, 100).await.unwrap();
    cost("scan");
    store.explain(handle(1)).await.unwrap();
    cost("explain");
    store.revoke(&alice(), handle(2)).await.unwrap();
    cost("revoke");
    store.revoke_all(&alice(), None).await.unwrap();
    cost("revoke_all");
    store.sweep(100).await.unwrap();
    cost("sweep");
    store.probe().await.unwrap();
    cost("probe");
    store.close().await;
    costs
}

#[tokio::test]
async fn every_verb_is_one_statement_and_a_refused_update_two() {
    let url = shared::postgres();
    let proxy = Proxy::to(&url).await;
    let place = Place::at(proxy.url(&url));
    for prepared in [true, false] {
        let costs = cost_of_verbs(&place, &proxy, prepared).await;
        let budget = |verb| if verb == "update with a conflict" { 2 } else { 1 };
        assert!(costs.iter().all(|(verb, cost)| *cost == budget(*verb)), "prepared: {prepared}: {costs:?}");
        place.run("TRUNCATE cloakroom_sessions").await;
        proxy.take_counts();
    }
}

/// Each statement that ran, those inside of functions included, with its plan.
async fn plans(server: &Postgres, prefix: &str, statements: &str) -> Vec<String> {
    let (client, mut connection) = tokio_postgres::connect(&server.admin_url(), NoTls).await.unwrap();
    let (notices, mut noticed) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message {
                drop(notices.send(notice.message().to_owned()));
            }
        }
    });
    let settings = "LOAD 'auto_explain'; SET auto_explain.log_nested_statements = on; \
        SET auto_explain.log_min_duration = 0; SET auto_explain.log_level = notice; SET jit = off;";
    client.batch_execute(settings).await.unwrap();
    client.batch_execute(&statements.replace("cloakroom_", prefix)).await.unwrap();
    drop(client);
    let mut plans = Vec::new();
    while let Some(plan) = noticed.recv().await {
        plans.push(plan);
    }
    plans
}

#[tokio::test]
async fn no_step_of_a_function_reads_the_whole_table() {
    let server = Postgres::start().unwrap();
    let place = Place::at(server.url());
    place.open().await.close().await;
    let now = SystemClock.now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let fill = format!(
        "INSERT INTO cloakroom_sessions \
            SELECT substr(sha256(n::text::bytea), 1, 26), substr(sha256(n::text::bytea), 1, 10), 1, 'owner' || n / 4, \
                {now}, {now}, {now} + n * 1000, {now} + 10000000000, {now} + n * 1000, NULL, NULL, NULL, '\\x00' \
            FROM generate_series(1, 20000) n; \
         UPDATE cloakroom_sessions SET ended_at = {now}, ended_reason = 1, record = NULL, principal = NULL \
            WHERE sweep_at > {now} + 18000000;"
    );
    place.run(&fill).await;
    place.run("VACUUM ANALYZE cloakroom_sessions").await;
    let calls = "SELECT cloakroom_create(substr(sha256('new'), 1, 26), substr(sha256('new'), 1, 10), 'owner1', 1, 1, \
            9000000000000, 9000000000000, '\\x00', 2, true, NULL); \
        SELECT cloakroom_renew(substr(sha256('4'), 1, 26), 1, substr(sha256('new2'), 1, 26), \
            substr(sha256('new2'), 1, 10), 'owner1', 1, 1, 9000000000000, 9000000000000, '\\x00', 2, true, NULL); \
        SELECT cloakroom_renew(substr(sha256('14'), 1, 26), 1, substr(sha256('new3'), 1, 26), \
            substr(sha256('new3'), 1, 10), 'owner3', 1, 1, 9000000000000, 9000000000000, '\\x00', NULL, false, NULL); \
        SELECT cloakroom_delete(substr(sha256('14'), 1, 26), 1, NULL); \
        SELECT cloakroom_revoke('owner5', NULL, NULL, NULL); \
        SELECT cloakroom_revoke('owner6', substr(sha256('25'), 1, 10), NULL, NULL);";
    let plans = plans(&server, &place.prefix, calls).await;
    assert!(plans.len() > 15, "{plans:?}");
    for plan in &plans {
        assert!(!plan.contains(&format!("Seq Scan on {}sessions", place.prefix)), "{plan}");
    }
}

#[tokio::test]
async fn updates_and_touches_write_to_no_index() {
    let place = Place::new();
    let store = place.open().await;
    for n in 0..50 {
        assert!(matches!(store.create(&id(n), &place.record(n), None).await.unwrap(), Create::Created { .. }));
    }
    let pages = "SELECT sum(pg_relation_size(indexrelid))::bigint FROM pg_index \
        WHERE indrelid = to_regclass('cloakroom_sessions')";
    // Of those that found room in their page. The collector is told when a connection closes.
    let counted = "SELECT coalesce(sum(n_tup_hot_upd), 0)::bigint FROM pg_stat_user_tables \
        WHERE relname = 'cloakroom_sessions'";
    let mut saved = Revision::FIRST;
    // While another test holds a snapshot, what is outdated keeps its room in the page: then once more.
    for round in 1..=20 {
        let (before, hot) = (place.number(pages).await, place.number(counted).await);
        for step in 1..10 {
            for n in 0..50 {
                let deadline = place.clock.now() + Duration::from_secs(60 + round * 10 + step);
                store.touch(&id(n), place.clock.now(), deadline).await.unwrap();
                assert_eq!(store.update(&id(n), saved, &place.record(n)).await.unwrap(), Update::Saved(saved.next()));
            }
            saved = saved.next();
        }
        if place.number(pages).await == before && place.number(counted).await - hot > 400 {
            return;
        }
    }
    panic!("updates that change no index wrote to one, twenty times over");
}
