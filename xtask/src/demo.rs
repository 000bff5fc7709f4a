//! `cargo xtask demo`: the demo application, built and started.

use crate::Result;
use crate::shell::Cmd;

/// Builds with the development profile, which is the fastest way to a first page, and becomes the
/// application: Ctrl-C reaches it, its exit code is ours, and it says itself where it listens.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let mut cmd = Cmd::new("cargo run -p cloakroom-demo");
    let (framework, args) = framework(args)?;
    let application = match args.split_first() {
        None => &[],
        Some((separator, rest)) if separator == "--" => rest,
        Some((other, _)) => {
            return Err(format!(
                "demo takes no `{other}`; arguments for the application come after `--`: \
                 cargo xtask demo -- {other}"
            ));
        }
    };
    if framework.is_some() || !application.is_empty() {
        cmd = cmd.arg("--");
    }
    if let Some(framework) = framework {
        cmd = cmd.arg("--framework").arg(framework);
    }
    application.iter().fold(cmd, Cmd::arg).become_it()
}

/// The one argument that may come before `--`, and what is left. The application knows which names there are.
fn framework(args: &[String]) -> Result<(Option<&str>, &[String])> {
    match args {
        [flag, name, rest @ ..] if flag == "--framework" && name != "--" => Ok((Some(name), rest)),
        [flag, ..] if flag == "--framework" => {
            Err("--framework needs a name: cargo xtask demo --framework actix".to_owned())
        }
        [flag, rest @ ..] if flag.starts_with("--framework=") => Ok((flag.split_once('=').map(|(_, name)| name), rest)),
        _ => Ok((None, args)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_argument_without_the_separator_is_refused_with_the_line_to_write() {
        let error = super::run(&["--port=1".to_owned()]).unwrap_err();
        assert!(error.contains("cargo xtask demo -- --port=1"), "{error}");
    }

    #[test]
    fn the_framework_may_come_before_the_separator() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for line in ["--framework actix -- --listen a", "--framework=actix -- --listen a"] {
            let line = words(line);
            let (framework, rest) = super::framework(&line).unwrap();
            assert_eq!((framework, rest), (Some("actix"), &words("-- --listen a")[..]));
        }
        for line in ["--framework", "--framework -- --listen a"] {
            assert!(super::framework(&words(line)).unwrap_err().contains("--framework actix"));
        }
    }
}
