"""`natterjack sessions`: who is where, in what state, how late, at what cost, and what was said."""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime

from pydantic import TypeAdapter

from natterjack.broker.connection import Broker, connected
from natterjack.errors import BrokerError, BrokerUnreachable, UsageError
from natterjack.fleet.reader import FleetReader
from natterjack.fleet.sessions import WAITING, Fleet, KeyFilter, Row
from natterjack.settings import BrokerSettings, add_flags, load

from .table import plain, start, table

_WATCH_S, _LEAST_WATCH_S = 2.0, 0.2
_HOME, _CLEAR, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"
_COLUMNS = ["SESSION", "STATE", "WORKER", "PROVIDER", "LAG", "SECONDS", "COST", "LAST WORDS"]
_ELASTIC, _RIGHT = (0, 2), (4, 5, 6)

_JSON = TypeAdapter(list[Row])
_SORTS: dict[str, Callable[[Row], float]] = {
    "key": lambda row: 0.0,
    "lag": lambda row: row.behind_seconds,
    "cost": lambda row: sum(row.cost.values()),
    "seconds": lambda row: row.captured_seconds,
}


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command `sessions`."""
    command = commands.add_parser(
        "sessions",
        help="who is where: state, lag, provider, seconds, cost, last words",
        description="Every session that is open or waits for a worker. Reads NATS only, and makes "
        "nothing there.",
        epilog="LAG is seconds behind live; of a session in the state waiting, since it was asked "
        "for. gone? is a session whose worker has been silent for 5 s; another will take it. "
        "SECONDS is audio captured.",
    )
    for name in ("tenant", "conversation", "speaker"):
        command.add_argument(f"--{name}", help="only this one")
    command.add_argument("--worker", help="only this worker's, by its name or process")
    command.add_argument("--state", help="only in this state, such as streaming, waiting, gone")
    command.add_argument(
        "--sort", choices=_SORTS, default="key", help="by key (default), or the greatest first"
    )
    command.add_argument("--no-words", action="store_true", help="leave out what was said")
    command.add_argument("--json", action="store_true", help="one JSON array")
    command.add_argument(
        "--watch", nargs="?", type=float, const=_WATCH_S, metavar="SECONDS",
        help=f"again and again until Ctrl-C, every {_WATCH_S:g} s if not said otherwise; with "
        "--json, one line each time",
    )  # fmt: skip
    add_flags(command, BrokerSettings, "nats-")


async def run(flags: argparse.Namespace) -> int:
    """Do what `flags` say; the exit status. Raises UsageError, BrokerError."""
    keys = KeyFilter(flags.tenant, flags.conversation, flags.speaker).check()
    if flags.watch is not None and not _LEAST_WATCH_S <= flags.watch < math.inf:
        raise UsageError(f"--watch {flags.watch:g}: give {_LEAST_WATCH_S:g} s or more")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # words may be in any script
    settings = load(BrokerSettings, flags)
    async with connected(settings, name="natterjack-sessions", once=True) as broker:
        view = _View(flags, keys, FleetReader(broker))
        # A user who may not read all of it is shown the rest; one who hears no answer is told why.
        async with broker.allowed(only_answers=True):
            await view.start()
            if flags.watch is None:
                await view.show()
            else:
                await _watch(view, broker, flags.watch)
    return 0


async def _watch(view: _View, broker: Broker, seconds: float) -> None:
    """Until cancelled. What is wrong at the start is raised; a broker that goes away later is
    waited for."""
    await view.show()
    while True:
        await asyncio.sleep(seconds)
        try:
            await view.show()
        except BrokerError as error:
            if broker.client.is_closed:
                raise BrokerUnreachable("the connection to NATS is closed for good") from None
            view.complain(error)


def _same_state(state: str, wanted: str) -> bool:
    """Written in any of the ways that events, shells and this command have."""
    one, other = (s.casefold().replace("_", " ").replace("-", " ") for s in (state, wanted))
    return one.rstrip("?") == other.rstrip("?")


class _View:
    """Shows the fleet as the flags say, on a terminal or elsewhere."""

    def __init__(self, flags: argparse.Namespace, keys: KeyFilter, reader: FleetReader) -> None:
        self._flags = flags
        self._keys = keys
        self._reader = reader
        self._live = flags.watch is not None and not flags.json and sys.stdout.isatty()
        self._frame: list[str] | None = None
        self._said: list[str] = []

    async def start(self) -> None:
        await self._reader.start()

    async def show(self) -> None:
        """Read, and show it. Raises BrokerError."""
        fleet = await self._reader.read(self._keys)
        rows = self._chosen(fleet)
        size = shutil.get_terminal_size()
        # Header, summary, notes, and the line below, on which the cursor stands.
        fits = max(1, size.lines - 5 - len(fleet.notes)) if self._live else len(rows)
        shown = rows if len(rows) <= fits else rows[: fits - 1]
        if not self._flags.no_words:
            note = await self._reader.add_words(shown)
            fleet.notes += [note] if note else []
        if self._flags.json:
            self._show_json(rows, fleet.notes)
            return
        room = size.columns if sys.stdout.isatty() else None
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
        self._say(notes)

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
        self._say(notes)

    def _draw(self, notes: list[str]) -> None:
        room = shutil.get_terminal_size().columns
        # Nothing is switched on that would have to be switched off, however this process ends.
        lines = [start(line, room) for line in (*(self._frame or ()), *map(plain, notes))]
        text = "".join(f"{line}{_CLEAR_LINE}\n" for line in lines)
        print(f"{_HOME}{text}{_CLEAR_BELOW}", end="", flush=True)

    def complain(self, error: BrokerError) -> None:
        """Say that there is no new picture."""
        if self._live:
            self._draw([f"{datetime.now():%H:%M:%S}  {error}"])
        else:
            self._say([str(error)])

    def _say(self, notes: list[str]) -> None:
        for note in notes:
            if note not in self._said:
                print(f"natterjack sessions: {note}", file=sys.stderr, flush=True)
        self._said = notes


def _number(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1e12 else "?"


def _money(cost: dict[str, float]) -> str:
    """Currencies are not added up."""
    spent = [f"{_number(v, 4)} {plain(c)}" for c, v in sorted(cost.items()) if v]
    return " + ".join(spent) or "0"


def _cells(row: Row) -> list[str]:
    return [
        plain(row.key),
        plain(row.state),
        plain(row.worker or "-"),
        plain(row.provider or "-"),
        _number(row.behind_seconds),
        _number(row.captured_seconds),
        _money(row.cost),
        plain(row.last_words or ""),
    ]


def _counted(counts: dict[str, int]) -> str:
    some = [f"{plain(name)} {count}" for name, count in sorted(counts.items()) if count]
    return f" ({', '.join(some)})" if some else ""


def _summary(rows: list[Row], fleet: Fleet, worker: str | None) -> str:
    """Of the sessions that are shown; workers and slots of all, or of the worker that is meant."""
    states = Counter(row.state for row in rows)
    waiting = states.pop(WAITING, 0)
    cost: dict[str, float] = {}
    for row in rows:
        for currency, spent in row.cost.items():
            cost[currency] = cost.get(currency, 0.0) + spent
    told = [one for one in fleet.workers if worker in (None, one.name, one.instance)]
    live = [one for one in told if not one.gone]
    kinds = {"gone?": len(told) - len(live), "draining": sum(one.draining for one in live)}
    return ", ".join(
        [
            f"sessions {states.total()}{_counted(states)}",
            f"waiting {waiting}",
            f"workers {len(told)}{_counted(kinds)}",
            f"slots {sum(one.used for one in live)}/{sum(one.slots for one in live)}",
            f"cost {_money(cost)}",
        ]
    )
