"""`natterjack tail`: transcripts as they arrive, as captions or as JSON."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys

from natterjack.broker.connection import connected
from natterjack.consume.captions import Captions
from natterjack.consume.listener import listen
from natterjack.settings import BrokerSettings, add_flags, load
from natterjack.subjects import transcript_filter


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `tail`."""
    command = commands.add_parser(
        "tail",
        help="show transcripts as they arrive",
        description="Show transcripts as they arrive, until Ctrl-C.",
        epilog="Each line has the start of the final in its session, conversation and speaker, and "
        "the tenant too once there are several. On a terminal, a row below the finals shows what "
        "each open session says now; with TERM=dumb, and in a file or pipe, there are only lines, "
        "without control characters. NO_COLOR turns dim text off.",
    )
    for name in ("tenant", "conversation", "speaker"):
        command.add_argument(f"--{name}", help=f"show only this {name}")
    command.add_argument("--from-start", action="store_true", help="show stored finals first")
    command.add_argument("--json", action="store_true", help="show every event as a line of JSON")
    add_flags(command, BrokerSettings, "nats-")


async def run(flags: argparse.Namespace) -> int:
    """Run the command until canceled. Raises UsageError, BrokerError."""
    transcript_filter(flags.tenant, flags.conversation, flags.speaker)  # before connecting
    if isinstance(sys.stdout, io.TextIOWrapper):  # transcripts may be in any script
        sys.stdout.reconfigure(encoding="utf-8" if flags.json else None, errors="replace")
    async with connected(load(BrokerSettings, flags), name="natterjack-tail", once=True) as broker:
        source = listen(
            flags.tenant,
            flags.conversation,
            flags.speaker,
            from_start=flags.from_start,
            broker=broker,
        )
        async with broker.raising_refusals(), contextlib.aclosing(source):  # type: ignore[type-var]
            with Captions() as captions:
                async for event in source:
                    if flags.json:
                        print(event.encode().decode(), flush=True)
                    else:
                        captions.show(event)
    return 0
