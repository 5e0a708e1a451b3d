"""The command `natterjack-edge check`: what is checked, and its report."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os

from natterjack.doctor.report import report
from natterjack.settings import BrokerSettings, load

from ..fleet.name import agent_name
from ..session import make_keys
from ..settings import (
    ConversationSettings,
    EdgeSettings,
    FleetSettings,
    MicrophoneSettings,
    SpoolSettings,
    check_variables,
)
from ..sources import Source
from .inputs import MICROPHONE_CURE, Input
from .run import Agent, examine


async def run(flags: argparse.Namespace) -> int:
    """Run the command. Returns the exit status. Raises: UsageError."""
    agent = agent_of_microphone(flags) if flags.config is None else _configured_agent(flags)
    logging.disable(logging.ERROR)  # the findings say it, too
    try:
        findings = await examine(agent, flags.listen, flags.timeout)
    finally:
        logging.disable(logging.NOTSET)
    return report(findings, as_json=flags.json)


def _configured_agent(flags: argparse.Namespace) -> Agent:
    from .configured import agent_of_config

    conversation = load(ConversationSettings, flags)
    tenant = conversation.tenant if "tenant" in conversation.model_fields_set else None
    unknown = tuple(str(each) for each in check_variables(flags, os.environ))
    agent = agent_of_config(flags.config, load(FleetSettings, flags), tenant, unknown)
    return dataclasses.replace(agent, inputs=()) if flags.no_input else agent


def agent_of_microphone(flags: argparse.Namespace) -> Agent:
    """Return the agent that `natterjack-edge mic` would run with these flags. Raises:
    UsageError."""
    edge = load(EdgeSettings, flags)
    keys = make_keys(edge)
    microphone = load(MicrophoneSettings, flags).model_copy(update={"device_wait_seconds": 0})
    channels = len(keys) if edge.split_channels is not None else None

    async def opened() -> Source:
        from ..sources.microphone import MicrophoneSource

        source = MicrophoneSource(microphone, channels)
        await source.open()
        return source

    broker = load(BrokerSettings, flags)
    return Agent(
        name=agent_name(load(FleetSettings, flags), edge.tenant, broker),
        broker=broker,
        spool=load(SpoolSettings, flags),
        keys=tuple((key.tenant, key.speaker) for key in keys),
        inputs=()
        if flags.no_input
        else (Input("", opened, channels is not None, MICROPHONE_CURE),),
        unknown=tuple(str(each) for each in check_variables(flags, os.environ)),
    )
