"""All checks of an installation, in the order in which they are shown."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from natterjack.broker.connection import Broker, connect
from natterjack.errors import BrokerError
from natterjack.settings import BrokerSettings

from . import installation, machine, providers
from .finding import Check, Finding, examined, skipped

_NAME = "natterjack-doctor"
_OF_JETSTREAM = ("streams", "workers", "clock")
_OF_BROKER = ("jetstream", "streams", "rights", "workers", "clock")


async def examine(
    settings: BrokerSettings, environment: Mapping[str, str], timeout_seconds: float
) -> list[Finding]:
    """Run all checks, each for `timeout_seconds` at most."""
    here: list[Check] = [
        ("python", machine.python),
        ("natterjack", machine.packages),
        ("variables", partial(machine.variables, environment)),
        ("ffmpeg", machine.ffmpeg),
        ("sound", machine.sound),
        ("disk", partial(machine.disk, environment)),
        ("ports", partial(machine.ports, environment)),
    ]
    elsewhere: list[Check] = [
        ("gateway", partial(installation.gateway, environment)),
        *providers.checks(environment),
    ]
    found = await asyncio.gather(
        *(examined(check, timeout_seconds) for check in here),
        _of_broker(settings, timeout_seconds),
        *(examined(check, timeout_seconds) for check in elsewhere),
    )
    return [finding for findings in found for finding in findings]


async def _of_broker(settings: BrokerSettings, timeout_seconds: float) -> list[Finding]:
    """The checks that need the broker, one after another on one connection."""
    connections: list[Broker] = []

    async def connecting() -> list[Finding]:
        try:
            connections.append(await connect(settings, name=_NAME, once=True))
        except BrokerError as error:
            return [installation.unreachable(error, settings)]
        return [await installation.Installation(connections[0], settings).server()]

    findings = await examined(("broker", connecting), timeout_seconds)
    if not connections:
        return [*findings, *(skipped(name, "there is no connection") for name in _OF_BROKER)]
    broker = connections[0]
    try:
        checks = installation.Installation(broker, settings)
        for name in _OF_BROKER:
            if name in _OF_JETSTREAM and findings[1].state == "failed":
                findings.append(skipped(name, "there is no JetStream"))
            else:
                findings += await examined((name, getattr(checks, name)), timeout_seconds)
    finally:
        await broker.close()
    return findings
