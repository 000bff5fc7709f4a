//! From settings to a configuration, collecting everything that is wrong on the way.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use cloakroom_core::layer::TimeoutLayer;
use cloakroom_core::{
    BuildError, Excess, KEY_COMMAND, KeyRing, MAX_LIFETIME, OutagePolicy, Policy, PolicyError, Profile, SessionLimit,
};

use super::error::{Refusal, quoted};
use super::settings::{SETTINGS, variable_of};
use super::sources::Settings;
use super::transport::{DANGER, concerns, is_insecure, shown as shown_transport};
use super::{Config, ConfigError, Keys, Place, SealKind, Server, Sources, Store, duration, keys};

/// A setting that somebody made.
struct Made {
    /// Empty where it is secret.
    text: String,
    origin: String,
}

/// Where platforms put the URLs of the services that they run.
const PLATFORM: [&str; 2] = ["REDIS_URL", "DATABASE_URL"];

const EPOCH: &str = "epoch";

/// A setting about the server of a store.
struct Setting {
    name: &'static str,
    /// What it is called in the store's URL.
    option: &'static str,
    applies: fn(&Place) -> bool,
    where_it_does: &'static str,
    /// What to write where the store refuses the value and does not say what it takes.
    instead: &'static str,
}

const SERVER_SETTINGS: [Setting; 7] = [
    Setting {
        name: "prefix",
        option: "prefix",
        applies: is_redis,
        where_it_does: "Redis",
        instead: "write a short word and a colon, such as \"shop:\"",
    },
    Setting {
        name: "table_prefix",
        option: "table_prefix",
        applies: is_sql_server,
        where_it_does: SQL_SERVERS,
        instead: "write a word such as \"shop_\"",
    },
    Setting {
        name: "connections",
        option: "connections",
        applies: is_sql_server,
        where_it_does: SQL_SERVERS,
        instead: "write a number such as 4",
    },
    Setting {
        name: "connect_timeout",
        option: "connect_timeout",
        applies: is_server,
        where_it_does: SERVERS,
        instead: "write a duration such as \"5s\"",
    },
    Setting {
        name: "store_ca",
        option: "ca",
        applies: is_server,
        where_it_does: SERVERS,
        instead: "remove it, or encrypt the connection (rediss://…)",
    },
    Setting {
        name: "durability",
        option: "durability",
        applies: is_redis,
        where_it_does: "Redis",
        instead: "write \"async\", \"acked(2, 1s)\" or \"epoch\"",
    },
    Setting {
        name: "migrate",
        option: "migrate",
        applies: is_sql,
        where_it_does: "PostgreSQL, MySQL and SQLite",
        instead: "write true or false",
    },
];

const SERVERS: &str = "Redis, PostgreSQL and MySQL";
const SQL_SERVERS: &str = "PostgreSQL and MySQL";

fn is_redis(place: &Place) -> bool {
    place.server() == Some(Server::Redis)
}

fn is_server(place: &Place) -> bool {
    place.server().is_some()
}

fn is_sql_server(place: &Place) -> bool {
    is_server(place) && !is_redis(place)
}

fn is_sql(place: &Place) -> bool {
    is_sql_server(place) || matches!(place, Place::Sqlite(_))
}

