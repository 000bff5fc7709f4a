//! One Redis server, plain or with TLS, an ACL user or a Unix socket.

use std::path::PathBuf;
use std::process::Command;

use crate::certificates::Certificates;
use crate::error::{Error, Result};
use crate::place::{Place, free_port, on_free_ports, password};
use crate::process::{Launch, Process};
use crate::programs::{program, run};

/// What the ACL user of [`RedisBuilder::acl`] may do, in the words of `ACL SETUSER`: the `ACL_RULE` of
/// cloakroom-redis (a test compares the two), for every prefix that begins with `cloakroom`.
pub const ACL_RULES: &str = "resetkeys ~cloakroom* resetchannels &cloakroom* -@all \
    +select +ping +time +get +mget +getrange +set +setrange +del +exists +pexpire +pttl \
    +zadd +zrem +zrange +zrangebyscore +zrandmember +eval +evalsha +publish +subscribe +scan +wait \
    +cluster|slots +cluster|nodes +asking \
    +info +config|get +cluster|info";

/// A Redis server of one's own, on a free port, with a password.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    cli: Cli,
    user: Option<(&'static str, String)>,
    certificates: Option<Certificates>,
    socket: Option<PathBuf>,
}

/// What a [`Redis`] has beyond a port and a password.
#[derive(Debug, Clone, Default)]
pub struct RedisBuilder {
    tls: bool,
    acl: bool,
    socket: bool,
    config: Vec<String>,
    password: Option<String>,
    pub(crate) sentinel: bool,
}

impl Redis {
    /// Starts one without persistence, and returns when it answers.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not answer: with the end of its log.
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// Starts one with more than that.
    #[must_use]
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// Where applications connect: as the ACL user if there is one, over the Unix socket if there is
    /// one, with the authority to trust if it speaks TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let (user, password) = match &self.user {
            Some((user, password)) => (*user, password.as_str()),
            None => ("default", self.cli.password.as_str()),
        };
        self.url_as(user, password)
    }

    /// As [`Redis::url`], as the user who may do everything.
    #[must_use]
    pub fn admin_url(&self) -> String {
        self.url_as("default", &self.cli.password)
    }

    fn url_as(&self, user: &str, password: &str) -> String {
        if let Some(socket) = &self.socket {
            return format!("redis+unix://{user}:{password}@{}", socket.display());
        }
        let (scheme, query) = match &self.certificates {
            Some(certificates) => ("rediss", format!("?ca={}", certificates.ca().display())),
            None => ("redis", String::new()),
        };
        format!("{scheme}://{user}:{password}@127.0.0.1:{}/0{query}", self.port)
    }

    /// The port on 127.0.0.1; 0 where there is only a Unix socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The password of the user who may do everything.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.cli.password
    }

    /// The server process: to kill, pause, restart.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its certificate, if it speaks TLS.
    #[must_use]
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// How many replicas follow this server. One that says it is online is sent nothing before it has
    /// acknowledged for the first time, up to a second later, and does not count until then.
    ///
    /// # Errors
    ///
    /// As [`command`](Self::command).
    pub fn replicas_in_sync(&self) -> Result<usize> {
        let replication = self.command(&["INFO", "replication"])?;
        let acknowledged = |line: &str| line.split(',').any(|part| part.starts_with("offset=") && part != "offset=0");
        Ok(replication.lines().filter(|line| line.contains("state=online") && acknowledged(line)).count())
    }

    /// Runs one command as the user who may do everything, and returns what redis-cli prints.
    ///
    /// # Errors
    ///
    /// The server's own words when it refuses.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        self.cli.run(words)
    }

    /// Kills it, as [`Process::kill`].
    ///
    /// # Errors
    ///
    /// As [`Process::kill`].
    pub fn kill(&self) -> Result<()> {
        self.process.kill()
    }

    /// Restarts it, as [`Process::restart`]. Without persistence nothing is left of its data.
    ///
    /// # Errors
    ///
    /// As [`Process::restart`].
    pub fn restart(&self) -> Result<()> {
        self.process.restart()
    }
}

