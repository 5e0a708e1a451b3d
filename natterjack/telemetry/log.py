"""Logging of all programs: key=value lines on a terminal, JSON lines elsewhere."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from natterjack.process.terminal import escaped
from natterjack.settings import LogSettings


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """The `extra` argument of a log call: fields of the line, as JSON members or key=value."""
    return {"fields": values}


_NONE: Mapping[str, Any] = MappingProxyType({})
_BOUND: ContextVar[Mapping[str, Any]] = ContextVar("fields", default=_NONE)


def bind(**values: Any) -> None:
    """Add fields to every line that the present task logs from now on, and the tasks that it
    starts. A line's own fields precede them."""
    _BOUND.set(MappingProxyType({**_BOUND.get(), **values}))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {**_BOUND.get(), **getattr(record, "fields", {})}


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        values = "".join(f" {k}={v}" for k, v in _fields(record).items())
        line = f"{clock} {record.levelname.lower():7} {record.getMessage()}{values}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        # Some text comes from others: messages of providers, names of devices, subjects.
        return escaped(line)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(settings: LogSettings) -> None:
    """Configure the root logger to write to standard error."""
    text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(_Text() if text else _Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    # nats-py logs each failed attempt with a traceback; broker.connection logs it in one line.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(_relevant)


def _relevant(record: logging.LogRecord) -> bool:
    """Drop the warning that asyncio logs whenever a TLS connection is closed."""
    return not record.getMessage().startswith("returning true from eof_received()")
