"""The trace of a lease: a span from claiming a session to giving it up, with its steps inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from natterjack.spec import SessionSpec
from natterjack.telemetry import tracing
from natterjack.voice.spec import VoiceSpec

if TYPE_CHECKING:
    from natterjack.telemetry.spans import Span

_ENDS = {"CLOSED", "FAILED", "HANDED_OVER", "LOST"}


class NoTrace:
    """Does nothing: tracing is off."""

    def moved(self, state: str, details: Mapping[str, Any]) -> None:
        """Note the session's new state, by the name of a `State`, with the logged details."""

    def fault(self, cause: str) -> None:
        """Note that the current step has failed; `cause` is a metric label."""

    def end(self, outcome: str) -> None:
        """End the trace; `aborted` is the outcome of an error. Only the first call counts."""

    def drop(self) -> None:
        """Discard the trace: nothing was done under this lease."""


class LeaseTrace(NoTrace):
    """The spans of one lease. `claim`, `connect` and `finish` follow one another; `recover` lasts
    from the first fault until a provider stream is open again, alongside failed attempts to
    connect."""

    def __init__(self, span: Span, epoch: int, worker: str) -> None:
        self._span: Span | None = span.mark(epoch=epoch, worker=worker)
        # Repeated here, because the lease's own span is lost if the worker is killed.
        self._step: Span | None = span.child("claim", epoch=epoch, worker=worker)
        self._recovery: Span | None = None
        self._faults = 0
        self._cause = "request"
        """The cause of the last fault; a session that fails without one had a bad request."""

    def moved(self, state: str, details: Mapping[str, Any]) -> None:
        if self._span is None:
            return
        if state == "STREAMING" and self._step is not None and (ref := details.get("reference")):
            self._step.mark(reference=str(ref))
        if state == "FAILED":
            for span in (self._span, self._recovery):
                if span is not None:
                    span.mark(cause=self._cause).fail(self._cause)
        self._end_step()
        if state == "STREAMING":
            self._end_recovery()
        elif state == "CONNECTING":
            self._step = self._span.child("connect", provider=str(details.get("provider")))
        elif state == "FINISHING":
            self._step = self._span.child("finish")
        elif state in _ENDS:
            self.end(state.lower())

    def fault(self, cause: str) -> None:
        if self._span is None:
            return
        self._cause = cause
        if self._step is not None:
            self._step.mark(cause=cause).fail(cause)
        self._end_step()
        if self._recovery is None:
            self._recovery, self._faults = self._span.child("recover", cause=cause), 1
        else:
            self._faults += 1
            self._recovery.note("fault", cause=cause)

    def end(self, outcome: str) -> None:
        self._end_step()
        self._end_recovery()
        if self._span is not None:
            if outcome == "aborted":
                self._span.fail(outcome)
            self._span.mark(outcome=outcome).end()
            self._span = None

    def drop(self) -> None:
        self._span = self._step = self._recovery = None

    def _end_step(self) -> None:
        if self._step is not None:
            self._step.end()
            self._step = None

    def _end_recovery(self) -> None:
        if self._recovery is not None:
            self._recovery.mark(faults=self._faults).end()
            self._recovery = None


def lease_trace(
    spec: SessionSpec | VoiceSpec, epoch: int, worker: str, headers: Mapping[str, str] | None
) -> NoTrace:
    """Start the trace of a lease; `headers` are those of the session's request."""
    tracer = tracing.current()
    if tracer is None:
        return NoTrace()
    span = tracer.session(
        "consumer",
        spec.session_id,
        headers,
        session=str(spec.key),
    )
    return LeaseTrace(span, epoch, worker)
