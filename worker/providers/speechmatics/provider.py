"""The base class of the providers `speechmatics` and `speechmatics-agent`, which opens streams."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from abc import abstractmethod
from typing import Any

from natterjack.plugin.errors import ProviderError
from natterjack.plugin.provider import Provider, ProviderStream, StreamRequest
from natterjack.plugin.websocket import Connector

from . import connection, control
from .exchange import Exchange, Limits
from .keys import Keys
from .settings import SpeechmaticsAccount
from .window import Patience

log = logging.getLogger(__name__)


class RealtimeProvider(Provider):
    """Streams over one shared aiohttp session.

    `open` returns once recognition has started. A successful handshake is not enough, since quota
    and key are checked after it (Speechmatics docs, "Error handling").
    """

    def __init__(
        self,
        account: SpeechmaticsAccount,
        url: str,
        *,
        final_timeout_seconds: float,
        silence_margin_seconds: float,
    ) -> None:
        self._account = account
        self._url = url
        self._keys = Keys(self.name, account.checked_key(), account)
        for address in (url, account.management_url):
            if address.startswith(("ws://", "http://")):
                log.warning("connecting to Speechmatics without encryption, at %s", address)
        self.limits = Limits(
            max_unacknowledged_seconds=account.max_unacknowledged_seconds,
            max_unacknowledged_frames=account.max_unacknowledged_frames,
            final_timeout_seconds=final_timeout_seconds,
            silence_margin_seconds=silence_margin_seconds,
        )
        self._patience = Patience(account.retry_seconds)
        self._connector = Connector(
            self.name,
            connect_timeout_seconds=account.connect_timeout_seconds,
            ping_seconds=account.ping_seconds,
        )

    @abstractmethod
    def exchange(self, request: StreamRequest) -> Exchange[Any]:
        """Return the state of a new stream. Raises: RequestRefused."""

    async def open(self, request: StreamRequest) -> ProviderStream:
        exchange = self.exchange(request)
        failed = functools.partial(self._failed, request.session_id)
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(self._patience.wait(request.session_id, now))
        try:
            stream = await self._open(exchange)
        except ProviderError as error:
            failed(error)
            raise
        stream.on_failure = failed
        return stream

    async def _open(self, exchange: Exchange[Any]) -> connection.SpeechmaticsStream:
        key = await self._keys.get()
        account = self._account
        connect = control.connect_request(self._url, key, account.app, str(uuid.uuid4()))
        async with self._connector.opening(connect) as socket:
            return await connection.start(socket, exchange, account.start_timeout_seconds)

    def _failed(self, session_id: str, error: ProviderError) -> None:
        if error.cause == "auth":
            self._keys.forget()
        self._patience.failed(session_id, error, asyncio.get_running_loop().time())

    async def close(self) -> None:
        await self._connector.close()
        await self._keys.close()
