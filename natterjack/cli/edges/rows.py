"""The table of edges, for people. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from natterjack.fleet.edge_reader import EdgeRow
from natterjack.fleet.edges import ABSENT, SourcePresence, SpoolPresence
from natterjack.process.table import table

_COLUMNS = [
    "EDGE", "STATE", "SINCE", "SEEN", "VERSION", "SPOOL", "CLOCK", "SOURCE", "INPUT", "LEVEL",
    "SESSION", "DEVICE", "PROBLEM",
]  # fmt: skip
_RIGHT, _ELASTIC = (3, 5, 6, 9), (0, 10, 11)
_OFFSET_SHOWN_S = 0.0005


def lines_of(rows: Sequence[EdgeRow], room: int | None = None) -> list[str]:
    """Return the lines of the table: one for each source of each edge."""
    lines = [_COLUMNS]
    for row in rows:
        sources: list[SourcePresence | None] = [*row.presence.sources] or [None]
        for number, source in enumerate(sources):
            lines.append([*_of_edge(row, first=number == 0), *_of_source(source)])
            if number == 0 and not lines[-1][-1]:
                lines[-1][-1] = _error_of_edge(row)
    return table(lines, right=_RIGHT, elastic=_ELASTIC, room=room)


def summary(rows: Sequence[EdgeRow]) -> str:
    """Return how many edges there are, by state, and how many sources, by state."""
    edges = Counter(row.state for row in rows)
    live = [row for row in rows if row.state not in (ABSENT, "stopped")]
    sources = Counter(source.state for row in live for source in row.presence.sources)
    return f"edges {len(rows)}{_counted(edges)}, sources {sources.total()}{_counted(sources)}"


def _counted(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f" ({shown})" if shown else ""


def _of_edge(row: EdgeRow, *, first: bool) -> list[str]:
    if not first:
        return [""] * 7
    presence = row.presence
    return [
        row.name,
        row.state,
        since(presence.started_at),
        ago(row.seen_seconds_ago),
        presence.version or "-",
        _spool(presence.spool),
        _offset(presence.clock_offset_seconds),
    ]


def _error_of_edge(row: EdgeRow) -> str:
    """The newest error of an edge, unless it is that of a source, whose line has it."""
    error = row.presence.last_error
    if not error or any(error == source.error for source in row.presence.sources):
        return ""
    return error


def _of_source(source: SourcePresence | None) -> list[str]:
    if source is None:
        return ["-", "-", "-", "-", "-", ""]
    level = source.level
    rms = level.rms_dbfs if level is not None else None
    problem = "; ".join(filter(None, [", ".join(source.findings), source.error]))
    return [
        source.name,
        source.state,
        f"{rms:.0f} dB" if rms is not None else "-",
        source.key or "-",
        source.device or "-",
        problem,
    ]


def _spool(spool: SpoolPresence | None) -> str:
    if spool is None:
        return "-"
    seconds = f"{ago(spool.seconds)}" if spool.seconds is not None else "-"
    return seconds if spool.share is None else f"{seconds} {spool.share:.0%}"


def _offset(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return "0" if abs(seconds) < _OFFSET_SHOWN_S else f"{seconds:+.3g} s"


def ago(seconds: float) -> str:
    """Return a duration in its largest unit: 5s, 12m, 3h, 9d."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def since(at: datetime) -> str:
    """Return a time in local time, in minutes."""
    try:
        return f"{at.astimezone():%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return "?"
