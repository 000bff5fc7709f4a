//! The `tools` step: says what is missing, and installs it.

use crate::shell::{Cmd, on_path};
use crate::{Result, packages};

/// A tool that crates.io has, in the version that is installed where there is none.
struct CargoTool {
    name: &'static str,
    probe: &'static str,
    install: &'static str,
}

const CARGO_TOOLS: &[CargoTool] = &[
    CargoTool {
        name: "cargo-nextest",
        probe: "cargo nextest --version",
        // Without the self-update, which would bring an HTTP client along.
        install: "cargo install --locked cargo-nextest@0.9.151 \
                  --no-default-features --features default-no-update",
    },
    CargoTool {
        name: "cargo-deny",
        probe: "cargo deny --version",
        install: "cargo install --locked cargo-deny@0.20.2",
    },
];

/// A program and the Debian package that has it. Those of the servers are in their own crate.
const PROGRAMS: &[(&str, &str)] =
    &[("git", "git"), ("curl", "curl"), ("chromium", "chromium"), ("chromedriver", "chromium-driver")];

pub(super) fn install_missing() -> Result<String> {
    let mut installed = Vec::new();
    installed.extend(rust_components()?);
    installed.extend(system_packages()?);
    installed.extend(cargo_tools()?);
    if installed.is_empty() {
        return Ok("nothing was missing".to_owned());
    }
    Ok(format!("installed {}", installed.join(", ")))
}

fn rust_components() -> Result<Vec<&'static str>> {
    let probes = [("rustfmt", "cargo fmt --version"), ("clippy", "cargo clippy --version")];
    let missing = probes.iter().filter(|(_, probe)| !Cmd::new(probe).succeeds());
    let missing: Vec<_> = missing.map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        println!("Missing: the Rust components {}.", missing.join(", "));
        if !on_path("rustup") {
            return Err(format!(
                "install {} the way this Rust was installed; there is no rustup here to do it",
                missing.join(" and ")
            ));
        }
        Cmd::new("rustup component add").args(&missing).run()?;
    }
    Ok(missing)
}

fn system_packages() -> Result<Vec<&'static str>> {
    let programs = [PROGRAMS, cloakroom_services::PROGRAMS].concat();
    let what_for = "Tests drive the demo in a real browser and with curl, and run on real servers; \
                    tidy asks git for the files.";
    packages::install_missing(&programs, what_for)
}

fn cargo_tools() -> Result<Vec<&'static str>> {
    let mut installed = Vec::new();
    for tool in CARGO_TOOLS.iter().filter(|tool| !Cmd::new(tool.probe).succeeds()) {
        println!("Missing: {}. It is compiled, which takes a few minutes.", tool.name);
        // Their release profiles optimise for weeks of use; here they run for seconds, and compiling
        // them takes half the time without.
        Cmd::new(tool.install)
            .args(&["--target-dir", "target/tools"])
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .run()?;
        installed.push(tool.name);
    }
    Ok(installed)
}
