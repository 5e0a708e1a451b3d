"""The connection to NATS: made with backoff, kept for good, and said in the log when it changes."""

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
"""The first with batched direct get. Found by running the tests: 2.11.0, 2.11.11, 2.12.0 and 2.15.1
pass them, 2.10.26 does not."""

_REFUSED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.I)
_REPEAT_S, _MAX_COMPLAINTS = 30.0, 20
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.25, 5.0


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


def shown(urls: str) -> str:
    """Server URLs without the user and password that they may carry."""
    return re.sub(r"(^|//|,)[^/@,]*@", r"\1", urls)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return str(error) or type(error).__name__


class Broker:
    """One connection to NATS that outlives servers; `client` is nats-py's.

    `on_reconnect` callbacks run after each reconnect, when subscriptions are in place again.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.acks = Acks(client)
        self.on_reconnect: set[Callable[[], None]] = set()
        self.on_refusal: set[Callable[[NotAllowed], None]] = set()
        """Called when the server's permissions refuse this user something. Nothing else says so:
        an answer just does not come."""
        self.slow_consumers = 0
        self.reconnects = 0
        """The connection that stands, or stood last: 0 is the first."""

    @property
    def connected(self) -> bool:
        """The connection is up, subscriptions are in place again, and `on_reconnect` callbacks have
        run: nobody takes what is known of the last connection for knowledge of this one."""
        # nats-py is connected for a round trip before it calls back.
        return self.client.is_connected and self.client.stats["reconnects"] == self.reconnects

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Raises TimeoutError in the block once the connection has been made anew: the answer to
        what was asked on the old one will not come, whatever became of the question."""
        async with asyncio.timeout(None) as answer:

            def lost() -> None:
                if not answer.expired():
                    answer.reschedule(asyncio.get_running_loop().time())

            self.on_reconnect.add(lost)
            try:
                yield
            finally:
                self.on_reconnect.discard(lost)

    @contextlib.asynccontextmanager
    async def allowed(self, *, only_answers: bool = False) -> AsyncIterator[None]:
        """Raises NotAllowed, in place of what goes on in the block, as soon as the server refuses
        this user something; with `only_answers`: the answers to what it asks."""
        refusals: list[NotAllowed] = []
        try:
            async with asyncio.timeout(None) as end:

                def refused(refusal: NotAllowed) -> None:
                    if not refusals and (refusal.own_inbox or not only_answers):
                        refusals.append(refusal)
                        end.reschedule(asyncio.get_running_loop().time())

                self.on_refusal.add(refused)
                try:
                    yield
                finally:
                    self.on_refusal.discard(refused)
        except Exception:  # whatever the refusal has led to
            if refusals:
                raise refusals[0] from None
            raise

    def refused(self, error: Exception) -> NotAllowed | None:
        """What `error`, which nats-py was told by the server, refuses this user, if it does."""
        found = _REFUSED.search(str(error))
        if found is None:
            return None
        publishes, subject = found[1].lower() == "publish", found[2]
        own = not publishes and subject.startswith(f"{self.client.inbox_prefix}.")
        return NotAllowed(subject, publishes=publishes, own_inbox=own)

    async def wait_connected(self) -> None:
        """Return when the connection is up, after a breath at least. Cancel-safe.

        Raises: BrokerUnreachable when it is closed for good.
        """
        await asyncio.sleep(0.1)
        while not self.connected:
            if self.client.is_closed:
                raise BrokerUnreachable("the connection to NATS is closed for good")
            await asyncio.sleep(0.1)

    async def wait_closed(self) -> None:
        """Return when the connection is closed for good: by `close`, or because the server will
        not have us any more (credentials expired or revoked). Cancel-safe."""
        # nats-py calls no callback when that happens while it reconnects.
        while not self.client.is_closed:  # noqa: ASYNC110
            await asyncio.sleep(1)

    async def close(self) -> None:
        """Flush what is pending, as far as that is quickly possible, and close. Idempotent."""
        if not self.client.is_closed:
            await self._close()
        self.client.abort()  # one that was being made anew just now

    async def _close(self) -> None:
        if self.client.is_connected:
            with contextlib.suppress(NatsError, TimeoutError, OSError, RuntimeError):
                await self.client.flush(timeout=2)
        # A server that has gone makes close() wait on its socket; and a connection that is just
        # being lost makes it end cancelled, though nobody cancelled us.
        closing = asyncio.ensure_future(self.client.close())
        await asyncio.wait({closing}, timeout=3)
        if not closing.cancel() and not closing.cancelled():
            with contextlib.suppress(NatsError, OSError, RuntimeError):  # uvloop's: it is gone
                closing.result()


