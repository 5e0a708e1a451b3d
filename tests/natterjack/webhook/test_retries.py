"""The schedule of retries, and the judgment of answers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from natterjack.webhook.judgment import judge
from natterjack.webhook.retries import (
    LONGEST_S,
    MAX_ATTEMPTS,
    MAX_RETRY_AFTER_S,
    delay,
    parse_retry_after,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_delays_double_up_to_ten_minutes() -> None:
    assert [delay(n, 0.5) for n in range(1, 10)] == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    assert delay(10**6, 0.5) == LONGEST_S


@pytest.mark.parametrize("attempt", [1, 5, 50])
def test_jitter_spreads_them_by_a_fifth(attempt: int) -> None:
    middle = delay(attempt, 0.5)
    assert delay(attempt, 0.0) == pytest.approx(0.8 * middle)
    assert delay(attempt, 1.0) == pytest.approx(1.2 * middle)


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_all_attempts_take_about_a_day(chance: float) -> None:
    hours = sum(delay(n, chance) for n in range(1, MAX_ATTEMPTS)) / 3600
    assert 19 < hours < 29
    if chance == 0.5:
        assert 24 <= hours < 24.2


def test_a_receiver_that_asks_for_a_longer_delay_gets_it() -> None:
    assert delay(1, 0.0, 120) == 120
    assert delay(1, 1.0, 120) == pytest.approx(144), "spread, and never earlier"
    assert delay(20, 0.0, 1) == pytest.approx(480), "it cannot ask for a shorter one"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None), ("", None), ("soon", None), ("-5", None), ("1.5", None), ("²", None),
        ("0", 0), (" 120 ", 120), ("9" * 400, MAX_RETRY_AFTER_S),
        ("Sun, 01 Mar 2026 12:01:00 GMT", 60), ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("Mon, 01 Mar 2027 12:00:00 GMT", MAX_RETRY_AFTER_S),
        ("Sun, 01 Mar 2026 12:01:00 -0000", 60), ("Sun, 01 Mar 99999 12:01:00 GMT", None),
    ],
)  # fmt: skip
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "outcome", "cause"),
    [
        (200, "delivered", None), (202, "delivered", None), (204, "delivered", None),
        (299, "delivered", None), (301, "failed", "redirect"), (304, "failed", "redirect"),
        (307, "failed", "redirect"), (400, "failed", "status"), (401, "failed", "status"),
        (404, "failed", "status"), (410, "gone", "disabled"), (429, "throttled", "status"),
        (500, "failed", "status"), (502, "throttled", "status"), (503, "throttled", "status"),
        (504, "throttled", "status"), (599, "failed", "status"), (999, "failed", "status"),
    ],
)  # fmt: skip
def test_judgment(status: int, outcome: str, cause: str | None) -> None:
    answer = judge(status, None, NOW)
    assert (answer.outcome, answer.cause) == (outcome, cause)
    assert (str(status) in answer.reason) == (outcome != "delivered")


def test_retry_after_counts_only_in_failures() -> None:
    assert judge(503, "120", NOW).retry_after == 120
    assert judge(500, "120", NOW).retry_after == 120
    assert judge(200, "120", NOW).retry_after is None
