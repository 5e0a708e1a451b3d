"""A microphone that speaks tone words, and independent records of what it delivered and when."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator
from dataclasses import dataclass, field

from natterjack.emulators import tones

from ...edge_capture.conftest import SoundServer
from ...waiting import until

_RATE = 16_000
_VOICE_RATE = 48_000
_PHRASE = 8
_PAUSE_SECONDS = 0.8
_RETRY_SECONDS = 0.3
_ALL_WORDS = tones.sequence(75_000)


def boot_time() -> float:
    """Seconds since the machine started, including those in which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Sound(SoundServer):
    """The server of one row, which can lose its microphone without ending."""

    def pactl(self, *arguments: str) -> None:
        """Run pactl. Raises AssertionError if it fails."""
        assert self._control(*arguments), f"pactl {' '.join(arguments)}"

    async def run(self, *command: str, stdin: int = DEVNULL) -> Process:
        """Start a client of the server, with its standard output on a pipe."""
        return await asyncio.create_subprocess_exec(
            *command, env=self._everything, stdin=stdin, stdout=PIPE, stderr=DEVNULL
        )

    def unload(self) -> None:
        """Remove every microphone, as if it were unplugged while the server goes on."""
        self.pactl("unload-module", "module-null-sink")

    def load(self, name: str = "virt", microphone: str = "mic") -> None:
        """Add a microphone, and make it the default one."""
        self.pactl(
            "load-module", "module-null-sink", f"sink_name={name}", "rate=48000", "norewinds=1"
        )
        self.pactl(
            "load-module", "module-remap-source", f"master={name}.monitor",
            f"source_name={microphone}",
        )  # fmt: skip
        self.pactl("set-default-source", microphone)

    async def recording_since(self, pid: int, started: Starts) -> float:
        """When the client `pid` began to record, by the boot clock."""

        async def indexes() -> list[int]:
            listing = await self.run("pactl", "-f", "json", "list", "source-outputs")
            text, _ = await listing.communicate()
            return [
                int(each["index"])
                for each in json.loads(text or b"[]")
                if each.get("properties", {}).get("application.process.id") == str(pid)
            ]

        (index,) = await until(indexes, "the agent records", 30)
        # The server tells its clients one after the other.
        await until(lambda: index in started.at, "the server tells when it began")
        return started.at[index]


class Starts:
    """When each recording of the server's present life began, as the server tells its clients."""

    def __init__(self, sound: Sound) -> None:
        self._sound = sound
        self.at: dict[int, float] = {}
        self._told = False

    async def listening(self) -> None:
        """Return when the server tells what happens: of a client that asks it for something, too.
        A recording that begins earlier may never be told."""

        async def told() -> bool:
            asking = await self._sound.run("pactl", "info")
            await asking.communicate()
            return self._told

        await until(told, "the server tells who comes")

    async def run(self) -> None:
        process = await self._sound.run("pactl", "subscribe")
        try:
            assert process.stdout is not None
            async for line in process.stdout:
                self._told = True
                kind, found, number = line.decode().strip().rpartition("source-output #")
                if found and "'new'" in kind:
                    self.at[int(number)] = boot_time()
        finally:
            await _end(process)


@dataclass
class _Piece:
    """A part of the recording without a break."""

    start: float = float("inf")
    """When its first sample was delivered, by the boot clock."""
    audio: bytearray = field(default_factory=bytearray)


class Recorder:
    """Records a microphone, the default one if no other is named, beside the edge."""

    def __init__(self, sound: Sound, microphone: str | None = None) -> None:
        self._sound = sound
        self._chosen = ("-d", microphone) if microphone else ()
        self._pieces: list[_Piece] = []
        self.hears = False
        """Whether it has recorded anything yet."""

    async def run(self) -> None:
        """Record until canceled. After the server's death, another piece begins."""
        while True:
            process = await self._sound.run(
                "parec", "--raw", "--format=s16le", f"--rate={_RATE}", "--channels=1",
                "--latency-msec=30", *self._chosen,
            )  # fmt: skip
            piece = _Piece()
            try:
                assert process.stdout is not None
                while data := await process.stdout.read(65_536):
                    piece.audio += data
                    self.hears = True
                    seconds = len(piece.audio) / 2 / _RATE
                    # The data that was delayed the least gives the best time.
                    piece.start = min(piece.start, boot_time() - seconds)
            finally:
                if piece.audio:
                    self._pieces.append(piece)
                await _end(process)
            await asyncio.sleep(_RETRY_SECONDS)

    def interruptions(self) -> list[tuple[float, float]]:
        """When it did not record, by the boot clock. To be called after the end."""
        ends = [piece.start + len(piece.audio) / 2 / _RATE for piece in self._pieces]
        starts = [piece.start for piece in self._pieces]
        return list(zip(ends, starts[1:], strict=False))

    @property
    def seconds(self) -> float:
        """Seconds of audio in all pieces but the present one."""
        return sum(len(piece.audio) for piece in self._pieces) / 2 / _RATE

    def words(self) -> Iterator[tones.TimedWord]:
        """Yield the words that the microphone heard, with times by the boot clock. To be called
        after the end."""
        for piece in self._pieces:
            decoder = tones.Decoder(_RATE)
            audio = bytes(piece.audio)
            for word in (*decoder.feed(audio[: len(audio) & ~1]), *decoder.flush()):
                start = piece.start + word.start
                yield tones.TimedWord(word.word, start, piece.start + word.end)


class Player:
    """Speaks tone words at the microphone, in phrases, until it is stopped."""

    def __init__(self, sound: Sound, sink: str = "virt", first: int = 0) -> None:
        """Speak the words from number `first` on."""
        self._sound = sound
        self.sink = sink
        """Where the next phrase is played."""
        self._speaking = asyncio.Event()
        self._silent = asyncio.Event()
        self._silent.set()
        self._next = first

    def go_on(self) -> None:
        self._silent.clear()
        self._speaking.set()

    async def stop(self) -> None:
        """Return when the present phrase has been heard."""
        self._speaking.clear()
        await self._silent.wait()

    async def run(self) -> None:
        """Speak until canceled. A phrase that the server's death interrupts is not repeated."""
        while True:
            if not self._speaking.is_set():
                self._silent.set()
            await self._speaking.wait()
            process = await self._sound.run(
                "pacat", "--raw", "-d", self.sink, "--format=s16le", f"--rate={_VOICE_RATE}",
                "--channels=1", "--latency-msec=200", stdin=PIPE,
            )  # fmt: skip
            try:
                assert process.stdin is not None
                with contextlib.suppress(ConnectionError):
                    while self._speaking.is_set():
                        process.stdin.write(self._phrase())
                        await process.stdin.drain()
                    process.stdin.close()
                await process.wait()
            finally:
                await _end(process)
            await asyncio.sleep(_RETRY_SECONDS)

    def _phrase(self) -> bytes:
        words = _ALL_WORDS[self._next : self._next + _PHRASE]
        self._next += _PHRASE
        return tones.encode(words, _VOICE_RATE, tail_seconds=_PAUSE_SECONDS)


async def _end(process: Process) -> None:
    # Not `process.kill()`, which takes the exit status of one that has ended from the event loop.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    await process.wait()
