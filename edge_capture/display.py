"""Progress for people: a live table on a terminal, log lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from natterjack.broker.connection import Broker
from natterjack.broker.login.attempts import Attempts
from natterjack.telemetry.log import fields

from .delivery.chain import Chain
from .level import SILENCE_DBFS
from .session import EdgeSession
from .session_status import WAITING
from .succession import clock_text

log = logging.getLogger(__name__)

CAPTURING = "capturing"
_REFRESH_S = 0.25
_LOG_S = 5.0
_METER_CELLS = 20
_METER_FLOOR_DBFS = -60.0
_LOUD_DBFS = -6.0


class Agent(Protocol):
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
    def leftovers(self) -> Sequence[Chain]:
        """Earlier sessions in the spool."""

    @property
    def broker(self) -> Broker | None:
        """The connection, or None before the first one."""

    @property
    def attempts(self) -> Attempts:
        """The attempts to connect."""


def connection_text(agent: Agent) -> str | None:
    """Describe what is wrong with the connection to NATS, or return None."""
    if agent.broker is not None and agent.broker.connected:
        return None
    words = "no NATS yet" if agent.broker is None else "NATS connection lost"
    return f"{words}: {agent.attempts.trouble}" if agent.attempts.trouble else words


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


def leftovers_text(leftovers: Sequence[Chain]) -> str:
    """Describe how much of earlier sessions is still to be sent; empty if nothing is."""
    unfinished = [chain for chain in leftovers if not chain.publisher.finished.is_set()]
    if not unfinished:
        return ""
    chunks = sum(chain.publisher.unacknowledged for chain in unfinished)
    return f"the spool has {chunks} chunks of {len(unfinished)} earlier sessions to send"


async def log_progress(agent: Agent) -> None:
    """Log a line for each session every 5 s, until cancelled."""
    while True:
        await asyncio.sleep(_LOG_S)
        for session in agent.sessions:
            log.info(
                "%s",
                agent.activity,
                extra=fields(
                    session=str(session.spec.key),
                    position=clock_text(session.seconds),
                    level_dbfs=round(session.level_dbfs()),
                    published=session.publisher.published,
                    unacknowledged=session.publisher.unacknowledged,
                    state=state_text(session, agent),
                ),
            )
        if text := leftovers_text(agent.leftovers):
            log.info(text)


def restore_terminal() -> None:
    """Show the cursor again, for a process that ends without closing the live table."""
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h\n")
        sys.stderr.flush()


async def show_live(agent: Agent) -> None:
    """Show a live table on standard error with log lines above it, until cancelled."""
    console = Console(stderr=True)
    live = Live(console=console, auto_refresh=False, transient=True)
    with live, _logging_above():
        while True:
            live.update(_table(agent), refresh=True)
            await asyncio.sleep(_REFRESH_S)


@contextlib.contextmanager
def _logging_above() -> Iterator[None]:
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


def _table(agent: Agent) -> Table:
    activity = agent.activity
    title = agent.title if activity == CAPTURING else f"{agent.title} ({activity})"
    table = Table(
        title=title, title_justify="left", caption_justify="left", box=None, pad_edge=False
    )
    for name, justify in (
        ("speaker", "left"), ("level", "left"), ("dBFS", "right"), ("position", "right"),
        ("published", "right"), ("unacknowledged", "right"), ("state", "left"),
    ):  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=name != "state")  # type: ignore[arg-type]
    for session in agent.sessions:
        level = session.level_dbfs()
        state = state_text(session, agent)
        if dropped := session.publisher.dropped_frames:
            state += f"; {session.published_seconds(dropped):.1f} s dropped"
        table.add_row(
            session.spec.speaker,
            _meter(level),
            f"{level:.0f}" if level > SILENCE_DBFS else "-inf",
            clock_text(session.seconds),
            str(session.publisher.published),
            str(session.publisher.unacknowledged),
            Text(state),
        )
    table.caption = leftovers_text(agent.leftovers) or None
    return table


def _meter(level: float) -> Text:
    part = (level - _METER_FLOOR_DBFS) / -_METER_FLOOR_DBFS
    cells = round(min(1.0, max(0.0, part)) * _METER_CELLS)
    style = "red" if level > _LOUD_DBFS else "green"
    return Text("█" * cells, style).append("·" * (_METER_CELLS - cells), "dim")
