"""Where a session ends before its audio does, and the warnings before."""

from __future__ import annotations

import pytest

from natterjack.control import is_stop
from worker.session.cutoff import BUDGET, Cutoff

RATE = 1000
THRESHOLDS = (0.8, 0.95)


def cutoff(max_seconds: float | None = None) -> Cutoff:
    return Cutoff(RATE, max_seconds, THRESHOLDS)


def test_without_max_seconds_there_is_none() -> None:
    assert not cutoff().reached(10**12)
    assert cutoff().warning(10**12) is None


def test_max_seconds_end_a_session_with_the_reason_budget() -> None:
    limited = cutoff(10)
    assert not limited.reached(9_999)
    assert limited.reached(10_000)
    assert limited.reason == BUDGET
    assert limited.detail == "max_seconds: 10 s of audio"
    assert limited.budget_scope == "session"


def test_each_threshold_warns_once() -> None:
    limited = cutoff(10)
    assert limited.warning(7_999) is None
    assert limited.warning(8_000) == pytest.approx(2.0)
    assert limited.warning(9_000) is None
    assert limited.warning(9_600) == pytest.approx(0.4)
    assert limited.warning(10_000) is None


def test_thresholds_passed_together_warn_once() -> None:
    limited = cutoff(10)
    assert limited.warning(11_000) == 0.0
    assert limited.warning(12_000) is None


def test_audio_sent_again_after_a_fault_repeats_the_warning() -> None:
    limited = cutoff(10)
    assert limited.warning(8_000) is not None
    assert limited.warning(7_000) is None
    assert limited.warning(8_000) is not None


def test_a_stop_ends_the_session_where_its_audio_is() -> None:
    stopped = cutoff()
    assert stopped.stop("enough", 5_000) == 5_000
    assert stopped.reached(5_000)
    assert stopped.reason == "stopped: enough"
    assert is_stop(stopped.reason)
    assert stopped.detail is None


def test_a_stop_moves_the_end_forward_never_back() -> None:
    limited = cutoff(2)
    assert limited.stop("enough", 5_000) == 2_000
    assert limited.stop("enough", 1_000) == 1_000
    assert limited.stop("again", 1_500) == 1_000


def test_an_exhausted_budget_ends_the_session_where_audio_was_sent() -> None:
    spent = cutoff(10)
    spent.exhaust("tenant acme has used 100 % of its seconds", 3_000)
    assert (spent.position, spent.reason) == (3_000, BUDGET)
    assert spent.budget_scope == "tenant"
    spent.exhaust("later", 4_000)
    assert (spent.position, spent.detail) == (3_000, "tenant acme has used 100 % of its seconds")


def test_a_budget_spent_at_the_end_anyway_changes_nothing() -> None:
    limited = cutoff(10)
    limited.exhaust("spent", 10_000)
    assert limited.budget_scope == "session"


def test_the_former_holders_cutoff_and_warnings_are_adopted() -> None:
    adopted = cutoff(10)
    adopted.adopt(6_000, "stopped: enough", None, 8_500)
    assert adopted.reached(6_000)
    assert (adopted.reason, adopted.detail) == ("stopped: enough", None)
    assert adopted.warning(8_600) is None
    assert adopted.warning(9_500) is not None


def test_a_checkpoint_without_cutoff_leaves_max_seconds() -> None:
    adopted = cutoff(10)
    adopted.adopt(None, None, None, 0)
    assert adopted.position == 10_000


def test_max_seconds_count_from_the_first_frame_of_the_session() -> None:
    limited = cutoff(10)
    for _ in range(2):  # a worker that reads the checkpoint again begins again
        limited.begin(30_000)
        assert limited.position == 40_000
    assert limited.seconds == 10
    assert limited.warning(37_999) is None
    assert limited.warning(38_000) == pytest.approx(2.0)
    limited.adopt(36_000, BUDGET, "the tenant's day", 31_000)
    assert (limited.position, limited.seconds) == (36_000, 6)
    unlimited = cutoff()
    unlimited.begin(30_000)
    assert not unlimited.reached(10**12)


def test_a_request_does_not_cut_a_session_off() -> None:
    limited = cutoff(10)
    assert limited.cuts(10_000)
    assert not limited.cuts(9_999)
    limited.stop("enough", 9_000)
    assert not limited.cuts(9_000)
