//! Listens for ends, on a connection of its own.

use std::sync::Weak;
use std::time::Duration;

use cloakroom_core::{Handle, Signal, Signaller};
use tokio::time::{Instant, sleep_until};

use super::Carrier;
use crate::link::pause;

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A subscription that was held so long was no failure.
const LASTED: Duration = Duration::from_secs(10);

/// Until the store is gone.
pub(super) async fn listen(carrier: Weak<Carrier>, signaller: Signaller) {
    let mut failures = 0_u32;
    loop {
        let Some(strong) = carrier.upgrade() else { return };
        let (link, channel) = (strong.link.clone(), strong.keys.channel());
        drop(strong);
        match link.subscribe(&channel).await {
            Ok(mut messages) => {
                if failures > 0 {
                    tracing::info!(channel, "the session store listens for ends again");
                }
                let since = Instant::now();
                drop(link);
                // What ended before, and while there was no connection, was told to nobody.
                signaller.tell(Signal::Unsure);
                while let Some(message) = messages.next().await {
                    signaller.tell(signal(&message));
                }
                signaller.tell(Signal::Deaf);
                // A server or proxy that takes the subscription and drops it is not asked again and again.
                failures = if since.elapsed() >= LASTED { 0 } else { failures.saturating_add(1) };
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(%error, channel, "the session store cannot listen for ends; who watches a session asks");
                }
                failures = failures.saturating_add(1);
            }
        }
        sleep_until(Instant::now() + pause(failures, LONGEST_PAUSE)).await;
    }
}

/// A release that ends what a newer one filed does not know where its handle is.
fn signal(message: &[u8]) -> Signal {
    match <[u8; Handle::LEN]>::try_from(message) {
        Ok(handle) if handle != [0; Handle::LEN] => Signal::Ended(Handle::from_bytes(handle)),
        Ok(_) | Err(_) => Signal::Unsure,
    }
}
