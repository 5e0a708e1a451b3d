"""Opening the source that the command line names."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from natterjack.audio import AudioFormat
from natterjack.settings import load

from ..errors import SourceError
from ..settings import MicrophoneSettings, StdinSettings
from ..sources import Source


async def open_source(
    flags: argparse.Namespace,
    channels: int | None,
    block_ms: int,
    waiting: Callable[[], None],
    expected: AudioFormat | None,
) -> Source:
    """Open the source that the command names. `waiting` is called when a microphone has to be
    waited for; with a format that is `expected`, its blocks are what is waited for."""
    if flags.command == "file":
        from ..sources.decoded import open_file

        return await open_file(flags.path, flags.speed, block_ms, flags.track)
    if flags.command == "stdin":
        from ..sources.stdin import StdinSource

        if sys.stdin is None:
            raise SourceError("standard input is closed")
        settings = load(StdinSettings, flags)
        source = StdinSource(sys.stdin.fileno(), settings, flags.speed, block_ms)
        await source.open()
        return source
    from ..sources.microphone import MicrophoneSource

    microphone = MicrophoneSource(load(MicrophoneSettings, flags), channels, block_ms / 1000)
    await microphone.open(0 if flags.once else None, waiting, expected)
    return microphone


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, Source]) -> Source | None:
    """Return the source that `work` opens, or None if `stop` is set first."""
    opening = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if opening.done():
        return opening.result()
    opening.cancel()
    return None
