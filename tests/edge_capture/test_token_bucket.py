from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

import pytest

from edge_capture.delivery.backlog import Backlog
from edge_capture.delivery.publisher import Publisher
from edge_capture.delivery.token_bucket import TokenBucket
from edge_capture.settings import DeliverySettings
from natterjack.broker.connection import Broker
from natterjack.errors import UsageError
from natterjack.settings import load
from tests.edge_capture.conftest import StartEdge
from tests.edge_capture.program import only_recording
from tests.edge_capture.samples import chunk
from tests.edge_capture.test_faults import some_chunks
from tests.edge_capture.test_publish import SPEC
from tests.waiting import soon


def published(allowance: TokenBucket, now: float, most: int = 10_000) -> int:
    """Return how many chunks of 1 s are allowed at once."""
    count = 0
    while count < most and allowance.allows(now):
        allowance.spend(1.0, now)
        count += 1
    return count


def test_a_burst_and_then_a_rate() -> None:
    now = time.monotonic()
    allowance = TokenBucket(600, 1.25)
    assert published(allowance, now) == pytest.approx(600, abs=1)
    assert published(allowance, now) == 0
    assert published(allowance, now + 80) == pytest.approx(100, abs=1)
    assert published(allowance, now + 10_000) == pytest.approx(600, abs=1)  # never more at once


def test_live_audio_never_exhausts_the_bucket() -> None:
    now = time.monotonic()
    allowance = TokenBucket(600, 1.25)
    for second in range(3600):
        assert published(allowance, now + second, 1) == 1
    assert published(allowance, now + 3600) == pytest.approx(600, abs=2)


def test_no_limit() -> None:
    assert published(TokenBucket(0, 0), time.monotonic()) == 10_000


@pytest.mark.parametrize(
    ("spent_seconds", "ago_s", "left"),
    [(30, 0, 570), (5000, 0, 0), (5000, 80, 100), (5000, 5000, 600), (0, 0, 600)],
)
def test_an_earlier_run_has_spent_some(spent_seconds: float, ago_s: float, left: float) -> None:
    allowance = TokenBucket(600, 1.25, spent_seconds=spent_seconds, ago_s=ago_s)
    assert published(allowance, time.monotonic()) == pytest.approx(left, abs=1)


async def test_the_rate_limit_delays_chunks_and_a_source_that_can_wait(
    ready_broker: Broker,
) -> None:
    backlog = Backlog(SPEC, max_seconds=1, ahead_chunks=4)
    publisher = Publisher(backlog, window_chunks=64, rate_limit=TokenBucket(2, 1.25))
    running = asyncio.create_task(publisher.run(ready_broker))
    started = time.monotonic()
    for index in range(31):
        await publisher.wait_for_room()
        publisher.offer(chunk(index, end=index == 30))
    await soon(running, 20)
    passed_s = time.monotonic() - started
    assert passed_s > (3.0 - 2.0 - 0.2) / 1.25  # all but the burst, at the rate
    (await only_recording(ready_broker)).check_whole()


def test_a_rate_below_real_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CATCH_UP_RATE", "0.9")
    with pytest.raises(UsageError, match=r"EDGE_CATCH_UP_RATE: .*at least 1, or 0"):
        load(DeliverySettings)


@pytest.mark.parametrize("spooled", [False, True])
async def test_waiting_audio_is_published_at_the_end_unless_it_is_in_the_spool(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path, spooled: bool
) -> None:
    arguments = ["--burst-seconds", "1", "--catch-up-rate", "1", "--finish-seconds", "2"]
    spool = ["--spool", tmp_path / "spool"] if spooled else []
    edge = start_edge("stdin", "--live", *arguments, *spool, stdin=subprocess.PIPE)
    assert edge.process.stdin is not None
    edge.process.stdin.write(bytes(16000 * 2 * 60))
    edge.process.stdin.flush()
    await some_chunks(ready_broker)
    edge.interrupt()
    assert await edge.exit_code() == int(spooled), edge.stderr
    assert ("the spool keeps them" in edge.stderr) == spooled
    if not spooled:
        recording = await only_recording(ready_broker)
        recording.check_whole()
        assert recording.seconds > 5
