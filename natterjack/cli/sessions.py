"""`natterjack sessions`: all open sessions with their kind, state, lag, cost and last words."""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime

from pydantic import TypeAdapter

from natterjack.broker.connection import Broker, connected
from natterjack.errors import BrokerError, BrokerUnreachable, UsageError
from natterjack.fleet.reader import FleetReader
from natterjack.fleet.sessions import WAITING, Fleet, KeyFilter, Row
from natterjack.process.table import table
from natterjack.process.terminal import plain, rewritable, size, start
from natterjack.settings import KINDS, BrokerSettings, add_flags, load

from . import retry

_WATCH_S, _MIN_WATCH_S = 2.0, 0.2
_HOME, _CLEAR, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"
_COLUMNS = [
    "SESSION", "KIND", "STATE", "WORKER", "PROVIDER", "LAG", "SECONDS", "COST", "LAST WORDS",
]  # fmt: skip
_ELASTIC, _RIGHT = (0, 3), (5, 6, 7)

_JSON = TypeAdapter(list[Row])
_SORTS: dict[str, Callable[[Row], float]] = {
    "key": lambda row: 0.0,
    "lag": lambda row: row.behind_seconds,
    "cost": lambda row: sum(row.cost.values()),
    "seconds": lambda row: row.seconds,
}


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `sessions`."""
    command = commands.add_parser(
        "sessions",
        help="show sessions: kind, state, worker, provider, lag, seconds, cost, last words",
        description="Show all sessions that are open or waiting for a worker. This only reads from "
        "NATS.",
        epilog="LAG is seconds behind live audio or, in the state waiting, seconds since the "
        "request. SECONDS is audio captured or, of a voice session (speak), speech made; its last "
        "words are those that were heard. A session in the state queued shows, in place of its "
        "last words, why no provider serves it now. In the state gone?, the session's worker has "
        "not reported for 5 s; another worker will take over the session.",
    )
    for name in ("tenant", "conversation", "speaker"):
        command.add_argument(f"--{name}", help=f"show only this {name}")
    command.add_argument("--kind", choices=KINDS, help="show only sessions of this kind")
    command.add_argument("--worker", help="show only sessions of this worker, by name or instance")
    command.add_argument(
        "--state", help="show only sessions in this state, such as streaming, waiting or gone"
    )
    command.add_argument(
        "--sort",
        choices=_SORTS,
        default="key",
        help="sort by key (default), or greatest value first",
    )
    command.add_argument("--no-words", action="store_true", help="do not show last words")
    command.add_argument("--json", action="store_true", help="print a JSON array")
    command.add_argument(
        "--watch", nargs="?", type=float, const=_WATCH_S, metavar="SECONDS",
        help=f"repeat until Ctrl-C, every SECONDS (default: {_WATCH_S:g}); with --json, one line "
        "each time",
    )  # fmt: skip
    add_flags(command, BrokerSettings, "nats-")
    retry.add_to(command.add_subparsers(dest="action", metavar="COMMAND"))


async def run(flags: argparse.Namespace) -> int:
    """Run the command and return the exit status. Raises UsageError, BrokerError."""
    if flags.action == "retry":
        return await retry.run(flags)
    keys = KeyFilter(flags.tenant, flags.conversation, flags.speaker).check()
    if flags.watch is not None and not _MIN_WATCH_S <= flags.watch < math.inf:
        raise UsageError(f"--watch {flags.watch:g}: give {_MIN_WATCH_S:g} s or more")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # last words may be in any script
    settings = load(BrokerSettings, flags)
    async with connected(settings, name="natterjack-sessions", once=True) as broker:
        view = _View(flags, keys, FleetReader(broker))
        # Without permission for some data, the rest is shown. Without permission for replies, the
        # command fails with the reason.
        async with broker.raising_refusals(only_replies=True):
            await view.start()
            if flags.watch is None:
                await view.show()
            else:
                await _watch(view, broker, flags.watch)
    return 0


async def _watch(view: _View, broker: Broker, seconds: float) -> None:
    """Show sessions again and again until canceled.

    Raises errors of the first read; later, waits for the broker to come back.
    """
    await view.show()
    while True:
        await asyncio.sleep(seconds)
        try:
            await view.show()
        except BrokerError as error:
            if broker.client.is_closed:
                raise BrokerUnreachable("the connection to NATS is closed") from None
            view.show_error(error)


def _same_state(state: str, wanted: str) -> bool:
    """Compare states, spelled as in events, on a command line or in this command's output."""
    left, right = (s.casefold().replace("_", " ").replace("-", " ") for s in (state, wanted))
    return left.rstrip("?") == right.rstrip("?")


