"""Clocks that run wrong and audio that comes late, twice, forged or never: each word is audited.

The session is said in messages that a test may change, drop, double, shuffle and forge at will.
"""

from __future__ import annotations

import asyncio
import random
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pytest

from natterjack.audio import MAX_CHUNK_BYTES
from natterjack.broker.connection import Broker
from natterjack.events import Account, FinalEvent
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject, session_subject

from ..emulators import tones
from ..emulators.deepgram import DeepgramEmulator
from ..waiting import bound, until
from ..worker.programs import (
    RATE,
    UNDISTURBED,
    StartWorker,
    Transcript,
    WorkerProcess,
    closed,
    holder,
)

_FRAMES = RATE * 80 // 1000
_NS = 1_000_000_000
_SPEED = 16.0
_FAST = {"DEEPGRAM_CATCH_UP_RATE": "40"}
_ALONE = {**UNDISTURBED, **_FAST}
"""For a worker that nobody kills: on accounts that are exact, no second of it stands twice."""


def _killed() -> dict[str, str]:
    """Settings of workers of which one is killed: another takes over soon, and none takes a busy
    machine for a fault."""
    return {**_ALONE, "NATTERJACK_LEASE_SECONDS": f"{bound(3):.1f}"}


_HOW: dict[str, Any] = {"phrase_words": 8, "pause_seconds": 0.8, "lead_seconds": 0.3}
_TIME_SECONDS = 0.02
"""Most that a word's time, or a wall clock, may be off."""


class Sound(NamedTuple):
    """One message of an edge, true or not."""

    seq: object
    pos: object
    payload: bytes
    time_ns: int = 0
    end: bool = False
    session_id: str = ""
    """Empty: the session's own."""
    again: bool = False
    """With a `Nats-Msg-Id` of its own, which the stream has not seen."""


class Speech:
    """A session that says tone words, as the messages of a faultless edge."""

    def __init__(self, words: int, clock: Callable[[int], int] | None = None) -> None:
        """`clock`: wall clock of a position, in nanoseconds since the epoch."""
        began = time.time_ns()
        self.clock = clock or (lambda pos: began + pos * _NS // RATE)
        self.words = tones.sequence(words)
        self.places = tones.places(self.words, **_HOW)
        pcm = tones.encode(self.words, RATE, tail_seconds=0.5, **_HOW)
        self.frames = len(pcm) // 2
        self.spec = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=RATE)
        starts = range(0, self.frames, _FRAMES)
        self.sounds = [
            Sound(
                seq,
                pos,
                pcm[2 * pos : 2 * (pos + _FRAMES)],
                self.clock(pos),
                pos == starts[-1],
            )
            for seq, pos in enumerate(starts)
        ]

    @property
    def seconds(self) -> float:
        return self.frames / RATE

    def shift(self, seq: int, seconds: float) -> None:
        """The edge loses `seconds` of silence just before chunk `seq`: what follows moves on."""
        frames = round(seconds * RATE)
        for index in range(seq, len(self.sounds)):
            sound = self.sounds[index]
            assert isinstance(sound.pos, int)
            pos = sound.pos + frames
            self.sounds[index] = sound._replace(pos=pos, time_ns=self.clock(pos))
        at = seq * _FRAMES / RATE
        assert not any(place.start < at < place.end for place in self.places), "amid a word"
        self.places = [
            place._replace(start=place.start + seconds, end=place.end + seconds)
            if place.start >= at
            else place
            for place in self.places
        ]
        self.frames += frames

    def pause_after(self, words: int) -> int:
        """Number of a chunk that lies in the pause after so many words."""
        return int((self.places[words - 1].end + 0.4) * RATE) // _FRAMES


async def request(broker: Broker, spec: SessionSpec) -> None:
    await broker.client.jetstream().publish(
        session_subject(spec.key),
        spec.model_dump_json().encode(),
        headers={"Nats-Msg-Id": spec.session_id},
    )


