"""A trace collector for tests: it speaks OTLP over HTTP and stores the spans it receives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2


class ReceivedSpan(NamedTuple):
    """A span as received."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    state: str
    error: str | None
    attributes: dict[str, Any]
    events: list[str]

    def attribute(self, name: str) -> Any:
        """The value of `natterjack.<name>`, or None."""
        return self.attributes.get(f"natterjack.{name}")


class Collector:
    """Replies with `status` and stores the spans of requests that succeed."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.raw: list[bytes] = []
        self.status = 200
        self.requests = 0
        self.port = 0

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make a program export its spans here without much delay."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def named(self, name: str) -> list[ReceivedSpan]:
        """Spans with this name, ordered by start."""
        return sorted((s for s in self.spans if s.name == name), key=lambda span: span.start)

    def of(self, service: str, name: str = "session") -> list[ReceivedSpan]:
        return [span for span in self.named(name) if span.service == service]

    async def _take(self, request: web.Request) -> web.Response:
        self.requests += 1
        body = await request.read()
        if self.status == 200:
            self.raw.append(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = {a.key: a.value for a in resource.resource.attributes}["service.name"]
                for scope in resource.scope_spans:
                    self.spans += [_parsed(service.string_value, span) for span in scope.spans]
        return web.Response(
            status=self.status,
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )


def _parsed(service: str, span: trace_pb2.Span) -> ReceivedSpan:
    failed = span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    return ReceivedSpan(
        service,
        span.name,
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.trace_state,
        span.status.message if failed else None,
        {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes},
        [event.name for event in span.events],
    )


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector on a free port."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector._take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        collector.port = runner.addresses[0][1]
        yield collector
    finally:
        await runner.cleanup()
