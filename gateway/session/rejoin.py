"""Sessions whose clients have lost their connections, and may come back to any gateway.

What is needed to go on is in the broker: the last chunk has the position, its number and the last
event that the client has received; the queue has the request. Whether a session has lost its client
is asked on its hold subject, which its gateway answers as long as the client is there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import NamedTuple

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from pydantic import ValidationError

from edge_capture.hold.exchange import machine_name
from natterjack.audio import AUDIO_END, AUDIO_POS, AUDIO_SEQ, SESSION_ID, AudioFormat
from natterjack.broker.client.fastpath import DirectSubscription
from natterjack.broker.connection import Broker
from natterjack.broker.stored import Stored, StoreUnavailable, StreamStore
from natterjack.broker.streams import SESSIONS
from natterjack.hold import Hold, parse_hold
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey, hold_subject, parse_key, session_subject

from .session import DELIVERED, ClientSession

log = logging.getLogger(__name__)

_ASK_S = 0.5
_LEAVES_S, _ENDS_S, _LOOK_S = 2.0, 0.5, 0.05
"""How long a client that comes back waits for the gateway that has sent it away, which stores the
last of its audio; and for one that may not know yet that the earlier connection is lost."""
_MAX_CANDIDATES = 16
_CLOCK_S = 5.0
"""The most by which the clocks of the broker and of gateways may differ."""
_NOT_A_REPLY = (b"stt.", b"tts.", b"$")
"""Prefixes of subjects to which no answer is sent: another user may name any of them."""


class Left(NamedTuple):
    """A session that has lost its client, and where it goes on."""

    spec: SessionSpec
    """The request of the current session."""
    next_seq: int
    position: int
    delivered: int
    """The number of the last durable event that the client has received, or -1."""


async def answer_holds(
    broker: Broker, session: ClientSession, ending: Callable[[], bool]
) -> DirectSubscription:
    """Answer that the key of a session is in use, until the subscription's end. `ending`: whether
    the gateway sends its clients away, so that this one may come back in a moment."""
    since, agent = datetime.now(UTC), machine_name()

    def asked(_subject: bytes, reply: bytes, _headers: bytes | None, _data: bytes) -> None:
        if not reply or not reply.isascii() or reply.startswith(_NOT_A_REPLY):
            return
        hold = Hold(
            session_id=session.spec.session_id,
            agent=agent,
            pid=os.getpid(),
            since=since,
            version=version("natterjack"),
            publishing=not ending(),
            request_sequence=session.publisher.request_sequence,
        )
        with suppress(NatsError):
            broker.client.post(reply.decode(), hold.encode())

    return await broker.client.listen(hold_subject(session.key), asked)


async def is_used(broker: Broker, key: SessionKey) -> bool:
    """Whether somebody captures a key, as far as is known. Waits for a gateway that ends, and for
    one whose client has just been lost."""
    hold = Hold(
        session_id="gateway-asks",
        agent=machine_name(),
        pid=os.getpid(),
        since=datetime.now(UTC),
        publishing=False,
    )
    began = time.monotonic()
    while True:
        try:
            subject = hold_subject(key)
            reply = await broker.client.request(subject, hold.encode(), timeout=_ASK_S)
            answer = parse_hold(reply.data)
        except NoRespondersError:
            return False
        except (NatsError, TimeoutError) as error:
            log.debug("hold of %s: %r", key, error)
            return True
        wait = 0.0 if answer is None else _ENDS_S if answer.publishing else _LEAVES_S
        if time.monotonic() - began >= wait:
            return True
        await asyncio.sleep(_LOOK_S)


async def find_left(
    broker: Broker, audio: StreamStore, subject: str, wanted: AudioFormat, max_age_s: float
) -> Left | None:
    """Find the session on an audio subject, which may have wildcards, that has lost its client
    within `max_age_s` seconds. None if there is none, or more than one, or it is not known."""
    try:
        candidates = await _open_subjects(audio, [subject], max_age_s)
        if not 0 < len(candidates) <= _MAX_CANDIDATES:
            return None
        used = await asyncio.gather(*(is_used(broker, parse_key(each)) for each in candidates))
        left = [each for each, is_so in zip(candidates, used, strict=True) if not is_so]
        if len(left) != 1:
            return None
        # Its gateway may have stored more until it let go.
        chunk = (await _open_subjects(audio, left, max_age_s)).get(left[0])
        return chunk and await _read_left(broker, chunk, wanted)
    except (StoreUnavailable, NatsError, TimeoutError, ValidationError, KeyError) as error:
        log.debug("no session is rejoined: %r", error)
        return None


async def _open_subjects(
    audio: StreamStore, subjects: list[str], max_age_s: float
) -> dict[str, Stored]:
    """The last chunks of sessions that have not ended, by subject."""
    return {
        chunk.subject: chunk
        for chunk in await audio.last_of(subjects)
        if chunk.headers.get(AUDIO_END) != "1" and _age_s(chunk) < max_age_s + _CLOCK_S
    }


async def _read_left(broker: Broker, chunk: Stored, wanted: AudioFormat) -> Left | None:
    """Return where the session of its last stored chunk goes on, or None if the session is over or
    has another format."""
    headers, key = chunk.headers, parse_key(chunk.subject)
    js = broker.client.jetstream(timeout=_ASK_S)
    message = await js.get_last_msg(SESSIONS, session_subject(key))
    spec = SessionSpec.model_validate_json(message.data or b"")
    same = (spec.encoding, spec.audio_format) == (wanted.encoding, wanted)
    if not same or spec.audio_session_id != headers[SESSION_ID]:
        return None
    session_id, _, sequence = headers.get(DELIVERED, "").rpartition(":")
    known = session_id == spec.session_id and sequence.isdecimal()
    return Left(
        spec,
        next_seq=int(headers[AUDIO_SEQ]) + 1,
        position=int(headers[AUDIO_POS]) + spec.audio_format.frames(len(chunk.data)),
        delivered=int(sequence) if known else -1,
    )


def _age_s(chunk: Stored) -> float:
    stored = datetime.fromisoformat(chunk.stored_at)
    return (datetime.now(UTC) - stored) / timedelta(seconds=1)
