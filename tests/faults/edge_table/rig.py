"""One row's own installation: sound server, edge, broker, worker and provider, each a process."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nats.errors import Error as NatsError

from natterjack.audio import AUDIO_POS, AUDIO_TIME, SESSION_ID
from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.events import StatusEvent
from natterjack.fleet.edges import parse_reply
from natterjack.settings import BrokerSettings
from tests.nats_server import NatsServer

from ...edge_capture.program import Edge
from ...emulators.process import RemoteEmulator, emulator_process
from ...freezing import freeze
from ...waiting import until
from ...worker.programs import WorkerProcess
from . import balance, stored, suspended
from .program import TENANT, Options, Program, arguments
from .sound import Player, Recorder, Sound, Starts, boot_time

_LAST_LINES, _WARNINGS = 3, 12
_AGENT = "table"
_REFUSED = "is being captured by agent"
_FEW_SECONDS = 3.2
_END_SECONDS = 60
_NOTED_SECONDS = 0.1
_RATE = 16_000
_CHUNK_SECONDS = 0.08


class Rig:
    """The installation of one row. Faults are applied to its parts."""

    def __init__(
        self,
        directory: Path,
        options: Options | None = None,
        worker: Mapping[str, str] | None = None,
        program: Program = "mic",
    ) -> None:
        """The edge is `program`, and told `options`. `worker`: its variables."""
        self.directory = directory
        self.program = program
        self.server = NatsServer(directory / "nats")
        self.sound: Sound
        self.emulator: RemoteEmulator
        self.worker: WorkerProcess
        self.broker: Broker
        self.edge: Edge
        self.player: Player
        self.notes: list[str] = []
        self.problems: list[str] = []
        self._recorder: Recorder
        self._options = options or Options()
        self._worker_settings = worker or {}
        self._clock = directory / "suspended"
        self._suspended = 0.0
        self._ahead = 0.0
        self._epoch = time.time() - boot_time()
        self._started = 0.0
        self._captured_until = 0.0
        """The end of the last chunk by the wall clock of the edge, in seconds since 1970."""
        self._edges = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All programs, from before the edge starts until after it has ended."""
        suspended.write(self._clock, 0.0)
        async with contextlib.AsyncExitStack() as stack:
            self.server.start()
            stack.callback(self.server.stop)
            self.sound = Sound(_folder(self.directory, "p"))
            stack.callback(self.sound.kill)
            await self.sound.start()
            self.emulator = await stack.enter_async_context(emulator_process("deepgram"))
            settings = BrokerSettings(url=self.server.url)
            self.broker = await stack.enter_async_context(connected(settings, name="table"))
            self.worker = WorkerProcess(self.server.url, self.emulator.url, **self._worker_settings)
            stack.push_async_callback(self.worker.stop)
            await self.worker.start()
            starts = Starts(self.sound)
            self._recorder, self.player = Recorder(self.sound), Player(self.sound)
            for work in (starts.run(), self._recorder.run(), self.player.run()):
                stack.push_async_callback(_cancel, _task(work))
            await starts.listening()
            self.edge = self.start_edge()
            stack.callback(self.edge.end)
            await until(lambda: self.edge.stdout, "the agent records", 60)
            pid = self.edge.process.pid
            self._started = await self.sound.recording_since(pid, starts)
            await until(lambda: self._recorder.hears, "the recorder hears the microphone")
            self.player.go_on()
            yield

    def start_edge(self) -> Edge:
        """Start an agent at the row's microphone and with its key."""
        self._edges += 1
        environment = {
            **self.sound.environment,
            "NATS_URL": self.server.url,
            "EDGE_AGENT": f"{_AGENT}{self._edges}",
            "SUSPENDED_SECONDS": str(self._clock),
        }
        edge = Edge(
            self.directory / f"edge{self._edges}",
            arguments(self.program, self._options, self.directory), environment,
            module="tests.faults.edge_table.suspended",
        )  # fmt: skip
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, edge.process.pid, 0)  # not that of the instruments
        return edge

    # ---- faults ------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def stopped_agent(self) -> AsyncIterator[None]:
        freeze(self.edge.process.pid)
        try:
            yield
        finally:
            self.edge.process.send_signal(signal.SIGCONT)

    def give_way(self, nice: int) -> None:
        """Let every other process run before the agent."""
        for thread in Path(f"/proc/{self.edge.process.pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), nice)

    def suspend(self, seconds: float) -> None:
        """Let the machine of the edge have been suspended for so long."""
        self._suspended += seconds
        suspended.write(self._clock, self._suspended, self._ahead)

    def set_clock(self, seconds: float) -> None:
        """Set the wall clock of the edge's machine ahead, or back if negative."""
        self._ahead += seconds
        suspended.write(self._clock, self._suspended, self._ahead)

    async def budget(self, seconds: int) -> None:
        """Set the tenant's budget."""
        subject = streams.bucket_subject(streams.BUDGETS_BUCKET, f"tenant.{TENANT}")
        await self.broker.client.jetstream().publish(subject, str(seconds).encode())

    # ---- waiting -----------------------------------------------------------------------------

    async def delivered(self, timeout: float) -> None:
        """Wait until the broker has stored what the edge has captured. Raises: AssertionError."""
        await self.agrees(self._caught_up, "the edge has caught up", timeout)

    async def _caught_up(self) -> bool:
        """Whether the first edge has little that is not stored, as it tells itself."""
        try:
            reply = await self.broker.client.request(
                f"stt.edge.{TENANT}.{_AGENT}1", b'{"op":"status"}', timeout=2
            )
        except NatsError:  # it is about to connect again
            return False
        found = parse_reply(reply.data)
        spool = found.presence.spool if found and found.presence else None
        return spool is not None and (spool.seconds or 0) <= _FEW_SECONDS

    async def agrees(self, condition: Callable[[], object], what: str, timeout: float) -> None:
        """Wait for a condition that the edge brings about, which may be a coroutine function.

        Raises: AssertionError with all that is known of the edge, also if it has ended.
        """

        async def holds() -> object:
            found = condition()
            return await found if inspect.isawaitable(found) else found

        async def holds_or_ended() -> object:
            return self._ended or await holds()

        try:
            await until(holds_or_ended, what, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; {await self.state()}") from None
        if self._ended and not await holds():
            raise AssertionError(f"not any more: {what}; {await self.state()}")

    async def refused(self, second: Edge) -> None:
        """Wait until a second edge does not capture what this one does, and end it.

        Raises: AssertionError if it does.
        """
        if self.program == "run":  # an agent goes on: another source of it may be free
            await until(lambda: _REFUSED in second.stderr, "the second agent is refused", 20)
            second.process.send_signal(signal.SIGTERM)
        await until(lambda: second.process.poll() is not None, "the second agent ends", 20)
        assert _REFUSED in second.stderr, "the second agent was not refused"

    @property
    def _ended(self) -> bool:
        return self.edge.process.poll() is not None

    async def state(self) -> str:
        """Describe the edge and its sound server in several lines, for the message of a failure."""
        code = self.edge.process.poll()
        agent = "runs" if code is None else f"has ended with status {code}"
        server = "runs" if self.sound.running else "has ended"
        stacks = await self._stacks() if code is None else ""
        lines = [f"the edge {agent}, the sound server {server}; the edge's log ends with"]
        return "\n".join([*lines, *self._last_lines(), stacks])

    async def _stacks(self) -> str:
        """Return the stacks of all threads of the edge."""
        path = suspended.stacks_of(self._clock, self.edge.process.pid)
        self.edge.process.send_signal(suspended.SHOW_STACKS)
        seen = [""]

        def written() -> bool:
            """It is written piece by piece: what no longer grows, up to the end of a line."""
            seen.append(path.read_text() if path.exists() else "")
            return seen[-1] == seen[-2] and seen[-1].endswith("\n")

        try:
            await until(written, "it shows its stacks", 5)
        except AssertionError:
            return seen[-1] or "it does not show its stacks"
        return seen[-1]

    # ---- the end -----------------------------------------------------------------------------

    async def finish(self, result: balance.Result) -> None:
        """End the run at the end of a phrase, as Ctrl-C does, and find out what became of it."""
        await self.player.stop()
        await asyncio.sleep(1)  # silence after the last word
        ended, signaled = boot_time(), datetime.now(UTC)
        self.edge.interrupt()
        try:
            await self.agrees(lambda: self._ended, "the edge has ended", _END_SECONDS)
            result.exit_code = self.edge.process.wait()
        except AssertionError as error:
            self.problems.append(str(error))
        # On a busy machine the edge goes on capturing until it gets to handle the signal.
        late = ((self._stopped_at() or signaled) - signaled).total_seconds()
        late -= self._suspended + self._ahead
        if late > _NOTED_SECONDS:
            self.notes.append(f"the edge handled the signal {late:.2f} s after it was sent")
        result.wall = ended + late + self._suspended - self._started
        result.last_lines = self._last_lines()
        try:
            await until(self._all_closed, "every session is closed", _END_SECONDS)
        except AssertionError as error:
            self.problems.append(str(error))
        events = await stored.events(self.broker, TENANT)
        result.published, gaps = await self._published()
        captured = self._captured_until - self._epoch - self._ahead - self._started
        if 0 < (longer := captured - result.wall) < self._stopping_seconds():
            result.wall = captured
            if longer > _NOTED_SECONDS:
                self.notes.append(f"it captured for {longer:.2f} s after that, before it ended")
        self._gaps = [*gaps, *balance.gaps_of(events)]
        result.sums = balance.add_up(events)
        # The recorder's words are complete only once it has been canceled.
        result.notes, result.problems = self.notes, self.problems
        self._events_at_end = events

    def _stopped_at(self) -> datetime | None:
        """When the edge began to handle the signal that ends it, by its log and its own clock. None
        if it did not."""
        lines = [e for e in log_of(self.edge) if e["message"].startswith("stopping;")]
        return datetime.fromisoformat(lines[0]["time"]) if lines else None

    def _stopping_seconds(self) -> float:
        """Seconds from when the edge began to handle the signal until the next line of its log,
        which it writes when its source is closed. On a busy machine, it captures meanwhile."""
        times = [
            datetime.fromisoformat(entry["time"])
            for entry in itertools.dropwhile(
                lambda entry: not entry["message"].startswith("stopping;"), log_of(self.edge)
            )
        ]
        return (times[1] - times[0]).total_seconds() if len(times) > 1 else 0.0

    def _last_lines(self) -> list[str]:
        """Return the agent's warnings, and the last lines of its log."""
        log = log_of(self.edge)
        warnings = [entry for entry in log[:-_LAST_LINES] if entry["level"] != "info"]
        left_out = len(warnings) - _WARNINGS
        lines = [_text(entry) for entry in warnings[:_WARNINGS]]
        lines += [f"and {left_out} more warnings"] if left_out > 0 else []
        return lines + [_text(entry) for entry in log[-_LAST_LINES:]]

    def words(self) -> balance.Words:
        """Compare the words. To be called after the end."""
        return balance.compare(
            list(self._recorder.words()),
            balance.transcript(self._events_at_end),
            self._gaps,
            self._recorder.interruptions(),
        )

    async def _all_closed(self) -> bool:
        info = await self.broker.client.jetstream().stream_info(streams.SESSIONS)
        sessions = balance.by_session(await stored.events(self.broker, TENANT))
        return info.state.messages == 0 and all(
            any(isinstance(event, StatusEvent) and event.closing for event in own)
            for own in sessions.values()
        )

    async def _published(self) -> tuple[float, list[tuple[float, float]]]:
        """Seconds of audio that the broker has stored, even if it has expired since, and the gaps
        in what has not: an account lists only some of them."""
        seconds, gaps, ends = 0.0, [], dict[str, float]()
        async for message in stored.messages(self.broker, streams.AUDIO, f"stt.audio.{TENANT}.>"):
            headers, length = message.headers, len(message.data) / 2 / _RATE
            start = int(headers[AUDIO_POS]) / _RATE
            end = ends.get(headers[SESSION_ID], start)
            if start > end:
                gaps.append((end, start))
            ends[headers[SESSION_ID]] = start + length
            self._captured_until = int(headers[AUDIO_TIME]) / 1e9 + length
            seconds += length
        info = await self.broker.client.jetstream().stream_info(streams.AUDIO)
        expired = max(0, info.state.first_seq - 1) * _CHUNK_SECONDS
        return seconds + (expired if ends else 0.0), gaps


def _text(entry: Mapping[str, Any]) -> str:
    """A log line: time of day, message and fields."""
    fields = {n: v for n, v in entry.items() if n not in ("time", "level", "message", "session")}
    return f"{entry['time'][11:21]} {entry['message']} {fields or ''}".rstrip()


def log_of(edge: Edge) -> list[dict[str, Any]]:
    """The log lines of an agent."""
    found = []
    for line in edge.stderr.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _folder(directory: Path, name: str) -> Path:
    folder = directory / name
    folder.mkdir()
    return folder


def _task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.create_task(work)


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task. Raises what ended it before."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
