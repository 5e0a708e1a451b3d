"""Spans of sessions by OpenTelemetry's SDK. Only `tracing` imports this, and only if need be."""

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
"""Longer ones are ignored. W3C Trace Context asks for 512 of a tracestate; a traceparent has 55."""

Value = str | int | float | bool

_propagator = TraceContextTextMapPropagator()
_empty = Context()
"""Never the current one: what runs around a session is no business of its trace."""


def trace_id_of(session_id: str) -> int:
    """The trace of a session whose request brings no context: the same in every process that ever
    serves it. Hashed, since samplers take the bits for random."""
    return int.from_bytes(hashlib.sha256(session_id.encode()).digest()[:16], "big")


class Span:
    """A stretch of a session's life. Not for use in several threads."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    def child(self, name: str, **attributes: Value) -> Span:
        """A span inside this one, from now on."""
        inside = trace.set_span_in_context(self._span, _empty)
        return Span(self._tracer, self._tracer.start_span(name, inside)).mark(**attributes)

    def mark(self, **attributes: Value) -> Span:
        """Set attributes: `provider` is `natterjack.provider`. Texts are cut to 256 characters."""
        for name, value in attributes.items():
            self._span.set_attribute(f"natterjack.{name}", _fit(value))
        return self

    def note(self, event: str, **attributes: Value) -> None:
        """Something that happened at this moment."""
        self._span.add_event(event, {f"natterjack.{k}": _fit(v) for k, v in attributes.items()})

    def fail(self, cause: str) -> None:
        """What the span stands for went wrong."""
        self._span.set_status(trace.Status(trace.StatusCode.ERROR, cause))

    def end(self) -> None:
        """To be called once. A span that is not ended is never seen."""
        self._span.end()

    def headers(self) -> dict[str, str]:
        """What a message carries so that its reader's spans become children of this one."""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(self._span, _empty))
        return carrier


def _fit(value: Value) -> Value:
    # A text that cannot be encoded would cost the whole batch of spans.
    return value[:_MAX_VALUE].encode(errors="replace").decode() if isinstance(value, str) else value


class _Ids(RandomIdGenerator):
    """A root's trace id is its session's."""

    wanted = 0

    def generate_trace_id(self) -> int:
        return self.wanted or super().generate_trace_id()


class Tracer:
    """Makes the spans of sessions, and sends them off by a thread of the SDK's."""

    def __init__(
        self,
        service: str,
        exporters: Sequence[SpanExporter],
        told: Callable[[bool], None],
    ) -> None:
        """`service`: the service's name if the variables give none. `told` is called in the SDK's
        thread: whether an export succeeded. Raises what the SDK finds wrong with its variables."""
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: service}))
        self._ids = _Ids()
        # The SDK's own atexit handler would wait for 30 s.
        self._provider = TracerProvider(
            resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(_Watched(exporter, told)))
        self._tracer = self._provider.get_tracer("natterjack")

    def session(
        self,
        kind: Literal["producer", "consumer"],
        session_id: str,
        headers: Mapping[str, str] | None = None,
        **attributes: Value,
    ) -> Span:
        """A span `session`: a child of the context in `headers` if they hold a good one, else a
        root, in the one trace that all roots of this session are in."""
        found = {
            name: value
            for key, value in (headers or {}).items()
            if (name := key.lower()) in _HEADERS and len(value) <= _MAX_HEADER
        }
        context = _propagator.extract(found, _empty)
        self._ids.wanted = trace_id_of(session_id)
        try:
            span = self._tracer.start_span("session", context, trace.SpanKind[kind.upper()])
        finally:
            self._ids.wanted = 0
        return Span(self._tracer, span).mark(session_id=session_id, **attributes)

    def close(self) -> None:
        """Send what has ended, for 30 s at most. Blocks."""
        self._provider.shutdown()


class _Watched(SpanExporter):
    """An exporter whose outcomes are told."""

    def __init__(self, exporter: SpanExporter, told: Callable[[bool], None]) -> None:
        self._exporter = exporter
        self._told = told

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        self._told(result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
