//! One MariaDB server.

use std::path::PathBuf;
use std::process::Command;

use crate::certificates::Certificates;
use crate::error::Result;
use crate::place::{Place, free_port, on_free_ports, password};
use crate::process::{Launch, Process};
use crate::programs::{program, run};
use crate::template;

/// A MariaDB server of one's own in its default (strict) SQL mode, with a database `cloakroom` and a
/// user `cloakroom` with every right on it.
#[derive(Debug)]
pub struct MariaDb {
    process: Process,
    port: u16,
    password: String,
    admin_password: String,
    certificates: Option<Certificates>,
}

const INSTALL: &str = "--no-defaults --auth-root-authentication-method=normal --skip-test-db \
    --skip-name-resolve --innodb-log-file-size=16M --innodb-flush-log-at-trx-commit=0";

/// What a [`MariaDb`] has beyond that.
#[derive(Debug, Clone, Default)]
pub struct MariaDbBuilder {
    durable: bool,
    tls: bool,
    config: Vec<String>,
}

impl MariaDb {
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
    pub fn builder() -> MariaDbBuilder {
        MariaDbBuilder::default()
    }

    /// `mariadb://cloakroom:PASSWORD@127.0.0.1:PORT/cloakroom`, with the authority to trust if it
    /// speaks TLS.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_as("cloakroom", &self.password)
    }

    /// As [`MariaDb::url`], as the user `root`.
    #[must_use]
    pub fn admin_url(&self) -> String {
        self.url_as("root", &self.admin_password)
    }

    fn url_as(&self, user: &str, password: &str) -> String {
        let query = match &self.certificates {
            Some(certificates) => format!("?sslmode=verify-full&ca={}", certificates.ca().display()),
            None => String::new(),
        };
        format!("mariadb://{user}:{password}@127.0.0.1:{}/cloakroom{query}", self.port)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The password of the user `cloakroom`.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The server process: to kill, pause, read the log of.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Runs statements as `root` in the database `cloakroom`, and returns the rows, one a line, with
    /// tabs between the columns.
    ///
    /// # Errors
    ///
    /// The server's own words when it refuses.
    pub fn sql(&self, statements: &str) -> Result<String> {
        Client::at(self.process.place(), &self.admin_password)?.run("cloakroom", statements)
    }

    /// Kills it, as [`Process::kill`].
    ///
    /// # Errors
    ///
    /// As [`Process::kill`].
    pub fn kill(&self) -> Result<()> {
        self.process.kill()
    }

    /// Restarts it in an orderly way, and returns when it answers.
    ///
    /// # Errors
    ///
    /// As [`Process::restart`].
    pub fn restart(&self) -> Result<()> {
        self.process.restart()
    }
}

impl MariaDbBuilder {
    /// Waits for the disk as a production server does: `innodb_flush_log_at_trx_commit = 1`.
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

    /// Adds an option to the command line, such as `--sql-mode=ANSI`.
    #[must_use]
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.config.push(option.into());
        self
    }

    /// Starts it, and returns when it answers.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not answer: with the end of its log.
    pub fn start(self) -> Result<MariaDb> {
        on_free_ports(|| self.try_start())
    }

    fn try_start(&self) -> Result<MariaDb> {
        let mariadbd = program("mariadbd")?;
        let place = Place::unprivileged("mariadb", &["mysql"])?;
        let version = run(Command::new(&mariadbd).arg("--version"))?;
        let data = template::data_directory(&place, "data", &[&version, INSTALL], |data| {
            let mut install = Command::new(program("mariadb-install-db")?);
            place.settle(&mut install);
            install.args(INSTALL.split_whitespace()).arg(format!("--datadir={}", data.display()));
            run(&mut install).map(drop)
        })?;

        let (port, password, admin_password) = (free_port()?, password()?, password()?);
        let certificates = if self.tls { Some(Certificates::inside(&place)?) } else { None };
        let init = place.write(
            "init.sql",
            &format!(
                "ALTER USER root@localhost IDENTIFIED BY '{admin_password}';\n\
                 CREATE USER IF NOT EXISTS root@'127.0.0.1';\n\
                 ALTER USER root@'127.0.0.1' IDENTIFIED BY '{admin_password}';\n\
                 GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n\
                 CREATE DATABASE IF NOT EXISTS cloakroom CHARACTER SET utf8mb4;\n\
                 CREATE USER IF NOT EXISTS cloakroom@'127.0.0.1' IDENTIFIED BY '{password}';\n\
                 GRANT ALL ON cloakroom.* TO cloakroom@'127.0.0.1' WITH GRANT OPTION;\n\
                 GRANT CONNECTION ADMIN, CREATE USER, PROCESS, RELOAD ON *.* TO cloakroom@'127.0.0.1';\n"
            ),
        )?;
        let mut args = vec![
            "--no-defaults".to_owned(),
            format!("--datadir={}", data.display()),
            format!("--socket={}", socket(&place).display()),
            format!("--pid-file={}", place.file("pid").display()),
            format!("--init-file={}", init.display()),
            format!("--port={port}"),
        ];
        let fixed = "--bind-address=127.0.0.1 --skip-name-resolve --max-connections=300 \
            --innodb-log-file-size=16M --innodb-buffer-pool-size=64M";
        args.extend(fixed.split_whitespace().map(str::to_owned));
        if !self.durable {
            args.push("--innodb-flush-log-at-trx-commit=0".to_owned());
        }
        if let Some(certificates) = &certificates {
            args.push(format!("--ssl-cert={}", certificates.certificate().display()));
            args.push(format!("--ssl-key={}", certificates.key().display()));
            args.push("--require-secure-transport=on".to_owned());
        }
        args.extend(self.config.iter().cloned());

        let client = Client::at(&place, &admin_password)?;
        let launch = Launch {
            name: "MariaDB",
            program: mariadbd,
            args,
            stop: "TERM",
            abandon: "KILL",
            // The database exists when the file above was run.
            answers: Box::new(move || client.run("cloakroom", "SELECT 1").map(drop)),
        };
        let process = Process::start(place, launch)?;
        Ok(MariaDb { process, port, password, admin_password, certificates })
    }
}

fn socket(place: &Place) -> PathBuf {
    place.file("socket")
}

/// How the command-line client reaches a server as root: over the socket in its directory.
struct Client {
    program: PathBuf,
    socket: PathBuf,
    password: String,
}

impl Client {
    fn at(place: &Place, password: &str) -> Result<Self> {
        Ok(Self { program: program("mariadb")?, socket: socket(place), password: password.to_owned() })
    }

    fn run(&self, database: &str, statements: &str) -> Result<String> {
        let mut command = Command::new("timeout");
        command.arg("60").arg(&self.program).arg("--no-defaults").arg("--socket").arg(&self.socket);
        // The environment, unlike the command line, is nobody else's to read.
        command.env("MYSQL_PWD", &self.password).args(["--user=root", "--batch", "--skip-column-names"]);
        run(command.args(["--database", database, "--execute", statements]))
    }
}
