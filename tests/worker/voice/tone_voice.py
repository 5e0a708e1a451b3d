"""A voice that speaks tone words in the worker's own process, and the worker that has it.

`python -m tests.worker.voice.tone_voice` is the worker, with the voice `tones`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.emulators import tones
from natterjack.emulators.spoken import places, synthesize
from natterjack.plugin.entry_points import GROUP, VOICES_GROUP, available
from natterjack.plugin.errors import Dropped, RemoteProtocolError, RequestRefused
from natterjack.plugin.voice import (
    Interrupted,
    Mark,
    PhraseEnd,
    Speech,
    Voice,
    VoiceCapabilities,
    VoiceStream,
    VoiceStreamEvent,
    VoiceStreamRequest,
)
from worker.__main__ import main
from worker.providers import loading

FRAME_SECONDS = 0.1
WAITS_AT_GATE = "the voice waits at its gate"
HOLDS = "the voice holds a stream"
"""Log message of the voice."""
log = logging.getLogger(__name__)


class ToneSettings(BaseSettings):
    """Settings of the voice."""

    model_config = SettingsConfigDict(env_prefix="TONES_")

    pace: float = 20
    """How many times real time it speaks."""
    rate: int = 24_000
    drops: int = 0
    """How many streams of the process break."""
    drop_after: float = 1.3
    """Seconds of audio after which they do."""
    mute: int = 0
    """How many streams never speak."""
    refuse: bool = False
    marks: bool = False
    """Whether it says where words begin."""
    max_seconds: float | None = None
    """How long it keeps a stream, as it says."""
    endless: str = ""
    """A word: the speech of a phrase that has it does not end."""
    gap: float = tones.GAP_SECONDS
    """Seconds of silence after each word."""
    reports: bool = False
    """Whether it says at an interrupt what of the phrase was spoken."""
    gate: str = ""
    """A file: until it exists, no stream but the first is opened."""
    hold_after: float | None = None
    """Seconds of audio after which the first stream that is not to break waits for an interrupt."""
    unreadable: str = ""
    """A word: in place of a phrase that has it, something comes that cannot be read."""


class ToneStream(VoiceStream):
    def __init__(self, voice: ToneVoice, request: VoiceStreamRequest, number: int) -> None:
        self._voice, self._request, self._number = voice, request, number
        self._text = ""
        self._queue: asyncio.Queue[str | Interrupted | None] = asyncio.Queue()
        self._generation = 0
        self._closed = False
        self._seconds, self._phrase = 0.0, ("", 0.0)
        """Seconds of audio, and the current phrase with the seconds before it."""
        self.reference = f"stream-{number} {json.dumps(dict(request.options))}"

    async def speak(self, text: str) -> None:
        self._text += text

    async def flush(self) -> None:
        text, self._text = self._text, ""
        self._queue.put_nowait(text)

    async def interrupt(self, played_seconds: float | None = None) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()
        self._generation += 1
        spoken = self._spoken(played_seconds) if self._voice.settings.reports else None
        self._queue.put_nowait(Interrupted(spoken))

    def _spoken(self, played_seconds: float | None) -> str:
        """The text of the current phrase that was spoken."""
        text, before = self._phrase
        played = (played_seconds or 0.0) - before
        words = [w for w in places(text, self._voice.settings.gap) if w.end <= played]
        return text[: text.find(" ", words[-1].character)] if words else ""

    async def _hold(self, generation: int) -> None:
        """Wait for an interrupt, if it is time to."""
        settings = self._voice.settings
        if settings.hold_after is None or self._number < settings.drops or self._voice.held:
            return
        if self._seconds >= settings.hold_after:
            self._voice.held = True
            log.info(HOLDS)
            while self._generation == generation and not self._closed:
                await asyncio.sleep(0.02)  # between two looks

    async def finish(self) -> None:
        self._queue.put_nowait(None)

    async def configure(self, changes: Mapping[str, Any]) -> None:
        self._voice.configured.append(dict(changes))

    def __aiter__(self) -> AsyncIterator[VoiceStreamEvent]:
        return self._events()

    async def _events(self) -> AsyncIterator[VoiceStreamEvent]:
        settings = self._voice.settings
        while (item := await self._queue.get()) is not None:
            if isinstance(item, Interrupted):
                yield item
                continue
            if self._number < settings.mute:
                continue
            generation = self._generation
            if settings.unreadable and settings.unreadable in item:
                raise RemoteProtocolError("tones", "the test sends what cannot be read")
            audio = synthesize(item, self._request.sample_rate, gap_seconds=settings.gap)
            marks = deque(places(item, settings.gap) if settings.marks else ())
            before = 0.0
            self._phrase = item, self._seconds
            if settings.endless and settings.endless in item:
                audio *= 3_000_000 // len(audio) + 1
            size = 2 * round(FRAME_SECONDS * self._request.sample_rate)
            for start in range(0, len(audio), size):
                await asyncio.sleep(FRAME_SECONDS / settings.pace)
                await self._hold(generation)
                if self._closed:
                    raise Dropped("tones", "closed")
                if self._generation != generation:
                    break
                while marks and marks[0].start < before + FRAME_SECONDS:
                    word = marks.popleft()
                    yield Mark(word.character, word.start)
                yield Speech(audio[start : start + size])
                self._seconds += FRAME_SECONDS
                before += FRAME_SECONDS
                if self._number < settings.drops and self._seconds >= settings.drop_after:
                    raise Dropped("tones", "the test drops it")
            else:
                yield PhraseEnd()

    async def close(self) -> None:
        self._closed = True
        self._queue.put_nowait("")


class ToneVoice(Voice):
    name: ClassVar[str] = "tones"
    Settings: ClassVar[type[BaseSettings]] = ToneSettings
    capabilities = VoiceCapabilities(
        price_per_1000_characters=0.03, configurable=frozenset({"speed"})
    )

    def __init__(self, settings: ToneSettings) -> None:
        self.settings = settings
        self.streams = 0
        self.held = False
        self.configured: list[dict[str, Any]] = []
        self.capabilities = VoiceCapabilities(
            marks=settings.marks,
            reports_spoken=settings.reports,
            max_seconds=settings.max_seconds,
            sample_rates=(settings.rate,),
            price_per_1000_characters=0.03,
            configurable=frozenset({"speed"}),
        )

    async def open(self, request: VoiceStreamRequest) -> VoiceStream:
        if self.settings.refuse:
            raise RequestRefused("tones", "request", "the test refuses it")
        self.streams += 1
        number, gate = self.streams - 1, self.settings.gate
        if number and gate:
            log.info(WAITS_AT_GATE)
            while not Path(gate).exists():
                await asyncio.sleep(0.02)  # between two looks
        return ToneStream(self, request, number)


class OtherSettings(ToneSettings):
    """Settings of the other voice."""

    model_config = SettingsConfigDict(env_prefix="OTHER_")

    rate: int = 8000
    gap: float = 0.4


class OtherVoice(ToneVoice):
    """A voice that speaks at another pace, and has another rate."""

    name: ClassVar[str] = "other"
    Settings: ClassVar[type[BaseSettings]] = OtherSettings


def install() -> None:
    """Make the voices some of those that are installed."""
    points = {
        voice.name: EntryPoint(voice.name, f"{voice.__module__}:{voice.__name__}", VOICES_GROUP)
        for voice in (ToneVoice, OtherVoice)
    }

    def found(group: str = GROUP) -> dict[str, EntryPoint]:
        return {**available(group), **(points if group == VOICES_GROUP else {})}

    loading.available = found  # type: ignore[attr-defined, assignment]


if __name__ == "__main__":
    from tests.worker.voice import tone_voice

    tone_voice.install()  # not this module's own copy, whose class is another one
    main()
