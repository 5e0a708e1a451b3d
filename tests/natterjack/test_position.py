"""Positions as text: exact, and refused if anything of it was changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from natterjack.errors import UsageError
from natterjack.position import Position, nanoseconds

POSITION = Position(123_456, 1_796_083_025_799_242_993)
TEXT = str(POSITION)


def test_a_position_is_read_back_exactly() -> None:
    assert Position.parse(TEXT) == POSITION
    assert POSITION.stored_at == datetime(2026, 11, 30, 23, 57, 5, 799_242, UTC)
    assert TEXT.isascii()
    assert not set(TEXT) - set("-_").union(map(chr, range(48, 123)))


def test_the_text_of_a_position_does_not_change() -> None:
    """Positions are stored by programs, over releases."""
    assert str(Position(1, 2)) == "AQAAAAAAAAABAAAAAAAAAAKR"


WRONG = [
    "", "start", "1@2026-11-20T00:00:00+00:00", TEXT[:-1], TEXT[1:], f"{TEXT}=", f" {TEXT}",
    TEXT.swapcase(), f"{TEXT}{TEXT}", "ä" * 24, "\x00" * 24, str(Position(0, 5)),
    *(TEXT[:n] + ("A" if TEXT[n] != "A" else "B") + TEXT[n + 1 :] for n in range(len(TEXT))),
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a position"):
        Position.parse(text)


def test_nanoseconds_are_exact() -> None:
    moment = datetime(2026, 11, 20, 1, 2, 3, 456_789, UTC)
    assert nanoseconds(moment) % 1_000_000_000 == 456_789_000
    other = moment.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert nanoseconds(other) == nanoseconds(moment)
