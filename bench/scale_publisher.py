"""The publisher of bench.scale, a process of its own: `python -m bench.scale_publisher URL ...`."""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import re
import sys
import time
from array import array
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from natterjack.subjects import AUDIO_PREFIX

from .emulator import percentiles

RATE = 16_000
_TICK_S = 0.002
_INBOX = "_INBOX.scale"
_ANSWER = re.compile(rb"MSG _INBOX\.scale\.\d+\.(\d+) [^\r\n]*\r\n(\{[^\r\n]*\})\r\n")


class _Node(asyncio.Protocol):
    """A minimal NATS client that publishes and reads acknowledgements."""

    def __init__(self, number: int, delays_us: array[int]) -> None:
        self.refused = 0
        self.inbox = f"{_INBOX}.{number}"
        """Inbox of this connection; a shared one would receive acknowledgements for all nodes."""
        self._delays_us = delays_us
        self._behind = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's methods but not its class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=256 * 1024 * 1024)
        options = {"verbose": False, "pedantic": False, "headers": True, "echo": False,
                   "lang": "bench", "version": "1"}  # fmt: skip
        self.write(b"CONNECT " + json.dumps(options).encode() + b"\r\n")
        self.write(f"SUB {self.inbox}.* 1\r\n".encode())

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if b"PING\r\n" in data:
            self.write(b"PONG\r\n")
        data, end = self._behind + data, 0
        for found in _ANSWER.finditer(data):
            end = found.end()
            if b'"error"' in found[2]:
                self.refused += 1
            else:
                self._delays_us.append((now - int(found[1])) // 1000)
        self._behind = data[end:]


class _Session:
    """The chunks of one session as an edge publishes them.

    Each requests an acknowledgement, whose subject contains the time of publication.
    """

    __slots__ = ("_audio", "_frames", "_head", "_id", "_pos", "_seq", "node")

    def __init__(self, number: int, chunk_ms: int, streams: int, node: _Node) -> None:
        self.node = node
        self._id = f"scale-session-{number:06}".encode()
        subject = f"{AUDIO_PREFIX}.part{number % streams}.c{number // 100}.s{number}"
        self._head = f"HPUB {subject} {node.inbox}.".encode()
        self._frames = RATE * chunk_ms // 1000
        self._audio = bytes(range(256)) * (self._frames * 2 // 256 + 1)
        self._audio = self._audio[: self._frames * 2]
        self._seq = self._pos = 0

    def chunk(self, stamp_ns: int, wall_ns: int) -> bytes:
        headers = (
            b"NATS/1.0\r\nSession-Id: %b\r\nAudio-Seq: %d\r\nAudio-Pos: %d\r\n"
            b"Audio-Time: %d\r\nNats-Msg-Id: %b:%d\r\n\r\n"
        ) % (self._id, self._seq, self._pos, wall_ns, self._id, self._seq)
        self._seq += 1
        self._pos += self._frames
        size = len(headers)
        return b"%b%d %d %d\r\n%b%b\r\n" % (
            self._head, stamp_ns, size, size + len(self._audio), headers, self._audio,
        )  # fmt: skip


async def _publish(sessions: list[_Session], chunk_ms: int, late_ms: list[float]) -> None:
    """Publish the chunks of all sessions in real time, evenly spread, until cancelled."""
    period = chunk_ms / 1000
    began = time.monotonic()
    index, round_start = 0, began
    while True:
        now = time.monotonic()
        stamp, wall = time.monotonic_ns(), time.time_ns()
        out: dict[_Node, list[bytes]] = {}
        while (due := round_start + index * period / len(sessions)) <= now:
            late_ms[0] = max(late_ms[0], (now - due) * 1000)
            session = sessions[index]
            out.setdefault(session.node, []).append(session.chunk(stamp, wall))
            index += 1
            if index == len(sessions):
                index, round_start = 0, round_start + period
        for node, chunks in out.items():
            node.write(b"".join(chunks))
        await asyncio.sleep(_TICK_S)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("urls", nargs="+", metavar="URL", help="NATS servers, one connection each")
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--chunk-ms", type=int, default=80)
    parser.add_argument("--streams", type=int, default=1)
    arguments = parser.parse_args()
    loop = asyncio.get_running_loop()
    delays_us = array("l")
    nodes = [_Node(number, delays_us) for number in range(len(arguments.urls))]
    for number, url in enumerate(arguments.urls):
        address, the_node = urlsplit(url), functools.partial(nodes.__getitem__, number)
        await loop.create_connection(the_node, address.hostname, address.port)
    sessions = [
        # Spread the sessions of a stream over the nodes.
        _Session(number, arguments.chunk_ms, arguments.streams,
                 nodes[number // arguments.streams % len(nodes)])
        for number in range(arguments.sessions)
    ]  # fmt: skip
    late_ms, began = [0.0], time.monotonic()
    publishing = asyncio.create_task(_publish(sessions, arguments.chunk_ms, late_ms))
    _print(streaming=True)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := (await commands.readline()).strip():
        if publishing.done():
            await publishing
        _print(
            seconds=time.monotonic() - began,
            acknowledged=len(delays_us),
            refused=sum(node.refused for node in nodes),
            ack_ms=percentiles(delays_us),
            late_ms=late_ms[0],
        )
        if line == b"end":
            break
        del delays_us[:]
        late_ms[0], began = 0.0, time.monotonic()
        for node in nodes:
            node.refused = 0
    publishing.cancel()


def _print(**what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