/// Collects settings and everything that is wrong with them.
pub(super) struct Reader<'a> {
    sources: &'a Sources,
    settings: Settings,
    made: BTreeMap<&'static str, Made>,
    pub(super) notices: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        Self { sources, settings: sources.collect(), made: BTreeMap::new(), notices: Vec::new() }
    }

    pub(super) fn config(mut self) -> Result<Config, ConfigError> {
        let production = self.read("environment", one_of(&[("production", true), ("development", false)]));
        let production = production.unwrap_or(false);
        let mut store = self.store(production);
        // Once more after each: what is wrong with the URL alone was said of it already.
        if let Some(store) = &mut store {
            self.server_settings(store);
        }
        let ledger = self.ledger(store.as_ref());
        let audience = self.read("audience", audience).unwrap_or_else(|| Config::DEFAULT_AUDIENCE.to_owned());
        let keys = self.keys(&audience, production);
        let (profile, policy) = self.policy(store.as_ref());
        let transport = self.transport(production);
        let seal = self.seal(store.as_ref());
        let timeout = self.read("timeout", positive).unwrap_or(TimeoutLayer::DEFAULT_LIMIT);
        let sweep_interval = self.read("sweep_interval", positive).unwrap_or(Config::DEFAULT_SWEEP_INTERVAL);

        ConfigError::check(&self.settings.problems)?;
        let (Some(store), Some(keys)) = (store, keys) else {
            unreachable!("without a problem there is a store and a key")
        };
        self.advise(production, &store);
        let migrate = self.made.get("migrate").is_none_or(|made| made.text.trim() != "false");
        let mut config = Config {
            store,
            ledger,
            migrate,
            keys,
            audience,
            transport,
            policy,
            seal,
            timeout,
            sweep_interval,
            notices: std::mem::take(&mut self.notices),
            directory: self.sources.path(Path::new("")),
            table: Vec::new(),
        };
        let shown =
            |name| SERVER_SETTINGS.iter().all(|setting| setting.name != name || (setting.applies)(&config.store.place));
        let shown = SETTINGS.iter().filter(|(name, _)| {
            shown(*name) && (*name != "ledger" || config.ledger.is_some()) && concerns(name, &config.transport)
        });
        config.table = shown.map(|setting| self.row(&config, profile, *setting)).collect();
        Ok(config)
    }

    /// A setting as it prints: as somebody wrote it, or what holds without.
    fn row(
        &self,
        config: &Config,
        profile: Profile,
        (name, default): (&'static str, &str),
    ) -> (&'static str, String, String) {
        let written = self.made.get(name);
        let unset = match name {
            "idle" | "absolute" | "remember" => format!("profile {}", profile.as_str()),
            "cookie.name" | "cookie.secure" if is_insecure(&config.transport) => format!("because of {DANGER}"),
            _ => "default".to_owned(),
        };
        let value = match (name, &config.keys) {
            ("keys", Keys::Given(ring)) => {
                ring.ids().iter().map(|id| format!("key {id}")).collect::<Vec<_>>().join(", ")
            }
            ("keys", Keys::Generated) => format!("in {}", Config::KEY_FILE),
            ("key_file", Keys::Given(_)) if written.is_none() => "none".to_owned(),
            ("store", _) => config.store.to_string(),
            ("ledger", _) => config.ledger.as_ref().map_or_else(|| default.to_owned(), Place::to_string),
            ("idle", _) => duration::format(config.policy.idle()),
            ("absolute", _) => duration::format(config.policy.absolute()),
            ("remember", _) => duration::format(config.policy.remember()),
            _ if let Some(value) = shown_transport(name, &config.transport) => value,
            _ => written.map_or_else(|| default.to_owned(), |made| made.text.clone()),
        };
        (name, value, written.map_or(unset, |made| made.origin.clone()))
    }

    fn store(&mut self, production: bool) -> Option<Store> {
        if self.is_set("store") {
            return self.read("store", Store::parse);
        }
        if let Some(store) = self.platform_store() {
            return store;
        }
        let store = Store::sqlite(Config::DATABASE.into());
        if production {
            let instead = format!("set {}, such as \"sqlite:/var/lib/app/sessions.db\"", variable_of("store"));
            self.refuse("store", Refusal::new("in production it must be said where sessions live", instead));
        } else if let Err(refusal) = store.is_built_in() {
            self.refuse("store", refusal);
        } else {
            self.notices.push(format!("no store is configured: sessions are in {}", Config::DATABASE));
        }
        Some(store)
    }

    /// What platforms say, if it is a store there is. Of two that is one too many: whichever were taken, a
    /// variable that appears one day would move everybody's sessions. `None` where they say nothing.
    fn platform_store(&mut self) -> Option<Option<Store>> {
        let mut found: Vec<(&str, Store)> = Vec::new();
        for name in PLATFORM {
            let Some(url) = self.sources.variable(name).filter(|url| !url.is_empty()) else { continue };
            match Store::parse_platform(url) {
                Ok(store) => found.push((name, store)),
                Err(refusal) => self.notices.push(format!("{name} is not used for sessions: {}", refusal.why)),
            }
        }
        if let [(one, store), (other, another)] = found.as_slice()
            && store != another
        {
            let why = format!("{one} and {other} are both set, and nobody knows which is meant for sessions");
            let instead = format!("set {} to the URL of one of them", variable_of("store"));
            self.note("store", String::new(), "environment");
            self.refuse("store", Refusal::new(why, instead));
            return Some(None);
        }
        let (name, store) = found.into_iter().next()?;
        self.note("store", String::new(), &format!("environment variable {name}"));
        Some(Some(store))
    }

    /// Has the settings about the server of a store become options of its URL, which reads and checks them.
    fn server_settings(&mut self, store: &mut Store) {
        for Setting { name, option, applies, where_it_does, instead } in SERVER_SETTINGS {
            let Some((text, origin)) = self.settings.value(name) else { continue };
            self.note(name, text.clone(), &origin);
            let text = text.trim();
            let applied = match &store.place {
                place if !applies(place) => {
                    let why = format!("it means something for {where_it_does} only, and `store` is another");
                    Err(Refusal::new(why, "remove it, or choose such a store"))
                }
                Place::Server(url) => self
                    .option(name, text)
                    .and_then(|value| value.map_or_else(|| Ok(url.clone()), |value| url.with_option(option, &value)))
                    .map(|url| store.place = Place::Server(url)),
                Place::Memory | Place::Sqlite(_) => boolean(text).map(|_| ()),
            };
            if let Err(refusal) = applied {
                let says_what = !refusal.instead.starts_with(Server::EXAMPLE);
                let said = if says_what { refusal.instead } else { instead.to_owned() };
                self.refuse(name, Refusal::new(refusal.why, said));
            }
        }
    }

    /// The setting as a URL has it.
    fn option(&self, name: &str, text: &str) -> Result<Option<String>, Refusal> {
        Ok(Some(match name {
            "connect_timeout" => format!("{}ms", positive(text)?.as_millis()),
            "connections" => whole_number::<NonZeroU32>(text, "4")?.to_string(),
            "store_ca" => self.sources.path(Path::new(text)).display().to_string(),
            "migrate" => if boolean(text)? { "on" } else { "off" }.to_owned(),
            // Done by a layer, on a server that is as it would be without.
            "durability" if text == EPOCH => return Ok(None),
            _ => text.to_owned(),
        }))
    }

    /// Where the ends of sessions are kept as well.
    fn ledger(&mut self, store: Option<&Store>) -> Option<Place> {
        let epoch = self.made.get("durability").is_some_and(|made| made.text.trim() == EPOCH);
        let ledger = self.read("ledger", |text| {
            let scheme = text.split(':').next().unwrap_or_default();
            if scheme != "sqlite" && Server::of(scheme).is_none() {
                let why = "this names no store that could be a ledger";
                let instead = "write \"sqlite:PATH\", or a URL that begins with postgres://, mysql:// or redis://";
                return Err(Refusal::new(why, instead));
            }
            let place = Place::parse(text)?;
            place.is_built_in().map(|()| place)
        });
        if epoch && store.is_some_and(Store::is_self_contained) {
            let why = "the list of ended sessions would have a list of its own";
            let instead = "remove it, and keep the list where it cannot be lost, as in `cookie+postgres://…`";
            self.refuse("durability", Refusal::new(why, instead));
        } else if epoch && !self.is_set("ledger") {
            let why = "`epoch` keeps the ends of sessions in a second store, and none is named";
            let instead =
                "set `ledger` to a store that loses nothing, such as \"postgres://user:password@host/database\"";
            self.refuse("durability", Refusal::new(why, instead));
        } else if !epoch && self.is_set("ledger") {
            let why = "without `durability = \"epoch\"` nothing is written to it";
            self.refuse("ledger", Refusal::new(why, "set that as well, or remove this"));
        } else if let (Some(ledger), Some(store)) = (&ledger, store)
            && *ledger == store.place
        {
            let why = "it is the store itself, which would forget both at once";
            self.refuse("ledger", Refusal::new(why, "name another store"));
        }
        ledger
    }

    fn keys(&mut self, audience: &str, production: bool) -> Option<Keys> {
        let texts = self.settings.values("keys");
        let file = self.settings.value("key_file");
        let (name, parsed) = match (texts, file) {
            (Some((_, origin)), Some((_, file_origin))) => {
                self.note("keys", String::new(), &origin);
                let why = format!("`key_file` is set as well ({file_origin}), and nobody knows which is meant");
                self.refuse("keys", Refusal::new(why, "remove one of the two"));
                return None;
            }
            (Some((texts, origin)), None) => {
                self.warn_of_readable_file(&origin);
                self.note("keys", String::new(), &origin);
                ("keys", keys::parse(texts.iter().flat_map(|text| text.split(','))))
            }
            (None, Some((file, origin))) => {
                let shown = Path::new(&file);
                let keys = keys::read(&self.sources.path(shown), shown);
                self.note("keys", String::new(), &format!("{file}, named in {origin}"));
                self.note("key_file", file, &origin);
                ("key_file", keys)
            }
            (None, None) if production => {
                let instead = format!(
                    "put the output of `{KEY_COMMAND}` into the variable {}, or into a file that `key_file` names",
                    variable_of("keys")
                );
                self.refuse("keys", Refusal::new("in production a key must be given: none is generated", instead));
                return None;
            }
            // A setting that is there and cannot be read was refused already.
            (None, None) => return Some(Keys::Generated),
        };
        let ring = parsed.and_then(|keys| KeyRing::new(audience, &keys).map_err(|error| Refusal::of(&error)));
        ring.map_err(|refusal| self.refuse(name, refusal)).ok().map(Keys::Given)
    }

    fn warn_of_readable_file(&mut self, origin: &str) {
        let Some((path, shown)) = self.settings.file.as_ref().filter(|(_, shown)| shown == origin) else { return };
        if std::fs::metadata(path).is_ok_and(|metadata| keys::is_open_to_others(&metadata)) {
            self.notices.push(format!("{shown} holds keys and is open to others: run `chmod 600 {shown}`"));
        }
    }

    fn policy(&mut self, store: Option<&Store>) -> (Profile, Policy) {
        let profile = self.read("profile", one_of(&Profile::ALL.map(|profile| (profile.as_str(), profile))));
        let profile = profile.unwrap_or_default();
        let mut policy = Policy::new(profile);
        if let Some(idle) = self.read("idle", duration::parse) {
            policy = policy.with_idle(idle);
        }
        if let Some(absolute) = self.read("absolute", duration::parse) {
            policy = policy.with_absolute(absolute);
        }
        if let Some(remember) = self.read("remember", duration::parse) {
            policy = policy.with_remember(remember);
        }
        if let Some(interval) = self.read("touch_interval", duration::parse) {
            policy = policy.with_touch_interval(interval);
        }
        if let Some(bytes) = self.read("max_record", |text| whole_number(text, "262144")) {
            policy = policy.with_max_record(bytes);
        }
        let outages =
            [("fail-closed", OutagePolicy::FailClosed), ("anonymous-read-only", OutagePolicy::AnonymousReadOnly)];
        if let Some(outage) = self.read("outage", one_of(&outages)) {
            policy = policy.with_outage(outage);
        }
        let max: Option<NonZeroU32> = self.read("sessions.max", |text| whole_number(text, "5"));
        let excess =
            self.read("sessions.excess", one_of(&[("reject", Excess::Reject), ("evict-oldest", Excess::EvictOldest)]));
        match (max, excess) {
            (Some(_), _) if store.is_some_and(Store::is_self_contained) => {
                self.refuse("sessions.max", Refusal::of(&BuildError::LimitWithoutStore));
            }
            (Some(max), excess) => {
                policy = policy.with_session_limit(SessionLimit { max, excess: excess.unwrap_or(Excess::Reject) });
            }
            (None, Some(_)) if !self.is_set("sessions.max") => {
                let why = "without `sessions.max` no session is ever one too many";
                self.refuse("sessions.excess", Refusal::new(why, "set `sessions.max` as well, or remove this"));
            }
            (None, _) => {}
        }
        // One rule is reported at a time; mending what it is about brings out the next.
        while let Err(error) = policy.validate() {
            let (name, refusal, mended) = self.limit_problem(&error, policy);
            self.refuse(name, refusal);
            policy = mended;
        }
        (profile, policy)
    }

    /// Which setting breaks the rule, in the units that settings are written in, and limits without it.
    fn limit_problem(&self, error: &PolicyError, policy: Policy) -> (&'static str, Refusal, Policy) {
        let span = duration::format;
        // Of two that contradict each other, the one that somebody set.
        let either = |first, second| if self.is_set(first) { first } else { second };
        let over_400_days = |what: &str, length| {
            let why =
                format!("{what} of {} is over the 400 days that browsers keep a cookie (RFC 6265bis)", span(length));
            Refusal::new(why, "make it at most \"400d\"")
        };
        match *error {
            PolicyError::IdleTooShort(idle) => {
                let why = format!("an idle timeout of {} ends sessions between two clicks", span(idle));
                (
                    "idle",
                    Refusal::new(why, "write a duration such as \"30m\""),
                    policy.with_idle(Policy::default().idle()),
                )
            }
            PolicyError::IdleOverAbsolute { idle, absolute } => {
                let why = format!(
                    "the idle timeout ({}) is longer than the absolute timeout ({}), so it would never matter",
                    span(idle),
                    span(absolute)
                );
                let instead = format!("set `idle` to \"{}\" or less, or raise `absolute`", span(absolute));
                (
                    either("idle", "absolute"),
                    Refusal::new(why, instead),
                    policy.with_idle(idle.min(MAX_LIFETIME)).with_absolute(idle.min(MAX_LIFETIME)),
                )
            }
            PolicyError::AbsoluteTooLong(length) => {
                ("absolute", over_400_days("an absolute timeout", length), policy.with_absolute(MAX_LIFETIME))
            }
            PolicyError::RememberTooLong(length) => {
                ("remember", over_400_days("a Max-Age", length), policy.with_remember(Duration::ZERO))
            }
            PolicyError::TouchOverIdle { interval, idle } => {
                let (interval, idle) = (span(interval), span(idle));
                let why = format!(
                    "the touch interval ({interval}) is not below the idle timeout ({idle}), so sessions in use would end"
                );
                let instead = "set `touch_interval` to a tenth of `idle` or less";
                (
                    either("touch_interval", "idle"),
                    Refusal::new(why, instead),
                    policy.with_touch_interval(Duration::ZERO),
                )
            }
            PolicyError::MaxRecord(bytes) => {
                let refusal = Refusal::new(
                    format!("{bytes} bytes are outside of 1 KiB to 16 MiB"),
                    "write a number such as 262144",
                );
                ("max_record", refusal, policy.with_max_record(Policy::DEFAULT_MAX_RECORD))
            }
            _ => ("profile", Refusal::of(error), Policy::default()),
        }
    }

    fn seal(&mut self, store: Option<&Store>) -> SealKind {
        let seal = self.read("seal", |text| match text {
            "signed" => Err(Refusal::new(
                "a signed cookie hides nothing: the client reads every value in it",
                "if that is meant, write \"danger-signed-readable-by-client\"; else leave it at \"xchacha20poly1305\"",
            )),
            text => one_of(&SealKind::ALL.map(|kind| (kind.as_str(), kind)))(text),
        });
        if seal.is_some() && store.is_some_and(|store| !store.is_self_contained()) {
            let why = "nothing is sealed where sessions live in a store";
            self.refuse("seal", Refusal::new(why, "remove it, or set `store` to \"cookie\" or \"cookie+sqlite:PATH\""));
        }
        seal.unwrap_or(SealKind::XChaCha20Poly1305)
    }

    /// What is allowed, and still worth saying.
    fn advise(&mut self, production: bool, store: &Store) {
        let mut notice = |text: &str| self.notices.push(text.to_owned());
        match &store.place {
            Place::Memory if store.is_self_contained() => notice(
                "sealed cookies keep the list of ended sessions in memory: a restart forgets it and other processes do \
                 not see it, so a copied cookie may outlive a logout; `store = \"cookie+sqlite:PATH\"` keeps it",
            ),
            Place::Memory if production => {
                notice("sessions are in the memory of this process: a restart signs everybody out");
            }
            Place::Memory | Place::Sqlite(_) | Place::Server(_) => {}
        }
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.settings.is_set(name)
    }

    fn note(&mut self, name: &'static str, text: String, origin: &str) {
        self.made.insert(name, Made { text, origin: origin.to_owned() });
    }

    pub(super) fn read<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, Refusal>) -> Option<T> {
        let (text, origin) = self.settings.value(name)?;
        self.note(name, text.clone(), &origin);
        parse(text.trim()).map_err(|refusal| self.refuse(name, refusal)).ok()
    }

    /// Once for each setting: what else is wrong with it follows from the first.
    pub(super) fn refuse(&mut self, name: &str, refusal: Refusal) {
        if self.settings.problems.iter().any(|problem| problem.setting == name) {
            return;
        }
        let origin = self.made.get(name).map_or("not set", |made| &made.origin).to_owned();
        self.settings.problems.push(refusal.at(name, origin));
    }
}

