"""`natterjack webhook`: send events to an HTTP server, and look after dead letters."""

from __future__ import annotations

import argparse
import logging

from natterjack.process.start import requires_extra
from natterjack.settings import BrokerSettings, add_flags, load
from natterjack.webhook.settings import WebhookSettings

from . import dead_letters

log = logging.getLogger(__name__)

_NAME, _EXTRA = "natterjack webhook", "webhook"


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `webhook` and its actions."""
    command = commands.add_parser(
        "webhook",
        help="send events to an HTTP server",
        description="Send events to an HTTP server, each as a POST request that is signed as "
        "Standard Webhooks says, until SIGTERM or Ctrl-C. What the server does not accept is sent "
        "again, for a day; events of one session arrive in order. What was sent is remembered on "
        "the broker, so a process that is started again continues.",
        epilog="Exit status: 0 stopped by SIGTERM or Ctrl-C; 2 wrong usage, or the NATS server "
        "refused; 130 after a second Ctrl-C. This needs natterjack[webhook].",
    )
    add_flags(command, WebhookSettings)
    add_flags(command, BrokerSettings, "nats-")
    actions = command.add_subparsers(dest="action", metavar="ACTION")
    dead_letters.add_to(actions)


async def run(flags: argparse.Namespace) -> int:
    """Run the command and return the exit status. Raises UsageError, BrokerError, NotSent."""
    settings = load(WebhookSettings, flags)
    if flags.action is None:
        with requires_extra(_NAME, _EXTRA):
            from natterjack.webhook import run as webhook
        return await webhook.run(settings, load(BrokerSettings, flags))
    if flags.dead_action == "send":
        with requires_extra(_NAME, _EXTRA):
            return await dead_letters.send(flags, settings)
    return await dead_letters.show(flags, settings)
