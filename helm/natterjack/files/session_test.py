"""Run one real session through a release and check its account.

The script publishes a file with `natterjack-edge` and waits for the session's closing status event.
It exits with status 0 if the session was closed and the worker received all its audio. It reads the
variables NATS_*, EDGE_* and TEST_*.
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
"""Sample rate and duration of the generated audio."""
REFUSALS = ("queued: auth: ", "queued: credit: ")
"""Beginnings of the reason for which a session is held, if a provider refuses the account."""


def bursts(path: Path) -> Path:
    """Write a WAV file with a burst of tone each half second, and return its path."""
    with wave.open(str(path), "wb") as audio:
        audio.setnchannels(1)
        audio.setsampwidth(2)
        audio.setframerate(RATE)
        for i in range(RATE * SECONDS):
            loud = 8000 if i % (RATE // 2) < RATE // 4 else 0
            sample = round(loud * math.sin(2 * math.pi * 440 * i / RATE))
            audio.writeframesraw(struct.pack("<h", sample))
    return path


def problem_with(closing: StatusEvent, *, speech: bool) -> str | None:
    """Describe what is wrong with the last status event, or return None."""
    account = closing.account
    if not closing.closing:
        return f"no provider serves the session: {closing.reason}"
    if closing.state != "closed":
        return f"the session ended as {closing.state}: {closing.reason} {closing.detail or ''}"
    if account is None or account.captured_seconds <= 0:
        return "the session's account has no audio"
    if account.received_seconds < account.captured_seconds - 0.1:
        return (
            f"workers received {account.received_seconds} of {account.captured_seconds} s of audio"
        )
    if account.gap_seconds:
        return f"the audio has gaps: {account.gap_seconds}"
    if speech and account.transcribed_seconds <= 0:
        return "nothing was transcribed: is the recording speech in the provider's language?"
    return None


async def run() -> str | None:
    """Run the session and return what is wrong, or None.

    Raises: NatterjackError without a connection to the broker.
    """
    recording = os.environ.get("TEST_AUDIO")
    audio = Path(recording) if recording else bursts(Path(tempfile.mkdtemp()) / "bursts.wav")
    edge = load(EdgeSettings)
    key = SessionKey(edge.tenant, f"test-{secrets.token_hex(4)}", "test")
    ended: asyncio.Future[StatusEvent] = asyncio.get_running_loop().create_future()

    async def receive(message: Msg) -> None:
        event = parse_event(message.data)
        if isinstance(event, StatusEvent):
            print(f"{event.state} by {event.worker} {event.reason or ''}", flush=True)
            refused = (event.reason or "").startswith(REFUSALS)
            if (event.closing or refused) and not ended.done():
                ended.set_result(event)

    async with connected(load(BrokerSettings), name="natterjack-test", once=True) as broker:
        await broker.client.subscribe(transcript_subject(key, "status"), cb=receive)
        await broker.client.flush()
        arguments = ("--conversation", key.conversation, "--speaker", key.speaker, "--once")
        process = await asyncio.create_subprocess_exec("natterjack-edge", "file", audio, *arguments)
        try:
            async with asyncio.timeout(float(os.environ.get("TEST_SECONDS", "120"))):
                if status := await process.wait():
                    return f"natterjack-edge exited with status {status}"
                closing = await ended
        except TimeoutError:
            return "the session did not end in time: is a worker ready, with free slots?"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    print(closing.model_dump_json(include={"state", "account"}, exclude_none=True))
    return problem_with(closing, speech=bool(recording))


def main() -> None:
    try:
        problem = asyncio.run(run())
    except NatterjackError as error:
        problem = str(error)
    if problem:
        sys.exit(f"session test: {problem}")


if __name__ == "__main__":
    main()
