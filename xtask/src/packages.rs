//! Programs of the system: which are missing, and the Debian packages that bring them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cloakroom_services::find_program;

use crate::Result;
use crate::shell::{Cmd, on_path};

/// Installs the packages of those programs that are missing, after saying which and `what_for`.
/// Returns the packages.
pub(crate) fn install_missing(programs: &[(&'static str, &'static str)], what_for: &str) -> Result<Vec<&'static str>> {
    let missing: Vec<_> = programs.iter().filter(|(program, _)| find_program(program).is_none()).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(packages);
    }
    let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    println!("Missing: {}. {what_for}", programs.join(", "));
    if !on_path("apt-get") {
        return Err(format!(
            "put {} on the search path, installed the way this system installs programs \
             (on Debian the packages are {})",
            programs.join(", "),
            packages.join(", ")
        ));
    }
    if !Cmd::new("id -u").read().is_ok_and(|id| id.trim() == "0") {
        return Err(format!(
            "installing needs root: sudo apt-get update && sudo apt-get install {}",
            packages.join(" ")
        ));
    }
    Cmd::new("apt-get update -q").run()?;
    let _quiet = NoNewServices::begin()?;
    Cmd::new("apt-get install -q -y --no-install-recommends")
        .args(&packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .run()?;
    Ok(packages)
}

/// While this lives, a package that brings a service does not start it: its program is wanted, not
/// one more server on the machine. A policy that the machine already has stands.
struct NoNewServices {
    is_ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoNewServices {
    fn begin() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { is_ours: false });
        }
        // 101 is "forbidden by policy".
        let written = fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)));
        written.map_err(|e| format!("cannot write {POLICY}: {e}"))?;
        Ok(Self { is_ours: true })
    }
}

impl Drop for NoNewServices {
    fn drop(&mut self) {
        if self.is_ours && fs::remove_file(POLICY).is_err() {
            println!("{POLICY} is left over: remove it, or the system's services do not start.");
        }
    }
}
