//! Rules about the text of source files.
//!
//! The words that a rule looks for are put together from halves, so that it doesn't find itself.

use super::{File, Finding, Tree};

const MOST_LINES: usize = 900;

pub(super) fn documented(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for manifest in &tree.files {
        let Some(dir) = manifest.path.strip_suffix("/Cargo.toml") else {
            continue;
        };
        if !dir.starts_with("crates/") {
            continue;
        }
        let roots = [format!("{dir}/src/lib.rs"), format!("{dir}/src/main.rs")];
        let root = roots.iter().find_map(|path| tree.files.iter().find(|file| file.path == *path));
        match root {
            None => {
                findings.push(manifest.finding(0, "the crate has no src/lib.rs or src/main.rs"));
            }
            Some(root) if !root.text.starts_with("//!") => {
                findings.push(root.finding(1, "begin with what the crate is for, as `//!` comment"));
            }
            Some(_) => {}
        }
    }
    findings
}

pub(super) fn unfinished(tree: &Tree) -> Vec<Finding> {
    let words = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!("), concat!("#[", "ignore")];
    let mut findings = Vec::new();
    for file in tree.rust() {
        for (number, line) in file.lines_under("unfinished") {
            for word in words.iter().filter(|word| line.contains(*word)) {
                findings.push(file.finding(number, format!("`{word}` is not for keeping")));
            }
        }
    }
    findings
}

pub(super) fn machine_paths(tree: &Tree) -> Vec<Finding> {
    let places = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/t", "mp/"), concat!("/Us", "ers/")];
    let mut findings = Vec::new();
    for file in &tree.files {
        for (number, line) in file.lines_under("path") {
            for place in places.iter().filter(|place| has_path_below(line, place)) {
                let message = format!("`{place}…` is a path of one machine; tests use `tempfile`");
                findings.push(file.finding(number, message));
            }
        }
    }
    findings
}

/// Whether an absolute path starts with `place` and goes on: not the end of another path or URL.
fn has_path_below(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + place.len()..].chars().next();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-}~".contains(c))
            && after.is_some_and(|c| c.is_alphanumeric() || "._-{$".contains(c))
    })
}

pub(super) fn sleeps(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let tests_begin = first_line_of_tests(file);
        for (number, line) in file.lines_under("sleep") {
            if number >= tests_begin && calls_sleep(line) {
                let message = "a test that sleeps is slow or flaky: await the event, or move the \
                               clock; where time itself is the point, `// tidy: sleep \u{2014} why`";
                findings.push(file.finding(number, message));
            }
        }
    }
    findings
}

/// Test modules are at the end of a file, so everything from the first one on is test.
fn first_line_of_tests(file: &File) -> usize {
    let is_test_file = file.path.split('/').any(|part| part == "tests" || part == "tests.rs");
    if is_test_file {
        return 1;
    }
    let lines: Vec<_> = file.text.lines().map(str::trim).collect();
    let module = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    module.map_or(usize::MAX, |i| i + 1)
}

fn calls_sleep(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["sleep(", "sleep_until("].iter().any(|call| {
        code.match_indices(call).any(|(at, _)| {
            let before = &code[..at];
            // A method or an own function of that name is something else.
            let own = before.ends_with("fn ") || before.ends_with('.');
            !own && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
        })
    })
}

pub(super) fn length(tree: &Tree) -> Vec<Finding> {
    let sources = [".rs", ".sql", ".lua", ".html", ".css", ".js", ".sh"];
    let is_source = |file: &&File| sources.iter().any(|end| file.path.ends_with(end));
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(is_source) {
        let lines = file.text.lines().count();
        if lines > MOST_LINES {
            let message = format!("{lines} lines; split what is more than one idea ({MOST_LINES} at most)");
            findings.push(file.finding(0, message));
        }
    }
    findings
}

pub(super) fn characters(tree: &Tree) -> Vec<Finding> {
    // What insta writes is not ours to format.
    let is_ours = |file: &&File| !file.path.ends_with(".snap");
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(is_ours) {
        // Not `lines`, which would hide a carriage return.
        for (i, line) in file.text.split('\n').enumerate() {
            if let Some(c) = line.chars().find(|&c| is_invisible(c)) {
                let message = format!("the invisible character U+{:04X}", u32::from(c));
                findings.push(file.finding(i + 1, message));
            } else if line.ends_with(char::is_whitespace) {
                findings.push(file.finding(i + 1, "blanks at the end of the line"));
            }
        }
        if !file.text.is_empty() && !file.text.ends_with('\n') {
            findings.push(file.finding(file.text.lines().count(), "the last line does not end"));
        }
    }
    findings
}