async def publish(
    broker: Broker, spec: SessionSpec, sounds: Iterable[Sound], speed: float | None = _SPEED
) -> None:
    """Publish messages in their order, one each 80 ms / `speed`; None: at once."""
    js, started = broker.client.jetstream(), time.monotonic()
    for count, sound in enumerate(sounds):
        if speed is not None:
            await asyncio.sleep(started + count * 0.08 / speed - time.monotonic())
        session_id = sound.session_id or spec.session_id
        msg_id = str(uuid.uuid4()) if sound.again else f"{session_id}:{sound.seq}"
        headers = {
            "Session-Id": session_id,
            "Audio-Seq": str(sound.seq),
            "Audio-Pos": str(sound.pos),
            "Audio-Time": str(sound.time_ns),
            "Nats-Msg-Id": msg_id,
            **({"Audio-End": "1"} if sound.end else {}),
        }
        await js.publish(audio_subject(spec.key), sound.payload, headers=headers)


async def say(broker: Broker, speech: Speech) -> Transcript:
    """Request the session, publish all of it, and await its end."""
    await request(broker, speech.spec)
    await publish(broker, speech.spec, speech.sounds)
    return await closed(broker, speech.spec, 60)


def check_words(transcript: Transcript, places: Sequence[tones.HeardWord]) -> None:
    """Assert that exactly the words at `places` were heard, once, in order, at their times."""
    sent = [place.word for place in places]
    assert tones.compare(sent, transcript.heard) == tones.Counts(), transcript.told()
    for start, place in zip(transcript.word_starts, places, strict=True):
        assert start == pytest.approx(place.start, abs=_TIME_SECONDS), place
    assert [event.sequence for event in transcript.events] == list(range(len(transcript.events)))
    assert [final.segment for final in transcript.finals] == list(range(len(transcript.finals)))
    for before, after in zip(transcript.finals, transcript.finals[1:], strict=False):
        assert before.end <= after.start
    (closing,) = transcript.closing
    assert closing.state == "closed"
    assert transcript.events[-1] is closing


def check_clocks(finals: Iterable[FinalEvent], clock: Callable[[int], int]) -> None:
    """Assert that every final has the wall clock of its start, and a latency that can be."""
    for final in finals:
        assert final.started_at is not None, final
        wall = clock(round(final.start * RATE)) / _NS
        assert final.started_at.timestamp() == pytest.approx(wall, abs=_TIME_SECONDS), final
        assert final.latency is not None
        assert 0 <= final.latency < 60


def account_of(transcript: Transcript) -> Account:
    account = transcript.closing[0].account
    assert account is not None
    return account


def check_account(
    account: Account,
    captured: float,
    gaps: list[tuple[float, float, str]],
    *,
    longest: float = 10,
    streams: int = 1,
) -> None:
    """Assert that the account has these gaps, and that its sums come out.

    `longest`: silence sent for a gap, at most. `streams`: several send some audio again.
    """
    assert [gap.cause for gap in account.gaps] == [cause for _, _, cause in gaps]
    assert [gap.start for gap in account.gaps] == pytest.approx([start for start, _, _ in gaps])
    assert [gap.end for gap in account.gaps] == pytest.approx([end for _, end, _ in gaps])
    by_cause: dict[str, float] = {}
    for start, end, cause in gaps:
        by_cause[cause] = by_cause.get(cause, 0.0) + end - start
    assert account.gap_seconds == pytest.approx(by_cause)
    assert account.captured_seconds == pytest.approx(captured, abs=1e-3)
    missing = sum(by_cause.values())
    assert account.received_seconds == pytest.approx(captured - missing, abs=1e-3)
    assert account.transcribed_seconds == pytest.approx(account.received_seconds, abs=1e-3)
    silence = sum(min(end - start, longest) for start, end, _ in gaps)
    if streams == 1:
        assert account.sent_seconds == pytest.approx(account.received_seconds + silence, abs=1e-3)


