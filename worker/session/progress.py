"""How far the audio of a session has come: captured, sent, and final."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

from natterjack.control import is_stop
from natterjack.plugin.errors import ProviderError, RemoteProtocolError
from natterjack.spec import SessionSpec
from natterjack.values import Account
from worker.audio.feed import Feed
from worker.metering.account import AccountBuilder
from worker.metering.ledger import Ledger

from .output.events import EventWriter
from .output.timeline import Timeline
from .relay import Relay

_HOLE_SECONDS = 1.0
"""Audio of this length before a final may have held another one."""


class Progress:
    """The positions that a session has reached, with the objects that know them: feed, relay, event
    writer, account builder and ledger. Positions count frames of the session."""

    __slots__ = (
        "_rate", "account_builder", "audio_ended", "feed", "held_reason", "held_since", "ledger",
        "relay", "timeline", "writer",
    )  # fmt: skip

    def __init__(
        self, sample_rate: int, writer: EventWriter, account_builder: AccountBuilder, ledger: Ledger
    ) -> None:
        self._rate = sample_rate
        self.writer = writer
        self.account_builder = account_builder
        self.ledger = ledger
        self.audio_ended = False
        """Whether the last chunk of the audio was read."""
        self.feed: Feed | None = None
        """The open feed, if any."""
        self.relay: Relay | None = None
        """The relay of the open provider stream, if any."""
        self.timeline: Timeline | None = None
        """The timeline of the last provider stream, if one was opened since the last fault."""
        self.held_reason: str | None = None
        """Why no provider serves the session now; None if it is not held."""
        self.held_since: float | None = None
        """Since when no provider has served the session, by the monotonic clock, if it is held."""

    def close_feed(self) -> None:
        """Note that the open feed, if any, is about to be closed."""
        feed, self.feed = self.feed, None
        if feed is not None:
            self.audio_ended = self.audio_ended or feed.ended
            self.account_builder.feed_ended(feed)

    @property
    def final(self) -> int:
        """All audio before this position is final."""
        return self.writer.position

    @property
    def start(self) -> int:
        """The position of the session's first frame."""
        return self.account_builder.start

    @property
    def final_seconds(self) -> float:
        """The length of the audio that is final."""
        return (self.writer.position - self.start) / self._rate

    @property
    def sent(self) -> int:
        """The position of the next frame to send to the provider."""
        return self.writer.position if self.relay is None else self.relay.timeline.position

    @property
    def sent_until(self) -> int:
        """All audio before this position was sent at least once."""
        relay = self.relay
        return self.ledger.sent_until(None if relay is None else relay.timeline.position)

    @property
    def frontier(self) -> int:
        """The end of all audio that was ever sent, or is final."""
        return max(self.writer.position, self.sent_until)

    @property
    def captured(self) -> int:
        """The end of the newest audio that this worker has seen."""
        head = 0 if self.feed is None else self.feed.head
        return max(self.sent, self.account_builder.captured, head)

    @property
    def lag_seconds(self) -> float:
        """The length of the captured audio that has not been sent yet; of a held session, how long
        it has waited, since it does not look at its audio."""
        if self.held_since is not None:
            return time.monotonic() - self.held_since
        feed = self.feed
        if feed is None:
            return 0.0
        return max(0, feed.head + feed.unread - self.sent) / self._rate

    def begin(self, start: int, captured: int = 0) -> None:
        """Begin at `start`, the position of the session's first frame. Another session has counted
        the audio before `captured`."""
        self.writer.position = start
        self.account_builder.begin(start, captured)
        self.ledger.begin(start, max(0, captured - start) / self._rate)

    def limit(self, position: int | None) -> None:
        """Send no audio from `position` on."""
        if self.relay is not None:
            self.relay.limit = position

    @property
    def reached(self) -> int:
        """The end of the audio that was sent on the last provider stream."""
        return self.writer.position if self.timeline is None else self.timeline.position

    async def leave_out(self, fault: ProviderError, end: int) -> str:
        """Publish what can be read of the audio from the end of finals to `end`, which no provider
        can transcribe, and count the rest as a gap. Return what was done, for people."""
        await self.publish_notices()
        writer, start = self.writer, self.writer.position
        readable = fault.readable if isinstance(fault, RemoteProtocolError) else None
        if readable is not None and self.timeline is not None:
            if readable.times_estimated:  # the text may be anywhere in the audio
                await writer.final(self.timeline, replace(readable, start=0.0, end=0.0))
            else:
                end = self.timeline.to_position(readable.start)
                if end - start <= _HOLE_SECONDS * self._rate:
                    readable, end = replace(readable, start=0.0), start
                await writer.final(self.timeline, readable)
        writer.position = max(writer.position, end)
        self.account_builder.leave_out(start, end)
        if end <= start:
            return "its text is published"
        return f"left out {start / self._rate:.2f} to {end / self._rate:.2f} s"

    async def publish_notices(self) -> None:
        """Publish the notices that were met and are not published. Raises LeaseLost."""
        if self.account_builder.notices.pending:
            await self.writer.notices(self.account_builder.notices)

    def account(self) -> Account:
        """The session's account as of now."""
        sent = self._count(exact=True)
        return self.account_builder.account(final=self.final, reached=sent, feed=self.feed)

    def closing_account(self) -> Account:
        """The account of the session as it ends: gaps after its finals belong to a successor."""
        self.account_builder.end(self.writer.position)
        return self.account()

    def closing_fields(self, spec: SessionSpec, reason: str) -> dict[str, Any]:
        """The fields of the closing event from which the session can be repeated or continued."""
        ended = self.audio_ended and self.writer.position >= self.captured
        over = ended or is_stop(reason)
        return {
            "request": spec.model_copy(update={"start_position": self.start}).stored(),
            "position": self.writer.position,
            "continued_by": None if over else spec.successor,
        }

    def account_json(self, *, exact: bool) -> str:
        """The account as JSON; unless `exact`, it may be a second old."""
        sent = self._count(exact=exact)
        return self.account_builder.json(final=self.final, reached=sent, feed=self.feed)

    def _count(self, *, exact: bool) -> int:
        """Bring the ledger up to date, and return `sent`."""
        relay, sent = self.relay, self.writer.position
        if relay is not None:
            relay.count(None if exact else time.monotonic())
            sent = relay.timeline.position
        self.ledger.captured(self.account_builder.captured_seconds(sent, self.feed))
        return sent

    def record_json(self) -> str:
        """The progress members of a roster record (SessionRecord), as JSON. Brings the ledger
        up to date, apart from the open stream's use."""
        final, start = self.writer.position, self.start
        head = self.account_builder.captured if self.feed is None else self.feed.head
        captured = (max(head, final) - start) / self._rate
        self.ledger.captured(captured)
        why = "" if self.held_reason is None else f'"reason":{json.dumps(self.held_reason)},'
        return (
            f'{why}"provider":{json.dumps(self.writer.provider)},'
            f'"lag_seconds":{self.lag_seconds:.2f},"captured_seconds":{captured:.3f},'
            f'"final_seconds":{self.final_seconds:.3f},"sent_until":{self.sent_until},'
            f'"providers":{{{self.ledger.json()}}}'
        )


def record_prefix(spec: SessionSpec, epoch: int, holder: str) -> str:
    """The constant beginning of a session's roster record (SessionRecord), as JSON."""
    links = {"repeats": spec.repeats, "continues": spec.continues}
    return (
        f'{{"key":"{spec.key}","session_id":"{spec.session_id}","epoch":{epoch},'
        f'"holder":"{holder}","opened_at":"{spec.opened_at.isoformat()}"'
        + "".join(f',"{name}":"{other}"' for name, other in links.items() if other)
    )