async def connect(
    settings: BrokerSettings,
    *,
    name: str,
    once: bool = False,
    on_waiting: Callable[[str], Awaitable[None]] | None = None,
) -> Broker:
    """A connection to the broker at `settings.url`.

    With `once`, raises BrokerUnreachable when the first attempt fails; else tries for good with
    backoff and jitter, one log line an attempt. Either way a connection once made is kept up for
    good. Raises UsageError for unusable settings and ServerTooOld. Cancel-safe.
    """
    delay = _FIRST_DELAY_S
    while True:
        broker = Broker(Client())
        try:
            await _connect_once(broker, settings, name)
        except (NatsError, OSError, TimeoutError, ValueError) as error:
            reason = f"no NATS at {shown(settings.url)}: {_reason(error)}"
            await broker.close()
            if once:
                raise BrokerUnreachable(f"{reason} (NATS_URL says where it is)") from None
            wait = delay * random.uniform(0.5, 1)  # noqa: S311 - jitter
            log.warning("%s; next attempt in %.1f s", reason, wait)
            if on_waiting is not None:
                await on_waiting(reason)
            await asyncio.sleep(wait)
            delay = min(delay * 2, _LONGEST_DELAY_S)
        else:
            return broker


async def _connect_once(broker: Broker, settings: BrokerSettings, name: str) -> None:
    client = broker.client
    complaints: dict[str, float] = {}
    made = False
    first_error: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def on_error(error: Exception) -> None:
        if not first_error.done():
            first_error.set_result(error)
        refusal = broker.refused(error)
        if refusal is not None:
            error = refusal
            for callback in list(broker.on_refusal):
                callback(refusal)
        if isinstance(error, SlowConsumerError):
            broker.slow_consumers += 1  # its reader sees the hole and fills it from the stream
        elif made and complaints.get(_reason(error), 0.0) < time.monotonic():
            # A missing permission, or a server that is away, is complained of again and again.
            if len(complaints) > _MAX_COMPLAINTS:
                complaints.clear()
            complaints[_reason(error)] = time.monotonic() + _REPEAT_S
            log.warning("NATS: %s", _reason(error))

    async def on_disconnected() -> None:
        if not client.is_closed:
            # What nats-py had not written yet it would write to the next connection before anyone
            # can send again what went down with this one: newer messages ahead of older ones.
            client.discard_unsent()
            log.warning("NATS connection lost, reconnecting", extra=fields(url=shown(settings.url)))

    async def on_reconnected() -> None:
        broker.reconnects = client.stats["reconnects"]
        log.info("NATS connection is back", extra=fields(url=shown(settings.url)))
        broker.acks.lost()
        for callback in list(broker.on_reconnect):
            callback()

    attempt: asyncio.Future[None] = asyncio.ensure_future(
        client.connect(
            **_options(settings),  # type: ignore[arg-type]
            name=name,
            connect_timeout=2,
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
        # nats-py repeats a failed first attempt silently; stop it at its first error.
        await asyncio.wait(
            [attempt, first_error],  # type: ignore[type-var]
            timeout=5,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not attempt.done():
            raise first_error.result() if first_error.done() else TimeoutError()
        attempt.result()
        made = True
    finally:
        first_error.cancel()
        # Python's wait_for, in nats-py, may swallow a cancellation that comes with an answer.
        while not attempt.done():
            attempt.cancel()
            await asyncio.wait([attempt], timeout=0.1)
        if not attempt.cancelled():
            attempt.exception()
    version = client.connected_server_version
    if (version.major, version.minor, version.patch) < OLDEST_SERVER:
        await broker.close()
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise ServerTooOld(
            f"the NATS server at {shown(settings.url)} is {version}; {oldest} is needed"
        )


@contextlib.asynccontextmanager
async def connected(
    settings: BrokerSettings, *, name: str, once: bool = False
) -> AsyncIterator[Broker]:
    """`connect`, closed at the end of the block."""
    broker = await connect(settings, name=name, once=once)
    try:
        yield broker
    finally:
        await broker.close()
