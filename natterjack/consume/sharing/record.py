"""The stored progress of a share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from natterjack.position import Position


def covers(position: Position | None, other: Position) -> bool:
    """Whether a process that has read up to `position` has read `other`, too.

    Sequence and time must both say so. In a stream that was recreated, sequences begin again, but
    events are stored later; a clock that was set back makes times smaller, but sequences go on. So
    at worst an event is read twice, and none is passed over.
    """
    return (
        position is not None
        and other.sequence <= position.sequence
        and other.stored_ns <= position.stored_ns
    )


class Cursor(NamedTuple):
    """Where a key has events that are not settled."""

    position: Position
    """All events of the key before it are settled."""
    attempts: int = 0
    """How often the event at `position` was delivered."""
    due: float = 0.0
    """When it may be delivered again, in seconds since the epoch."""

    def passed(self, position: Position) -> bool:
        """Whether the event of the key at `position` is settled."""
        return position.sequence < self.position.sequence and covers(self.position, position)


@dataclass(frozen=True, slots=True)
class Record:
    """Every event of the share up to `read` is settled, except those of the keys in `behind`."""

    holder: str = ""
    """The process that holds the share; empty if none does."""
    read: Position | None = None
    """None before the first event."""
    floor: Position | None = None
    """No event up to this one is unsettled: reading can begin after it. None: at the origin."""
    behind: Mapping[str, Cursor] = field(default_factory=dict)
    """The cursors of keys that are behind, by the digest of the key."""

    def encode(self) -> bytes:
        """Return the JSON that is stored."""
        behind = {key: [str(c.position), c.attempts, c.due] for key, c in self.behind.items()}
        return json.dumps(
            {
                "holder": self.holder,
                "read": _text(self.read),
                "floor": _text(self.floor),
                "behind": behind,
            }
        ).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Record:
        """Parse what `encode` made. Raises ValueError, UsageError, KeyError or TypeError."""
        found: dict[str, Any] = json.loads(payload)
        return cls(
            str(found["holder"]), _position(found["read"]), _position(found["floor"]),
            {
                key: Cursor(Position.parse(where), int(attempts), float(due))
                for key, (where, attempts, due) in found["behind"].items()
            },
        )  # fmt: skip


def _text(position: Position | None) -> str | None:
    return None if position is None else str(position)


def _position(text: str | None) -> Position | None:
    return None if text is None else Position.parse(text)
