//! A connection whose every answer shows to which question it belongs.
//!
//! Nothing in the protocol says so, and the driver does not count packets: one that came twice, or too
//! late, would be read as the answer to the next question, and so on from there. So each question
//! carries a number that its answer repeats. An answer without it costs the connection.

use std::hash::{BuildHasher as _, RandomState};

use sqlx::mysql::{MySql, MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::query::Query;
use sqlx::{SqlStr, query};

use super::fault;
use super::row::integer;
use crate::dialect::mysql::PROOF;

pub(crate) type Statement<'q> = Query<'q, MySql, MySqlArguments>;

/// The number of a question.
pub(crate) type Number = i64;

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) connection: MySqlConnection,
    last: Number,
}

impl Line {
    pub(crate) fn new(connection: MySqlConnection) -> Self {
        // No other connection is at the same number, should something in between mix them up.
        let start = i64::try_from(RandomState::new().hash_one(()) >> 2).unwrap_or(0);
        Self { connection, last: start }
    }

    /// The number of the next question, for its parameters.
    pub(crate) fn number(&mut self) -> Number {
        self.last += 1;
        self.last
    }

    /// Of a statement that gives so many rows, each of which repeats the number.
    pub(crate) async fn rows(
        &mut self,
        number: Number,
        statement: Statement<'_>,
        count: usize,
    ) -> sqlx::Result<Vec<MySqlRow>> {
        let rows = self.fetch(statement).await?;
        let all = rows.len() == count && rows.iter().all(|row| repeats(row, number));
        if all { Ok(rows) } else { Err(fault::misdelivered()) }
    }

    /// The row that a procedure gives, whose last parameter is the number.
    pub(crate) async fn call(&mut self, statement: Statement<'_>) -> sqlx::Result<MySqlRow> {
        let number = self.number();
        self.rows(number, statement.bind(number), 1).await?.pop().ok_or_else(fault::misdelivered)
    }

    /// Of a statement that ends with a row of its own, which repeats the number and says how many came
    /// before it.
    pub(crate) async fn counted(&mut self, number: Number, statement: Statement<'_>) -> sqlx::Result<Vec<MySqlRow>> {
        let mut rows = self.fetch(statement).await?;
        let last = rows.pop().filter(|row| repeats(row, number)).ok_or_else(fault::misdelivered)?;
        let all = integer(&last, 1)? == i64::try_from(rows.len()).ok();
        if all { Ok(rows) } else { Err(fault::misdelivered()) }
    }

    /// How many rows a statement found that changes some, and whose last parameter is the number. That
    /// it found none is not proven: the next question, which must follow then, does that.
    pub(crate) async fn change(&mut self, statement: Statement<'_>) -> sqlx::Result<u64> {
        let number = self.number();
        let answer = statement.bind(number).execute(&mut self.connection).await;
        let done = match answer {
            Ok(done) => done,
            Err(error) => return Err(self.proven(error).await),
        };
        match done.last_insert_id() {
            repeated if i64::try_from(repeated) == Ok(number) => {}
            // The server did not get to the place where the number is.
            0 if done.rows_affected() == 0 => {}
            0 => self.prove().await?,
            _ => return Err(fault::misdelivered()),
        }
        Ok(done.rows_affected())
    }

    /// Sees whether the next answer belongs to the next question, and all before it did.
    pub(crate) async fn prove(&mut self) -> sqlx::Result<()> {
        let number = self.number();
        let rows = query(SqlStr::from_static(PROOF)).bind(number).fetch_all(&mut self.connection).await?;
        if matches!(&*rows, [row] if repeats(row, number)) { Ok(()) } else { Err(fault::misdelivered()) }
    }

    /// Reads to the end: only there an error of a procedure's last steps shows.
    async fn fetch(&mut self, statement: Statement<'_>) -> sqlx::Result<Vec<MySqlRow>> {
        match statement.fetch_all(&mut self.connection).await {
            Ok(rows) => Ok(rows),
            Err(error) => Err(self.proven(error).await),
        }
    }

    /// The error, if it answered this question. One that says that nothing was done must.
    async fn proven(&mut self, error: sqlx::Error) -> sqlx::Error {
        if fault::says_not_done(&error)
            && let Err(unproven) = self.prove().await
        {
            return unproven;
        }
        error
    }
}

fn repeats(row: &MySqlRow, number: Number) -> bool {
    integer(row, 0).is_ok_and(|repeated| repeated == Some(number))
}
