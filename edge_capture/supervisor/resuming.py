"""Resuming the sessions that an earlier run has left in the spool."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from ..config.rotation import Rotation
from ..session import EdgeSession, file_start, published_format, resume_sessions
from ..sources import Source
from ..spool import SpooledBacklog, find_resumable
from .plans import Plan


class Resumed(NamedTuple):
    """Sessions that go on."""

    backlogs: list[SpooledBacklog]
    sessions: list[EdgeSession]
    rotation: Rotation


async def resume(source: Source, plan: Plan, found: list[SpooledBacklog]) -> Resumed | None:
    """Resume those sessions among `found` that the source would have now: with the same name of
    the conversation and not rotated since. Returns None if there are none.

    Raises: SpoolError, SourceError, UsageError.
    """
    split = plan.table.split_channels is not None
    published = published_format(source.format, plan.publish, split)
    origin = plan.origin(source.format)
    backlogs = find_resumable(found, origin, published, plan.tenant, None)
    if not backlogs:
        return None
    spec = backlogs[0].spec
    rotation = plan.rotation(round(spec.opened_at.timestamp() * 1e9))
    if not plan.template.matches(spec.conversation):
        return None
    frame = None
    if origin.live:
        if rotation.feed(time.time_ns()):
            return None
    else:
        frame, time_ns = file_start(backlogs, source.format.sample_rate)
        await _start_at(source, frame, time_ns)
    sessions = resume_sessions(
        backlogs, source.format, source.can_wait, plan.edge, plan.publish, frame
    )
    return Resumed(backlogs, sessions, rotation)


async def _start_at(source: Source, frame: int, time_ns: int | None) -> None:
    from ..sources.decoded import DecodedSource
    from ..sources.file import FileSource

    if isinstance(source, DecodedSource):
        await source.start_at(frame, time_ns)
    else:
        assert isinstance(source, FileSource)
        await asyncio.to_thread(source.start_at, frame, time_ns)
