//! What cargo says about the workspace.

use std::path::Path;

use serde_json::Value;

use crate::Result;
use crate::shell::Cmd;

pub(super) struct Workspace {
    pub(super) packages: Vec<Package>,
    pub(super) target_directory: String,
}

pub(super) struct Package {
    pub(super) name: String,
    pub(super) features: Vec<String>,
    /// Below `crates`: part of the product, and not of its tests and tools.
    pub(super) is_product: bool,
    /// A library and nothing else.
    pub(super) is_library: bool,
}

pub(super) fn read() -> Result<Workspace> {
    let json = Cmd::new("cargo metadata --format-version 1 --no-deps").read()?;
    parse(&json).ok_or_else(|| "`cargo metadata` answered in an unknown form".to_owned())
}

fn parse(json: &str) -> Option<Workspace> {
    let metadata: Value = serde_json::from_str(json).ok()?;
    let crates = Path::new(metadata["workspace_root"].as_str()?).join("crates");
    let packages = metadata["packages"].as_array()?;
    Some(Workspace {
        packages: packages.iter().map(|json| package(json, &crates)).collect::<Option<_>>()?,
        target_directory: metadata["target_directory"].as_str()?.to_owned(),
    })
}

fn package(json: &Value, crates: &Path) -> Option<Package> {
    let targets = json["targets"].as_array()?;
    let has = |kind| targets.iter().any(|target| target["kind"][0] == kind);
    Some(Package {
        name: json["name"].as_str()?.to_owned(),
        features: json["features"].as_object()?.keys().cloned().collect(),
        is_product: Path::new(json["manifest_path"].as_str()?).starts_with(crates),
        is_library: has("lib") && !has("bin"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_and_its_libraries_are_told_from_the_rest() {
        let workspace = parse(
            r#"{"target_directory": "t", "workspace_root": "/w", "packages": [
                {"name": "a", "features": {"x": [], "default": []}, "manifest_path": "/w/crates/a/Cargo.toml",
                 "targets": [{"kind": ["test"]}, {"kind": ["lib"]}]},
                {"name": "b", "features": {}, "manifest_path": "/w/crates/b/Cargo.toml",
                 "targets": [{"kind": ["lib"]}, {"kind": ["bin"]}]},
                {"name": "c", "features": {}, "manifest_path": "/w/crates-c/Cargo.toml",
                 "targets": [{"kind": ["lib"]}]}]}"#,
        )
        .unwrap();
        assert_eq!(workspace.target_directory, "t");
        assert_eq!(workspace.packages[0].features, ["default", "x"]);
        let told: Vec<_> = workspace.packages.iter().map(|p| (p.is_product, p.is_library)).collect();
        assert_eq!(told, [(true, true), (true, false), (false, true)]);
        assert!(parse(r#"{"packages": []}"#).is_none());
    }
}
