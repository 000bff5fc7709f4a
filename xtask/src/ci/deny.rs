//! The `deny` step: what deny.toml says about the dependencies.

use crate::Result;
use crate::shell::{Cmd, on_path};

pub(super) fn check() -> Result<String> {
    if !Cmd::new("cargo deny --version").succeeds() {
        return Err("cargo-deny is not installed: cargo xtask ci --only tools".to_owned());
    }
    Cmd::new("cargo deny check --hide-inclusion-graph licenses bans sources").run()?;

    // Advisories come from a git repository, which a closed network does not reach. Fetching is a
    // command of its own, so that its failure cannot be taken for a finding, nor a finding for it.
    // The check above has read deny.toml, so what fails here is the fetching.
    if let Err(failure) = fetch().run() {
        println!("Advisories are NOT checked: the advisory database could not be fetched ({failure}).");
        return Ok("advisories NOT checked: database out of reach".to_owned());
    }
    Cmd::new("cargo deny --offline check advisories").run()?;
    Ok("advisories checked".to_owned())
}

/// Bounded where `timeout` exists, since a network that drops packets answers nothing at all.
fn fetch() -> Cmd {
    let line = if on_path("timeout") { "timeout 120 cargo deny fetch db" } else { "cargo deny fetch db" };
    Cmd::new(line).env("GIT_TERMINAL_PROMPT", "0")
}
