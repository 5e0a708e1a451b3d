"""Decoded messages of Agent STT that the realtime API does not have, with the fields that are used.

Names are those of the vendor's specification of Agent STT.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """AddSegment or AddPartialSegment: a text without times of words.

    A time is None if it cannot be read.
    """

    final: bool
    text: str
    start: float | None
    end: float | None
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Speech:
    """SpeechStarted or SpeechEnded: voice activity, which is no boundary of turns."""

    active: bool


@dataclass(frozen=True, slots=True)
class StartOfTurn:
    """The first word of a turn, at `at` seconds; None if that cannot be read."""

    at: float | None


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """The end of a turn, at `at` seconds; None if that cannot be read. No segment of the turn
    follows."""

    at: float | None


Content = Segment | Speech | StartOfTurn | EndOfTurn
