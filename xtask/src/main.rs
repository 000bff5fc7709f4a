//! The workspace's own commands, in plain Rust: `cargo xtask` lists them.
//!
//! A command is one file and one line in [`COMMANDS`].

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program talks to its terminal")]

mod ci;
mod demo;
mod packages;
mod services;
mod shell;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

/// An error is a sentence for the person at the terminal.
type Result<T> = std::result::Result<T, String>;

struct Command {
    name: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<()>,
}

const COMMANDS: &[Command] = &[
    Command { name: "ci", about: "check everything that a change must pass (`cargo xtask ci --help`)", run: ci::run },
    Command {
        name: "demo",
        about: "build and start the demo application, `--framework actix` or axum; arguments after `--` go to it",
        run: demo::run,
    },
    Command {
        name: "services",
        about: "the servers that the tests share: up, down, status, urls (`cargo xtask services --help`)",
        run: services::run,
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match enter_workspace_root().and_then(|()| dispatch(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let Some((name, rest)) = args.split_first() else {
        print!("{}", help());
        return Ok(());
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        print!("{}", help());
        return Ok(());
    }
    let known = COMMANDS.iter().find(|command| command.name == name);
    let command = known.ok_or_else(|| {
        let names: Vec<_> = COMMANDS.iter().map(|command| command.name).collect();
        format!("unknown command `{name}`; the commands are: {}", names.join(", "))
    })?;
    (command.run)(rest)
}

fn help() -> String {
    let mut text = String::from("usage: cargo xtask COMMAND [ARGUMENTS]\n\ncommands:\n");
    for command in COMMANDS {
        text.push_str(&format!("  {:<9} {}\n", command.name, command.about));
    }
    text
}

/// Commands are written relative to the root of the workspace, wherever they are called from.
fn enter_workspace_root() -> Result<()> {
    // The variable is that of the checkout at hand; the constant is that of the build, which differs
    // when a target directory was copied.
    let own = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let root = Path::new(&own).parent().ok_or_else(|| format!("{own} has no parent directory"))?;
    std::env::set_current_dir(root).map_err(|e| format!("cannot enter {}: {e}", root.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_command() {
        for command in COMMANDS {
            assert!(help().contains(command.about));
        }
    }

    #[test]
    fn an_unknown_command_is_answered_with_the_known_ones() {
        let error = dispatch(&["bogus".to_owned()]).unwrap_err();
        assert!(error.contains("`bogus`") && error.contains("ci, demo, services"), "{error}");
    }
}
