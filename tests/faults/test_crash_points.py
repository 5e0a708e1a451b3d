"""A worker is killed or loses its connection at each point of its order of operations.
`docs/explanation/guarantees.md` describes the outcomes and names these tests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest
import pytest_asyncio
from nats.js import JetStreamContext

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings
from natterjack.spec import SessionSpec
from tests.nats_server import NatsServer
from worker.session.checkpoint import Checkpoint, CheckpointStore

from ..waiting import bound, until
from ..worker.programs import RATE, Speaker, Transcript, WorkerProcess, closed, stored
from .audit import audit
from .proxy import Message, NatsProxy, Receiver, Trigger

pytestmark = pytest.mark.asyncio(loop_scope="module")

Mode = Literal["kill", "blip", "cut", "stall"]
Predicate = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True)
class Point:
    """A message in the order of operations: the n-th on `subject` that `matches`."""

    name: str
    subject: str
    matches: Predicate = lambda fields: True
    n: int = 1
    to: Receiver = "server"
    drain: bool = False
    """Whether the worker gets SIGTERM as soon as it streams the session."""
    provider_drops: bool = False
    pauses: bool = False
    """Whether the speaker pauses until the point is reached, which comes with time."""

    def fits(self, message: Message) -> bool:
        if message.payload[:1] == b"{":
            return self.matches(json.loads(message.payload))
        return self.matches({"ack": message.payload.decode()})


def _event(name: str, kind: str, matches: Predicate = lambda fields: True, **more: Any) -> Point:
    return Point(name, f"stt.transcript.{{key}}.{kind}", matches, **more)


def _status(state: str, **more: Any) -> Point:
    return _event(state, "status", lambda fields: fields["state"] == state, **more)


def _checkpoint(name: str, matches: Predicate, **more: Any) -> Point:
    return Point(name, "$KV.stt_sessions.{key}", matches, **more)


def _answer(name: str, payload: str, **more: Any) -> Point:
    return Point(name, "$JS.ACK.STT_SESSIONS.>", lambda fields: fields["ack"] == payload, **more)


_PAUSE_CHUNK = 20


POINTS = [
    Point("claim", "stt.session.{key}", to="client"),
    _checkpoint("take-over", lambda fields: True),
    _status("assigned"),
    _status("streaming"),
    _answer("heartbeat", "+WPI", pauses=True),
    _event("turn-started", "turn", lambda fields: fields["event"] == "started"),
    _event("final", "final"),
    _event("third-final", "final", n=3),
    _checkpoint("checkpoint", lambda fields: fields["position"] > 0),
    _checkpoint("third-checkpoint", lambda fields: fields["position"] > 0, n=3),
    _event("turn-ended", "turn", lambda fields: fields["event"] == "ended", n=2),
    _status("recovering", provider_drops=True),
    _status("handed_over", drain=True),
    _checkpoint("handed-over-checkpoint", lambda f: f["state"] == "handed over", drain=True),
    _answer("nak", "-NAK", drain=True),
    _event("usage", "usage"),
    _event("notice", "notice", n=3),
    _status("closed"),
    _checkpoint("closed-checkpoint", lambda fields: fields["closed"]),
    _answer("ack", ""),
]


class Seat:
    """A worker behind its own proxy."""

    def __init__(self, proxy: NatsProxy, worker: WorkerProcess) -> None:
        self.proxy = proxy
        self.worker = worker
        self.starting = asyncio.create_task(worker.start())


class Stage:
    """A broker, a provider and two workers.

    The victim gets each session. The rescuer is cut off until the fault; afterwards either worker
    may finish the session.
    """

    def __init__(self, server: NatsServer, emulator: DeepgramEmulator, broker: Broker) -> None:
        self.broker = broker
        self.emulator = emulator
        self.settings = BrokerSettings(url=server.url)
        self.js: JetStreamContext = broker.client.jetstream()
        self._server = server
        self._seats: list[Seat] = []
        self._proxies = contextlib.AsyncExitStack()
        self._keys = itertools.count()
        self.dirty = False
        self._lease = min(4.0, bound(1))
        """Long enough to be renewed in time under the present load, and short because most cases
        wait for its end."""

    @property
    def victim(self) -> Seat:
        return self._seats[0]

    @property
    def rescuer(self) -> Seat:
        return self._seats[1]

    async def prepare(self) -> Speaker:
        """Start both workers, cut off the rescuer, and return a speaker."""
        if self.dirty:
            await self._clear()
        while len(self._seats) < 2:
            await self._seat()
        await self.emulator.clear()
        self.dirty = True
        for seat in self._seats:
            await seat.starting
        self.rescuer.proxy.cut()
        await until(
            lambda: _ready(self.rescuer.worker, 503), "the rescuer notices that it is cut off"
        )
        await until(lambda: _ready(self.victim.worker, 200), "the victim is connected")
        key = f"c{next(self._keys)}"
        speaker = Speaker(self.settings, 12, speed=5, phrase_words=4, conversation=key)
        speaker.notes = {
            10: "input_low,of_a_later_release", 20: "input_low:end", 21: "muted:end,muted",
            45: "busy:end", 60: "input_dead",
        }  # fmt: skip
        return speaker

    async def _clear(self) -> None:
        """Remove everything that a failed test left."""
        await self.stop()
        await self.js.purge_stream(streams.SESSIONS)

    async def _seat(self) -> None:
        proxy = await self._proxies.enter_async_context(NatsProxy(self._server.port))
        worker = WorkerProcess(
            proxy.url,
            self.emulator.url,
            NATTERJACK_LEASE_SECONDS=str(self._lease),
            WORKER_BACKOFF_SECONDS="0.1",
        )
        self._seats.append(Seat(proxy, worker))

    async def replace_victim(self) -> None:
        """Make the rescuer the next victim and start another worker in the background."""
        worker = self._seats.pop(0).worker
        assert not worker.stray_lines, "\n".join(worker.stray_lines)
        await self._seat()

    async def requests(self) -> int:
        """Return the number of requests in the queue."""
        return (await self.js.stream_info(streams.SESSIONS)).state.messages

    async def last_request(self) -> int:
        """Return the sequence of the newest request that the queue has ever had."""
        return (await self.js.stream_info(streams.SESSIONS)).state.last_seq

    async def settled(self) -> bool:
        """Whether the queue is empty and no worker holds a session."""
        workers = [seat.worker for seat in self._seats if seat.starting.done()]
        try:
            held = [(await w.get("/sessions"))[1] for w in workers if w.running]
        except aiohttp.ClientError:
            return False  # a worker is exiting
        return all(sessions == "[]" for sessions in held) and await self.requests() == 0

    async def checkpoint(self, spec: SessionSpec) -> Checkpoint | None:
        bucket = await self.js.key_value(streams.CHECKPOINTS_BUCKET)
        return await CheckpointStore(self.broker, bucket, spec.key, Checkpoint).read()

    async def describe(self, spec: SessionSpec) -> str:
        """Return what is known of a session, for messages of failed tests."""
        parts = [f"{await self.requests()} requests, the newest ever {await self.last_request()}"]
        parts += [f"checkpoint {await self.checkpoint(spec)}"]
        parts += [(await stored(self.broker, spec)).describe()]
        for seat in self._seats:
            parts += ["worker:", *(str(entry) for entry in seat.worker.log[-20:])]
        return "\n".join(parts)

    async def stop(self) -> None:
        for seat in self._seats:
            seat.starting.cancel()
            await seat.worker.stop()
        stray = [line for seat in self._seats for line in seat.worker.stray_lines]
        self._seats.clear()
        await self._proxies.aclose()
        assert not stray, "\n".join(stray)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory, processes: None) -> AsyncIterator[Stage]:
    server = NatsServer(Path(tmp_path_factory.mktemp("nats")))
    server.start()
    try:
        async with (
            DeepgramEmulator() as emulator,
            connected(BrokerSettings(url=server.url), name="test", once=True) as broker,
        ):
            stage = Stage(server, emulator, broker)
            yield stage
            await stage.stop()
    finally:
        server.stop()


MODES: tuple[Mode, ...] = ("kill", "blip", "stall", "cut")
CUT = ("take-over", "final", "checkpoint", "handed_over", "closed")
"""Points at which the worker waits for an acknowledgement; elsewhere `stall` covers `cut`."""
CASES = [
    pytest.param(point, after, mode, id=f"{point.name}-{'after' if after else 'before'}-{mode}")
    for point, after, mode in itertools.product(POINTS, (False, True), MODES)
    if mode != "cut" or point.name in CUT
]


@pytest.mark.parametrize(("point", "after", "mode"), CASES)
async def test_crash_point(point: Point, after: bool, mode: Mode, stage: Stage) -> None:
    """`before`: the message never reaches the broker, or only after another worker has the session.
    `after`: the message reaches the broker, but its acknowledgement does not reach the worker.

    kill: SIGKILL. blip: the connection is lost and can be reopened at once. cut: it cannot be
    reopened for longer than the lease. stall: no data passes for longer than the lease, then all of
    it does.
    """
    speaker = await stage.prepare()
    if point.provider_drops:
        await stage.emulator.set(drop_mid_word=6, connections=1)
    victim, key = stage.victim, speaker.spec.key
    action = {
        "kill": lambda: victim.worker.signal(signal.SIGKILL),
        "blip": victim.proxy.cut,
        "cut": victim.proxy.cut,
        "stall": victim.proxy.stall,
    }[mode]
    request = await stage.last_request() + 1

    def fits(message: Message) -> bool:
        """Whether the message is the point. An earlier session's late ack or nak is not."""
        words = message.subject.split(".")
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence in the stream>...
        late = words[:2] == ["$JS", "ACK"] and words[5] != str(request)
        return not late and point.fits(message)

    arm = victim.proxy.after if after else victim.proxy.before
    trigger = arm(point.subject.format(key=key), action, n=point.n, to=point.to, where=fits)

    def before_chunk(number: int) -> None:
        if point.pauses and number == _PAUSE_CHUNK and not trigger.fired.is_set():
            speaker.pause()

    speaking = asyncio.create_task(speaker.speak(before_chunk=before_chunk))
    if point.drain:
        await until(lambda: _has(victim.worker, speaker.spec), "the victim streams it")
        victim.worker.signal(signal.SIGTERM)
    try:
        await until(trigger.fired.is_set, f"the worker reaches {point.name}", 20)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{await stage.describe(speaker.spec)}") from None
    speaker.go_on()
    epoch = await _audit_point(stage, speaker.spec, trigger, mode)
    stage.rescuer.proxy.heal()
    if mode == "kill":
        await victim.worker.wait()
        await stage.replace_victim()
    elif mode != "blip":
        await until(lambda: _moved(stage, speaker.spec, epoch), "the lease has run out", 20)
    victim.proxy.heal()
    await speaking
    await _audit_end(stage, speaker)
    if point.drain and mode != "kill":
        assert await victim.worker.wait() == 0, "\n".join(victim.worker.stray_lines)
        await stage.replace_victim()
    stage.dirty = False


