//! PgBouncer in front of a PostgreSQL server.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::error::{Context as _, Error, Result};
use crate::place::{Place, free_port, on_free_ports};
use crate::postgres::Postgres;
use crate::process::{Launch, Process};
use crate::programs::program;

/// A PgBouncer that gives a server connection to a client for one transaction at a time, and the
/// PostgreSQL server behind it.
#[derive(Debug)]
pub struct PgBouncer {
    // Dropped in this order: the proxy first.
    process: Process,
    port: u16,
    postgres: Postgres,
}

impl PgBouncer {
    /// Starts both.
    ///
    /// # Errors
    ///
    /// When one is not installed or does not answer: with the end of its log.
    pub fn start() -> Result<Self> {
        Self::in_front_of(Postgres::start()?)
    }

    /// Starts one in front of this server.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not answer: with the end of its log.
    pub fn in_front_of(postgres: Postgres) -> Result<Self> {
        let (process, port) = on_free_ports(|| start_process(&postgres))?;
        Ok(Self { process, port, postgres })
    }

    /// `postgres://cloakroom:PASSWORD@127.0.0.1:PORT/cloakroom`
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://cloakroom:{}@127.0.0.1:{}/cloakroom", self.postgres.password(), self.port)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server behind it.
    #[must_use]
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The proxy's process: to kill, pause, restart, read the log of.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn start_process(postgres: &Postgres) -> Result<(Process, u16)> {
    let place = Place::unprivileged("pgbouncer", &["postgres"])?;
    let port = free_port()?;
    let users = place.write("users", &format!("\"cloakroom\" \"{}\"\n", postgres.password()))?;
    let config = format!(
        "[databases]\n\
         cloakroom = host=127.0.0.1 port={} dbname=cloakroom\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = scram-sha-256\n\
         auth_file = {}\n\
         pool_mode = transaction\n\
         default_pool_size = 20\n\
         max_client_conn = 1000\n\
         ignore_startup_parameters = extra_float_digits\n",
        postgres.port(),
        users.display(),
    );
    let file = place.write("pgbouncer.ini", &config)?;
    let launch = Launch {
        name: "PgBouncer",
        program: program("pgbouncer")?,
        args: vec![file.display().to_string()],
        stop: "INT",
        abandon: "KILL",
        answers: Box::new(move || answers(port)),
    };
    Ok((Process::start(place, launch)?, port))
}

/// Asks for TLS, which every PostgreSQL server answers with one byte before any password.
fn answers(port: u16) -> Result<()> {
    let ask = || {
        let mut connection = TcpStream::connect(("127.0.0.1", port))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        connection.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
        let mut answer = [0];
        connection.read_exact(&mut answer).map(|()| answer)
    };
    match ask().context(|| "cannot ask".to_owned())? {
        [b'N' | b'S'] => Ok(()),
        other => Err(Error::new(format!("answers {other:?}"))),
    }
}
