"""`natterjack registrar`: enrolls edges and renews their credentials."""

from __future__ import annotations

import argparse

from natterjack.enrollment.settings import RegistrarSettings
from natterjack.process.start import requires_extra
from natterjack.settings import BrokerSettings, add_flags, load


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `registrar`."""
    command = commands.add_parser(
        "registrar",
        help="enroll edges that have an invitation, and renew their credentials",
        description="Enroll edges that have a token of `natterjack edges invite`, and renew their "
        "credentials, until Ctrl-C or SIGTERM. It needs a broker with JWTs (`natterjack users "
        "config --jwt`), a user with the role registrar, and the key jwt/edges.nk, which can sign "
        "users with the permissions of an edge and no others. Several may run.",
        epilog="Exit status: 0 stopped; 2 wrong usage, or the key cannot be read. This needs "
        "natterjack[registrar].",
    )
    add_flags(command, RegistrarSettings)
    add_flags(command, BrokerSettings, "nats-")


async def run(flags: argparse.Namespace) -> int:
    """Run the registrar and return the exit status. Raises UsageError, BrokerError."""
    with requires_extra("natterjack registrar", "registrar"):
        from natterjack.enrollment.run import run as run_registrar
    return await run_registrar(load(RegistrarSettings, flags), load(BrokerSettings, flags))
