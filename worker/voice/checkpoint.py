"""The checkpoint of a voice session: bucket `tts_sessions`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from natterjack.broker.streams import VOICE_CHECKPOINTS_BUCKET
from natterjack.values import ProviderUsage
from worker.session.checkpoint import LeaseRecord


class VoiceAccount(BaseModel):
    """The use of a voice session so far, in its checkpoint."""

    model_config = ConfigDict(extra="ignore")

    audio_seconds: float = 0
    repeated_characters: int = 0
    played_seconds: float = 0
    providers: dict[str, ProviderUsage] = Field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class OpenUtterance:
    """An utterance with published audio that was not played to its end."""

    number: int
    start: int
    end: int | None = None
    places: list[tuple[int, int]] = field(default_factory=list)
    """Positions at which phrases begin, with their places in the text."""
    characters: int = 0
    """The end of the text of the last of these phrases."""


@dataclass(slots=True, kw_only=True)
class VoiceCheckpoint(LeaseRecord):
    """The state that a worker needs to go on speaking, besides the text, the audio and the events.

    All audio of the phrases before `offset`, in the text of `utterance`, is published. The next
    phrase begins at `position`; of it, only chunks with a number of at least `seq` are published.
    """

    bucket: ClassVar[str] = VOICE_CHECKPOINTS_BUCKET

    text_sequence: int = 1
    """Reading TTS_TEXT from here finds the text of all utterances that are not over."""
    utterance: int = 0
    offset: int = 0
    position: int = 0
    seq: int = 0
    played: int = 0
    cut: int = 0
    over: int = -1
    """All utterances up to this one are over."""
    started: int = -1
    """The event `started` of all utterances up to this one is published."""
    sent: tuple[int, int] = (-1, 0)
    """The place in the text up to which any was sent to a provider, and counted in `account`."""
    open: list[OpenUtterance] = field(default_factory=list)
    rewound: int = -1
    """The number of the last cut that drops no text: lost audio is spoken again after it."""
    paces: dict[str, tuple[int, float]] = field(default_factory=dict)
    """The characters and seconds of the phrases that each voice has spoken to their ends."""
    last: int | None = None
    """The utterance after which the session closes."""
    close_reason: str | None = None
    """Set when a request has asked to close the session."""
    account: VoiceAccount | None = None
    """Set when a checkpoint is read."""
