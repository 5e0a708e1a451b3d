"""The connection to NATS, which reconnects with backoff until it is closed and logs its changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from nats.errors import Error as NatsError
from nats.errors import SlowConsumerError

from natterjack.errors import BrokerUnreachable, NotAllowed, ServerTooOld, UsageError
from natterjack.settings import BrokerSettings
from natterjack.telemetry.log import fields

from .acks import Acks
from .fastpath import Client

log = logging.getLogger(__name__)

OLDEST_SERVER = (2, 11, 0)
"""The first release with batched direct get. 2.11.0, 2.11.11, 2.12.0 and 2.15.1 pass the tests;
2.10.26 does not."""

_REFUSED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.I)
_REPEAT_S, _MAX_REPEATS = 30.0, 20
"""How long an error is not logged again, and how many errors are remembered for that."""
_FIRST_DELAY_S, _MAX_DELAY_S = 0.25, 5.0
_ATTEMPT_S, _ONLY_ATTEMPT_S = 2.0, 10.0
"""The time limit of a connection attempt, and of one that is not repeated."""


def _tls(settings: BrokerSettings) -> ssl.SSLContext | None:
    if not (settings.ca or settings.cert):
        return None
    try:
        context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
        if settings.cert:
            context.load_cert_chain(settings.cert, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"NATS_CA, NATS_CERT or NATS_KEY cannot be used: {error}") from None
    return context


def _options(settings: BrokerSettings) -> dict[str, object]:
    options: dict[str, object] = {
        "servers": settings.url.split(","),
        "inbox_prefix": settings.inbox_prefix.encode(),
    }
    if (tls := _tls(settings)) is not None:
        options["tls"] = tls
    for name, path in (("NATS_CREDS", settings.creds), ("NATS_NKEY", settings.nkey)):
        if path is not None:
            _check_readable(name, path)
    if settings.creds:
        options["user_credentials"] = str(settings.creds)
    if settings.nkey:
        options["nkeys_seed"] = str(settings.nkey)
    if settings.user:
        options["user"] = settings.user
        options["password"] = settings.password.get_secret_value() if settings.password else ""
    return options


def _check_readable(name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise UsageError(f"{name}: there is no file {path}") from None
    except OSError as error:  # in a container: a file of another user
        raise UsageError(f"{name}: {path} cannot be read: {error.strerror}") from None


def without_credentials(urls: str) -> str:
    """Return server URLs without the user and password that they may contain."""
    return re.sub(r"(^|//|,)[^/@,]*@", r"\1", urls)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return str(error) or type(error).__name__


class Broker:
    """One connection to NATS that survives restarts of servers; `client` is nats-py's client.

    `on_reconnect` callbacks run after each reconnect, once subscriptions are restored.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.acks = Acks(client)
        self.on_reconnect: set[Callable[[], None]] = set()
        self.on_refusal: set[Callable[[NotAllowed], None]] = set()
        """Called when the server's permissions refuse this user a subject. There is no other sign
        of it: a reply simply does not arrive."""
        self.slow_consumers = 0
        self.reconnects = 0
        """The number of the current or last connection; 0 is the first."""

    @property
    def connected(self) -> bool:
        """True once the connection is up, subscriptions are restored and `on_reconnect` callbacks
        have run. Until then, state from the last connection may be out of date."""
        # nats-py counts as connected one round trip before it calls `on_reconnected`.
        return self.client.is_connected and self.client.stats["reconnects"] == self.reconnects

    @contextlib.asynccontextmanager
    async def within_connection(self) -> AsyncIterator[None]:
        """Raise TimeoutError in the block as soon as the client has reconnected. Replies to
        requests sent on the old connection do not arrive, whether or not they were handled."""
        async with asyncio.timeout(None) as timeout:

            def lost() -> None:
                if not timeout.expired():
                    timeout.reschedule(asyncio.get_running_loop().time())

            self.on_reconnect.add(lost)
            try:
                yield
            finally:
                self.on_reconnect.discard(lost)

    @contextlib.asynccontextmanager
    async def raising_refusals(self, *, only_replies: bool = False) -> AsyncIterator[None]:
        """Raise NotAllowed in the block as soon as the server refuses this user a subject; with
        `only_replies`, only if it refuses the replies to the user's requests."""
        refusals: list[NotAllowed] = []
        try:
            async with asyncio.timeout(None) as end:

                def refused(refusal: NotAllowed) -> None:
                    if not refusals and (refusal.own_inbox or not only_replies):
                        refusals.append(refusal)
                        end.reschedule(asyncio.get_running_loop().time())

                self.on_refusal.add(refused)
                try:
                    yield
                finally:
                    self.on_refusal.discard(refused)
        except Exception:  # any consequence of the refusal
            if refusals:
                raise refusals[0] from None
            raise

    def refusal(self, error: Exception) -> NotAllowed | None:
        """Return the refusal that the server's `error` reports, or None if it is another error."""
        found = _REFUSED.search(str(error))
        if found is None:
            return None
        publishes, subject = found[1].lower() == "publish", found[2]
        own = not publishes and subject.startswith(f"{self.client.inbox_prefix}.")
        return NotAllowed(subject, publishes=publishes, own_inbox=own)

    async def wait_connected(self) -> None:
        """Wait at least 0.1 s, and until the connection is up. Cancel-safe.

        Raises: BrokerUnreachable if it is closed.
        """
        await asyncio.sleep(0.1)
        while not self.connected:
            if self.client.is_closed:
                raise BrokerUnreachable("the connection to NATS is closed")
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Flush for 2 s at most, then close. Idempotent."""
        if not self.client.is_closed:
            await self._close()
        self.client.abort()  # a connection that nats-py was just making

    async def _close(self) -> None:
        if self.client.is_connected:
            with contextlib.suppress(NatsError, TimeoutError, OSError, RuntimeError):
                await self.client.flush(timeout=2)
        # close() waits on the socket if the server is gone. If the connection is just being lost,
        # it ends cancelled, although this task was not.
        closing = asyncio.ensure_future(self.client.close())
        await asyncio.wait({closing}, timeout=3)
        if not closing.cancel() and not closing.cancelled():
            with contextlib.suppress(NatsError, OSError, RuntimeError):  # RuntimeError: uvloop's
                closing.result()


async def connect(
    settings: BrokerSettings,
    *,
    name: str,
    once: bool = False,
    on_waiting: Callable[[str], Awaitable[None]] | None = None,
) -> Broker:
    """Connect to the broker at `settings.url`.

    Retries forever with backoff, jitter and one log line per attempt, unless `once` is set. An
    established connection is restored whenever it is lost.

    Raises: BrokerUnreachable with `once`, if the first attempt fails; UsageError for unusable
    settings; ServerTooOld. Cancel-safe.
    """
    delay = _FIRST_DELAY_S
    while True:
        broker = Broker(Client())
        try:
            await _connect_once(broker, settings, name, _ONLY_ATTEMPT_S if once else _ATTEMPT_S)
        except (NatsError, OSError, TimeoutError, ValueError) as error:
            reason = f"no NATS at {without_credentials(settings.url)}: {_reason(error)}"
            await broker.close()
            if once:
                raise BrokerUnreachable(f"{reason} (NATS_URL says where it is)") from None
            wait = delay * random.uniform(0.5, 1)  # noqa: S311 - jitter
            log.warning("%s; next attempt in %.1f s", reason, wait)
            if on_waiting is not None:
                await on_waiting(reason)
            await asyncio.sleep(wait)
            delay = min(delay * 2, _MAX_DELAY_S)
        else:
            return broker


async def _connect_once(
    broker: Broker, settings: BrokerSettings, name: str, seconds: float
) -> None:
    client, url = broker.client, without_credentials(settings.url)
    quiet_until: dict[str, float] = {}
    connected_once = False
    first_error: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def on_error(error: Exception) -> None:
        if not first_error.done():
            first_error.set_result(error)
        refusal = broker.refusal(error)
        if refusal is not None:
            error = refusal
            for callback in list(broker.on_refusal):
                callback(refusal)
        if isinstance(error, SlowConsumerError):
            broker.slow_consumers += 1  # the feed notices the gap and reads it from the stream
        elif connected_once and quiet_until.get(_reason(error), 0.0) < time.monotonic():
            # A missing permission or an absent server causes the same error again and again.
            if len(quiet_until) > _MAX_REPEATS:
                quiet_until.clear()
            quiet_until[_reason(error)] = time.monotonic() + _REPEAT_S
            log.warning("NATS: %s", _reason(error))

    async def on_disconnected() -> None:
        if not client.is_closed:
            # nats-py would write unsent messages to the next connection before publishers can
            # repeat those that were lost with this one: newer messages ahead of older ones.
            client.discard_unsent()
            log.warning("NATS connection lost, reconnecting", extra=fields(url=url))

    async def on_reconnected() -> None:
        broker.reconnects = client.stats["reconnects"]
        log.info("NATS connection is back", extra=fields(url=url))
        broker.acks.connection_lost()
        for callback in list(broker.on_reconnect):
            callback()

    attempt: asyncio.Future[None] = asyncio.ensure_future(
        client.connect(
            **_options(settings),  # type: ignore[arg-type]
            name=name,
            connect_timeout=seconds,  # type: ignore[arg-type]  # any number will do
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,  # type: ignore[arg-type]
            ping_interval=5,
            max_outstanding_pings=2,
            error_cb=on_error,
            disconnected_cb=on_disconnected,
            reconnected_cb=on_reconnected,
        )
    )
    try:
        # nats-py retries a failed first attempt silently; stop at its first error.
        await asyncio.wait(
            [attempt, first_error],  # type: ignore[type-var]
            timeout=seconds + 3,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not attempt.done():
            raise first_error.result() if first_error.done() else TimeoutError()
        attempt.result()
        connected_once = True
    finally:
        first_error.cancel()
        # asyncio.wait_for, inside nats-py, may swallow a cancellation that arrives together with
        # a result.
        while not attempt.done():
            attempt.cancel()
            await asyncio.wait([attempt], timeout=0.1)
        if not attempt.cancelled():
            attempt.exception()
    version = client.connected_server_version
    if (version.major, version.minor, version.patch) < OLDEST_SERVER:
        await broker.close()
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise ServerTooOld(f"the NATS server at {url} is {version}; {oldest} is needed")


@contextlib.asynccontextmanager
async def connected(
    settings: BrokerSettings, *, name: str, once: bool = False
) -> AsyncIterator[Broker]:
    """Connect for the block."""
    broker = await connect(settings, name=name, once=once)
    try:
        yield broker
    finally:
        await broker.close()
