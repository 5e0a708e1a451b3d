"""The edge program as a process, and readers of what it has published."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from edge_capture.chunks import Chunk
from edge_capture.parser import make_parser
from edge_capture.session import EdgeSession, make_keys, make_sessions
from edge_capture.settings import EdgeSettings, PublishSettings, RequestSettings
from edge_capture.sources import Source
from natterjack.audio import ChunkHeader, decode_chunk_headers
from natterjack.broker.connection import Broker
from natterjack.broker.streams import AUDIO, SESSIONS
from natterjack.settings import load
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey
from tests.forking import launch
from tests.waiting import bound, until
from worker.audio.flac import flac_decoder

_ANNOUNCED = re.compile(r"([\w-]+\.[\w-]+\.[\w-]+) ([0-9a-f-]{36})")


def announced(output: str) -> list[SessionSpec]:
    """The sessions that an edge has announced on its standard output, of which only key and ID are
    meaningful. With `--wait`, lines with the text follow."""
    found = filter(None, map(_ANNOUNCED.fullmatch, output.splitlines()))
    return [
        SessionSpec(session_id=match[2], **SessionKey(*match[1].split("."))._asdict())
        for match in found
    ]


class Edge:
    """A process of `python -m edge_capture` with its output in files."""

    def __init__(
        self,
        directory: Path,
        arguments: tuple[str, ...],
        environment: dict[str, str],
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        *,
        module: str = "edge_capture",
        stdout: int | IO[bytes] | None = None,
    ) -> None:
        """Without `stdout`, standard output goes to a file, too."""
        directory.mkdir()
        self._out, self._err = directory / "out", directory / "err"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("EDGE_", "NATS_"))}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = launch(
                ("-m", module, *arguments), env=clean | environment,
                stdin=stdin, stdout=stdout or out, stderr=err,
            )  # fmt: skip

    @property
    def stdout(self) -> str:
        """All complete lines of standard output."""
        return _lines(self._out)

    @property
    def output(self) -> bytes:
        """Standard output that is not text."""
        return self._out.read_bytes()

    @property
    def stderr(self) -> str:
        """All complete lines of standard error."""
        return _lines(self._err)

    async def says(self, words: str, timeout: float = 20) -> None:
        """Wait until standard error holds `words`."""
        try:
            await until(lambda: words in self.stderr, f"stderr says {words!r}", timeout)
        except AssertionError:
            raise AssertionError(f"no {words!r} in: {self.stderr}") from None

    async def exit_code(self, timeout: float = 30) -> int:
        try:
            await until(lambda: self.process.poll() is not None, "the edge has ended", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.stderr}") from None
        return self.process.wait()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Send SIGKILL and wait until the process has ended."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Kill the process if it is running. Idempotent."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


def _lines(path: Path) -> str:
    """The text of a file without a last line that is still being written."""
    whole, end, _ = path.read_bytes().rpartition(b"\n")
    return (whole + end).decode()


class Recording(NamedTuple):
    """A session as it is stored in the streams."""

    spec: SessionSpec
    headers: list[ChunkHeader]
    payloads: list[bytes]

    def add(self, seq: int, chunk: Chunk) -> None:
        """Append a chunk that was taken from a backlog."""
        self.headers.append(
            ChunkHeader(self.spec.session_id, seq, chunk.pos, chunk.time_ns, chunk.end)
        )
        self.payloads.append(chunk.payload)

    @property
    def payload(self) -> bytes:
        """The audio, decoded."""
        if self.spec.encoding == "flac":
            return b"".join(map(flac_decoder(self.spec.audio_format), self.payloads))
        return b"".join(self.payloads)

    @property
    def samples(self) -> npt.NDArray[np.int16]:
        """Shape (frames,) of a mono linear16 session."""
        return np.frombuffer(self.payload, "<i2")

    @property
    def seconds(self) -> float:
        audio_format = self.spec.audio_format
        return audio_format.seconds(audio_format.frames(len(self.payload)))

    def once_each(self) -> Recording:
        """Return the session without duplicates, in the order of sequence numbers.

        Asserts that duplicates are equal.
        """
        found: dict[int, tuple[ChunkHeader, bytes]] = {}
        for header, payload in zip(self.headers, self.payloads, strict=True):
            assert found.setdefault(header.seq, (header, payload)) == (header, payload)
        chunks = [found[seq] for seq in sorted(found)]
        return Recording(self.spec, [h for h, _ in chunks], [p for _, p in chunks])

    def check_whole(self) -> None:
        """Assert that numbers, positions and times are continuous up to one end mark."""
        audio_format, pos = self.spec.audio_format, 0
        first = self.headers[0].time_ns
        assert [header.seq for header in self.headers] == list(range(len(self.headers)))
        for header, payload in zip(self.headers, self.payloads, strict=True):
            assert header.session_id == self.spec.session_id
            assert header.pos == pos
            assert abs(header.time_ns - first - audio_format.seconds(pos) * 1e9) < 1e6
            pos += self.spec.frames(payload)
        assert [header.end for header in self.headers] == [False] * (len(self.headers) - 1) + [True]


async def captured(source: Source, *arguments: str) -> dict[str, Recording]:
    """Return the sessions that the program makes of a source, by speaker, without a broker.

    `arguments` are flags of `natterjack-edge file`.
    """
    flags = make_parser().parse_args(["file", "unused", *arguments])
    edge, publish = load(EdgeSettings, flags), load(PublishSettings, flags)
    sessions = make_sessions(
        make_keys(edge), source.format, True, edge, publish, load(RequestSettings, flags)
    )
    await feed_all(sessions, source)
    found = {}
    for session in sessions:
        recording = found[session.spec.speaker] = Recording(session.spec, [], [])
        while (taken := session.publisher.backlog.take()) is not None:
            recording.add(*taken)
    return found


async def feed_all(sessions: list[EdgeSession], source: Source) -> None:
    """Feed the whole source to all sessions, and finish them."""
    async for block in source.blocks():
        for session in sessions:
            session.feed(block)
    source.close()
    for session in sessions:
        session.finish()


async def stored(broker: Broker, stream: str) -> list[Msg]:
    """Return every message in a stream, in order."""
    js = broker.client.jetstream()
    count = (await js.stream_info(stream)).state.messages
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, mem_storage=True
    )
    subscription = await js.pull_subscribe("", stream=stream, config=config)
    messages: list[Msg] = []
    while len(messages) < count:
        messages += await subscription.fetch(min(500, count - len(messages)), timeout=bound(5))
    await subscription.unsubscribe()
    return messages


async def requests(broker: Broker) -> list[SessionSpec]:
    """Return the session requests in the queue, without claiming them."""
    js = broker.client.jetstream()
    state = (await js.stream_info(SESSIONS)).state
    messages = [
        await js.get_msg(SESSIONS, seq)
        for seq in range(state.first_seq, state.last_seq + 1)
        if state.messages
    ]
    return [SessionSpec.model_validate_json(message.data or b"") for message in messages]


async def recordings(broker: Broker) -> dict[str, Recording]:
    """Return every session by its speaker."""
    found = {spec.speaker: Recording(spec, [], []) for spec in await requests(broker)}
    for message in await stored(broker, AUDIO):
        recording = found[message.subject.rpartition(".")[2]]
        spec = recording.spec
        size = spec.decoded_bytes(message.data)
        recording.headers.append(decode_chunk_headers(message.headers, size, spec.audio_format))
        recording.payloads.append(message.data)
    return found


async def only_recording(broker: Broker) -> Recording:
    """Return the only session."""
    (recording,) = (await recordings(broker)).values()
    return recording


async def nothing_published(broker: Broker) -> bool:
    js = broker.client.jetstream()
    return not any([(await js.stream_info(name)).state.last_seq for name in (SESSIONS, AUDIO)])


def tone(hertz: float, seconds: float, rate: int, amplitude: float = 0.5) -> npt.NDArray[Any]:
    """Return a sine as float64, shape (frames,)."""
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def loudest_hertz(samples: npt.NDArray[np.int16], rate: int) -> float:
    """Return the strongest frequency."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * rate / len(samples)
