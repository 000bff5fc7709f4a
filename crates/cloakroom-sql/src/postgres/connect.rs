//! Connections: made, prepared, and driven by the task that uses them.

use std::error::Error as StdError;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{IsNull, ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, NoTls, Row, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::fault::Fault;
use super::hosts::Hosts;
use super::statement::{Statement, Texts};

/// Makes connections.
pub(crate) struct Connector {
    pub(super) hosts: Hosts,
    pub(crate) tls: Option<MakeRustlsConnect>,
    pub(crate) timeout: Duration,
    pub(crate) prepared: bool,
    pub(crate) texts: Arc<Texts>,
    /// The server as errors name it.
    pub(crate) server: Arc<str>,
}

type Driving = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>;

/// A connection. Its bytes move only while somebody drives it: the one task that uses it also reads
/// and writes its socket, so that an answer does not travel through a second task.
pub(crate) struct Connection {
    pub(crate) session: Session,
    pub(crate) driving: Driver,
}

/// What to send on.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// In the order of `Statement::ALL`; empty if nothing is prepared.
    prepared: Vec<tokio_postgres::Statement>,
    texts: Arc<Texts>,
}

pub(crate) struct Driver(Option<Driving>);

impl Connector {
    /// A connection for the statements of the store.
    pub(crate) async fn connect(&self) -> Result<Connection, Fault> {
        let connecting = async {
            let mut connection =
                self.connect_plainly().await.map_err(|error| Fault::unreachable(&error, &self.server))?;
            if self.prepared {
                let Connection { session, driving } = &mut connection;
                let preparing = Statement::ALL
                    .map(|statement| session.client.prepare_typed(self.texts.of(statement), statement.types()));
                let prepared = driving.drive(try_join_all(preparing)).await;
                session.prepared = prepared.map_err(|error| Fault::sent(&error, &self.server).0.not_done())?;
            }
            Ok(connection)
        };
        match tokio::time::timeout(self.timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(Fault::unconnectable(&self.server, self.timeout)),
        }
    }

    /// A connection that has nothing prepared: the tables may not be there yet.
    pub(crate) async fn connect_plainly(&self) -> Result<Connection, tokio_postgres::Error> {
        self.connect_hearing(|_| {}).await
    }

    /// The same, handing over what the server says unasked on the channels that are listened to.
    pub(crate) async fn connect_hearing(
        &self,
        hear: impl FnMut(&str) + Send + 'static,
    ) -> Result<Connection, tokio_postgres::Error> {
        let (client, driving): (_, Driving) = match &self.tls {
            Some(tls) => {
                let (client, connection) = self.connect_to_one(tls.clone()).await?;
                (client, Box::pin(drive(connection, hear)))
            }
            None => {
                let (client, connection) = self.connect_to_one(NoTls).await?;
                (client, Box::pin(drive(connection, hear)))
            }
        };
        let session = Session { client, prepared: Vec::new(), texts: Arc::clone(&self.texts) };
        Ok(Connection { session, driving: Driver(Some(driving)) })
    }

    /// Of the hosts.
    async fn connect_to_one<T: MakeTlsConnect<Socket> + Clone>(
        &self,
        tls: T,
    ) -> Result<(Client, tokio_postgres::Connection<Socket, T::Stream>), tokio_postgres::Error> {
        let mut attempt = self.hosts.attempt();
        loop {
            match attempt.host().connect(tls.clone()).await {
                Ok(connected) => {
                    attempt.succeed();
                    return Ok(connected);
                }
                Err(error) if !attempt.pass_over() => return Err(error),
                Err(_) => {}
            }
        }
    }
}

/// Moves the bytes of a connection until it ends.
async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    mut hear: impl FnMut(&str),
) -> Result<(), tokio_postgres::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(notification) = message? {
            hear(notification.payload());
        }
    }
    Ok(())
}

/// A parameter that prints as nothing.
struct Untold<'a>(&'a (dyn ToSql + Sync));

impl fmt::Debug for Untold<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl ToSql for Untold<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        self.0.to_sql_checked(kind, out)
    }

    /// What it holds says so when it is written.
    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        self.0.to_sql_checked(kind, out)
    }
}

impl Session {
    /// One statement, one round trip. Nothing where not as many rows came as the server says it sent.
    pub(crate) async fn query(
        &self,
        statement: Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Vec<Row>>, tokio_postgres::Error> {
        // The driver tells the log of all that has no keeper.
        let parameters = parameters.iter().copied().map(Untold);
        let stream = match self.prepared.get(statement as usize) {
            Some(prepared) => self.client.query_raw(prepared, parameters).await?,
            None => {
                let typed = parameters.zip(statement.types().iter().cloned());
                self.client.query_typed_raw(self.texts.of(statement), typed).await?
            }
        };
        let mut stream = pin!(stream);
        let mut rows = Vec::new();
        while let Some(row) = stream.try_next().await? {
            rows.push(row);
        }
        Ok((stream.rows_affected() == u64::try_from(rows.len()).ok()).then_some(rows))
    }
}

impl Driver {
    /// Does the work while it moves the connection's bytes.
    pub(crate) async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(done);
            }
            let Some(driving) = &mut self.0 else { return Poll::Pending };
            if let Poll::Ready(ended) = driving.as_mut().poll(context) {
                if let Err(error) = ended {
                    tracing::debug!(error = %super::fault::DriverError::new(&error), "a connection ended");
                }
                // Whoever waits for an answer on it now hears that there will be none.
                self.0 = None;
            }
            // What just arrived may be what the work waits for.
            work.as_mut().poll(context)
        })
        .await
    }

    /// Returns when the connection has ended.
    pub(crate) async fn ended(&mut self) {
        if let Some(driving) = &mut self.0 {
            // Why was told by whatever failed with it, or nobody was using it.
            drop(driving.as_mut().await);
            self.0 = None;
        }
    }
}

impl Connection {
    /// Says goodbye.
    pub(crate) async fn close(self) {
        let Self { session, mut driving } = self;
        drop(session);
        // A server that is gone need not be told.
        drop(tokio::time::timeout(Duration::from_secs(1), driving.ended()).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_statement_is_given_is_printed_nowhere() {
        let record: &(dyn ToSql + Sync) = &b"hunter2".as_slice();
        let printed = format!("{:?}", [Untold(record), Untold(&"alice")]);
        assert_eq!(printed, "[.., ..]");
    }
}
