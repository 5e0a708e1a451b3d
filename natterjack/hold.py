"""The message on `stt.hold.<key>`, by which edges agree on the one that captures a key, and on
`tts.hold.<key>`, by which they agree on the one that plays it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

MAX_BYTES = 4096
"""Size limit of a message."""
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
_PRINTABLE = r"^[ -~]+$"


class Hold(BaseModel):
    """Payload of `stt.hold.<key>`, `tts.hold.<key>` and of replies: an edge that captures or plays
    the key, or wants to."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    session_id: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_-]{8,64}$",
            description="ID of its session on the key, or of the player",
        ),
    ]
    agent: Annotated[
        str, Field(max_length=255, pattern=_PRINTABLE, description="name of its machine")
    ]
    pid: Annotated[int | None, Field(ge=0, lt=2**32, description="its process ID")] = None
    since: Annotated[
        AwareDatetime,
        Field(ge=_FIRST, lt=_LAST, description="wall-clock time at which it began"),
    ]
    version: Annotated[
        str | None, Field(max_length=64, pattern=_PRINTABLE, description="its release")
    ] = None
    publishing: Annotated[
        bool,
        Field(
            description="it has asked before, and publishes or plays; false: it asks for the key"
        ),
    ]
    request_sequence: Annotated[
        int | None,
        Field(
            ge=1,
            lt=2**63,
            description="stream sequence of its newest session request in STT_SESSIONS, of any "
            "key; absent if none is stored",
        ),
    ] = None

    def encode(self) -> bytes:
        """Return the message."""
        return self.model_dump_json(exclude_none=True).encode()

    def outranks(self, other: Hold) -> bool:
        """Whether this edge keeps a key that both want. Of two that differ, exactly one does.

        An edge that publishes outranks one that asks. Of two that publish, one has taken over from
        the other, which did not answer: the newer session request decides, as it does for workers,
        and no clocks are compared. Otherwise the edge that began first has the key.

        The rank of an edge only rises. Edges that compare each other's messages, however late,
        can therefore not all give the key up.
        """
        if self._rank != other._rank:
            return self._rank > other._rank
        return self._order < other._order

    @property
    def _rank(self) -> tuple[bool, int]:
        return self.publishing, (self.request_sequence or 0) if self.publishing else 0

    @property
    def _order(self) -> tuple[datetime, str, int, str]:
        # The same for all keys of an edge, but for the last, which tells apart what is left.
        return self.since, self.agent, self.pid or 0, self.session_id


def parse_hold(payload: bytes) -> Hold | None:
    """Return the message, or None if it is not a valid one."""
    if len(payload) > MAX_BYTES:
        return None
    try:
        return Hold.model_validate_json(payload)
    except ValidationError:
        return None
