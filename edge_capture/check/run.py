"""All checks of an agent, in the order in which they are shown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from natterjack.doctor.finding import Finding, examined, ok, warning
from natterjack.settings import BrokerSettings

from ..settings import SpoolSettings
from . import broker, certificates, disk, inputs, network


@dataclass(frozen=True)
class Agent:
    """The settings of an agent, as they are checked."""

    name: str
    broker: BrokerSettings
    spool: SpoolSettings
    keys: tuple[tuple[str, str], ...]
    """The tenant and the speaker of each session, without repetitions."""
    inputs: tuple[inputs.Input, ...]
    unknown: tuple[str, ...] = ()
    """Variables and keys that are no settings, in words."""


async def examine(agent: Agent, listen_seconds: float, timeout_seconds: float) -> list[Finding]:
    """Run all checks, each for `timeout_seconds` at most, beyond the time for listening."""
    identity, files = certificates.credentials(agent.broker)
    ways = network.checks(agent.broker.url, identity.tls if identity else None)
    heard, here, there, behind = await asyncio.gather(
        _heard(agent.inputs, listen_seconds),
        asyncio.to_thread(disk.spool, agent.spool),
        asyncio.gather(*(examined(check, timeout_seconds) for check in ways)),
        broker.examine(agent.broker, agent.name, agent.keys, timeout_seconds),
    )
    return [
        settings(agent.unknown),
        *heard,
        *here,
        *(finding for findings in there for finding in findings),
        *files,
        *behind,
    ]


def settings(unknown: Sequence[str]) -> Finding:
    """Report the variables and keys that have no effect because they are not settings."""
    if not unknown:
        return ok("settings", "all variables and keys are known")
    return warning("settings", "; ".join(unknown), "correct the names, or remove them")


async def _heard(sources: Sequence[inputs.Input], seconds: float) -> list[Finding]:
    """Listen to one source after another: PortAudio supports one thread at a time."""
    found: list[Finding] = []
    for source in sources:
        found += await inputs.examine(source, seconds)
    return found
