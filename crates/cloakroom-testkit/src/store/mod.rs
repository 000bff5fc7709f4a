//! Every guarantee of the store contract, one check each.
//!
//! [`store_suite!`](crate::store_suite) makes a test of each check; [`CHECKS`] lists them for other
//! harnesses. A check panics with the verb and the guarantee that is broken.
//!
//! Each check gets an empty store from a fresh [`Fixture`]. Where the store takes its time from a
//! [`ManualClock`], deadlines are tested to the millisecond; where it has a server's clock, checks
//! use short deadlines and wait until the store says that they have come.

mod cancelling;
mod creating;
mod ending;
mod limiting;
mod listing;
mod loading;
mod modelling;
mod renewing;
mod revoking;
mod scanning;
mod signalling;
mod stage;
mod sweeping;
mod touching;
mod updating;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cloakroom_core::{Clock as _, SessionId, SessionStore, SystemClock};

use crate::ManualClock;

/// How the suite gets at a store. One fixture serves one check.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// The store under test: empty when the fixture is made, and the same one at every call.
    fn store(&self) -> Arc<dyn SessionStore>;

    /// Another client on the same data, with connections and caches of its own, as a second process
    /// has. `None` if there can be none, as in memory.
    fn second_handle(&self) -> Option<Arc<dyn SessionStore>> {
        None
    }

    /// The clock that the store decides by. `None` if it is a server's, which nobody can move: then
    /// it has to agree with this machine's to half a second.
    fn clock(&self) -> Option<Arc<ManualClock>> {
        None
    }

    /// Puts these bytes in place of a stored record, as a defect or a newer release would. Returns
    /// `false`, the default, if the store keeps no bytes; nothing is then tested with them.
    async fn overwrite_record(&self, id: &SessionId, bytes: &[u8]) -> bool {
        let _ = (id, bytes);
        false
    }

    /// How long the store keeps tombstones. The contract's default is 24 hours.
    fn tombstones(&self) -> Duration {
        Duration::from_secs(24 * 60 * 60)
    }

    /// Whether the store's server removes expired records and tombstones without being asked, so that
    /// `sweep` may find nothing. Default `false`.
    fn expires_by_itself(&self) -> bool {
        false
    }

    /// How thorough the suite is. From the environment unless overridden.
    fn options(&self) -> Options {
        Options::from_env()
    }
}

impl dyn Fixture {
    /// The time of the store.
    fn now(&self) -> SystemTime {
        self.clock().map_or_else(|| SystemClock.now(), |clock| clock.now())
    }
}

/// How thorough the suite is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How many random sequences of calls are compared with the model. Default 64.
    pub cases: u32,
    /// How many calls are in each at most. Default 40.
    pub calls: usize,
    /// How long a check may take before it fails. Default two minutes.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { cases: 64, calls: 40, patience: Duration::from_secs(120) }
    }
}

impl Options {
    /// The defaults, with `CLOAKROOM_SUITE_CASES` random sequences if that is set to a number.
    #[must_use]
    pub fn from_env() -> Self {
        let cases = std::env::var("CLOAKROOM_SUITE_CASES").ok().and_then(|cases| cases.parse().ok());
        let default = Self::default();
        Self { cases: cases.unwrap_or(default.cases), ..default }
    }
}

type Function = for<'f> fn(&'f dyn Fixture) -> Pin<Box<dyn Future<Output = ()> + Send + 'f>>;

/// A check with its name.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Check {
    /// The name of its function.
    pub name: &'static str,
    function: Function,
}

impl Check {
    /// Runs the check on a fixture that no other check uses, on a runtime of its own with four threads.
    ///
    /// # Panics
    /// When the store breaks the guarantee, or the check takes longer than [`Options::patience`].
    pub fn run<F: Fixture>(&self, fixture: impl Future<Output = F>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
        let runtime = runtime.unwrap_or_else(|error| panic!("no runtime to run the check on: {error}"));
        runtime.block_on(async {
            let fixture = fixture.await;
            let patience = fixture.options().patience;
            let ended = tokio::time::timeout(patience, (self.function)(&fixture)).await;
            assert!(ended.is_ok(), "the check did not end in {patience:?}: some call of the store never answered");
        });
        runtime.shutdown_background();
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.name).finish()
    }
}

