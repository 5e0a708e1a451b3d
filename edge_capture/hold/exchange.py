"""Asking other agents for the keys of this run, and answering theirs, over NATS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import socket
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import NamedTuple, Protocol

from nats.errors import Error as NatsError

from natterjack.broker.client.fastpath import DirectSubscription
from natterjack.broker.connection import Broker
from natterjack.broker.streams import TRANSCRIPTS
from natterjack.errors import BadEvent, NotAllowed
from natterjack.events import StatusEvent, parse_event
from natterjack.hold import Hold, parse_hold
from natterjack.subjects import (
    SessionKey,
    hold_subject,
    player_hold_subject,
    transcript_subject,
)

from ..delivery.replies import NO_RESPONDERS
from .contest import Contest, Lost

log = logging.getLogger(__name__)

_CONFIRM_S, _REPEAT_S = 1.0, 30.0
"""When to ask again once the keys are granted, and then how often. Two agents that ask at the same
moment on different servers of a cluster may both find nobody, as may agents that a network failure
between servers has separated."""
_POLL_S, _IDLE_POLL_S = 1.0, 5.0
_ROUND_TRIP_S = 5.0
_STATUS_S = 2.0
"""How long to wait for the last status of a key."""
NOT_A_REPLY = (b"stt.", b"tts.", b"$")
"""Prefixes of subjects to which no answer is sent. The server lets this agent publish to any reply
subject that another agent names, which could make it publish audio or requests, for example."""


def machine_name() -> str:
    """Return the name under which an agent is known to others."""
    return re.sub(r"[^ -~]", "?", socket.gethostname())[:255] or "unknown"


class Claim(Protocol):
    """The use of a key by this run."""

    @property
    def key(self) -> SessionKey:
        """The key."""

    @property
    def session_id(self) -> str:
        """ID that distinguishes this use of the key from others."""

    @property
    def request_sequence(self) -> int | None:
        """Sequence in STT_SESSIONS of the newest session request, if there is one."""


class Purpose(NamedTuple):
    """The purpose for which agents hold keys: to capture audio, or to play speech."""

    subject: Callable[[SessionKey], str]
    """The subject on which the agents of a key tell each other that they hold it."""
    participle: str
    """The word for it in messages: the key is `captured`, or `played`."""


CAPTURE = Purpose(hold_subject, "captured")
PLAY = Purpose(player_hold_subject, "played")


class Holds:
    """The keys that one run uses. It gets all of them, or another agent has one."""

    def __init__(self, claims: Sequence[Claim], purpose: Purpose = CAPTURE) -> None:
        self._claims = {claim.key: claim for claim in claims}
        self._purpose = purpose
        self._subjects = {purpose.subject(key) for key in self._claims}
        self._tokens = {b"%d" % n: key for n, key in enumerate(self._claims)}
        """Keys by the last token of the subject for answers."""
        self._contest = Contest(self._claims)
        self._agent, self._version = machine_name(), version("natterjack")
        self._since = datetime.now(UTC)
        self._broker: Broker | None = None
        self._inbox = ""
        self._ask_at = 0.0
        self._outage = False
        self._may_ask = True
        self._warned = False
        self._replies: deque[str] = deque(maxlen=16)
        """Subjects of the last answers, to recognize them if the server refuses one."""
        self._wake = asyncio.Event()
        self._released = False
        self.granted = asyncio.Event()
        """Set when this run may use its keys."""
        self.taken = asyncio.Event()
        """Set when another agent has one of the keys."""
        self._confirmed = asyncio.Event()

    @property
    def lost(self) -> Lost | None:
        """The other agent that has one of the keys, once `taken` is set."""
        return self._contest.lost

    async def confirm(self) -> None:
        """Ask again, and return once nobody else has one of the keys; at once after `release`.
        Cancel-safe.

        To be awaited before a new session continues the audio of another: this agent may have been
        frozen, and the new session would end that of an agent that has taken over.
        """
        if self._released:
            return
        self._confirmed.clear()
        self._ask_at = 0.0
        self._wake.set()
        await self._confirmed.wait()

    def release(self) -> None:
        """Let others have the keys, because everything is published. `run` returns."""
        self._released = True
        self._confirmed.set()
        self._wake.set()

    async def run(self, broker: Broker, *, outage: bool) -> None:
        """Ask and answer until the keys are taken or released, or the connection is closed
        permanently.

        `outage`: the broker could not be reached at first. Cancel-safe.
        """
        self._broker, self._inbox = broker, broker.client.new_inbox()
        self._ask_at, self._outage = 0.0, outage
        broker.on_reconnect.add(self._reconnected)
        broker.on_refusal.add(self._refused)
        subscriptions: list[DirectSubscription] = []
        try:
            listen = broker.client.listen
            subscriptions.append(await listen(f"{self._inbox}.*", self._answered))
            for key in self._claims:
                asked = partial(self._asked, key)
                subscriptions.append(await listen(self._purpose.subject(key), asked))
            if self._purpose is CAPTURE and not (outage or self.granted.is_set()):
                self._outage = await self._others_are_open(broker)
            while not (self._released or self.taken.is_set() or broker.client.is_closed):
                self._wake.clear()
                await self._step(broker)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._delay()):
                        await self._wake.wait()
        finally:
            broker.on_reconnect.discard(self._reconnected)
            broker.on_refusal.discard(self._refused)
            with contextlib.suppress(NatsError):
                for subscription in subscriptions:
                    await subscription.end()

    async def _others_are_open(self, broker: Broker) -> bool:
        """Whether a worker has a session of another agent on one of the keys, as far as this user
        may know. That agent may be about to connect again."""
        js = broker.client.jetstream(timeout=_STATUS_S)

        async def is_open(claim: Claim) -> bool:
            subject = transcript_subject(claim.key, "status")
            try:
                message = await js.get_last_msg(TRANSCRIPTS, subject, direct=True)
                event = parse_event(message.data or b"")
            except (NatsError, TimeoutError, BadEvent):
                return False
            if not isinstance(event, StatusEvent) or event.closing:
                return False
            return event.session_id != claim.session_id

        try:
            async with broker.raising_refusals():
                return any(await asyncio.gather(*map(is_open, self._claims.values())))
        except NotAllowed:
            return False

    def _delay(self) -> float:
        now = asyncio.get_running_loop().time()
        due = self._contest.due()
        return max(
            0.0, min(_IDLE_POLL_S, self._ask_at - now, math.inf if due is None else due - now)
        )

    async def _step(self, broker: Broker) -> None:
        """Do what is due."""
        now = asyncio.get_running_loop().time()
        if now >= self._ask_at:
            self._ask_at = now + (_REPEAT_S if self._ask(broker, now) else _POLL_S)
        due = self._contest.due()
        # This process may have stood still: what has arrived in the meantime is read first.
        if due is not None and now >= due:
            if not await self._answers_are_read(broker):
                self._contest.disconnected()
                self._ask_at = now + _POLL_S
                return
            if self._contest.decide(now):
                self._confirmed.set()
                if not self.granted.is_set():
                    self.granted.set()
                    self._ask_at = now + _CONFIRM_S

    async def _answers_are_read(self, broker: Broker) -> bool:
        try:
            async with broker.within_connection():
                await broker.client.flush(_ROUND_TRIP_S)  # type: ignore[arg-type]
        except (NatsError, TimeoutError):
            return False
        return True

    def _ask(self, broker: Broker, now: float) -> bool:
        """Ask for all keys. Returns False if there is no connection."""
        if not broker.connected:
            self._contest.disconnected()
            return False
        self._contest.asked(now, outage=self._outage)
        self._outage = False
        if not self._may_ask:
            self._contest.not_allowed()
            return True
        try:
            for token, key in self._tokens.items():
                reply = f"{self._inbox}.{token.decode()}"
                broker.client.post(
                    self._purpose.subject(key), self._hold(key).encode(), reply=reply
                )
        except NatsError:
            self._contest.disconnected()
            return False
        return True

    def _hold(self, key: SessionKey) -> Hold:
        """Return the message of this agent about the key."""
        sequences = [each.request_sequence or 0 for each in self._claims.values()]
        return Hold(
            session_id=self._claims[key].session_id,
            agent=self._agent,
            pid=os.getpid(),
            since=self._since,
            version=self._version,
            publishing=self._contest.granted,
            request_sequence=max(sequences) or None,
        )

    def _reconnected(self) -> None:
        self._outage, self._may_ask, self._ask_at = True, True, 0.0
        self._wake.set()

    def _asked(
        self, key: SessionKey, _subject: bytes, reply: bytes, _headers: bytes | None, data: bytes
    ) -> None:
        assert self._broker is not None
        if reply.isascii() and reply and not reply.startswith(NOT_A_REPLY):
            self._replies.append(reply.decode())
            with contextlib.suppress(NatsError):
                self._broker.client.post(self._replies[-1], self._hold(key).encode())
        self._heard(key, data)

    def _answered(self, subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        key = self._tokens.get(subject.rpartition(b".")[2])
        if key is None:
            return
        if not data and (headers or b"").startswith(NO_RESPONDERS):
            self._contest.nobody(key)
            self._wake.set()
        else:
            self._heard(key, data)

    def _heard(self, key: SessionKey, data: bytes) -> None:
        other = parse_hold(data)
        if other is not None:
            self._contest.heard(key, self._hold(key), other)
            if self._contest.lost is not None:
                self.taken.set()
                self._wake.set()

    def _refused(self, refusal: NotAllowed) -> bool:
        """Handle a missing permission, which users made by earlier releases lack. Returns whether
        it concerns the hold."""
        if refusal.subject in self._subjects:
            if refusal.publishes:
                self._may_ask = False
                self._contest.not_allowed()
                self._wake.set()
        elif not (refusal.publishes and refusal.subject in self._replies):
            return False
        if not self._warned:
            self._warned = True
            log.info(
                "%s, so the same key could be %s by two agents unnoticed; to permit it, run "
                "`natterjack users config --dir users` and reload NATS",
                refusal,
                self._purpose.participle,
            )
        return True
