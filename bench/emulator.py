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
import json
import time
from array import array
from urllib.parse import urlsplit

from . import websocket

BYTES_A_SECOND = 16_000 * 2
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
    """Return p50, p95, p99 and maximum in milliseconds of delays in microseconds. Of few delays,
    a percentile is rather too great than too small."""
    if not delays_us:
        return {}
    ordered = sorted(delays_us)
    last = len(ordered) - 1
    found = {f"p{part}": ordered[-(-last * part // 100)] / 1000 for part in (50, 95, 99)}
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


class Connection(websocket.Connection):
    """One stream of a provider."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts
        self._wire: Wire
        self._received = 0
        self._seconds = 0
        self._due = 0.0
        """Bytes of audio after which the next transcript is due."""
        self._audio_messages = 0

    def opened(self, target: str) -> bool:
        path = urlsplit(target).path
        kind = _WIRES.get(path) or (Speechmatics if path.startswith("/v2/") else None)
        if kind is None:
            return False
        self._wire = kind(self._counts.opened)
        self._counts.open += 1
        self._counts.opened += 1
        self._due = BYTES_A_SECOND * (1 + self._counts.opened * _GOLDEN % 1)
        return True

    def begin(self) -> None:
        for message in self._wire.opening():
            self.send_text(message)

    def lost(self) -> None:
        self._counts.open -= 1

    def answer(self, path: str) -> object:
        if path not in ("/stats", "/reset"):
            return None
        report = self._counts.report()
        if path == "/reset":
            self._counts.reset()
        return report

    def text(self, message: str) -> None:
        answers = self._wire.text(message)
        if answers is None:
            self.send_text('{"type":"Metadata","request_id":"bench","created":"","duration":'
                      f'{self._received / BYTES_A_SECOND},"channels":1}}')  # fmt: skip
            self.close()
            return
        for answer in answers:
            self.send_text(answer)

    def binary(self, length: int, stamp: int | None) -> None:
        counts, now = self._counts, time.monotonic_ns()
        if stamp is None:
            return
        counts.messages += 1
        counts.bytes += length
        if 0 <= now - stamp < _PLAUSIBLE_NS:
            counts.delays_us.append((now - stamp) // 1000)
        if not self._received:
            counts.begun += 1
            counts.last_begun_ns = now
        self._received += length
        self._audio_messages += 1
        if isinstance(self._wire, Speechmatics):
            self.send_text(f'{{"message":"AudioAdded","seq_no":{self._audio_messages}}}')
        if self._received >= self._due:
            self._due += BYTES_A_SECOND
            self._seconds += 1
            for message in self._wire.transcripts(self._seconds):
                self.send_text(message)


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
