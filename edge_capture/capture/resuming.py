"""Resuming the sessions that an earlier run has left in the spool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from natterjack.audio import AudioFormat
from natterjack.errors import UsageError
from natterjack.telemetry.log import fields

from ..session import file_start, published_format
from ..settings import EdgeSettings, PublishSettings
from ..sources import Source
from ..spool import Origin, SpooledBacklog, find_resumable
from ..succession import clock_text

log = logging.getLogger(__name__)


def resumable(
    found: list[SpooledBacklog], origin: Origin, edge: EdgeSettings, publish: PublishSettings
) -> list[SpooledBacklog]:
    """Return the sessions among `found` to resume, and log them. Raises: UsageError."""
    published = published_format(origin.format, publish, edge.split_channels is not None)
    resumed = find_resumable(found, origin, published, edge.tenant, edge.conversation)
    for backlog in resumed:
        log.info(
            "the session has ended; sending its remaining audio"
            if backlog.ended
            else "resuming the session where it stopped",
            extra=fields(
                session=str(backlog.spec.key),
                position=clock_text(published.seconds(backlog.head.pos)),
                chunks_left=len(backlog),
            ),
        )
    if not resumed:
        log.info("the spool has no session to resume; starting a new one")
    return resumed


def likely_resumed(
    found: list[SpooledBacklog],
    origin: Callable[[AudioFormat], Origin],
    edge: EdgeSettings,
    publish: PublishSettings,
) -> list[SpooledBacklog]:
    """Return the sessions among `found` to resume if the source has the format that it had then,
    which is not known before it is open. `origin` returns that of the source in a format."""
    for audio_format in dict.fromkeys(backlog.origin.format for backlog in reversed(found)):
        try:
            published = published_format(audio_format, publish, edge.split_channels is not None)
        except UsageError:  # of another source
            continue
        wanted = origin(audio_format)
        likely = find_resumable(found, wanted, published, edge.tenant, edge.conversation)
        if likely:
            return likely
    return []


async def seek(source: Source, resumed: list[SpooledBacklog]) -> int | None:
    """Move a file to the frame from which all of `resumed` continue, and return that frame.

    Returns None for live audio.
    """
    if resumed[0].origin.live:
        return None
    from ..sources.decoded import DecodedSource
    from ..sources.file import FileSource

    assert isinstance(source, DecodedSource | FileSource)
    frame, time_ns = file_start(resumed, source.format.sample_rate)
    if isinstance(source, DecodedSource):
        await source.start_at(frame, time_ns)
    else:
        await asyncio.to_thread(source.start_at, frame, time_ns)
    return frame
