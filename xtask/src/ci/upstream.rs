//! The tests that tower-sessions and actix-session publish, on our stores.
//!
//! Their texts are taken as they are out of the crates that cargo fetches, and are not kept here: a package
//! below the target directory puts around them what they need, and our stores under the names by which
//! they know the store that they test.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::workspace;
use crate::Result;
use crate::shell::Cmd;

/// A test that fails, because we do otherwise on purpose. It has to fail, and so.
struct OnPurpose {
    /// How the names of the suites begin.
    suites: &'static str,
    /// Behind the name of the store.
    test: &'static str,
    says: &'static str,
    because: &'static str,
}

const ON_PURPOSE: &[OnPurpose] = &[
    OnPurpose {
        suites: "tower_sessions",
        test: "service::tests::expiry_on_session_end_always_save_test",
        says: "assertion failed: rec1.expiry_date < rec2.expiry_date",
        because: "it wants each save to move the end of a session that is to live for two weeks; with the default policy \
                  ours ends 7 days after it began, whatever is saved (of the same test with a session of two hours \
                  each save moves the end)",
    },
    OnPurpose {
        suites: "actix_session",
        test: "redis_rs::updating_of_an_expired_state_is_handled_gracefully",
        says: "assertion `left != right` failed",
        because: "it wants an update of what is gone to create it under another key; an update of ours creates nothing, \
                  or a request that was slower than a logout would undo it",
    },
];

/// Tests of a store that are not about stores.
const LEFT_OUT: &[(&str, &str)] = &[(
    "loading_an_invalid_session_state_returns_deserialization_error",
    "it reaches into the private connection of the store that it is written for",
)];

const STORES: &[&str] = &["memory", "sqlite", "redis", "postgres"];

pub(super) fn run() -> Result<String> {
    let target = workspace::read()?.target_directory;
    let package = Path::new(&target).join("upstream");
    let suites = generate(&package)?;
    let mut counts = Vec::new();
    for suite in &suites {
        counts.push(format!("{} {}", suite.name, test(&package, &target, suite)?));
    }
    let mut note = format!("tests of {}, each on {} stores\n", counts.join(", "), STORES.len());
    for case in ON_PURPOSE {
        note.push_str(&format!("fails on purpose: {} {}: {}\n", case.suites, case.test, case.because));
    }
    for (test, because) in LEFT_OUT {
        note.push_str(&format!("left out: {test}: {because}\n"));
    }
    Ok(note)
}

/// A test program.
struct Suite {
    name: String,
    /// How many tests its texts have.
    tests: usize,
}

/// Writes the package.
fn generate(package: &Path) -> Result<Vec<Suite>> {
    let root = std::env::current_dir().map_err(|e| format!("cannot find the workspace: {e}"))?;
    let lock = read(Path::new("Cargo.lock"))?;
    let tower = locked(&lock, "tower-sessions-core");
    let actix = locked(&lock, "actix-session").pop().ok_or("Cargo.lock has no actix-session")?;

    let mut dependencies = String::new();
    for version in &tower {
        let name = crate_name(version);
        // With the store in memory, of which only the tests are wanted.
        dependencies.push_str(&format!("{name} = {{ package = \"tower-sessions\", version = \"={version}\", features = [\"private\", \"signed\"] }}\n"));
    }
    let manifest = include_str!("upstream/Cargo.toml.in")
        .replace("@ROOT@", &root.display().to_string())
        .replace("@ACTIX@", &actix)
        .replace("@TOWER@", &dependencies);
    write(&package.join("Cargo.toml"), &manifest)?;
    write(&package.join("src/lib.rs"), "")?;
    // What the workspace is tested with, these tests are run with.
    write(&package.join("Cargo.lock"), &lock)?;
    let support = package.join("support.rs");
    write(&support, include_str!("upstream/support.rs"))?;

    let line = "cargo metadata --format-version 1 --manifest-path";
    let metadata = Cmd::new(line).arg(package.join("Cargo.toml").display().to_string()).read()?;
    let source = |name: &str, version: &str| {
        source(&metadata, name, version).ok_or_else(|| format!("cargo did not fetch {name} {version}"))
    };

    let mut suites = Vec::new();
    for version in &tower {
        let crates = (source("tower-sessions", version)?, source("tower-sessions-memory-store", version)?);
        let routes = crates.0.join("tests/common/mod.rs");
        let service = cut(package, &crates.0.join("src/service.rs"), "mod tests {", &format!("service-{version}.rs"))?;
        let store = cut(package, &crates.1.join("src/lib.rs"), "mod tests {", &format!("store-{version}.rs"))?;
        let text = include_str!("upstream/tower_sessions.rs")
            .replace("@CRATE@", &crate_name(version))
            .replace("@ROUTES@", &existing(&routes)?)
            .replace("@SERVICE@", &existing(&service)?)
            .replace("@STORE@", &existing(&store)?)
            .replace("@SUPPORT@", &existing(&support)?);
        let name = crate_name(version);
        write(&package.join(format!("tests/{name}.rs")), &text)?;
        let texts = [read(&routes)?, read(&service)?, read(&store)?];
        suites.push(Suite { name, tests: texts.iter().map(|text| tests_in(text)).sum() });
    }

    let crate_ = source("actix-session", &actix)?;
    let acceptance = cut(package, &crate_.join("src/lib.rs"), "pub mod test_helpers {", "acceptance.rs")?;
    let redis = read(&crate_.join("src/storage/redis_rs.rs"))?;
    let store = package.join("redis_rs.rs");
    let tests = tests_of_a_store(&redis)?;
    write(&store, &tests)?;
    let text = include_str!("upstream/actix_session.rs")
        .replace("@ACCEPTANCE@", &existing(&acceptance)?)
        .replace("@STORE@", &existing(&store)?)
        .replace("@SUPPORT@", &existing(&support)?);
    write(&package.join("tests/actix_session.rs"), &text)?;
    suites.push(Suite { name: "actix_session".to_owned(), tests: tests_in(&tests) });
    Ok(suites)
}

