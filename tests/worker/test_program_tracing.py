"""Traces of complete sessions: edge and worker processes, and a collector of their spans."""

from __future__ import annotations

import asyncio
import signal
import socket
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from natterjack.subjects import session_subject
from natterjack.telemetry.spans import trace_id_of

from ..collector import Collector, ReceivedSpan, collecting
from ..edge_capture.program import Edge, requests
from ..waiting import until
from .programs import (
    RATE,
    Speaker,
    StartWorker,
    WorkerProcess,
    closed,
    holder,
    queue_empty,
    spoken,
    stored,
)

pytestmark = pytest.mark.process

EDGE, WORKER = "natterjack-edge", "natterjack-worker"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as collector:
        yield collector


class FileEdge:
    """A `natterjack-edge file` process with the audio of a Speaker."""

    def __init__(self, directory: Path, nats_url: str, speaker: Speaker) -> None:
        self._directory = directory
        self._nats_url = nats_url
        self._wav = directory / "words.wav"
        with wave.open(str(self._wav), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(speaker.pcm)
        self.process: Edge | None = None

    def start(self, environment: dict[str, str], *, speed: float = 6) -> Edge:
        flags = ("--tenant", "t", "--conversation", "c", "--speaker", "s", "--speed", str(speed))
        self.process = Edge(
            self._directory / "edge",
            ("file", str(self._wav), *flags),
            {"NATS_URL": self._nats_url, **environment},
        )
        return self.process


@pytest.fixture
def speaker(broker_settings: BrokerSettings) -> Speaker:
    return Speaker(broker_settings, 24, speed=6)


@pytest.fixture
def edge(tmp_path: Path, nats_server: EmbeddedServer, speaker: Speaker) -> Iterator[FileEdge]:
    edge = FileEdge(tmp_path, nats_server.url, speaker)
    yield edge
    if edge.process is not None:
        edge.process.end()


async def last_span(
    collector: Collector, service: str, name: str = "session", count: int = 1
) -> ReceivedSpan:
    """Wait for `count` spans and return the last."""
    try:
        await until(lambda: len(collector.of(service, name)) >= count, "a span")
    except AssertionError:
        found = [(span.service, span.name, span.attribute("outcome")) for span in collector.spans]
        raise AssertionError(f"no {count} {name} of {service}, but {found}") from None
    return collector.of(service, name)[-1]


def child_names(collector: Collector, span: ReceivedSpan) -> list[str]:
    """Return the names of a span's children, in the order of their starts."""
    children = [each for each in collector.spans if each.parent_id == span.span_id]
    return [child.name for child in sorted(children, key=lambda child: child.start)]


async def test_a_session_is_one_trace_from_the_edge_to_the_last_final(
    start_worker: StartWorker,
    broker: Broker,
    speaker: Speaker,
    edge: FileEdge,
    collector: Collector,
) -> None:
    await start_worker(**collector.environment, WORKER_NAME="w1")
    program = edge.start(collector.environment)
    assert await program.exit_code() == 0
    top = await last_span(collector, EDGE)
    lease = await last_span(collector, WORKER)
    key, session_id = program.stdout.split()
    assert key == "t.c.s"
    assert (top.kind, top.parent_id, top.error) == ("PRODUCER", "", None)
    assert top.attribute("session") == key
    assert top.attribute("session_id") == session_id
    assert top.attribute("tenant") == "t"
    assert top.attribute("format") == "linear16, 16000 Hz, 1 channels"
    assert top.attribute("chunks") > 10
    assert (lease.kind, lease.parent_id, lease.error) == ("CONSUMER", top.span_id, None)
    assert {span.trace_id for span in collector.spans} == {f"{trace_id_of(session_id):032x}"}
    assert lease.attribute("session") == key
    assert lease.attribute("session_id") == session_id
    assert (lease.attribute("epoch"), lease.attribute("worker")) == (1, "w1")
    assert lease.attribute("outcome") == "closed"
    assert child_names(collector, lease) == ["claim", "connect", "finish"]
    (connect,), (finish,) = collector.named("connect"), collector.named("finish")
    assert connect.attribute("provider") == "deepgram"
    assert connect.attribute("reference")
    assert connect.end <= finish.start <= finish.end <= lease.end
    # Neither words nor secrets.
    everything = b"".join(collector.raw)
    assert b"a-test-key" not in everything
    assert not [word for word in speaker.words if len(word) > 4 and word.encode() in everything]
    assert session_id.encode() in everything


async def test_the_successor_of_a_killed_worker_continues_the_trace(
    start_worker: StartWorker,
    broker: Broker,
    speaker: Speaker,
    edge: FileEdge,
    collector: Collector,
) -> None:
    workers = [
        await start_worker(**collector.environment, WORKER_NAME=name) for name in ("w1", "w2")
    ]
    program = edge.start(collector.environment, speed=2)
    first = await last_span(collector, WORKER, "claim")
    await last_span(collector, WORKER, "connect")
    killed = await holder(workers)
    killed.signal(signal.SIGKILL)
    assert await program.exit_code() == 0
    top = await last_span(collector, EDGE)
    lease = await last_span(collector, WORKER)
    names = {workers[0]: "w1", workers[1]: "w2"}
    assert first.attribute("worker") == names.pop(killed)
    assert lease.attribute("worker") in names.values()
    assert lease.attribute("epoch") == 2
    assert lease.attribute("outcome") == "closed"
    assert lease.parent_id == top.span_id
    assert child_names(collector, lease) == ["claim", "connect", "finish"]
    # The killed worker's lease span never ended, but its steps were exported.
    assert len(collector.of(WORKER)) == 1
    assert first.parent_id not in {span.span_id for span in collector.spans}
    assert len(collector.named("connect")) == 2
    assert len({span.trace_id for span in collector.spans}) == 1


async def test_an_edge_that_gives_up_reports_an_error(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    edge: FileEdge,
    collector: Collector,
) -> None:
    program = edge.start({**collector.environment, "EDGE_FINISH_SECONDS": "1"})

    async def opened() -> bool:
        return bool(await requests(ready_broker))

    await until(opened, "the request is stored", 20)
    nats_server.kill()
    program.interrupt()
    assert await program.exit_code() == 1
    assert (await last_span(collector, EDGE)).error == "not all is stored"


async def test_a_handed_over_session_is_two_leases_in_one_trace(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    collector: Collector,
) -> None:
    """The edge does not export traces here."""
    speaker = Speaker(broker_settings, 40)
    workers = [await start_worker(**collector.environment) for _ in range(2)]
    speaking = asyncio.create_task(speaker.speak())
    await last_span(collector, WORKER, "connect")
    await spoken(speaker, 2)
    first = await holder(workers)
    first.signal(signal.SIGTERM)
    await speaking
    assert await first.wait() == 0
    (await closed(broker, speaker.spec)).audit(speaker)
    await last_span(collector, WORKER, count=2)
    leases = collector.of(WORKER)
    assert [lease.attribute("outcome") for lease in leases] == ["handed_over", "closed"]
    assert [lease.attribute("epoch") for lease in leases] == [1, 2]
    assert [lease.parent_id for lease in leases] == ["", ""]
    trace_id = f"{trace_id_of(speaker.spec.session_id):032x}"
    assert {span.trace_id for span in collector.spans} == {trace_id}
    assert child_names(collector, leases[0]) == ["claim", "connect"]


async def test_a_lease_that_waits_for_an_earlier_session_has_no_span(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    collector: Collector,
) -> None:
    await start_worker(**collector.environment)
    earlier, later = Speaker(broker_settings, 40), Speaker(broker_settings, 8, speed=20)
    speaking = asyncio.create_task(earlier.speak())
    await spoken(earlier, 2)
    await later.speak()
    await speaking
    await closed(broker, later.spec)
    await last_span(collector, WORKER, count=2)
    await queue_empty(broker)
    leases = collector.of(WORKER)
    first = leases[0]
    assert first.attribute("session_id") == earlier.spec.session_id
    # A busy worker may lose a lease, or get a request again after it has closed the session.
    waited = [one for one in leases if one.attribute("session_id") == later.spec.session_id]
    assert waited
    assert all(one.start >= first.end for one in waited)
    assert waited[0].attribute("epoch") > 1  # the request was delivered before and returned
    assert len(collector.named("claim")) == len(leases)


# ---- faults ---------------------------------------------------------------------------------


async def test_a_recovery_lasts_from_the_fault_to_the_next_stream(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
    collector: Collector,
) -> None:
    await start_worker(**collector.environment)
    speaker = Speaker(broker_settings, 24)

    class Pause(Exception):
        pass

    def pause(seq: int) -> None:
        if seq == 40:
            raise Pause

    with pytest.raises(Pause):
        await speaker.speak(before_chunk=pause)
    await last_span(collector, WORKER, "connect")
    await emulator.set(handshake_status=503, handshakes=2)
    emulator.drop()
    await speaker.speak()  # repeats the chunks published before
    (await closed(broker, speaker.spec)).audit(speaker)
    lease = await last_span(collector, WORKER)
    (recover,) = collector.named("recover")
    connects = collector.named("connect")
    assert [connect.error for connect in connects] == [None, "server_error", "server_error", None]
    assert [connect.attribute("cause") for connect in connects] == [
        None, "server_error", "server_error", None,
    ]  # fmt: skip
    assert recover.attribute("cause") == "dropped"
    assert recover.attribute("faults") == 3
    assert recover.events == ["fault", "fault"]
    assert recover.error is None
    assert connects[0].end <= recover.start <= connects[1].start
    assert connects[2].end <= recover.end
    assert (lease.attribute("outcome"), lease.error) == ("closed", None)


async def test_a_refusal_is_an_error_with_its_cause(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
    collector: Collector,
) -> None:
    await emulator.set(handshake_status=401)
    await start_worker(**collector.environment, WORKER_RECOVERY_SECONDS="0.1")
    speaker = Speaker(broker_settings, 8, speed=20)
    await speaker.speak()
    await closed(broker, speaker.spec)
    lease = await last_span(collector, WORKER)
    assert (lease.attribute("outcome"), lease.error) == ("failed", "auth")
    assert [span.error for span in collector.named("connect")] == ["auth"]
    assert [span.error for span in collector.named("recover")] == ["auth"]
    assert b"a-test-key" not in b"".join(collector.raw)


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "00-" + "zz" * 16 + "-" + "0" * 16 + "-01", "tracestate": "=,=,="},
        {"traceparent": "0" * 8000, "Tracestate": "x" * 8000},
        {"TRACEPARENT": "", "traceparent": "-" * 55},
    ],
)
async def test_bad_trace_headers_are_ignored(
    start_worker: StartWorker,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    collector: Collector,
    headers: dict[str, str],
) -> None:
    worker = await start_worker(**collector.environment)
    speaker = Speaker(broker_settings, 8, speed=20)
    spec = speaker.spec
    await ready_broker.client.jetstream().publish(
        session_subject(spec.key),
        spec.model_dump_json().encode(),
        headers={"Nats-Msg-Id": spec.session_id, **headers},
    )
    await speaker.speak()
    (await closed(ready_broker, spec)).audit(speaker)
    lease = await last_span(collector, WORKER)
    assert lease.parent_id == ""
    assert lease.trace_id == f"{trace_id_of(spec.session_id):032x}"
    assert warnings(worker) == []


