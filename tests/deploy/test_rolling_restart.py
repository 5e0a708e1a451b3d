"""An upgrade and a rollback of workers during sessions, as a Deployment's RollingUpdate does them.

Edges and subscribers are of this version; tests/compatibility covers other versions of them.

Each worker is replaced in turn: the test starts a new one and, once it is ready, sends SIGTERM to
the old one. The previous version is the newest release tag before this commit or, without tags, the
commit before the last change of the programs. NATTERJACK_PREVIOUS selects another one. In a
checkout without history both versions are this one, and the printed table says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from natterjack.broker.connection import Broker
from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent
from natterjack.process.table import table
from natterjack.settings import BrokerSettings

from ..ports import free_port
from ..waiting import SCALE, bound, until
from ..worker.programs import (
    Speaker,
    StartWorker,
    Transcript,
    WorkerProcess,
    closed,
    live_events,
    queue_empty,
)

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
PROGRAMS = ("natterjack", "worker")
"""Packages of a worker."""
WORKERS, SLOTS = 3, 2
WORDS = round(300 * SCALE)
"""Words per session: over two minutes, longer than it takes to replace all workers twice."""
PHRASE_WORDS = 5


class Talker(Speaker):
    """A speaker that speaks in real time until it is told to hurry."""

    def hurry(self) -> None:
        """Publish the remaining words as fast as possible."""
        self._speed = 1000.0


class Version(NamedTuple):
    """A source tree that workers run from."""

    name: str
    source: Path

    @property
    def environment(self) -> dict[str, str]:
        # Use the packages of this tree, whatever the working directory.
        return {"PYTHONPATH": str(self.source), "PYTHONSAFEPATH": "1"}

    def check(self) -> None:
        """Check that a process in this environment imports these sources."""
        done = subprocess.run(
            [sys.executable, "-c", "import worker, natterjack; print(worker.__file__, "
             "natterjack.__file__)"],
            env={**os.environ, **self.environment}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for found in done.stdout.split():
            assert Path(found).is_relative_to(self.source), done.stdout


TODAY = Version("this version", ROOT)


def _git(*words: str) -> str | None:
    """Run git and return its output, or None if it fails."""
    try:
        done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@pytest.fixture
def before(tmp_path: Path) -> Version:
    """The version to upgrade from."""
    wanted = os.environ.get("NATTERJACK_PREVIOUS")
    changed = _git("log", "-1", "--format=%h", "--", *PROGRAMS)
    name = wanted or _git("describe", "--tags", "--abbrev=0", "HEAD~1") or f"{changed}~1"
    commit = _git("rev-parse", "--short", f"{name}^{{commit}}")
    if commit is None:
        assert not wanted, f"NATTERJACK_PREVIOUS={wanted}: no such commit"
        return TODAY._replace(name="this version too: the checkout has no history")
    source = tmp_path / "before"
    source.mkdir()
    archive = source.with_suffix(".tar")
    assert _git("archive", "-o", str(archive), commit, *PROGRAMS) is not None
    subprocess.run(["tar", "-xf", archive, "-C", source], check=True)
    return Version(f"{name} ({commit})", source)


@contextlib.asynccontextmanager
async def _all_heard(
    broker: Broker, speakers: Sequence[Speaker]
) -> AsyncIterator[list[list[Event]]]:
    """Collect the events that a plain subscriber receives for each session."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(live_events(broker, s.spec)) for s in speakers]


async def _holds_all_it_can(worker: WorkerProcess) -> bool:
    return len(json.loads((await worker.get("/sessions"))[1])) == SLOTS


class Handover(NamedTuple):
    """A handover of a session from one worker to the next."""

    session: str
    step: str
    without_worker: float
    """Seconds from `handed_over` to `streaming`."""
    without_words: float
    """Seconds from the last transcript of the old worker to the first of the new one."""