/// Tabs and other control characters, and what reorders or hides the text around it.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn a_crate_without_documentation_or_root_is_found() {
        let manifest = ("crates/a/Cargo.toml", "");
        let undocumented = [manifest, ("crates/a/src/lib.rs", "mod x;\n")];
        assert_eq!(places(documented, &undocumented), ["crates/a/src/lib.rs:1"]);
        assert_eq!(places(documented, &[manifest]), ["crates/a/Cargo.toml:0"]);
        let program = [manifest, ("crates/a/src/main.rs", "//! Good.\n")];
        assert!(places(documented, &program).is_empty());
    }

    #[test]
    fn what_was_left_undone_is_found() {
        for word in [
            concat!("todo", "!()"),
            concat!("unimplemented", "!(\"x\")"),
            concat!("dbg", "!(x)"),
            concat!("#[", "ignore]"),
            concat!("#[", "ignore = \"slow\"]"),
        ] {
            assert_eq!(places(unfinished, &[("a.rs", &format!("\n    {word};\n"))]), ["a.rs:2"]);
        }
    }

    #[test]
    fn paths_of_one_machine_are_found_and_routes_are_not() {
        for line in [
            concat!("see /ho", "me/me/x"),
            concat!("\"/ro", "ot/.cargo\""),
            concat!("sqlite:///t", "mp/a.db"),
            concat!("`/Us", "ers/me`"),
        ] {
            assert_eq!(places(machine_paths, &[("a.md", line)]), ["a.md:1"], "{line}");
        }
        for line in [
            concat!("https://example.com/ho", "me/x"),
            concat!("/ho", "me/"),
            concat!("{dir}/t", "mp/x"),
            concat!("x = \"/t", "mp/x\" # tidy: path \u{2014} never opened"),
        ] {
            assert!(places(machine_paths, &[("a.md", line)]).is_empty(), "{line}");
        }
    }

    #[test]
    fn sleeping_tests_are_found_wherever_tests_are() {
        let call = concat!("    tokio::time::sl", "eep(x).await;\n");
        for path in ["tests/it/a.rs", "crates/a/tests/b.rs", "crates/a/src/plan/tests.rs"] {
            assert_eq!(places(sleeps, &[(path, call)]), [format!("{path}:1")]);
        }
        let inline = format!("{call}#[cfg(test)]\nmod tests {{\n{call}}}\n");
        assert_eq!(places(sleeps, &[("crates/a/src/b.rs", &inline)]), ["crates/a/src/b.rs:4"]);
        let helper = format!("#[cfg(test)]\nfn help() {{}}\nfn wait() {{\n{call}}}\n");
        assert!(places(sleeps, &[("crates/a/src/b.rs", &helper)]).is_empty());
    }

    #[test]
    fn sleeps_with_a_reason_and_functions_of_that_name_pass() {
        let reason = concat!("// tidy: sleep \u{2014} time is the point\nthread::sl", "eep(x);\n");
        assert!(places(sleeps, &[("tests/a.rs", reason)]).is_empty());
        let own = concat!("fn sl", "eep() {}\nclock.sl", "eep(x);\n// sl", "eep(x)\nno_sl", "eep();\n");
        assert!(places(sleeps, &[("tests/a.rs", own)]).is_empty());
        let alone = concat!("use std::thread::sleep;\nsl", "eep(x);\n");
        assert_eq!(places(sleeps, &[("tests/a.rs", alone)]), ["tests/a.rs:2"]);
    }

    #[test]
    fn a_long_file_is_found() {
        let text = "x\n".repeat(MOST_LINES);
        assert!(places(length, &[("a.rs", &text)]).is_empty());
        assert_eq!(places(length, &[("a.rs", &(text + "x\n"))]), ["a.rs:0"]);
    }

    #[test]
    fn characters_that_nobody_sees_are_found() {
        for line in ["\tx\n", "x \n", "x\r\n", "x\u{a0}\n", "x\u{202e}y\n", "\u{feff}x\n", "x\u{0}\n", "x"] {
            assert_eq!(places(characters, &[("a.md", line)]), ["a.md:1"], "{line:?}");
        }
        assert!(places(characters, &[("a.md", "naïve — “x” … ≤ 1 s\n\n")]).is_empty());
        assert!(places(characters, &[("a.snap", "x \n")]).is_empty());
    }
}
