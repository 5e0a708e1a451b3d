"""nats-py's parser with a faster path for subscriptions of high volume; see fastpath.py."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from nats.aio.client import Client
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from natterjack.telemetry.log import fields

from .wire import decode_messages

log = logging.getLogger(__name__)

Receive = Callable[[bytes, bytes, bytes | None, bytes], None]
"""Receives a message's subject, its reply subject (empty if absent), its headers as they are on the
wire (None if absent) and its payload."""


class DirectParser(Parser):
    """Delivers messages of direct subscriptions as soon as bytes arrive, and passes everything else
    through asyncio's reader to nats-py's parser.

    This avoids waking a task for each read, a regular expression for each line, and moving all
    later bytes to the front of a buffer after each message.
    """

    def __init__(self, client: Client, direct: Mapping[bytes, Receive]) -> None:
        """`direct` has the receivers of direct subscriptions, by subscription ID as it is on the
        wire."""
        super().__init__(client)
        self._direct = direct
        self._unparsed = 0
        """Bytes that the reader holds and that are not parsed yet. Later bytes queue behind
        them."""
        self._reader: asyncio.StreamReader | None = None
        """The reader of the current connection."""

    def attach(self, reader: asyncio.StreamReader) -> None:
        """Intercept the bytes that asyncio feeds to `reader`."""
        feed_reader = reader.feed_data
        self._reader = reader
        # asyncio has no public way to ask a reader how much it holds.
        self._unparsed = len(getattr(reader, "_buffer", b""))

        def feed_data(data: bytes) -> None:
            if self._reader is not reader:
                return  # late bytes of an earlier connection
            if not self._unparsed:
                data = self._deliver(data)
                if not data:
                    return
            self._unparsed += len(data)
            feed_reader(data)

        reader.feed_data = feed_data  # type: ignore[method-assign, assignment]

    async def parse(self, data: bytes = b"") -> None:
        rest = self._deliver(data)
        if rest:
            await super().parse(rest)
        self._unparsed -= len(data)

    def _deliver(self, data: bytes) -> bytes:
        """Deliver the messages at the front of `data` that belong to direct subscriptions; return
        the rest. The beginning of such a message is kept for the next call."""
        if self.state != AWAITING_CONTROL_LINE:
            return data
        if self.buf:
            data = bytes(self.buf) + data
            self.buf.clear()
        messages, size, incomplete = decode_messages(data, self._direct)
        for receive, subject, reply, headers, payload in messages:
            try:
                receive(subject, reply, headers, payload)
            except Exception:  # a task boundary: nats-py's read loop must not end
                log.exception("message handler failed", extra=fields(subject=subject.decode()))
        if incomplete:
            self.buf += data[size:]
            return b""
        return data[size:] if size else data
