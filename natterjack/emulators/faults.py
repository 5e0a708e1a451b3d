"""Faults that every emulator can inject, and the log of its connections."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from .canned import Words
from .tones import TimedWord

GARBAGE: Final[dict[str, str | bytes]] = {
    "not_json": "this is not JSON",
    "array": "[[], 7]",
    "scalar": "42",
    "no_type": '{"kind": 7}',
    "type_not_text": '{"type": 7}',
    "unknown_type": '{"type": "Weather", "sunny": true}',
    "binary": b"\x00\xff\x00",
}
"""Messages that are invalid in every protocol, and have no text, so that they are certainly no
finals; each session adds its own."""


class Faults(BaseModel):
    """Switches of an emulator. All are off by default; `Emulator.set` changes them at any time.

    `_after_seconds` counts audio received on a connection, or sent by a voice. A switch set after a
    connection has passed that position takes effect with the next audio.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Before a connection is open.
    refuse: bool = Field(False, description="stop listening: TCP connections are refused")
    handshake_status: int | None = Field(None, description="answer upgrades with this HTTP status")
    handshake_delay_seconds: float = Field(0, description="delay of upgrade responses")
    handshake_drop: bool = Field(False, description="abort the TCP connection of upgrades")
    handshakes: int | None = Field(
        None, description="number of handshakes that the three switches above affect; none for all"
    )

    # On an open connection. `connections` limits how many of them are affected.
    connections: int | None = Field(
        None, description="number of connections that the switches below affect; none for all"
    )
    drop_after_seconds: float | None = Field(
        None, description="abort the TCP connection at this position"
    )
    drop_mid_word: int | None = Field(
        None, description="abort the TCP connection within the word after this many words"
    )
    drop_before_summary: bool = Field(
        False,
        description="abort the TCP connection after the last results, before the summary, or "
        "before the close in protocols without a summary",
    )
    close_after_seconds: float | None = Field(
        None, description="close with `close_code` at this position"
    )
    close_code: int = 1011
    close_reason: str = ""
    stop_reading_after_seconds: float | None = Field(
        None, description="stop reading from the socket until the switch is off"
    )
    mute_after_seconds: float | None = Field(
        None,
        description="receive audio and answer pings, but send nothing more, not even a close",
    )
    garbage: tuple[str, ...] = Field(
        (),
        description="kinds of nonsense, each sent once per connection before a message, or `all`",
    )
    mutated: bool = Field(
        False, description="change one message per connection in one place, at random"
    )
    unreadable_word: str | None = Field(
        None,
        description="send each final that has this word with a number in place of every list and "
        "object",
    )

    # The words that are recognized, and how fast.
    words: Words = Field(
        "tones",
        description="canned: any voice is answered with words of a fixed passage, not with what "
        "was said; for streams that open later",
    )
    latency_seconds: float = Field(0, ge=0, description="delay of every message")
    pace: float | None = Field(
        None,
        gt=0,
        description="limit of processing speed, in multiples of real time; none for no limit",
    )


@dataclass
class ConnectionLog:
    """The record of one connection or connection attempt."""

    id: int
    path: str
    query: dict[str, list[str]]
    opened_at: float = field(default_factory=time.time)
    """Wall clock, in seconds since the Unix epoch."""
    closed_at: float | None = None
    request_id: str = ""
    audio_seconds: float = 0.0
    """Audio received and processed, or sent by a voice."""
    audio_frames: int = 0
    texts: dict[str, int] = field(default_factory=dict)
    """Text messages of the client, by type."""
    words: list[TimedWord] = field(default_factory=list)
    """Words in the audio that the client sent, whether or not it received their transcript; of a
    voice, words in the audio that it sent."""
    messages: dict[str, int] = field(default_factory=dict)
    """Messages sent, by type."""
    finals: list[str] = field(default_factory=list)
    """Non-empty texts of the finals sent."""
    fault: str | None = None
    """The last fault that affected the connection."""
    mutation: str = ""
    """The message that was changed, and the change, if `mutated` affected the connection."""
    closed: str | None = None
    """How it ended: `refused 401`, `server 1000`, `client 1000`, `lost` (by the client or the
    network), `dropped` (by a fault). None while it is open."""

    def end(self, how: str) -> None:
        """Record how the connection ended. Only the first call counts."""
        if self.closed is None:
            self.closed = how
            self.closed_at = time.time()

    def as_json(self) -> dict[str, Any]:
        """Return the entry for `GET /_emulator/log`."""
        return {**asdict(self), "words": [word._asdict() for word in self.words]}
