from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from natterjack.cli.edges.rows import ago, lines_of, summary
from natterjack.cli.edges.steer import chosen
from natterjack.errors import UsageError
from natterjack.fleet.edge_reader import EdgeRow
from natterjack.fleet.edges import EdgePresence

AT = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)


def row(agent: str = "room-12", state: str = "running", **values: Any) -> EdgeRow:
    fields = {"tenant": "acme", "agent": agent, "started_at": AT, "seen_at": AT, **values}
    presence = EdgePresence.model_validate(fields)
    return EdgeRow(state=state, seen_seconds_ago=3, presence=presence)


def test_each_source_has_a_line() -> None:
    mic = {"name": "mic", "state": "capturing", "level": {"rms_dbfs": -31.4}, "device": "USB"}
    hall = {"name": "hall", "state": "muted", "findings": ["input_dead"], "error": "gone"}
    spool = {"bytes": 60, "seconds": 75, "limit_bytes": 100}
    _, first, second = lines_of(
        [row(sources=[mic, hall], spool=spool, clock_offset_seconds=-1.5, last_error="oops")]
    )
    for words in ("acme.room-12", "running", "3s", "75s 60%", "-1.5 s", "-31 dB", "USB", "oops"):
        assert words in first
    assert "acme.room-12" not in second
    assert "input_dead; gone" in second


def test_the_error_of_a_source_is_not_that_of_another() -> None:
    sources = [
        {"name": "mic", "state": "waiting"},
        {"name": "hall", "state": "failed", "error": "gone"},
    ]
    _, first, second = lines_of([row(sources=sources, last_error="gone")])
    assert "gone" not in first
    assert second.endswith("gone")


def test_no_line_is_wider_than_the_terminal() -> None:
    mic = {"name": "mic", "state": "capturing", "device": "a long name " * 9, "error": "e" * 99}
    assert max(map(len, lines_of([row(sources=[mic])], room=80))) <= 80
    assert len(lines_of([row()])) == 2


def test_the_summary_counts_sources_of_edges_that_are_there() -> None:
    sources = [{"name": "mic", "state": "capturing"}, {"name": "hall", "state": "muted"}]
    rows = [row(sources=sources), row("b", "absent", sources=sources), row("c", "stopped")]
    assert summary(rows) == (
        "edges 3 (absent 1, running 1, stopped 1), sources 2 (capturing 1, muted 1)"
    )
    assert summary([]) == "edges 0, sources 0"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (9e5, "10d")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert ago(seconds) == shown


def test_an_edge_is_chosen_by_its_name() -> None:
    other = row()
    other.presence.tenant = "other"
    known = [row(), other, row("hall")]
    assert chosen("hall", known) is known[2]
    assert chosen("other.room-12", known) is other
    for name, words in (
        ("room-12", "several edges: give one of acme.room-12, other.room-12"),
        ("hal", "did you mean acme.hall"),
        ("acme.room-21", "did you mean acme.room-12"),
        ("x", "`natterjack edges` lists them"),
    ):
        with pytest.raises(UsageError, match=words):
            chosen(name, known)
