"""One voice session: an application that speaks numbered words, and a player of its own."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import signal
import subprocess
import time
import wave
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from natterjack.emulators import tones
from natterjack.errors import NatterjackError
from natterjack.settings import BrokerSettings
from natterjack.speaking.opening import speak
from natterjack.speaking.session import Speaking
from natterjack.voice.events import UtteranceEvent, VoiceEvent

from ...forking import ended, launch
from ...waiting import bound, until, within
from ..fleet import Line
from .account import LEAD, WORDS, Said

RATE: Final = 16_000
_KNOWS_SECONDS: Final = 5.0
"""How long after an outage of broker, worker or player its reports may be missing."""
_WORKER_SECONDS: Final = 240.0


def undisturbed(windows: Sequence[Sequence[float]], at: datetime) -> bool:
    """Return whether this time is in none of the windows, nor soon after one. Reports of the player
    may be missing then."""
    moment = at.timestamp()
    return not any(a - 1 <= moment <= b + bound(_KNOWS_SECONDS) for a, b in windows)


class Talk:
    """A session of `words` words in utterances of random length, which end it."""

    def __init__(self, directory: Path, line: Line, name: str, words: int, seed: int) -> None:
        self.name = name
        self.line = line
        self.said: list[Said] = []
        self.events: list[VoiceEvent] = []
        self.heard: list[str] = []
        self.errors = directory / f"{name}.log"
        self._wav = directory / f"{name}.wav"
        self._random = random.Random(seed)
        self._words = list(WORDS[:words])
        self._speaking: Speaking | None = None
        self._outages: list[list[float]] = []
        self._over = False

    # ---- the run ----------------------------------------------------------------------------

    async def run(self, broker: BrokerSettings) -> None:
        """Speak everything, and note what was heard. Raises: NatterjackError, AssertionError."""
        try:
            await self._run(broker)
        finally:
            self._over = True
        self.heard = await asyncio.to_thread(self._decode)

    async def _run(self, broker: BrokerSettings) -> None:
        async with self._player(), speak(
            "default", self.name, "assistant",
            sample_rate=RATE, worker_seconds=_WORKER_SECONDS, settings=broker,
        ) as speaking:  # fmt: skip
            self._speaking = speaking
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(speaking))
                await self._say_all(speaking)
                await speaking.close()
            self._speaking = None

    async def _read(self, speaking: Speaking) -> None:
        async for event in speaking:
            self.events.append(event)

    async def _say_all(self, speaking: Speaking) -> None:
        while self._words:
            text = self._compose()
            said = Said(text)
            self.said.append(said)
            whole = self._random.random() < 0.5
            number = await speaking.say(text if whole else self._pieces(text))
            if self._random.random() < 0.6:
                await self._end_of(speaking, number, said)

    def _compose(self) -> str:
        """The next utterance: sentences of the next words."""
        count = min(len(self._words), self._random.randint(4, 40))
        words, self._words = self._words[:count], self._words[count:]
        text, left = LEAD.capitalize(), 0
        for word in words:
            if left == 0:
                left = self._random.randint(3, 14)
            left -= 1
            text += f" {word}" + ("." if left == 0 else "," if self._random.random() < 0.1 else "")
        return text

    async def _pieces(self, text: str) -> AsyncIterator[str]:
        """The text in pieces, as a language model makes it. They end between words: the tones of a
        part of a word, to which an interrupt may shorten an utterance, are another word."""
        while text:
            size = text.find(" ", self._random.randint(1, 60)) + 1 or len(text)
            yield text[:size]
            text = text[size:]
            await asyncio.sleep(self._random.uniform(0, 0.3))  # the pace of the text

    async def _end_of(self, speaking: Speaking, number: int, said: Said) -> None:
        """Wait until the utterance is over, or was dropped by an interrupt."""

        def over() -> bool:
            return said.cut or any(
                isinstance(event, UtteranceEvent)
                and event.utterance == number
                and event.event != "started"
                for event in self.events
            )

        await until(over, f"{self.name}: the end of utterance {number}", 300)

    # ---- faults -----------------------------------------------------------------------------

    async def interrupt(self) -> bool:
        """Interrupt what is spoken. Return whether there was anything."""
        speaking = self._speaking
        if speaking is None:
            return False
        self._mark_cut()
        try:
            reply = await speaking.interrupt("at random", timeout=60)
        except NatterjackError:
            return False
        finally:
            self._mark_cut()
        return reply.utterance is not None

    def _mark_cut(self) -> None:
        for said in self.said:
            said.cut = True

    async def cut_off(self, seconds: float) -> bool:
        """Cut the player off for a while."""
        if self._speaking is None or self._is_cut_off:
            return False
        outage = [time.time(), math.inf]
        self._outages.append(outage)
        self.line.cut()
        await asyncio.sleep(seconds)  # the length of the fault
        outage[1] = time.time()
        if not self._over:
            self.line.heal()
        return True

    @property
    def _is_cut_off(self) -> bool:
        return bool(self._outages) and self._outages[-1][1] == math.inf

    def reachable(self, at: datetime) -> bool:
        """Whether the player had not been cut off for a while at this time."""
        return undisturbed(self._outages, at)

    # ---- the player -------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _player(self) -> AsyncIterator[None]:
        """Play the session during the block: `natterjack-edge play --file`."""
        with self.errors.open("wb") as errors:
            process = launch(
                ("-m", "edge_capture", "play", "--conversation", self.name,
                 "--file", str(self._wav), "--sample-rate", str(RATE),
                 "--nats-url", self.line.url, "--log-level", "debug"),
                env={k: v for k, v in os.environ.items() if not k.startswith("EDGE_")},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip
        try:

            def ready() -> bool:
                return process.poll() is not None or b"ready to play" in self.errors.read_bytes()

            await until(ready, "a player", 60)
            assert process.poll() is None, self.errors.read_text()
            yield
            process.send_signal(signal.SIGINT)
            async with within(60):
                assert await ended(process) == 0, self.errors.read_text()
        finally:
            process.kill()
            await ended(process)

    def _decode(self) -> list[str]:
        if not self._wav.exists():  # nothing was heard
            return []
        with wave.open(str(self._wav)) as file:
            audio = file.readframes(file.getnframes())
        decoder = tones.Decoder(RATE)
        return [word.word for word in [*decoder.feed(audio), *decoder.flush()]]

    def clear(self) -> None:
        """Remove files that are not needed after the audit."""
        self._wav.unlink(missing_ok=True)
        self.errors.unlink(missing_ok=True)
