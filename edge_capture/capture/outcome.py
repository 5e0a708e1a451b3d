"""The outcome of sessions at the end of a run, in the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shlex
from collections.abc import Iterable
from datetime import datetime

from natterjack.telemetry.log import fields

from ..delivery.chain import Chain
from ..delivery.link import Link
from ..delivery.publisher import Publisher
from ..errors import KeyTaken
from ..session import EdgeSession
from ..spool import Spool
from .take import Take

log = logging.getLogger(__name__)

_PAUSE_S = 30.0


def where_kept(publisher: Publisher, spool: Spool | None) -> str:
    """Return the end of a message about unacknowledged chunks that says how to send them."""
    if spool is None or not publisher.backlog.durable:
        return ""
    directory = shlex.quote(str(spool.directory))
    return f"; the spool keeps them; to send them: natterjack-edge send --spool {directory}"


def close(chains: Iterable[Chain]) -> bool:
    """Say that nothing more is sent, and log where damaged files are kept. Returns whether there
    are none."""
    complete = True
    for chain in chains:
        chain.publisher.close()
        complete &= _report_damage(chain.publisher)
    return complete


def _report_damage(publisher: Publisher) -> bool:
    """Log where damaged files are kept. Returns whether there are none."""
    directory = publisher.backlog.damaged_directory
    if directory is None or not publisher.finished.is_set():
        return True
    log.error(
        "some audio in the spool could not be read; its files are kept",
        extra=fields(session=str(publisher.spec.key), directory=str(directory)),
    )
    return False


def report_session(session: EdgeSession, spool: Spool | None) -> bool:
    """Log the summary of a session and its successors. Returns whether everything is stored,
    and nothing is known to be untranscribed."""
    publisher, chain = session.publisher, session.chain
    summary = fields(
        session=str(session.spec.key),
        seconds=round(session.seconds, 2),
        published_seconds=round(publisher.published_seconds, 2),
        gap_seconds={cause: round(s, 2) for cause, s in session.gap_seconds.items()},
        chunks=publisher.published,
        sent_again=publisher.resent,
        refused=publisher.refused,
        dropped_seconds=round(session.published_seconds(publisher.dropped_frames), 2),
        **chain.totals(),
    )
    if publisher.abandoned:
        log.info("a request ended the session before its audio ended", extra=summary)
        return False
    if not publisher.finished.is_set():
        log.error(
            "%d chunks are unacknowledged%s%s",
            publisher.unacknowledged,
            "" if publisher.opened else ", and so is the session request",
            where_kept(publisher, spool),
            extra=summary,
        )
        return False
    if (loss := chain.loss()) is not None:
        log.error("everything is published and acknowledged, but %s", loss, extra=summary)
        return False
    log.info("everything is published and acknowledged; %s", chain.progress(), extra=summary)
    return True


def report_leftover(chain: Chain, spool: Spool | None) -> bool:
    """Log what is left of an earlier session. Returns whether everything is stored, and nothing
    is known to be untranscribed."""
    publisher, about = chain.publisher, fields(session=str(chain.spec.key))
    if publisher.abandoned:
        return False
    if not publisher.finished.is_set():
        log.error(
            "%d chunks of an earlier session are unacknowledged%s",
            publisher.unacknowledged,
            where_kept(publisher, spool),
            extra=about,
        )
        return False
    if (loss := chain.loss()) is not None:
        log.error("an earlier session is published, but %s", loss, extra=about)
    return loss is None


async def pause_before_restart(error: KeyTaken, stop: asyncio.Event) -> None:
    """If this process is a unit of systemd, and another agent has refused it, wait for about half a
    minute, or until `stop` is set: the units start it again 2 s after its end, whatever ended it.
    """
    if "NOTIFY_SOCKET" not in os.environ:
        return
    seconds = _PAUSE_S * random.uniform(0.75, 1.25)  # noqa: S311 - of two agents, one asks first
    log.error("%s; ending in %.0f s, for systemd to try again", error, seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


def report_taken(take: Take, link: Link, spool: Spool | None, *, can_wait: bool) -> None:
    """Log that another agent has a key. `can_wait`: the audio can be captured again.

    Raises: KeyTaken if this agent has published nothing.
    """
    lost = take.holds.lost
    if lost is None:
        return
    words = lost.describe(datetime.now().astimezone())
    if lost.published:
        log.error("%s", words)
        return
    waited = take.outage or (link.broker is not None and link.broker.reconnects > 0)
    for session in take.sessions:
        publisher = session.publisher
        if waited or session.continued:
            publisher.close()
        else:
            publisher.abandon()  # it has only what was captured while this agent asked
    kept = where_kept(take.sessions[0].publisher, spool) or ("" if can_wait else ", which are lost")
    if waited and kept:
        words += f"; it captured {take.seconds:.1f} s before it reached NATS{kept}"
    raise KeyTaken(words)
