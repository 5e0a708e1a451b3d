"""Progress for people: a live table on a terminal, log lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from natterjack.broker.connection import Broker
from natterjack.broker.login.attempts import Attempts
from natterjack.notices import text_of
from natterjack.process.terminal import plain, rewritable, size
from natterjack.telemetry.log import fields
from natterjack.telemetry.repeats import Repeats

from ..delivery.chain import Chain
from ..input.measure import SILENCE_DBFS
from ..session import EdgeSession
from ..session_status import WAITING
from ..sources import Source
from ..succession import clock_text
from .input_report import InputReport

if TYPE_CHECKING:  # an edge that runs unattended needs no rich
    from rich.table import Table
    from rich.text import Text

log = logging.getLogger(__name__)

CAPTURING = "capturing"
_REFRESH_S = 0.25
LOG_S = 5.0
METER_CELLS = 20
_METER_FLOOR_DBFS = -60.0
_LOUD_DBFS = -6.0
_CELLS = {"level": METER_CELLS, "dBFS": 4, "position": 9, "published": 9, "unacknowledged": 14}
"""Widths of the columns between the speaker and the state."""
_BY_IMPORTANCE = ("position", "level", "unacknowledged", "published", "dBFS")
_MIN_SPEAKER, _MIN_STATE, _GAP = 8, 24, 2


class Connecting(Protocol):
    """A run that connects to NATS."""

    @property
    def broker(self) -> Broker | None:
        """The connection, or None before the first one."""

    @property
    def attempts(self) -> Attempts:
        """The attempts to connect."""


class Agent(Connecting, Protocol):
    """The parts of an agent that are displayed."""

    @property
    def title(self) -> str:
        """Description of the source, in one line."""

    @property
    def activity(self) -> str:
        """CAPTURING, or what the agent does instead."""

    @property
    def sessions(self) -> Sequence[EdgeSession]:
        """The sessions of this run, which do not change."""

    @property
    def input(self) -> InputReport | None:
        """The level and the findings of the source, if there is one."""

    @property
    def leftovers(self) -> Sequence[Chain]:
        """Earlier sessions in the spool."""


def source_text(source: Source | None) -> str:
    """Describe the source in one line."""
    if source is None:
        return "earlier sessions in the spool"
    count = source.format.channels
    channels = "mono" if count == 1 else f"{count} channels"
    return f"{source.name}: {source.format.sample_rate} Hz, {channels}"


def connection_text(run: Connecting) -> str | None:
    """Describe what is wrong with the connection to NATS, or return None."""
    if run.broker is not None and run.broker.connected:
        return None
    words = "no NATS yet" if run.broker is None else "NATS connection lost"
    return f"{words}: {run.attempts.trouble}" if run.attempts.trouble else words


def state_text(session: EdgeSession, agent: Agent) -> str:
    """Describe the session's state: what prevents publishing, else what its worker reports."""
    status = session.status
    problem = connection_text(agent) or session.publisher.problem
    if problem and not status.closing:
        return problem
    if session.chain.pause:
        return session.chain.pause
    words = [status.state]
    if status.worker and status.state != WAITING:
        words.append(f"by {status.worker}")
    if status.reason and status.state in ("recovering", "failed", "closed"):
        words.append(f"({status.reason})")
    return " ".join(words)


def findings_text(agent: Agent, number: int) -> str:
    """Describe what is wrong with the input of the agent's session `number`, from 0; empty if
    nothing is."""
    session = agent.sessions[number]
    found = [] if agent.input is None else agent.input.findings(number)
    words = [text_of(finding.code, ended=False) for finding in found]
    return "; ".join(["muted", *words] if session.muted else words)


def leftovers_text(leftovers: Sequence[Chain]) -> str:
    """Describe how much of earlier sessions is still to be sent; empty if nothing is."""
    unfinished = [chain for chain in leftovers if not chain.publisher.finished.is_set()]
    if not unfinished:
        return ""
    chunks = sum(chain.publisher.unacknowledged for chain in unfinished)
    return f"the spool has {chunks} chunks of {len(unfinished)} earlier sessions to send"


async def log_progress(agent: Agent) -> None:
    """Log a line for each session every 5 s if its state changes, else less and less often, until
    cancelled."""
    repeats: defaultdict[str, Repeats] = defaultdict(lambda: Repeats(LOG_S))
    while True:
        await asyncio.sleep(LOG_S)
        for number, session in enumerate(agent.sessions):
            key, activity, state = str(session.spec.key), agent.activity, state_text(session, agent)
            if findings := findings_text(agent, number):
                state = f"{findings}; {state}"
            if not repeats[key].due(f"{activity}: {state}"):
                continue
            log.info(
                "%s",
                activity,
                extra=fields(
                    session=key,
                    position=clock_text(session.seconds),
                    level_dbfs=round(session.level_dbfs()),
                    published=session.publisher.published,
                    unacknowledged=session.publisher.unacknowledged,
                    state=state,
                ),
            )
        text = leftovers_text(agent.leftovers)
        if text and repeats[""].due("spool"):
            log.info(text)


