"""Checks that use a connection to the broker: rights, streams and the clock.

Nothing is stored and nobody receives anything: what is published names a stream that it is not
meant for, which JetStream refuses, and a conversation that nobody has.
"""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from natterjack.broker.connection import Broker, connect
from natterjack.broker.streams import AUDIO, QUEUES, TRANSCRIPTS
from natterjack.doctor.finding import Finding, examined, failed, ok, one_line, skipped, warning
from natterjack.doctor.installation import Installation, judged_clock, unreachable
from natterjack.errors import BrokerError, NotAllowed
from natterjack.settings import BrokerSettings
from natterjack.subjects import (
    HOLD_PREFIX,
    TRANSCRIPT_PREFIX,
    SessionKey,
    audio_subject,
    session_subject,
)

from . import access

_NAME = "natterjack-edge-check"
_REPLY_S = 3.0
_WRONG_STREAM = 10060
"""JetStream's error for a message that names another stream (JSStreamNotMatchErrCode)."""
_CHECKS = ("streams", "rights", "clock")
_EXPECTED = "Nats-Expected-Stream"
Keys = Sequence[tuple[str, str]]
"""The tenant and the speaker of each source."""


async def examine(
    settings: BrokerSettings, agent: str, keys: Keys, timeout_seconds: float
) -> list[Finding]:
    """Run all checks of the broker, one after another on one connection."""
    connections: list[Broker] = []

    async def connecting() -> Finding:
        try:
            connections.append(await connect(settings, name=_NAME, once=True))
        except BrokerError as error:
            found = unreachable(error, settings)
            if "NATS_CREDS" in found.cure:
                again = "; on a machine that was enrolled: `natterjack-edge enroll --new-key TOKEN`"
                found = dataclasses.replace(found, cure=found.cure + again)
            return found
        return await Installation(connections[0], settings).server()

    findings = await examined(("broker", connecting), timeout_seconds)
    if not connections:
        return [*findings, *(skipped(name, "there is no connection") for name in _CHECKS)]
    try:
        checks = BrokerChecks(connections[0], settings, agent, keys)
        for name in _CHECKS:
            findings += await examined((name, getattr(checks, name)), timeout_seconds)
    finally:
        await connections[0].close()
    return findings


