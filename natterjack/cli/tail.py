"""`natterjack tail`: transcripts as they arrive, as captions or as JSON."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import sys
from collections.abc import AsyncIterator, Callable

from natterjack.broker.connection import Broker, connected
from natterjack.consume.captions import Captions
from natterjack.consume.listener import listen
from natterjack.decoding import AnyEvent
from natterjack.errors import NatterjackError, ungrouped
from natterjack.settings import BrokerSettings, add_flags, load
from natterjack.speaking.events import VoiceEvents
from natterjack.subjects import transcript_filter
from natterjack.voice.events import VoiceEvent


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `tail`."""
    command = commands.add_parser(
        "tail",
        help="show transcripts as they arrive",
        description="Show transcripts as they arrive, until Ctrl-C.",
        epilog="Each line has the start of the final in its session, conversation and speaker, and "
        "the tenant too once there are several. On a terminal, a row below the finals shows what "
        "each open session says now; with TERM=dumb, and in a file or pipe, there are only lines, "
        "without control characters. NO_COLOR turns dim text off. With --voice, what a voice "
        "session said is a line with `says`; what was not heard of it is in brackets.",
    )
    for name in ("tenant", "conversation", "speaker"):
        command.add_argument(f"--{name}", help=f"show only this {name}")
    command.add_argument("--from-start", action="store_true", help="show stored finals first")
    command.add_argument(
        "--voice", action="store_true", help="also show what voice sessions say, and their states"
    )
    command.add_argument("--json", action="store_true", help="show every event as a line of JSON")
    add_flags(command, BrokerSettings, "nats-")


async def run(flags: argparse.Namespace) -> int:
    """Run the command until canceled. Raises UsageError, BrokerError."""
    transcript_filter(flags.tenant, flags.conversation, flags.speaker)  # before connecting
    if isinstance(sys.stdout, io.TextIOWrapper):  # transcripts may be in any script
        sys.stdout.reconfigure(encoding="utf-8" if flags.json else None, errors="replace")
    async with connected(load(BrokerSettings, flags), name="natterjack-tail", once=True) as broker:
        with Captions() as captions:

            def show(event: AnyEvent | VoiceEvent) -> None:
                if flags.json:
                    print(event.encode().decode(), flush=True)
                else:
                    captions.show(event)

            await _follow(broker, flags, show)
    return 0


async def _follow(
    broker: Broker, flags: argparse.Namespace, show: Callable[[AnyEvent | VoiceEvent], None]
) -> None:
    """Show events without end, in the order in which they arrive."""
    key = (flags.tenant, flags.conversation, flags.speaker)

    async def transcripts() -> None:
        since = "start" if flags.from_start else None
        async with contextlib.aclosing(listen(*key, since=since, broker=broker)) as source:
            await _show_all(source, show)

    async def speech() -> None:
        async with (
            broker.raising_refusals(),
            VoiceEvents(broker, *key, from_start=flags.from_start) as source,
        ):
            await _show_all(source, show)

    with ungrouped(NatterjackError, OSError):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(transcripts(), name="transcripts")
            if flags.voice:
                tasks.create_task(speech(), name="speech")


async def _show_all(
    events: AsyncIterator[AnyEvent | VoiceEvent], show: Callable[[AnyEvent | VoiceEvent], None]
) -> None:
    async for event in events:
        show(event)
