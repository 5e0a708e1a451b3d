"""Resuming the sessions that an earlier run has left in the spool."""

from __future__ import annotations

import time
from typing import NamedTuple

from ..capture.resuming import seek
from ..config.rotation import Rotation
from ..session import EdgeSession, published_format, resume_sessions
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
    if origin.live and rotation.is_due(time.time_ns()):
        return None
    frame = await seek(source, backlogs)
    sessions = resume_sessions(
        backlogs, source.format, source.can_wait, plan.edge, plan.publish, frame
    )
    return Resumed(backlogs, sessions, rotation)
