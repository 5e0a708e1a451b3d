"""The `natterjack` command: try it, run it for development, look at what it says."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Awaitable
from importlib.metadata import version
from pathlib import Path

from natterjack.broker.connection import connected
from natterjack.consume.captions import Captions
from natterjack.consume.listener import listen
from natterjack.errors import BrokerError, NatterjackError, UsageError
from natterjack.local.demo import demo
from natterjack.local.up import up
from natterjack.settings import BrokerSettings, LogSettings, add_flags, load
from natterjack.subjects import transcript_filter
from natterjack.telemetry import log as logs

from . import (
    budget as budget_command,
)
from . import (
    erase as erase_command,
)
from . import (
    limits as limits_command,
)
from . import (
    plugins as plugin_list,
)
from . import (
    sessions as sessions_command,
)
from . import (
    streams as streams_command,
)
from . import (
    users as users_command,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="natterjack",
        description="Live sound into live transcripts over NATS. The programs that do the work "
        "are natterjack-edge (captures) and natterjack-worker (transcribes).",
        epilog="Exit status: 0 well, 1 it ran and failed, 2 wrong usage or no NATS.",
    )
    parser.add_argument("--version", action="version", version=version("natterjack"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "demo", help="everything from nothing: broker, worker, edge, captions"
    )
    command.add_argument("path", nargs="?", type=Path, help="a recording; else a bundled one")
    command.add_argument("--mic", action="store_true", help="listen to the microphone")
    command.add_argument("--device", help="microphone, by number or part of its name")
    command.add_argument("--provider", help="instead of the embedded engine")
    command.add_argument("--store", type=Path, help="directory for logs and the broker's store")

    command = commands.add_parser("up", help="keep a broker and workers running, for development")
    command.add_argument("--workers", type=int, default=1, help="how many (1)")
    command.add_argument("--provider", help="instead of the embedded engine")
    command.add_argument("--port", type=int, default=0, help="of NATS (4222 if free)")
    command.add_argument("--store", type=Path, help="directory for logs and the broker's store")

    command = commands.add_parser("tail", help="show transcripts as they come")
    for name in ("tenant", "conversation", "speaker"):
        command.add_argument(f"--{name}", help="only this one")
    command.add_argument("--from-start", action="store_true", help="stored finals first")
    command.add_argument("--json", action="store_true", help="every event, one JSON line each")
    add_flags(command, BrokerSettings, "nats-")

    command = commands.add_parser("plugins", help="installed providers and their settings")
    command.add_argument("--json", action="store_true", help="as JSON")
    budget_command.add_to(commands)
    limits_command.add_to(commands)
    sessions_command.add_to(commands)
    streams_command.add_to(commands)
    erase_command.add_to(commands)
    users_command.add_to(commands)
    for command in commands.choices.values():
        add_flags(command, LogSettings)
    return parser


async def _tail(flags: argparse.Namespace) -> int:
    captions = Captions()
    transcript_filter(flags.tenant, flags.conversation, flags.speaker)  # a bad one is said first
    async with connected(load(BrokerSettings, flags), name="natterjack-tail", once=True) as broker:
        source = listen(
            flags.tenant,
            flags.conversation,
            flags.speaker,
            from_start=flags.from_start,
            broker=broker,
        )
        async with broker.allowed(), contextlib.aclosing(source):  # type: ignore[type-var]
            async for event in source:
                if flags.json:
                    print(event.encode().decode(), flush=True)
                else:
                    captions.show(event)
    return 0


def _chosen(flags: argparse.Namespace) -> Awaitable[int]:
    if flags.command == "demo":
        return demo(
            flags.path,
            microphone=flags.mic,
            device=flags.device,
            provider=flags.provider,
            directory=flags.store,
        )
    if flags.command == "up":
        return up(
            workers=flags.workers,
            provider=flags.provider,
            directory=flags.store,
            port=flags.port,
        )
    if flags.command == "budget":
        return budget_command.run(flags)
    if flags.command == "limits":
        return limits_command.run(flags)
    if flags.command == "sessions":
        return sessions_command.run(flags)
    if flags.command == "streams":
        return streams_command.run(flags)
    if flags.command == "erase":
        return erase_command.run(flags)
    return _tail(flags)


def main() -> None:
    """Entry point of `natterjack`."""
    flags = _parser().parse_args()
    try:
        logs.configure(load(LogSettings, flags))
        if flags.command == "plugins":
            sys.exit(plugin_list.show(as_json=flags.json))
        if flags.command == "users":
            sys.exit(users_command.run(flags))

        async def run() -> int:
            return await _chosen(flags)

        sys.exit(asyncio.run(run()))
    except NatterjackError as error:
        print(f"natterjack {flags.command}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError | BrokerError) else 1)
    except BrokenPipeError:
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