def _has(worker: WorkerProcess, spec: SessionSpec) -> bool:
    return any(
        entry["message"] == "session streaming" and entry.get("session") == str(spec.key)
        for entry in worker.log
    )


async def _ready(worker: WorkerProcess, status: int) -> bool:
    return (await worker.get("/readyz"))[0] == status


async def _moved(stage: Stage, spec: SessionSpec, epoch: int) -> bool:
    """Whether the session has a later epoch than `epoch`, or has left the queue."""
    checkpoint = await stage.checkpoint(spec)
    return (checkpoint is not None and checkpoint.epoch > epoch) or await stage.requests() == 0


async def _audit_point(stage: Stage, spec: SessionSpec, trigger: Trigger, mode: Mode) -> int:
    """Assert that the fault hit that exact point and that at most one final is ahead of the
    checkpoint. Return the checkpoint's epoch."""
    assert trigger.message is not None
    subject, payload = trigger.message.subject, trigger.message.payload
    transcript, checkpoint = await stored(stage.broker, spec), await stage.checkpoint(spec)
    if subject.startswith("stt.transcript."):
        number = json.loads(payload)["sequence"]
        assert len(transcript.events) == number + trigger.after, transcript.describe()
    elif subject.startswith("$KV."):
        sent = Checkpoint.decode(payload)
        if trigger.after and mode == "blip":  # the worker may be back, and have written it again
            assert checkpoint is not None
            assert _progress(checkpoint) == _progress(sent)
        else:
            assert (checkpoint == sent) == trigger.after
    elif payload == b"" and trigger.after:

        async def gone() -> bool:
            return await stage.requests() == 0

        await until(gone, "the request has left the queue")
    else:
        assert await stage.requests() == 1
    position = 0 if checkpoint is None else checkpoint.position
    ahead = [final for final in transcript.finals if round(final.end * RATE) > position]
    assert len(ahead) <= 1, transcript.describe()
    return 0 if checkpoint is None else checkpoint.epoch


def _progress(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """The parts of a checkpoint that stay when the same worker writes it again."""
    return (
        checkpoint.session_id, checkpoint.epoch, checkpoint.holder, checkpoint.state,
        checkpoint.closed, checkpoint.position,
    )  # fmt: skip


async def _audit_end(stage: Stage, speaker: Speaker) -> Transcript:
    """Assert that the session has ended everywhere and that no word is lost, doubled or wrong."""
    await closed(stage.broker, speaker.spec, 40)
    await until(stage.settled, "the queue is empty and no worker holds a session", 20)
    transcript = await stored(stage.broker, speaker.spec)
    found = audit(
        transcript.events, speaker.words, speaker.places, captured_seconds=speaker.seconds
    )
    assert found.clean, f"{found}\n{transcript.describe()}"
    transcript.audit_notices(speaker)
    checkpoint = await stage.checkpoint(speaker.spec)
    assert checkpoint is not None
    assert checkpoint.closed
    return transcript
