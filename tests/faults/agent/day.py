"""A day of one agent with four sources, in minutes: `python -m tests.faults.agent.day`.

The sources are recordings, whose clock is that of their positions, published as fast as the broker
takes them. Their sessions rotate at each full hour of that clock. The broker and the agent are real
processes. Everything that is published is counted as it passes. Nothing is transcribed, but each
session is said to stream when its first chunk is stored, and to be closed after its last one, as a
worker does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from nats.aio.msg import Msg

from natterjack.audio import AUDIO_END, AUDIO_POS, AUDIO_TIME, SESSION_ID
from natterjack.broker.connection import connected
from natterjack.broker.streams import ensure
from natterjack.events import StatusEvent, StatusState
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.subjects import SessionKey, transcript_subject
from tests.nats_server import NatsServer

from ...edge_capture.program import Edge
from ...waiting import until
from ..edge_table.rig import log_of
from ..fleet import resident_bytes
from ..soak import environment

SOURCES = 4
RATE = 4000
_HOUR = 3600
_SAMPLES = 20
"""How often memory is looked at."""
_FLAT_BYTES = 5_000_000
"""By how much memory may grow over the last three quarters of a day."""
_MAX_LINES = 200
"""Log lines of a day."""


@dataclass
class Session:
    """The audio that was published of one session."""

    key: SessionKey
    session_id: str
    begin_ns: int
    frames: int = 0
    holes: int = 0
    closed: bool = False

    def status(self, state: StatusState) -> bytes:
        """The event with which a worker says so, and that all of it is transcribed."""
        closing = state == "closed"
        event = StatusEvent(
            session_id=self.session_id, **self.key._asdict(), epoch=1, sequence=int(closing),
            published_at=datetime.now(UTC), worker="stand-in", state=state,
            reason="end of audio" if closing else None,
            audio_position=self.frames if closing else None,
        )  # fmt: skip
        return event.model_dump_json(by_alias=True, exclude_none=True).encode()


@dataclass
class Outcome:
    """The result of a day."""

    hours: float
    seconds: float = 0.0
    sessions: dict[str, dict[str, Session]] = field(default_factory=dict)
    """By source and session."""
    memory: list[int] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    exit_code: int | None = None

    @property
    def problems(self) -> list[str]:
        """Descriptions of all that is wrong with the result."""
        found = [] if self.exit_code == 0 else [f"exit status {self.exit_code}"]
        wanted = round(self.hours * _HOUR * RATE)
        for source, sessions in sorted(self.sessions.items()):
            frames = sum(session.frames for session in sessions.values())
            if frames != wanted:
                found.append(f"{source}: {frames} frames of {wanted} were published")
            if holes := sum(session.holes for session in sessions.values()):
                found.append(f"{source}: {holes} holes")
            ordered = sorted(sessions.values(), key=lambda session: session.begin_ns)
            for before, after in itertools.pairwise(ordered):
                end_ns = before.begin_ns + before.frames * 1_000_000_000 // RATE
                if abs(after.begin_ns - end_ns) > 1_000_000:
                    found.append(f"{source}: a session begins {after.begin_ns - end_ns} ns late")
            off = [s.begin_ns / 1e9 % _HOUR for s in ordered[1:]]
            if any(min(each, _HOUR - each) > 1 for each in off):
                found.append(f"{source}: a session does not begin at a full hour")
            if not self.hours <= len(sessions) <= self.hours + 2:
                found.append(f"{source}: {len(sessions)} sessions in {self.hours:g} hours")
            if open_ := sum(not session.closed for session in sessions.values()):
                found.append(f"{source}: {open_} sessions have not ended")
        if self.hours >= 24:
            quarter = self.memory[len(self.memory) // 4 :]
            if (grown := quarter[-1] - quarter[0]) > _FLAT_BYTES:
                found.append(f"memory has grown by {grown / 1e6:.1f} MB after a quarter of it")
            if len(self.log) > _MAX_LINES * self.hours / 24:
                found.append(f"{len(self.log)} log lines")
        if len(self.sessions) != SOURCES:
            found.append(f"{len(self.sessions)} sources were captured")
        return found

    def lines(self) -> list[str]:
        """A summary."""
        counts = [len(sessions) for sessions in self.sessions.values()]
        early, late = self.memory[len(self.memory) // 4] / 1e6, self.memory[-1] / 1e6
        return [
            f"{self.hours:g} hours of {len(counts)} sources in {self.seconds / 60:.1f} minutes: "
            f"{sum(counts)} sessions, {len(self.log)} log lines",
            f"memory: {early:.1f} MB after a quarter of it, {late:.1f} MB at the end, at most "
            f"{max(self.memory) / 1e6:.1f} MB",
            *(f"problem: {problem}" for problem in self.problems),
        ]


def _configure(directory: Path, seconds: float) -> Path:
    recording = directory / "day.wav"
    with wave.open(str(recording), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        minute = bytes(range(256)) * (60 * RATE * 2 // 256) + bytes(60 * RATE * 2 % 256)
        left = round(seconds * RATE) * 2
        while left:
            file.writeframes(minute[:left])
            left -= min(left, len(minute))
    lines = [
        'agent = "room"', 'tenant = "t"', "[delivery]", "catch_up_rate = 0",
        "[defaults]", 'conversation = "{source}-{time}"', "chunk_ms = 1000",
        "publish_sample_rate = 0", "rotate.every_minutes = 60", "rotate.wait_seconds = 0",
        'time_zone = "UTC"',
    ]  # fmt: skip
    for number in range(SOURCES):
        lines += [
            "[[sources]]", f'name = "source{number}"', 'kind = "file"', 'speed = "max"',
            f'path = "{recording}"',
        ]  # fmt: skip
    path = directory / "edge.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


async def day(hours: float, say: Callable[[str], None]) -> Outcome:
    """Run so many hours."""
    outcome, began = Outcome(hours), time.monotonic()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="day")))
        server = NatsServer(directory / "nats")
        server.start()
        stack.callback(server.stop)
        settings = StreamSettings(audio_max_bytes=256 << 20)
        async with connected(BrokerSettings(url=server.url), name="day", once=True) as broker:
            await ensure(broker, settings)

            async def count(message: Msg) -> None:
                session = _count(outcome, message)
                if (state := _state(session, message)) is not None:
                    subject = transcript_subject(session.key, "status")
                    broker.client.post(subject, session.status(state))

            await broker.client.subscribe("stt.audio.t.>", cb=count)
            config = _configure(directory, hours * _HOUR)
            edge = Edge(
                directory / "edge", ("run", "--config", str(config)), {"NATS_URL": server.url}
            )
            stack.callback(edge.end)
            wanted = SOURCES * round(hours * _HOUR * RATE)

            def done() -> int:
                return sum(s.frames for each in outcome.sessions.values() for s in each.values())

            for step in range(1, _SAMPLES + 1):
                await until(
                    lambda step=step: done() >= wanted * step // _SAMPLES,
                    f"{step} of {_SAMPLES} parts are published", 300,
                )  # fmt: skip
                outcome.memory.append(resident_bytes(edge.process.pid))
                past = done() / SOURCES / RATE / _HOUR
                say(f"{past:.1f} hours, {outcome.memory[-1] / 1e6:.0f} MB")
            edge.process.send_signal(signal.SIGTERM)
            outcome.exit_code = await edge.exit_code(60)
            outcome.log = [json.dumps(entry) for entry in log_of(edge)]
    outcome.seconds = time.monotonic() - began
    return outcome


def _count(outcome: Outcome, message: Msg) -> Session:
    """Count a chunk. The broker delivers those of a session in the order of their positions."""
    headers = message.headers or {}
    key = SessionKey(*message.subject.split(".")[2:])
    position, at = int(headers[AUDIO_POS]), int(headers[AUDIO_TIME])
    sessions = outcome.sessions.setdefault(key.conversation.partition("-")[0], {})
    session_id = headers[SESSION_ID]
    session = sessions.setdefault(session_id, Session(key, session_id, at))
    session.holes += position > session.frames
    session.frames = max(session.frames, position + len(message.data) // 2)
    return session


def _state(session: Session, message: Msg) -> StatusState | None:
    """Return what a worker says of a session after this chunk, if anything."""
    headers = message.headers or {}
    if AUDIO_END in headers and not session.closed:
        session.closed = True
        return "closed"
    return "streaming" if headers[AUDIO_POS] == "0" else None


def main() -> int:
    """Run a day and return the exit status: 1 if something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.agent.day",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hours", type=float, default=24, help="hours (default 24)")
    arguments = parser.parse_args()
    outcome = asyncio.run(day(arguments.hours, lambda line: print(line, file=sys.stderr)))
    print(environment(), "", *outcome.lines(), sep="\n")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
