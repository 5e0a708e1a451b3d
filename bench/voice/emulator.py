"""A cheap emulator of Deepgram's voices, as a process of its own: `python -m bench.voice.emulator`.

It speaks speak v1 (`/v1/speak`, Aura) and v2 (`/v2/speak`, Flux), as far as the clients that are
measured need them, and checks nothing; tests/emulators does. Each character of text becomes 60 ms
of a tone without pauses, so that the last audible sample is the last one that was played.

Audio begins `--first-ms` after a Flush, and comes at `--pace` times real time. The first eight
bytes of each frame are the time at which it was sent (CLOCK_MONOTONIC in nanoseconds).

`GET /events` returns what has happened since the last time: `[connection, kind, nanoseconds,
amount]`, where the kind is `speak` (characters), `first` (the first frame after silence), `audio`
(bytes), or `clear` (characters of text that it drops). `GET /reset` and `/stats` as bench.emulator.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import json
import math
import time
from collections import deque
from urllib.parse import parse_qs, urlsplit

from .. import websocket

MS_PER_CHARACTER = 60
FRAME_MS = 60
_TONE_HZ, _AMPLITUDE = 400, 8000
_MOST_EVENTS = 100_000


class Counts:
    """Statistics of all connections."""

    def __init__(self) -> None:
        self.open = 0
        self.opened = 0
        self.log: deque[tuple[int, str, int, int]] = deque(maxlen=_MOST_EVENTS)
        self.reset()

    def reset(self) -> None:
        self.characters = 0
        self.bytes = 0
        self.since_ns = time.monotonic_ns()

    def report(self) -> dict[str, object]:
        return {
            "open": self.open,
            "characters": self.characters,
            "bytes": self.bytes,
            "seconds": (time.monotonic_ns() - self.since_ns) / 1e9,
        }


class Voice(websocket.Connection):
    """One stream of a voice. A turn is the text between two flushes."""

    def __init__(self, counts: Counts, first_s: float, pace: float) -> None:
        super().__init__()
        self._counts = counts
        self._first_s = first_s
        self._interval = FRAME_MS / 1000 / pace
        self._loop = asyncio.get_running_loop()
        self._tone = b""
        self._flux = False
        self._number = 0
        self._text = 0
        """Characters that were not flushed."""
        self._turns: deque[list[int]] = deque()
        """The number of characters, and of frames that are not sent yet, of each turn that was
        flushed."""
        self._timer: asyncio.TimerHandle | None = None
        self._next_at = 0.0
        self._frames = 0
        self._started = False

    # ---- websocket.Connection -------------------------------------------------------------------

    def opened(self, target: str) -> bool:
        address = urlsplit(target)
        if address.path not in ("/v1/speak", "/v2/speak"):
            return False
        self._flux = address.path == "/v2/speak"
        rate = int(parse_qs(address.query).get("sample_rate", ["24000"])[0])
        count = rate * FRAME_MS // 1000
        tone = (
            round(_AMPLITUDE * math.sin(2 * math.pi * _TONE_HZ * n / rate)) for n in range(count)
        )
        self._tone = array.array("h", tone).tobytes()
        self._number = self._counts.opened
        self._counts.open += 1
        self._counts.opened += 1
        return True

    def begin(self) -> None:
        if self._flux:
            self._say("Connected", request_id="bench", model_name="bench", model_version="1",
                      model_uuids=["bench"])  # fmt: skip
        else:
            self._say("Metadata", request_id="bench", model_name="bench", model_version="1",
                      model_uuid="bench", additional_model_uuids=[])  # fmt: skip

    def lost(self) -> None:
        self._counts.open -= 1
        if self._timer is not None:
            self._timer.cancel()

    def answer(self, path: str) -> object:
        if path == "/events":
            found = list(self._counts.log)
            self._counts.log.clear()
            return found
        if path not in ("/stats", "/reset"):
            return None
        report = self._counts.report()
        if path == "/reset":
            self._counts.reset()
        return report

    def text(self, message: str) -> None:
        content = json.loads(message)
        kind = content["type"]
        if kind == "Speak":
            size = len(content["text"])
            self._text += size
            self._counts.characters += size
            self._note("speak", size)
        elif kind == "Flush":
            self._flush()
        elif kind in ("Clear", "Interrupt"):
            self._clear(content.get("playback_offset", {}).get("value"))
        elif kind == "Close":
            self.close()

    # ---- commands -------------------------------------------------------------------------------

    def _flush(self) -> None:
        frames = max(1, self._text * MS_PER_CHARACTER // FRAME_MS)
        self._turns.append([self._text, frames])
        self._text = 0
        if self._timer is None:
            self._next_at = self._loop.time() + self._first_s
            self._timer = self._loop.call_at(self._next_at, self._speak)

    def _clear(self, played_ms: int | None) -> None:
        dropped = self._text + sum(left * FRAME_MS // MS_PER_CHARACTER for _, left in self._turns)
        characters = self._turns[0][0] if self._turns else 0
        self._note("clear", dropped)
        self._turns.clear()
        self._text = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._started = False
        if not self._flux:
            self._say("Cleared", sequence_id=0)
        elif not characters:
            self._say("Warning", code="NO_ACTIVE_SPEECH", description="There is no active turn.")
        else:
            played_ms = self._frames * FRAME_MS if played_ms is None else played_ms
            self._say("SpeechInterrupted", audio_played_ms=played_ms,
                      metadata=self._metadata(characters))  # fmt: skip

    # ---- audio ----------------------------------------------------------------------------------

    def _speak(self) -> None:
        """Send a frame, and the end of the turn after its last."""
        now = time.monotonic_ns()
        if not self._started:
            self._started = True
            self._note("first", 0)
            if self._flux:
                self._say("SpeechStarted", speech_id="dg_sp_bench")
        turn = self._turns[0]
        self._transport.write(
            websocket.frame(websocket.BINARY, now.to_bytes(8, "big") + self._tone[8:])
        )
        self._frames += 1
        self._counts.bytes += len(self._tone)
        self._note("audio", len(self._tone))
        turn[1] -= 1
        if not turn[1]:
            self._turns.popleft()
            self._started = self._started and bool(self._turns) and not self._flux
            if self._flux:
                self._say("SpeechMetadata", **self._metadata(turn[0]))
            else:
                self._say("Flushed", sequence_id=0)
        self._timer = None
        if self._turns:
            self._next_at = max(self._next_at + self._interval, self._loop.time())
            self._timer = self._loop.call_at(self._next_at, self._speak)

    def _metadata(self, characters: int) -> dict[str, object]:
        return {"speech_id": "dg_sp_bench", "audio_duration_ms": characters * MS_PER_CHARACTER,
                "input_character_count": characters, "billable_character_count": characters,
                "controls_applied": {"pronunciations_applied": 0}}  # fmt: skip

    def _say(self, kind: str, **fields: object) -> None:
        self.send_text(json.dumps({"type": kind, **fields}))

    def _note(self, kind: str, amount: int) -> None:
        self._counts.log.append((self._number, kind, time.monotonic_ns(), amount))


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--first-ms", type=float, default=150, help="delay of the first audio")
    parser.add_argument("--pace", type=float, default=3, help="speed, in multiples of real time")
    arguments = parser.parse_args()
    counts = Counts()
    server = await asyncio.get_running_loop().create_server(
        lambda: Voice(counts, arguments.first_ms / 1000, arguments.pace), "127.0.0.1", 0,
        backlog=4096,
    )  # fmt: skip
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
