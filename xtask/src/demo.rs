//! `cargo xtask demo`: the demo application, built and started.

use crate::Result;
use crate::shell::Cmd;

/// Builds with the development profile, which is the fastest way to a first page, and becomes the
/// application: Ctrl-C reaches it, its exit code is ours, and it says itself where it listens.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let mut cmd = Cmd::new("cargo run -p cloakroom-demo");
    match args.split_first() {
        None => {}
        Some((separator, rest)) if separator == "--" => {
            cmd = rest.iter().fold(cmd.arg("--"), Cmd::arg);
        }
        Some((other, _)) => {
            return Err(format!(
                "demo takes no `{other}`; arguments for the application come after `--`: \
                 cargo xtask demo -- {other}"
            ));
        }
    }
    cmd.become_it()
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_argument_without_the_separator_is_refused_with_the_line_to_write() {
        let error = super::run(&["--port=1".to_owned()]).unwrap_err();
        assert!(error.contains("cargo xtask demo -- --port=1"), "{error}");
    }
}
