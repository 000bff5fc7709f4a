//! How PostgreSQL executes each statement.

use cloakroom_services::shared;
use tokio_postgres::{Client, NoTls};

use super::postgres::*;
use crate::prefix::TablePrefix;

const PREFIX: &str = "plans_";

async fn client() -> Client {
    let url = shared::postgres();
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// How a prepared statement is executed whatever its parameters are, one step a line.
async fn plan(client: &Client, statement: &str, settings: &str) -> String {
    let prefix = TablePrefix::new(PREFIX).unwrap();
    let prepared = client.prepare(&prefix.apply(statement)).await.unwrap();
    let nulls = vec!["NULL"; prepared.params().len()].join(", ");
    let types: Vec<_> = prepared.params().iter().map(|parameter| parameter.name().replace('_', "")).collect();
    let types: Vec<_> = prepared
        .params()
        .iter()
        .zip(types)
        .map(|(parameter, name)| if parameter.name().starts_with('_') { format!("{name}[]") } else { name })
        .collect();
    let text = prefix.apply(statement);
    let script = format!(
        "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan; {settings}; PREPARE planned ({}) AS {text}; \
         EXPLAIN EXECUTE planned ({nulls}); DEALLOCATE planned; ROLLBACK",
        types.join(", ")
    );
    let messages = client.simple_query(&script).await.unwrap();
    let lines = messages.iter().filter_map(|message| {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message { row.get(0).map(str::to_owned) } else { None }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn no_statement_reads_the_whole_table() {
    let client = client().await;
    let prefix = TablePrefix::new(PREFIX).unwrap();
    client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(7236827)").await.unwrap();
    if client.query_one("SELECT to_regclass('plans_sessions') IS NULL", &[]).await.unwrap().get(0) {
        client.batch_execute(&prefix.apply(crate::migrations::POSTGRES[0].sql)).await.unwrap();
        let fill = "INSERT INTO plans_sessions \
            SELECT substr(sha256(n::text::bytea), 1, 26), substr(sha256(n::text::bytea), 1, 10), 1, \
                CASE WHEN n % 2 = 0 THEN 'owner' || n / 4 END, n, n, n * 10, n * 10, n * 10, \
                CASE WHEN n % 2 = 1 THEN n END, CASE WHEN n % 2 = 1 THEN 1 END, NULL, \
                CASE WHEN n % 2 = 0 THEN '\\x00'::bytea END FROM generate_series(1, 20000) n";
        client.batch_execute(fill).await.unwrap();
    }
    client.batch_execute("COMMIT; ANALYZE plans_sessions").await.unwrap();
    // What a prepared connection asks for, and what a proxy's has.
    let prepared = "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";
    for settings in [prepared, "SET LOCAL jit = off"] {
        for (statement, index) in [
            (LOAD, "plans_sessions_pkey"),
            (LOAD_MANY, "plans_sessions_pkey"),
            (UPDATE, "plans_sessions_pkey"),
            (UPDATE_MANY, "plans_sessions_pkey"),
            (UPDATE_LOCKED, "plans_sessions_pkey"),
            (TOUCH, "plans_sessions_pkey"),
            (TOUCH_LOCKED, "plans_sessions_pkey"),
            (SCAN, "plans_sessions_pkey"),
            (LIST, "plans_sessions_owner"),
            (EXPLAIN, "plans_sessions_handle"),
            (SWEEP, "plans_sessions_ended"),
            (SWEEP, "plans_sessions_sweep"),
        ] {
            let plan = plan(&client, statement, settings).await;
            assert!(plan.contains(index), "{statement}\n{plan}");
            assert!(!plan.contains("Seq Scan"), "{statement}\n{plan}");
            let by_handle = plan.contains("plans_sessions_handle") && index != "plans_sessions_handle";
            assert!(!by_handle, "{statement}\n{plan}");
        }
    }
    // The order of the ids is the order of the locks.
    for statement in [UPDATE_MANY, TOUCH] {
        let plan = plan(&client, statement, prepared).await;
        assert!(!plan.contains("Hash Join") && !plan.contains("Merge Join") && !plan.contains("Bitmap"), "{plan}");
    }
}
