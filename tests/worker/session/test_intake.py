"""Waiting for audio, and the decision that no more will come. The feed is a list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import pytest

from tests.waiting import soon, until
from worker.audio.feed import Gap
from worker.audio.reorder import Chunk
from worker.drain import HandOver
from worker.errors import LeaseLost
from worker.session import intake as module
from worker.session.intake import Intake
from worker.session.lease import QueueUnknown

from .parts import RATE, Case, install_providers

IDLE, SUPERSEDED = 3600.0, 2.0


def chunk(seq: int = 0, frames: int = 100, *, end: bool = False) -> Chunk:
    return Chunk(seq, 100 * seq, frames, bytes(2 * frames), 0, time.monotonic(), end, 0)


class Audio:
    """A feed with these items. After them it is quiet."""

    def __init__(self, items: Iterable[Chunk | Gap] = (), *, head: int = 0) -> None:
        self.items = list(items)
        self.superseded = False
        self.short_of_start = False
        self.caught_up = True
        self.last_arrival = time.monotonic()
        self.head = head

    async def next(self, timeout: float) -> Chunk | Gap | None:
        if self.items:
            return self.items.pop(0)
        await asyncio.sleep(0)
        return None

    def give_back(self, item: Chunk | Gap) -> None:
        self.items.insert(0, item)

    def quiet(self, seconds: float) -> None:
        self.last_arrival = time.monotonic() - seconds


class Listener:
    """A session that waits for audio. Its request is number 7 of the queue."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.queue: list[int] | None = [7]
        self.stored = 0
        self.intake = self.make()

    def make(self, *, repeats: bool = False) -> Intake:
        case = self.case
        return Intake(
            case.settings, case.drain, case.lease, case.admission, self.first, self.stored_head,
            repeats=repeats,
        )  # fmt: skip

    async def first(self, sequence: int) -> int | None:
        if self.queue is None:
            raise QueueUnknown
        return next((number for number in self.queue if number >= sequence), None)

    async def stored_head(self) -> int:
        return self.stored


@pytest.fixture
async def listener(monkeypatch: pytest.MonkeyPatch) -> Listener:
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.001)
    install_providers(monkeypatch)
    return Listener(await Case(idle_seconds=IDLE, superseded_seconds=SUPERSEDED).start())


# ---- is_over --------------------------------------------------------------------------------


@pytest.mark.parametrize(("quiet", "over"), [(IDLE - 60, False), (IDLE + 1, True)])
async def test_audio_that_stays_away_is_over(listener: Listener, quiet: float, over: bool) -> None:
    audio = Audio()
    audio.quiet(quiet)
    assert await listener.intake.is_over(audio) is over
    assert listener.intake.end_reason == ("idle: no audio for 3600 s" if over else None)


async def test_a_first_frame_that_never_comes_is_named(listener: Listener) -> None:
    listener.case.progress.begin(5 * RATE)
    audio = Audio()
    audio.short_of_start = True
    audio.quiet(IDLE + 1)
    assert await listener.intake.is_over(audio)
    reason = listener.intake.end_reason
    assert reason == f"idle: no audio for 3600 s from the session's first frame on, {5 * RATE}"


async def test_audio_that_is_still_to_be_read_is_not_over(listener: Listener) -> None:
    audio = Audio()
    audio.quiet(IDLE + 1)
    audio.caught_up = False
    assert not await listener.intake.is_over(audio)


@pytest.mark.parametrize(
    ("queue", "quiet", "over"),
    [
        ([7, 9], SUPERSEDED + 1, True),
        ([7, 9], SUPERSEDED - 1, False),  # its last chunks may be late
        ([7], SUPERSEDED + 1, False),  # a late chunk of an earlier session
        (None, SUPERSEDED + 1, False),  # the queue does not answer
    ],
)
async def test_only_a_later_request_supersedes_a_session(
    listener: Listener, queue: list[int] | None, quiet: float, over: bool
) -> None:
    audio = Audio()
    audio.superseded = True
    audio.quiet(quiet)
    listener.queue = queue
    assert await listener.intake.is_over(audio) is over
    reason = "superseded: a newer session uses the key"
    assert listener.intake.end_reason == (reason if over else None)


async def test_a_later_request_alone_ends_no_session(listener: Listener) -> None:
    listener.queue = [7, 9]
    audio = Audio()
    audio.quiet(SUPERSEDED + 1)
    assert not await listener.intake.is_over(audio)


async def test_a_chunk_of_an_earlier_session_is_asked_about_once(listener: Listener) -> None:
    audio = Audio()
    audio.superseded = True
    audio.quiet(SUPERSEDED + 1)
    assert not await listener.intake.is_over(audio)
    assert not audio.superseded


@pytest.mark.parametrize(
    ("caught_up", "quiet", "over"),
    [(True, SUPERSEDED + 1, True), (True, SUPERSEDED - 1, False), (False, SUPERSEDED + 1, False)],
)
async def test_a_session_that_repeats_another_ends_with_the_stored_audio(
    listener: Listener, caught_up: bool, quiet: float, over: bool
) -> None:
    audio = Audio()
    audio.caught_up = caught_up
    audio.quiet(quiet)
    intake = listener.make(repeats=True)
    assert await intake.is_over(audio) is over
    assert intake.end_reason == ("end of the stored audio" if over else None)


# ---- wait_for_audio -------------------------------------------------------------------------


