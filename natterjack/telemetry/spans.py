"""Spans of sessions, made with the OpenTelemetry SDK. Only `tracing` imports this at run time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_MAX_VALUE = 256
_HEADERS = ("traceparent", "tracestate")
_MAX_HEADER = 512
"""Longer headers are ignored. W3C Trace Context requires 512 for tracestate; traceparent has 55."""

Value = str | int | float | bool

_propagator = TraceContextTextMapPropagator()
_empty = Context()
"""Used in place of the current context: other spans of the process are not parents of a session."""


def trace_id_of(session_id: str) -> int:
    """Trace ID of a session whose request has no trace context.

    All processes that serve the session derive the same ID. It is a hash, because samplers expect
    random bits.
    """
    return int.from_bytes(hashlib.sha256(session_id.encode()).digest()[:16], "big")


class Span:
    """A span of a session's trace. Not thread-safe."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    def child(self, name: str, **attributes: Value) -> Span:
        """Start a child span."""
        inside = trace.set_span_in_context(self._span, _empty)
        return Span(self._tracer, self._tracer.start_span(name, inside)).mark(**attributes)

    def mark(self, **attributes: Value) -> Span:
        """Set attributes, each named `natterjack.<name>`. Strings are cut to 256 characters."""
        for name, value in attributes.items():
            self._span.set_attribute(f"natterjack.{name}", _fit(value))
        return self

    def note(self, event: str, **attributes: Value) -> None:
        """Add an event at the current time."""
        self._span.add_event(event, {f"natterjack.{k}": _fit(v) for k, v in attributes.items()})

    def fail(self, cause: str) -> None:
        """Set the span's status to error."""
        self._span.set_status(trace.Status(trace.StatusCode.ERROR, cause))

    def end(self) -> None:
        """End the span. Call it once; a span that is not ended is not exported."""
        self._span.end()

    def headers(self) -> dict[str, str]:
        """Headers that make spans of a message's receiver children of this one."""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(self._span, _empty))
        return carrier


def _fit(value: Value) -> Value:
    # A string that cannot be encoded would make the export of the whole batch fail.
    return value[:_MAX_VALUE].encode(errors="replace").decode() if isinstance(value, str) else value


class _Ids(RandomIdGenerator):
    """Uses the session's trace ID for root spans."""

    next_trace_id = 0

    def generate_trace_id(self) -> int:
        return self.next_trace_id or super().generate_trace_id()


class Tracer:
    """Makes the spans of sessions. A thread of the SDK exports them."""

    def __init__(
        self,
        service: str,
        exporters: Sequence[SpanExporter],
        on_export: Callable[[bool], None],
    ) -> None:
        """`service` is the service name unless the OTEL_* variables set one.

        `on_export` is called in the SDK's thread after each export, with whether it succeeded.
        Raises exceptions of the SDK if the variables are invalid.
        """
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: service}))
        self._ids = _Ids()
        # The atexit handler of the SDK could wait for 30 s.
        self._provider = TracerProvider(
            resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        for exporter in exporters:
            self._provider.add_span_processor(
                BatchSpanProcessor(_ReportingExporter(exporter, on_export))
            )
        self._tracer = self._provider.get_tracer("natterjack")

    def session(
        self,
        kind: Literal["producer", "consumer"],
        session_id: str,
        headers: Mapping[str, str] | None = None,
        **attributes: Value,
    ) -> Span:
        """Start a span named `session`.

        It is a child of the trace context in `headers`, if that is valid. Otherwise it is a root;
        all roots of a session are in the same trace.
        """
        valid = {
            name: value
            for key, value in (headers or {}).items()
            if (name := key.lower()) in _HEADERS and len(value) <= _MAX_HEADER
        }
        context = _propagator.extract(valid, _empty)
        self._ids.next_trace_id = trace_id_of(session_id)
        try:
            span = self._tracer.start_span("session", context, trace.SpanKind[kind.upper()])
        finally:
            self._ids.next_trace_id = 0
        return Span(self._tracer, span).mark(session_id=session_id, **attributes)

    def close(self) -> None:
        """Export the ended spans. Blocks for up to 30 s."""
        self._provider.shutdown()


class _ReportingExporter(SpanExporter):
    """Wraps an exporter and reports the result of each export."""

    def __init__(self, exporter: SpanExporter, on_export: Callable[[bool], None]) -> None:
        self._exporter = exporter
        self._on_export = on_export

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        self._on_export(result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