/// Runs one program, and returns how many tests it has.
fn test(package: &Path, target: &str, suite: &Suite) -> Result<usize> {
    let Suite { name: suite, tests } = suite;
    let cargo = |rest: &str| {
        Cmd::new("cargo test --no-fail-fast --manifest-path")
            .arg(package.join("Cargo.toml").display().to_string())
            .args(&["--target-dir", target, "--test", suite])
            .args(&rest.split_whitespace().collect::<Vec<_>>()[..])
    };
    let ours: Vec<_> = ON_PURPOSE.iter().filter(|case| suite.starts_with(case.suites)).collect();
    let skipped: Vec<_> = ours.iter().map(|case| format!("--skip {}", case.test)).collect();
    let passed = count(&cargo(&format!("-- {}", skipped.join(" "))).run_and_keep_output()?, "ok");
    let wanted = (tests - ours.len()) * STORES.len();
    if passed != wanted || passed == 0 {
        return Err(format!("{suite}: {passed} tests passed, and its texts have {wanted} that should"));
    }
    for case in &ours {
        let (succeeded, output) = cargo(&format!("-- {}", case.test)).run_and_keep_output_of_any_outcome()?;
        let failed = count(&output, "FAILED");
        if succeeded || failed != STORES.len() || output.matches(case.says).count() != STORES.len() {
            return Err(format!(
                "{suite}: `{}` is to fail on each of {} stores with \"{}\", and failed on {failed}",
                case.test,
                STORES.len(),
                case.says
            ));
        }
    }
    Ok(passed + ours.len() * STORES.len())
}

/// How many tests ended so.
fn count(output: &str, how: &str) -> usize {
    output.lines().filter(|line| line.starts_with("test ") && line.ends_with(&format!("... {how}"))).count()
}

/// How many tests a text has: those of features too, as they are on.
fn tests_in(text: &str) -> usize {
    text.lines().map(str::trim).filter(|line| ["#[tokio::test]", "#[actix_web::test]"].contains(line)).count()
}

/// The versions of a package in Cargo.lock, oldest first.
fn locked(lock: &str, name: &str) -> Vec<String> {
    let packages = lock.split("[[package]]");
    let ours = packages.filter(|package| package.contains(&format!("\nname = \"{name}\"\n")));
    let version = |package: &str| Some(package.split_once("\nversion = \"")?.1.split_once('"')?.0.to_owned());
    ours.filter_map(version).collect()
}

fn crate_name(version: &str) -> String {
    let number: Vec<_> = version.split('.').take(2).collect();
    format!("tower_sessions_{}", number.join("_"))
}

