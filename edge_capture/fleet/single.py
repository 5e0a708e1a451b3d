"""An edge with one source: `natterjack-edge mic`, `file` or `stdin`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from natterjack.fleet.edges import EdgePresence, Level, SourcePresence, SpoolPresence
from natterjack.settings import BrokerSettings, load

from ..capture.reading import Reading
from ..errors import SteeringError
from ..input_report import InputReport
from ..session import EdgeSession
from ..settings import FleetSettings
from ..spool import Spool
from .mutes import Mutes
from .name import agent_name
from .reporter import Reporter


class Run(Protocol):
    """The parts of a run that are shown."""

    capturing: bool
    """Whether the source has not ended."""
    sessions: list[EdgeSession]
    reading: Reading | None

    @property
    def waiting_for(self) -> str | None:
        """What the source waits for, or None."""

    @property
    def input(self) -> InputReport | None:
        """The level and the findings of the source."""


def single_reporter(
    run: Run, flags: argparse.Namespace, broker: BrokerSettings, spool: Spool | None
) -> Reporter:
    """Return what tells the center about a run of `natterjack-edge mic`, `file` or `stdin`."""
    settings = load(FleetSettings, flags)
    name = agent_name(settings, run.sessions[0].spec.tenant, broker)
    return Reporter(SingleEdge(run, flags.command, name, spool), settings)


class SingleEdge:
    """An edge with one source, as the center sees and steers it. It implements `Steered`."""

    def __init__(self, run: Run, command: str, name: str, spool: Spool | None) -> None:
        """`command` is that of natterjack-edge; `name` is the name of the edge."""
        self.changed = asyncio.Event()
        self.agent = name
        self.tenant = run.sessions[0].spec.tenant
        self._running = run
        self._command = command
        self._spool = spool
        self._mutes = Mutes(spool.directory if spool else None, self.tenant, name)
        reading = run.reading
        if reading is not None and not reading.source.can_wait and self._mutes.restored(command):
            reading.muted = True

    def presence(self) -> EdgePresence:
        """Return its state now."""
        now = datetime.now(UTC)
        running = self._running
        return EdgePresence(
            tenant=self.tenant,
            agent=self.agent,
            started_at=now,
            seen_at=now,
            state="running" if running.capturing else "ending",
            sources=self._sources(running.sessions),
            spool=spool_presence(self._spool, running.sessions),
        )

    def _sources(self, sessions: Sequence[EdgeSession]) -> list[SourcePresence]:
        """Return a source for each session: several, if each channel is one."""
        split = len(sessions) > 1
        running = self._running
        reading = running.reading
        state, error = "stopped", None
        if running.capturing:
            waiting_for = running.waiting_for
            state, error = ("waiting", waiting_for) if waiting_for else ("capturing", None)
            if reading is not None and reading.muted:
                state = "muted"
        return [
            SourcePresence(
                name=session.spec.speaker if split else self._command,
                kind=self._command,
                device=reading.source.name if reading is not None else None,
                state=state,
                level=level_of(running.input, channel if split else None),
                findings=findings_of(running.input, channel if split else None),
                key=str(session.spec.key),
                session_id=session.publisher.session_id,
                error=error or session.publisher.problem,
            )
            for channel, session in enumerate(sessions)
        ]

    async def act(self, op: str, source: str | None) -> str:
        """Carry out a request. Raises: SteeringError."""
        names = [each.name for each in self._sources(self._running.sessions)]
        if source not in (None, *names):
            raise SteeringError(f"there is no source {source}; its sources: {', '.join(names)}")
        reading = self._running.reading
        if op in ("mute", "unmute") and reading is not None and self._running.capturing:
            if source is not None and len(names) > 1:
                raise SteeringError(
                    "the channels of one device are muted together: leave out the source"
                )
            if reading.source.can_wait:
                raise SteeringError(f"{op} is not possible with a file, which can be read later")
            mute, before = op == "mute", reading.muted
            if mute != before:
                reading.muted = mute
                self.changed.set()
            problem = await asyncio.to_thread(self._mutes.keep, [self._command], muted=mute)
            if mute == before:
                done = "it is muted already" if mute else "it is not muted"
            else:
                done = "muted" if mute else "no longer muted"
            return "; ".join(filter(None, (done, problem)))
        raise SteeringError(
            f"{op} is not possible with `natterjack-edge {self._command}`, which has one source "
            "from its start to its end; use `natterjack-edge run --config FILE`"
        )


def level_of(report: InputReport | None, channel: int | None = None) -> Level | None:
    """Return the level of a source, or of its channel number `channel`, over the last 10 s."""
    found = report.level(channel) if report is not None else None
    if found is None:
        return None
    return Level(
        peak_dbfs=round(found.peak_dbfs, 1),
        rms_dbfs=round(found.rms_dbfs, 1),
        zeros=round(found.zeros, 4),
    )


def findings_of(report: InputReport | None, channel: int | None = None) -> list[str]:
    """Return the codes of what is wrong with the input of a source."""
    if report is None:
        return []
    return list(dict.fromkeys(finding.code for finding in report.findings(channel)))


def spool_presence(spool: Spool | None, sessions: Sequence[EdgeSession]) -> SpoolPresence:
    """Return how much audio of `sessions` the broker has not stored, and how full the spool is."""
    return SpoolPresence(
        bytes=spool.size if spool is not None else None,
        seconds=round(sum(session.waiting_seconds for session in sessions), 1),
        limit_bytes=spool.max_bytes if spool is not None else None,
    )
