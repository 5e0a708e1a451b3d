"""Random faults, singly and combined, on a complete installation under load."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nats.errors import Error as NatsError

from natterjack.audio import AUDIO_END, AUDIO_POS, SESSION_ID
from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject
from natterjack.values import Account

from ..waiting import until
from ..worker.programs import closed, queue_empty
from .audit import Audit, audit
from .damage import TWO, Damage, holds_nothing
from .fleet import Fleet, Line, Talk, open_files, resident_bytes
from .invoice import Item, invoice

CLOSED_SECONDS = 300.0
"""A session still open this long after its edge has ended counts as lost."""
_USAGE_SECONDS = 8.0
"""Time within which each worker has written its use; it does so every 5 s."""


@dataclass
class Settings:
    """Parameters of a storm."""

    faults: int
    seed: int
    talks: int = 6
    """Concurrent sessions."""
    words: int = 60
    speed: float = 2
    parallel_faults: int = 2
    """Concurrent faults."""
    max_pause_seconds: float = 1.5
    """Longest pause between two faults."""
    long_cuts: bool = False
    """Whether some edges are cut off for minutes."""


@dataclass
class Outcome:
    """The result of a storm."""

    audit: Audit = field(default_factory=Audit)
    faults: Counter[str] = field(default_factory=Counter)
    edge_kills: int = 0
    worker_memory: list[int] = field(default_factory=list)
    """Resident bytes of the worker that is never killed, every ten seconds."""
    files_left: int = 0
    """Open files of that worker at the end, without sessions, minus those at the start."""
    bill: dict[str, Item] = field(default_factory=dict)
    """Bill by provider."""
    failures: list[str] = field(default_factory=list)
    """Detailed descriptions of failed sessions."""


class Storm(Damage):
    """Runs sessions and faults, and audits the sessions."""

    leaders = (streams.AUDIO, streams.SESSIONS, streams.TRANSCRIPTS)

    def __init__(self, fleet: Fleet, directory: Path, settings: Settings) -> None:
        super().__init__(fleet, settings.seed)
        self._directory = directory
        self._settings = settings
        self._talks: set[Talk] = set()
        self._ended: list[Talk] = []
        self._accounts: dict[str, Account] = {}
        self._files_before = open_files(fleet.seats[0].worker.pid)
        self._over = asyncio.Event()
        self._started = time.monotonic()
        self._mutated = "speechmatics-agent" in fleet.emulators
        """Whether any message was mutated, or a provider has no times of words. Words may have no
        time then, or an estimated one."""
        self.outcome = Outcome(faults=self.injected)
        self.faults = {
            "worker SIGKILL": (3, self._worker_killed),
            "worker SIGTERM": (2, self._worker_drained),
            "worker frozen, lease kept": (1, lambda: self._worker_frozen(0.3, 1.5)),
            "worker frozen, lease lost": (2, lambda: self._worker_frozen(3.5, 7)),
            "all workers restarted in turn": (0.3, self._rolling_restart),
            "worker cut off, lease kept": (1, lambda: self._worker_cut(0.1, 1.5)),
            "worker cut off, lease lost": (1.5, lambda: self._worker_cut(3.5, 8)),
            "worker's packets lost for a while": (1.5, self._worker_stalled),
            "provider drops connections": (4, self._provider_drops),
            "provider refuses TCP": (1, self._provider_refuses),
            "provider answers 429 or 503": (2, self._provider_status),
            "provider answers 401 or 402": (1, self._provider_forbids),
            "provider's handshake is slow or cut": (1, self._provider_handshake),
            "provider stops reading": (1, lambda: self._provider("stop_reading_after_seconds", 0)),
            "provider goes mute": (2, lambda: self._provider("mute_after_seconds", 0)),
            "recordings get an HTTP error, nonsense, half an answer or none": (1, self._recordings),
            "provider closes with 1011": (1, lambda: self._provider("close_after_seconds", 0)),
            "provider closes at once, again and again": (1, self._provider_closes_again),
            "provider answers late": (1, self._provider_late),
            "provider talks nonsense": (1, lambda: self._provider("garbage", ["all"])),
            "provider sends a mutated message": (3, self._provider_mutates),
            "broker node SIGKILL": (1.5, self._node_killed),
            "leader of a stream SIGKILL": (1, self._leader_killed),
            "broker node frozen": (1, self._node_frozen),
            "whole broker SIGKILL": (0.3, self._broker_killed),
            "edge SIGKILL, --resume": (3, self._edge_killed),
            "edge cut off": (2, lambda: self._edge_cut(0.2, 6)),
            "edge's packets lost for a while": (1, self._edge_stalled),
            "audio doubled, out of order, forged": (2, self._audio_forged),
            TWO: (2, self._two),
        }
        if settings.long_cuts:
            self.faults["edge cut off for minutes"] = (0.15, lambda: self._edge_cut(125, 180))

    # ---- the run ----------------------------------------------------------------------------

    async def run(self, progress: Callable[[str], None]) -> Outcome:
        """Run until the faults are injected and every session is audited."""
        async with asyncio.TaskGroup() as tasks:
            meter = tasks.create_task(self._measure(progress))
            talks = [
                tasks.create_task(self._talk_on(number)) for number in range(self._settings.talks)
            ]
            count = self._settings.parallel_faults
            faults = [
                tasks.create_task(
                    self.inject(self._settings.faults, self._settings.max_pause_seconds)
                )
                for _ in range(count)
            ]
            await asyncio.wait(faults)
            self._over.set()
            await asyncio.wait(talks)
            meter.cancel()
        await self._settle()
        for seat in self._fleet.seats:
            stray = seat.stray + seat.worker.stray_lines
            if stray:
                self.outcome.failures.append("a worker wrote: " + "\n".join(stray))
        return self.outcome

    async def _measure(self, progress: Callable[[str], None]) -> None:
        witness = self._fleet.seats[0].worker.pid
        while True:
            at = time.monotonic() - self._started
            found = self.outcome
            found.worker_memory.append(resident_bytes(witness))
            a = found.audit
            progress(
                f"{at:6.0f} s  {found.faults.total():5} faults  {a.sessions:4} sessions  "
                f"{a.words} words: {a.lost} lost, {a.doubled} doubled, {a.out_of_order} out of "
                f"order, worst time {a.worst_time_seconds * 1000:.1f} ms; "
                f"worker {found.worker_memory[-1] / 1e6:.1f} MB"
            )
            await asyncio.sleep(10)  # sampling interval

    async def _talk_on(self, number: int) -> None:
        count = 0
        while not self._over.is_set():
            await self._talk(f"talk-{number}-{count}")
            count += 1

    async def _talk(self, name: str) -> None:
        providers = list(self._fleet.emulators)
        others = self._random.sample(providers[1:], self._random.randint(1, len(providers) - 1))
        chain = self._random.sample([providers[0], *others], 1 + len(others))
        settings, fleet = self._settings, self._fleet
        async with Line(fleet.cluster.nodes) as line:
            talk = Talk(self._directory, line, name, settings.words, settings.speed)
            self._talks.add(talk)
            try:
                status = await talk.run("--provider", ",".join(chain))
            finally:
                self._talks.discard(talk)
            self.outcome.edge_kills += talk.kills
        if not talk.specs:
            raise RuntimeError(f"the edge ended with {status}: {talk.errors.read_text()}")
        found = Audit()
        async with connected(fleet.broker_settings, name="auditor") as broker:
            for spec in talk.specs:
                found.add(await self._audit(broker, spec, talk, CLOSED_SECONDS))
        if status != 0:
            found.problems.append(f"the edge ended with {status}")
        if not found.clean:
            log = talk.errors.read_text()[-3000:]
            self.outcome.failures.append(f"{name} {chain} {found}\n{log}")
        self.outcome.audit.add(found)
        self._ended.append(talk)
        talk.clear()

    async def _audit(self, broker: Broker, spec: SessionSpec, talk: Talk, seconds: float) -> Audit:
        try:
            transcript = await closed(broker, spec, seconds)
        except AssertionError as error:
            return Audit(1, len(talk.words), len(talk.words), problems=[str(error)])
        if transcript.closing[0].account is not None:
            self._accounts[spec.session_id] = transcript.closing[0].account
        found = audit(
            transcript.events,
            talk.words,
            talk.places,
            captured_seconds=talk.seconds,
            mutated=self._mutated,
        )
        if not found.clean:
            self.outcome.failures.append(f"{spec.key} {found}\n{transcript.describe()}")
        return found

    async def _settle(self) -> None:
        """Wait until no session is held or queued, and audit all sessions again.

        By then every frozen worker has resumed, so the streams no longer change.
        """
        async with connected(self._fleet.broker_settings, name="auditor") as broker:
            try:
                await queue_empty(broker, CLOSED_SECONDS)
                for seat in self._fleet.seats:
                    await until(partial(holds_nothing, seat), "no session is held", 180)
            except AssertionError as error:
                held = [(await seat.worker.get("/sessions"))[1] for seat in self._fleet.seats]
                self.outcome.audit.problems.append(str(error))
                self.outcome.failures.append(f"{error}: {held}")
            last = Audit()
            for talk in self._ended:
                for spec in talk.specs:
                    last.add(await self._audit(broker, spec, talk, 10))
        last.problems += [p for p in self.outcome.audit.problems if p not in last.problems]
        self.outcome.audit = last
        await asyncio.sleep(_USAGE_SECONDS)  # workers write their use every few seconds
        async with connected(self._fleet.broker_settings, name="auditor") as broker:
            self.outcome.bill = await invoice(
                broker, self._fleet.emulators, self._accounts.values()
            )
        witness = self._fleet.seats[0].worker.pid
        self.outcome.files_left = open_files(witness) - self._files_before

    # ---- faults: each returns whether it took effect ----------------------------------------

    async def _provider_mutates(self) -> bool:
        self._mutated = True
        return await self._provider("mutated", True)

    async def _recordings(self) -> bool:
        emulator = self._fleet.emulators["deepgram-rest"]
        fault, value = self._random.choice(
            [("error_status", 503), ("garbage", ["all"]), ("never_answers", True),
             ("drop_mid_response", True)]
        )  # fmt: skip
        off: dict[str, Any] = {"error_status": None, "garbage": [], "never_answers": False,
               "drop_mid_response": False}  # fmt: skip
        try:
            return await self._apply(emulator, fault, {**off, fault: value, "connections": 1})
        finally:
            await emulator.set(**off)

    def _any_talk(self) -> Talk | None:
        return self._random.choice(sorted(self._talks, key=id)) if self._talks else None

    async def _edge_killed(self) -> bool:
        talk = self._any_talk()
        return talk is not None and talk.kill()

    async def _edge_cut(self, least: float, most: float) -> bool:
        if (talk := self._any_talk()) is None:
            return False
        talk.line.cut()
        await asyncio.sleep(self._between(least, most))
        if talk in self._talks:
            talk.line.heal()
        return True

    async def _edge_stalled(self) -> bool:
        if (talk := self._any_talk()) is None:
            return False
        talk.line.stall()
        await asyncio.sleep(self._between(0.5, 8))
        if talk in self._talks:
            talk.line.heal()
        return True

    async def _audio_forged(self) -> bool:
        """Publish the newest chunks of a session again, in random order, some of them at wrong
        positions."""
        if (talk := self._any_talk()) is None or not talk.specs:
            return False
        spec = talk.specs[-1]
        async with connected(self._fleet.broker_settings, name="forger") as broker:
            store = StreamStore(broker, streams.AUDIO)
            await store.start()
            try:
                newest = await store.last(audio_subject(spec.key))
                if newest is None or newest.headers.get(SESSION_ID) != spec.session_id:
                    return False
                first = newest.sequence - self._random.randint(10, 150)
                chunks, _ = await store.read(
                    audio_subject(spec.key), first, batch=30, max_bytes=10**6
                )
                for chunk in self._random.sample(chunks, len(chunks)):
                    headers = {k: v for k, v in chunk.headers.items() if not k.startswith("Nats-")}
                    if self._random.random() < 0.5 and AUDIO_END not in headers:
                        shift = self._random.choice([-64_000, -1280, -1, 1, 1280, 640_000])
                        headers[AUDIO_POS] = str(max(0, int(headers[AUDIO_POS]) + shift))
                    await broker.client.jetstream().publish(
                        audio_subject(spec.key), chunk.data, headers=headers, timeout=2
                    )
            except (StoreUnavailable, NatsError, TimeoutError):
                return False  # another fault is in effect
        return len(chunks) > 0
