"""`natterjack edges`: the table of edges, and its subcommands."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import math
import sys
from datetime import datetime
from typing import Any

from natterjack.broker.connection import Broker, connected
from natterjack.errors import BrokerError, BrokerUnreachable, UsageError
from natterjack.fleet.edge_reader import EdgeRow, EdgesReader
from natterjack.process.terminal import rewritable, size, start
from natterjack.settings import BrokerSettings, add_flags, load
from natterjack.subjects import check_token

from ..enrollment import invitations
from . import steer
from .rows import lines_of, summary

_WATCH_S, _MIN_WATCH_S = 2.0, 0.2
_HOME, _CLEAR, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `edges` and its actions."""
    command = commands.add_parser(
        "edges",
        help="show edges: state, sources, levels, spool, clock; steer, invite and revoke them",
        description="Show all edges that are known, with their sources. This only reads from NATS. "
        "An edge that has not reported for a while stays listed as absent, for 30 days.",
        epilog="SINCE is the start of the program, SEEN the time since its last report, SPOOL the "
        "audio that NATS has not stored and how full the spool is, CLOCK how far the clock of the "
        "edge is ahead of the broker's, LEVEL the root mean square over 10 s. Exit status: 0 done; "
        "1 an edge does not answer, or refuses; 2 wrong usage, no such edge, no permission, or no "
        "connection to NATS.",
    )
    command.add_argument("--tenant", help="only edges of this tenant")
    command.add_argument("--state", help="only edges in this state: running, stopped or absent")
    command.add_argument("--json", action="store_true", help="print a JSON array")
    command.add_argument(
        "--watch", nargs="?", type=float, const=_WATCH_S, metavar="SECONDS",
        help=f"repeat until Ctrl-C, every SECONDS (default: {_WATCH_S:g}); with --json, one line "
        "each time",
    )  # fmt: skip
    add_flags(command, BrokerSettings, "nats-")
    actions = command.add_subparsers(dest="action", metavar="ACTION")
    steer.add_to(actions)
    invitations.add_to(actions)


async def run(flags: argparse.Namespace) -> int:
    """Run the command and return the exit status. Raises: UsageError, BrokerError, NoAnswer."""
    if flags.tenant is not None:
        check_token("tenant", flags.tenant)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names of devices may be in any script
    if flags.action in invitations.ACTIONS:
        return await invitations.run(flags)
    if flags.action is not None:
        return await steer.run(flags)
    if flags.watch is not None and not _MIN_WATCH_S <= flags.watch < math.inf:
        raise UsageError(f"--watch {flags.watch:g}: give {_MIN_WATCH_S:g} s or more")
    async with connected(load(BrokerSettings, flags), name="natterjack-edges", once=True) as broker:
        view = _View(flags, EdgesReader(broker))
        async with broker.raising_refusals(only_replies=True):
            await view.start()
            await view.show()
            if flags.watch is not None:
                await _watch(view, broker, flags.watch)
    return 0


async def _watch(view: _View, broker: Broker, seconds: float) -> None:
    """Show the edges again and again until canceled, through failures of the connection."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await view.show()
        except BrokerError as error:
            if broker.client.is_closed:
                raise BrokerUnreachable("the connection to NATS is closed") from None
            view.write([str(error)])


class _View:
    """Writes the edges to a terminal or elsewhere, according to the flags."""

    def __init__(self, flags: argparse.Namespace, reader: EdgesReader) -> None:
        self._flags = flags
        self._reader = reader
        self._watching = flags.watch is not None
        self._live = self._watching and not flags.json and rewritable(sys.stdout)
        self._began = False

    async def start(self) -> None:
        await self._reader.start()

    async def show(self) -> None:
        """Read the edges and show them. Raises: BrokerError."""
        found = await self._reader.read(self._flags.tenant)
        rows = [row for row in found.rows if self._flags.state in (None, row.state)]
        if self._flags.json:
            indent = None if self._watching else 2
            print(json.dumps([row_json(row) for row in rows], indent=indent), flush=True)
        else:
            room = size(sys.stdout).columns if sys.stdout.isatty() else None
            lines = lines_of(rows, room) if rows else []
            if self._live:
                most = max(1, size(sys.stdout).lines - 3)
                if len(lines) > most:
                    lines = [*lines[: most - 1], f"… and {len(lines) - most + 1} more lines"]
            self.write([*lines, summary(rows)])
        if found.unreadable:
            print(
                f"natterjack edges: skipped {found.unreadable} invalid entries of the bucket",
                file=sys.stderr,
                flush=True,
            )

    def write(self, lines: list[str]) -> None:
        """Show lines in place of the ones before, or after them."""
        if self._watching:
            lines[-1] = f"{datetime.now():%H:%M:%S}  {lines[-1]}"
        if not self._live:
            print("\n".join(lines), end="\n\n" if self._watching else "\n", flush=True)
            return
        room = size(sys.stdout).columns
        text = "".join(f"{start(line, room)}{_CLEAR_LINE}\n" for line in lines)
        print(f"{'' if self._began else _CLEAR}{_HOME}{text}{_CLEAR_BELOW}", end="", flush=True)
        self._began = True


def row_json(row: EdgeRow) -> dict[str, Any]:
    """Return an edge as JSON."""
    return {
        "state": row.state,
        "seen_seconds_ago": row.seen_seconds_ago,
        **row.presence.model_dump(mode="json", exclude={"state"}),
    }
