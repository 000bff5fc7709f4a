//! `cargo xtask services`: the servers that the tests share.
//!
//! A supervisor process (services/supervisor.rs) owns them, and writes them down where
//! `cloakroom_services::shared` finds them.

mod supervisor;

use cloakroom_services::shared::{SERVICES, Service};
use cloakroom_services::state::{self, Entry};

pub(crate) use self::supervisor::Held;
use crate::{Result, packages};

pub(crate) fn run(args: &[String]) -> Result<()> {
    match parse(args)? {
        Request::Help(text) => {
            print!("{text}");
            Ok(())
        }
        Request::Up(services) => up(&services),
        Request::Down => down(),
        Request::Status => status(),
        Request::Urls => urls(),
        Request::Supervise(services) => supervisor::supervise(&services),
    }
}

/// Starts what does not run, until [`Held::end`] or the end of this process, however it ends. What
/// ran before stays.
pub(crate) fn hold() -> Result<Held> {
    supervisor::start(&not_running(&SERVICES.iter().collect::<Vec<_>>())?)
}

fn up(services: &[&'static Service]) -> Result<()> {
    supervisor::start(&not_running(services)?)?.keep()?;
    println!("The tests find them by themselves; `cargo xtask services urls` prints where they are, `down` ends them.");
    Ok(())
}

/// Those to be started, after a word about those that are not.
fn not_running(services: &[&'static Service]) -> Result<Vec<&'static Service>> {
    let entries = state::read().map_err(text)?;
    let mut missing = Vec::new();
    let mut leftovers = Vec::new();
    for service in services {
        let entry = entries.iter().find(|entry| entry.name == service.name);
        if service.named_by_environment().is_some() {
            println!("  {:<11} is yours: {} names it", service.name, service.variable);
        } else if entry.is_some_and(Entry::runs) {
            println!("  {:<11} is up already", service.name);
        } else {
            leftovers.extend(entry.cloned());
            missing.push(*service);
        }
    }
    for entry in &leftovers {
        println!("  {:<11} has died: what is left of it is removed", entry.name);
        supervisor::remove(entry)?;
    }
    forget(&leftovers)?;
    if !missing.is_empty() {
        packages::install_missing(cloakroom_services::PROGRAMS, "The tests run on real servers.")?;
    }
    Ok(missing)
}

fn down() -> Result<()> {
    let entries = state::read().map_err(text)?;
    if entries.is_empty() {
        println!("Nothing is up.");
        return Ok(());
    }
    // A supervisor takes its servers along; all of them are told before any is waited for.
    for entry in &entries {
        entry.supervisor.signal("TERM").map_err(text)?;
    }
    for entry in &entries {
        supervisor::remove(entry)?;
        println!("  {:<11} is down", entry.name);
    }
    forget(&entries)
}

fn forget(gone: &[Entry]) -> Result<()> {
    state::change(|entries| entries.retain(|entry| !gone.contains(entry))).map_err(text)
}

fn status() -> Result<()> {
    let entries = state::read().map_err(text)?;
    let mut table = String::new();
    for service in SERVICES {
        let entry = entries.iter().find(|entry| entry.name == service.name);
        let (word, detail) = describe(service, entry);
        table.push_str(&format!("{:<11} {word:<6} {detail}\n", service.name));
    }
    print!("{table}");
    Ok(())
}

fn describe(service: &Service, entry: Option<&Entry>) -> (&'static str, String) {
    if service.named_by_environment().is_some() {
        return ("yours", format!("{} names it", service.variable));
    }
    match entry {
        None => ("down", service.about.to_owned()),
        Some(entry) => {
            let pids: Vec<_> = entry.servers.iter().map(|pid| pid.id().to_string()).collect();
            let detail = format!("{}, pid {}", masked(&entry.url), pids.join(" "));
            if entry.runs() { ("up", detail) } else { ("DIED", detail) }
        }
    }
}

/// The URL without its passwords: the one before the host, and the one that Sentinels ask for.
fn masked(url: &str) -> String {
    let masked = || {
        let (scheme, rest) = url.split_once("://")?;
        let (login, place) = rest.split_once('@')?;
        let (user, _) = login.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{place}"))
    };
    let url = masked().unwrap_or_else(|| url.to_owned());
    match url.split_once("_password=") {
        Some((start, _)) => format!("{start}_password=***"),
        None => url,
    }
}

fn urls() -> Result<()> {
    let entries = state::read().map_err(text)?;
    let mut lines = String::new();
    for service in SERVICES {
        let running = entries.iter().find(|entry| entry.name == service.name && entry.runs());
        let url = service.named_by_environment().or_else(|| running.map(|entry| entry.url.clone()));
        if let Some(url) = url {
            lines.push_str(&format!("export {}='{}'\n", service.variable, url.replace('\'', r"'\''")));
        }
    }
    if lines.is_empty() {
        return Err("nothing is up: cargo xtask services up".to_owned());
    }
    print!("{lines}");
    Ok(())
}

enum Request {
    Help(String),
    Up(Vec<&'static Service>),
    Down,
    Status,
    Urls,
    Supervise(Vec<&'static Service>),
}

fn parse(args: &[String]) -> Result<Request> {
    let Some((command, rest)) = args.split_first() else { return Ok(Request::Help(help())) };
    if matches!(command.as_str(), "help" | "--help" | "-h") {
        return Ok(Request::Help(help()));
    }
    if !["up", "down", "status", "urls", "supervise"].contains(&command.as_str()) {
        return Err(format!("services does not know `{command}`; it knows up, down, status and urls"));
    }
    let mut only = None;
    let mut rest = rest.iter();
    while let Some(arg) = rest.next() {
        let (option, inline) = match arg.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None => (arg.as_str(), None),
        };
        match (option, inline) {
            ("--help" | "-h", None) => return Ok(Request::Help(help_on(command))),
            ("--only", _) if matches!(command.as_str(), "up" | "supervise") => {
                let names = inline
                    .or_else(|| rest.next().map(String::as_str))
                    .ok_or_else(|| format!("--only needs a name: {}", names()))?;
                let services: Result<Vec<_>> = names.split(',').map(named).collect();
                only.get_or_insert_with(Vec::new).extend(services?);
            }
            _ => return Err(format!("services {command} does not know `{arg}`\n\n{}", help_on(command))),
        }
    }
    let services = || match &only {
        None => SERVICES.iter().collect(),
        // Each once, in the order of all.
        Some(only) => SERVICES.iter().filter(|service| only.contains(&service.name)).collect(),
    };
    Ok(match command.as_str() {
        "up" => Request::Up(services()),
        "down" => Request::Down,
        "status" => Request::Status,
        "urls" => Request::Urls,
        _ => Request::Supervise(services()),
    })
}

fn named(name: &str) -> Result<&'static str> {
    let known = SERVICES.iter().map(|service| service.name).find(|known| *known == name);
    known.ok_or_else(|| format!("there is no service `{name}`; there are: {}", names()))
}

fn names() -> String {
    let names: Vec<_> = SERVICES.iter().map(|service| service.name).collect();
    names.join(", ")
}

fn help() -> String {
    let mut text = String::from(
        "usage: cargo xtask services COMMAND\n\n\
         The servers that the tests share. They are private: on free ports of 127.0.0.1, in temporary\n\
         directories, with passwords made up for them. No server of the system is touched.\n\n\
         commands:\n",
    );
    for (command, about) in COMMANDS {
        text.push_str(&format!("  {command:<7} {about}\n"));
    }
    text.push_str("\nservices, and the variables that name others instead:\n");
    for service in SERVICES {
        text.push_str(&format!("  {:<11} {:<26} {}\n", service.name, service.variable, service.about));
    }
    text
}

const COMMANDS: &[(&str, &str)] = &[
    ("up", "start those that do not run, and leave them running"),
    ("down", "end everything that `up` started"),
    ("status", "say which run, and where"),
    ("urls", "print the lines that name them in the environment of a shell"),
];

fn help_on(command: &str) -> String {
    let about = COMMANDS.iter().find(|(known, _)| *known == command).map_or("", |(_, about)| *about);
    let options = match command {
        "up" => format!(
            "\n\nPrograms that are missing are installed first, as Debian packages, which needs root. What the\n\
             environment names is not started.\n\n\
             options:\n  --only NAME[,NAME]  start these alone: {}\n",
            names()
        ),
        "urls" => "\n\n  eval \"$(cargo xtask services urls)\"\n".to_owned(),
        _ => "\n".to_owned(),
    };
    format!("usage: cargo xtask services {command}\n\n{about}{options}")
}

fn text(error: cloakroom_services::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(args: &str) -> Result<Vec<&'static str>> {
        let args: Vec<_> = args.split_whitespace().map(str::to_owned).collect();
        let Request::Up(services) = parse(&args)? else { panic!("{args:?} starts nothing") };
        Ok(services.iter().map(|service| service.name).collect())
    }

    #[test]
    fn all_are_started_unless_some_are_named() {
        assert_eq!(chosen("up").unwrap().len(), SERVICES.len());
        assert_eq!(chosen("up --only postgres,redis").unwrap(), ["redis", "postgres"]);
        assert_eq!(chosen("up --only=redis --only redis").unwrap(), ["redis"]);
    }

    #[test]
    fn what_is_not_known_is_answered_with_what_is() {
        assert!(chosen("up --only oracle").unwrap_err().contains("`oracle`; there are: redis, "));
        assert!(chosen("up --only").unwrap_err().contains("needs a name: redis, "));
        assert!(chosen("start").unwrap_err().contains("up, down, status and urls"));
        assert!(chosen("down --only redis").unwrap_err().contains("usage: cargo xtask services down"));
    }

    #[test]
    fn every_command_and_service_is_in_the_help() {
        for (command, about) in COMMANDS {
            assert!(help().contains(about) && help_on(command).contains(about));
        }
        for service in SERVICES {
            assert!(help().contains(service.variable) && help_on("up").contains(service.name));
        }
    }

    #[test]
    fn a_password_is_masked_wherever_it_is() {
        assert_eq!(masked("redis://u:secret@h:1/0?x=y"), "redis://u:***@h:1/0?x=y");
        let sentinel = "redis+sentinel://u:secret@h:1,h:2/s?sentinel_password=secret";
        assert_eq!(masked(sentinel), "redis+sentinel://u:***@h:1,h:2/s?sentinel_password=***");
        assert_eq!(masked("redis+unix:///a/b"), "redis+unix:///a/b");
    }
}
