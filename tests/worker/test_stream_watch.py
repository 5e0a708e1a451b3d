"""The watch for missing streams, on a real server."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.js import JetStreamContext

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.errors import StoreTooSmall
from natterjack.settings import KINDS, BrokerSettings, StreamSettings
from tests.nats_server import NatsServer
from worker.metrics import Metrics
from worker.stream_watch import StreamWatch, ensure_streams

from ..waiting import until
from .programs import WorkerProcess

pytestmark = pytest.mark.process

SETTINGS = StreamSettings(create_streams=False)
CURE = "run `natterjack streams apply` as a user that may create streams"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(1)


@pytest.fixture
def watch(metrics: Metrics) -> StreamWatch:
    return StreamWatch(SETTINGS, metrics)


@pytest.fixture
def js(ready_broker: Broker) -> JetStreamContext:
    return ready_broker.client.jetstream()


def missing(metrics: Metrics) -> set[str]:
    """The streams and the consumer that the metrics say are missing."""
    found = {
        sample.labels["stream"]
        for family in metrics.stream_missing.collect()
        for sample in family.samples
        if sample.value
    }
    consumer = metrics.registry.get_sample_value("natterjack_queue_consumer_missing")
    return found | ({"consumer"} if consumer else set())


@pytest.mark.parametrize(
    "name", [config.name for config in streams.stream_configs(SETTINGS)], ids=str
)
async def test_each_stream_is_missed_until_it_is_back(
    name: str, watch: StreamWatch, metrics: Metrics, js: JetStreamContext, ready_broker: Broker
) -> None:
    await watch.look(js)
    assert watch.problem is None
    assert missing(metrics) == set()
    await js.delete_stream(name)
    await watch.look(js)
    assert watch.problem == f"stream {name} is missing: {CURE}"
    queue = {"consumer"} if name in streams.QUEUES.values() else set()
    assert missing(metrics) == {name} | queue
    await streams.ensure(ready_broker, StreamSettings())
    await watch.look(js)
    assert watch.problem is None
    assert missing(metrics) == set()


async def test_streams_of_voice_are_watched_where_it_is_on(
    watch: StreamWatch, metrics: Metrics, js: JetStreamContext
) -> None:
    await js.delete_stream(streams.VOICE_SESSIONS)
    await watch.look(js)
    assert watch.problem == f"stream {streams.VOICE_SESSIONS} is missing: {CURE}"
    assert missing(metrics) == {streams.VOICE_SESSIONS, "consumer"}
    without = Metrics(1)
    off = StreamWatch(StreamSettings(kinds=("transcribe",)), without)
    await off.look(js)
    assert off.problem is None
    assert missing(without) == set()


async def test_a_missing_consumer_is_a_problem(
    watch: StreamWatch, metrics: Metrics, js: JetStreamContext
) -> None:
    await js.delete_consumer(streams.SESSIONS, streams.CONSUMER)
    await watch.look(js)
    assert watch.problem == f"consumer workers of STT_SESSIONS is missing: {CURE}"
    assert missing(metrics) == {"consumer"}


async def test_a_paused_consumer_is_a_problem(
    watch: StreamWatch, metrics: Metrics, js: JetStreamContext, ready_broker: Broker
) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    await ready_broker.client.request(
        f"$JS.API.CONSUMER.PAUSE.{streams.SESSIONS}.{streams.CONSUMER}",
        json.dumps({"pause_until": later.isoformat()}).encode(),
    )
    await watch.look(js)
    assert watch.problem == f"consumer workers of STT_SESSIONS is paused: {CURE}"
    assert missing(metrics) == {"consumer"}


async def test_the_used_share_of_limits_is_exported(
    watch: StreamWatch, metrics: Metrics, js: JetStreamContext
) -> None:
    found = (await js.stream_info(streams.AUDIO)).config
    await js.update_stream(found.evolve(max_bytes=1_000_000))
    await js.publish("stt.audio.t.c.s", bytes(500_000))
    await watch.look(js)

    def used(stream: str) -> float | None:
        return metrics.registry.get_sample_value("natterjack_stream_used_ratio", {"stream": stream})

    assert used(streams.AUDIO) == pytest.approx(0.5, abs=0.01)
    assert used(streams.SESSIONS) == 0
    assert used(streams.TRANSCRIPTS) is None, "it has no limit"
    await js.update_stream(found.evolve(max_bytes=-1))
    await watch.look(js)
    assert used(streams.AUDIO) is None, "nor has it a limit any more"


async def test_a_stream_that_does_not_answer_hides_no_other(
    tmp_path: Path, watch: StreamWatch, metrics: Metrics
) -> None:
    configuration = tmp_path / "nats.conf"
    refused = f"$JS.API.STREAM.INFO.{streams.SESSIONS}"
    configuration.write_text(
        "authorization { users: [{user: all, password: x}, {user: some, password: x, "
        f'permissions: {{publish: {{deny: "{refused}"}}}}}}] }}'
    )
    server = NatsServer(tmp_path / "nats", extra_arguments=("-c", str(configuration)))
    server.start()
    try:
        url = server.url.replace("//", "//{}:x@")
        all_of_it, some = (BrokerSettings(url=url.format(user)) for user in ("all", "some"))
        async with (
            connected(all_of_it, name="all", once=True) as all_rights,
            connected(some, name="some", once=True) as some_rights,
        ):
            await streams.ensure(all_rights, StreamSettings())
            await all_rights.client.jetstream().delete_stream(streams.AUDIO)
            await watch.look(some_rights.client.jetstream(timeout=1))
            assert missing(metrics) == {streams.AUDIO}
    finally:
        server.stop()


async def test_without_an_answer_nothing_changes(
    nats_server: NatsServer, watch: StreamWatch, metrics: Metrics, js: JetStreamContext
) -> None:
    await js.delete_stream(streams.AUDIO)
    await watch.look(js)
    nats_server.kill()
    await watch.look(js)
    assert missing(metrics) == {streams.AUDIO}


async def test_what_is_missing_twice_is_created_if_that_is_allowed(
    metrics: Metrics, js: JetStreamContext, ready_broker: Broker
) -> None:
    restore = asyncio.Event()
    watch = StreamWatch(StreamSettings(), metrics, interval_seconds=0.01)
    running = asyncio.create_task(watch.run(ready_broker, js, restore))
    try:
        await js.delete_stream(streams.AUDIO)
        await until(restore.is_set, "the stream is to be restored")
    finally:
        running.cancel()


async def test_a_worker_waits_for_streams_that_it_may_not_create(
    nats_server: NatsServer, broker: Broker, emulator: DeepgramEmulator
) -> None:
    worker = WorkerProcess(nats_server.url, emulator.url, NATTERJACK_CREATE_STREAMS="false")
    await worker.launch()
    try:
        reason = f"stream {streams.SESSIONS} is missing: {CURE}"
        await until(lambda: worker.find(reason), "the log names the remedy", 60)
        assert await worker.get("/readyz") == (503, f"{reason}\n")
        assert (await worker.get("/livez"))[0] == 200
        _, text = await worker.get("/metrics")
        assert "natterjack_nats_connected 1.0" in text
        assert 'natterjack_stream_missing{stream="STT_AUDIO"} 1.0' in text
        await streams.ensure(broker, StreamSettings())
        await until(lambda: worker.find("worker ready"), "it goes on by itself", 30)
        assert await worker.get("/readyz") == (200, "ok\n")
    finally:
        await worker.stop()


async def test_once_a_missing_stream_ends_the_worker(
    nats_server: NatsServer, broker: Broker, emulator: DeepgramEmulator
) -> None:
    class Once(WorkerProcess):
        arguments = ("-m", "worker", "--once")

    worker = Once(nats_server.url, emulator.url, NATTERJACK_CREATE_STREAMS="false")
    await worker.launch()
    try:
        assert await worker.wait(60) == 2
        assert "STT_SESSIONS is missing" in worker.log[-1]["message"]
    finally:
        await worker.stop()


@pytest.fixture
def small_server(tmp_path: Path, processes: None) -> Iterator[NatsServer]:
    """A server whose store has room for transcription alone."""
    configuration = tmp_path / "nats.conf"
    configuration.write_text("jetstream { max_file_store: 200MB }")
    server = NatsServer(tmp_path / "store", extra_arguments=("-c", str(configuration)))
    server.start()
    yield server
    server.stop()


async def test_a_small_store_keeps_nobody_from_transcription(
    small_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(BrokerSettings(url=small_server.url), name="test", once=True) as broker:
        js, settings = await ensure_streams(broker, StreamSettings())
        assert settings.kinds == ("transcribe",)
        assert "no voice sessions (WORKER_KINDS=transcribe): TTS_" in caplog.text
        assert "NATTERJACK_TTS_" in caplog.text
        watch = StreamWatch(StreamSettings(), Metrics(1))
        watch.expect(settings)
        await watch.look(js)
        assert watch.problem is None
        with pytest.raises(StoreTooSmall, match="NATTERJACK_TTS_"):  # asked for
            await ensure_streams(broker, StreamSettings(kinds=KINDS))


async def test_voice_is_on_by_default(broker: Broker) -> None:
    js, settings = await ensure_streams(broker, StreamSettings())
    assert settings.kinds == KINDS
    await js.consumer_info(streams.VOICE_SESSIONS, streams.CONSUMER)
