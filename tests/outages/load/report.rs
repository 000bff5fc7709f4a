//! What a load observed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use cloakroom_core::{StoreErrorKind, Verb, WriteOutcome};

use super::account::{Breach, Promise};

/// One call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) verb: Verb,
    pub(crate) begun: Instant,
    pub(crate) took: Duration,
    pub(crate) error: Option<(StoreErrorKind, WriteOutcome)>,
}

pub(crate) struct Report {
    pub(crate) samples: Vec<Sample>,
    pub(crate) breaches: Vec<Breach>,
    pub(crate) sessions: usize,
    /// One message of each kind of error.
    pub(crate) messages: BTreeMap<String, String>,
}

/// How long calls took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) calls: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) longest: Duration,
}

impl Latency {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let at = |share: f64| {
            let place = (took.len() as f64 * share) as usize;
            took.get(place.min(took.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        Self { calls: took.len(), p50: at(0.5), p99: at(0.99), longest: at(1.0) }
    }
}

impl Report {
    /// Fails with every promise that was not kept.
    pub(crate) fn assert_flawless(&self) {
        self.assert_kept(|_| true);
    }

    /// The same where a read may have seen what nobody had acknowledged, and what is lost with the primary.
    pub(crate) fn assert_acknowledged(&self) {
        self.assert_kept(|promise| promise != Promise::GoneStaysGone);
    }

    /// The same for the promises that a failover without acknowledged replicas keeps.
    pub(crate) fn assert_only_losses(&self) {
        self.assert_kept(|promise| {
            let loss = matches!(
                promise,
                Promise::EndedStaysEnded
                    | Promise::GoneStaysGone
                    | Promise::ListsForgetTheEnded
                    | Promise::UpdatesAreKept
                    | Promise::SessionsAreKept
                    | Promise::OneIdIsLive
            );
            !loss
        });
    }

    /// Fails if one of these promises was not kept.
    pub(crate) fn assert_kept(&self, promised: impl Fn(Promise) -> bool) {
        let mut broken: BTreeMap<(Promise, &str), usize> = BTreeMap::new();
        for breach in self.breaches.iter().filter(|breach| promised(breach.promise)) {
            *broken.entry((breach.promise, &breach.what)).or_default() += 1;
        }
        let lines = broken.iter().take(20).map(|((promise, what), count)| format!("\n  {count} x {promise:?}: {what}"));
        let text: String = lines.collect();
        assert!(broken.is_empty(), "{} different promises were not kept:{text}", broken.len());
    }

    pub(crate) fn broke(&self, promise: Promise) -> usize {
        self.breaches.iter().filter(|breach| breach.promise == promise).count()
    }

    pub(crate) fn errors(&self) -> usize {
        self.samples.iter().filter(|sample| sample.error.is_some()).count()
    }

    /// From this moment to the end of the first call that began later and succeeded.
    pub(crate) fn first_answer(&self, since: Instant) -> Option<Duration> {
        let answers = self.samples.iter().filter(|sample| sample.begun > since && sample.error.is_none());
        answers.map(|sample| sample.begun + sample.took - since).min()
    }

    /// From this moment to the end of the last call that failed.
    pub(crate) fn last_error(&self, since: Instant) -> Option<Duration> {
        let errors = self.samples.iter().filter(|sample| sample.error.is_some());
        errors.filter_map(|sample| (sample.begun + sample.took).checked_duration_since(since)).max()
    }

    /// From this moment to the end of the last call that began before the service was back, as it was by then: that
    /// failed, or was held until there was somebody to answer it.
    pub(crate) fn away(&self, since: Instant, back: Instant) -> Duration {
        const HELD: Duration = Duration::from_millis(500);
        let before = self.samples.iter().filter(|sample| sample.begun < back);
        let hit = before.filter(|sample| sample.error.is_some() || sample.took >= HELD);
        let ends = hit.filter_map(|sample| (sample.begun + sample.took).checked_duration_since(since));
        ends.max().unwrap_or_default()
    }

    /// The same as `last_error`, up to this moment.
    pub(crate) fn last_error_between(&self, since: Instant, until: Instant) -> Option<Duration> {
        let errors = self.samples.iter().filter(|sample| sample.error.is_some() && sample.begun < until);
        errors.filter_map(|sample| (sample.begun + sample.took).checked_duration_since(since)).max()
    }

    /// Of the calls that began and succeeded between these moments.
    pub(crate) fn latency(&self, from: Instant, until: Instant, wanted: impl Fn(Verb) -> bool) -> Latency {
        let calls = self.samples.iter().filter(|sample| {
            wanted(sample.verb) && sample.error.is_none() && sample.begun >= from && sample.begun + sample.took <= until
        });
        Latency::of(calls.map(|sample| sample.took).collect())
    }

    /// What happened, for whoever reads the output of a test.
    pub(crate) fn text(&self, title: &str) -> String {
        let mut out = String::new();
        let all = self.samples.iter().filter(|sample| sample.error.is_none()).map(|sample| sample.took).collect();
        let Latency { p50, p99, longest, .. } = Latency::of(all);
        let (calls, errors) = (self.samples.len(), self.errors());
        writeln!(
            out,
            "{title}: {calls} calls on {} sessions, {errors} errors; p50 {p50:?}, p99 {p99:?}, longest {longest:?}",
            self.sessions
        )
        .unwrap();
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for sample in &self.samples {
            if let Some((kind, outcome)) = sample.error {
                let outcome = if sample.verb.writes() { format!(" {outcome:?}") } else { String::new() };
                *kinds.entry(format!("{} {kind:?}{outcome}", sample.verb)).or_default() += 1;
            }
        }
        for (kind, count) in kinds {
            writeln!(out, "  {count:>6} {kind}").unwrap();
        }
        for message in self.messages.values() {
            writeln!(out, "         {message}").unwrap();
        }
        let mut broken: BTreeMap<Promise, usize> = BTreeMap::new();
        for breach in &self.breaches {
            *broken.entry(breach.promise).or_default() += 1;
        }
        for (promise, count) in broken {
            writeln!(out, "  {count:>6} times not kept: {promise:?}").unwrap();
        }
        out
    }
}
