"""Tracing of a session at the edge: one span from its request to the end of publishing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from natterjack.spec import SessionSpec
from natterjack.telemetry import tracing

if TYPE_CHECKING:
    from natterjack.telemetry.spans import Span


class PublishTrace:
    """One session's span. Does nothing when tracing is off."""

    def __init__(self, spec: SessionSpec) -> None:
        self._spec = spec
        self._span: Span | None = None
        self._headers: dict[str, str] | None = None

    def open(self) -> Mapping[str, str]:
        """Start the span and return the trace headers for the session's request.

        Later calls return the same headers.
        """
        if self._headers is None:
            self._headers = {}
            if (tracer := tracing.current()) is not None:
                spec = self._spec
                self._span = tracer.session(
                    "producer",
                    spec.session_id,
                    session=str(spec.key),
                    tenant=spec.tenant,
                    format=f"{spec.encoding}, {spec.sample_rate} Hz, {spec.channels} channels",
                )
                self._headers = self._span.headers()
        return self._headers

    def end(self, *, chunks: int, resent: int, stored: bool) -> None:
        """End the span, once nothing more will be sent. Only the first call counts."""
        if self._span is None:
            return
        self._span.mark(chunks=chunks, resent=resent)
        if not stored:
            self._span.fail("not all is stored")
        self._span.end()
        self._span = None
