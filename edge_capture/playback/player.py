"""Plays one key: its chunks from the broker, to an output, with reports of what was played."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from datetime import UTC, datetime
from uuid import uuid4

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.errors import NotFoundError

from natterjack.broker.client.wire import parse_headers
from natterjack.broker.connection import Broker
from natterjack.broker.streams import SPEECH
from natterjack.errors import BadChunk, NotAllowed
from natterjack.process.run import end_tasks
from natterjack.subjects import SessionKey, played_subject, speech_subject
from natterjack.telemetry.log import fields
from natterjack.voice.audio import SpeechHeader, decode_speech_headers
from natterjack.voice.spec import Played

from ..delivery.lull import lull_of
from ..hold.exchange import PLAY, Holds
from ..sources.boot_clock import boot_time
from .outputs import Output
from .playout import PlayOptions, Playout

log = logging.getLogger(__name__)

_LOOK_S, _REST_S = 0.05, 1.0
"""How often to look what is due, while something is played and otherwise."""
_REQUEST_S = 2.0
_CLOSED_CHECK_S = 1.0
_PERMIT = "let WORKER_KINDS have `speak`, run `natterjack users config --dir users` and reload NATS"


class Player:
    """Plays the newest session of `key`, on connections that come and go."""

    request_sequence = None
    """It has no session request: of two players, the one that began first keeps the key."""

    def __init__(self, key: SessionKey, output: Output, options: PlayOptions) -> None:
        self.key = key
        self.output = output
        self.playout = Playout(options, output.rate)
        self.holds = Holds([self], PLAY)
        self.session_id = str(uuid4())
        """The ID of this player, by which its hold on the key is told from those of others."""
        self._max_age = options.max_late_seconds
        self._broker: Broker | None = None
        self._cut = asyncio.Event()
        self._wake = asyncio.Event()
        self._bad: Counter[str] = Counter()
        self._state: str | None = None
        self._refused: set[str] = set()
        self._stream_missed = False

    async def play(self) -> None:
        """Play until nobody reads the output. Cancel-safe. Raises: OutputLost."""
        dropping = asyncio.create_task(self._drop_after_cuts(), name="drop after cuts")
        try:
            await self.output.play(self.playout)
        finally:
            await end_tasks([dropping])

    async def _drop_after_cuts(self) -> None:
        while True:
            await self._cut.wait()
            self._cut.clear()
            await self.output.drop()
            if not self._cut.is_set():
                self.playout.resume()

    async def run(self, broker: Broker, *, outage: bool) -> None:
        """Receive and report on this connection, until it is closed permanently or another agent
        has the key.

        `outage`: the broker could not be reached at first. Cancel-safe. Raises: NotAllowed.
        """
        # Speech, and above all a cut, is heard at once.
        with lull_of(broker.client).awake():
            await self._run(broker, outage=outage)

    async def _run(self, broker: Broker, *, outage: bool) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.holds.run(broker, outage=outage), name="hold")
            serving = tasks.create_task(self._serve(broker), name="serve")
            ends = (
                serving,
                tasks.create_task(self.holds.taken.wait()),
                tasks.create_task(_closed(broker)),
            )
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await end_tasks(ends)

    async def _serve(self, broker: Broker) -> None:
        await self.holds.granted.wait()
        self._broker = broker
        reconnected, refused = asyncio.Event(), asyncio.get_running_loop().create_future()

        def refuse(refusal: NotAllowed) -> bool:
            needed = refusal.subject in (speech_subject(self.key), played_subject(self.key))
            if needed and not refused.done():
                refused.set_exception(
                    NotAllowed(refusal.subject, publishes=refusal.publishes, remedy=_PERMIT)
                )
            return needed

        def ask() -> None:
            self.playout.reconnected(boot_time())
            reconnected.set()
            self._wake.set()

        broker.on_reconnect.add(ask)
        broker.on_refusal.add(refuse)
        subscription = await broker.client.listen(speech_subject(self.key), self._received)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._report(broker), name="report")
                tasks.create_task(_result(refused), name="refused")
                await self._join_newest(broker)
                log.info(
                    "ready to play",
                    extra=fields(
                        session=str(self.key), output=self.output.name, rate=self.output.rate
                    ),
                )
                while True:
                    await reconnected.wait()
                    reconnected.clear()
                    await self._join_newest(broker)
        finally:
            broker.on_reconnect.discard(ask)
            broker.on_refusal.discard(refuse)
            refused.cancel()
            with contextlib.suppress(NatsError):
                await subscription.end()

    def _received(self, _subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        try:
            header = decode_speech_headers(parse_headers(headers or b""), len(data))
        except BadChunk as error:
            self._bad[error.cause] += 1
            if sum(self._bad.values()) == 1:
                log.warning("a chunk of speech is invalid, and is not played: %s", error)
            return
        if header.fence:
            if header.answer:
                self.playout.answered(header.session_id, header.seq, boot_time())
            return
        before = self.playout.session_id
        self._after(header, self.playout.receive(header, data, boot_time()), before)

    def _after(self, header: SpeechHeader, drop: bool, before: str | None) -> None:
        """Do what follows from a chunk or a session that is joined. `before` is the session that
        was played until now."""
        if drop:
            self.playout.hold()
            self._cut.set()
        if self.playout.session_id != before:
            log.info(
                "playing a session",
                extra=fields(
                    session=str(self.key), session_id=header.session_id, rate=header.sample_rate
                ),
            )
        self._wake.set()

    async def _join_newest(self, broker: Broker) -> None:
        """Join the session of the newest chunk, unless it is too old. Its worker publishes again
        what was not played of it."""
        js = broker.client.jetstream(timeout=_REQUEST_S)
        subject = speech_subject(self.key)
        try:
            async with broker.raising_refusals():
                message = await js.get_last_msg(SPEECH, subject, direct=True)
            headers = message.headers or {}
            header = decode_speech_headers(headers, len(message.data or b""))
            age = _age_s(headers.get("Nats-Time-Stamp", ""))
        except NotFoundError:
            return
        except NoRespondersError:
            if not self._stream_missed:
                self._stream_missed = True
                log.warning(
                    "stream %s does not answer, so nothing is played: a worker whose WORKER_KINDS "
                    "has `speak` (the default) makes it, or `natterjack streams apply`",
                    SPEECH,
                )
            return
        except NotAllowed as refusal:
            if refusal.subject not in self._refused:
                self._refused.add(refusal.subject)
                log.info("%s, so speech from before the start is not played", refusal)
            return
        except (NatsError, TimeoutError, BadChunk, ValueError):
            return
        before = self.playout.session_id
        if age <= self._max_age:
            joined = self.playout.join(header.session_id, header.sample_rate, boot_time())
            self._after(header, joined, before)

    async def _report(self, broker: Broker) -> None:
        """Report what was played, and do what is due, until cancelled."""
        while True:
            self._wake.clear()
            now = boot_time()
            self.playout.tick(now)
            report = self.playout.report(now) if broker.connected else None
            if report is not None:
                self._publish(broker, report)
            heard = self.playout.heard(now)
            busy = self.playout.busy(now) or (heard is not None and heard.state == "playing")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S if busy else _REST_S):
                    await self._wake.wait()
            if busy:
                await asyncio.sleep(_LOOK_S / 2)  # chunks come faster than reports are due

    def _publish(self, broker: Broker, report: Played) -> None:
        with contextlib.suppress(NatsError):
            broker.client.post(played_subject(self.key), report.encode())
        if report.state != self._state:
            self._state = report.state
            log.debug(
                "%s", report.state,
                extra=fields(session=str(self.key), utterance=report.utterance),
            )  # fmt: skip

    def stop(self) -> None:
        """Play nothing more, and tell the worker."""
        self.playout.hold()
        self.playout.lose(boot_time())
        report = self.playout.report(boot_time())
        if report is not None and self._broker is not None and self._broker.connected:
            self._publish(self._broker, report)
        self.output.close()

    def summary(self) -> dict[str, object]:
        """The account of this run, as fields of a log line."""
        return {
            "session": str(self.key),
            **self.playout.totals,
            "skipped": self.playout.skipped,
            "dropped_chunks": dict(self.playout.dropped),
            "invalid_chunks": sum(self._bad.values()),
        }


async def _result(future: asyncio.Future[None]) -> None:
    await future


async def _closed(broker: Broker) -> None:
    while not broker.client.is_closed:  # noqa: ASYNC110 - nats-py has no event for it
        await asyncio.sleep(_CLOSED_CHECK_S)


def _age_s(stored_at: str) -> float:
    """Seconds since a time of the server, RFC 3339. Raises ValueError."""
    whole, _, _ = stored_at.partition(".")
    stored = datetime.strptime(whole.rstrip("Z"), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    return (datetime.now(UTC) - stored).total_seconds()
