"""Traces: switching them on, spans, headers, and collectors that fail."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import string
import sys
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as some

from natterjack.telemetry import tracing
from natterjack.telemetry.spans import Tracer, trace_id_of
from tests.collector import Collector, collecting
from tests.searching import examples
from tests.waiting import bound, until

ID = "0b8a5f6e-1c1f-4a9e-9a40-5a2f1d1f0c55"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """A collector to which the variables point."""
    async with collecting() as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        yield collector


def tracer() -> Tracer:
    found = tracing.current()
    assert found is not None
    return found


@functools.cache
def tracer_without_exporters() -> Tracer:
    return Tracer("test", [], print)


# ---- on and off -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"},
    ],
)
def test_off(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with tracing.started("test"):
        assert tracing.current() is None
    assert not caplog.records


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        {"OTEL_TRACES_EXPORTER": "console, otlp"},
    ],
)
def test_on(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with tracing.started("test"):
        assert tracing.current() is not None
    assert tracing.current() is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "pigeon"}, "pigeon"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "queue"),
    ],
)
def test_a_problem_at_startup_is_one_warning(
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # As if it was not installed, which other packages may have done.
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with tracing.started("test"):
        assert tracing.current() is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert message in record.getMessage()


def test_warnings_of_the_sdk_at_startup_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "pigeon")
    with tracing.started("test"):
        assert tracing.current() is not None
    (record,) = caplog.records
    assert "pigeon" in record.getMessage()
    assert record.name == "natterjack.telemetry.tracing"


# ---- spans ----------------------------------------------------------------------------------


async def sent(collector: Collector, count: int) -> None:
    await until(lambda: len(collector.spans) >= count, f"{count} spans have arrived")


async def test_a_session_in_two_programs_is_one_trace(collector: Collector) -> None:
    with tracing.started("test"):
        edge = tracer().session("producer", ID, session="t.c.s")
        worker = tracer().session("consumer", ID, edge.headers())
        step = worker.child("connect", provider="deepgram")
        step.fail("auth")
        for span in (step, worker, edge):
            span.end()
        await sent(collector, 3)
    top, below = collector.named("session")
    (inside,) = collector.named("connect")
    assert (top.kind, below.kind, inside.kind) == ("PRODUCER", "CONSUMER", "INTERNAL")
    assert top.parent_id == ""
    assert below.parent_id == top.span_id
    assert inside.parent_id == below.span_id
    assert {span.trace_id for span in collector.spans} == {f"{trace_id_of(ID):032x}"}
    assert {span.service for span in collector.spans} == {"test"}
    assert top.attributes == {"natterjack.session_id": ID, "natterjack.session": "t.c.s"}
    assert (inside.error, below.error) == ("auth", None)


async def test_a_service_name_from_outside_wins(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "captions")
    with tracing.started("test"):
        tracer().session("producer", ID).end()
        await sent(collector, 1)
    assert collector.spans[0].service == "captions"


async def test_traces_that_are_not_sampled_are_not_exported(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    with tracing.started("test"):
        edge = tracer().session("producer", ID)
        assert int(edge.headers()["traceparent"][-2:], 16) & 1 == 0
        worker = tracer().session("consumer", ID, edge.headers())
        worker.child("claim").end()
        worker.end()
        edge.end()
        tracer().session("consumer", ID, {"traceparent": PARENT}).end()  # sampled: its parent is
        await sent(collector, 1)
    assert [span.trace_id for span in collector.spans] == [PARENT[3:35]]


def test_ratios_hold_for_the_trace_ids_of_sessions() -> None:
    # A sampler compares the lower 64 or 56 bits with a fraction of their range.
    ids = [trace_id_of(f"session-{number}") for number in range(2000)]
    for bits in (64, 56):
        lower = sum(each % 2**bits < 2**bits // 10 for each in ids)
        assert 120 < lower < 280


# ---- headers --------------------------------------------------------------------------------


async def test_contexts_of_others_are_continued(collector: Collector) -> None:
    with tracing.started("test"):
        for name in ("traceparent", "Traceparent"):  # Go's carriers write the latter
            headers = {name: PARENT, "tracestate": "vendor=1,other=2", "Nats-Msg-Id": ID}
            tracer().session("consumer", ID, headers).end()
        await sent(collector, 2)
    for span in collector.spans:
        assert span.trace_id == PARENT[3:35]
        assert span.parent_id == PARENT[36:52]
        assert span.state == "vendor=1,other=2"


async def test_an_invalid_tracestate_keeps_the_context(collector: Collector) -> None:
    bad = ["=", "a=1,a=2", "A=1", "x" * 5000, ",".join(f"k{n}=1" for n in range(40)), "k=\u20ac"]
    with tracing.started("test"):
        for state in bad:
            headers = {"traceparent": PARENT, "tracestate": state}
            tracer().session("consumer", ID, headers).end()
        await sent(collector, len(bad))
    assert {(span.trace_id, span.state) for span in collector.spans} == {(PARENT[3:35], "")}


HEX = "0123456789abcdef"
nearly = some.builds(
    "-".join,
    some.lists(
        some.text(HEX + "-", max_size=34) | some.sampled_from(PARENT.split("-")), max_size=5
    ),
)
headers = some.dictionaries(
    some.sampled_from(["traceparent", "Traceparent", "tracestate", "x"]),
    some.text(max_size=60) | some.text(string.printable, max_size=60) | nearly,
)


@examples(300)
@given(headers)
def test_any_header_gives_a_valid_span(headers: dict[str, str]) -> None:
    span = tracer_without_exporters().session("consumer", ID, headers)
    version, trace_id, span_id, flags = span.headers()["traceparent"].split("-")
    assert version == "00"
    assert int(trace_id, 16)
    assert int(span_id, 16)
    assert int(flags, 16) & 1 or trace_id in str(headers)


@pytest.mark.parametrize(
    "value",
    [
        "", "-", "00", PARENT[:-3], PARENT + "-more", PARENT.upper(), PARENT.replace("4", "g"),
        "ff" + PARENT[2:], f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'1' * 32}-{'0' * 16}-01",
        PARENT + " " * 5000, "x" * 100_000, PARENT + "\u20ac", "\ud800",
    ],
)  # fmt: skip
def test_an_invalid_traceparent_is_ignored(value: str) -> None:
    span = tracer_without_exporters().session("consumer", ID, {"traceparent": value})
    assert span.headers()["traceparent"].split("-")[1] == f"{trace_id_of(ID):032x}"


async def test_invalid_text_does_not_lose_other_spans(collector: Collector) -> None:
    with tracing.started("test"):
        long = tracer().session("producer", ID, session="\ud800" + "x" * 5000)
        long.note("fault", cause="\udfff")
        long.end()
        tracer().session("consumer", ID).end()
        await sent(collector, 2)
    assert collector.named("session")[0].attribute("session") == "?" + "x" * 255


# ---- collectors that fail ---------------------------------------------------------------------


async def test_one_line_when_exports_fail_and_when_they_work_again(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def refused(count: int) -> None:
        tracer().session("producer", ID).end()
        await until(lambda: collector.requests >= count, "another request")

    with tracing.started("test"):
        collector.status = 400
        for count in (1, 2, 3):
            await refused(count)
        await until(lambda: caplog.records, "a warning")
        collector.status = 200
        for count in (4, 5):
            await refused(count)
        await until(lambda: len(caplog.records) > 1, "a line that exports work again")
        collector.status = 400
        await refused(6)
        await until(lambda: len(caplog.records) > 2, "another warning")
    messages = [record.getMessage() for record in caplog.records]
    assert [message.partition(":")[0] for message in messages] == [
        "traces are not exported", "traces are exported again", "traces are not exported",
    ]  # fmt: skip
    assert "400" in messages[0]


async def test_a_collector_without_replies_does_not_delay_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts connections and never replies
        monkeypatch.setattr(tracing, "_CLOSE_S", 0.5)
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        with tracing.started("test"):
            tracer().session("producer", ID).end()
            await asyncio.sleep(0)
            ended = time.monotonic()
        assert time.monotonic() - ended < bound(8)  # the SDK alone would take more than ten seconds
    (record,) = caplog.records
    assert record.getMessage() == "traces are not exported: the collector does not respond"