# ---- clocks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ppm", [200, -200])
async def test_an_hour_of_drift_between_the_clocks(
    ppm: int, start_worker: StartWorker, broker: Broker
) -> None:
    """The wall clock runs 200 ppm off the samples: 0.72 s after an hour, most of which is a gap."""
    began = time.time_ns()

    def drifting(pos: int) -> int:
        return began + pos * _NS // RATE * (1_000_000 + ppm) // 1_000_000

    await start_worker(**_ALONE, WORKER_MAX_GAP_SECONDS="1")
    speech = Speech(48, drifting)
    speech.shift(speech.pause_after(16), 3600)
    transcript = await say(broker, speech)
    check_words(transcript, speech.places)
    check_clocks(transcript.finals, drifting)
    last = transcript.finals[-1]
    assert last.started_at is not None
    drift = last.started_at.timestamp() - (began / _NS + last.start)
    assert drift == pytest.approx(ppm * 3605e-6, abs=0.03)


@pytest.mark.parametrize("ppm", [15_000, -15_000])
async def test_drift_in_speech(ppm: int, start_worker: StartWorker, broker: Broker) -> None:
    """As much drift as after hours, within one minute of speech that goes on."""
    began = time.time_ns()

    def drifting(pos: int) -> int:
        return began + pos * _NS // RATE * (1_000_000 + ppm) // 1_000_000

    await start_worker(**_ALONE)
    speech = Speech(140, drifting)
    transcript = await say(broker, speech)
    check_words(transcript, speech.places)
    check_clocks(transcript.finals, drifting)
    check_account(account_of(transcript), speech.seconds, [])


