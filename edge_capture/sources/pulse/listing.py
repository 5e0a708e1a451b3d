"""The sources of the sound server."""

from __future__ import annotations

import time
from typing import Any

from ..choice import DEFAULT, PULSE, Device
from .client import Client, PulseError
from .library import INVALID, ServerInfoFunction, SourceInfoFunction, library

_TIMEOUT_S = 2.0


def list_sources(timeout_s: float = _TIMEOUT_S) -> list[Device] | None:
    """Return the sources of the sound server, monitors last, or None if there is no server that
    answers within `timeout_s`. To be called in any thread."""
    if library() is None:
        return None
    deadline = time.monotonic() + timeout_s
    client = None
    try:
        client = Client()
        client.run_until(lambda: client.ready, deadline)
        return _listed(client, deadline)
    except PulseError:
        return None
    finally:
        if client is not None:
            client.close()


def default_source(sources: list[Device]) -> Device | None:
    """Return what stands for the server's default source, which may change while it is recorded.

    None if there are only monitors, of which the server makes one the default for want of anything
    better: it would be recorded as silence.
    """
    if all(source.monitor for source in sources):
        return None
    chosen = next((source for source in sources if source.default), sources[0])
    return Device(None, DEFAULT, PULSE, chosen.channels, chosen.sample_rate, default=True)


def _listed(client: Client, deadline: float) -> list[Device]:
    pulse, found = client.pulse, list[Device]()
    default, finished = [""], list[bool]()

    def take_server(_context: Any, info: Any, _: Any) -> None:
        if info:
            default[0] = _text(info.contents.default_source_name)

    def take_source(_context: Any, info: Any, end: int, _: Any) -> None:
        if end:
            finished.append(True)
            return
        each = info.contents
        name = _text(each.name)
        found.append(
            Device(
                None, name, PULSE, each.sample_spec.channels, each.sample_spec.rate,
                default=name == default[0], description=_text(each.description),
                monitor=each.monitor_of_sink != INVALID,
            )
        )  # fmt: skip

    server, source = ServerInfoFunction(take_server), SourceInfoFunction(take_source)
    for operation in (
        pulse.pa_context_get_server_info(client.context, server, None),
        pulse.pa_context_get_source_info_list(client.context, source, None),
    ):
        if operation:
            pulse.pa_operation_unref(operation)
    client.run_until(lambda: bool(finished) or not client.ready, deadline)
    return sorted(found, key=lambda device: device.monitor)


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
