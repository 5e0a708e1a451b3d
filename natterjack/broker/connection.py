"""The connection to NATS, which reconnects with backoff until it is closed and logs its changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

from nats.errors import Error as NatsError
from nats.errors import SlowConsumerError

from natterjack.errors import BrokerUnreachable, NotAllowed, ServerTooOld, UsageError
from natterjack.process.run import end_tasks
from natterjack.settings import BrokerSettings, load
from natterjack.telemetry.log import fields
from natterjack.telemetry.repeats import Repeats

from .client.acks import Acks
from .client.fastpath import Client
from .login.attempts import Attempts, describe
from .login.credentials import Credentials, Identity
from .login.reissue import Reissue
from .login.renewal import Renewal, Try

log = logging.getLogger(__name__)

_MAX_REFUSALS = 32

OLDEST_SERVER = (2, 11, 0)
"""The first release with batched direct get. 2.11.0, 2.11.11, 2.12.0 and 2.15.1 pass the tests;
2.10.26 does not."""

_REFUSED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.I)
_FIRST_REPEAT_S, _MAX_REPEATS = 30.0, 20
"""How long an error is not logged again, and how many errors are remembered for that."""
_ATTEMPT_S, _ONLY_ATTEMPT_S = 2.0, 10.0
"""The time limit of a connection attempt, and of one that is not repeated."""


def _options(client: Client, settings: BrokerSettings) -> dict[str, object]:
    options: dict[str, object] = {
        "servers": [url.strip() for url in settings.url.split(",")],
        "inbox_prefix": settings.inbox_prefix.encode(),
    }
    if settings.creds or settings.nkey:
        options["signature_cb"] = lambda nonce: client.identity.sign(nonce)
    if settings.creds:
        options["user_jwt_cb"] = lambda: (client.identity.jwt or "").encode()
    if settings.user:
        options["user"] = settings.user
        options["password"] = settings.password.get_secret_value() if settings.password else ""
    return options


def without_credentials(urls: str) -> str:
    """Return server URLs without the user and password that they may contain."""
    return re.sub(r"(^|//|,)[^/,]*@", r"\1", urls)  # a password may have another @


class Broker:
    """One connection to NATS that survives restarts of servers; `client` is nats-py's client.

    `on_reconnect` callbacks run after each reconnect, once subscriptions are restored.
    """

    def __init__(
        self,
        client: Client,
        attempts: Attempts | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.client = client
        self.attempts = attempts or Attempts()
        self.credentials = credentials or Credentials(BrokerSettings())
        self.acks = Acks(client)
        self.on_reconnect: set[Callable[[], None]] = set()
        self.on_refusal: set[Callable[[NotAllowed], bool | None]] = set()
        """Called when the server's permissions refuse this user a subject. There is no other sign
        of it: a reply simply does not arrive. It is logged unless one of them returns True."""
        self.refusals: deque[tuple[float, NotAllowed]] = deque(maxlen=_MAX_REFUSALS)
        """The newest refusals, each with its time on the monotonic clock."""
        self.slow_consumers = 0
        self.reconnects = 0
        """The number of the current or last connection; 0 is the first."""
        self._renewing: list[asyncio.Task[None]] = []

    @property
    def connected(self) -> bool:
        """True once the connection is up, subscriptions are restored and `on_reconnect` callbacks
        have run. Until then, state from the last connection may be out of date."""
        # nats-py counts as connected one round trip before it calls `on_reconnected`.
        return self.client.is_connected and self.client.stats["reconnects"] == self.reconnects

    @property
    def trouble(self) -> str | None:
        """Why there is no connection, in words: what the server refused, for example. None while
        there is one, or as long as nothing is known."""
        return None if self.connected else self.attempts.trouble

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
    async def raising_refusals(
        self, *, only_replies: bool = False, about: Collection[str] | None = None
    ) -> AsyncIterator[None]:
        """Raise NotAllowed in the block as soon as the server refuses this user a subject, or one
        of `about`; with `only_replies`, only if it refuses the replies to the user's requests."""
        refusals: list[NotAllowed] = []
        try:
            async with asyncio.timeout(None) as end:

                def refused(refusal: NotAllowed) -> None:
                    wanted = not only_replies if about is None else refusal.subject in about
                    if not refusals and (refusal.own_inbox or wanted):
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

    def renew(self, trial: Try) -> None:
        """Until `close`, replace the connection before its credentials expire. `trial` tries
        renewed ones on another connection. Those of an enrolled edge are renewed here."""
        if self.credentials.paths:
            renewal = Renewal(self.client, self.credentials, self.attempts, trial)
            self._renewing.append(asyncio.create_task(renewal.run(), name="renew credentials"))
        if (path := self.credentials.creds_path) is not None:
            reissue = Reissue(self.client, self.credentials, path, trial)
            self._renewing.append(asyncio.create_task(reissue.run(), name="reissue credentials"))

    async def close(self) -> None:
        """Flush for 2 s at most, then close, also if it is canceled. Idempotent."""
        try:
            await end_tasks(self._renewing)
            if self.client.is_connected:
                with contextlib.suppress(NatsError, TimeoutError, OSError, RuntimeError):
                    await self.client.flush(timeout=2)
        finally:
            self.client.ending = True
            try:
                if not self.client.is_closed:
                    await self._close()
            finally:
                await self.client.end_tasks()

    async def _close(self) -> None:
        # close() waits on the socket if the server is gone. If the connection is just being lost,
        # it ends cancelled, although this task was not.
        closing = asyncio.ensure_future(self.client.close())
        try:
            await asyncio.wait({closing}, timeout=3)
        finally:
            if not closing.cancel() and not closing.cancelled():
                # RuntimeError: uvloop's
                with contextlib.suppress(NatsError, OSError, RuntimeError):
                    closing.result()


