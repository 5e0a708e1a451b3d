"""Worker processes, an edge that sends tone words, and transcripts read from the stream."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp

from edge_capture.delivery.flac import flac_encoder
from natterjack.audio import ChunkHeader, encode_chunk_headers
from natterjack.broker import streams
from natterjack.broker.connection import Broker, connect
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.emulators import pcm, tones
from natterjack.events import (
    DurableEvent,
    Event,
    FinalEvent,
    InterimEvent,
    NoticeEvent,
    StatusEvent,
    TurnEvent,
    parse_event,
)
from natterjack.notices import Note, changes, label, parse_notes
from natterjack.settings import BrokerSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject, session_subject

from ..faults.audit import audit
from ..forking import Process, launch
from ..freezing import freeze
from ..waiting import until

RATE = 16_000
_TAIL_SECONDS = 0.5
"""Silence after the last word."""
UNDISTURBED = {
    "NATTERJACK_LEASE_SECONDS": "60",
    "WORKER_MUTE_SECONDS": "60",
    "WORKER_SEND_BLOCKED_SECONDS": "60",
    "DEEPGRAM_CONNECT_TIMEOUT_SECONDS": "60",
}
"""Settings for tests without faults. With its defaults, a worker treats a machine that stalls for
some seconds as a fault and recovers from it."""
StartWorker = Callable[..., Awaitable["WorkerProcess"]]


class WorkerProcess:
    """A `python -m worker` process whose log is read continuously."""

    arguments: tuple[str, ...] = ("-m", "worker")
    """Arguments of the Python interpreter."""

    def __init__(self, nats_url: str, provider_url: str, **settings: str | None) -> None:
        """A setting of None removes the variable from the environment."""
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("WORKER_", "DEEPGRAM_"))},
            "NATS_URL": nats_url,
            "NATTERJACK_LOG_FORMAT": "json",
            "WORKER_HTTP_PORT": "0",
            "WORKER_PROVIDER": "deepgram",
            "DEEPGRAM_API_KEY": "a-test-key",
            "DEEPGRAM_URL": provider_url,
            "DEEPGRAM_CATCH_UP_RATE": "8",
            **settings,
        }
        self._environment = {k: v for k, v in environment.items() if v is not None}
        self.log: list[dict[str, Any]] = []
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the worker and wait until it is ready."""
        await self.launch()
        try:
            await until(self._ready, "worker ready", 60)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.log}") from None
        assert self.running, f"the worker ended: {self.log}"

    async def _ready(self) -> bool:
        """Whether the worker is ready or has ended.

        The log shows it. If the test chose the HTTP port, the probe shows it, because the log of
        another release may have other words.
        """
        if not self.running or self._environment["WORKER_HTTP_PORT"] == "0":
            return not self.running or self.find("worker ready") is not None
        try:
            return (await self.get("/readyz"))[0] == 200
        except aiohttp.ClientError:
            return False

    async def launch(self) -> None:
        self._process = launch(self.arguments, env=self._environment, stderr=subprocess.PIPE)
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process is not None
        stderr = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stderr), self._process.stderr
        )
        with contextlib.closing(transport):
            async for line in stderr:
                try:
                    self.log.append(json.loads(line))
                except ValueError:
                    self.log.append({"message": line.decode().strip()})

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def find(self, message: str) -> dict[str, Any] | None:
        return next((entry for entry in self.log if message in entry["message"]), None)

    @property
    def stray_lines(self) -> list[str]:
        """Lines not in our log format, and logged exceptions."""
        stray = [entry["message"] for entry in self.log if "level" not in entry]
        return stray + [entry["exception"] for entry in self.log if "exception" in entry]

    @property
    def http(self) -> str:
        if (port := self._environment["WORKER_HTTP_PORT"]) != "0":
            return f"http://127.0.0.1:{port}"
        entry = self.find("waiting for NATS")
        assert entry is not None
        return str(entry["http"])

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Return once it stands still; SIGCONT lets it go on."""
        assert self._process is not None
        freeze(self._process.pid)

    async def wait(self, timeout: float = 20) -> int:
        """Wait for the exit and return the status."""
        assert self._process is not None
        assert self._reading is not None
        try:
            await until(lambda: not self.running, "a worker exits", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; its last log lines: {self.log[-15:]}") from None
        await self._reading
        return self._process.wait()

    async def stop(self) -> None:
        """Kill the worker. Idempotent."""
        if self._process is not None and self.running:
            self._process.kill()
            await self.wait()

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as http, http.get(self.http + path) as answer:
            return answer.status, await answer.text()


class Speaker:
    """An edge with its own connection that sends tone words at `speed` times real time.

    After an error it publishes unacknowledged messages again, as every edge must.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        words: int,
        *,
        speed: float = 4,
        phrase_words: int = 8,
        sample_rate: int = RATE,
        channels: int = 1,
        clock: Callable[[], int] = time.time_ns,
        **spec: Any,
    ) -> None:
        """All channels carry the same audio."""
        self.words = tones.sequence(words)
        how: dict[str, Any] = {
            "phrase_words": phrase_words, "pause_seconds": 0.8, "lead_seconds": 0.3
        }  # fmt: skip
        self._phrase_words = phrase_words
        mono = tones.encode(self.words, sample_rate, tail_seconds=_TAIL_SECONDS, **how)
        self.pcm = pcm.interleave(*[mono] * channels)
        self.places = tones.places(self.words, **how)
        key = {"tenant": "t", "conversation": "c", "speaker": "s"}
        self.spec = SessionSpec(**{**key, "sample_rate": sample_rate, "channels": channels, **spec})
        self.spoken_seconds = 0.0
        self.left_out: set[int] = set()
        """Numbers of chunks that are never published."""
        self.notes: dict[int, str] = {}
        """The Audio-Note of chunks, by their numbers."""
        self._settings = settings
        self._speed = speed
        self._clock = clock
        self._broker: Broker | None = None
        self._going = asyncio.Event()
        self._going.set()

    def pause(self) -> None:
        """Publish nothing more until `go_on`, so that audio is left however long a set-up takes."""
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    def end_soon(self) -> None:
        """Leave out all words after the next pause: nothing more is to happen during them."""
        soon = self.spoken_seconds + 1
        first = next((n for n, place in enumerate(self.places) if place.start > soon), None)
        if first is None or (kept := first - first % -self._phrase_words) >= len(self.words):
            return
        spec = self.spec
        frames = round((self.places[kept - 1].end + _TAIL_SECONDS) * spec.sample_rate)
        self.words, self.places = self.words[:kept], self.places[:kept]
        self.pcm = self.pcm[: frames * spec.audio_format.frame_bytes]

    @property
    def seconds(self) -> float:
        return self.spec.audio_format.frames(len(self.pcm)) / self.spec.sample_rate

    async def speak(
        self, *, end: bool = True, before_chunk: Callable[[int], Any] | None = None
    ) -> None:
        """Open the session and publish its audio. `before_chunk` is called with each number."""
        self._broker = await connect(self._settings, name="speaker")
        try:
            await self._publish(
                session_subject(self.spec.key),
                self.spec.model_dump_json().encode(),
                {"Nats-Msg-Id": self.spec.session_id},
            )
            encode = flac_encoder(self.spec.sample_rate, self.spec.channels)
            frames = self.spec.sample_rate * 80 // 1000
            size = frames * self.spec.audio_format.frame_bytes
            started = time.monotonic()
            for seq in itertools.count():
                chunk = self.pcm[seq * size : (seq + 1) * size]
                if not chunk:
                    break
                if not self._going.is_set():
                    before = time.monotonic()
                    await self._going.wait()
                    started += time.monotonic() - before
                if before_chunk is not None:
                    before_chunk(seq)
                await asyncio.sleep(started + seq * 0.08 / self._speed - time.monotonic())
                if seq in self.left_out:
                    continue
                if self.spec.encoding == "flac":
                    chunk = encode(chunk)
                last = end and (seq + 1) * size >= len(self.pcm)
                header = ChunkHeader(
                    self.spec.session_id, seq, seq * frames, self._clock(), last,
                    self.notes.get(seq, ""),
                )  # fmt: skip
                await self._publish(
                    audio_subject(self.spec.key), chunk, encode_chunk_headers(header)
                )
                self.spoken_seconds = (seq + 1) * 0.08
        finally:
            await self._broker.close()

    async def _publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        assert self._broker is not None
        js = self._broker.client.jetstream()
        while True:
            try:
                await js.publish(subject, payload, timeout=1, headers=headers)
            except Exception:  # noqa: BLE001 - after any error, the message is published again
                await self._broker.wait_connected()
            else:
                return


