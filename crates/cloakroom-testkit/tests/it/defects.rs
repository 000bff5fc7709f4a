//! Every defect that stores have in the field is caught, by the check whose name says what is wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cloakroom_testkit::store::CHECKS;
use cloakroom_testkit::store_suite;

use crate::naive::{Defect, OnNaive};

// Without a defect it is right: what is caught below is the defect and nothing else.
store_suite!(without_defect, OnNaive::with(None));

/// The checks that are there for this defect. Others may catch it too.
const fn caught_by(defect: Defect) -> &'static [&'static str] {
    match defect {
        Defect::UpdateCreates => {
            &["update_does_not_recreate_a_deleted_session", "update_of_an_unknown_id_creates_nothing"]
        }
        Defect::UpdateIgnoresTheRevision => &[
            "update_conflict_brings_the_current_record_and_writes_nothing",
            "update_by_a_hundred_parallel_writers_adds_up",
        ],
        Defect::UpdateInSteps => {
            &["update_by_a_hundred_parallel_writers_adds_up", "update_of_one_revision_has_one_winner"]
        }
        Defect::UpdatePullsTheDeadlineBack => &["update_does_not_pull_back_a_pushed_idle_deadline"],
        Defect::UpdateChangesTheOwner => &["update_does_not_change_the_owner", "update_does_not_change_the_handle"],
        Defect::TouchRevives => &["touch_does_not_revive_an_expired_session"],
        Defect::TouchPassesTheAbsoluteLimit => &["touch_never_passes_the_absolute_limit"],
        Defect::TouchMovesBackwards => &["touch_never_moves_the_deadline_backwards"],
        Defect::TouchChangesTheRevision => {
            &["touch_pushes_the_idle_deadline_and_nothing_else", "touch_never_conflicts_with_an_update"]
        }
        Defect::RenewDeletesFirst | Defect::RenewInsertsFirst => {
            &["renew_shows_every_observer_exactly_one_live_id", "dropped_renew_is_all_or_nothing"]
        }
        Defect::RenewKeepsTheOldId => &["renew_moves_the_session_to_the_new_id", "renew_can_be_chained"],
        Defect::RenewForgetsTheFormerOwner => &["renew_to_another_owner_moves_between_the_lists"],
        Defect::IdsWithoutCase | Defect::IdsByPrefix => &["load_finds_only_the_exact_id"],
        Defect::AnswersShift => &["dropped_reads_shift_no_answer", "load_brings_every_parallel_reader_its_own_record"],
        Defect::CallersClock => &["touch_decides_by_the_stores_clock", "update_decides_by_the_stores_clock"],
        Defect::DeadlineInclusive => &["load_is_live_until_the_millisecond_of_the_deadline"],
        Defect::ListByPrefix => &[
            "list_compares_principals_exactly",
            "revoke_all_compares_principals_exactly",
            "limit_does_not_count_other_principals",
        ],
        Defect::ListPagesByTime => &["list_pages_through_250_sessions_without_gap_or_double"],
        Defect::RevokeAllBySnapshot => &["revoke_all_leaves_no_survivor_among_sessions_being_renewed"],
        Defect::RevokeAllByTime => &["revoke_all_does_not_affect_a_later_sign_in"],
        Defect::RevokeAnybodys => &["revoke_of_another_principals_handle_is_false_and_harmless"],
        Defect::LimitInSteps => {
            &["limit_is_not_exceeded_by_parallel_sign_ins", "limit_is_not_exceeded_by_parallel_evictions"]
        }
        Defect::SweepGoesByTheFirstDeadline => &["sweep_never_removes_a_live_session"],
        Defect::SweepWithoutLimit | Defect::SweepIsDoneAtItsLimit => &["sweep_removes_what_expired_within_its_limit"],
        Defect::SweepForgetsEndings => &["sweep_keeps_tombstones_that_are_still_needed"],
        Defect::CreateOverwrites => {
            &["create_never_overwrites_a_live_session", "create_has_one_winner_among_parallel_calls_for_one_id"]
        }
        Defect::CreateReusesIds => &["create_refuses_an_id_that_was_deleted", "create_refuses_an_id_that_expired"],
        Defect::DeleteDoesNotFollow => &["delete_follows_renewals"],
        Defect::ScanByOffset => &["scan_is_not_disturbed_by_writes_in_between"],
        Defect::ValuesAsText => &["load_brings_what_was_stored_byte_for_byte"],
        Defect::NoReasons => &["delete_leaves_its_reason", "update_does_not_recreate_a_revoked_session"],
        Defect::RecordsAreCut => &["load_brings_a_record_of_256_kib"],
    }
}

/// The names of the checks, out of these, that fail on a store with this defect.
fn failing(defect: Defect, names: &[&'static str]) -> Vec<&'static str> {
    let checks = CHECKS.iter().filter(|check| names.contains(&check.name));
    let failing =
        checks.filter(|check| catch_unwind(AssertUnwindSafe(|| check.run(OnNaive::with(Some(defect))))).is_err());
    failing.map(|check| check.name).collect()
}

#[test]
fn every_defect_is_caught_by_the_checks_that_are_there_for_it() {
    let mut slipped_through = Vec::new();
    for defect in Defect::ALL {
        let expected = caught_by(defect);
        let failed = failing(defect, expected);
        let missed = expected.iter().filter(|name| !failed.contains(name));
        slipped_through.extend(missed.map(|name| (defect, *name)));
    }
    assert!(slipped_through.is_empty(), "{slipped_through:#?}");
}

/// The model finds by itself what does not need parallel callers.
#[test]
fn the_model_catches_what_goes_wrong_in_sequence() {
    for defect in [
        Defect::UpdateCreates,
        Defect::UpdateIgnoresTheRevision,
        Defect::UpdatePullsTheDeadlineBack,
        Defect::TouchRevives,
        Defect::TouchMovesBackwards,
        Defect::RenewKeepsTheOldId,
        Defect::RenewForgetsTheFormerOwner,
        Defect::CreateOverwrites,
        Defect::CreateReusesIds,
        Defect::NoReasons,
    ] {
        let caught = failing(defect, &["random_calls_do_what_the_model_says"]);
        assert_eq!(caught.len(), 1, "{defect:?} slipped through");
    }
}
