"""An edge of tests, which reports to the center."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from edge_capture.delivery.link import Link
from edge_capture.errors import SteeringError
from edge_capture.fleet.reporter import Reporter
from edge_capture.fleet.steering import Steered
from edge_capture.settings import FleetSettings
from natterjack.fleet.edges import EdgePresence, Level, SourcePresence, SpoolPresence
from natterjack.local.embedded import EmbeddedServer
from natterjack.process.run import end_tasks
from natterjack.settings import BrokerSettings


class Room:
    """An edge with one source, which can be muted."""

    def __init__(self, agent: str = "room-12", tenant: str = "acme") -> None:
        self.agent, self.tenant = agent, tenant
        self.changed = asyncio.Event()
        self.state = "capturing"
        self.findings: list[str] = []

    def presence(self) -> EdgePresence:
        now = datetime.now(UTC)
        source = SourcePresence(
            name="mic",
            kind="mic",
            device="USB",
            state=self.state,
            level=Level(peak_dbfs=-12.5, rms_dbfs=-31.4, zeros=0.25),
            findings=self.findings,
            key=f"{self.tenant}.lecture.teacher",
        )
        return EdgePresence(
            tenant=self.tenant,
            agent=self.agent,
            started_at=now,
            seen_at=now,
            sources=[source],
            spool=SpoolPresence(bytes=60, seconds=75, limit_bytes=100),
        )

    async def act(self, op: str, source: str | None) -> str:
        if source not in (None, "mic"):
            raise SteeringError(f"there is no source {source}")
        if op == "reload":
            raise RuntimeError("broken")
        self.state = "muted"
        self.changed.set()
        return "muted mic"


@asynccontextmanager
async def reporting(
    server: EmbeddedServer | BrokerSettings, room: Steered, seconds: float = 300
) -> AsyncIterator[None]:
    link = Link(server if isinstance(server, BrokerSettings) else BrokerSettings(url=server.url))
    connection = asyncio.create_task(link.run())
    reporter = Reporter(room, FleetSettings(agent=room.agent, presence_seconds=seconds))
    report = asyncio.create_task(reporter.run(link))
    try:
        yield
    finally:
        await end_tasks([report])
        await end_tasks([connection])
