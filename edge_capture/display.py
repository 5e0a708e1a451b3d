"""What people see meanwhile: a live table on a terminal, a log line every 5 s elsewhere."""

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
from natterjack.telemetry.log import fields

from .chunks import SILENCE_DBFS
from .publish import Publisher
from .session import EdgeSession
from .status import WAITING

log = logging.getLogger(__name__)

_REFRESH_S = 0.25
_LOG_S = 5.0
_METER_CELLS = 20
_METER_FLOOR_DBFS = -60.0
_LOUD_DBFS = -6.0


class Agent(Protocol):
    """What there is to see."""

    @property
    def title(self) -> str:
        """The source, in a line."""

    @property
    def sessions(self) -> Sequence[EdgeSession]:
        """The sessions, which stay the same."""

    @property
    def leftovers(self) -> Sequence[Publisher]:
        """Earlier sessions that are sent meanwhile."""

    @property
    def broker(self) -> Broker | None:
        """None as long as there was no connection."""


def link_text(broker: Broker | None) -> str | None:
    """What is wrong with the connection to NATS, or None."""
    if broker is None:
        return "no NATS yet"
    return None if broker.connected else "NATS connection lost"


def state_text(session: EdgeSession, broker: Broker | None) -> str:
    """The session's state in some words: what stands in its way, else what its worker says."""
    status = session.status
    trouble = link_text(broker) or session.publisher.trouble
    if trouble and not status.closing.is_set():
        return trouble
    words = [status.state]
    if status.worker and status.state != WAITING:
        words.append(f"by {status.worker}")
    if status.reason and status.state in ("recovering", "failed", "closed"):
        words.append(f"({status.reason})")
    return " ".join(words)


def clock_text(seconds: float) -> str:
    """Hours if any, minutes, and seconds to a tenth."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest:04.1f}"


def leftovers_text(leftovers: Sequence[Publisher]) -> str:
    """How much of earlier sessions is still to be sent; nothing if there is nothing."""
    left = [publisher for publisher in leftovers if not publisher.finished.is_set()]
    chunks = sum(publisher.unacknowledged for publisher in left)
    return f"the spool has {chunks} chunks of {len(left)} earlier sessions to send" if left else ""


async def log_progress(agent: Agent) -> None:
    """A line every 5 s for each session. Runs until cancelled."""
    while True:
        await asyncio.sleep(_LOG_S)
        for session in agent.sessions:
            log.info(
                "capturing",
                extra=fields(
                    session=str(session.spec.key),
                    position=clock_text(session.seconds),
                    level_dbfs=round(session.level_dbfs()),
                    published=session.publisher.published,
                    unacknowledged=session.publisher.unacknowledged,
                    state=state_text(session, agent.broker),
                ),
            )
        if left := leftovers_text(agent.leftovers):
            log.info(left)


def restore_terminal() -> None:
    """Undo what a live table leaves behind when the process ends without unwinding."""
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h\n")  # show the cursor
        sys.stderr.flush()


async def show_live(agent: Agent) -> None:
    """A live table on standard error, log lines above it. Runs until cancelled."""
    console = Console(stderr=True)
    live = Live(console=console, auto_refresh=False, transient=True)
    with live, _logging_above():
        while True:
            live.update(_table(agent), refresh=True)
            await asyncio.sleep(_REFRESH_S)


@contextlib.contextmanager
def _logging_above() -> Iterator[None]:
    """Send log lines through the stream that `Live` has put in place of standard error."""
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
    table = Table(
        title=agent.title, title_justify="left", caption_justify="left", box=None, pad_edge=False
    )
    for name, justify in (
        ("speaker", "left"), ("level", "left"), ("dBFS", "right"), ("position", "right"),
        ("published", "right"), ("unacknowledged", "right"), ("state", "left"),
    ):  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=name != "state")  # type: ignore[arg-type]
    for session in agent.sessions:
        level = session.level_dbfs()
        lost = session.publisher.lost_frames
        state = state_text(session, agent.broker)
        table.add_row(
            session.spec.speaker,
            _meter(level),
            f"{level:.0f}" if level > SILENCE_DBFS else "-inf",
            clock_text(session.seconds),
            str(session.publisher.published),
            str(session.publisher.unacknowledged),
            Text(state + (f"; {session.published_seconds(lost):.1f} s dropped" if lost else "")),
        )
    table.caption = leftovers_text(agent.leftovers) or None
    return table


def _meter(level: float) -> Text:
    part = (level - _METER_FLOOR_DBFS) / -_METER_FLOOR_DBFS
    cells = round(min(1.0, max(0.0, part)) * _METER_CELLS)
    style = "red" if level > _LOUD_DBFS else "green"
    return Text("█" * cells, style).append("·" * (_METER_CELLS - cells), "dim")