class Transcript:
    """The durable events of a session, read from the stream."""

    def __init__(self, events: list[DurableEvent]) -> None:
        self.events = events
        self.finals = [event for event in events if isinstance(event, FinalEvent)]
        self.turns = [event for event in events if isinstance(event, TurnEvent)]
        self.states = [event.state for event in events if isinstance(event, StatusEvent)]
        self.closing = [e for e in events if isinstance(e, StatusEvent) and e.closing]

    @property
    def words(self) -> list[str]:
        """The words of the finals, in the form of the vocabulary."""
        return [tones.plain(word.text) for final in self.finals for word in final.words]

    @property
    def word_starts(self) -> list[float | None]:
        """Start of each word in seconds, or None if the provider does not report it."""
        return [word.start for final in self.finals for word in final.words]

    def audit(self, speaker: Speaker, *, estimated: bool = False) -> None:
        """Assert that every word appears once, in order and on time, and that events are valid.
        `estimated`: the provider has no times of words."""
        gaps = None if speaker.left_out else ()
        found = audit(self.events, speaker.words, speaker.places, gaps=gaps, mutated=estimated)
        assert found.clean, f"{found}\n{self.describe()}"
        assert self.turns
        self.audit_notices(speaker)

    def audit_notices(self, speaker: Speaker) -> None:
        """Assert that every notice of the audio appears once, in order, and is on the account."""
        frames = speaker.spec.sample_rate * 80 // 1000
        notes = [
            (seq * frames, note)
            for seq, text in sorted(speaker.notes.items())
            for note in changes(parse_notes(text))
        ]
        events = [event for event in self.events if isinstance(event, NoticeEvent)]
        assert [event.notice for event in events] == list(range(len(notes))), self.describe()
        assert [(e.audio_position, Note(e.code, e.state == "ends")) for e in events] == notes
        account = self.closing[0].account if self.closing else None
        if account is not None:
            assert account.notices == Counter(label(note.code) for _, note in notes)

    def describe(self) -> str:
        """Describe the events in order, for a failing test."""
        lines = []
        for event in self.events:
            if isinstance(event, FinalEvent):
                what = f"{event.start:.2f}-{event.end:.2f} {event.text}"
            elif isinstance(event, StatusEvent):
                what = f"{event.state} {event.reason or ''}"
            else:
                what = str(getattr(event, "event", ""))
            lines.append(f"{event.sequence} e{event.epoch} {event.type} {what}")
        return "\n".join(lines)