def restore_terminal() -> None:
    """Show the cursor again, for a process that ends without closing the live table."""
    if rewritable(sys.stderr):
        with contextlib.suppress(OSError):  # the terminal is closed
            sys.stderr.write("\x1b[?25h\n")
            sys.stderr.flush()


async def show_progress(agent: Agent) -> None:
    """Show progress on standard error, until cancelled or until a terminal is closed."""
    if not rewritable(sys.stderr):
        await log_progress(agent)
        return
    with contextlib.suppress(OSError):  # the capture goes on without its terminal
        await show_live(lambda room: _table(agent, room), _REFRESH_S)


async def show_live(draw: Callable[[int], Table], refresh_s: float) -> None:
    """Show a live table with log lines above it, until cancelled. `draw` returns it for a terminal
    of so many columns. Raises: OSError if the terminal is closed."""
    from rich.console import Console
    from rich.live import Live

    terminal, console = sys.stderr, Console(stderr=True)
    live = Live(console=console, auto_refresh=False, transient=True)
    with live, logging_above():
        while True:
            console.size = size(terminal)  # rich would believe a COLUMNS that is too large
            live.update(draw(console.width), refresh=True)
            await asyncio.sleep(refresh_s)


@contextlib.contextmanager
def logging_above() -> Iterator[None]:
    """Send log lines through the stream that `Live` puts in place of standard error."""
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
    before = [handler.stream for handler in handlers]
    for handler in handlers:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            handler.setStream(stream)


def columns_within(room: int) -> list[str]:
    """The columns of the table that fit into `room` cells, in their order: always the state."""
    room -= _MIN_SPEAKER + _GAP + _MIN_STATE
    shown = {"speaker", "state"}
    for name in _BY_IMPORTANCE:
        if room >= _CELLS[name] + _GAP:
            room -= _CELLS[name] + _GAP
            shown.add(name)
    return [name for name in ("speaker", *_CELLS, "state") if name in shown]


def _table(agent: Agent, room: int) -> Table:
    """The table for a terminal of `room` columns."""
    from rich.table import Table
    from rich.text import Text

    activity = agent.activity
    title = agent.title if activity == CAPTURING else f"{agent.title} ({activity})"
    # Text, since square brackets in the name of a file or device are markup in a str.
    table = Table(
        title=Text(plain(title)), title_justify="left", caption_justify="left", box=None,
        pad_edge=False,
    )  # fmt: skip
    names = columns_within(room)
    spare = room - sum(_CELLS.get(name, 0) + _GAP for name in names[:-1]) - _MIN_STATE
    for name in names:
        if name == "speaker":
            table.add_column(name, no_wrap=True, max_width=max(_MIN_SPEAKER, spare // 2))
        elif name == "state":
            table.add_column(name, min_width=min(_MIN_STATE, room - _MIN_SPEAKER - _GAP))
        else:
            table.add_column(name, no_wrap=True, justify="left" if name == "level" else "right")
    for number, session in enumerate(agent.sessions):
        level = session.level_dbfs()
        state = state_text(session, agent)
        if findings := findings_text(agent, number):
            state = f"{findings}; {state}"
        if dropped := session.publisher.dropped_frames:
            state += f"; {session.published_seconds(dropped):.1f} s dropped"
        cells: dict[str, str | Text] = {
            "speaker": session.spec.speaker,
            "level": meter(level),
            "dBFS": f"{level:.0f}" if level > SILENCE_DBFS else "-inf",
            "position": clock_text(session.seconds),
            "published": str(session.publisher.published),
            "unacknowledged": str(session.publisher.unacknowledged),
            "state": Text(plain(state)),
        }
        table.add_row(*(cells[name] for name in names))
    table.caption = leftovers_text(agent.leftovers) or None
    return table


def meter(level: float) -> Text:
    """Draw a level in dBFS."""
    from rich.text import Text

    part = (level - _METER_FLOOR_DBFS) / -_METER_FLOOR_DBFS
    cells = round(min(1.0, max(0.0, part)) * METER_CELLS)
    style = "red" if level > _LOUD_DBFS else "green"
    return Text("█" * cells, style).append("·" * (METER_CELLS - cells), "dim")
