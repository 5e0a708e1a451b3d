"""OpenTelemetry traces, for those who want them: the extra `otel`, and a collector to send them to.

Switched on by the standard OTEL_* variables alone; without them OpenTelemetry is not even imported.
Whatever goes wrong with traces costs a line in the log, and no sound.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .spans import Tracer

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CLOSE_S = 3.0
"""How long the last spans may hold up the end of a program."""
_SDK_LOGGER = "opentelemetry"

_current: Tracer | None = None


def current() -> Tracer | None:
    """The process's tracer, or None: tracing is off."""
    return _current


@contextlib.contextmanager
def started(service: str) -> Iterator[None]:
    """Trace as the OTEL_* variables say. At the end, when no event loop is to run any more, the
    last spans have 3 s to leave.

    `service` is the service's name if the variables give none. Raises nothing: a warning says why
    there will be no traces.
    """
    global _current
    names = _exporter_names()
    if not names:
        yield
        return
    notes = _Notes()
    _current = tracer = _make(service, names, notes)
    try:
        yield
    finally:
        _current = None
        _close(tracer, notes)


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def _exporter_names() -> list[str]:
    """The exporters that are wanted, as the SDK's entry points call them. Empty: tracing is off."""
    names = _variable("OTEL_TRACES_EXPORTER")
    if not names and any(map(_variable, _ENDPOINTS)):
        names = "otlp"
    if _variable("OTEL_SDK_DISABLED").lower() == "true":
        return []
    protocol = _variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
    protocol = protocol or _variable("OTEL_EXPORTER_OTLP_PROTOCOL")
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    found = [name.strip() for name in names.split(",")]
    return [otlp if name == "otlp" else name for name in found if name not in ("", "none")]


def _make(service: str, names: list[str], notes: _Notes) -> Tracer | None:
    try:
        from .spans import Tracer
    except ImportError as error:
        log.warning("traces need an extra: pip install 'natterjack[otel]' (%s)", error)
        return None
    try:
        points = metadata.entry_points(group="opentelemetry_traces_exporter")
        if unknown := [name for name in names if name not in points.names]:
            raise LookupError(f"no exporter {', '.join(unknown)} is installed")
        return Tracer(service, [points[name].load()() for name in names], notes.told)
    except Exception as error:  # noqa: BLE001 - whatever it is, sound does not wait for traces
        log.warning("there will be no traces: %s", error)
        return None
    finally:
        notes.starting = False


def _close(tracer: Tracer | None, notes: _Notes) -> None:
    def close() -> None:
        if tracer is not None:
            tracer.close()
        notes.end()

    closing = threading.Thread(target=close, name="close traces", daemon=True)
    closing.start()
    closing.join(_CLOSE_S)
    if closing.is_alive():
        notes.told(False)
    notes.closed = True


class _Notes(logging.Handler):
    """What the SDK logs: at the start as it comes, later a line an outage."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.starting = True
        self.closed = False
        self._failing = False
        self._reason = ""
        """The first complaint since the last export ended: the later ones are vaguer."""

        logger = logging.getLogger(_SDK_LOGGER)
        logger.addHandler(self)
        logger.propagate = False

    def end(self) -> None:
        """The SDK is at rest: it may have gone on, unheard, after the program was done with it."""
        logger = logging.getLogger(_SDK_LOGGER)
        logger.removeHandler(self)
        logger.propagate = not any(isinstance(handler, _Notes) for handler in logger.handlers)

    def emit(self, record: logging.LogRecord) -> None:
        if self.starting:
            log.warning("%s", record.getMessage())
        else:
            self._reason = self._reason or record.getMessage()

    def told(self, exported: bool) -> None:
        """How an export ended. Called in the SDK's thread."""
        reason, self._reason = self._reason or "the collector does not answer", ""
        if self.closed or exported is not self._failing:
            return  # known
        self._failing = not exported
        if exported:
            log.info("traces are exported again")
        else:
            log.warning("traces are not exported: %s", reason)
