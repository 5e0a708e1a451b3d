"""Builds the agent that `natterjack-edge check --config` checks, from a configuration file."""

from __future__ import annotations

from pathlib import Path

from ..config.load import read_config
from ..config.models import CommandTable, MicrophoneTable, PipeTable, SourceTable, StreamTable
from ..settings import FleetSettings
from ..sources import Source
from ..sources.pipe import check_pipe
from ..supervisor.opening import open_source
from ..supervisor.plans import broker_settings, spool_settings
from ..supervisor.supervisor import host_name
from .inputs import MICROPHONE_CURE, Input, NotListenedTo
from .run import Agent

_WAIT_S = 5.0
"""How long a stream or a program is waited for."""


def agent_of_config(
    path: Path, fleet: FleetSettings, tenant: str | None, unknown: tuple[str, ...]
) -> Agent:
    """Return the agent that `natterjack-edge run --config PATH` would run. `tenant` takes
    precedence over the tenant in the file.

    Raises: UsageError.
    """
    config = read_config(path, agent=fleet.agent, tenant=tenant, host=host_name())
    keys = dict.fromkeys(
        (config.tenant, speaker) for source in config.sources for speaker in source.speakers
    )
    return Agent(
        name=config.agent,
        broker=broker_settings(config),
        spool=spool_settings(config),
        keys=tuple(keys),
        inputs=tuple(map(_input, config.sources)),
        unknown=unknown,
    )


def _input(table: SourceTable) -> Input:
    if isinstance(table, MicrophoneTable):
        table = table.model_copy(update={"device_wait_seconds": 0})
    elif isinstance(table, StreamTable | CommandTable):
        table = table.model_copy(update={"wait_seconds": _WAIT_S})

    async def opened() -> Source:
        if isinstance(table, PipeTable):
            if str(table.path) != "-":
                check_pipe(table.path)
            raise NotListenedTo(f"{table.path}: a check would take its audio from the agent")
        return await open_source(table)

    split = table.split_channels is not None
    if isinstance(table, MicrophoneTable):
        return Input(table.name, opened, split, MICROPHONE_CURE)
    return Input(table.name, opened, split)