async def connect(
    settings: BrokerSettings,
    *,
    name: str,
    once: bool = False,
    echo: bool = True,
    on_waiting: Callable[[str], Awaitable[None]] | None = None,
    attempts: Attempts | None = None,
) -> Broker:
    """Connect to the broker at `settings.url`.

    Retries forever with backoff, jitter and one log line per attempt, unless `once` is set. An
    established connection is restored whenever it is lost. Every attempt reads the files of
    credentials and certificates again. `attempts` keeps the reasons of failures. Without `echo`,
    the connection does not receive what it publishes itself.

    Raises: BrokerUnreachable with `once`, if the first attempt fails; UsageError for unusable
    settings; ServerTooOld. Cancel-safe.
    """
    attempts, credentials = attempts or Attempts(), Credentials(settings)

    async def trial(identity: Identity) -> None:
        beside = Broker(Client())
        try:
            await _connect_once(beside, settings, name, _ONLY_ATTEMPT_S, lambda: identity)
        finally:
            await beside.close()

    attempts.pause()
    repeats = Repeats(_FIRST_REPEAT_S)
    while True:
        broker = Broker(Client(), attempts, credentials)
        seconds = _ONLY_ATTEMPT_S if once else _ATTEMPT_S
        try:
            await _connect_once(broker, settings, name, seconds, credentials.read, echo)
        except (NatsError, OSError, TimeoutError, ValueError) as error:
            trouble = attempts.failed(error, expired=broker.client.identity.expired)
            reason = f"no NATS at {without_credentials(settings.url)}: {trouble}"
            await broker.close()
            if once:
                raise BrokerUnreachable(f"{reason} (NATS_URL says where it is)") from None
            wait = attempts.pause()
            if repeats.due(reason):
                log.warning("%s; next attempt in %.1f s", reason, wait)
            if on_waiting is not None:
                await on_waiting(reason)
            await asyncio.sleep(wait)
        except asyncio.CancelledError:
            await broker.close()
            raise
        else:
            broker.renew(trial)
            return broker


async def _connect_once(
    broker: Broker,
    settings: BrokerSettings,
    name: str,
    seconds: float,
    identify: Callable[[], Identity],
    echo: bool = True,
) -> None:
    client, attempts, url = broker.client, broker.attempts, without_credentials(settings.url)
    client.identify = identify
    repeats: dict[str, Repeats] = {}
    connected_once = False
    failed_servers = 0
    last_error: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def on_error(error: Exception) -> None:
        nonlocal failed_servers
        failed_servers += 1
        # nats-py tries the other servers, and then all of them again without end.
        if not last_error.done() and (
            failed_servers >= len(client.servers) or isinstance(error, UsageError)
        ):
            last_error.set_result(error)
        refusal, expected = broker.refusal(error), False
        if refusal is not None:
            error = refusal
            broker.refusals.append((time.monotonic(), refusal))
            for callback in list(broker.on_refusal):
                expected |= callback(refusal) is True
        if isinstance(error, SlowConsumerError):
            broker.slow_consumers += 1  # the feed notices the gap and reads it from the stream
        elif connected_once and not expected:
            words = describe(error)
            if not client.is_connected:
                words = attempts.failed(error, expired=client.identity.expired)
            elif refusal is None:
                attempts.refused(error)
            # A missing permission or an absent server causes the same error again and again.
            if words not in repeats and len(repeats) > _MAX_REPEATS:
                repeats.clear()
            if repeats.setdefault(words, Repeats(_FIRST_REPEAT_S)).due(words):
                log.warning("NATS: %s", words)

    async def on_disconnected() -> None:
        if not client.is_closed:
            # nats-py would write unsent messages to the next connection before publishers can
            # repeat those that were lost with this one: newer messages ahead of older ones.
            client.discard_unsent()
            known = {"reason": attempts.trouble} if attempts.trouble else {}
            log.warning("NATS connection lost, reconnecting", extra=fields(url=url, **known))

    async def on_reconnected() -> None:
        broker.reconnects = client.stats["reconnects"]
        attempts.connected()
        repeats.clear()
        log.info("NATS connection is back", extra=fields(url=url))
        broker.acks.connection_lost()
        for callback in list(broker.on_reconnect):
            callback()

    attempt: asyncio.Future[None] = asyncio.ensure_future(
        client.connect(
            **_options(client, settings),  # type: ignore[arg-type]
            name=name,
            connect_timeout=seconds,  # type: ignore[arg-type]  # any number will do
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,  # type: ignore[arg-type]  # beside our own pauses
            no_echo=not echo,
            ping_interval=5,
            max_outstanding_pings=2,
            error_cb=on_error,
            disconnected_cb=on_disconnected,
            reconnected_cb=on_reconnected,
        )
    )
    try:
        # nats-py retries a failed first attempt silently; stop once no server is left to try.
        await asyncio.wait(
            [attempt, last_error],  # type: ignore[type-var]
            timeout=seconds * settings.url.count(",") + seconds + 3,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not attempt.done():
            raise last_error.result() if last_error.done() else TimeoutError()
        attempt.result()
        connected_once = True
        attempts.connected()
        client.pause = attempts.pause
    finally:
        last_error.cancel()
        # nats-py suppresses cancellation in places.
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


@contextlib.asynccontextmanager
async def connected_by(
    broker: Broker | None, settings: BrokerSettings | None, name: str
) -> AsyncIterator[Broker]:
    """Use `broker` for the block, or a connection of its own by `settings` or the environment."""
    if broker is not None:
        yield broker
        return
    own = await connect(settings or load(BrokerSettings), name=name)
    try:
        yield own
    finally:
        await own.close()
