"""Optional OpenTelemetry traces, which need the extra `otel`.

The standard OTEL_* variables turn them on; without them, OpenTelemetry is not imported. A problem
with traces is logged and never affects audio.
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
"""How long the export of the last spans may delay the end of a program."""
_SDK_LOGGER = "opentelemetry"

_current: Tracer | None = None


def current() -> Tracer | None:
    """The tracer of this process, or None if tracing is off."""
    return _current


@contextlib.contextmanager
def started(service: str) -> Iterator[None]:
    """Trace during the block if the OTEL_* variables ask for it.

    At the end of the block, the last spans are exported within 3 s; this blocks, so the event loop
    must have ended. `service` is the service name unless the variables set one. If tracing cannot
    start, a warning is logged.
    """
    global _current
    names = _exporter_names()
    if not names:
        yield
        return
    sdk_log = _SdkLog()
    _current = tracer = _make(service, names, sdk_log)
    try:
        yield
    finally:
        _current = None
        _close(tracer, sdk_log)


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def _exporter_names() -> list[str]:
    """Names of the requested exporters as in the SDK's entry points. Empty if tracing is off."""
    names = _variable("OTEL_TRACES_EXPORTER")
    if not names and any(map(_variable, _ENDPOINTS)):
        names = "otlp"
    if _variable("OTEL_SDK_DISABLED").lower() == "true":
        return []
    protocol = _variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
    protocol = protocol or _variable("OTEL_EXPORTER_OTLP_PROTOCOL")
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    stripped = [name.strip() for name in names.split(",")]
    return [otlp if name == "otlp" else name for name in stripped if name not in ("", "none")]


def _make(service: str, names: list[str], sdk_log: _SdkLog) -> Tracer | None:
    try:
        from .spans import Tracer
    except ImportError as error:
        log.warning("tracing is off: pip install 'natterjack[otel]' (%s)", error)
        return None
    try:
        points = metadata.entry_points(group="opentelemetry_traces_exporter")
        if unknown := [name for name in names if name not in points.names]:
            raise LookupError(f"no exporter {', '.join(unknown)} is installed")
        return Tracer(service, [points[name].load()() for name in names], sdk_log.exported)
    except Exception as error:  # noqa: BLE001 - a problem with traces must not stop the program
        log.warning("tracing is off: %s", error)
        return None
    finally:
        sdk_log.starting = False


def _close(tracer: Tracer | None, sdk_log: _SdkLog) -> None:
    def close() -> None:
        if tracer is not None:
            tracer.close()
        sdk_log.detach()

    closing = threading.Thread(target=close, name="close traces", daemon=True)
    closing.start()
    closing.join(_CLOSE_S)
    if closing.is_alive():
        sdk_log.exported(False)
    sdk_log.closed = True


class _SdkLog(logging.Handler):
    """Handles the SDK's log: passes it on at startup, later logs one line per outage."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.starting = True
        self.closed = False
        self._failing = False
        self._reason = ""
        """The first message since the last export; later messages are less specific."""

        logger = logging.getLogger(_SDK_LOGGER)
        logger.addHandler(self)
        logger.propagate = False

    def detach(self) -> None:
        """Stop handling the SDK's log. Called when the SDK has ended, maybe after the program."""
        logger = logging.getLogger(_SDK_LOGGER)
        logger.removeHandler(self)
        logger.propagate = not any(isinstance(handler, _SdkLog) for handler in logger.handlers)

    def emit(self, record: logging.LogRecord) -> None:
        if self.starting:
            log.warning("%s", record.getMessage())
        else:
            self._reason = self._reason or record.getMessage()

    def exported(self, success: bool) -> None:
        """Record the result of an export. Called in the SDK's thread."""
        reason, self._reason = self._reason or "the collector does not respond", ""
        if self.closed or success is not self._failing:
            return  # already logged
        self._failing = not success
        if success:
            log.info("traces are exported again")
        else:
            log.warning("traces are not exported: %s", reason)
