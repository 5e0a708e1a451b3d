"""A cheap emulator of speech providers, as a process of its own: `python -m bench.emulator`.

It accepts WebSocket connections, counts audio, and sends a transcript for each second of it,
without recognizing anything. It speaks three protocols: Deepgram listen v1 (`/v1/listen`), Flux
(`/v2/listen`) and Speechmatics (`/v2`). It does not check them; tests/emulators does.

The first eight bytes of a chunk may be its publication time (CLOCK_MONOTONIC in nanoseconds, which
all processes of a machine share), from which the emulator computes the delay of audio. The first
word of a transcript, `t<nanoseconds>`, is the time at which it was sent.

`GET /stats` returns the statistics since the last `GET /reset`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import time
from array import array
from typing import cast
from urllib.parse import urlsplit

BYTES_A_SECOND = 16_000 * 2
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _TEXT, _CLOSE, _PING, _PONG = 2, 1, 8, 9, 10
_PLAUSIBLE_NS = 100 * 1_000_000_000
"""Older or future timestamps are audio samples instead."""
_WORDS_A_SECOND = 3
_GOLDEN = 0.618034
"""Golden ratio minus 1; fractional parts of its multiples are spread evenly over a second."""
_FINAL_EACH = 4
"""Seconds covered by a final; interims precede it every second."""


class Counts:
    """Statistics of all connections."""

    def __init__(self) -> None:
        self.open = 0
        self.opened = 0
        self.reset()

    def reset(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.begun = 0
        """Connections that have received audio."""
        self.last_begun_ns = 0
        self.delays_us = array("l")
        self.since_ns = time.monotonic_ns()

    def report(self) -> dict[str, object]:
        return {
            "open": self.open,
            "messages": self.messages,
            "bytes": self.bytes,
            "begun": self.begun,
            "last_begun_ns": self.last_begun_ns,
            "seconds": (time.monotonic_ns() - self.since_ns) / 1e9,
            "audio_delay_ms": percentiles(self.delays_us),
        }


def percentiles(delays_us: array[int]) -> dict[str, float]:
    """Return p50, p95, p99 and maximum in milliseconds of delays in microseconds."""
    if not delays_us:
        return {}
    ordered = sorted(delays_us)
    last = len(ordered) - 1
    found = {f"p{part}": ordered[last * part // 100] / 1000 for part in (50, 95, 99)}
    return {**found, "max": ordered[-1] / 1000, "count": len(ordered)}


class Wire:
    """The messages of a provider.

    `seconds` is the audio of the stream so far. `number` is that of the stream; it spreads the
    finals of streams whose audio started at the same time.
    """

    def __init__(self, number: int) -> None:
        self.events = 0
        self._final_at = number % _FINAL_EACH

    def utterance(self, seconds: int) -> tuple[int, bool]:
        """Return the second in which the current utterance began, and whether it has ended."""
        start = (seconds - 1 - self._final_at) // _FINAL_EACH * _FINAL_EACH + self._final_at
        return max(0, start), (seconds - self._final_at) % _FINAL_EACH == 0

    def opening(self) -> list[str]:
        return []

    def transcripts(self, seconds: int) -> list[str]:
        raise NotImplementedError

    def text(self, message: str) -> list[str] | None:
        """Return the replies to a text message, or None to close the stream."""
        return None if "CloseStream" in message else []


def _words(start: int, count: int) -> list[tuple[str, float, float]]:
    """Return `count` words a third of a second apart; the first is the current time."""
    return [
        (
            f"t{time.monotonic_ns()}" if index == 0 else f"word{index}",
            round(start + index / _WORDS_A_SECOND, 3),
            round(start + (index + 0.75) / _WORDS_A_SECOND, 3),
        )
        for index in range(count)
    ]


class Listen(Wire):
    """Deepgram listen v1: an interim every second, and a final instead every fourth second."""

    def transcripts(self, seconds: int) -> list[str]:
        start, over = self.utterance(seconds)
        words = _words(start, (seconds - start) * _WORDS_A_SECOND)
        final = "true" if over else "false"
        listed = ",".join(
            f'{{"word":"{w}","start":{s},"end":{e},"confidence":0.98,"punctuated_word":"{w}"}}'
            for w, s, e in words
        )
        text = " ".join(word for word, _, _ in words)
        return [
            f'{{"type":"Results","channel_index":[0,1],"duration":{seconds - start}.0,'
            f'"start":{start}.0,"is_final":{final},"speech_final":{final},'
            f'"from_finalize":false,"channel":{{"alternatives":[{{"transcript":"{text}",'
            f'"confidence":0.98,"words":[{listed}]}}]}},"metadata":{{"request_id":"bench",'
            f'"model_uuid":"bench","model_info":{{"name":"bench","version":"1","arch":"bench"}}}}}}'
        ]


class Flux(Wire):
    """Deepgram Flux: turns of four seconds."""

    def opening(self) -> list[str]:
        return ['{"type":"Connected","request_id":"bench","sequence_id":0}']

    def _event(self, event: str, seconds: int, words: list[tuple[str, float, float]]) -> str:
        self.events += 1
        start, _ = self.utterance(seconds)
        turn = (start + _FINAL_EACH - 1) // _FINAL_EACH
        listed = ",".join(f'{{"word":"{w}","confidence":0.98}}' for w, _, _ in words)
        text = " ".join(word for word, _, _ in words)
        return (
            f'{{"type":"TurnInfo","request_id":"bench","sequence_id":{self.events},'
            f'"event":"{event}","turn_index":{turn},'
            f'"audio_window_start":{start}.0,"audio_window_end":{seconds}.0,'
            f'"transcript":"{text}","words":[{listed}],"end_of_turn_confidence":0.5}}'
        )

    def transcripts(self, seconds: int) -> list[str]:
        start, over = self.utterance(seconds)
        words = _words(start, (seconds - start) * _WORDS_A_SECOND)
        events = ["StartOfTurn"] if seconds - start == 1 else ["Update"]
        if over:
            events = [*(event for event in events if event != "Update"), "EndOfTurn"]
        return [self._event(event, seconds, words) for event in events]


class Speechmatics(Wire):
    """Speechmatics: a partial every second and a final transcript every fourth second.

    The final ends the utterance if the client requested ends. Each audio message is acknowledged.
    """

    _ends = False

    def transcripts(self, seconds: int) -> list[str]:
        start, over = self.utterance(seconds)
        words = _words(start, (seconds - start) * _WORDS_A_SECOND)
        kind = "AddTranscript" if over else "AddPartialTranscript"
        results = ",".join(
            f'{{"type":"word","start_time":{s},"end_time":{e},'
            f'"alternatives":[{{"content":"{w}","confidence":0.98,"language":"en"}}]}}'
            for w, s, e in words
        )
        text = " ".join(word for word, _, _ in words)
        messages = [
            f'{{"message":"{kind}","format":"2.9","metadata":{{"start_time":{start}.0,'
            f'"end_time":{seconds}.0,"transcript":"{text} "}},"results":[{results}]}}'
        ]
        if over and self._ends:
            at = f'{{"start_time":{seconds}.0,"end_time":{seconds}.0}}'
            messages.append(f'{{"message":"EndOfUtterance","format":"2.9","metadata":{at}}}')
        return messages

    def text(self, message: str) -> list[str] | None:
        content = json.loads(message)
        if content["message"] == "StartRecognition":
            asked = content["transcription_config"].get("conversation_config") or {}
            self._ends = bool(asked.get("end_of_utterance_silence_trigger"))
            return [
                '{"message":"RecognitionStarted","orchestrator_version":"bench","id":"bench",'
                '"language_pack_info":{"adapted":false,"itn":true,"language_description":"English",'
                '"word_delimiter":" ","writing_direction":"left-to-right"}}'
            ]
        if content["message"] == "EndOfStream":
            return ['{"message":"EndOfTranscript"}']
        return []


_WIRES = {"/v1/listen": Listen, "/v2/listen": Flux, "/v2": Speechmatics, "/v2/": Speechmatics}


class Connection(asyncio.Protocol):
    """A connection: an HTTP request, then WebSocket frames."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._buffer = b""
        self._wire: Wire | None = None
        self._received = 0
        self._seconds = 0
        self._due = 0.0
        """Bytes of audio after which the next transcript is due."""
        self._audio_messages = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's methods but not its class.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._wire is not None:
            self._counts.open -= 1

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        if self._wire is None:
            head, end, buffer = buffer.partition(b"\r\n\r\n")
            if not end:
                self._buffer = head
                return
            self._request(head.decode())
        at, size = 0, len(buffer)
        while size - at >= 2:
            length = buffer[at + 1] & 0x7F
            head_size = at + 2
            if length == 126:
                length = int.from_bytes(buffer[at + 2 : at + 4], "big")
                head_size = at + 4
            elif length == 127:
                length = int.from_bytes(buffer[at + 2 : at + 10], "big")
                head_size = at + 10
            begin = head_size + 4  # a client's frames are masked
            if begin + length > size:
                break
            self._frame(buffer[at] & 0x0F, buffer, head_size, begin, length)
            at = begin + length
        self._buffer = buffer[at:]

    def _frame(self, kind: int, buffer: bytes, mask_at: int, begin: int, length: int) -> None:
        if kind == _BINARY:
            if length >= 8:
                mask = int.from_bytes(buffer[mask_at:begin] * 2, "big")
                stamp = mask ^ int.from_bytes(buffer[begin : begin + 8], "big")
                self._audio(length, stamp)
            return
        mask_bytes = buffer[mask_at:begin]
        content = bytes(
            byte ^ mask_bytes[index % 4] for index, byte in enumerate(buffer[begin:begin + length])
        )  # fmt: skip
        if kind == _TEXT:
            assert self._wire is not None
            answers = self._wire.text(content.decode())
            if answers is None:
                self._send_text('{"type":"Metadata","request_id":"bench","created":"","duration":'
                          f'{self._received / BYTES_A_SECOND},"channels":1}}')  # fmt: skip
                self._send(_CLOSE, (1000).to_bytes(2, "big"))
                self._transport.close()
                return
            for answer in answers:
                self._send_text(answer)
        elif kind == _PING:
            self._send(_PONG, content)
        elif kind == _CLOSE:
            self._send(_CLOSE, content[:2])
            self._transport.close()

    def _audio(self, length: int, stamp: int) -> None:
        counts, now = self._counts, time.monotonic_ns()
        counts.messages += 1
        counts.bytes += length
        if 0 <= now - stamp < _PLAUSIBLE_NS:
            counts.delays_us.append((now - stamp) // 1000)
        if not self._received:
            counts.begun += 1
            counts.last_begun_ns = now
        self._received += length
        wire = self._wire
        assert wire is not None
        self._audio_messages += 1
        if isinstance(wire, Speechmatics):
            self._send_text(f'{{"message":"AudioAdded","seq_no":{self._audio_messages}}}')
        if self._received >= self._due:
            self._due += BYTES_A_SECOND
            self._seconds += 1
            for message in wire.transcripts(self._seconds):
                self._send_text(message)

    def _request(self, head: str) -> None:
        lines = head.split("\r\n")
        target = urlsplit(lines[0].split(" ")[1])
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        key = headers.get("sec-websocket-key")
        kind = _WIRES.get(target.path) or (Speechmatics if target.path.startswith("/v2/") else None)
        if kind is None or key is None:
            self._answer(target.path)
            return
        self._wire = kind(self._counts.opened)
        self._counts.open += 1
        self._counts.opened += 1
        self._due = BYTES_A_SECOND * (1 + self._counts.opened * _GOLDEN % 1)
        accept = base64.b64encode(
            hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
        ).decode()
        upgrade = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept}",
            "dg-request-id: bench",
        ]
        self._transport.write(("\r\n".join(upgrade) + "\r\n\r\n").encode())
        for message in self._wire.opening():
            self._send_text(message)

    def _answer(self, path: str) -> None:
        body = json.dumps(self._counts.report()).encode()
        if path == "/reset":
            self._counts.reset()
        status = "200 OK" if path in ("/stats", "/reset") else "404 Not Found"
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self._transport.write(head.encode() + body)
        self._transport.close()

    def _send_text(self, message: str) -> None:
        self._send(_TEXT, message.encode())

    def _send(self, kind: int, content: bytes) -> None:
        size = len(content)
        length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
        self._transport.write(bytes([0x80 | kind]) + length + content)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    counts = Counts()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(counts), "127.0.0.1", arguments.port, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop  # here, because environments of peers, which import this file, do not have it

    uvloop.run(main())
