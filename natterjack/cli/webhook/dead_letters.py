"""`natterjack webhook dead-letters`: events that a webhook has given up."""

from __future__ import annotations

import argparse
import json
import sys

from natterjack.broker.buckets import broker_of
from natterjack.consume.dead_letters import DeadLetter, dead_letters
from natterjack.process.table import table
from natterjack.settings import BrokerSettings, add_flags
from natterjack.webhook.settings import WebhookSettings

_COLUMNS = ["REJECTED", "EVENT", "SESSION", "REASON"]
_SENDING = ("kinds", "from_start", "parallel", "http_host", "http_port")
"""Settings that only sending without end has."""


def add_to(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action `dead-letters` and its own actions."""
    dead = actions.add_parser(
        "dead-letters",
        help="events that were given up after a day",
        description="Show events that were given up after a day, or send them again.",
    )
    dead_actions = dead.add_subparsers(dest="dead_action", required=True, metavar="ACTION")
    listing = dead_actions.add_parser(
        "list",
        help="show dead letters, oldest first",
        description="Show dead letters, oldest first: when each was given up, and why.",
    )
    listing.add_argument("--json", action="store_true", help="print a line of JSON for each")
    sending = dead_actions.add_parser(
        "send",
        help="send dead letters again, oldest first",
        description="Send dead letters again, oldest first, and remove each that the receiver "
        "accepts. Their IDs are those of the first time. This needs a user with the role operator.",
        epilog="Exit status: 0 all were accepted; 1 one was not, and those after it were not sent; "
        "2 wrong usage, no connection to NATS, or the server refused.",
    )
    only_sending = ("url", "secret_file", "timeout_seconds", "allow_private", "ca")
    add_flags(listing, WebhookSettings, without=(*_SENDING, *only_sending))
    add_flags(sending, WebhookSettings, without=_SENDING)
    for action in (listing, sending):
        add_flags(action, BrokerSettings, "nats-")


async def send(flags: argparse.Namespace, settings: WebhookSettings) -> int:
    """Send dead letters again. Raises UsageError, BrokerError, NotSent; ImportError without the
    extra."""
    from natterjack.webhook.resend import send_again
    from natterjack.webhook.sender import Sender

    sender = Sender(settings)  # its mistakes are reported before connecting
    async with broker_of(flags, "natterjack-webhook") as broker:
        sent, left = await send_again(broker, sender, settings)
    print(f"{sent} sent" + (f", {left} left, which cannot be sent" if left else ""))
    return 0


async def show(flags: argparse.Namespace, settings: WebhookSettings) -> int:
    """List dead letters. Raises UsageError, BrokerError."""
    key = (settings.tenant, settings.conversation, settings.speaker)
    async with broker_of(flags, "natterjack-webhook") as broker:
        letters = [letter async for letter in dead_letters(settings.name, *key, broker=broker)]
    if flags.json:
        for letter in letters:
            print(json.dumps(_as_json(letter)))
    elif letters:
        print(*table([_COLUMNS, *map(_row, letters)]), sep="\n")
    else:
        print(f"no dead letters of {settings.name}", file=sys.stderr)
    return 0


def _row(letter: DeadLetter) -> list[str]:
    event = letter.event
    where = (f"{event.id}", f"{event.key}") if event else (f"at {letter.position}", "")
    return [f"{letter.rejected_at:%Y-%m-%d %H:%M:%S}", *where, letter.reason]


def _as_json(letter: DeadLetter) -> dict[str, object]:
    event = letter.event
    return {
        "id": event.id if event else None,
        "reason": letter.reason,
        "attempts": letter.attempt,
        "rejected_at": letter.rejected_at.isoformat(),
        "position": letter.position,
        "event": event.raw if event else None,
    }
