//! Rules about Markdown documents.

use super::{File, Finding, Tree};

pub(super) fn links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| is_read_in_place(file)) {
        let mut in_code = false;
        for (i, line) in file.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            }
            if in_code {
                continue;
            }
            for target in targets(line) {
                if leads_nowhere(tree, &file.path, &target) {
                    findings.push(file.finding(i + 1, format!("`{target}` leads nowhere")));
                }
            }
        }
    }
    findings
}

/// Documents below `src` are part of rustdoc, which checks their links itself.
fn is_read_in_place(file: &File) -> bool {
    file.path.ends_with(".md") && !file.path.split('/').any(|part| part == "src")
}

/// The targets of `[text](target)` and of `[name]: target` in a line.
fn targets(line: &str) -> Vec<String> {
    // What stands between backticks is shown, not linked; the odd pieces do.
    let text: String = line.split('`').step_by(2).collect();
    let inline = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let definition = text.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target);
    let without_title = |target: &str| {
        let word = target.split_whitespace().next().unwrap_or_default();
        word.trim_matches(['<', '>']).to_owned()
    };
    inline.chain(definition).map(without_title).collect()
}

fn leads_nowhere(tree: &Tree, from: &str, target: &str) -> bool {
    let path = target.split('#').next().unwrap_or_default();
    if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
        return false;
    }
    let mut place: Vec<&str> = from.split('/').collect();
    place.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if place.pop().is_none() {
                    return true;
                }
            }
            name => place.push(name),
        }
    }
    path.starts_with('/') || !tree.has(&place.join("/"))
}

pub(super) fn decisions(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut numbered = Vec::new();
    for file in &tree.files {
        let Some(name) = file.path.strip_prefix("docs/decisions/") else {
            continue;
        };
        if name == "README.md" {
            continue;
        }
        match name.split_once('-').map(|(number, _)| (number.len(), number.parse::<usize>())) {
            Some((4, Ok(number))) => numbered.push((number, file)),
            _ => findings.push(file.finding(0, "a decision is called NNNN-what-was-decided.md")),
        }
    }
    numbered.sort_by_key(|(number, _)| *number);
    for (i, (number, file)) in numbered.iter().enumerate() {
        if *number != i + 1 {
            findings.push(file.finding(0, format!("number {:04} is the next", i + 1)));
            break;
        }
    }
    findings
}

/// Between backticks in the list of threats, whatever reads like a sentence is the name of a test.
pub(super) fn tests_named(tree: &Tree) -> Vec<Finding> {
    let is_name = |text: &str| {
        text.matches('_').count() >= 3
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path == "docs/THREATS.md") {
        for (i, line) in file.text.lines().enumerate() {
            for name in line.split('`').skip(1).step_by(2).filter(|text| is_name(text)) {
                let definition = format!("fn {name}(");
                if !tree.rust().any(|source| source.text.contains(&definition)) {
                    findings.push(file.finding(i + 1, format!("there is no test `{name}`")));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn a_test_that_is_named_and_not_there_is_found() {
        let threats = "| `a_test_that_is` | `a_test_that_is_not` `cargo xtask ci` |\n";
        let files = [("docs/THREATS.md", threats), ("tests/a.rs", "fn a_test_that_is() {}")];
        assert_eq!(places(tests_named, &files), ["docs/THREATS.md:1"]);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found_in_every_spelling() {
        for line in [
            "[a](gone.md)",
            "[a](b.md), [c](gone.md#part)",
            "![a](../docs/gone.png \"title\")",
            "[a]: gone.md",
            "[a](</gone.md>)",
            "[a](/docs/b.md)",
            "[a](../../b.md)",
        ] {
            let files = [("docs/a.md", line), ("docs/b.md", "")];
            assert_eq!(places(links, &files), ["docs/a.md:1"], "{line}");
        }
    }

    #[test]
    fn links_that_lead_somewhere_pass() {
        let text = "[a](b.md) [b](./b.md#x) [c](../docs) [d](#here) [e](https://example.com)\n\
            `[f](gone.md)`\n```\n[g](gone.md)\n```\n[h]: ../crates/c/src/lib.rs\n";
        let files = [
            ("docs/a.md", text),
            ("docs/b.md", ""),
            ("crates/c/src/lib.rs", ""),
            ("crates/c/src/guide.md", "[rustdoc](crate::Session)"),
        ];
        assert!(places(links, &files).is_empty(), "{:?}", links(&Tree::of(&files)));
    }

    #[test]
    fn a_gap_a_double_and_a_stray_name_among_decisions_are_found() {
        let places = |names: &[&str]| {
            let paths: Vec<_> = names.iter().map(|name| format!("docs/decisions/{name}")).collect();
            let files: Vec<_> = paths.iter().map(|path| (path.as_str(), "")).collect();
            places(decisions, &files).len()
        };
        assert_eq!(places(&["0002-b.md", "0001-a.md", "README.md"]), 0);
        assert_eq!(places(&["0001-a.md", "0003-b.md"]), 1);
        assert_eq!(places(&["0001-a.md", "0001-b.md"]), 1);
        assert_eq!(places(&["0001-a.md", "notes.md", "2-b.md"]), 2);
    }
}
