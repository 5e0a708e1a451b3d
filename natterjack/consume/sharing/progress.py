"""Stored progress: entries of the bucket `stt_durables`, each written by compare-and-set."""

from __future__ import annotations

from typing import NamedTuple

from nats.errors import NoRespondersError
from nats.js.errors import APIError, NoStreamResponseError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.errors import StreamMissing

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_WRONG_LAST_SEQUENCE = (10071, 10164)
_TIMEOUT_S = 3.0


class Conflict(Exception):
    """The entry is not the one that was expected: another process has written it."""


class Entry(NamedTuple):
    """A stored entry."""

    value: bytes
    """Empty if there is none, or if it was deleted."""
    revision: int
    """0 if there was never one."""
    stored_at: str
    """The server's time of storage, RFC 3339."""


class Progress:
    """The entries of one durable consumer."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self._prefix = streams.bucket_subject(streams.DURABLES_BUCKET, name)
        self._requests = f"$JS.API.DIRECT.GET.KV_{streams.DURABLES_BUCKET}"

    async def read(self, key: str) -> Entry:
        """Read an entry. A replica answers, which may lag behind: then `write` raises Conflict.

        Raises: StreamMissing; NATS's errors.
        """
        subject = f"{self._requests}.{self._prefix}.{key}"
        try:
            reply = await self._broker.client.request(subject, b"", timeout=_TIMEOUT_S)
        except NoRespondersError:
            raise _missing() from None
        headers = reply.headers or {}
        if "Nats-Sequence" not in headers:  # 404
            return Entry(b"", 0, "")
        value = b"" if headers.get("KV-Operation") else reply.data
        return Entry(value, int(headers["Nats-Sequence"]), headers["Nats-Time-Stamp"])

    async def write(self, key: str, value: bytes, revision: int) -> int:
        """Replace the entry that has `revision`; return the new revision.

        Raises: Conflict; StreamMissing; NATS's errors. After any but Conflict, it may be stored.
        """
        acknowledged = await self._broker.acks.publish(
            f"{self._prefix}.{key}", value, {_EXPECTED: str(revision)}, _TIMEOUT_S
        )
        try:
            return await acknowledged
        except NoStreamResponseError:
            raise _missing() from None
        except APIError as error:
            if error.err_code in _WRONG_LAST_SEQUENCE:
                raise Conflict from None
            raise


def _missing() -> StreamMissing:
    return StreamMissing(
        f"bucket {streams.DURABLES_BUCKET} is missing: a worker of this release creates it when it "
        "starts, or `natterjack streams apply`"
    )
