"""Resuming the sessions that an earlier run has left in the spool."""

from __future__ import annotations

import time
from typing import NamedTuple

from ..capture.resuming import likely_resumed, seek
from ..config.models import FileTable
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


def likely(plan: Plan, found: list[SpooledBacklog]) -> list[SpooledBacklog]:
    """Return the sessions among `found` that the source may resume, before it is open: those that
    it resumes if it has the format that it had then."""
    if isinstance(plan.table, FileTable):
        return found
    held = likely_resumed(found, plan.origin, plan.edge, plan.publish)
    return held if held and _goes_on(plan, held[0], _rotation(plan, held[0])) else []


def _rotation(plan: Plan, backlog: SpooledBacklog) -> Rotation:
    return plan.rotation(round(backlog.spec.opened_at.timestamp() * 1e9))


def _goes_on(plan: Plan, backlog: SpooledBacklog, rotation: Rotation) -> bool:
    """Whether the source would have a session with this name now."""
    due = backlog.origin.live and rotation.is_due(time.time_ns())
    return plan.template.matches(backlog.spec.conversation) and not due


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
    rotation = _rotation(plan, backlogs[0])
    if not _goes_on(plan, backlogs[0], rotation):
        return None
    frame = await seek(source, backlogs)
    sessions = resume_sessions(
        backlogs, source.format, source.can_wait, plan.edge, plan.publish, frame
    )
    return Resumed(backlogs, sessions, rotation)
