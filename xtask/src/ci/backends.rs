//! How many tests ran on each backend and through each adapter, from the report of the test run.
//!
//! A test on a backend lives in a module, or a test program, that is named like the backend; one through an adapter
//! in a module that is named like the adapter.

use std::collections::{BTreeSet, HashSet};

/// Each has tests, or the `test` step fails: a backend that nobody tests is one that is broken.
const BACKENDS: &[&str] = &[
    "memory",
    "sealed",
    "sqlite",
    "redis",
    "redis_unix",
    "redis_tls",
    "sentinel",
    "cluster",
    "postgres",
    "pgbouncer",
    "mariadb",
];

/// The kinds of tests that the table tells apart; what belongs to none of these is in the total.
const KINDS: [&str; 3] = ["suite", "journey", "attacks"];

/// Only the suite of the contract runs here: sessions do not differ from those of the same server by another way.
const BY_SUITE_ALONE: &[&str] = &["redis_unix"];

/// A table with a line for each backend, and the backends on which no test ran, or none of a kind.
pub(super) fn table(report: &str) -> (String, Vec<String>) {
    let tests = tests(report);
    let checks = checks(&tests);
    let mut text = format!("{:<12}", "backend");
    for kind in KINDS {
        text.push_str(&format!("{kind:>9}"));
    }
    text.push_str(&format!("{:>9}\n", "tests"));
    let mut untested = Vec::new();
    for backend in BACKENDS {
        let on_it: Vec<_> = tests.iter().filter(|test| backend_of(test) == Some(*backend)).collect();
        text.push_str(&format!("{backend:<12}"));
        for kind in KINDS {
            let count = on_it.iter().filter(|test| kind_of(test, &checks) == Some(kind)).count();
            text.push_str(&format!("{count:>9}"));
            if count == 0 && (kind == "suite" || !BY_SUITE_ALONE.contains(backend)) {
                untested.push(format!("{backend} ({kind})"));
            }
        }
        text.push_str(&format!("{:>9}\n", on_it.len()));
    }
    (text, untested)
}

/// The programs whose tests go through both adapters.
const THROUGH_BOTH: &[[&str; 2]] = &[["cloakroom-tests", "it"], ["cloakroom-demo", "it"]];

/// How many tests go through each adapter, and those that go through one and not the other.
pub(super) fn adapters(report: &str) -> (usize, Vec<String>) {
    let tests = tests(report);
    let through = |adapter: &str| -> BTreeSet<String> {
        let of_both = tests.iter().filter(|test| THROUGH_BOTH.iter().any(|program| test.starts_with(program)));
        let through_it = of_both.filter(|test| test.contains(&adapter));
        through_it
            .map(|test| {
                test.iter().map(|part| if *part == adapter { "*" } else { part }).collect::<Vec<_>>().join("::")
            })
            .collect()
    };
    let (axum, actix) = (through("axum"), through("actix"));
    (axum.len(), axum.symmetric_difference(&actix).cloned().collect())
}

/// Package, program and modules of a test, and its name: `["cloakroom-sql", "sqlite", "suite", …]`.
type Path<'a> = Vec<&'a str>;

fn tests(report: &str) -> Vec<Path<'_>> {
    let cases = report.split("<testcase ").skip(1);
    cases.filter_map(|case| Some([attribute(case, "classname")?, attribute(case, "name")?])).map(path).collect()
}

fn path([program, name]: [&str; 2]) -> Path<'_> {
    program.split("::").chain(name.split("::")).collect()
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    // A blank in front tells `name` from `classname`; the first attribute has none.
    let quoted = format!("{name}=\"");
    let rest = match element.strip_prefix(&quoted) {
        Some(rest) => rest,
        None => element.split_once(&format!(" {quoted}"))?.1,
    };
    rest.split_once('"').map(|(value, _)| value)
}