/// Expands to a module with one `#[test]` for each check of the store contract.
///
/// Takes the name of the module and an expression whose value is a future of a
/// [`Fixture`](crate::store::Fixture); it is evaluated once for each test. See the [crate](crate).
#[macro_export]
macro_rules! store_suite {
    ($module:ident, $fixture:expr) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            $crate::__store_checks! { [$crate::__store_tests] $fixture }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __store_tests {
    ($fixture:expr; $($group:ident: $($check:ident)+;)+) => {
        $($(
            #[test]
            fn $check() {
                $crate::store::run(stringify!($check), $fixture);
            }
        )+)+
    };
}

macro_rules! define_checks {
    ($fixture:expr; $($group:ident: $($check:ident)+;)+) => {
        $(pub use $group::{$($check),+};)+

        /// All checks, in the order of the contract's verbs.
        pub const CHECKS: &[Check] = &[
            $($(Check { name: stringify!($check), function: |fixture| Box::pin($check(fixture)) },)+)+
        ];
    };
}

/// Runs the check of this name, for [`store_suite!`](crate::store_suite).
#[doc(hidden)]
pub fn run<F: Fixture>(name: &str, fixture: impl Future<Output = F>) {
    match CHECKS.iter().find(|check| check.name == name) {
        Some(check) => check.run(fixture),
        None => unreachable!("the suite's macro and its list of checks have one source"),
    }
}

/// The one list of checks: a function that is not here is not run, and a test counts them.
#[doc(hidden)]
#[macro_export]
macro_rules! __store_checks {
    ([$($with:tt)+] $fixture:expr) => {
        $($with)+! { $fixture;
            loading:
                load_brings_what_was_stored_byte_for_byte
                load_brings_a_record_of_256_kib
                load_brings_what_a_newer_release_added_to_the_record
                load_of_an_unknown_id_is_gone_without_a_reason
                load_finds_only_the_exact_id
                load_is_live_until_the_millisecond_of_the_deadline
                load_of_an_expired_session_is_gone
                load_keeps_sessions_with_deadlines_in_the_far_future
                load_of_an_undecodable_record_is_gone
                load_of_a_record_of_a_newer_format_is_an_error_and_keeps_it
                load_changes_nothing
                load_brings_every_parallel_reader_its_own_record
                load_through_another_client_sees_every_write_at_once
                probe_says_what_answers;
            creating:
                create_files_at_the_first_revision
                create_never_overwrites_a_live_session
                create_refuses_an_id_that_was_deleted
                create_refuses_an_id_that_was_renewed_away
                create_refuses_an_id_that_was_revoked
                create_refuses_an_id_that_expired
                create_has_one_winner_among_parallel_calls_for_one_id
                create_in_parallel_with_delete_leaves_no_orphan;
            updating:
                update_raises_the_revision_by_one
                update_of_an_unknown_id_creates_nothing
                update_does_not_recreate_a_deleted_session
                update_does_not_recreate_a_revoked_session
                update_does_not_revive_an_expired_session
                update_of_a_renewed_away_id_is_gone_and_spares_the_successor
                update_conflict_brings_the_current_record_and_writes_nothing
                update_at_a_revision_that_was_never_reached_is_a_conflict
                update_does_not_change_the_owner
                update_does_not_change_the_handle
                update_does_not_pull_back_a_pushed_idle_deadline
                update_decides_by_the_stores_clock
                update_of_one_revision_has_one_winner
                update_by_a_hundred_parallel_writers_adds_up;
            touching:
                touch_pushes_the_idle_deadline_and_nothing_else
                touch_never_conflicts_with_an_update
                touch_never_moves_the_deadline_backwards
                touch_never_passes_the_absolute_limit
                touch_keeps_the_session_alive_past_its_old_deadline
                touch_of_an_unknown_id_creates_nothing
                touch_does_not_revive_an_expired_session
                touch_does_not_revive_a_session_that_was_ended
                touch_decides_by_the_stores_clock
                touch_in_parallel_keeps_the_furthest_deadline;
            renewing:
                renew_moves_the_session_to_the_new_id
                renew_conflict_brings_the_current_record_and_writes_nothing
                renew_of_what_is_not_live_is_gone_and_writes_nothing
                renew_onto_a_taken_id_is_occupied_and_writes_nothing
                renew_onto_its_own_id_is_occupied
                renew_to_another_owner_moves_between_the_lists
                renew_can_be_chained
                renew_shows_every_observer_exactly_one_live_id
                renew_has_one_winner_among_parallel_calls
                renew_in_parallel_with_updates_loses_none;
            ending:
                delete_ends_the_session_and_says_whether_there_was_one
                delete_leaves_its_reason
                delete_of_an_expired_session_is_false
                delete_follows_renewals
                delete_wins_over_a_renewal_in_parallel
                delete_wins_over_updates_and_touches_in_parallel
                delete_in_parallel_ends_a_session_once
                explain_is_silent_on_what_is_live_or_unknown
                explain_tells_the_reason_and_the_time
                explain_tells_that_a_session_expired;
            listing:
                list_shows_the_summaries_of_live_sessions_oldest_first
                list_pages_through_250_sessions_without_gap_or_double
                list_bounds_the_page
                list_goes_on_after_a_session_that_ended
                list_shows_no_session_that_ended
                list_compares_principals_exactly
                list_agrees_with_scan_after_parallel_traffic;
            revoking:
                revoke_ends_the_one_session_of_the_handle
                revoke_of_another_principals_handle_is_false_and_harmless
                revoke_all_ends_every_session_and_says_how_many
                revoke_all_spares_the_excepted_session
                revoke_all_compares_principals_exactly
                revoke_all_leaves_no_survivor_among_sessions_being_renewed
                revoke_all_leaves_no_survivor_among_sessions_being_updated
                revoke_all_does_not_affect_a_later_sign_in;
            limiting:
                limit_rejects_one_sign_in_too_many
                limit_evicts_the_oldest_and_says_whom
                limit_that_was_lowered_evicts_as_many_as_needed
                limit_does_not_count_what_ended
                limit_does_not_count_other_principals
                limit_counts_a_renewed_session_once
                limit_holds_for_a_renewal_to_a_new_owner
                limit_evicts_nobody_when_nothing_is_written
                limit_is_not_exceeded_by_parallel_sign_ins
                limit_is_not_exceeded_by_parallel_renewals
                limit_is_not_exceeded_by_parallel_evictions;
            sweeping:
                sweep_never_removes_a_live_session
                sweep_removes_what_expired_within_its_limit
                sweep_removes_outdated_tombstones
                sweep_keeps_tombstones_that_are_still_needed
                sweep_runs_in_parallel_with_itself_and_live_traffic;
            scanning:
                scan_brings_every_live_record_exactly_once
                scan_brings_no_record_that_ended
                scan_is_not_disturbed_by_writes_in_between;
            cancelling:
                dropped_reads_shift_no_answer
                dropped_create_is_all_or_nothing
                dropped_update_is_all_or_nothing
                dropped_touch_is_all_or_nothing
                dropped_renew_is_all_or_nothing
                dropped_delete_is_all_or_nothing
                dropped_revoke_is_all_or_nothing
                dropped_revoke_all_shifts_no_answer
                dropped_sweep_shifts_no_answer;
            signalling:
                signals_tell_of_every_end_and_every_renewal;
            modelling:
                random_calls_do_what_the_model_says;
        }
    };
}

__store_checks! { [define_checks] () }
