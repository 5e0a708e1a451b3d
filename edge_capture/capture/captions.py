"""Captions of an edge's own sessions, on its standard output.

Only live events are shown: an edge may not read stored ones. What is published while there is no
connection is not shown.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Sequence

from natterjack.broker.client.fastpath import DirectSubscription
from natterjack.broker.connection import Broker
from natterjack.broker.login.permissions import CAPTION_KINDS
from natterjack.consume.captions import Captions
from natterjack.consume.interims import InterimQueue
from natterjack.consume.live import LiveEvents
from natterjack.consume.markers import Marker
from natterjack.decoding import AnyEvent
from natterjack.errors import NotAllowed
from natterjack.process.run import end_tasks
from natterjack.process.terminal import unread
from natterjack.subjects import EventKind, SessionKey, transcript_filter

from ..delivery.link import Connected, Link
from ..delivery.lull import lull_of

log = logging.getLogger(__name__)


def caption_output(keys: Sequence[SessionKey] | None = None) -> Captions:
    """Return the output that shows the captions of these sessions, or of all sessions if `keys` is
    None.

    If it shows several sessions, each line names its speaker, or its conversation and speaker if
    the conversations differ. Entered as a context manager, the output also takes over the log, so
    that log lines and captions do not mix.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # transcripts may be in any script
        sys.stdout.reconfigure(errors="replace")
    if keys is None or len({key.conversation for key in keys}) > 1:
        return Captions(names="key", states=False)
    return Captions(names="speaker" if len(keys) > 1 else None, states=False)


async def show_captions(keys: Sequence[SessionKey], link: Link, captions: Captions) -> None:
    """Show what is transcribed of sessions, until cancelled. Logs why it is not possible, and
    returns; never raises for that. Cancel-safe."""
    while True:
        connected = await link.opened()
        try:
            await _show_on(connected, keys, captions)
        except NotAllowed as refusal:
            log.warning(
                "no captions: this user may not receive %s; make one with `natterjack users add "
                "edge --captions`, or leave captions out; the capture goes on",
                refusal.subject,
            )
            return
        except OSError as error:
            if not unread(error):
                log.warning("no more captions: %s", error.strerror or error)
            return


async def _show_on(connected: Connected, keys: Sequence[SessionKey], captions: Captions) -> None:
    """Show captions until the connection is closed permanently. Raises: NotAllowed, OSError."""
    receiving = _Receiving(connected.broker, keys)
    await receiving.start()
    try:
        with lull_of(connected.broker.client).awake():
            async with asyncio.TaskGroup() as tasks:
                showing = tasks.create_task(_show(receiving, captions), name="show captions")
                closed = tasks.create_task(connected.closed.wait())
                await asyncio.wait((showing, closed), return_when=asyncio.FIRST_COMPLETED)
                await end_tasks((showing, closed))
    finally:
        await receiving.stop()
    if not showing.cancelled():
        raise showing.result()


async def _show(receiving: _Receiving, captions: Captions) -> NotAllowed | OSError:
    """Show captions, and return what ends them."""
    try:
        while True:
            captions.show(await receiving.next())
    except (NotAllowed, OSError) as error:
        return error


class _Receiving:
    """Live events of some sessions. For one task."""

    def __init__(self, broker: Broker, keys: Sequence[SessionKey]) -> None:
        self._broker = broker
        self._interims = InterimQueue("latest")
        self._live = LiveEvents(self._interims)
        # A closing status ends the row of its session. Every edge may receive it.
        kinds: tuple[EventKind, ...] = (*CAPTION_KINDS, "status")
        self._subjects = {
            transcript_filter(*key, kind): kind in CAPTION_KINDS for key in keys for kind in kinds
        }
        self._subscriptions: list[DirectSubscription] = []
        self._refusal: NotAllowed | None = None

    async def start(self) -> None:
        """Subscribe."""
        self._broker.on_refusal.add(self._refused)
        for subject in self._subjects:
            subscription = await self._broker.client.listen(subject, self._live.received)
            self._subscriptions.append(subscription)

    async def stop(self) -> None:
        """Unsubscribe. Idempotent."""
        self._broker.on_refusal.discard(self._refused)
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await subscription.end()

    def _refused(self, refusal: NotAllowed) -> bool | None:
        if refusal.publishes or not self._subjects.get(refusal.subject):
            return None
        self._refusal = refusal
        self._live.poke()
        return True

    async def next(self) -> AnyEvent:
        """The next event: an interim only if no other one waits. Raises: NotAllowed."""
        while True:
            if self._refusal is not None:
                raise self._refusal
            if not self._live.waiting and (interim := self._interims.next()) is not None:
                return interim
            event = await self._live.next()
            if event is not None and not isinstance(event, Marker):
                return event
