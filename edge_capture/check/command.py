"""The command `natterjack-edge check`: what is checked, and its report."""

from __future__ import annotations

import argparse
import logging
import os

from natterjack.doctor.report import report
from natterjack.settings import BrokerSettings, load

from ..fleet.name import agent_name
from ..session import make_keys
from ..settings import (
    EdgeSettings,
    FleetSettings,
    MicrophoneSettings,
    SpoolSettings,
    check_variables,
)
from ..sources import Source
from .inputs import Input
from .run import Agent, examine


async def run(flags: argparse.Namespace) -> int:
    """Run the command. Returns the exit status. Raises: UsageError."""
    agent = of_microphone(flags)
    logging.disable(logging.ERROR)  # the findings say it, too
    try:
        findings = await examine(agent, flags.listen, flags.timeout)
    finally:
        logging.disable(logging.NOTSET)
    return report(findings, as_json=flags.json)


def of_microphone(flags: argparse.Namespace) -> Agent:
    """What `natterjack-edge mic` would use with these flags. Raises: UsageError."""
    edge = load(EdgeSettings, flags)
    keys = make_keys(edge)
    microphone = load(MicrophoneSettings, flags).model_copy(update={"device_wait_seconds": 0})
    channels = len(keys) if edge.split_channels is not None else None

    async def opened() -> Source:
        from ..sources.microphone import MicrophoneSource

        return MicrophoneSource(microphone, channels)

    broker = load(BrokerSettings, flags)
    return Agent(
        name=agent_name(load(FleetSettings, flags), edge.tenant, broker),
        broker=broker,
        spool=load(SpoolSettings, flags),
        keys=tuple((key.tenant, key.speaker) for key in keys),
        inputs=() if flags.no_input else (Input("", opened, channels is not None),),
        unknown=tuple(str(each) for each in check_variables(flags, os.environ)),
    )