/// The innermost module decides: `sqlite::memory` is about memory. Unit tests run on no backend.
fn backend_of(test: &Path<'_>) -> Option<&'static str> {
    let named = |part: &&str| match *part {
        // The package of the seals, which have no other backend.
        "cloakroom-cookie" => Some("sealed"),
        part => BACKENDS.iter().copied().find(|backend| *backend == part),
    };
    let modules = test.split_last().map_or(&[][..], |(_, modules)| modules);
    if modules.last() == Some(&"tests") {
        return None;
    }
    modules.iter().rev().find_map(named)
}

fn kind_of(test: &Path<'_>, checks: &HashSet<&str>) -> Option<&'static str> {
    let (name, modules) = test.split_last()?;
    if checks.contains(name) {
        return Some("suite");
    }
    KINDS.into_iter().find(|kind| modules.contains(kind))
}

/// The names of the conformance suite's checks: those that the test kit runs on the store in memory.
fn checks<'a>(tests: &[Path<'a>]) -> HashSet<&'a str> {
    let of_the_kit = tests.iter().filter_map(|test| match test[..] {
        ["cloakroom-testkit", _, "memory", _, name] => Some(name),
        _ => None,
    });
    of_the_kit.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(tests: &[(&str, &str)]) -> String {
        let case = |(program, name): &(&str, &str)| {
            format!(r#"<testcase name="{name}" classname="{program}" timestamp="t" time="0.1"/>"#)
        };
        tests.iter().map(case).collect()
    }

    #[test]
    fn a_test_counts_for_the_innermost_backend_and_its_kind() {
        let report = report(&[
            ("cloakroom-testkit::it", "memory::bare::an_id_never_used_loads_nothing"),
            ("cloakroom-sql::sqlite", "suite::bare::an_id_never_used_loads_nothing"),
            ("cloakroom-sql::sqlite", "files::a_file_is_made"),
            ("cloakroom-redis::redis", "cluster::an_id_never_used_loads_nothing"),
            ("cloakroom-tests::it", "attacks::fixation::redis_tls::bare::a_planted_token"),
            ("cloakroom-tests::it", "journey::postgres::layered::sign_in"),
            ("cloakroom-tests::it", "attacks::csrf::redis"),
            ("cloakroom-redis", "redis::tests::a_url_is_read"),
        ]);
        let (table, untested) = table(&report);
        let line = |backend: &str| {
            let line = table.lines().find(|line| line.split(' ').next() == Some(backend)).unwrap();
            line.split_whitespace().skip(1).map(|count| count.parse().unwrap()).collect::<Vec<u32>>()
        };
        assert_eq!(line("memory"), [1, 0, 0, 1]);
        assert_eq!(line("sqlite"), [1, 0, 0, 2]);
        assert_eq!(line("cluster"), [1, 0, 0, 1]);
        assert_eq!(line("redis_tls"), [0, 0, 1, 1]);
        assert_eq!(line("postgres"), [0, 1, 0, 1]);
        assert_eq!(line("redis"), [0, 0, 0, 0], "the name of a test is not its place, and a unit test has none");
        assert!(untested.contains(&"redis (suite)".to_owned()) && untested.contains(&"cluster (journey)".to_owned()));
        assert!(
            !untested.contains(&"cluster (suite)".to_owned()) && !untested.contains(&"redis_unix (attacks)".to_owned())
        );
    }

    #[test]
    fn a_test_that_goes_through_one_adapter_alone_is_named() {
        let both =
            [("cloakroom-tests::it", "journey::axum::redis::a"), ("cloakroom-tests::it", "journey::actix::redis::a")];
        let others = [("cloakroom-axum::it", "axum::b"), ("cloakroom-demo::it", "pages::c")];
        assert_eq!(adapters(&report(&[&both[..], &others].concat())), (1, vec![]));
        let alone = [("cloakroom-demo::it", "journey::actix::d")];
        let (count, unequal) = adapters(&report(&[&both[..], &alone].concat()));
        assert_eq!((count, unequal), (1, vec!["cloakroom-demo::it::journey::*::d".to_owned()]));
    }

    #[test]
    fn nothing_is_missing_where_each_backend_has_a_test_of_each_kind() {
        let of = |backend: &&str| KINDS.map(|kind| format!("{kind}::{backend}::a_test"));
        let names: Vec<_> = BACKENDS.iter().flat_map(of).collect();
        let tests: Vec<_> = names.iter().map(|name| ("cloakroom-tests::it", name.as_str())).collect();
        let (table, untested) = table(&report(&tests));
        assert!(untested.is_empty() && table.lines().count() == BACKENDS.len() + 1, "{table}");
    }
}