@pytest.mark.parametrize("item", [chunk(), chunk(end=True), Gap(0, 100, "edge")])
async def test_audio_is_left_in_the_feed(listener: Listener, item: Chunk | Gap) -> None:
    audio = Audio([item])
    assert await listener.intake.wait_for_audio(audio)
    assert audio.items == [item]


async def test_an_end_without_audio_needs_no_stream(listener: Listener) -> None:
    assert not await listener.intake.wait_for_audio(Audio([chunk(frames=0, end=True)]))
    assert listener.intake.end_reason is None


async def test_an_empty_chunk_is_passed_over(listener: Listener) -> None:
    audio = Audio([chunk(frames=0), chunk(1)])
    assert await listener.intake.wait_for_audio(audio)
    assert audio.items[0].position == 100


async def test_the_wait_ends_when_no_audio_will_come(listener: Listener) -> None:
    audio = Audio()
    audio.quiet(IDLE + 1)
    assert not await soon(listener.intake.wait_for_audio(audio), 5)
    assert listener.intake.end_reason == "idle: no audio for 3600 s"


async def test_the_reason_of_an_earlier_wait_is_forgotten(listener: Listener) -> None:
    audio = Audio()
    audio.quiet(IDLE + 1)
    await soon(listener.intake.wait_for_audio(audio), 5)
    assert await listener.intake.wait_for_audio(Audio([chunk()]))
    assert listener.intake.end_reason is None


async def test_a_session_at_its_cutoff_waits_for_nothing(listener: Listener) -> None:
    listener.case.cutoff.stop("enough", 0)
    audio = Audio([chunk()])
    assert not await listener.intake.wait_for_audio(audio)
    assert listener.intake.end_reason == "stopped: enough"
    assert len(audio.items) == 1


async def test_the_drain_ends_the_wait(listener: Listener) -> None:
    waiting = asyncio.create_task(listener.intake.wait_for_audio(Audio()))
    await asyncio.sleep(0)
    listener.case.drain.request(0.0)
    with pytest.raises(HandOver):
        await soon(waiting, 5)


async def test_a_lost_lease_ends_the_wait(listener: Listener) -> None:
    listener.case.store.bucket.revision += 1  # another holder has written
    listener.case.lease.mark_unconfirmed()
    with pytest.raises(LeaseLost):
        await soon(listener.intake.wait_for_audio(Audio([chunk()])), 5)


async def test_the_permit_is_given_back_when_audio_stays_away(listener: Listener) -> None:
    case, audio = listener.case, Audio()
    pool = case.accounts.limit("shared")
    await case.admission.connect()
    waiting = asyncio.create_task(listener.intake.wait_for_audio(audio))
    for _ in range(5):
        await asyncio.sleep(0)
    assert case.admission.permit is not None, "a short pause"
    audio.quiet(10)
    await until(lambda: case.admission.permit is None, "other sessions may have it")
    assert not pool.permits
    audio.items.append(chunk())
    assert await soon(waiting, 5)


# ---- parked in the middle of speech ---------------------------------------------------------


class Resumed(Audio):
    """The feed of a session that was parked with its audio at one second: it reads from the last
    final on, so that it has the interrupted words first."""

    def __init__(self, listener: Listener, *, quiet: float = 60.0) -> None:
        before = Audio(head=RATE)
        before.quiet(quiet)
        listener.intake.park(before)
        super().__init__([chunk()], head=100)


async def test_interrupted_words_alone_open_no_stream(listener: Listener) -> None:
    audio = Resumed(listener)
    waiting = asyncio.create_task(listener.intake.wait_for_audio(audio))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not waiting.done()
    audio.head = RATE + 1
    assert await soon(waiting, 5)
    assert len(audio.items) == 1


async def test_stored_audio_ends_the_wait_too(listener: Listener) -> None:
    listener.stored = RATE + 1
    assert await soon(listener.intake.wait_for_audio(Resumed(listener)), 5)


@pytest.mark.parametrize("superseded", [False, True])
async def test_a_superseded_session_finishes_its_words(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, superseded: bool
) -> None:
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.0)
    listener.queue = [7, 9]
    audio = Resumed(listener)
    audio.superseded = superseded
    waiting = asyncio.create_task(listener.intake.wait_for_audio(audio))
    if not superseded:
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done(), "its own audio may still come"
        audio.superseded = True
    assert await soon(waiting, 5)


async def test_an_idle_session_finishes_its_words(listener: Listener) -> None:
    assert await soon(listener.intake.wait_for_audio(Resumed(listener, quiet=IDLE + 1)), 5)


async def test_a_parked_session_finishes_its_words_at_the_cutoff(listener: Listener) -> None:
    listener.case.cutoff.stop("enough", 50)
    assert await soon(listener.intake.wait_for_audio(Resumed(listener)), 5)


async def test_the_drain_ends_the_wait_of_a_parked_session(listener: Listener) -> None:
    waiting = asyncio.create_task(listener.intake.wait_for_audio(Resumed(listener)))
    for _ in range(10):
        await asyncio.sleep(0)
    listener.case.drain.request(0.0)
    with pytest.raises(HandOver):
        await soon(waiting, 5)


async def test_a_session_is_parked_once(listener: Listener) -> None:
    audio = Resumed(listener)
    audio.head = RATE + 1
    assert await soon(listener.intake.wait_for_audio(audio), 5)
    assert await soon(listener.intake.wait_for_audio(Audio([chunk()])), 5)
