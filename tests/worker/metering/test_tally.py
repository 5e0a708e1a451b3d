"""A process's use by day and tenant, and the part that is not written yet."""

from __future__ import annotations

from worker.metering.tally import Tally
from worker.metering.usage import Usage


class Calendar:
    def __init__(self) -> None:
        self.day = "2026-11-20"

    def __call__(self) -> str:
        return self.day


def test_usage_adds_up_by_tenant_and_provider() -> None:
    tally = Tally("w-1", Calendar())
    tally.add("acme", "deepgram", "USD", Usage(sent=2, cost=0.5))
    tally.add("acme", "deepgram", "USD", Usage(sent=3, cost=0.25))
    tally.add("acme", "sherpa", "USD", Usage(sent=1))
    tally.add_captured("acme", 6)
    used = tally.of("2026-11-20", "acme")
    assert used.captured_seconds == 6
    assert used.providers["deepgram"].sent_seconds == 5
    assert used.providers["deepgram"].cost == 0.75
    assert used.providers["sherpa"].sent_seconds == 1
    assert tally.of("2026-11-20", "other").providers == {}


def test_a_new_day_begins_at_zero_and_yesterday_stays_to_be_written() -> None:
    calendar = Calendar()
    tally = Tally("w-1", calendar)
    tally.add("acme", "deepgram", "USD", Usage(sent=2))
    calendar.day = "2026-11-21"
    tally.add("acme", "deepgram", "USD", Usage(sent=1))
    unwritten = tally.unwritten()
    assert set(unwritten) == {"2026-11-20.acme.w-1", "2026-11-21.acme.w-1"}
    assert unwritten["2026-11-20.acme.w-1"].providers["deepgram"].sent_seconds == 2
    assert unwritten["2026-11-21.acme.w-1"].providers["deepgram"].sent_seconds == 1


def test_a_forgotten_tenant_leaves_nothing_and_others_stay() -> None:
    tally = Tally("w-1", Calendar())
    tally.add("acme", "deepgram", "USD", Usage(sent=2))
    tally.add("other", "deepgram", "USD", Usage(sent=4))
    tally.forget("acme")
    assert set(tally.unwritten()) == {"2026-11-20.other.w-1"}
    assert tally.of("2026-11-20", "acme").providers == {}


def test_a_day_that_is_corrected_below_zero_is_written_as_zero() -> None:
    tally = Tally("w-1", Calendar())
    tally.add("acme", "deepgram", "USD", Usage(billed=-3.0))
    assert tally.of("2026-11-20", "acme").providers["deepgram"].billed_seconds == 0
