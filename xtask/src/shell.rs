//! Command lines: printed before they run, so that anybody can run them by hand.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitStatus, Stdio};

use crate::Result;

/// A command line, written as one would type it, and the environment variables in front of it.
#[derive(Debug)]
pub(crate) struct Cmd {
    env: Vec<(&'static str, String)>,
    program: String,
    args: Vec<String>,
}

impl Cmd {
    /// Splits `line` at blanks; a word that contains a blank is added with [`Cmd::arg`].
    pub(crate) fn new(line: &str) -> Self {
        let mut words = line.split_whitespace().map(str::to_owned);
        Self { env: Vec::new(), program: words.next().unwrap_or_default(), args: words.collect() }
    }

    pub(crate) fn arg(mut self, word: impl Into<String>) -> Self {
        self.args.push(word.into());
        self
    }

    pub(crate) fn args(mut self, words: &[&str]) -> Self {
        self.args.extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Prints the line and runs it with the terminal's own input and output.
    pub(crate) fn run(&self) -> Result<()> {
        self.print();
        let status = self.command().status().map_err(|e| self.not_started(&e))?;
        self.check(status)
    }

    /// As [`Cmd::run`], and also returns what was written to standard output.
    pub(crate) fn run_and_keep_output(&self) -> Result<String> {
        let (status, kept) = self.run_to_its_end()?;
        self.check(status).map(|()| kept)
    }

    /// The same of a command that may fail, and whether it succeeded.
    pub(crate) fn run_and_keep_output_of_any_outcome(&self) -> Result<(bool, String)> {
        self.run_to_its_end().map(|(status, kept)| (status.success(), kept))
    }

    fn run_to_its_end(&self) -> Result<(ExitStatus, String)> {
        self.print();
        let mut child = self.command().stdout(Stdio::piped()).spawn().map_err(|e| self.not_started(&e))?;
        let mut kept = String::new();
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines() {
                let line = line.map_err(|e| format!("reading the output of `{self}`: {e}"))?;
                println!("{line}");
                kept.push_str(&line);
                kept.push('\n');
            }
        }
        let status = child.wait().map_err(|e| self.not_started(&e))?;
        Ok((status, kept))
    }

    /// Runs without printing the line, and returns standard output.
    pub(crate) fn read(&self) -> Result<String> {
        let output = self.command().stderr(Stdio::inherit()).output().map_err(|e| self.not_started(&e))?;
        self.check(output.status)?;
        String::from_utf8(output.stdout).map_err(|e| format!("the output of `{self}`: {e}"))
    }

    /// Runs without a trace, and says whether it started and succeeded.
    pub(crate) fn succeeds(&self) -> bool {
        self.command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Prints the line and becomes it: signals, input and exit code are the program's own.
    pub(crate) fn become_it(&self) -> Result<()> {
        self.print();
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt as _;
            // Returns only when it failed.
            Err(self.not_started(&self.command().exec()))
        }
        #[cfg(not(unix))]
        {
            let status = self.command().status().map_err(|e| self.not_started(&e))?;
            self.check(status)
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        for (name, value) in ci_environment() {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        for (name, value) in &self.env {
            command.env(name, value);
        }
        command
    }

    fn print(&self) {
        println!("$ {self}");
        // The program writes to the same terminal next; a failure to write shows there.
        std::io::stdout().flush().ok();
    }

    fn check(&self, status: ExitStatus) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        Err(match status.code() {
            Some(code) => format!("`{self}` ended with exit code {code}"),
            None => format!("`{self}` was ended by a signal"),
        })
    }

    fn not_started(&self, error: &std::io::Error) -> String {
        format!("`{self}` could not be run: {error}")
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env = self.env.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
        let words = [&self.program].into_iter().chain(&self.args).map(|word| quoted(word));
        f.write_str(&env.chain(words).collect::<Vec<_>>().join(" "))
    }
}

/// What every command line gets in addition on a CI machine, unless it is already set: no progress
/// bars in a log, and no incremental artifacts that nobody will use.
pub(crate) fn ci_environment() -> &'static [(&'static str, &'static str)] {
    let on_ci = std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false");
    if on_ci { &[("CARGO_INCREMENTAL", "0"), ("CARGO_TERM_PROGRESS_WHEN", "never")] } else { &[] }
}

/// Where a program is found on the search path.
pub(crate) fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_line_can_be_pasted_into_a_shell() {
        let cmd = Cmd::new("cargo doc --workspace").arg("it's").env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(cmd.to_string(), r"RUSTDOCFLAGS='-D warnings' cargo doc --workspace 'it'\''s'");
    }

    #[test]
    fn a_failing_command_is_an_error_that_shows_the_line_and_the_code() {
        let error = Cmd::new("sh -c").arg("exit 7").run().unwrap_err();
        assert_eq!(error, "`sh -c 'exit 7'` ended with exit code 7");
    }

    #[test]
    fn a_missing_program_is_an_error_that_shows_the_line() {
        let error = Cmd::new("no-such-program --flag").run().unwrap_err();
        assert!(error.starts_with("`no-such-program --flag` could not be run"), "{error}");
        assert!(!on_path("no-such-program") && on_path("sh"));
    }

    #[test]
    fn kept_output_is_what_was_printed() {
        let output = Cmd::new("printf").arg("a\nb").run_and_keep_output().unwrap();
        assert_eq!(output, "a\nb\n");
    }
}
