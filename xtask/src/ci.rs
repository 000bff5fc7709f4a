//! `cargo xtask ci`: named steps, each a few command lines that can also be run by hand.

mod backends;
mod deny;
mod steps;
mod tools;
mod upstream;
mod workspace;

use std::time::{Duration, Instant};

use crate::services::{self, Held};
use crate::{Result, shell};

struct Step {
    name: &'static str,
    about: &'static str,
    /// Returns what the final table shall say beyond "ok", often nothing; lines after the first are
    /// printed below that table.
    run: fn() -> Result<String>,
    needs: Needs,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// The servers that the tests share (`cargo xtask services`), which then run for this long only.
    Servers,
}

use Needs::{Nothing, Servers};

/// In the order in which they run: the cheap ones first, and the tools before what needs them.
const STEPS: &[Step] = &[
    step("tools", "install the tools that are missing", tools::install_missing, Nothing),
    step("fmt", "the sources are formatted", steps::fmt, Nothing),
    step("tidy", "the workspace's own rules, see xtask/src/tidy.rs", crate::tidy::check, Nothing),
    step("clippy", "no lint fires with the default features, with none and with all", steps::clippy, Nothing),
    step(
        "features",
        "each crate compiles without warnings alone, with none and with each of its features",
        steps::features,
        Nothing,
    ),
    step("test", "unit and integration tests, on real servers and in a real browser", steps::test, Servers),
    step("doctest", "the examples in the documentation compile and hold", steps::doctest, Servers),
    step(
        "upstream",
        "the tests that tower-sessions and actix-session publish pass on our stores",
        upstream::run,
        Servers,
    ),
    step("docs", "the documentation builds without warnings", steps::docs, Nothing),
    step("deny", "licences, bans, sources and advisories of the dependencies, see deny.toml", deny::check, Nothing),
    step("examples", "the examples and the demo build", steps::examples, Nothing),
    step("bench", "the benchmarks build", steps::bench, Nothing),
];

const fn step(name: &'static str, about: &'static str, run: fn() -> Result<String>, needs: Needs) -> Step {
    Step { name, about, run, needs }
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    match parse(args)? {
        Request::Help => print!("{}", help()),
        Request::List => print!("{}", list()),
        Request::Run { steps, keep_going } => return run_steps(&steps, keep_going),
    }
    Ok(())
}

enum Request {
    Help,
    List,
    Run { steps: Vec<&'static Step>, keep_going: bool },
}

fn parse(args: &[String]) -> Result<Request> {
    let (mut only, mut skip) = (Vec::new(), Vec::new());
    let mut keep_going = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (option, inline) = match arg.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None => (arg.as_str(), None),
        };
        match (option, inline) {
            ("--help" | "-h", None) => return Ok(Request::Help),
            ("--list", None) => return Ok(Request::List),
            ("--keep-going", None) => keep_going = true,
            ("--only" | "--skip", _) => {
                let names = inline
                    .or_else(|| args.next().map(String::as_str))
                    .ok_or_else(|| format!("{option} needs the name of a step: {}", names()))?;
                let chosen = if option == "--only" { &mut only } else { &mut skip };
                for name in names.split(',') {
                    chosen.push(named(name)?);
                }
            }
            _ => {
                return Err(format!(
                    "ci does not know `{arg}`; it knows --list, --only STEP[,STEP], \
                     --skip STEP[,STEP], --keep-going and --help"
                ));
            }
        }
    }
    let steps: Vec<_> = STEPS
        .iter()
        .filter(|step| only.is_empty() || only.contains(&step.name))
        .filter(|step| !skip.contains(&step.name))
        .collect();
    if steps.is_empty() {
        return Err("--only and --skip together leave no step to run".to_owned());
    }
    Ok(Request::Run { steps, keep_going })
}

fn named(name: &str) -> Result<&'static str> {
    STEPS
        .iter()
        .map(|step| step.name)
        .find(|&known| known == name)
        .ok_or_else(|| format!("there is no step `{name}`; the steps are: {}", names()))
}

fn names() -> String {
    let names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
    names.join(", ")
}

fn help() -> String {
    format!(
        "usage: cargo xtask ci [OPTIONS]\n\n\
         Runs every step in order, and stops at the first that fails.\n\n\
         options:\n\
         \x20 --list              show the steps and do nothing\n\
         \x20 --only STEP[,STEP]  run these steps alone\n\
         \x20 --skip STEP[,STEP]  run all but these\n\
         \x20 --keep-going        run the remaining steps after a failure\n\n\
         steps:\n{}",
        list()
    )
}

fn list() -> String {
    let line = |step: &Step| format!("  {:<9} {}\n", step.name, step.about);
    STEPS.iter().map(line).collect()
}

/// How one step ended; a step that was not reached has no outcome.
struct Outcome {
    result: Result<String>,
    took: Duration,
}

fn run_steps(steps: &[&Step], keep_going: bool) -> Result<()> {
    let start = Instant::now();
    for (name, value) in shell::ci_environment() {
        println!("CI is set: every command also gets {name}={value}, unless it is set already");
    }
    let mut outcomes = Vec::new();
    let mut servers = None;
    for (i, step) in steps.iter().enumerate() {
        println!("\n[{}/{}] {}: {} (elapsed {})", i + 1, steps.len(), step.name, step.about, human(start.elapsed()));
        let begun = Instant::now();
        let result = provide(&mut servers, step).and_then(|()| (step.run)());
        let goes_on = result.is_ok() || keep_going;
        let needed_later = goes_on && steps[i + 1..].iter().any(|later| later.needs == Servers);
        let ended = if needed_later { Ok(()) } else { end(servers.take()) };
        let result = result.and_then(|note| ended.map(|()| note));
        if let Err(message) = &result {
            println!("{}: FAILED: {message}", step.name);
        }
        let failed = result.is_err();
        outcomes.push(Outcome { result, took: begun.elapsed() });
        if failed && !keep_going {
            break;
        }
    }
    print!("\n{}", table(steps, &outcomes));
    verdict(steps, &outcomes, start.elapsed()).map(|line| println!("{line}"))
}