def _handovers(speaker: Speaker, events: Sequence[Event]) -> list[Handover]:
    """Return all handovers of a session, from the events of a plain subscriber."""
    found = []
    epochs = sorted({event.epoch for event in events})
    for old, new in itertools.pairwise(epochs):
        by_epoch = {e: [x for x in events if x.epoch == e] for e in (old, new)}
        left = _status(by_epoch[old], "handed_over")
        taken = _status(by_epoch[new], "streaming")
        words = {
            e: [x.published_at for x in by_epoch[e] if isinstance(x, InterimEvent | FinalEvent)]
            for e in (old, new)
        }
        assert words[old], f"{left.worker} published nothing before the handover"
        assert words[new], f"{taken.worker} published nothing"
        found.append(
            Handover(
                speaker.spec.conversation,
                f"{left.worker} > {taken.worker}",
                (taken.published_at - left.published_at).total_seconds(),
                (min(words[new]) - max(words[old])).total_seconds(),
            )
        )
    return found


def _status(events: Sequence[Event], state: str) -> StatusEvent:
    return next(e for e in events if isinstance(e, StatusEvent) and e.state == state)


def _show(before: Version, handovers: Sequence[Handover], capsys: Any) -> None:
    """Print the table, even if the test passes."""
    rows = [
        (h.session, h.step, f"{h.without_worker:.2f}", f"{h.without_words:.2f}")
        for h in sorted(handovers)
    ]
    head = ("session", "from > to", "s without worker", "s without words")
    with capsys.disabled():
        print(f"\nbefore: {before.name}; after: {TODAY.name}; again: {before.name}")
        print(*table([head, *rows], right=(2, 3)), sep="\n")


@pytest.mark.slow
@pytest.mark.timeout(300 * SCALE)
async def test_an_upgrade_and_a_rollback_lose_no_word(
    before: Version,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before.check()
    TODAY.check()

    async def start(version: Version, step: str, seat: int) -> WorkerProcess:
        return await start_worker(
            WORKER_NAME=f"{step}-{seat}",
            WORKER_MAX_SESSIONS=str(SLOTS),
            WORKER_HTTP_PORT=str(free_port()),
            NATTERJACK_LEASE_SECONDS="60",  # no lease expires in this test
            **version.environment,
        )

    workers = [await start(before, "before", seat) for seat in range(WORKERS)]
    speakers = [
        Talker(broker_settings, WORDS, speed=1, phrase_words=PHRASE_WORDS, conversation=f"call-{n}")
        for n in range(WORKERS * SLOTS)
    ]
    async with _all_heard(broker, speakers) as heard:
        speaking = asyncio.gather(*(speaker.speak() for speaker in speakers))
        for step, version in (("after", TODAY), ("again", before)):
            for seat, old in enumerate(workers):
                await until(lambda old=old: _holds_all_it_can(old), f"{step}: it has sessions", 30)
                workers[seat] = await start(version, step, seat)
                old.signal(signal.SIGTERM)
                assert await old.wait(30) == 0, old.log[-10:]
        await until(lambda: _holds_all_it_can(workers[-1]), "the last one has sessions", 30)
        assert not speaking.done(), (
            "the sessions ended before all workers were replaced: WORDS is too small"
        )
        for speaker in speakers:
            speaker.hurry()
        await speaking
        transcripts = [await closed(broker, speaker.spec, 60) for speaker in speakers]
    handovers = []
    for speaker, transcript, events in zip(speakers, transcripts, heard, strict=True):
        transcript.audit(speaker)
        _check_round_trip(transcript)
        handovers += _handovers(speaker, events)
    _show(before, handovers, capsys)
    assert len(handovers) >= 2 * len(speakers)
    assert max(handover.without_worker for handover in handovers) < bound(10)
    await queue_empty(broker)


def _check_round_trip(transcript: Transcript) -> None:
    """Check that the session moved to this version and back, without an expired lease."""
    assigned = [
        e for e in transcript.events if isinstance(e, StatusEvent) and e.state == "assigned"
    ]
    steps = [event.worker.partition("-")[0] for event in assigned]
    assert [step for step, _ in itertools.groupby(steps)] == ["before", "after", "again"], steps
    assert transcript.states.count("handed_over") == len(assigned) - 1