/// Where cargo keeps the source of a package.
fn source(metadata: &str, name: &str, version: &str) -> Option<PathBuf> {
    let metadata: Value = serde_json::from_str(metadata).ok()?;
    let package = metadata["packages"].as_array()?.iter().find(|p| p["name"] == name && p["version"] == version)?;
    Path::new(package["manifest_path"].as_str()?).parent().map(Path::to_owned)
}

/// Puts the module that begins with this line, which is the last of its file, into a file of its own.
fn cut(package: &Path, file: &Path, begin: &str, name: &str) -> Result<PathBuf> {
    let text = read(file)?;
    let module = last_module(&text, begin).ok_or_else(|| format!("{} has no `{begin}` at its end", file.display()))?;
    let path = package.join(name);
    write(&path, module)?;
    Ok(path)
}

fn last_module<'a>(text: &'a str, begin: &str) -> Option<&'a str> {
    let at = text.find(&format!("\n{begin}\n"))? + 1;
    // Nothing may stand behind the brace that ends it.
    let end = text[at..].find("\n}\n")? + "\n}\n".len();
    (at + end == text.len()).then(|| &text[at..])
}

/// The tests of a store of actix-session without what stands around them, which names that store.
fn tests_of_a_store(text: &str) -> Result<String> {
    const ATTRIBUTE: &str = "    #[actix_web::test]\n";
    let mut taken = String::new();
    let mut left_out = 0;
    for test in text.split(ATTRIBUTE).skip(1) {
        let end = test.find("\n    }\n").ok_or("a test in redis_rs.rs has no end")?;
        let body = &test[..end + "\n    }\n".len()];
        let is_left_out = LEFT_OUT.iter().any(|(name, _)| body.contains(&format!("fn {name}(")));
        left_out += usize::from(is_left_out);
        if !is_left_out {
            taken.push_str(&format!("{ATTRIBUTE}{body}\n"));
        }
    }
    if taken.is_empty() || left_out != LEFT_OUT.len() {
        return Err(format!("redis_rs.rs has no test, or none of those left out: {LEFT_OUT:?}"));
    }
    Ok(taken)
}

fn existing(path: &Path) -> Result<String> {
    if path.is_file() { Ok(path.display().to_string()) } else { Err(format!("there is no {}", path.display())) }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(directory).and_then(|()| fs::write(path, text));
    written.map_err(|e| format!("cannot write {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_in_the_lock_file_are_found() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"0.14.0\"\n\n[[package]]\nname = \"a-b\"\nversion = \"2.0.0\"\n\n\
            [[package]]\nname = \"a\"\nversion = \"0.15.0\"\n";
        assert_eq!(locked(lock, "a"), ["0.14.0", "0.15.0"]);
        assert_eq!(crate_name("0.15.0"), "tower_sessions_0_15");
        assert!(locked(lock, "b").is_empty());
    }

    #[test]
    fn the_last_module_of_a_file_is_cut_and_no_other() {
        let text = "fn a() {\n}\n\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\n";
        assert_eq!(last_module(text, "mod tests {"), Some("mod tests {\n    fn b() {\n    }\n}\n"));
        assert_eq!(last_module(&format!("{text}fn c() {{\n}}\n"), "mod tests {"), None);
        assert_eq!(last_module("mod other {\n}\n", "mod tests {"), None);
    }

    #[test]
    fn every_test_of_a_store_is_taken_but_those_left_out() {
        let test = |name: &str| format!("    #[actix_web::test]\n    async fn {name}() {{\n        x();\n    }}\n\n");
        let text = format!("mod tests {{\n{}{}{}}}\n", test("one"), test(LEFT_OUT[0].0), test("two"));
        assert_eq!(tests_of_a_store(&text).unwrap(), format!("{}{}", test("one"), test("two")));
        assert!(tests_of_a_store("mod tests {}\n").is_err());
        assert!(tests_of_a_store(&test("one")).is_err(), "a reason that is out of date is said");
    }

    #[test]
    fn the_tests_of_a_text_are_counted_with_those_of_features() {
        let text = "#[tokio::test]\nasync fn a() {}\n  #[cfg(feature = \"x\")]\n  #[tokio::test]\n  async fn b() {}\n";
        assert_eq!(tests_in(text), 2);
    }

    #[test]
    fn tests_are_counted_by_how_they_ended() {
        let output = "running 3 tests\ntest a::b ... ok\ntest a::c - should panic ... ok\ntest d ... FAILED\ntest result: FAILED.\n";
        assert_eq!((count(output, "ok"), count(output, "FAILED")), (2, 1));
    }
}
