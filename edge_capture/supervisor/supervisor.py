"""An agent with several sources in one process, on one connection to the broker."""

from __future__ import annotations

import asyncio
import logging
import socket
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from natterjack.fleet.edges import EdgePresence, SourcePresence, SpoolPresence
from natterjack.process.run import end_tasks
from natterjack.telemetry.log import fields

from ..config.load import Config, ConfigError, read_config
from ..delivery.link import Link
from ..disk.apart import apart
from ..errors import SpoolError, SteeringError
from ..fleet.mutes import Mutes
from ..fleet.name import host_token
from ..fleet.reporter import Reporter
from ..fleet.single import findings_of, level_of, spool_presence
from ..keep.recorder import open_keep
from ..progress.display import connection_text
from ..session import make_leftover
from ..spool import Spool, SpooledBacklog
from .plans import Plan, broker_settings, delivery_settings, keep_settings, spool_settings
from .running import RunningSource
from .state import State
from .takes import Takes

log = logging.getLogger(__name__)

_ADOPT_S = 60.0
"""How often the spool is searched for sessions that other processes have left."""


def host_name() -> str:
    """The name of this machine, as a token."""
    return host_token(socket.gethostname())


class Supervisor:
    """Captures the sources of a configuration file, each in a task of its own, until it is stopped.

    It implements `Steered`.
    """

    def __init__(
        self,
        path: Path,
        *,
        agent: str | None = None,
        tenant: str | None = None,
        once: bool = False,
    ) -> None:
        """`agent` and `tenant` precede those of the file at `path`. `once`: give up if the first
        attempt to reach NATS fails. Raises: UsageError."""
        self._path = path
        self._agent, self._tenant = agent, tenant
        self._host = host_name()
        self.config = self._read()
        plans = self._plans(self.config)
        self._delivery_settings = delivery_settings(self.config)
        spool = spool_settings(self.config)
        self.spool = Spool(spool) if spool.spool else None
        self._mutes = Mutes(spool.spool, self.tenant, self.agent)
        self.keep = open_keep(keep_settings(self.config))
        self.link = Link(broker_settings(self.config), once=once)
        self.changed = asyncio.Event()
        self.reporter: Reporter | None = None
        """Tells the center about this agent, if it is set before `run`."""
        self.last_error: str | None = None
        self.started_at = datetime.now(UTC)
        self._once = once
        self._plans_at_start = plans
        self._sources: dict[str, RunningSource] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._takes: Takes | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._reloading = asyncio.Lock()
        self._ending = False

    @property
    def tenant(self) -> str:
        return self.config.tenant

    @property
    def agent(self) -> str:
        return self.config.agent

    @property
    def finish_seconds(self) -> float:
        """How long it waits for acknowledgements at the end."""
        return self._delivery_settings.finish_seconds

    @property
    def sources(self) -> list[RunningSource]:
        """The sources, in the order of the file."""
        return list(self._sources.values())

    def status(self) -> str:
        """The states of the sources in a few words."""
        states = [source.state.value for source in self.sources]
        words = [f"{states.count(state.value)} {state.value}" for state in State]
        text = ", ".join(each for each in words if not each.startswith("0 "))
        connection = "" if self.link.connected else "no connection to NATS"
        return "; ".join(filter(None, (text, connection)))

    def _read(self) -> Config:
        return read_config(self._path, host=self._host, agent=self._agent, tenant=self._tenant)

    def _plans(self, config: Config) -> dict[str, Plan]:
        return {each.name: Plan(config, each, self._host) for each in config.sources}

    async def run(self, stop: asyncio.Event) -> int:
        """Capture until `stop` is set. Returns the exit status: 0 if everything is stored.

        Raises: BrokerError, UsageError.
        """
        found = await apart(self.spool.adopt) if self.spool else []
        if self._once:
            await self.link.connect()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._takes = Takes(self.link, self.spool, tasks)
            connection = tasks.create_task(self.link.run(), name="connection")
            side = []
            if self.reporter is not None:
                side.append(tasks.create_task(self.reporter.run(self.link), name="report"))
            if self.spool is not None:
                side.append(tasks.create_task(self.spool.maintain(), name="spool"))
                side.append(tasks.create_task(self._adopt(self.spool), name="adopt"))
            for plan in self._plans_at_start.values():
                own = [each for each in found if each.origin.source == plan.table.name]
                found = [each for each in found if each not in own]
                self._start(plan, own)
            self._send_leftovers(found)
            await stop.wait()
            self._ending = True
            await end_tasks(self._running.values())
            complete = await self._takes.finish(self.finish_seconds)
            await end_tasks(side)  # the last report needs the connection
            await end_tasks([connection])
        if self.spool is not None:
            complete &= not self.spool.unusable
        return 0 if complete else 1

    def _start(self, plan: Plan, found: list[SpooledBacklog]) -> None:
        """Begin to capture a source. `found` are sessions of it that an earlier run has left."""
        assert self._takes is not None
        assert self._tasks is not None
        source = RunningSource(
            plan,
            self._takes,
            self.link,
            self.spool,
            self.keep,
            found,
            self._send_leftovers,
            self.changed.set,
            muted=not plan.table.can_wait and self._mutes.restored(plan.table.name),
        )
        self._sources[source.name] = source
        self._running[source.name] = self._tasks.create_task(
            source.run(), name=f"source {source.name}"
        )

    def _send_leftovers(self, found: list[SpooledBacklog]) -> None:
        assert self._takes is not None
        for backlog in found:
            backlog.end()
        self._takes.send([make_leftover(each, self._delivery_settings) for each in found])

    async def _adopt(self, spool: Spool) -> None:
        """Send what other processes that have ended left in the spool, and what is beyond the
        number of sessions that are sent at a time. Until cancelled."""
        assert self._takes is not None
        problem = ""
        while True:
            await asyncio.sleep(_ADOPT_S)
            if self._takes.leftovers:
                continue
            try:
                found = await apart(spool.adopt)
            except SpoolError as error:  # a disk that fails: the capture goes on as well as it can
                if str(error) != problem:
                    problem = str(error)
                    log.error("the spool cannot be searched: %s", error)
                continue
            problem = ""
            self._send_leftovers(found)

    async def reload(self) -> str:
        """Read the file again. Sources that did not change go on without a gap.

        Returns what has changed. Raises: SteeringError if the file is not usable; then everything
        stays as it is.
        """
        async with self._reloading:
            try:
                config = await asyncio.to_thread(self._read)
                plans = self._plans(config)
                if fixed := self.config.fixed_changes(config):
                    raise ConfigError(
                        f"{self._path}: {', '.join(fixed)} cannot be changed by a reload: start "
                        "the agent again"
                    )
            except ConfigError as error:
                self.last_error = str(error)
                self.changed.set()
                log.error("not reloaded: %s; everything stays as it was", error)
                raise SteeringError(str(error)) from None
            detail = await self._apply(config, plans)
        log.info("reloaded: %s", detail)
        return detail

    async def _apply(self, config: Config, plans: dict[str, Plan]) -> str:
        self.config = config
        done = []
        removed = [name for name in self._sources if name not in plans]
        for name in removed:
            done.append(f"{name} removed")
            del self._sources[name]
        await end_tasks([self._running.pop(name) for name in removed])
        for name, plan in plans.items():
            if name not in self._sources:
                if not self._ending:
                    done.append(f"{name} added")
                    self._start(plan, [])
            elif self._sources[name].plan.table != plan.table:
                done.append(f"{name} {self._sources[name].change(plan)}")
        order = {name: self._sources[name] for name in plans if name in self._sources}
        self._sources = order
        self.changed.set()
        return ", ".join(done) or "nothing has changed"

    async def act(self, op: str, source: str | None) -> str:
        """Carry out a request. Raises: SteeringError."""
        if op == "reload":
            if source is not None:
                raise SteeringError("a reload concerns all sources: leave out the source")
            return await self.reload()
        if source is not None and source not in self._sources:
            known = ", ".join(self._sources)
            raise SteeringError(f"there is no source {source!r}; the sources are: {known}")
        chosen = self.sources if source is None else [self._sources[source]]
        words = []
        if op == "mute":
            words = [_not_muted(each) for each in chosen if each.plan.table.can_wait]
            chosen = [each for each in chosen if not each.plan.table.can_wait]
            if not chosen:
                raise SteeringError("; ".join(words))
        for each in chosen:
            words.append(f"{each.name}: {self._act(op, each)}")
            log.info("%s by request: %s", op, words[-1], extra=fields(source=each.name))
        self.changed.set()
        if op in ("mute", "unmute"):
            names = [each.name for each in chosen]
            words.append(await apart(partial(self._mutes.keep, names, muted=op == "mute")))
        return "; ".join(filter(None, words))

    def _act(self, op: str, source: RunningSource) -> str:
        if op == "start":
            return "started" if source.start() else "it is started already"
        if op == "stop":
            return "stopped" if source.stop() else "it is stopped already"
        if op == "mute":
            return "muted" if source.mute(True) else "it is muted already"
        if op == "unmute":
            return "no longer muted" if source.mute(False) else "it is not muted"
        if op == "rotate":
            return "rotated" if source.rotate() else "it has no session"
        if op == "status":
            return source.state.value
        raise SteeringError(f"{op!r} is not possible")

    def presence(self) -> EdgePresence:
        """The state of the agent and its sources."""
        now = datetime.now(UTC)
        errors = [source.error for source in self.sources if source.error]
        return EdgePresence(
            tenant=self.tenant,
            agent=self.agent,
            started_at=self.started_at,
            seen_at=now,
            state="ending" if self._ending else "running",
            sources=[_source_presence(source) for source in self.sources],
            spool=self._spool_presence(),
            last_error=self.last_error or (errors[0] if errors else None),
        )

    def gap_seconds(self) -> dict[str, dict[str, float]]:
        """Seconds that are missing in the session of each source, by cause."""
        running = [(source.name, source.session) for source in self.sources]
        return {name: session.gap_seconds for name, session in running if session is not None}

    def trouble(self) -> str | None:
        """Return a description of the connection's problem, or None if NATS is connected."""
        return connection_text(self.link)

    def _spool_presence(self) -> SpoolPresence:
        unfinished = [] if self._takes is None else self._takes.unfinished
        return spool_presence(
            self.spool, [session for each in unfinished for session in each.take.sessions]
        )


def _not_muted(source: RunningSource) -> str:
    kind = source.plan.table.kind
    what = "a file" if kind == "file" else f"a {kind} with live = false"
    return (
        f"{source.name}: {what} cannot be muted: its audio would be read later, not left out; "
        "stop it instead"
    )


def _source_presence(source: RunningSource) -> SourcePresence:
    reading, session = source.reading, source.session
    heard = reading.input if reading is not None else None
    waiting = source.waiting_for
    return SourcePresence(
        name=source.name,
        kind=source.plan.table.kind,
        device=source.device,
        state=source.state.value,
        level=level_of(heard),
        findings=sorted(findings_of(heard)),
        key=str(session.spec.key) if session is not None else None,
        session_id=session.publisher.session_id if session is not None else None,
        error=source.error or (f"waiting for {waiting}" if waiting else None),
    )
