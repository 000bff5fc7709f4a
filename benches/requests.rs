//! What a session costs a request, over the same application without sessions, in one run:
//! time, allocations and, where valgrind is installed, instructions.
//!
//! ```text
//! cargo bench -p cloakroom-benches --bench requests                   the table
//! cargo bench -p cloakroom-benches --bench requests -- --no-valgrind  without counting instructions
//! ```
//!
//! Instructions are counted by `valgrind --tool=callgrind` in a process of its own, as the
//! difference of two runs of different length. Valgrind offers the program no SHA instructions, so
//! SHA-256 runs in its software form there; the table says what of a count is that.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, reason = "a program that prints a table")]

use std::alloc::System;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom_cookie::{Cipher, EncryptedSeal};
use cloakroom_core::{
    Backend, CookieSettings, Event, EventSink, Key, KeyRing, Manager, MemoryStore, OsRandom, Revocations, SecretKey,
    Session, SessionError,
};
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "requests/actix_app.rs"]
mod actix_app;
#[path = "requests/axum_app.rs"]
mod axum_app;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const VALUE: Key<u64> = Key::new("value");

/// The events would go to a log; here they go nowhere, as in a production set-up at `WARN`.
#[derive(Debug)]
struct Silent;

impl EventSink for Silent {
    fn emit(&self, event: &Event<'_>) {
        black_box(event);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Framework {
    Axum,
    Actix,
}

impl Framework {
    const ALL: [Self; 2] = [Self::Axum, Self::Actix];

    fn name(self) -> &'static str {
        match self {
            Self::Axum => "axum",
            Self::Actix => "actix",
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bare,
    /// What the framework's own way of layering costs: a layer that does nothing.
    NoOp,
    Memory,
    Sealed(Cipher),
}

impl Kind {
    const ALL: [Self; 4] =
        [Self::NoOp, Self::Memory, Self::Sealed(Cipher::XChaCha20Poly1305), Self::Sealed(Cipher::Aes256GcmSiv)];

    fn name(self) -> &'static str {
        match self {
            Self::Bare => "none",
            Self::NoOp => "a layer that does nothing",
            Self::Memory => "memory",
            Self::Sealed(Cipher::Aes256GcmSiv) => "sealed, AES-256-GCM-SIV",
            Self::Sealed(_) => "sealed, XChaCha20-Poly1305",
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Task {
    Untouched,
    Read,
    ReadLarge,
    Change,
    SignIn,
}

impl Task {
    const ALL: [Self; 5] = [Self::Untouched, Self::Read, Self::ReadLarge, Self::Change, Self::SignIn];

    fn name(self, kind: Kind) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Read => "read one key, 200 B",
            Self::ReadLarge if matches!(kind, Kind::Sealed(_)) => "read one key, 2.7 KiB",
            Self::ReadLarge => "read one key, 4 KiB",
            Self::Change => "change one key, 200 B",
            Self::SignIn => "sign in",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Untouched => "/untouched",
            Self::Read | Self::ReadLarge => "/read",
            Self::Change => "/change",
            Self::SignIn => "/sign-in",
        }
    }

    /// The values in the record besides the one that is read: 4 KiB do not fit into a cookie.
    fn filling(self, kind: Kind) -> usize {
        match self {
            Self::ReadLarge if kind == Kind::Memory => 19,
            Self::ReadLarge => 13,
            Self::Untouched | Self::Read | Self::Change | Self::SignIn => 0,
        }
    }

    /// The most that it may cost over an application with a layer that does nothing, as
    /// `docs/ARCHITECTURE.md` lists it.
    fn budget(self, kind: Kind) -> Option<Budget> {
        let counts = |instructions, allocations| Some(Budget::Counts { instructions, allocations });
        match (self, kind) {
            (_, Kind::Bare | Kind::NoOp) => None,
            (Self::Untouched, _) => counts(1_000, 2),
            (Self::Read, Kind::Memory) => counts(5_000, 8),
            (Self::ReadLarge, Kind::Memory) => Some(Budget::OfTheRowAbove(1.2)),
            (Self::Change, Kind::Memory) => counts(12_000, 16),
            (Self::Read, Kind::Sealed(Cipher::Aes256GcmSiv)) => Some(Budget::Time(Duration::from_nanos(1_800))),
            (Self::Read, Kind::Sealed(_)) => Some(Budget::Time(Duration::from_nanos(3_000))),
            (Self::ReadLarge | Self::Change | Self::SignIn, _) => None,
        }
    }
}

enum Budget {
    Counts {
        instructions: u64,
        allocations: u64,
    },
    /// Instructions, as a ratio to those of the row above.
    OfTheRowAbove(f64),
    Time(Duration),
}

fn read(session: &Session) -> Result<String, SessionError> {
    Ok(session.get(VALUE)?.unwrap_or_default().to_string())
}

fn change(session: &Session) -> Result<String, SessionError> {
    Ok(session.modify(VALUE, |value| *value += 1)?.to_string())
}

fn fill(session: &Session, filling: usize) -> Result<&'static str, SessionError> {
    session.set(VALUE, 1)?;
    session.set("name", "x".repeat(160))?;
    for place in 0..filling {
        session.set(format!("filling-{place}").as_str(), "x".repeat(190))?;
    }
    Ok("hello")
}

/// What is around the handlers of an application.
enum Around {
    Nothing,
    NoOp,
    Sessions(Arc<Manager>),
}

/// An application of one of the frameworks.
enum App {
    Axum(axum_app::App),
    Actix(actix_app::App),
}

/// An application, and a request that it answers again and again.
struct Bench {
    app: App,
    path: &'static str,
    cookie: Option<String>,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(framework: Framework, kind: Kind, task: Task) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let around = match kind {
            Kind::Bare => Around::Nothing,
            Kind::NoOp => Around::NoOp,
            Kind::Memory | Kind::Sealed(_) => Around::Sessions(manager(kind)),
        };
        let app = match framework {
            Framework::Axum => App::Axum(axum_app::App::new(around, task)),
            Framework::Actix => App::Actix(runtime.block_on(actix_app::App::new(around, task))),
        };
        let mut bench = Self { app, path: task.path(), cookie: None, runtime };
        let cookie = match kind {
            // The bare application is sent the same headers.
            Kind::Bare | Kind::NoOp => format!("__Host-id={}", "x".repeat(68)),
            Kind::Memory | Kind::Sealed(_) => bench.signed_up(&format!("/fill/{}", task.filling(kind))),
        };
        bench.cookie = (task != Task::SignIn).then_some(cookie);
        bench
    }

    /// The cookie that the answer to this sets.
    fn signed_up(&self, path: &str) -> String {
        let set_cookie = self.runtime.block_on(async {
            match &self.app {
                App::Axum(app) => app.set_cookie(path).await,
                App::Actix(app) => app.set_cookie(path).await,
            }
        });
        set_cookie.split(';').next().unwrap().to_owned()
    }

    fn run(&self, requests: u64) {
        self.runtime.block_on(async {
            match &self.app {
                App::Axum(app) => app.run(self.path, self.cookie.as_deref(), requests).await,
                App::Actix(app) => app.run(self.path, self.cookie.as_deref(), requests).await,
            }
        });
    }
}

fn manager(kind: Kind) -> Arc<Manager> {
    let keys = KeyRing::new("bench", &[SecretKey::generate(&OsRandom::default()).unwrap()]).unwrap();
    let backend = match kind {
        Kind::Bare | Kind::NoOp | Kind::Memory => Backend::store(Arc::new(MemoryStore::new())),
        Kind::Sealed(cipher) => {
            let seal = EncryptedSeal::new(keys.clone(), Arc::new(OsRandom::default())).sealing_with(cipher);
            Backend::self_contained(Arc::new(seal), Revocations::new(Arc::new(MemoryStore::new())))
        }
    };
    Manager::builder(backend, keys).cookie(CookieSettings::new()).events(Arc::new(Silent)).build().unwrap()
}

struct Figures {
    time: Duration,
    allocations: u64,
    instructions: Option<u64>,
}

/// The median of the time for one request, bare and with sessions taking turns.
fn times(bare: &Bench, with: &Bench) -> (Duration, Duration) {
    const ROUNDS: usize = 15;
    const REQUESTS: u32 = 2_000;
    let time = |bench: &Bench| {
        let start = Instant::now();
        bench.run(u64::from(REQUESTS));
        start.elapsed() / REQUESTS
    };
    let mut rounds: Vec<(Duration, Duration)> = (0..ROUNDS).map(|_| (time(bare), time(with))).collect();
    rounds.sort_by_key(|(bare, with)| with.saturating_sub(*bare));
    rounds[ROUNDS / 2]
}

fn allocations(bench: &Bench) -> u64 {
    bench.run(10);
    let region = Region::new(ALLOCATOR);
    bench.run(100);
    let counted = region.change();
    (counted.allocations + counted.reallocations) as u64 / 100
}

/// One HMAC-SHA-256 over as many bytes as a token has: what every check of a reference token costs.
fn hash(times: u64) {
    let keyed = <Hmac<Sha256> as KeyInit>::new_from_slice(&[7; 32]).unwrap();
    let mut body = [1; 41];
    for _ in 0..times {
        let hash = keyed.clone().chain_update(body).finalize().into_bytes();
        body[..32].copy_from_slice(black_box(&hash));
    }
}

/// Instructions of one request, as the difference of two runs under valgrind.
fn instructions(what: &str) -> Option<u64> {
    let run = |requests: u64| -> Option<u64> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe().ok()?)
            .args(["--count", what, &requests.to_string()])
            .stdout(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stderr).ok()?;
        text.lines().find_map(|line| line.split("Collected : ").nth(1))?.trim().parse().ok()
    };
    let (few, many) = (run(100)?, run(1_100)?);
    Some(many.saturating_sub(few) / 1_000)
}

