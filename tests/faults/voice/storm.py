"""Random faults while many sessions speak at once."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from natterjack.broker import streams
from natterjack.broker.connection import connected
from natterjack.errors import NatterjackError

from ...waiting import until
from ...worker.programs import queue_empty
from ..damage import Damage, Fault, holds_nothing
from ..fleet import Fleet, Line, fleet
from .account import Account, account
from .talk import Talk, undisturbed

VOICES: Final = {"deepgram-aura": "deepgram-aura", "deepgram-flux-voice": "deepgram-flux-speak"}
"""The voices, and the emulator of each."""
CLOSED_SECONDS: Final = 300.0
"""A session still open this long after everything was said counts as lost."""


@dataclass
class Settings:
    """Parameters of a storm."""

    faults: int
    seed: int
    talks: int = 8
    """Concurrent sessions."""
    words: int = 200
    """Words of a session."""
    parallel_faults: int = 3
    """Concurrent faults."""
    max_pause_seconds: float = 6
    """Longest pause between two faults."""
    long_cuts: bool = True
    """Whether some players are cut off for half a minute."""


@dataclass
class Outcome:
    """The result of a storm."""

    account: Account = field(default_factory=Account)
    faults: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """Detailed descriptions of failed sessions."""

    @property
    def clean(self) -> bool:
        return self.account.clean and not self.failures

    def add(self, other: Outcome) -> None:
        """Add the result of another storm."""
        self.account.add(other.account)
        self.faults += other.faults
        self.failures += other.failures


@contextlib.asynccontextmanager
async def voice_fleet(directory: Path, workers: int, voice: str) -> AsyncIterator[Fleet]:
    """Run an installation whose workers speak with `voice`."""
    async with fleet(
        directory, workers, (VOICES[voice],),
        WORKER_PROVIDER="deepgram", WORKER_KINDS="speak", WORKER_VOICE=voice,
        WORKER_MAX_SESSIONS="4",
    ) as running:  # fmt: skip
        yield running


class VoiceStorm(Damage):
    """Runs sessions and faults, and makes the account of each session."""

    leaders = (streams.SPEECH, streams.TEXT, streams.VOICE_SESSIONS, streams.VOICE_EVENTS)

    def __init__(self, fleet: Fleet, directory: Path, settings: Settings) -> None:
        super().__init__(fleet, settings.seed)
        self._directory = directory
        self._settings = settings
        self._talks: set[Talk] = set()
        self._over = asyncio.Event()
        self._started = time.monotonic()
        self._disturbed: list[list[float]] = []
        self._progress: Callable[[str], None] = lambda line: None
        self.outcome = Outcome(faults=self.injected)
        aside = self._disturbing
        self.faults = {
            "interrupt": (6, self._interrupt),
            "worker SIGKILL": (3, self._worker_killed),
            "worker SIGTERM": (2, self._worker_drained),
            "worker frozen, lease lost": (1, aside(lambda: self._worker_frozen(3.5, 7))),
            "worker cut off, lease lost": (1, aside(lambda: self._worker_cut(3.5, 8))),
            "provider drops connections": (3, self._provider_drops),
            "provider drops a connection within a word": (
                3, lambda: self._provider("drop_after_seconds", self._between(0.2, 6)),
            ),
            "provider goes mute": (1, lambda: self._provider("mute_after_seconds", 0)),
            "provider closes with 1011": (1, lambda: self._provider("close_after_seconds", 0)),
            "provider answers 429 or 503": (1, self._provider_status),
            "broker node SIGKILL": (2, aside(self._node_killed)),
            "leader of a stream SIGKILL": (2, aside(self._leader_killed)),
            "player cut off for 2 s": (3, lambda: self._cut_off(1.5, 2.5)),
        }  # fmt: skip
        if settings.long_cuts:
            self.faults["player cut off for 30 s"] = (1.5, lambda: self._cut_off(25, 35))

    # ---- the run ----------------------------------------------------------------------------

    async def run(self, progress: Callable[[str], None]) -> Outcome:
        """Run until the faults are injected and the account of every session is made."""
        settings, self._progress = self._settings, progress
        async with asyncio.TaskGroup() as tasks:
            meter = tasks.create_task(self._measure())
            talks = [tasks.create_task(self._talk_on(number)) for number in range(settings.talks)]
            faults = [
                tasks.create_task(self.inject(settings.faults, settings.max_pause_seconds))
                for _ in range(settings.parallel_faults)
            ]
            await asyncio.wait(faults)
            self._over.set()
            await asyncio.wait(talks)
            meter.cancel()
        await self._settle()
        for seat in self._fleet.seats:
            stray = seat.stray + seat.worker.stray_lines
            if stray:
                self._fail("a worker wrote: " + "\n".join(stray))
        return self.outcome

    async def _measure(self) -> None:
        while True:
            at, found = time.monotonic() - self._started, self.outcome.account
            self._progress(
                f"{at:6.0f} s  {self.injected.total():5} faults  {found.sessions:4} sessions  "
                f"{found.words} words: {found.lost} lost, {found.doubled} doubled, "
                f"{found.misreported} misreported"
            )
            await asyncio.sleep(10)  # sampling interval

    async def _talk_on(self, number: int) -> None:
        count = 0
        while not self._over.is_set():
            await self._talk(f"talk-{number}-{count}", self._random.randrange(1 << 30))
            count += 1

    async def _talk(self, name: str, seed: int) -> None:
        fleet, error = self._fleet, ""
        async with Line(fleet.cluster.nodes) as line:
            talk = Talk(self._directory, line, name, self._settings.words, seed)
            self._talks.add(talk)
            try:
                await talk.run(fleet.broker_settings)
            except* (NatterjackError, AssertionError) as problem:
                error = repr(problem.exceptions)
            finally:
                self._talks.discard(talk)
        found = account(
            talk.said, talk.events, talk.heard,
            lambda at: talk.reachable(at) and undisturbed(self._disturbed, at),
        )  # fmt: skip
        if error:
            found.problems.append(error)
        if not found.clean:
            log = talk.errors.read_text()[-3000:]
            events = "\n".join(event.model_dump_json(exclude_none=True) for event in talk.events)
            failure = f"{name} {found}\nheard {talk.heard}\n{events}\n{log}"
            self._fail(failure)
        self.outcome.account.add(found)
        talk.clear()

    async def _settle(self) -> None:
        """Wait until no session is held or queued."""
        try:
            async with connected(self._fleet.broker_settings, name="auditor") as broker:
                await queue_empty(broker, CLOSED_SECONDS, streams.VOICE_SESSIONS)
            for seat in self._fleet.seats:
                await until(lambda seat=seat: holds_nothing(seat), "no session is held", 180)
        except AssertionError as error:
            self._fail(str(error))

    def _fail(self, description: str) -> None:
        self.outcome.failures.append(description)
        self._progress(description)

    # ---- faults -----------------------------------------------------------------------------

    def _disturbing(self, fault: Fault) -> Fault:
        """A fault in whose time reports of players may not reach workers."""

        async def disturbing() -> bool:
            window = [time.time(), math.inf]
            self._disturbed.append(window)
            try:
                return await fault()
            finally:
                window[1] = time.time()

        return disturbing

    def _any_talk(self) -> Talk | None:
        return self._random.choice(sorted(self._talks, key=id)) if self._talks else None

    async def _interrupt(self) -> bool:
        talk = self._any_talk()
        return talk is not None and await talk.interrupt()

    async def _cut_off(self, least: float, most: float) -> bool:
        talk = self._any_talk()
        return talk is not None and await talk.cut_off(self._between(least, most))
