"""A collector of traces: OTLP over HTTP, as the real ones speak it, that keeps what it is sent."""

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


class Seen(NamedTuple):
    """A span as it arrived."""

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

    def about(self, name: str) -> Any:
        """The value of `natterjack.<name>`, or None."""
        return self.attributes.get(f"natterjack.{name}")


class Collector:
    """Answers with `status`; keeps spans of what it answered with 200."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.raw: list[bytes] = []
        self.status = 200
        self.requests = 0
        self.port = 0

    @property
    def environment(self) -> dict[str, str]:
        """What makes a program send its spans here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def named(self, name: str) -> list[Seen]:
        """In the order of their beginnings."""
        return sorted((s for s in self.spans if s.name == name), key=lambda span: span.start)

    def of(self, service: str, name: str = "session") -> list[Seen]:
        return [span for span in self.named(name) if span.service == service]

    async def _take(self, request: web.Request) -> web.Response:
        self.requests += 1
        body = await request.read()
        if self.status == 200:
            self.raw.append(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = {a.key: a.value for a in resource.resource.attributes}["service.name"]
                for scope in resource.scope_spans:
                    self.spans += [_seen(service.string_value, span) for span in scope.spans]
        return web.Response(
            status=self.status,
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )


def _seen(service: str, span: trace_pb2.Span) -> Seen:
    failed = span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    return Seen(
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
    """A running collector on a free port."""
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