async def test_a_request_that_cannot_be_served_is_a_failed_lease(
    start_worker: StartWorker, ready_broker: Broker, collector: Collector
) -> None:
    await start_worker(**collector.environment)
    await ready_broker.client.jetstream().publish(
        session_subject(Speaker(BrokerSettings(), 1).spec.key),
        b'{"session_id": "bad-request", "channels": 0}',
    )
    lease = await last_span(collector, WORKER)
    assert (lease.attribute("outcome"), lease.error) == ("failed", "request")
    assert child_names(collector, lease) == ["claim"]


# ---- tracing off, or without a collector ----------------------------------------------------


@pytest.fixture
def no_extra(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing OpenTelemetry fails and leaves a marker file."""
    package = tmp_path / "shadow" / "opentelemetry"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from pathlib import Path\n"
        "Path(__file__).with_name('imported').touch()\n"
        "raise ImportError('hidden')\n"
    )
    return {"PYTHONPATH": str(package.parent)}


def imported(environment: dict[str, str]) -> bool:
    return (Path(environment["PYTHONPATH"]) / "opentelemetry" / "imported").exists()


async def served(broker: Broker, speaker: Speaker, edge: Edge) -> str:
    """Wait for a complete session and return the edge's standard error."""
    assert await edge.exit_code() == 0
    await until(lambda: _complete(broker, speaker, edge.stdout.split()[1]), "a full transcript", 30)
    await queue_empty(broker)
    return edge.stderr


async def _complete(broker: Broker, speaker: Speaker, session_id: str) -> bool:
    spec = speaker.spec.model_copy(update={"session_id": session_id})
    transcript = await stored(broker, spec)
    return bool(transcript.closing) and transcript.words == speaker.words


def warnings(worker: WorkerProcess) -> list[str]:
    """Return the worker's warnings, except for the one about the unencrypted emulator."""
    messages = [line["message"] for line in worker.log if line["level"] in ("warning", "error")]
    return [line for line in messages if "without encryption" not in line]


async def test_opentelemetry_is_imported_only_if_configured(
    start_worker: StartWorker,
    broker: Broker,
    speaker: Speaker,
    edge: FileEdge,
    no_extra: dict[str, str],
) -> None:
    worker = await start_worker(**no_extra)
    await served(broker, speaker, edge.start(no_extra))
    assert not imported(no_extra)
    assert warnings(worker) == []


async def test_without_the_extra_a_log_line_explains_how_to_install_it(
    start_worker: StartWorker,
    broker: Broker,
    speaker: Speaker,
    edge: FileEdge,
    collector: Collector,
    no_extra: dict[str, str],
) -> None:
    worker = await start_worker(**no_extra, **collector.environment)
    stderr = await served(broker, speaker, edge.start({**no_extra, **collector.environment}))
    assert imported(no_extra)
    (warning,) = warnings(worker)
    assert "pip install 'natterjack[otel]'" in warning
    assert stderr.count("pip install 'natterjack[otel]'") == 1
    assert collector.requests == 0


async def test_an_absent_collector_costs_one_log_line_per_program(
    start_worker: StartWorker,
    broker: Broker,
    speaker: Speaker,
    edge: FileEdge,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # reserved, but not listening
        absent = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        worker = await start_worker(**absent)
        stderr = await served(broker, speaker, edge.start(absent))
        assert stderr.count("traces are not exported") == 1
        worker.signal(signal.SIGTERM)
        assert await worker.wait() == 0
    (warning,) = warnings(worker)
    assert "traces are not exported" in warning
