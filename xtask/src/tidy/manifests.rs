//! Rules about Cargo.toml files.

use toml::{Table, Value};

use super::{File, Finding, Tree};

/// Crates in which a mistake breaks every promise at once. Tests may use them to forge things, so
/// development dependencies are free.
const CRYPTOGRAPHY: &[&str] = &["aes-gcm-siv", "chacha20poly1305", "hkdf", "hmac", "sha2", "subtle"];
const OWNERS_OF_CRYPTOGRAPHY: &[&str] = &["cloakroom-core", "cloakroom-cookie"];

pub(super) fn inherited(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, manifest) in members(tree, &mut findings) {
        for key in ["version", "edition", "rust-version", "license"] {
            let value = manifest.get("package").and_then(|package| package.get(key));
            if !is_inherited(value) {
                findings
                    .push(file.finding(line_of(&file.text, key), format!("[package] needs `{key}.workspace = true`")));
            }
        }
        if !is_inherited(manifest.get("lints")) {
            let message = "the file needs `[lints]` with `workspace = true`";
            findings.push(file.finding(line_of(&file.text, "[lints"), message));
        }
    }
    findings
}

pub(super) fn dependencies(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, manifest) in members(tree, &mut Vec::new()) {
        for dependency in dependencies_of(&manifest) {
            if !is_inherited(Some(dependency.value)) {
                findings.push(file.finding(
                    line_of(&file.text, dependency.name),
                    format!(
                        "write `{0} = {{ workspace = true }}`, and the version of {0} in the \
                         workspace's Cargo.toml",
                        dependency.name
                    ),
                ));
            }
        }
    }
    findings
}

pub(super) fn cryptography(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, manifest) in members(tree, &mut Vec::new()) {
        let package = manifest.get("package").and_then(|package| package.get("name"));
        let package = package.and_then(Value::as_str).unwrap_or_default();
        if OWNERS_OF_CRYPTOGRAPHY.contains(&package) {
            continue;
        }
        for dependency in dependencies_of(&manifest) {
            if !dependency.for_tests && CRYPTOGRAPHY.contains(&dependency.name) {
                findings.push(file.finding(
                    line_of(&file.text, dependency.name),
                    format!(
                        "{} is for {} only; use what they offer (tests can have it in \
                         [dev-dependencies])",
                        dependency.name,
                        OWNERS_OF_CRYPTOGRAPHY.join(" and ")
                    ),
                ));
            }
        }
    }
    findings
}

/// The manifests of packages. One that is not TOML is a finding, since no rule can speak about it.
fn members<'tree>(tree: &'tree Tree, findings: &mut Vec<Finding>) -> Vec<(&'tree File, Table)> {
    let is_manifest = |file: &&File| file.path == "Cargo.toml" || file.path.ends_with("/Cargo.toml");
    let mut members = Vec::new();
    for file in tree.files.iter().filter(is_manifest) {
        match file.text.parse::<Table>() {
            Ok(manifest) if manifest.contains_key("package") => members.push((file, manifest)),
            Ok(_) => {}
            Err(error) => findings.push(file.finding(0, error.message())),
        }
    }
    members
}

struct Dependency<'manifest> {
    name: &'manifest str,
    value: &'manifest Value,
    for_tests: bool,
}

/// Those of all kinds, and those for some targets only.
fn dependencies_of(manifest: &Table) -> Vec<Dependency<'_>> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let for_targets = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    let mut found = Vec::new();
    for table in for_targets.chain([manifest]) {
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let listed = table.get(kind).and_then(Value::as_table);
            found.extend(listed.into_iter().flatten().map(|(name, value)| Dependency {
                name,
                value,
                for_tests: kind == "dev-dependencies",
            }));
        }
    }
    found
}

fn is_inherited(value: Option<&Value>) -> bool {
    let workspace = value.and_then(|value| value.get("workspace"));
    workspace.and_then(Value::as_bool) == Some(true)
}

/// The first line that begins with `start`, or 0.
fn line_of(text: &str, start: &str) -> usize {
    let found = text.lines().position(|line| line.starts_with(start));
    found.map_or(0, |i| i + 1)
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    const GOOD: &str = "[package]\nname = \"a\"\nversion.workspace = true\nedition.workspace = true\n\
        rust-version.workspace = true\nlicense.workspace = true\n[lints]\nworkspace = true\n";

    fn with(more: &str) -> String {
        format!("{GOOD}{more}")
    }

    #[test]
    fn what_is_not_inherited_is_found() {
        assert!(places(inherited, &[("a/Cargo.toml", GOOD)]).is_empty());
        let own = GOOD.replace("edition.workspace = true", "edition = \"2021\"");
        assert_eq!(places(inherited, &[("a/Cargo.toml", &own)]), ["a/Cargo.toml:4"]);
        let none = GOOD.replace("license.workspace = true\n", "");
        assert_eq!(places(inherited, &[("a/Cargo.toml", &none)]), ["a/Cargo.toml:0"]);
        let lax = GOOD.replace("[lints]\nworkspace = true", "[lints.rust]\nunsafe_code = \"allow\"");
        assert_eq!(places(inherited, &[("a/Cargo.toml", &lax)]), ["a/Cargo.toml:7"]);
    }

    #[test]
    fn a_manifest_that_does_not_parse_is_found() {
        assert_eq!(places(inherited, &[("a/Cargo.toml", "[package")]), ["a/Cargo.toml:0"]);
    }

    #[test]
    fn a_workspace_without_a_package_is_not_a_member() {
        assert!(places(inherited, &[("Cargo.toml", "[workspace]\n")]).is_empty());
    }

    #[test]
    fn a_dependency_with_its_own_version_is_found_in_every_kind_of_table() {
        let good = with("[dependencies]\nx.workspace = true\ny = { workspace = true, optional = true }\n");
        assert!(places(dependencies, &[("a/Cargo.toml", &good)]).is_empty());
        for table in ["dependencies", "dev-dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"] {
            let bad = with(&format!("[{table}]\nx = \"1\"\n"));
            assert_eq!(places(dependencies, &[("a/Cargo.toml", &bad)]), ["a/Cargo.toml:10"]);
        }
    }

    #[test]
    fn cryptography_outside_its_owners_is_found() {
        let manifest = with("[dependencies]\nhmac = { workspace = true }\n");
        assert_eq!(places(cryptography, &[("a/Cargo.toml", &manifest)]), ["a/Cargo.toml:10"]);
        let owner = manifest.replace("\"a\"", "\"cloakroom-core\"");
        assert!(places(cryptography, &[("a/Cargo.toml", &owner)]).is_empty());
        let test = manifest.replace("[dependencies]", "[dev-dependencies]");
        assert!(places(cryptography, &[("a/Cargo.toml", &test)]).is_empty());
    }
}
