"""The account of a session: sums, gaps, takeover, and its form in a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from natterjack.events import StatusState
from natterjack.subjects import SessionKey
from natterjack.values import Account
from worker.audio.feed import Gap
from worker.metering.account import AccountBuilder, count_ended, is_complete
from worker.metering.ledger import Ledger
from worker.metering.prices import Price
from worker.metering.tally import Tally
from worker.metrics import Metrics
from worker.session.checkpoint import Checkpoint

KEY = SessionKey("t", "c", "s")


def _new_builder() -> AccountBuilder:
    metrics = Metrics(1)
    return AccountBuilder(KEY, 1000, metrics, Ledger("t", 1000, metrics, Tally("worker")))


def _stream(builder: AccountBuilder, start: int, sent: float, connected: float) -> None:
    builder.ledger.opened("deepgram", Price(0, "USD", "audio"), start)
    builder.ledger.closed(start + round(sent * 1000), sent, connected)


def test_gaps_are_counted_once_even_if_audio_is_read_again() -> None:
    builder = _new_builder()
    for _ in range(2):
        builder.gap(Gap(1000, 500, "missing"))
        builder.gap(Gap(3000, 1000, "edge"))
    account = builder.account(final=10_000, reached=10_000)
    assert [(gap.start, gap.end, gap.cause) for gap in account.gaps] == [
        (1.0, 1.5, "missing"),
        (3.0, 4.0, "edge"),
    ]
    assert account.gap_seconds == {"missing": 0.5, "edge": 1.0}
    assert account.received_seconds == account.transcribed_seconds == 8.5


def test_audio_that_is_left_out_was_received_and_its_gaps_count_once() -> None:
    builder = _new_builder()
    builder.gap(Gap(1000, 500, "missing"))
    builder.gap(Gap(3000, 1000, "edge"))
    builder.leave_out(500, 2500)
    builder.gap(Gap(1000, 500, "missing"))
    account = builder.account(final=10_000, reached=10_000)
    assert [(gap.start, gap.end, gap.cause) for gap in account.gaps] == [
        (1.0, 1.5, "missing"),
        (3.0, 4.0, "edge"),
        (0.5, 1.0, "unreadable"),
        (1.5, 2.5, "unreadable"),
    ]
    assert account.gap_seconds == {"missing": 0.5, "edge": 1.0, "unreadable": 1.5}
    assert account.received_seconds == 8.5
    assert account.transcribed_seconds == 7.0


def test_the_account_lists_a_limited_number_of_gaps() -> None:
    builder = _new_builder()
    for n in range(20_000):
        builder.gap(Gap(n * 80, 10, "edge"))
    account = builder.account(final=1_600_000, reached=1_600_000)
    assert len(account.gaps) == 100
    assert account.gap_seconds == {"edge": 200.0}
    assert len(account.model_dump_json()) < 10_000


@pytest.mark.parametrize(
    ("account", "cutoff", "complete"),
    [
        (Account(captured_seconds=9, transcribed_seconds=9), None, True),
        (Account(captured_seconds=9, transcribed_seconds=8), None, False),
        (Account(captured_seconds=9, transcribed_seconds=5), 5.0, True),
        (Account(captured_seconds=9, transcribed_seconds=4), 5.0, False),
        (Account(captured_seconds=9, transcribed_seconds=9, gap_seconds={"edge": 1}), None, False),
        (Account(), None, True),
    ],
)
def test_complete_accounts(account: Account, cutoff: float | None, complete: bool) -> None:
    assert is_complete(account, cutoff) is complete


def test_ended_sessions_are_counted_and_failed_ones_are_never_complete() -> None:
    metrics = Metrics(1)
    states: list[StatusState] = ["closed", "failed", "closed"]
    for state in states:
        count_ended(metrics, Account(), state, None)
    counted = [
        metrics.registry.get_sample_value("natterjack_session_accounts_total", {"complete": each})
        for each in ("true", "false")
    ]
    assert counted == [2, 1]


def test_the_next_worker_continues_the_books() -> None:
    first, second = _new_builder(), _new_builder()
    first.gap(Gap(1000, 500, "missing"))
    first.recovery("dropped")
    _stream(first, 0, 5.0, 6.0)
    left = first.account(final=2000, reached=5000)
    second.adopt(left, first.gaps_until)
    second.ledger.adopt(left.providers, first.ledger.sent_until(None), left.captured_seconds)
    second.gap(Gap(1000, 500, "missing"))
    second.recovery("dropped")
    _stream(second, 2000, 4.0, 4.5)
    account = second.account(final=8000, reached=8000)
    assert account == Account(
        captured_seconds=8, received_seconds=7.5, sent_seconds=9, transcribed_seconds=7.5,
        connected_seconds=10.5, providers=account.providers, gaps=account.gaps,
        gap_seconds={"missing": 0.5}, recoveries={"dropped": 2},
    )  # fmt: skip
    assert len(account.gaps) == 1
    assert account.providers["deepgram"].replayed_seconds == 3


def test_a_checkpoint_with_unusual_names_and_reports_is_readable() -> None:
    """Plugins choose names of providers and currencies, and a provider may report anything."""
    builder = _new_builder()
    odd = 'a"b\\c\n\u20ac'
    builder.ledger.opened(odd, Price(3600, odd, "audio"), 0)
    for seconds in (math.nan, math.inf, 1e306, -1.0):
        builder.ledger.reported(seconds)
    builder.ledger.closed(2000, 2.0, 2.0)
    builder.gap(Gap(3000, 1000, odd))
    builder.recovery("drop")
    checkpoint = Checkpoint(
        session_id="1", epoch=1, worker=odd, state="streaming", opened_at=datetime.now(UTC)
    )
    read = Checkpoint.decode(checkpoint.encode(builder.json(final=2000, reached=4000)))
    assert read.account == builder.account(final=2000, reached=4000)
    assert read.account is not None
    assert read.account.providers[odd].sent_seconds == 2
    assert read.account.gap_seconds == {odd: 1.0}
    assert replace(read, account=None) == checkpoint


def test_an_account_counts_from_the_first_frame_of_its_session() -> None:
    builder = _new_builder()
    builder.begin(5000, 4000)
    assert builder.account(final=5000, reached=5000) == Account()
    builder.gap(Gap(4000, 1500, "missing"))
    account = builder.account(final=8000, reached=9000)
    assert account.captured_seconds == 4
    assert account.gap_seconds == {"missing": 0.5}
    assert account.received_seconds == 3.5
    assert account.transcribed_seconds == 2.5
    assert [(gap.start, gap.end) for gap in account.gaps] == [(5.0, 5.5)], "on the session's clock"


def test_gaps_behind_the_finals_are_left_to_a_successor() -> None:
    builder = _new_builder()
    for at, cause in ((1000, "edge"), (4000, "edge"), (7000, "missing")):
        builder.gap(Gap(at, 1000, cause))
    builder.end(4500)
    first = builder.account(final=4500, reached=4500)
    assert [(gap.start, gap.end) for gap in first.gaps] == [(1.0, 2.0), (4.0, 4.5)]
    assert first.gap_seconds == {"edge": 1.5}
    assert first.transcribed_seconds == 3

    successor = _new_builder()
    successor.begin(4500, 9000)
    for at, cause in ((4000, "edge"), (7000, "missing")):
        successor.gap(Gap(at, 1000, cause))
    second = successor.account(final=9000, reached=9000)
    assert second.gap_seconds == {"edge": 0.5, "missing": 1.0}
    assert first.transcribed_seconds + second.transcribed_seconds == 6, "9 s, of which 3 are gaps"
