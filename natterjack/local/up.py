"""`natterjack up`: a broker and workers that keep running, for development."""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
from pathlib import Path

from natterjack.process.signals import receiving

from .stack import PartFailed, Stack

_DEFAULT_PORT = 4222


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def up(*, workers: int, provider: str | None, directory: Path | None, port: int) -> int:
    """Run until Ctrl-C or SIGTERM; returns the exit status.

    `port` 0 means 4222 if it is free, else any free port. Raises PartFailed if a worker ends.
    """
    directory = directory or Path(tempfile.mkdtemp(prefix="natterjack-up-"))
    if port == 0:
        port = _DEFAULT_PORT if _free(_DEFAULT_PORT) else -1
    stopping = asyncio.Event()
    with receiving((signal.SIGINT, signal.SIGTERM), lambda _: stopping.set()):
        return await _run(directory, workers, provider, port, stopping)


async def _run(
    directory: Path, workers: int, provider: str | None, port: int, stopping: asyncio.Event
) -> int:
    count = "1 worker" if workers == 1 else f"{workers} workers"
    print(f"starting a broker and {count}, logs in {directory} ...", flush=True)
    async with Stack(directory, workers=workers, provider=provider, port=port) as stack:
        _print_addresses(stack)
        ended = [asyncio.create_task(part.wait()) for part in stack.workers]
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({*ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for part, task in zip(stack.workers, ended, strict=True):
                if task.done():
                    raise PartFailed(f"{part.name} ended: {part.log_tail()}")
            print("stopping ...", flush=True)
        finally:
            for task in ended:
                task.cancel()
            stopped.cancel()
    return 0


def _print_addresses(stack: Stack) -> None:
    url = stack.server.url
    print(f"\nNATS      {url}")
    for http in stack.http_urls:
        print(f"worker    {http}/sessions  /metrics  /readyz")
    print(
        f"""
          export NATS_URL={url}
          natterjack tail                              captions of every session
          natterjack-edge file speech.wav --wait       transcribe a file
          natterjack-edge mic                          transcribe the microphone
          nats sub 'stt.transcript.>'                  the events, with any NATS client

Ctrl-C stops everything.""",
        flush=True,
    )