/// The bare rows of a framework come first.
fn cases(framework: Framework) -> Vec<(Framework, Kind, Task)> {
    let mut cases: Vec<_> = Task::ALL.into_iter().map(|task| (framework, Kind::Bare, task)).collect();
    for kind in Kind::ALL {
        let tasks = Task::ALL.into_iter().filter(|task| kind != Kind::NoOp || *task == Task::Untouched);
        cases.extend(tasks.map(|task| (framework, kind, task)));
    }
    cases
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cases: Vec<_> = Framework::ALL.into_iter().flat_map(cases).collect();
    if let [flag, place, requests] = arguments.as_slice()
        && flag == "--count"
    {
        let requests = requests.parse().unwrap();
        match place.parse::<usize>() {
            Ok(place) => {
                let (framework, kind, task) = cases[place];
                Bench::new(framework, kind, task).run(requests);
            }
            Err(_) => hash(requests),
        }
        return;
    }
    let valgrind = !arguments.iter().any(|argument| argument == "--no-valgrind")
        && Command::new("valgrind")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
    if !valgrind {
        println!(
            "instructions are not counted: valgrind is not installed (apt-get install valgrind), or --no-valgrind was given\n"
        );
    }
    println!("per request, over the same application without sessions (`+`), with the ratio to it in brackets\n");
    println!(
        "{:<10}{:<28}{:<24}{:>20}{:>16}{:>22}   budget",
        "on", "backend", "what", "time", "allocations", "instructions"
    );
    let hash_count = valgrind.then(|| instructions("hash")).flatten();
    let (mut over, mut over_but_for_hash, mut layering, mut above) = (0, 0, (0, 0), None);
    let mut bare: Vec<Figures> = Vec::new();
    for (place, (framework, kind, task)) in cases.into_iter().enumerate() {
        if kind == Kind::Bare {
            if task == Task::Untouched {
                bare.clear();
            }
            let bench = Bench::new(framework, kind, task);
            let (time, _) = times(&bench, &bench);
            let figures = Figures {
                time,
                allocations: allocations(&bench),
                instructions: valgrind.then(|| instructions(&place.to_string())).flatten(),
            };
            if task == Task::Untouched {
                let instructions = figures.instructions.map_or("-".to_owned(), |count| count.to_string());
                println!(
                    "{:<10}{:<28}{:<24}{:>20}{:>16}{:>22}",
                    framework.name(),
                    "none",
                    task.name(kind),
                    format!("{:.2} µs", micros(figures.time)),
                    figures.allocations,
                    instructions
                );
            }
            bare.push(figures);
            continue;
        }
        let base = &bare[Task::ALL.iter().position(|known| *known == task).unwrap_or_default()];
        let (bare_bench, bench) = (Bench::new(framework, Kind::Bare, task), Bench::new(framework, kind, task));
        let (bare_time, time) = times(&bare_bench, &bench);
        let counted = allocations(&bench).saturating_sub(base.allocations);
        let instructions = valgrind.then(|| instructions(&place.to_string())).flatten();
        let executed = instructions.zip(base.instructions).map(|(with, bare)| with.saturating_sub(bare));
        if kind == Kind::NoOp {
            layering = (counted, executed.unwrap_or(0));
        }
        // What the framework charges for any layer around a route is not the session's.
        let own = (counted.saturating_sub(layering.0), executed.map(|count| count.saturating_sub(layering.1)));
        let hashes = if task == Task::Untouched { 0 } else { hash_count.unwrap_or(0) };
        let mut verdict = |kept: bool, kept_but_for_hash: bool| {
            if kept && valgrind {
                "kept"
            } else if kept {
                "kept, as far as it was counted"
            } else if kept_but_for_hash {
                over_but_for_hash += 1;
                "kept but for SHA-256 in software"
            } else {
                over += 1;
                "OVER"
            }
        };
        let verdict = match task.budget(kind) {
            None => String::new(),
            Some(Budget::Counts { instructions, allocations }) => {
                let kept = |without: u64| {
                    own.0 <= allocations && own.1.is_none_or(|count| count.saturating_sub(without) <= instructions)
                };
                format!("{allocations} / {instructions} {}", verdict(kept(0), kept(hashes)))
            }
            Some(Budget::OfTheRowAbove(most)) => match own.1.zip(above) {
                None => format!("{most} of the row above: not counted"),
                Some((count, above)) => {
                    let ratio = count as f64 / above as f64;
                    format!("{most} of the row above: {ratio:.2} {}", verdict(ratio <= most, false))
                }
            },
            Some(Budget::Time(most)) => {
                let spent = time.saturating_sub(bare_time);
                format!("{:.1} µs {}", micros(most), if spent <= most { "kept" } else { verdict(false, false) })
            }
        };
        above = own.1;
        println!(
            "{:<10}{:<28}{:<24}{:>20}{:>16}{:>22}   {verdict}",
            framework.name(),
            kind.name(),
            task.name(kind),
            format!(
                "+{:.2} µs ({:.2})",
                micros(time.saturating_sub(bare_time)),
                time.as_secs_f64() / bare_time.as_secs_f64()
            ),
            format!("+{counted}"),
            executed.map_or("-".to_owned(), |count| format!("+{count}")),
        );
    }
    let start = Instant::now();
    hash(100_000);
    let (time, count) =
        (start.elapsed().as_nanos() / 100_000, hash_count.map_or("-".to_owned(), |count| count.to_string()));
    println!(
        "\nof which one HMAC-SHA-256, for the token: {count} instructions in software under valgrind, {time} ns here"
    );
    println!(
        "budgets (allocations / instructions, over a layer that does nothing, or time): {over} not kept, {over_but_for_hash} kept but for SHA-256 in software"
    );
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
