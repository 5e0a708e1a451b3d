"""Faults at the joint of two sessions, and at random over a chain of them: each word is in one."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings

from ..searching import tried
from ..waiting import until
from ..worker.programs import Speaker, StartWorker, WorkerProcess, queue_empty
from ..worker.successors import Chain, new_id
from . import test_crash_points
from .proxy import Message
from .test_crash_points import POINTS, Mode, Point, Stage

pytestmark = pytest.mark.asyncio(loop_scope="module")
stage = test_crash_points.stage

_POINTS = {point.name: point for point in POINTS}
_JOINT = [
    # The session that ends.
    *(("ends", name) for name in ("usage", "closed", "closed-checkpoint", "ack")),
    # The one that continues it.
    *(("begins", name) for name in ("claim", "take-over", "assigned", "final", "checkpoint")),
]
MODES: tuple[Mode, ...] = ("kill", "blip", "stall")
CASES = [
    pytest.param(which, _POINTS[name], after, mode, id=f"{which}-{name}-{when}-{mode}")
    for which, name in _JOINT
    for after, when in ((False, "before"), (True, "after"))
    for mode in MODES
]


@pytest.mark.parametrize(("which", "point", "after", "mode"), CASES)
async def test_a_fault_at_the_joint(
    which: str, point: Point, after: bool, mode: Mode, stage: Stage
) -> None:
    """As in `test_crash_points`, at a step of a session that `max_seconds` cuts off, or of its
    successor."""
    speaker = await stage.prepare()
    names = {"successor": new_id(), "max_seconds": 2.6}
    speaker.spec = speaker.spec.model_copy(update=names)
    victim, chain = stage.victim, Chain(stage.broker, speaker)
    wanted = speaker.spec.session_id if which == "ends" else str(names["successor"])
    request = await stage.last_request() + (1 if which == "ends" else 2)

    def fits(message: Message) -> bool:
        """Whether the message is the point, and belongs to the session that is meant."""
        words = message.subject.split(".")
        if words[:2] == ["$JS", "ACK"]:
            return words[5] == str(request) and point.fits(message)
        return f'"session_id":"{wanted}"'.encode() in message.payload and point.fits(message)

    action = {
        "kill": lambda: victim.worker.signal(signal.SIGKILL),
        "blip": victim.proxy.cut,
        "stall": victim.proxy.stall,
    }[mode]
    arm = victim.proxy.after if after else victim.proxy.before
    subject = point.subject.format(key=speaker.spec.key)
    trigger = arm(subject, action, n=point.n, to=point.to, where=fits)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(speaker.speak())
        tasks.create_task(chain.follow())
        await until(trigger.fired.is_set, f"the worker reaches {point.name}", 20)
        holder = await _holder(stage, speaker)
        stage.rescuer.proxy.heal()
        if mode == "kill":
            await victim.worker.wait()
            await stage.replace_victim()
        elif mode == "stall":
            await until(lambda: _moved(stage, speaker, holder), "another worker has the key", 20)
        victim.proxy.heal()
    await until(stage.settled, "the queue is empty and no worker holds a session", 20)
    await chain.audit()
    assert len(chain.specs) > 1
    stage.dirty = False


async def _holder(stage: Stage, speaker: Speaker) -> str | None:
    """The holder of the key's checkpoint."""
    checkpoint = await stage.checkpoint(speaker.spec)
    return None if checkpoint is None else checkpoint.holder


async def _moved(stage: Stage, speaker: Speaker, holder: str | None) -> bool:
    """Whether there is another holder, or none is needed any more."""
    return await _holder(stage, speaker) != holder or await stage.requests() == 0


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(tried(3)))
async def test_random_faults_over_a_chain_of_sessions(
    seed: int,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """Workers are killed and drained, providers drop connections and are away for so long that
    sessions fail; and each session is short."""
    chance = random.Random(seed)
    settings = {
        "NATTERJACK_LEASE_SECONDS": "1", "WORKER_RECOVERY_SECONDS": "1",
        "WORKER_BREAKER_SECONDS": "0.2", "WORKER_BREAKER_MAX_SECONDS": "0.5",
        "WORKER_BACKOFF_SECONDS": "0.05", "WORKER_MAX_BACKOFF_SECONDS": "0.2",
    }  # fmt: skip
    workers = [await start_worker(**settings) for _ in range(2)]
    speaker = Speaker(broker_settings, 120, speed=2.5, successor=new_id(), max_seconds=5.3)
    chain = Chain(broker, speaker, most=60)

    async def worker_ends(number: signal.Signals) -> None:
        place = chance.randrange(2)
        worker: WorkerProcess = workers[place]
        worker.signal(number)
        await worker.wait()
        workers[place] = await start_worker(**settings)

    async def provider_is_away() -> None:
        await emulator.set(handshake_status=503)
        emulator.drop()
        await asyncio.sleep(chance.uniform(0.1, 2.0))
        await emulator.set(handshake_status=None)

    async def provider_drops() -> None:
        emulator.drop()

    speaking = asyncio.create_task(speaker.speak())
    following = asyncio.create_task(chain.follow())
    while not speaking.done():
        await asyncio.sleep(chance.uniform(0.2, 1.5))
        await chance.choice(
            [
                lambda: worker_ends(signal.SIGKILL), lambda: worker_ends(signal.SIGTERM),
                provider_is_away, provider_drops,
            ]
        )()  # fmt: skip
    await asyncio.gather(speaking, following)
    await queue_empty(broker)
    await chain.audit()
    assert len(chain.specs) > 5
