//! The workspace's own rules, as code. Each rule is a function with a test that shows it firing.
//!
//! A line that has a reason to break a rule says so, on itself or on the line above:
//! `// tidy: sleep — the point of this test is that time passes`.

mod documents;
mod manifests;
mod sources;

use std::fmt;
use std::fs;

use crate::Result;
use crate::shell::Cmd;

struct Rule {
    name: &'static str,
    check: fn(&Tree) -> Vec<Finding>,
}

const RULES: &[Rule] = &[
    Rule {
        name: "every crate inherits version, edition, rust-version, licence and lints",
        check: manifests::inherited,
    },
    Rule { name: "every dependency comes from [workspace.dependencies]", check: manifests::dependencies },
    Rule { name: "cryptography is a dependency of the crates that own it only", check: manifests::cryptography },
    Rule { name: "every crate begins with its documentation", check: sources::documented },
    Rule { name: "nothing is left undone, and no test is left out", check: sources::unfinished },
    Rule { name: "no path of one machine", check: sources::machine_paths },
    Rule { name: "no test sleeps", check: sources::sleeps },
    Rule { name: "no source file is too long to read", check: sources::length },
    Rule { name: "no tab, trailing blank or invisible character", check: sources::characters },
    Rule { name: "relative links in Markdown lead somewhere", check: documents::links },
    Rule { name: "decisions are numbered without gaps", check: documents::decisions },
    Rule { name: "every test that docs/THREATS.md names is there", check: documents::tests_named },
];

/// The `tidy` step of `cargo xtask ci`.
pub(crate) fn check() -> Result<String> {
    let tree = Tree::read()?;
    let mut count = 0;
    for rule in RULES {
        let findings = (rule.check)(&tree);
        let verdict = if findings.is_empty() { "ok" } else { "BROKEN" };
        println!("  {}: {verdict}", rule.name);
        for finding in &findings {
            println!("    {finding}");
        }
        count += findings.len();
    }
    if count > 0 {
        return Err(format!("findings listed above: {count}"));
    }
    Ok(format!("{} rules on {} files", RULES.len(), tree.files.len()))
}

/// The text files that git has or would add.
struct Tree {
    files: Vec<File>,
}

struct File {
    /// Relative to the root of the workspace, with `/`.
    path: String,
    text: String,
}

impl Tree {
    fn read() -> Result<Self> {
        let list = Cmd::new("git ls-files -z --cached --others --exclude-standard").read()?;
        let mut files = Vec::new();
        for path in list.split_terminator('\0') {
            // A file that was deleted but not yet staged is listed and not there.
            if !fs::metadata(path).is_ok_and(|found| found.is_file()) {
                continue;
            }
            let bytes = fs::read(path).map_err(|e| format!("cannot read {path}: {e}"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(File { path: path.to_owned(), text });
            }
        }
        if files.is_empty() {
            return Err("git lists no files: tidy needs a checkout".to_owned());
        }
        Ok(Self { files })
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        let file = |&(path, text): &(&str, &str)| File { path: path.to_owned(), text: text.to_owned() };
        Self { files: files.iter().map(file).collect() }
    }

    /// Whether there is a file, or a directory with a file in it.
    fn has(&self, path: &str) -> bool {
        self.files.iter().any(|file| {
            let rest = file.path.strip_prefix(path);
            path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }
}

impl File {
    /// The lines, numbered from 1, that `rule` does not exempt.
    fn lines_under(&self, rule: &str) -> impl Iterator<Item = (usize, &str)> {
        let marker = format!("tidy: {rule} \u{2014} ");
        let mut exempt_next = false;
        self.text.lines().enumerate().filter_map(move |(i, line)| {
            let marked = line.contains(&marker);
            let exempt = marked || exempt_next;
            exempt_next = marked;
            (!exempt).then_some((i + 1, line))
        })
    }

    fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, message: message.into() }
    }
}

#[derive(Debug)]
struct Finding {
    path: String,
    /// 0 where the finding is about the file as a whole.
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// What a rule says about files given as path and text, as `path:line` for brevity.
#[cfg(test)]
fn places(rule: fn(&Tree) -> Vec<Finding>, files: &[(&str, &str)]) -> Vec<String> {
    let findings = rule(&Tree::of(files));
    let place = |finding: &Finding| format!("{}:{}", finding.path, finding.line);
    findings.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_exempts_its_own_line_and_the_next_from_one_rule() {
        let tree = Tree::of(&[("a", "x // tidy: sleep \u{2014} why\nx\nx\nx // tidy: sleep\n")]);
        let numbers = |rule| {
            let lines = tree.files[0].lines_under(rule);
            lines.map(|(number, _)| number).collect::<Vec<_>>()
        };
        assert_eq!(numbers("sleep"), [3, 4], "a marker without a reason is none");
        assert_eq!(numbers("path"), [1, 2, 3, 4]);
    }

    #[test]
    fn a_tree_has_files_and_their_directories() {
        let tree = Tree::of(&[("docs/a.md", "")]);
        assert!(tree.has("docs/a.md") && tree.has("docs") && tree.has(""));
        assert!(!tree.has("doc") && !tree.has("docs/a"));
    }

    #[test]
    fn findings_are_printed_as_editors_understand_them() {
        let file = File { path: "a.rs".to_owned(), text: String::new() };
        assert_eq!(file.finding(3, "no").to_string(), "a.rs:3: no");
        assert_eq!(file.finding(0, "no").to_string(), "a.rs: no");
    }
}