pub(super) fn one_of<T: Copy>(choices: &[(&'static str, T)]) -> impl Fn(&str) -> Result<T, Refusal> {
    let choices = choices.to_vec();
    move |text| {
        let chosen = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        chosen.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            Refusal::new(format!("{} is none of the choices", quoted(text)), format!("write {}", names.join(" or ")))
        })
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, Refusal> {
    text.parse().map_err(|_| Refusal::new(format!("{} is neither true nor false", quoted(text)), "write true or false"))
}

fn whole_number<T: FromStr>(text: &str, example: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| {
        Refusal::new(
            format!("{} is not a whole number over zero", quoted(text)),
            format!("write a number such as {example}"),
        )
    })
}

fn positive(text: &str) -> Result<Duration, Refusal> {
    match duration::parse(text)? {
        Duration::ZERO => {
            Err(Refusal::new("nothing can be done in no time", "write a duration over zero, such as \"2s\""))
        }
        duration => Ok(duration),
    }
}

fn audience(text: &str) -> Result<String, Refusal> {
    if text.is_empty() {
        return Err(Refusal::new("the audience is empty", "write the name of the application"));
    }
    Ok(text.to_owned())
}

#[expect(clippy::unnecessary_wraps, reason = "one form for all settings")]
pub(super) fn verbatim(text: &str) -> Result<String, Refusal> {
    Ok(text.to_owned())
}
