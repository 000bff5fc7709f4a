//! Listens for ends, on a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{Handle, Signal, Signaller, Verb};
use tokio::time::{sleep, timeout};

use super::connect::Connector;
use super::fault::Fault;
use crate::dialect::postgres as sql;
use crate::prefix::TablePrefix;

/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often it is said that somebody listens, which also finds out whether the server is still there.
const SAID_EVERY: Duration = Duration::from_secs(30);

/// For as long as it is not dropped.
pub(super) async fn listen(connector: Arc<Connector>, prefix: TablePrefix, signaller: Signaller) {
    let mut failures = 0_u32;
    loop {
        let mut heard = false;
        let lost = listen_once(&connector, &prefix, &signaller, &mut heard).await;
        if heard {
            failures = 0;
        }
        if failures == 0 {
            signaller.tell(Signal::Deaf);
            tracing::warn!(error = %lost.to_store_error(Verb::Load), "the session store cannot listen for ends; who watches a session asks");
        }
        sleep((Duration::from_millis(10) * 2_u32.saturating_pow(failures.min(10))).min(LONGEST_PAUSE)).await;
        failures = failures.saturating_add(1);
    }
}

/// Until the connection is lost.
async fn listen_once(connector: &Connector, prefix: &TablePrefix, signaller: &Signaller, heard: &mut bool) -> Fault {
    let (server, patience) = (&*connector.server, connector.timeout);
    let teller = signaller.clone();
    let connecting = connector.connect_hearing(move |message| teller.tell(signal(message)));
    let mut connection = match timeout(patience, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Fault::unreachable(&error, server),
        Err(_) => return Fault::unconnectable(server, patience),
    };
    let mut text = prefix.apply(sql::LISTEN);
    loop {
        match timeout(patience, connection.driving.drive(connection.session.client.batch_execute(&text))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Fault::sent(&error, server).0,
            Err(_) => return Fault::silent(server, patience),
        }
        if !*heard {
            *heard = true;
            // What ended before, and while there was no connection, was told to nobody.
            signaller.tell(Signal::Unsure);
        }
        text = prefix.apply(sql::LISTENING);
        if timeout(SAID_EVERY, connection.driving.ended()).await.is_ok() {
            return Fault::closed(server);
        }
    }
}

fn signal(message: &str) -> Signal {
    let byte = |at: usize| u8::from_str_radix(message.get(2 * at..2 * at + 2)?, 16).ok();
    let mut handle = [0; Handle::LEN];
    for (at, out) in handle.iter_mut().enumerate() {
        match byte(at) {
            Some(byte) => *out = byte,
            None => return Signal::Unsure,
        }
    }
    Signal::Ended(Handle::from_bytes(handle))
}
