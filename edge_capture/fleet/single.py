"""An edge with one source: `natterjack-edge mic`, `file` or `stdin`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from natterjack.fleet.edges import EdgePresence, Level, SourcePresence, SpoolPresence
from natterjack.settings import BrokerSettings, load
from natterjack.subjects import SessionKey

from ..capture.reading import Reading
from ..disk.apart import apart
from ..errors import SteeringError
from ..progress.input_report import InputReport
from ..session import EdgeSession
from ..settings import FleetSettings, StdinSettings
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
        """The reason that the source has no audio, or None."""

    @property
    def input(self) -> InputReport | None:
        """The level and the findings of the source."""


def single_edge(
    flags: argparse.Namespace,
    keys: Sequence[SessionKey],
    broker: BrokerSettings,
    spool: Spool | None,
) -> tuple[SingleEdge, Reporter]:
    """Return what stands for `natterjack-edge mic`, `file` or `stdin`, before it has audio, and
    what tells the center about it."""
    settings = load(FleetSettings, flags)
    command = flags.command
    name = agent_name(settings, keys[0].tenant, broker)
    names = [key.speaker for key in keys] if len(keys) > 1 else [command]
    can_wait = command == "file" or (command == "stdin" and not load(StdinSettings, flags).live)
    edge = SingleEdge(command, keys[0].tenant, name, names, spool, can_wait=can_wait)
    return edge, Reporter(edge, settings)


class SingleEdge:
    """An edge with one source, as the center sees and steers it. It implements `Steered`."""

    def __init__(
        self,
        command: str,
        tenant: str,
        name: str,
        names: Sequence[str],
        spool: Spool | None,
        *,
        can_wait: bool,
    ) -> None:
        """`command` is that of natterjack-edge; `name` is the name of the edge, and `names` are
        those of its sources: several, if each channel is one."""
        self.changed = asyncio.Event()
        self.agent, self.tenant = name, tenant
        self._running: Run | None = None
        """None until there is audio."""
        self._command, self._names = command, names
        self._spool, self._can_wait = spool, can_wait
        self._mutes = Mutes(spool.directory if spool else None, tenant, name)
        self._muted = not can_wait and self._mutes.restored(command)

    def begin(self, run: Run) -> None:
        """Show the run of a source that is open. To be called before anything is read."""
        self._running = run
        if run.reading is not None and self._muted:
            run.reading.muted = True

    def presence(self) -> EdgePresence:
        """Return its state now."""
        now = datetime.now(UTC)
        running = self._running
        return EdgePresence(
            tenant=self.tenant,
            agent=self.agent,
            started_at=now,
            seen_at=now,
            state="running" if running is None or running.capturing else "ending",
            sources=self._waiting() if running is None else self._sources(running),
            spool=spool_presence(self._spool, running.sessions if running is not None else ()),
        )

    def _waiting(self) -> list[SourcePresence]:
        """The sources before there is audio."""
        awaited = "a microphone" if self._command == "mic" else "its first audio"
        return [
            SourcePresence(
                name=name,
                kind=self._command,
                state="muted" if self._muted else "waiting",
                error=f"waiting for {awaited}",
            )
            for name in self._names
        ]

    def _sources(self, running: Run) -> list[SourcePresence]:
        """Return a source for each session: several, if each channel is one."""
        sessions = running.sessions
        split = len(sessions) > 1
        reading = running.reading
        state, error = "stopped", None
        if running.capturing:
            waiting_for = running.waiting_for
            state, error = ("waiting", waiting_for) if waiting_for else ("capturing", None)
            if reading is not None and reading.muted:
                state = "muted"
        return [
            SourcePresence(
                name=self._names[channel],
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
        if source not in (None, *self._names):
            known = ", ".join(self._names)
            raise SteeringError(f"there is no source {source}; its sources: {known}")
        running = self._running
        if op in ("mute", "unmute") and (running is None or running.capturing):
            return await self._mute(op == "mute", source)
        raise SteeringError(
            f"{op} is not possible with `natterjack-edge {self._command}`, which has one source "
            "from its start to its end; use `natterjack-edge run --config FILE`"
        )

    async def _mute(self, muted: bool, source: str | None) -> str:
        if source is not None and len(self._names) > 1:
            raise SteeringError(
                "the channels of one device are muted together: leave out the source"
            )
        if self._can_wait:
            what = "a file" if self._command == "file" else "standard input without --live"
            raise SteeringError(
                f"{what} cannot be muted: its audio would be read later, not left out"
            )
        before, self._muted = self._muted, muted
        reading = self._running.reading if self._running is not None else None
        if reading is not None and muted != before:
            reading.muted = muted
        self.changed.set()
        problem = await apart(partial(self._mutes.keep, [self._command], muted=muted))
        if muted == before:
            done = "it is muted already" if muted else "it is not muted"
        else:
            done = "muted" if muted else "no longer muted"
        return "; ".join(filter(None, (done, problem)))


def level_of(report: InputReport | None, channel: int | None = None) -> Level | None:
    """Return the level of a source, or of its channel number `channel`, over the last 10 s."""
    found = report.level(channel) if report is not None else None
    if found is None:
        return None
    return Level(
        peak_dbfs=round(found.peak_dbfs, 1),
        rms_dbfs=round(found.rms_dbfs, 1),
        zeros=round(found.zeros, 4),
        # Products in single precision may come to slightly more than 1.
        correlation=None
        if found.correlation is None
        else max(-1.0, min(1.0, round(found.correlation, 2))),
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
