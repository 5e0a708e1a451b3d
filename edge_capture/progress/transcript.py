"""The text of the sessions of a run, for `--wait`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from nats.errors import Error as NatsError

from natterjack.broker.connection import Broker
from natterjack.consume.listener import listen
from natterjack.errors import NatterjackError
from natterjack.process.terminal import plain
from natterjack.transcripts.builder import TranscriptBuilder

from ..delivery.chain import Chain

log = logging.getLogger(__name__)

_READ_S = 30.0


async def print_text(chains: Sequence[Chain], broker: Broker) -> None:
    """Print what was said in the sessions of a run, which have ended: a line for each stretch of
    speech, which names its speaker if there are several. Logs why it is not possible."""
    try:
        async with asyncio.timeout(_READ_S):
            text = await _read(chains, broker)
    except (NatterjackError, NatsError, TimeoutError) as error:
        log.warning("the text cannot be read: %s", error or f"no answer within {_READ_S:.0f} s")
        return
    with contextlib.suppress(OSError):  # standard output is closed
        for line in text.splitlines():
            print(plain(line), flush=True)


async def _read(chains: Sequence[Chain], broker: Broker) -> str:
    """Return the text. Raises: NotAllowed and other errors of the broker."""
    sessions = {session for chain in chains for session in chain.session_ids}
    key = chains[0].spec.key
    builder = TranscriptBuilder(key.tenant, key.conversation)
    events = listen(
        key.tenant, key.conversation, since="start", until="stored", interims=None, broker=broker
    )
    async with contextlib.aclosing(events):
        async for event in events:
            if event.session_id in sessions:  # the conversation may be older
                builder.add(event)
    return builder.build().to_txt(times=False)
