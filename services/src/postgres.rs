//! One PostgreSQL server.

use std::path::PathBuf;
use std::process::Command;

use crate::certificates::Certificates;
use crate::error::Result;
use crate::place::{Place, free_port, on_free_ports, password};
use crate::process::{Launch, Process};
use crate::programs::{program, run};
use crate::template;

/// A PostgreSQL server of one's own, with a database and a role `cloakroom` that owns it and may make
/// roles, and SCRAM-SHA-256 for every connection over TCP.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: u16,
    password: String,
    admin_password: String,
    certificates: Option<Certificates>,
}

const INITDB: &str = "--username=postgres --encoding=UTF8 --locale=C.UTF-8 --no-sync \
    --auth-local=trust --auth-host=scram-sha-256";

/// What a [`Postgres`] has beyond that.
#[derive(Debug, Clone, Default)]
pub struct PostgresBuilder {
    durable: bool,
    tls: bool,
    config: Vec<String>,
}

impl Postgres {
    /// Starts one that takes 300 connections and does not wait for the disk.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not answer: with the end of its log.
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// Starts one with more than that.
    #[must_use]
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::default()
    }

    /// `postgres://cloakroom:PASSWORD@127.0.0.1:PORT/cloakroom`, with the authority to trust if it
    /// speaks TLS.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_as("cloakroom", &self.password)
    }

    /// As [`Postgres::url`], as the superuser `postgres`.
    #[must_use]
    pub fn admin_url(&self) -> String {
        self.url_as("postgres", &self.admin_password)
    }

    fn url_as(&self, user: &str, password: &str) -> String {
        let query = match &self.certificates {
            Some(certificates) => format!("?sslmode=verify-full&ca={}", certificates.ca().display()),
            None => String::new(),
        };
        format!("postgres://{user}:{password}@127.0.0.1:{}/cloakroom{query}", self.port)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The password of the role `cloakroom`.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The server process: to kill, pause, read the log of.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Runs statements as the superuser in the database `cloakroom`, and returns the rows, one a
    /// line, with `|` between the columns.
    ///
    /// # Errors
    ///
    /// The server's own words when it refuses.
    pub fn sql(&self, statements: &str) -> Result<String> {
        Psql::at(self.process.place(), self.port)?.run("cloakroom", statements)
    }

    /// Kills it, as [`Process::kill`].
    ///
    /// # Errors
    ///
    /// As [`Process::kill`].
    pub fn kill(&self) -> Result<()> {
        self.process.kill()
    }

    /// Restarts it in fast mode: sessions are ended and transactions rolled back, as in a rolling
    /// update. Returns when it answers.
    ///
    /// # Errors
    ///
    /// As [`Process::restart`].
    pub fn restart(&self) -> Result<()> {
        self.process.restart()
    }
}

impl PostgresBuilder {
    /// Waits for the disk as a production server does: `fsync`, `synchronous_commit` and
    /// `full_page_writes` on.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Speaks TLS, and refuses to speak without over TCP.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Writes every statement to the log.
    #[must_use]
    pub fn log_statements(self) -> Self {
        self.config("log_statement = all").config("log_line_prefix = '%m [%p] %a '")
    }

    /// Adds a line to postgresql.conf, after those that are there anyway.
    #[must_use]
    pub fn config(mut self, line: impl Into<String>) -> Self {
        self.config.push(line.into());
        self
    }

    /// Starts it, and returns when it answers.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not answer: with the end of its log.
    pub fn start(self) -> Result<Postgres> {
        on_free_ports(|| self.try_start())
    }

    fn try_start(&self) -> Result<Postgres> {
        let postgres = program("postgres")?;
        let place = Place::unprivileged("postgres", &["postgres"])?;
        let version = run(Command::new(&postgres).arg("--version"))?;
        let data = template::data_directory(&place, "data", &[&version, INITDB], |data| {
            let mut initdb = Command::new(program("initdb")?);
            place.settle(&mut initdb);
            run(initdb.args(INITDB.split_whitespace()).arg("--pgdata").arg(data)).map(drop)
        })?;

        let port = free_port()?;
        let certificates = if self.tls { Some(Certificates::inside(&place)?) } else { None };
        let mut config = vec![
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("port = {port}"),
            format!("unix_socket_directories = '{}'", place.path().display()),
            "max_connections = 300".to_owned(),
            "shared_buffers = 64MB".to_owned(),
        ];
        if !self.durable {
            config.extend(["fsync", "synchronous_commit", "full_page_writes"].map(|name| format!("{name} = off")));
        }
        if let Some(certificates) = &certificates {
            config.push("ssl = on".to_owned());
            config.push(format!("ssl_cert_file = '{}'", certificates.certificate().display()));
            config.push(format!("ssl_key_file = '{}'", certificates.key().display()));
            place.write("data/pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")?;
        }
        config.extend(self.config.iter().cloned());
        place.write("data/postgresql.auto.conf", &(config.join("\n") + "\n"))?;

        let psql = Psql::at(&place, port)?;
        let probe = psql.clone();
        let launch = Launch {
            name: "PostgreSQL",
            program: postgres,
            args: vec!["-D".to_owned(), data.display().to_string()],
            stop: "INT",
            // An immediate end gives its shared memory back, which SIGKILL would not.
            abandon: "QUIT",
            answers: Box::new(move || probe.run("postgres", "SELECT 1").map(drop)),
        };
        let process = Process::start(place, launch)?;
        let (password, admin_password) = (password()?, password()?);
        psql.run("postgres", &format!("ALTER ROLE postgres PASSWORD '{admin_password}'"))?;
        psql.run("postgres", &format!("CREATE ROLE cloakroom LOGIN CREATEROLE PASSWORD '{password}'"))?;
        psql.run("postgres", "CREATE DATABASE cloakroom OWNER cloakroom")?;
        Ok(Postgres { process, port, password, admin_password, certificates })
    }
}

/// How psql reaches a server as its superuser: over the socket in its directory.
#[derive(Clone)]
struct Psql {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
}

impl Psql {
    fn at(place: &Place, port: u16) -> Result<Self> {
        Ok(Self { program: program("psql")?, directory: place.path().to_owned(), port })
    }

    fn run(&self, database: &str, statements: &str) -> Result<String> {
        let mut command = Command::new("timeout");
        command.arg("60").arg(&self.program).arg("--host").arg(&self.directory);
        command.args(["--port", &self.port.to_string(), "--username", "postgres", "--dbname", database]);
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]);
        run(command.args(["--command", statements]))
    }
}