/// Starts the servers before the first step that needs them.
fn provide(servers: &mut Option<Held>, step: &Step) -> Result<()> {
    if step.needs == Servers && servers.is_none() {
        *servers = Some(services::hold()?);
    }
    Ok(())
}

/// Ends them after the last one. Should this process die before, they end by themselves.
fn end(servers: Option<Held>) -> Result<()> {
    servers.map_or(Ok(()), Held::end)
}

fn table(steps: &[&Step], outcomes: &[Outcome]) -> String {
    let mut text = format!("{:<10}{:<9}{:>8}  note\n", "step", "result", "time");
    for (i, step) in steps.iter().enumerate() {
        let (result, took, note) = match outcomes.get(i) {
            None => ("not run", String::new(), ""),
            Some(outcome) => match &outcome.result {
                Ok(note) => ("ok", human(outcome.took), note.lines().next().unwrap_or_default()),
                Err(message) => ("FAILED", human(outcome.took), message.as_str()),
            },
        };
        let line = format!("{:<10}{result:<9}{took:>8}  {note}", step.name);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for note in outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok()) {
        if let Some((_, below)) = note.split_once('\n') {
            text.push_str(&format!("\n{below}"));
        }
    }
    text
}

/// The last line of the run.
fn verdict(steps: &[&Step], outcomes: &[Outcome], took: Duration) -> Result<String> {
    let failed: Vec<_> =
        steps.iter().zip(outcomes).filter(|(_, outcome)| outcome.result.is_err()).map(|(step, _)| step.name).collect();
    let took = human(took);
    if failed.is_empty() {
        return Ok(format!("ci passed in {took} (steps: {})", steps.len()));
    }
    let failed = failed.join(",");
    Err(format!("ci FAILED after {took}: {failed} (again alone: cargo xtask ci --only {failed})"))
}

fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 { format!("{:.1}s", time.as_secs_f64()) } else { format!("{}m{:02}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(args: &[&str]) -> Result<Vec<&'static str>> {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        match parse(&args)? {
            Request::Run { steps, .. } => Ok(steps.iter().map(|step| step.name).collect()),
            Request::Help | Request::List => panic!("{args:?} runs nothing"),
        }
    }

    fn outcome(result: Result<&str>) -> Outcome {
        Outcome { result: result.map(str::to_owned), took: Duration::from_secs(75) }
    }

    #[test]
    fn all_steps_run_unless_some_are_chosen_and_the_order_is_fixed() {
        assert_eq!(chosen(&[]).unwrap().len(), STEPS.len());
        assert_eq!(chosen(&["--only", "docs,fmt"]).unwrap(), ["fmt", "docs"]);
        assert_eq!(chosen(&["--only=test", "--only=fmt"]).unwrap(), ["fmt", "test"]);
        let skipped = chosen(&["--skip", "tools,bench"]).unwrap();
        assert_eq!(skipped.len(), STEPS.len() - 2);
        assert!(!skipped.contains(&"tools"));
    }

    #[test]
    fn an_unknown_step_is_answered_with_the_known_ones() {
        let error = chosen(&["--only", "fmt,lint"]).unwrap_err();
        assert!(error.contains("`lint`") && error.contains("clippy"), "{error}");
    }

    #[test]
    fn unknown_and_incomplete_options_are_refused() {
        assert!(chosen(&["--fast"]).unwrap_err().contains("--keep-going"));
        assert!(chosen(&["--list=x"]).is_err());
        assert!(chosen(&["--only"]).unwrap_err().contains("needs the name of a step"));
        assert!(chosen(&["--only", "fmt", "--skip", "fmt"]).is_err());
    }

    #[test]
    fn the_table_tells_passed_failed_and_not_run_apart() {
        let steps: Vec<_> = STEPS.iter().take(3).collect();
        let outcomes = [outcome(Ok("12 done\na  1\n")), outcome(Err("`x` ended".to_owned()))];
        let table = table(&steps, &outcomes);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[1], "tools     ok          1m15s  12 done");
        assert_eq!(lines[2], "fmt       FAILED      1m15s  `x` ended");
        assert_eq!(lines[3], "tidy      not run");
        assert_eq!(lines[4..], ["", "a  1"], "what a step has to say at length comes last");
    }

    #[test]
    fn one_failed_step_fails_the_run_and_is_named_in_the_last_line() {
        let steps: Vec<_> = STEPS.iter().take(2).collect();
        let took = Duration::from_millis(1500);
        let passed = [outcome(Ok("")), outcome(Ok(""))];
        assert_eq!(verdict(&steps, &passed, took).unwrap(), "ci passed in 1.5s (steps: 2)");
        let failed = [outcome(Err("no".to_owned())), outcome(Ok(""))];
        let line = verdict(&steps, &failed, took).unwrap_err();
        assert!(line.ends_with("cargo xtask ci --only tools)"), "{line}");
    }
}
