//! The steps that are a few calls of cargo.

use std::fs;

use super::backends;
use super::workspace::{self, Package};
use crate::Result;
use crate::shell::Cmd;

pub(super) fn fmt() -> Result<String> {
    Cmd::new("cargo fmt --all --check").run()?;
    Ok(String::new())
}

pub(super) fn clippy() -> Result<String> {
    denying_warnings("cargo clippy --workspace --all-targets").run()?;
    // Only the libraries: the features that tests and the demo ask of them would come back on.
    let packages = workspace::read()?.packages;
    let libraries = packages.iter().filter(|package| package.is_product && package.is_library);
    let without = "cargo clippy --no-default-features".to_owned();
    denying_warnings(&libraries.fold(without, |line, library| line + " -p " + &library.name)).run()?;
    denying_warnings("cargo clippy --workspace --all-targets --all-features").run()?;
    Ok(String::new())
}

pub(super) fn features() -> Result<String> {
    let mut combinations = 0;
    for package in workspace::read()?.packages.iter().filter(|package| package.is_product) {
        for line in alone(package) {
            denying_warnings(&line).run()?;
            combinations += 1;
        }
    }
    Ok(format!("{combinations} combinations"))
}

/// One command line without features, and one for each feature but `default`. Each selects one
/// package, since cargo unites the features of what it builds together.
fn alone(package: &Package) -> Vec<String> {
    let none = format!("cargo clippy -p {} --no-default-features", package.name);
    let each = package.features.iter().filter(|feature| *feature != "default");
    let each: Vec<_> = each.map(|feature| format!("{none} --features {feature}")).collect();
    [vec![none], each].concat()
}

pub(super) fn test() -> Result<String> {
    if !Cmd::new("cargo nextest --version").succeeds() {
        return Err("cargo-nextest is not installed: cargo xtask ci --only tools".to_owned());
    }
    let target = workspace::read()?.target_directory;
    // Where .config/nextest.toml puts it. An old one must not be taken for the one of this run.
    let report = format!("{target}/nextest/default/junit.xml");
    if fs::exists(&report).unwrap_or(false) {
        fs::remove_file(&report).map_err(|e| format!("cannot remove {report}: {e}"))?;
    }
    // A failed test says what it found and where; behind a backtrace through the runtime that is hard to find in a log.
    let outcome = Cmd::new("cargo nextest run --workspace --all-features").env("RUST_BACKTRACE", "0").run();
    let xml = fs::read_to_string(&report).map_err(|e| format!("no report of the tests in {report}: {e}"));
    let (table, untested) = xml.as_deref().map(backends::table).unwrap_or_default();
    if let Err(failure) = outcome {
        // Which backends it is about.
        println!("\n{table}");
        return Err(failure);
    }
    let xml = xml?;
    let ran = attribute(&xml, "tests").ok_or_else(|| format!("no count of tests in {report}"))?;
    let (through_each, unequal) = backends::adapters(&xml);
    if !unequal.is_empty() {
        return Err(format!("these tests go through one adapter and not the other:\n{}", unequal.join("\n")));
    }
    if !untested.is_empty() {
        println!("\n{table}");
        return Err(format!("no test ran on {}", untested.join(", ")));
    }
    Ok(format!(
        "{ran} tests ran: {through_each} through each adapter, the same ones; on each backend as below\n{table}"
    ))
}

/// The value of the first attribute of this name.
fn attribute(xml: &str, name: &str) -> Option<usize> {
    let (_, rest) = xml.split_once(&format!(" {name}=\""))?;
    rest.split_once('"')?.0.parse().ok()
}

pub(super) fn doctest() -> Result<String> {
    let output = Cmd::new("cargo test --doc --workspace --all-features").run_and_keep_output()?;
    Ok(format!("{} doctests ran", passed(&output)))
}

/// The sum over the summary lines that the test harness prints, one for each crate.
fn passed(output: &str) -> usize {
    let summaries = output.lines().filter_map(|line| line.split_once("test result: ok. "));
    summaries
        .filter_map(|(_, counts)| counts.split_once(" passed"))
        .filter_map(|(count, _)| count.parse::<usize>().ok())
        .sum()
}

pub(super) fn docs() -> Result<String> {
    Cmd::new("cargo doc --workspace --no-deps --all-features").env("RUSTDOCFLAGS", "-D warnings").run()?;
    Ok(String::new())
}

pub(super) fn examples() -> Result<String> {
    Cmd::new("cargo build --workspace --examples --all-features").run()?;
    // With the features that `cargo xtask demo` builds it with.
    Cmd::new("cargo check -p cloakroom-demo").run()?;
    Ok(String::new())
}

pub(super) fn bench() -> Result<String> {
    // Without optimization, which takes minutes and finds nothing more.
    Cmd::new("cargo build --workspace --benches --all-features").run()?;
    Ok(String::new())
}

fn denying_warnings(line: &str) -> Cmd {
    Cmd::new(line).args(&["--", "-D", "warnings"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_is_checked_alone_and_the_default_is_not_one() {
        let package = Package {
            name: "a".to_owned(),
            features: ["default", "x", "y"].map(str::to_owned).to_vec(),
            is_product: true,
            is_library: true,
        };
        assert_eq!(
            alone(&package),
            [
                "cargo clippy -p a --no-default-features",
                "cargo clippy -p a --no-default-features --features x",
                "cargo clippy -p a --no-default-features --features y",
            ]
        );
    }

    #[test]
    fn the_count_of_tests_is_that_of_the_whole_run() {
        let xml = r#"<testsuites name="run" tests="345" failures="0"><testsuite tests="5">"#;
        assert_eq!(attribute(xml, "tests"), Some(345));
        assert_eq!(attribute("<testsuites/>", "tests"), None);
    }

    #[test]
    fn doctests_of_all_crates_are_added_up() {
        let output = "\
            test result: ok. 3 passed; 0 failed\n\
            all doctests ran in 1.2s\n\
            test result: ok. 0 passed; 0 failed\n\
            test result: ok. 20 passed; 0 failed\n";
        assert_eq!(passed(output), 23);
    }
}
