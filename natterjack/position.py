"""Positions: where an event is in its stream, as text that can be stored."""

from __future__ import annotations

import base64
import struct
import zlib
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from .errors import UsageError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORM = struct.Struct(">BQQB")
_VERSION = 1  # the text begins with it, and ends with a checksum


def nanoseconds(moment: datetime) -> int:
    """Nanoseconds since the epoch, exactly. `moment` has a time zone."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def rfc3339(ns: int) -> str:
    """Nanoseconds since the epoch as the text of a time in UTC, exactly."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


class Position(NamedTuple):
    """Identifies a message of a stream.

    The sequence alone is not enough, because a stream that was recreated, or restored from a
    backup, uses sequences again. Two messages with one sequence have different times of storage, so
    the time tells the incarnations of a stream apart.
    """

    sequence: int
    stored_ns: int
    """When the server stored it, in nanoseconds since the epoch."""

    @property
    def stored_at(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self.stored_ns // 1000)

    def __str__(self) -> str:
        body = _FORM.pack(_VERSION, self.sequence, self.stored_ns, 0)
        check = zlib.crc32(body[:-1]) & 0xFF
        return base64.urlsafe_b64encode(body[:-1] + bytes([check])).decode()

    @classmethod
    def parse(cls, text: str) -> Position:
        """Parse what `str` made. Raises UsageError for anything else, a shortened one included."""
        try:
            body = base64.urlsafe_b64decode(text.encode("ascii"))
            _, sequence, stored_ns, _ = _FORM.unpack(body)
            position = cls(sequence, stored_ns)
        except (ValueError, struct.error):  # of base64 and of characters, too
            position = cls(0, 0)
        if not position.sequence or str(position) != text:
            raise UsageError(
                f"{text!r} is not a position: use the `position` of an event, unchanged"
            )
        return position
