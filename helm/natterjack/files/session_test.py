"""One real session through a release: sound in, the closing status and its account out.

It publishes a file with `natterjack-edge` and awaits the event with which a worker ends the
session.
Exit status 0: it was closed, and the worker had all the sound. Reads NATS_*, EDGE_* and TEST_*.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import struct
import sys
import tempfile
import wave
from pathlib import Path

from nats.aio.msg import Msg

from edge_capture.settings import EdgeSettings
from natterjack.broker.connection import connected
from natterjack.errors import NatterjackError
from natterjack.events import StatusEvent, parse_event
from natterjack.settings import BrokerSettings, load
from natterjack.subjects import SessionKey, transcript_subject

RATE, SECONDS = 16_000, 4
"""Of the sound that is made where none is given."""


def bursts(path: Path) -> Path:
    """A file with a burst of tone each half second: sound, though nobody's words."""
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        for i in range(RATE * SECONDS):
            loud = 8000 if i % (RATE // 2) < RATE // 4 else 0
            sample = round(loud * math.sin(2 * math.pi * 440 * i / RATE))
            sound.writeframesraw(struct.pack("<h", sample))
    return path


def complaint(closing: StatusEvent, *, speech: bool) -> str | None:
    """What is wrong with the session's end."""
    account = closing.account
    if closing.state != "closed":
        return f"it ended as {closing.state}: {closing.reason} {closing.detail or ''}"
    if account is None or account.captured_seconds <= 0:
        return "its account has no sound"
    if account.received_seconds < account.captured_seconds - 0.1:
        return f"workers had {account.received_seconds} of {account.captured_seconds} s of sound"
    if account.gap_seconds:
        return f"there were gaps: {account.gap_seconds}"
    if speech and account.transcribed_seconds <= 0:
        return "nothing was understood: is the recording speech, in the provider's language?"
    return None


async def run() -> str | None:
    """What is wrong, or None. Raises NatterjackError."""
    given = os.environ.get("TEST_AUDIO")
    sound = Path(given) if given else bursts(Path(tempfile.mkdtemp()) / "bursts.wav")
    edge = load(EdgeSettings)
    key = SessionKey(edge.tenant, f"test-{secrets.token_hex(4)}", "test")
    ended: asyncio.Future[StatusEvent] = asyncio.get_running_loop().create_future()

    async def take(message: Msg) -> None:
        event = parse_event(message.data)
        if isinstance(event, StatusEvent):
            print(f"{event.state} by {event.worker} {event.reason or ''}", flush=True)
            if event.closing and not ended.done():
                ended.set_result(event)

    async with connected(load(BrokerSettings), name="natterjack-test", once=True) as broker:
        await broker.client.subscribe(transcript_subject(key, "status"), cb=take)
        await broker.client.flush()
        arguments = ("--conversation", key.conversation, "--speaker", key.speaker, "--once")
        process = await asyncio.create_subprocess_exec("natterjack-edge", "file", sound, *arguments)
        try:
            async with asyncio.timeout(float(os.environ.get("TEST_SECONDS", "120"))):
                if status := await process.wait():
                    return f"natterjack-edge ended with {status}"
                closing = await ended
        except TimeoutError:
            return "the session did not end in time: is a worker ready, with free slots?"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    print(closing.model_dump_json(include={"state", "account"}, exclude_none=True))
    return complaint(closing, speech=bool(given))


def main() -> None:
    try:
        wrong = asyncio.run(run())
    except NatterjackError as error:
        wrong = str(error)
    if wrong:
        sys.exit(f"session test: {wrong}")


if __name__ == "__main__":
    main()
