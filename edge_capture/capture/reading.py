"""Reading a source into the sessions of its take."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from natterjack.notices import BUSY, Note

from ..errors import SourceLost
from ..progress.input_report import Heard, InputReport
from ..session import EdgeSession
from ..sources import Block, Source
from .take import Take

log = logging.getLogger(__name__)

Rotate = Callable[[Block, Take], Take]
"""Returns the take to which a block belongs: the current one, or one that begins with the block, in
which case the caller ends the other one."""


class Reading:
    """Reads a source into a take, which may be replaced by another one between two blocks."""

    def __init__(self, source: Source, take: Take, rotate: Rotate | None = None) -> None:
        self.source = source
        self.take = take
        self.error: SourceLost | None = None
        """Why the source has ended before its end."""
        self._muted = False
        self._muted_frames = 0
        """Frames that were muted and are not part of what `input` has watched yet."""
        self.frames = 0
        """Number of frames that were read."""
        self._last: Block | None = None
        """The last block that was fed, and that can be settled: while a microphone is away, that
        is the one before it went."""
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

    @property
    def muted(self) -> bool:
        """Whether audio is left out from now on: a gap with the cause `muted`, which the sessions
        say at once. It is neither measured nor stored, and the take is not rotated."""
        return self._muted

    @muted.setter
    def muted(self, muted: bool) -> None:
        self._muted = muted
        if muted:
            self.take.mute()
        else:
            self.take.unmute()

    def feed(self, block: Block) -> list[EdgeSession]:
        """Feed all sessions. Returns those that were offered a chunk."""
        self.frames += len(block.samples)
        if block.settle is not None:
            self._last = block
        if self._muted:
            self._muted_frames += block.lost_frames + len(block.samples)
            return self.take.feed(block)
        lost_frames, self._muted_frames = block.lost_frames + self._muted_frames, 0
        heard = self.input.feed(block._replace(lost_frames=lost_frames))
        if self._rotate is not None:
            before, self.take = self.take, self._rotate(block, self.take)
            if self.take is not before:
                block = before.end_before(self._settled(block))
                self._begin_take()
                heard = []
        self._note(heard)
        return self.take.feed(block)

    def _settled(self, block: Block) -> Block:
        """Return a block before which there is no position, with all that is lost before it."""
        settle = None if self._last is None else self._last.settle
        owed_s = 0.0 if settle is None else settle()
        owed_frames = round(owed_s * self.source.format.sample_rate)
        cause = block.cause if block.lost_frames else BUSY
        return block._replace(lost_frames=block.lost_frames + owed_frames, cause=cause)

    def _begin_take(self) -> None:
        """Say in a take that begins what is the case."""
        for number, session in enumerate(self.take.sessions):
            for finding in self.input.findings(number):
                session.note(Note(finding.code))

    def _note(self, heard: list[Heard]) -> None:
        """Send what begins and ends along with the audio that it is about."""
        for channel, finding in heard:
            note = Note(finding.code, ended=not finding.began)
            for number, session in enumerate(self.take.sessions):
                if channel in (None, number):
                    session.note(note)

    def finish(self) -> None:
        """Feed what has arrived, and say what is known of a source with little audio."""
        for block in self.source.remaining():
            self.feed(block)
        if self._last is not None:
            rest = self._last._replace(samples=self._last.samples[:0], lost_frames=0, notes=())
            if (owed := self._settled(rest)).lost_frames:
                self.take.feed(owed)
        self._note(self.input.finish())