class BrokerChecks:
    """The checks on one connection."""

    def __init__(self, broker: Broker, settings: BrokerSettings, agent: str, keys: Keys) -> None:
        self._broker = broker
        self._settings = settings
        self._agent = agent
        self._keys = keys
        self._installation = Installation(broker, settings)
        self._conversation = f"check-{uuid.uuid4().hex[:12]}"

    # ---- streams ----------------------------------------------------------------------------

    async def streams(self) -> Finding:
        """Whether the streams exist that this agent publishes into and reads from."""
        refused: list[str] = []
        missing: list[str] = []
        for tenant, speaker in self._keys:
            key = SessionKey(tenant, self._conversation, speaker)
            for stream, subject in (
                (QUEUES["transcribe"], session_subject(key)),
                (AUDIO, audio_subject(key)),
            ):
                try:
                    if not await self._stores(subject):
                        missing.append(stream)
                except NotAllowed:
                    refused.append(subject)
            status = f"{TRANSCRIPT_PREFIX}.{key}.status"
            try:
                if not await self._answers(f"$JS.API.DIRECT.GET.{TRANSCRIPTS}.{status}"):
                    missing.append(TRANSCRIPTS)
            except NotAllowed:
                pass  # the check of the rights says what that means
        if missing:
            names = ", ".join(dict.fromkeys(missing))
            cure = "start a worker, which creates them, or run natterjack streams apply"
            return failed("streams", f"nothing stores messages for {names}", cure)
        if refused:
            cure = f"use a user for tenant {self._keys[0][0]}: EDGE_TENANT, NATS_CREDS"
            return failed("streams", f"this user may not publish to {refused[0]}", cure)
        return ok("streams", "requests and audio would be stored")

    async def _stores(self, subject: str) -> bool:
        """Whether a stream stores what is published to the subject. Raises: NotAllowed."""
        answer = await self._request(subject, {_EXPECTED: _NAME})
        if answer is None:
            return False
        error = answer.get("error") or {}
        return error.get("err_code") == _WRONG_STREAM

    async def _answers(self, subject: str) -> bool:
        return await self._request(subject) is not None

    async def _request(
        self, subject: str, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | None:
        """Return the answer, empty if it is no JSON object; None if nobody answers.

        Raises: NotAllowed.
        """
        try:
            async with self._broker.raising_refusals(about={subject}):
                reply = await self._broker.client.request(
                    subject, b"", timeout=_REPLY_S, headers=headers
                )
        except (NoRespondersError, NatsError, TimeoutError):
            return None
        try:
            answer = json.loads(reply.data)
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}

    # ---- rights -----------------------------------------------------------------------------

    async def rights(self) -> Sequence[Finding]:
        """Check that this user has all the permissions that it needs, and no others."""
        try:
            answer = await self._installation.ask("$SYS.REQ.USER.INFO")
        except BrokerError:
            return await self._rights_by_trying()
        data = answer.get("data") or {}
        user = f"user {one_line(data['user'], 60)}" if data.get("user") else "anybody"
        permissions = data.get("permissions")
        return access.rights(
            permissions, self._agent, self._keys, self._settings.inbox_prefix, user
        )

    async def _rights_by_trying(self) -> Sequence[Finding]:
        """Subscribe to what an agent needs, and to what it must not have."""
        wanted, more = {}, {}
        for tenant, speaker in self._keys:
            key = SessionKey(tenant, self._conversation, speaker)
            wanted[f"{HOLD_PREFIX}.{key}"] = "notice another agent on its key"
            wanted[f"{TRANSCRIPT_PREFIX}.{key}.status"] = "learn that its session has ended"
        for name, (direction, subject) in access.TOO_MUCH.items():
            if direction == "subscribe":
                more[subject] = name
        refused = await self._refused([*wanted, *more])
        without = list(dict.fromkeys(wanted[s] for s in wanted if s in refused))
        found = [
            skipped(
                "rights",
                "this user may not ask what it may do; its subscriptions were tried",
                "`natterjack users config` of this release, and a reload of NATS, permit it",
            )
        ]
        if without:
            cure = "use a user that `natterjack users add edge` has made"
            found.append(warning("rights", f"this user may not {', '.join(without)}", cure))
        if excess := [name for subject, name in more.items() if subject not in refused]:
            found.append(access.excessive("this user", excess))
        return found

    async def _refused(self, subjects: Sequence[str]) -> set[str]:
        """The subjects to which this user may not subscribe."""
        refused: set[str] = set()

        def note(refusal: NotAllowed) -> bool:
            refused.add(refusal.subject)
            return True

        client = self._broker.client
        self._broker.on_refusal.add(note)
        try:
            made = [await client.subscribe(subject) for subject in subjects]
            await client.flush()  # the server sends its refusals before the answer to this
            for subscription in made:
                await subscription.unsubscribe()
        finally:
            self._broker.on_refusal.discard(note)
        return refused

    # ---- the clock --------------------------------------------------------------------------

    async def clock(self) -> Finding:
        """This machine's clock, compared with the broker's."""
        before, begin = time.time(), time.monotonic()
        try:
            answer = await self._installation.ask("$SYS.REQ.USER.INFO")
        except BrokerError:
            why = "this user may not ask the broker for its time"
            cure = "`natterjack users config` of this release, and a reload of NATS, permit it"
            return skipped("clock", why, cure)
        trip = time.monotonic() - begin
        told = (answer.get("server") or {}).get("time")
        if not isinstance(told, str):
            return skipped("clock", "the broker does not tell its time")
        server = datetime.fromisoformat(told[:19] + "+00:00").timestamp()
        server += float(f"0{told[19:].rstrip('Z') or '.0'}")
        return judged_clock(before + trip / 2 - server, trip)