async def stored(broker: Broker, spec: SessionSpec) -> Transcript:
    """Read the session's durable events from the stream."""
    store = StreamStore(broker, streams.TRANSCRIPTS)
    await store.start()
    events: list[DurableEvent] = []
    sequence, left = 1, 1
    while left:
        try:
            messages, left = await store.read(
                f"stt.transcript.{spec.key}.>", sequence, batch=500, max_bytes=10**7
            )
        except StoreUnavailable:  # a test may have killed the broker
            await broker.wait_connected()
            continue
        for message in messages:
            sequence = message.sequence + 1
            event = parse_event(message.data)
            if event.session_id == spec.session_id and not isinstance(event, InterimEvent):
                events.append(event)
    return Transcript(events)


async def closed(broker: Broker, spec: SessionSpec, timeout: float = 30) -> Transcript:
    """Wait for the session's closing event and return the transcript."""

    async def look() -> Transcript | None:
        transcript = await stored(broker, spec)
        return transcript if transcript.closing else None

    try:
        found = await until(look, f"session {spec.key} closed", timeout)
    except AssertionError as error:
        details = (await stored(broker, spec)).describe()
        raise AssertionError(f"{error}\n{details}") from None
    assert isinstance(found, Transcript)
    return found


async def queue_empty(broker: Broker, timeout: float = 10, queue: str = streams.SESSIONS) -> None:
    """Wait until every session request is acknowledged."""

    async def look() -> bool:
        info = await broker.client.jetstream().stream_info(queue)
        return info.state.messages == 0

    await until(look, "every request is acknowledged", timeout)


@contextlib.asynccontextmanager
async def live_events(broker: Broker, spec: SessionSpec) -> AsyncIterator[list[Event]]:
    """Yield a growing list of the session's events, as a core NATS subscriber receives them."""
    events: list[Event] = []

    async def take(message: Any) -> None:
        events.append(parse_event(message.data))

    subscription = await broker.client.subscribe(f"stt.transcript.{spec.key}.>", cb=take)
    try:
        yield events
    finally:
        await subscription.unsubscribe()


async def holder(workers: list[WorkerProcess]) -> WorkerProcess:
    """Wait for the worker that streams a session, and return it.

    Holding a session is not enough: the worker may not have written its first event yet.
    """

    async def look() -> WorkerProcess | None:
        for worker in workers:
            if worker.running and '"streaming"' in (await worker.get("/sessions"))[1]:
                return worker
        return None

    found = await until(look, "a worker has the session")
    assert isinstance(found, WorkerProcess)
    return found


async def streaming(broker: Broker, spec: SessionSpec) -> None:
    """Wait until a worker streams the session and accepts control requests."""

    async def look() -> bool:
        return "streaming" in (await stored(broker, spec)).states

    await until(look, f"session {spec.key} is streaming")


async def spoken(speaker: Speaker, seconds: float) -> None:
    """Wait until the speaker has published so many seconds. Workers may be behind, or have
    received nothing yet."""
    await until(lambda: speaker.spoken_seconds >= seconds, f"{seconds} s published", 60)
