"""What every emulator can be made to do wrong, and the log of what happened to it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from .tones import HeardWord

GARBAGE: Final[dict[str, str | bytes]] = {
    "not_json": "} this is not JSON {",
    "array": '["an", "array"]',
    "scalar": "42",
    "no_type": '{"kind": "nothing"}',
    "type_not_text": '{"type": 7}',
    "unknown_type": '{"type": "Weather", "sunny": true}',
    "binary": b"\x00\xff\x00",
}
"""What no protocol allows a server to say; a protocol's own session adds to it."""


class Faults(BaseModel):
    """Switches of an emulator. All off by default; set with `Emulator.set`, at any time.

    Seconds are of audio received on a connection, unless they are of waiting. A switch that is
    thrown while a connection is already past its mark acts at once (with the next audio).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Before a connection stands.
    refuse: bool = Field(False, description="stop listening: TCP connections are refused")
    handshake_status: int | None = Field(None, description="answer upgrades with this HTTP status")
    handshake_delay_seconds: float = Field(0, description="answer upgrades so much later")
    handshake_drop: bool = Field(False, description="abort the TCP connection of upgrades")
    handshakes: int | None = Field(
        None, description="the three above hit only so many handshakes from now; none: all"
    )

    # On a running connection. `connections` bounds how many of them are hit.
    connections: int | None = Field(
        None, description="what follows hits only so many connections from now; none: all"
    )
    drop_after_seconds: float | None = Field(None, description="abort the TCP connection then")
    drop_mid_word: int | None = Field(
        None, description="abort the TCP connection within the word after so many words"
    )
    drop_before_summary: bool = Field(
        False,
        description="abort the TCP connection after the last results, before the summary; where "
        "there is none, before the close",
    )
    close_after_seconds: float | None = Field(None, description="close with `close_code` then")
    close_code: int = 1011
    close_reason: str = ""
    stop_reading_after_seconds: float | None = Field(
        None, description="read no more from the socket, until the switch is off again"
    )
    mute_after_seconds: float | None = Field(
        None,
        description="take audio, answer pings, and say nothing more, not even a close, for as long "
        "as the connection stands",
    )
    garbage: tuple[str, ...] = Field(
        (), description="kinds of nonsense, each sent once a connection before a message; `all`"
    )

    # How it works, right or wrong.
    latency_seconds: float = Field(0, ge=0, description="every message is sent so much later")
    pace: float | None = Field(
        None, gt=0, description="hear audio at most at so many times real time; none: no limit"
    )


@dataclass
class ConnectionLog:
    """What an emulator knows of one connection, or of one try at one."""

    id: int
    path: str
    query: dict[str, list[str]]
    opened_at: float = field(default_factory=time.time)
    """Wall clock, seconds since the epoch."""
    closed_at: float | None = None
    request_id: str = ""
    audio_seconds: float = 0.0
    """Audio that was received and heard."""
    audio_frames: int = 0
    texts: dict[str, int] = field(default_factory=dict)
    """Text messages of the client, by type."""
    words: list[HeardWord] = field(default_factory=list)
    """What was truly heard, whether or not anybody was told."""
    messages: dict[str, int] = field(default_factory=dict)
    """Messages sent, by type."""
    said: list[str] = field(default_factory=list)
    """Texts of the finals that were sent, empty ones left out."""
    fault: str | None = None
    """The last fault that was committed on it."""
    closed: str | None = None
    """How it ended: `refused 401`, `server 1000`, `client 1000`, `lost` (by the client or the
    network), `dropped` (by a fault). None: it stands."""

    def end(self, how: str) -> None:
        """Note how it ended; the first to say so is right."""
        if self.closed is None:
            self.closed = how
            self.closed_at = time.time()

    def as_json(self) -> dict[str, Any]:
        """As `GET /_emulator/log` shows it."""
        return {**asdict(self), "words": [word._asdict() for word in self.words]}
