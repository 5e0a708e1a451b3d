"""Reading a source into the sessions of its take."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from natterjack.notices import MUTED

from ..errors import SourceLost
from ..input_report import InputReport
from ..session import EdgeSession
from ..sources import Block, Source
from .take import Take

log = logging.getLogger(__name__)

Rotate = Callable[[Block, Take], Take]
"""Returns the take to which a block belongs: the current one, or one that begins with the block."""


class Reading:
    """Reads a source into a take, which may be replaced by another one between two blocks."""

    def __init__(self, source: Source, take: Take, rotate: Rotate | None = None) -> None:
        self.source = source
        self.take = take
        self.error: SourceLost | None = None
        """Why the source has ended before its end."""
        self.muted = False
        """Whether audio is left out, as a gap. It is neither measured nor stored."""
        self._muted_frames = 0
        self.frames = 0
        """Number of frames that were read."""
        self._rotate = rotate
        self.input = InputReport(source, split=len(take.sessions) > 1)

    async def run(self) -> None:
        """Read until the source ends or fails. Cancel-safe: then `finish` has what is left."""
        source = self.source
        try:
            async with contextlib.aclosing(source.blocks()) as blocks:
                async for block in blocks:
                    fed = self.feed(block)
                    source.wanted_frames = self.take.wanted_frames
                    for session in fed:
                        await session.publisher.wait_for_room()
                    if fed:
                        await asyncio.sleep(0)  # a fast source must let the publishers run
        except SourceLost as error:
            self.error = error

    def feed(self, block: Block) -> list[EdgeSession]:
        """Feed all sessions. Returns those that were offered a chunk."""
        self.frames += len(block.samples)
        if self.muted:
            self._muted_frames += block.lost_frames + len(block.samples)
            return []
        if self._muted_frames:
            lost_frames = self._muted_frames + block.lost_frames
            block = block._replace(lost_frames=lost_frames, cause=MUTED)
            self._muted_frames = 0
        self.input.feed(block)
        if self._rotate is not None:
            self.take = self._rotate(block, self.take)
        return self.take.feed(block)

    def finish(self) -> None:
        """Feed what has arrived, and say what is known of a source with little audio."""
        for block in self.source.remaining():
            self.feed(block)
        self.input.finish()
