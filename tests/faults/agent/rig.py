"""An agent with four sources, and all that it needs: each a process that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from nats.errors import Error as NatsError

from natterjack.audio import AUDIO_POS, AUDIO_TIME, SESSION_ID
from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.emulators.tones import TimedWord
from natterjack.fleet.edges import parse_reply
from natterjack.process.run import end_tasks
from natterjack.settings import BrokerSettings
from tests.nats_server import NatsServer

from ...edge_capture.program import Edge
from ...emulators.process import RemoteEmulator, emulator_process
from ...waiting import until
from ..edge_table import stored, suspended
from ..edge_table.rig import log_of
from ..edge_table.sound import Player, Recorder, Sound
from ..fleet import Line, Seat, resident_bytes, worker_environment
from .account import Account, Take, account
from .voices import RATE, Pipe, Station, Voice, reader

TENANT, AGENT = "t", "room"
MICROPHONES = {"front": ("virt", "mic"), "back": ("virt2", "mic2")}
"""The sources that are microphones, with their sink, which speaks to them, and their name."""
SOURCES = (*MICROPHONES, "pipe", "radio")
_APART = 18_000
"""Words between the first ones of two sources."""
_ALSA = """
pcm.{0} {{ type pulse device {0} hint {{ show on description "{0}" }} }}
"""
_END_SECONDS = 120


class AgentRig:
    """The installation. Faults are applied to its parts."""

    def __init__(self, directory: Path, spool: Path | None = None) -> None:
        self.directory = directory
        self.server = NatsServer(directory / "nats")
        self.line: Line
        """The agent's connection to the broker."""
        self.sound: Sound
        self.seat: Seat
        self.emulator: RemoteEmulator
        self.broker: Broker
        self.edge: Edge
        self.pipe = Pipe(directory / "pipe", lambda: self.now)
        self.station = Station()
        self.voices: dict[str, Player | Voice] = {}
        self.recorders: dict[str, Recorder] = {}
        self.away: list[tuple[float, float]] = []
        """When the agent did not run or a source was stopped, by its clock."""
        self.memory: list[int] = []
        self.suspended = 0.0
        self.unread_seconds = 0.0
        """The longest time in which nobody read the pipe although its source was captured."""
        self.problems: list[str] = []
        self._spool = spool or directory / "spool"
        self._clock = directory / "suspended"
        self._numbers = itertools.count()
        self._revision = 0
        self._recording: list[asyncio.Task[None]] = []
        self.edges: list[Edge] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All programs, with the agent capturing all its sources."""
        suspended.write(self._clock, 0.0)
        async with contextlib.AsyncExitStack() as stack:
            self.server.start()
            stack.callback(self.server.stop)
            folder = self.directory / "p"
            folder.mkdir()
            self.sound = Sound(folder)
            with (folder / "asound.conf").open("a") as file:
                file.writelines(_ALSA.format(name) for _, name in MICROPHONES.values())
            stack.callback(self.sound.kill)
            await self.start_sound()
            self.emulator = await stack.enter_async_context(emulator_process("deepgram"))
            self.line = await stack.enter_async_context(Line([self.server]))
            worker = await stack.enter_async_context(Line([self.server]))
            environment = {
                **worker_environment({"deepgram": self.emulator}),
                "WORKER_PROVIDER": "deepgram", "WORKER_MAX_SESSIONS": "64",
                "NATTERJACK_AUDIO_MAX_AGE_SECONDS": "86400",
            }  # fmt: skip
            self.seat = Seat(worker, environment)
            await self.seat.worker.start()
            stack.push_async_callback(self._stop_worker)
            settings = BrokerSettings(url=self.server.url)
            self.broker = await stack.enter_async_context(connected(settings, name="audit"))
            await self.station.open()
            stack.push_async_callback(self.station.close)
            stack.callback(self.pipe.close)
            for number, (source, work) in enumerate(self._speakers()):
                self.voices[source] = work(number * _APART)
            for voice in self.voices.values():
                stack.push_async_callback(end_tasks, [asyncio.create_task(voice.run())])
            self._recording = [asyncio.create_task(r.run()) for r in self.recorders.values()]
            stack.push_async_callback(end_tasks, self._recording)
            self.start()
            stack.callback(lambda: self.edge.end())
            await self.captures()
            await until(
                lambda: all(recorder.hears for recorder in self.recorders.values()),
                "the recorders hear the microphones",
            )
            self.pipe.unread.clear()
            for voice in self.voices.values():
                voice.go_on()
            yield

    def _speakers(self) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        for source, (sink, microphone) in MICROPHONES.items():
            self.recorders[source] = Recorder(self.sound, microphone)
            found.append((source, lambda first, sink=sink: Player(self.sound, sink, first)))
        found.append(("pipe", lambda first: Voice(self.pipe.write, first)))
        found.append(("radio", lambda first: Voice(self.station.write, first)))
        return found

    async def _stop_worker(self) -> None:
        await self.seat.worker.stop()

    # ---- parts -------------------------------------------------------------------------------

    async def start_sound(self) -> None:
        """Start the sound server with both microphones."""
        await self.sound.start()
        self.sound.load(*MICROPHONES["back"])
        self.sound.pactl("set-default-source", "mic")

    def configure(self) -> None:
        """Write the agent's configuration file. Each time, the sessions have another label."""
        self._revision += 1
        program = reader(self.directory / "stand-in-for-ffmpeg")
        lines = [
            f'agent = "{AGENT}"', f'tenant = "{TENANT}"',
            "[spool]", f'directory = "{self._spool}"',
            "[delivery]", "catch_up_rate = 8", "finish_seconds = 90",
            "[defaults]", 'conversation = "{source}-{time}"',
        ]  # fmt: skip
        for source, (_, microphone) in MICROPHONES.items():
            lines += [
                "[[sources]]", f'name = "{source}"', 'kind = "microphone"',
                f'device = "{microphone}"', "device_wait_seconds = 3600",
                f'labels = {{ revision = "{self._revision}" }}',
            ]  # fmt: skip
        lines += [
            "[[sources]]", 'name = "pipe"', 'kind = "pipe"', "raw = true",
            f'path = "{self.directory / "pipe"}"', f"sample_rate = {RATE}",
            "[[sources]]", 'name = "radio"', 'kind = "stream"', f'ffmpeg = "{program}"',
            f'url = "tcp://127.0.0.1:{self.station.port}"', "wait_seconds = 3600",
        ]  # fmt: skip
        (self.directory / "edge.toml").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start the agent."""
        self.configure()
        environment = {
            **self.sound.environment, "NATS_URL": self.line.url,
            "SUSPENDED_SECONDS": str(self._clock),
        }  # fmt: skip
        self.edge = Edge(
            self.directory / f"edge{next(self._numbers)}",
            ("run", "--config", str(self.directory / "edge.toml")), environment,
            module="tests.faults.edge_table.suspended",
        )  # fmt: skip
        self.edges.append(self.edge)

    @property
    def now(self) -> float:
        """The time by the agent's clock."""
        return time.time() + self.suspended

    def suspend(self, seconds: float) -> None:
        """Let the agent's machine have been suspended for so long."""
        self.suspended += seconds
        suspended.write(self._clock, self.suspended)

    async def request(self, op: str, source: str | None) -> str:
        """Send a request to the agent, as `natterjack edges` does. Returns the answer.

        Raises: nats.errors.Error if it does not answer.
        """
        reply = await self.broker.client.request(
            f"stt.edge.{TENANT}.{AGENT}",
            json.dumps({"op": op, "source": source}).encode(), timeout=10,
        )  # fmt: skip
        return reply.data.decode()

    # ---- waiting -----------------------------------------------------------------------------

    async def captured_again(self, source: str) -> None:
        """Wait until a source has audio again. Raises: AssertionError."""

        async def captured() -> bool:
            with contextlib.suppress(NatsError):  # it may be about to connect again
                reply = parse_reply((await self.request("status", None)).encode())
                presence = reply.presence if reply else None
                return presence is not None and any(
                    each.name == source and each.state == "capturing" for each in presence.sources
                )
            return False

        await until(captured, f"{source} is captured again", 60)

    async def captures(self) -> None:
        """Wait until the agent captures all its sources: each has said so.

        Raises: AssertionError with the end of its log.
        """

        def all_captured() -> bool:
            found = {
                entry.get("source")
                for entry in log_of(self.edge)
                if entry["message"].startswith("capturing")
            }
            return found >= set(SOURCES) or self.edge.process.poll() is not None

        try:
            await until(all_captured, "all sources are captured", 60)
            assert self.edge.process.poll() is None, "the agent has ended"
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.edge.stderr[-4000:]}") from None
        self.note_memory()

    def note_memory(self) -> None:
        """Note the agent's memory."""
        with contextlib.suppress(OSError, ProcessLookupError):
            self.memory.append(resident_bytes(self.edge.process.pid))

    # ---- the end -----------------------------------------------------------------------------

    async def finish(self) -> list[Account]:
        """End the agent as systemd does, and account for each source."""
        for voice in self.voices.values():
            await voice.stop()
        await asyncio.sleep(1.5)  # silence after the last word
        self.note_memory()
        self.edge.process.send_signal(signal.SIGTERM)
        try:
            code = await self.edge.exit_code(_END_SECONDS)
            if code:
                self.problems.append(f"the agent ended with exit status {code}")
        except AssertionError as error:
            self.problems.append(str(error)[-2000:])
        try:
            await until(self._queue_empty, "every session has ended", _END_SECONDS)
        except AssertionError as error:
            self.problems.append(str(error))
        await end_tasks(self._recording)  # which completes what they have heard
        return await self._accounts()

    async def _queue_empty(self) -> bool:
        info = await self.broker.client.jetstream().stream_info(streams.SESSIONS)
        return not info.state.messages

    async def _accounts(self) -> list[Account]:
        takes: dict[str, Take] = {}
        async for message in stored.messages(self.broker, streams.AUDIO, f"stt.audio.{TENANT}.>"):
            key = message.subject.removeprefix("stt.audio.")
            session_id = message.headers[SESSION_ID]
            take = takes.setdefault(session_id, Take(key, session_id, RATE))
            frames = len(message.data) // 2
            take.add(int(message.headers[AUDIO_POS]), frames, int(message.headers[AUDIO_TIME]))
        events = await stored.events(self.broker, TENANT)
        self._unread()
        return [self._account(source, takes, events) for source in SOURCES]

    def _account(self, source: str, takes: dict[str, Take], events: Sequence[Any]) -> Account:
        def own(key: str) -> bool:
            return key.split(".")[1].startswith(f"{source}-")

        recorder = self.recorders.get(source)
        away = self.away if source != "pipe" else [*self.away, *self.pipe.unread]
        return account(
            source,
            self.words(source),
            [take for take in takes.values() if own(take.key)],
            [event for event in events if own(str(event.key))],
            away,
            exact=recorder is not None,
            unheard=recorder.interruptions() if recorder is not None else (),
        )

    def _unread(self) -> None:
        """Note how long nobody read the pipe although its source was captured."""
        for begin, end in self.pipe.unread:
            if not any(a < end and begin < b for a, b in self.away):
                self.unread_seconds = max(self.unread_seconds, end - begin)

    def words(self, source: str) -> list[TimedWord]:
        """Return the words that were said at a source."""
        voice = self.voices[source]
        if isinstance(voice, Voice):
            return voice.said
        return list(self.recorders[source].words())
