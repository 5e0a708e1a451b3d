"""A session's account: its audio received, sent, transcribed and missing, over all its workers."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping

from natterjack.events import StatusState
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields
from natterjack.values import Account
from natterjack.values import Gap as GapRecord
from worker.audio.feed import Feed, Gap
from worker.audio.notices import Notices
from worker.audio.reorder import Chunk
from worker.metrics import Metrics

from .ledger import Ledger

log = logging.getLogger(__name__)

UNREADABLE = "unreadable"
"""The cause of gaps that no provider could transcribe."""

_MAX_GAPS = 100
"""How many gaps are listed. Further ones only add to the seconds: the account must fit into a
message."""


_ROUNDING_SECONDS = 0.01


def is_complete(account: Account, cutoff_seconds: float | None) -> bool:
    """Whether all audio up to the end of the session is transcribed, without a gap. Audio after
    `cutoff_seconds` is not part of the session."""
    wanted = account.captured_seconds
    if cutoff_seconds is not None:
        wanted = min(wanted, cutoff_seconds)
    return not account.gap_seconds and account.transcribed_seconds >= wanted - _ROUNDING_SECONDS


def count_ended(
    metrics: Metrics, account: Account, state: StatusState, cutoff_seconds: float | None
) -> None:
    """Count a session that has ended with this account. A failed one is never complete."""
    complete = state == "closed" and is_complete(account, cutoff_seconds)
    metrics.session_accounts.labels("true" if complete else "false").inc()


class AccountBuilder:
    """Collects the figures of the closing event's account. Positions count frames of the
    session's clock; the account counts from its first frame."""

    def __init__(self, key: SessionKey, sample_rate: int, metrics: Metrics, ledger: Ledger) -> None:
        self.ledger = ledger
        self.start = 0
        """The position of the session's first frame."""
        self._key = key
        self._rate = sample_rate
        self._metrics = metrics
        self._gaps: list[GapRecord] = []
        self._gap_seconds: dict[str, float] = {}
        self.gaps_until = 0.0
        """Gaps before this second are already counted."""
        self._bad: Counter[str] = Counter()
        self._recoveries: Counter[str] = Counter()
        self.notices = Notices()
        self.captured = 0
        """End of the newest audio that is known to exist."""

    def begin(self, start: int, captured: int) -> None:
        """Count from `start`, the position of the session's first frame. Audio before `captured` is
        known to exist."""
        self.start = start
        self.captured = max(start, captured)
        self.gaps_until = round(start / self._rate, 6)

    def adopt(self, account: Account, gaps_until: float, notices_until: int = -1) -> None:
        """Continue the account of another worker. Call it after `begin`."""
        self.notices.adopt(account.notices, notices_until)
        self._gaps = list(account.gaps)
        self._gap_seconds = dict(account.gap_seconds)
        self.gaps_until = max(self.gaps_until, gaps_until)
        self._bad = Counter(account.bad_chunks)
        self._recoveries = Counter(account.recoveries)
        self.captured = self.start + round(account.captured_seconds * self._rate)

    def recovery(self, cause: str) -> None:
        """Count a recovery from a fault."""
        self._recoveries[cause] += 1
        self._metrics.recoveries.labels(cause).inc()

    def feed_ended(self, feed: Feed) -> None:
        """Add the counts of a feed that has been closed."""
        self._bad += feed.bad
        for cause, count in feed.bad.items():
            self._metrics.bad_chunks.labels(cause).inc(count)
        feed.bad.clear()
        self.captured = feed.head if feed.ended else max(self.captured, feed.head)

    def gap(self, gap: Gap) -> None:
        """Count a gap, unless it was counted before."""
        end = round((gap.position + gap.frames) / self._rate, 6)
        # When audio is read again, its gaps come up again.
        start = max(round(gap.position / self._rate, 6), self.gaps_until)
        if end <= start:
            return
        self.gaps_until = end
        self._count(start, end, gap.cause)

    def _count(self, start: float, end: float, cause: str) -> None:
        if end <= start:
            return
        seconds = end - start
        self._gap_seconds[cause] = round(self._gap_seconds.get(cause, 0.0) + seconds, 6)
        self._metrics.audio_gaps.labels(cause).inc(seconds)
        if len(self._gaps) < _MAX_GAPS:
            self._gaps.append(GapRecord(start=start, end=end, cause=cause))
            log.warning(
                "gap in the audio",
                extra=fields(session=str(self._key), seconds=round(seconds, 3), cause=cause),
            )

    def notice(self, chunk: Chunk) -> bool:
        """Count the notices of a chunk, unless they were counted before. Return whether any are to
        be published."""
        if not chunk.note:
            return False
        for label in self.notices.meet(chunk.position, chunk.note, chunk.time_ns):
            self._metrics.notices.labels(label).inc()
        return self.notices.pending

    def leave_out(self, start: int, end: int) -> None:
        """Count the audio from `start` to `end`, which no provider could transcribe, except for
        gaps in it that are counted already."""
        at, until = round(start / self._rate, 6), round(end / self._rate, 6)
        left: list[tuple[float, float]] = []
        for gap in self._gaps:
            if at < gap.end and gap.start < until:
                left.append((at, gap.start))
                at = gap.end
        for first, last in (*left, (at, until)):
            self._count(first, last, UNREADABLE)
        self.gaps_until = max(self.gaps_until, until)

    def end(self, final: int) -> None:
        """Remove the gaps after `final`, where the session ends, from the account."""
        end = round(final / self._rate, 6)
        gaps, self._gaps = self._gaps, []
        for gap in gaps:
            if (over := gap.end - max(gap.start, end)) > 0:
                left = self._gap_seconds[gap.cause] - over
                self._gap_seconds[gap.cause] = round(max(0.0, left), 6)
                gap = gap.model_copy(update={"end": end})
            if gap.start < gap.end:
                self._gaps.append(gap)
        self._gap_seconds = {c: seconds for c, seconds in self._gap_seconds.items() if seconds}

    def account(self, *, final: int, reached: int, feed: Feed | None = None) -> Account:
        """The account at this moment: audio before `final` is final, audio before `reached` was
        received.

        `feed` is the open feed, if any.
        """
        return Account.model_validate_json(self.json(final=final, reached=reached, feed=feed))

    def json(self, *, final: int, reached: int, feed: Feed | None = None) -> str:
        """The account as JSON, without building a model: it goes into every checkpoint."""
        bad, gaps, start = self._bad, sum(self._gap_seconds.values()), self.start
        if feed is not None and feed.bad:
            bad = bad + feed.bad
        captured = self.captured_seconds(reached, feed)
        missing = gaps - self._gap_seconds.get(UNREADABLE, 0.0)
        received = max(0.0, (reached - start) / self._rate - missing)
        transcribed = max(0.0, (final - start) / self._rate - gaps)
        text = (
            f'{{"captured_seconds":{captured:.6f},"received_seconds":{received:.6f},'
            f'"sent_seconds":{self.ledger.sent_seconds:.6f},"transcribed_seconds":{transcribed:.6f},'
            f'"connected_seconds":{self.ledger.connected_seconds:.3f},'
            f'"providers":{{{self.ledger.json()}}}'
        )
        if self._gaps:
            text += f',"gaps":[{",".join(gap.model_dump_json() for gap in self._gaps)}]'
        counted: dict[str, Mapping[str, float]]
        counted = {"gap_seconds": self._gap_seconds, "bad_chunks": bad}
        counted |= {"recoveries": self._recoveries, "notices": self.notices.counts}
        for name, counts in counted.items():
            if counts:
                text += f',"{name}":{json.dumps(counts)}'
        if self.notices.suppressed:
            text += f',"notices_suppressed":{self.notices.suppressed}'
        return text + "}"

    def captured_seconds(self, reached: int, feed: Feed | None) -> float:
        """The length of the audio known to exist, if audio before `reached` was sent."""
        until = reached
        if feed is None or not feed.ended:
            until = max(until, self.captured)
        if feed is not None:
            until = max(until, feed.head)
        return (until - self.start) / self._rate
