"""The sources of an agent for people: a live table on a terminal. Elsewhere, its log tells them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from natterjack.fleet.edges import EdgePresence, SourcePresence
from natterjack.notices import text_of
from natterjack.process.terminal import plain, rewritable

from .display import METER_CELLS, meter, show_live

if TYPE_CHECKING:  # an edge that runs unattended needs no rich
    from rich.table import Table

_REFRESH_S = 1.0
_WITH_METER = 110
"""The least columns of a terminal with a meter for each source."""
_LEAST_GAP_S = 0.1


class Agent(Protocol):
    """The parts of an agent that are displayed."""

    def presence(self) -> EdgePresence:
        """Its state now."""

    def gap_seconds(self) -> dict[str, dict[str, float]]:
        """Seconds that are missing in the session of each source, by cause."""

    def trouble(self) -> str | None:
        """Return a description of the connection's problem, or None if NATS is connected."""


class Line(NamedTuple):
    """One row of the table: the state of one source."""

    source: str
    state: str
    dbfs: float | None
    """Level over the last 10 s."""
    session: str
    """Its conversation."""
    remarks: str
    """The source's error, its findings, and the length of the gaps in the session."""


def line_of(source: SourcePresence, gaps: Mapping[str, float]) -> Line:
    """Return what the table says of a source, whose session has `gaps` by cause, in seconds."""
    remarks = [source.error] if source.error else []
    remarks += [text_of(code, ended=False) for code in source.findings]
    missing = [f"{cause} {s:.1f} s" for cause, s in sorted(gaps.items()) if s >= _LEAST_GAP_S]
    if missing:
        remarks.append(f"missing: {', '.join(missing)}")
    return Line(
        source.name,
        source.state,
        source.level.rms_dbfs if source.level is not None else None,
        source.key.split(".")[1] if source.key else "",
        "; ".join(remarks),
    )


async def show_sources(agent: Agent) -> None:
    """Show a table of the sources on standard error, until cancelled or until it is closed; nothing
    unless it is a terminal."""
    if not rewritable(sys.stderr):
        return
    with contextlib.suppress(OSError):  # the capture goes on without its terminal
        await show_live(lambda room: table_of(agent, room), _REFRESH_S)


def table_of(agent: Agent, room: int) -> Table:
    """The table for a terminal of `room` columns."""
    from rich.table import Table
    from rich.text import Text

    presence, gaps, trouble = agent.presence(), agent.gap_seconds(), agent.trouble()
    title = f"{presence.tenant}.{presence.agent}" + (f" ({trouble})" if trouble else "")
    # Text, since square brackets in names are markup in a str.
    table = Table(title=Text(plain(title)), title_justify="left", box=None, pad_edge=False)
    table.add_column("source", no_wrap=True, max_width=max(8, room // 5))
    table.add_column("state", no_wrap=True)
    if room >= _WITH_METER:
        table.add_column("level", no_wrap=True, width=METER_CELLS)
    table.add_column("dBFS", no_wrap=True, justify="right")
    table.add_column("session", no_wrap=True, max_width=max(8, room // 3))
    table.add_column("remarks")
    for source in presence.sources:
        line = line_of(source, gaps.get(source.name, {}))
        level = [] if room < _WITH_METER else [Text() if line.dbfs is None else meter(line.dbfs)]
        table.add_row(
            line.source, line.state, *level, "" if line.dbfs is None else f"{line.dbfs:.0f}",
            Text(plain(line.session)), Text(plain(line.remarks)),
        )  # fmt: skip
    return table