class _View:
    """Writes the fleet to a terminal or elsewhere, according to the flags."""

    def __init__(self, flags: argparse.Namespace, keys: KeyFilter, reader: FleetReader) -> None:
        self._flags = flags
        self._keys = keys
        self._reader = reader
        self._live = flags.watch is not None and not flags.json and rewritable(sys.stdout)
        self._frame: list[str] | None = None
        self._last_notes: list[str] = []

    async def start(self) -> None:
        await self._reader.start()

    async def show(self) -> None:
        """Read the fleet and show it. Raises BrokerError."""
        fleet = await self._reader.read(self._keys, self._flags.kind)
        rows = self._chosen(fleet)
        terminal = size(sys.stdout)
        # Room for the header, the summary, the notes and the line with the cursor.
        limit = max(1, terminal.lines - 5 - len(fleet.notes)) if self._live else len(rows)
        shown = rows if len(rows) <= limit else rows[: limit - 1]
        if not self._flags.no_words:
            fleet.notes += await self._reader.add_words(shown)
        if self._flags.json:
            self._show_json(rows, fleet.notes)
            return
        room = terminal.columns if sys.stdout.isatty() else None
        lines = self._table(shown, room) if shown else []
        if len(shown) < len(rows):
            lines.append(f"… and {len(rows) - len(shown)} more")
        self._write([*lines, _summary(rows, fleet, self._flags.worker)], fleet.notes)

    def _chosen(self, fleet: Fleet) -> list[Row]:
        rows, worker, state = fleet.rows, self._flags.worker, self._flags.state
        if worker is not None:
            rows = [row for row in rows if worker in (row.worker, row.instance)]
        if state is not None:
            rows = [row for row in rows if _same_state(row.state, state)]
        measure = _SORTS[self._flags.sort]
        return sorted(rows, key=lambda row: (-measure(row), row.key))

    def _table(self, rows: list[Row], room: int | None) -> list[str]:
        lines = [_COLUMNS, *map(_cells, rows)]
        if self._flags.no_words:
            lines = [line[:-1] for line in lines]
        return table(lines, right=_RIGHT, elastic=_ELASTIC, room=room)

    def _show_json(self, rows: list[Row], notes: list[str]) -> None:
        exclude = {"__all__": {"last_words"}} if self._flags.no_words else None
        indent = None if self._flags.watch is not None else 2
        print(_JSON.dump_json(rows, indent=indent, exclude=exclude).decode(), flush=True)
        self._print_notes(notes)

    def _write(self, lines: list[str], notes: list[str]) -> None:
        if self._flags.watch is not None:
            lines[-1] = f"{datetime.now():%H:%M:%S}  {lines[-1]}"
        if self._live:
            if self._frame is None:
                print(_CLEAR, end="")
            self._frame = lines
            self._draw(notes)
            return
        print("\n".join(lines), end="\n\n" if self._flags.watch is not None else "\n", flush=True)
        self._print_notes(notes)

    def _draw(self, notes: list[str]) -> None:
        room = size(sys.stdout).columns
        # Uses no terminal mode that would have to be reset when this process ends.
        lines = [start(line, room) for line in (*(self._frame or ()), *map(plain, notes))]
        text = "".join(f"{line}{_CLEAR_LINE}\n" for line in lines)
        print(f"{_HOME}{text}{_CLEAR_BELOW}", end="", flush=True)

    def show_error(self, error: BrokerError) -> None:
        """Show why there is no new view."""
        if self._live:
            self._draw([f"{datetime.now():%H:%M:%S}  {error}"])
        else:
            self._print_notes([str(error)])

    def _print_notes(self, notes: list[str]) -> None:
        for note in notes:
            if note not in self._last_notes:
                print(f"natterjack sessions: {note}", file=sys.stderr, flush=True)
        self._last_notes = notes


def _number(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1e12 else "?"


def _money(cost: dict[str, float]) -> str:
    """The cost in each currency."""
    spent = [f"{_number(v, 4)} {plain(c)}" for c, v in sorted(cost.items()) if v]
    return " + ".join(spent) or "0"


def _cells(row: Row) -> list[str]:
    return [
        plain(row.key),
        row.kind,
        plain(row.state),
        plain(row.worker or "-"),
        plain(row.provider or "-"),
        _number(row.behind_seconds),
        _number(row.seconds),
        _money(row.cost),
        plain(f"({row.reason})" if row.reason else row.last_words or ""),
    ]


def _counted(counts: dict[str, int]) -> str:
    shown = [f"{plain(name)} {count}" for name, count in sorted(counts.items()) if count]
    return f" ({', '.join(shown)})" if shown else ""


def _summary(rows: list[Row], fleet: Fleet, worker: str | None) -> str:
    """Totals of the sessions in `rows`, and of all workers or the given one."""
    states = Counter(row.state for row in rows)
    waiting = states.pop(WAITING, 0)
    cost: dict[str, float] = {}
    for row in rows:
        for currency, spent in row.cost.items():
            cost[currency] = cost.get(currency, 0.0) + spent
    known = [one for one in fleet.workers if worker in (None, one.name, one.instance)]
    live = [one for one in known if not one.gone]
    kinds = {"gone?": len(known) - len(live), "draining": sum(one.draining for one in live)}
    return ", ".join(
        [
            f"sessions {states.total()}{_counted(states)}",
            f"waiting {waiting}",
            f"workers {len(known)}{_counted(kinds)}",
            f"slots {sum(one.used for one in live)}/{sum(one.slots for one in live)}",
            f"cost {_money(cost)}",
        ]
    )
