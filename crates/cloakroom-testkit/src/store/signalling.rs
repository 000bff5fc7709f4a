//! `signals`.

use std::num::NonZeroU32;
use std::time::Duration;

use cloakroom_core::{Create, Excess, SessionLimit, Signal, Signals};

use super::Fixture;
use super::stage::{Stage, new_id, principal};

/// What a store tells of ends comes within moments, and a test machine has other things to do.
const PATIENCE: Duration = Duration::from_secs(20);

async fn next(signals: &mut Signals) -> Signal {
    match tokio::time::timeout(PATIENCE, signals.next()).await {
        Ok(Some(signal)) => signal,
        Ok(None) => panic!("signals: ended while the store is open"),
        Err(_) => panic!("signals: nothing was told for {PATIENCE:?}"),
    }
}

/// Whoever listens is told of each end and each renewal, of those through another client too, by handle.
pub async fn signals_tell_of_every_end_and_every_renewal(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let listener = fixture.second_handle().unwrap_or_else(|| fixture.store());
    let Some(mut signals) = listener.signals() else { return };
    assert_eq!(next(&mut signals).await, Signal::Unsure, "signals: the first says that from now on it is told");

    let (alice, bob, carol) = (principal("alice"), principal("bob"), principal("carol"));
    let renewed = stage.session(Some(&alice)).await;
    let new = new_id(Some(&alice));
    stage.client.renew_fresh(&renewed.id, &new, &renewed.record).await;
    let anonymous = stage.session(None).await;
    stage.client.delete(&anonymous.id).await;
    let revoked = stage.session(Some(&bob)).await;
    stage.client.revoke(&bob, revoked.handle()).await;
    let all = stage.sessions(Some(&bob), 3).await;
    stage.client.revoke_all(&bob, Some(all[1].handle())).await;
    let oldest = stage.session(Some(&carol)).await;
    let limit = SessionLimit { max: NonZeroU32::MIN, excess: Excess::EvictOldest };
    let created = stage.client.create(&new_id(Some(&carol)), &stage.record(Some(&carol)), Some(limit)).await;
    assert_eq!(created, Create::Created { evicted: vec![oldest.handle()] });

    let ended = [&renewed, &anonymous, &revoked, &all[0], &all[2], &oldest];
    let mut missing: Vec<_> = ended.iter().map(|session| session.handle()).collect();
    let spared = all[1].handle();
    while !missing.is_empty() {
        let signal = next(&mut signals).await;
        assert_ne!(signal, Signal::Ended(spared), "signals: told of the end of a session that lives");
        missing.retain(|handle| signal != Signal::Ended(*handle));
    }
}
