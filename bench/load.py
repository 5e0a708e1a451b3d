"""A cheap load generator in place of edges, as a process of its own: `python -m bench.load`.

It publishes audio of sessions in real time over one plain connection, with the headers of
natterjack.audio, and reads the transcripts. Each chunk starts with its publication time; the first
word of a transcript is the time at which the provider sent it (bench.emulator).

It prints JSON lines: `opened` (when it sent the requests), `streaming`, and, for each line `reset`
or `stats` on standard input, the statistics so far.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from array import array
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject, session_subject, transcript_filter

from .emulator import BYTES_A_SECOND, percentiles

RATE = 16_000
_OPENED_A_SECOND = 300
_STAMP = re.compile(rb'"t(\d+) ')
"""The first word in the text of a transcript; in the list of words, a quote follows it."""
_STAMP_BYTES = 40


def spec(number: int) -> SessionSpec:
    """Return the specification of session `number`."""
    return SessionSpec(
        session_id=f"bench-session-{number:06}",
        tenant="bench",
        conversation=f"c{number // 100}",
        speaker=f"s{number}",
    )


def result_subject(number: int) -> str:
    """Return the subject on which the bare relay publishes results of session `number`."""
    return f"bench.result.s{number}"


class Nats(asyncio.Protocol):
    """A minimal NATS client that publishes and scans received messages."""

    def __init__(self, login: dict[str, str]) -> None:
        self._login = login
        self.delays_us = array("l")
        self.results = 0
        self._behind = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's methods but not its class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=64 * 1024 * 1024)
        options = {"verbose": False, "pedantic": False, "headers": True, "echo": False,
                   "lang": "bench", "version": "1", **self._login}  # fmt: skip
        self.write(b"CONNECT " + json.dumps(options).encode() + b"\r\n")

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def subscribe(self, subject: str, number: int) -> None:
        self.write(f"SUB {subject} {number}\r\n".encode())

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if b"PING\r\n" in data:
            self.write(b"PONG\r\n")
        data, end = self._behind + data, 0
        for found in _STAMP.finditer(data):
            self.results += 1
            self.delays_us.append((now - int(found[1])) // 1000)
            end = found.end()
        self._behind = data[max(end, len(data) - _STAMP_BYTES) :]


class Edge:
    """The chunks of one session."""

    __slots__ = ("_head", "_id", "_pad", "_pos", "_seq", "frames", "opened", "request")

    def __init__(self, number: int, chunk_ms: int, reply: str) -> None:
        opened = spec(number)
        self._id = opened.session_id.encode()
        payload = opened.model_dump_json().encode()
        head = f"PUB {session_subject(opened.key)} {len(payload)}\r\n".encode()
        self.request = head + payload + b"\r\n"
        self.opened = False
        self._head = f"HPUB {audio_subject(opened.key)} {reply} ".encode()
        self.frames = RATE * chunk_ms // 1000
        self._pad = bytes(self.frames * 2 - 8)
        self._seq = self._pos = 0

    def chunk(self, stamp_ns: int, wall_ns: int, end: bool = False) -> bytes:
        headers = b"NATS/1.0\r\nSession-Id: %b\r\nAudio-Seq: %d\r\nAudio-Pos: %d\r\n" % (
            self._id, self._seq, self._pos,
        )  # fmt: skip
        headers += b"Audio-Time: %d\r\nNats-Msg-Id: %b:%d\r\n" % (wall_ns, self._id, self._seq)
        headers += b"Audio-End: 1\r\n\r\n" if end else b"\r\n"
        payload = b"" if end else stamp_ns.to_bytes(8, "big") + self._pad
        self._seq += 1
        self._pos += 0 if end else self.frames
        return b"%b%d %d\r\n%b%b\r\n" % (
            self._head, len(headers), len(headers) + len(payload), headers, payload,
        )  # fmt: skip


async def _publish(
    nats: Nats, edges: list[Edge], chunk_ms: int, slot_s: float, over: asyncio.Event
) -> int:
    """Publish the chunks of all sessions in real time, spread over the length of a chunk.

    Chunks that are due within `slot_s` are sent together. Returns the maximum delay of this process
    in microseconds.
    """
    period = chunk_ms / 1000
    began = time.monotonic() + period  # the first chunk is due once it has been captured
    due = [(began + index * period / len(edges), edge) for index, edge in enumerate(edges)]
    index, late = 0, 0.0
    round_start = 0.0
    while not over.is_set():
        now = time.monotonic()
        stamp, wall = time.monotonic_ns(), time.time_ns() - chunk_ms * 1_000_000
        out = []
        while now >= due[index][0] + round_start:
            late = max(late, now - due[index][0] - round_start)
            if due[index][1].opened:
                out.append(due[index][1].chunk(stamp, wall))
            index += 1
            if index == len(due):
                index, round_start = 0, round_start + period
        if out:
            nats.write(b"".join(out))
        await asyncio.sleep(slot_s)
    return round(late * 1e6)


async def _open(nats: Nats, edges: list[Edge], *, bare: bool) -> None:
    """Open the sessions at a limited rate."""
    for number, edge in enumerate(edges):
        if number and number % _OPENED_A_SECOND == 0:
            await asyncio.sleep(1)
        edge.opened = True
        if not bare:
            nats.write(edge.request)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nats", required=True)
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--chunk-ms", type=int, default=80)
    parser.add_argument(
        "--slot-ms",
        type=float,
        default=1,
        help="send chunks that are due within this time together",
    )
    parser.add_argument(
        "--inbox", default="", help="subject for acknowledgements of chunks, as edges use"
    )
    parser.add_argument("--bare", action="store_true", help="open no sessions, for bench.floor")
    arguments = parser.parse_args()
    loop = asyncio.get_running_loop()
    address = urlsplit(arguments.nats)
    login = {"user": address.username, "pass": address.password or ""} if address.username else {}
    _, nats = await loop.create_connection(lambda: Nats(login), address.hostname, address.port)
    if arguments.inbox:
        nats.subscribe(arguments.inbox, 2)
    nats.subscribe("bench.result.*" if arguments.bare else transcript_filter(), 1)
    numbers = range(arguments.sessions)
    edges = [Edge(number, arguments.chunk_ms, arguments.inbox) for number in numbers]
    _print(opened=time.monotonic_ns())
    over = asyncio.Event()
    publishing = asyncio.create_task(
        _publish(nats, edges, arguments.chunk_ms, arguments.slot_ms / 1000, over)
    )
    opening = asyncio.create_task(_open(nats, edges, bare=arguments.bare))
    _print(streaming=time.monotonic_ns())
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := (await commands.readline()).strip():
        if line == b"end":
            break
        _print(results=nats.results, result_delay_ms=percentiles(nats.delays_us))
        nats.results, nats.delays_us = 0, array("l")
    await opening
    over.set()
    late = await publishing
    for edge in edges:
        nats.write(edge.chunk(0, 0, end=True))
    await asyncio.sleep(0.2)
    _print(late_us=late)


def _print(**what: Any) -> None:
    print(json.dumps(what), flush=True)


assert BYTES_A_SECOND == RATE * 2

if __name__ == "__main__":
    uvloop.run(main())
