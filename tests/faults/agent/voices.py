"""Sources that speak tone words in real time: into a named pipe, and to clients of a TCP port.

What nobody takes is lost, as with people who speak: the record of what was said goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from natterjack.emulators import tones

from ..edge_table.sound import boot_time

RATE = 16_000
_BLOCK_S = 0.04
"""A word and the time to the next one are whole numbers of blocks."""
_WORD_BLOCKS = round(tones.WORD_SECONDS / _BLOCK_S)
_STEP_BLOCKS = _WORD_BLOCKS + round(tones.GAP_SECONDS / _BLOCK_S)
_PHRASE = 8
_PAUSE_S = 0.8
_WORDS = tones.sequence(75_000)
_MOST_UNSENT_BYTES = 64_000


class Voice:
    """Speaks in phrases, and is silent in real time when it does not."""

    def __init__(self, send: Callable[[bytes], None], first: int) -> None:
        """Speak the words from number `first` on. `send` takes each block."""
        self._send = send
        self._next = first
        self._speaking = False
        self.said: list[tones.TimedWord] = []
        """The words that were said, with times by the boot clock."""
        self._word_ended = asyncio.Event()

    def go_on(self) -> None:
        self._speaking = True

    async def stop(self) -> None:
        """Return when the present phrase has been said."""
        self._speaking = False
        count = -1
        while count != len(self.said) or (self.said and self.said[-1].end > boot_time()):
            count = len(self.said)
            await asyncio.sleep(0.1)  # between two looks

    async def between_words(self) -> None:
        """Return when the next block begins no word, and ends none."""
        self._word_ended.clear()
        await self._word_ended.wait()

    async def run(self) -> None:
        """Speak until canceled."""
        start, frames = boot_time(), 0
        while True:
            audio = tones.silence(_BLOCK_S, RATE)
            if self._speaking:
                words = _WORDS[self._next : self._next + _PHRASE]
                self._next += _PHRASE
                begin = start + frames / RATE
                self.said += [
                    tones.TimedWord(word.word, begin + word.start, begin + word.end)
                    for word in tones.places(words)
                ]
                audio = tones.encode(words, RATE, tail_seconds=_PAUSE_S)
            step = round(_BLOCK_S * RATE) * 2
            for at in range(0, len(audio), step):
                block = audio[at : at + step]
                frames += len(block) // 2
                await asyncio.sleep(max(0.0, start + frames / RATE - boot_time()))
                self._send(block)
                if at // step % _STEP_BLOCKS == _WORD_BLOCKS or not self._speaking:
                    self._word_ended.set()


class Pipe:
    """The writing end of a named pipe, which is opened whenever somebody reads it.

    A reader that is slow makes it wait, as any writer.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        """`now` is the clock of `unread`."""
        os.mkfifo(path)
        self._path = path
        self._now = now
        self._descriptor: int | None = None
        self.waiting: deque[bytes] = deque()
        """Blocks for which there was no room."""
        self._since: float | None = None
        """Since when nobody has taken it."""
        self.unread: list[tuple[float, float]] = []
        """When nobody had opened it."""

    def write(self, block: bytes) -> None:
        """Write a block, or drop it if nobody reads."""
        if self._descriptor is None:
            with contextlib.suppress(OSError):
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        if self._descriptor is None:
            self._absent()
            return
        self.waiting.append(block)
        try:
            while self.waiting:
                os.write(self._descriptor, self.waiting[0])  # all of a small block, or nothing
                self.waiting.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._since is not None:
            self.unread.append((self._since, self._now()))
            self._since = None

    def _absent(self) -> None:
        if self._since is None:
            self._since = self._now() - (len(self.waiting) + 1) * _BLOCK_S

    def close(self) -> None:
        """End the audio for the reader, until the next block."""
        if self.waiting:
            self._absent()
            self.waiting.clear()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Station:
    """Sends live audio to all clients of a TCP port."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def open(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        self._clients.discard(writer)
        writer.transport.abort()

    def write(self, block: bytes) -> None:
        """Send a block to each client that keeps up."""
        for writer in self._clients:
            if writer.transport.get_write_buffer_size() < _MOST_UNSENT_BYTES:
                writer.write(block)

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._clients:
            writer.transport.abort()

    async def close(self) -> None:
        """Break all connections, and accept none."""
        if self._server is not None:
            self._server.close()
            self.cut()
            await self._server.wait_closed()
            self._server = None


_READER = f"""#!{sys.executable} -I
import socket, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[sys.argv.index("-i") + 1])
with socket.create_connection((url.hostname, url.port), 5) as connection:
    connection.settimeout(None)
    while data := connection.recv(65536):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
sys.exit("the stream has ended")
"""


def reader(path: Path) -> Path:
    """Write a program that stands in for ffmpeg, which not every machine has: it takes the same
    command line, and copies raw audio from a TCP port."""
    path.write_text(_READER)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