impl RedisBuilder {
    /// Speaks TLS, and nothing else.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Has a user `cloakroom` with [`ACL_RULES`], who is the one in [`Redis::url`].
    #[must_use]
    pub fn acl(mut self) -> Self {
        self.acl = true;
        self
    }

    /// Listens on a Unix socket, and on nothing else.
    #[must_use]
    pub fn unix_socket(mut self) -> Self {
        self.socket = true;
        self
    }

    /// Adds a line to redis.conf, after those that are there anyway.
    #[must_use]
    pub fn config(mut self, line: impl Into<String>) -> Self {
        self.config.push(line.into());
        self
    }

    /// Takes this password instead of one made up.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Starts it, and returns when it answers.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not answer: with the end of its log.
    pub fn start(self) -> Result<Redis> {
        on_free_ports(|| self.try_start())
    }

    fn try_start(&self) -> Result<Redis> {
        let place = Place::new(if self.sentinel { "sentinel" } else { "redis" })?;
        let password = self.password.clone().map_or_else(password, Ok)?;
        let mut cli = Cli { program: program("redis-cli")?, args: Vec::new(), password };
        let mut config = vec!["bind 127.0.0.1".to_owned(), format!("dir {}", place.path().display())];
        if !self.sentinel {
            config.extend(["save \"\"", "repl-diskless-sync-delay 0", "enable-debug-command local"].map(str::to_owned));
            config.push(format!("masterauth {}", cli.password));
        }

        let port = if self.socket { 0 } else { free_port()? };
        let socket = self.socket.then(|| place.file("socket"));
        let certificates = if self.tls { Some(Certificates::inside(&place)?) } else { None };
        match (&socket, &certificates) {
            (Some(socket), _) => {
                config.extend(["port 0".to_owned(), format!("unixsocket {}", socket.display())]);
                cli.args.extend(["-s".to_owned(), socket.display().to_string()]);
            }
            (None, Some(certificates)) => {
                config.extend(["port 0".to_owned(), format!("tls-port {port}"), "tls-auth-clients no".to_owned()]);
                config.push(format!("tls-cert-file {}", certificates.certificate().display()));
                config.push(format!("tls-key-file {}", certificates.key().display()));
                config.push(format!("tls-ca-cert-file {}", certificates.ca().display()));
                let ca = certificates.ca().display().to_string();
                cli.args.extend(["-p".to_owned(), port.to_string(), "--tls".to_owned(), "--cacert".to_owned(), ca]);
            }
            (None, None) => {
                config.push(format!("port {port}"));
                cli.args.extend(["-p".to_owned(), port.to_string()]);
            }
        }

        config.push(format!("requirepass {}", cli.password));
        let mut user = None;
        if self.acl {
            let password = crate::place::password()?;
            config.push(format!("user cloakroom on >{password} {ACL_RULES}"));
            user = Some(("cloakroom", password));
        }
        config.extend(self.config.iter().cloned());
        let file = place.write("redis.conf", &(config.join("\n") + "\n"))?;

        let mut args = vec![file.display().to_string()];
        if self.sentinel {
            args.push("--sentinel".to_owned());
        }
        let probe = cli.clone();
        let launch = Launch {
            name: if self.sentinel { "Redis Sentinel" } else { "Redis" },
            program: program("redis-server")?,
            args,
            stop: "TERM",
            abandon: "KILL",
            answers: Box::new(move || match probe.run(&["PING"])? {
                pong if pong == "PONG" => Ok(()),
                other => Err(Error::new(other)),
            }),
        };
        let process = Process::start(place, launch)?;
        Ok(Redis { process, port, cli, user, certificates, socket })
    }
}

/// How redis-cli reaches a server.
#[derive(Clone)]
struct Cli {
    program: PathBuf,
    args: Vec<String>,
    password: String,
}

impl Cli {
    fn run(&self, words: &[&str]) -> Result<String> {
        // A paused server must not hang us.
        let mut command = Command::new("timeout");
        command.arg("5").arg(&self.program).env("REDISCLI_AUTH", &self.password);
        // -e: a refusal is a failure.
        run(command.arg("-e").args(&self.args).args(words))
    }
}

impl std::fmt::Debug for Cli {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cli").field("args", &self.args).finish_non_exhaustive()
    }
}