@pytest.mark.parametrize("step_seconds", [-3600, 3600])
@pytest.mark.parametrize("killed", [False, True])
async def test_a_clock_that_steps_in_mid_word(
    step_seconds: int, killed: bool, start_worker: StartWorker, broker: Broker
) -> None:
    began, speech = time.time_ns(), Speech(60)
    place = speech.places[28]
    step_at = (int((place.start + 0.12) * RATE) // _FRAMES + 1) * _FRAMES
    assert place.start * RATE < step_at < place.end * RATE

    def stepping(pos: int) -> int:
        return began + pos * _NS // RATE + (step_seconds * _NS if pos >= step_at else 0)

    speech = Speech(60, stepping)
    how = _killed() if killed else _ALONE
    workers = [await start_worker(**how) for _ in range(2 if killed else 1)]
    await request(broker, speech.spec)
    at = step_at // _FRAMES + 2
    await publish(broker, speech.spec, speech.sounds[:at], 4)
    if killed:
        (await holder(workers)).signal(signal.SIGKILL)
    await publish(broker, speech.spec, speech.sounds[at:])
    transcript = await closed(broker, speech.spec, 60)
    check_words(transcript, speech.places)
    check_clocks(transcript.finals, stepping)
    starts = [round(final.start * RATE) >= step_at for final in transcript.finals]
    assert True in starts
    assert False in starts
    streams = transcript.states.count("streaming")
    check_account(account_of(transcript), speech.seconds, [], streams=streams)


# ---- audio that comes late, or never --------------------------------------------------------


async def memory_bytes(worker: WorkerProcess) -> float:
    found = re.search(
        r"^process_resident_memory_bytes (\S+)", (await worker.get("/metrics"))[1], re.M
    )
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("parked", [False, True])
async def test_half_a_minute_that_was_held_back(
    parked: bool, emulator: DeepgramEmulator, start_worker: StartWorker, broker: Broker
) -> None:
    worker = await start_worker(**_ALONE, WORKER_PARK_SECONDS="0.5" if parked else "30")
    speech = Speech(140)
    first, last = 100, 100 + round(30 / 0.08)
    await request(broker, speech.spec)
    await publish(broker, speech.spec, speech.sounds[:first])
    before = await memory_bytes(worker)
    silent = time.monotonic()
    if parked:
        await until(lambda: emulator.log and emulator.open_connections == 0, "it is parked")
    await until(lambda: time.monotonic() - silent > 30 / _SPEED, "30 s of its sound are over")
    await publish(broker, speech.spec, speech.sounds[first:last], None)
    await publish(broker, speech.spec, speech.sounds[last:])
    transcript = await closed(broker, speech.spec, 60)
    check_words(transcript, speech.places)
    check_clocks(transcript.finals, speech.clock)
    check_account(account_of(transcript), speech.seconds, [], longest=0) if not parked else None
    streams = len(emulator.log)
    assert streams > 1 if parked else streams == 1
    check_account(account_of(transcript), speech.seconds, [], streams=streams)
    assert await memory_bytes(worker) - before < 40e6


def cut(speech: Speech, holes: Sequence[range]) -> list[tones.HeardWord]:
    """Leave out these chunks; the places of the words that are whole all the same."""
    missing = {seq for hole in holes for seq in hole}
    spans = [(hole.start * _FRAMES / RATE, hole.stop * _FRAMES / RATE) for hole in holes]
    speech.sounds = [sound for sound in speech.sounds if sound.seq not in missing]
    return [
        place
        for place in speech.places
        if not any(place.start < end and place.end > start for start, end in spans)
    ]


@pytest.mark.parametrize("max_gap_seconds", [10, 1])
@pytest.mark.parametrize(
    "holes",
    [
        [range(0, 2)],
        [range(70, 71)],
        [range(60, 160)],
        [range(20, 22), range(23, 24), range(50, 90), range(150, 151), range(190, 215)],
    ],
    ids=["at the start", "one chunk", "eight seconds", "several"],
)
async def test_holes_that_nobody_fills(
    holes: list[range], max_gap_seconds: int, start_worker: StartWorker, broker: Broker
) -> None:
    await start_worker(
        **_FAST, WORKER_HOLE_SECONDS="0.5", WORKER_MAX_GAP_SECONDS=str(max_gap_seconds)
    )
    speech = Speech(60)
    heard = cut(speech, holes)
    transcript = await say(broker, speech)
    check_words(transcript, heard)
    check_clocks(transcript.finals, speech.clock)
    gaps = [(hole.start * 0.08, hole.stop * 0.08, "missing") for hole in holes]
    check_account(account_of(transcript), speech.seconds, gaps, longest=max_gap_seconds)


async def test_gaps_of_every_cause_on_one_account(
    start_worker: StartWorker, broker: Broker
) -> None:
    """The edge loses sound, the stream loses chunks, and a chunk is damaged."""
    await start_worker(**_ALONE, WORKER_HOLE_SECONDS="0.5", WORKER_MAX_GAP_SECONDS="2")
    speech = Speech(60)
    lost, shift_at = range(30, 40), speech.pause_after(24)
    damaged = shift_at + 40
    heard = cut(speech, [lost])
    at = next(i for i, sound in enumerate(speech.sounds) if sound.seq == shift_at)
    plain_at = shift_at * 0.08
    for index in range(at, len(speech.sounds)):
        sound = speech.sounds[index]
        assert isinstance(sound.pos, int)
        pos = sound.pos + 30 * RATE
        speech.sounds[index] = sound._replace(pos=pos, time_ns=speech.clock(pos))
    later = [
        place._replace(start=place.start + 30, end=place.end + 30)
        if place.start >= plain_at
        else place
        for place in heard
    ]
    start = damaged * 0.08 + 30
    heard = [place for place in later if not (place.start < start + 0.08 and place.end > start)]
    at = next(i for i, sound in enumerate(speech.sounds) if sound.seq == damaged)
    speech.sounds[at] = speech.sounds[at]._replace(pos=5)  # far back: it cannot be there
    transcript = await say(broker, speech)
    check_words(transcript, heard)
    check_clocks(transcript.finals, speech.clock)
    account = account_of(transcript)
    # Whoever reads it again after a fault meets it again.
    assert 1 <= account.bad_chunks["position"] <= 1 + sum(account.recoveries.values())
    assert len(account.bad_chunks) == 1
    gaps = [
        (30 * 0.08, 40 * 0.08, "missing"),
        (plain_at, plain_at + 30, "edge"),
        (start, start + 0.08, "bad_chunk"),
    ]
    check_account(account, speech.seconds + 30, gaps, longest=2)


async def test_gaps_are_told_once_when_the_worker_is_killed(
    start_worker: StartWorker, broker: Broker
) -> None:
    settings = {**_killed(), "WORKER_HOLE_SECONDS": "0.5"}
    workers = [await start_worker(**settings) for _ in range(2)]
    speech = Speech(80)
    holes = [range(40, 50), range(90, 92), range(200, 240)]
    heard = cut(speech, holes)
    await request(broker, speech.spec)
    await publish(broker, speech.spec, speech.sounds[:100], 4)
    (await holder(workers)).signal(signal.SIGKILL)
    await publish(broker, speech.spec, speech.sounds[100:])
    transcript = await closed(broker, speech.spec, 60)
    check_words(transcript, heard)
    gaps = [(hole.start * 0.08, hole.stop * 0.08, "missing") for hole in holes]
    check_account(account_of(transcript), speech.seconds, gaps, streams=2)


# ---- chunks that come twice, in any order, or from a forger ---------------------------------

_Script = list[Sound]


async def test_what_is_forged_in_a_row_is_not_on_the_account(
    start_worker: StartWorker, broker: Broker
) -> None:
    """Copies of neighbours, all shifted alike: each begins where the one before it ends."""
    await start_worker(**_ALONE)
    speech = Speech(40)
    at = 60
    for sound in reversed(speech.sounds[at - 8 : at]):
        assert isinstance(sound.pos, int)
        forged = sound._replace(pos=sound.pos + 40 * RATE, again=True)
        speech.sounds.insert(at, forged)
    transcript = await say(broker, speech)
    check_words(transcript, speech.places)
    account = account_of(transcript)
    assert account.captured_seconds == pytest.approx(speech.seconds, abs=1e-3)
    assert account.received_seconds == account.captured_seconds
    assert account.gaps == []


_LATER = 50
"""Chunks by which one is moved, or comes again, at most."""


def doubled(sounds: _Script, true: _Script, chance: random.Random) -> None:
    """Chunks come again, before or after, under an id that the stream has not seen."""
    for sound in chance.sample(true, len(true) // 3):
        at = sounds.index(sound) + chance.choice([0, 0, 1, 2, chance.randint(1, _LATER)])
        sounds.insert(at, sound._replace(again=True))


def shuffled(sounds: _Script, true: _Script, chance: random.Random) -> None:
    """Neighbours are swapped, and some chunks come far too early, far too late, or near the end."""
    for _ in range(len(true) // 8):
        at = chance.randrange(len(sounds) - 1)
        sounds[at : at + 2] = reversed(sounds[at : at + 2])
    for _ in range(6):
        sound = sounds.pop(chance.randrange(len(sounds)))
        sounds.insert(max(0, len(sounds) - chance.randint(0, _LATER)), sound)
        at = chance.randrange(len(sounds))
        sound = sounds.pop(at)
        sounds.insert(max(0, at + chance.randint(-_LATER, _LATER)), sound)


def old_numbers(sounds: _Script, true: _Script, chance: random.Random) -> None:
    """Numbers that are passed come again with other sound, at any position."""
    for sound in chance.sample(true, 20):
        wrong = chance.choice([sound.pos, 0, 5, int(str(sound.pos)) + 3600 * RATE, 10**18])
        words = chance.choice(true).payload
        forged = sound._replace(pos=wrong, payload=words, again=True, end=chance.random() < 0.3)
        sounds.insert(sounds.index(sound) + chance.randint(1, _LATER), forged)


def far_numbers(sounds: _Script, true: _Script, chance: random.Random) -> None:
    """Numbers that are far ahead, negative or absurd, at positions that are just as wrong."""
    for sound in chance.sample(true, 30):
        assert isinstance(sound.seq, int)
        assert isinstance(sound.pos, int)
        seq, pos = chance.choice(
            [
                (sound.seq + 10**6, sound.pos),
                (sound.seq + 10**6, sound.pos + 10**6),
                (sound.seq + 10**6, sound.pos + 3600 * RATE),
                (sound.seq + 5000, sound.pos + 30 * 3600 * RATE),
                (len(true) + 100, sound.pos + 50 * _FRAMES),
                (2**63 - 1, 2**63 - 1),
                (2**64, 0),
                (-1, -1280),
                (-sound.seq - 1, sound.pos),
                (sound.seq, -sound.pos - 1),
                ("1.5", sound.pos),
                ("", ""),
            ]
        )
        words, end = chance.choice(true).payload, chance.random() < 0.3
        forged = sound._replace(seq=seq, pos=pos, payload=words, again=True, end=end)
        sounds.insert(sounds.index(sound), forged)


def wrong_sizes(sounds: _Script, true: _Script, chance: random.Random) -> None:
    """The right numbers come first with half a sample, with nothing, or with far too much."""
    for sound in chance.sample(true[:-1], 12):
        payload = chance.choice([sound.payload[:-1], b"", b"\0", bytes(MAX_CHUNK_BYTES + 2)])
        sounds.insert(sounds.index(sound), sound._replace(payload=payload, again=True))


def strangers(sounds: _Script, true: _Script, chance: random.Random) -> None:
    """Another session speaks on the same subject, with the same numbers."""
    for sound in chance.sample(true, 40):
        words = chance.choice(true).payload
        other = sound._replace(session_id="another-session", payload=words)
        sounds.insert(sounds.index(sound), other)


def wrong_positions(sounds: _Script, true: _Script, chance: random.Random) -> None:
    """The right number comes first with other sound, at a position that is not its own."""
    for sound in chance.sample(true[2:-2], 6):
        assert isinstance(sound.pos, int)
        wrong = chance.choice(
            [
                0,
                sound.pos - 10 * _FRAMES,
                sound.pos - _FRAMES // 2,
                sound.pos + 1,
                sound.pos + _FRAMES // 2,
                sound.pos + 20 * _FRAMES,
                sound.pos + 3600 * RATE,
                sound.pos + 30 * 3600 * RATE,
            ]
        )
        words = chance.choice(true).payload
        forged = sound._replace(pos=max(0, wrong), payload=words, again=True)
        sounds.insert(sounds.index(sound), forged)


_WAYS = [doubled, shuffled, old_numbers, far_numbers, wrong_sizes, strangers, wrong_positions]


async def check_disturbed(
    ways: Sequence[Callable[[_Script, _Script, random.Random], None]],
    seed: int,
    start_worker: StartWorker,
    broker: Broker,
    *,
    killed: bool = False,
) -> Transcript:
    """Say a session that is disturbed in these ways: no word is lost, doubled or moved."""
    chance = random.Random(seed)
    speech = Speech(60)
    sounds = list(speech.sounds)
    for way in ways:
        way(sounds, speech.sounds, chance)
    how = _killed() if killed else _ALONE
    workers = [await start_worker(**how) for _ in range(2 if killed else 1)]
    await request(broker, speech.spec)
    at = len(sounds) * chance.randint(30, 80) // 100 if killed else 0
    await publish(broker, speech.spec, sounds[:at], _SPEED / 2)
    if killed:
        (await holder(workers)).signal(signal.SIGKILL)
    await publish(broker, speech.spec, sounds[at:], _SPEED)
    transcript = await closed(broker, speech.spec, 60)
    check_words(transcript, speech.places)
    check_clocks(transcript.finals, speech.clock)
    streams = transcript.states.count("streaming")
    check_account(account_of(transcript), speech.seconds, [], streams=streams)
    return transcript


@pytest.mark.parametrize("way", _WAYS)
async def test_disturbed_in_one_way(
    way: Callable[[_Script, _Script, random.Random], None],
    start_worker: StartWorker,
    broker: Broker,
) -> None:
    await check_disturbed([way], 1, start_worker, broker)


@pytest.mark.parametrize("seed", range(10))
async def test_disturbed_in_several_ways(
    seed: int, start_worker: StartWorker, broker: Broker
) -> None:
    """Some of the ways, in some order; with every other seed a worker is killed meanwhile."""
    ways = random.Random(seed).sample(_WAYS, 2 + seed % 6)
    killed = seed % 2 == 1
    transcript = await check_disturbed(ways, seed, start_worker, broker, killed=killed)
    assert transcript.states.count("assigned") == (2 if killed else 1)
