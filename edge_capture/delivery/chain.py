"""The sessions of one audio, one after another: each continues where the last has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from natterjack.events import StatusEvent
from natterjack.spec import SessionSpec
from natterjack.telemetry.log import fields
from natterjack.values import Account

from ..session_status import WAITING, SessionStatus
from ..succession import (
    Stopped,
    Succession,
    Successor,
    Transcribed,
    Untranscribed,
    clock_text,
)
from .publisher import Publisher

log = logging.getLogger(__name__)

_CAPTURED_GAPS = ("missing", "bad_chunk", "unreadable")
"""Causes of gaps whose audio the edge has captured."""
_UNSEEN = "a newer session uses the key, so its closing event cannot be read"
"""Reason of an end whose closing event can no longer be read."""
_REMIND_S = 600.0
_EARLIEST_S = 12 * 3600.0
"""How far before the newest audio a successor starts at most, if it is not known where the last
session ended. A worker takes audio that begins a day after the start for forged, and no stream
keeps it for so long."""


class Chain:
    """Follows the session of a publisher, and opens another one when it ends before its audio."""

    def __init__(self, publisher: Publisher, *, live: bool, earlier: bool = False) -> None:
        """`live`: the source cannot wait, so its sessions have successors. `earlier`: an earlier
        run has opened the session, which may have ended since."""
        self.publisher = publisher
        self.spec = publisher.backlog.current
        """The current session."""
        self.session_ids = [self.spec.session_id]
        """The sessions that this run has followed."""
        self.status = SessionStatus(self.spec)
        self.outcome: Transcribed | Stopped | Untranscribed | None = None
        """How the last session ended; None while there is one or a successor is due."""
        self.reason: str | None = None
        """Why the last session that has ended did so."""
        self.accounts: list[Account] = []
        """Accounts of the sessions that have ended during this run."""
        self.pause: str | None = None
        """Description of the wait for a successor, if there is one."""
        self.ready = asyncio.Event()
        """Set once it is known whether an earlier run's session has ended."""
        self.over = asyncio.Event()
        """Set together with `outcome`."""
        self._unread: list[str] = []
        """Descriptions of the sessions whose closing events cannot be read."""
        self._succession = Succession(self.spec.start_position, self.spec.sample_rate, live=live)
        self.confirm: Callable[[], Awaitable[None]] | None = None
        """Returns once no other agent captures the key; awaited before a successor opens."""
        if not earlier:
            self.ready.set()

    @property
    def transcribed(self) -> bool:
        """Whether all of the audio is known to be transcribed, or part of a named gap."""
        closed = isinstance(self.outcome, Transcribed) and self.status.state == "closed"
        return closed and not self._unread

    @property
    def untranscribed_since(self) -> int | None:
        """The position from which on no session is known to have begun to transcribe, because the
        last one has ended there or several have made no progress; else None."""
        if isinstance(self.outcome, Untranscribed):
            return self.outcome.position
        waits = self.outcome is None and self._succession.fruitless > 0 and self.reason != _UNSEEN
        return self._succession.position if waits and not self.status.streamed else None

    async def run(self) -> None:
        """Follow the session and its successors until no other follows. Cancel-safe."""
        if not self.ready.is_set():
            requested = self.publisher.backlog.sent_seconds > 0  # requests are sent before audio
            if await self.status.has_ended(requested=requested):
                await self._after(self.status.end)
            self.ready.set()
        while self.outcome is None:
            await self._after(await self.status.wait_ended())
        self.over.set()

    async def remind(self) -> None:
        """Log every 10 minutes that what is captured is not transcribed, until the audio ends.
        Cancel-safe."""
        while isinstance(self.outcome, Untranscribed):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REMIND_S):
                    await self.publisher.ended.wait()
            if self.publisher.ended.is_set():
                return
            self._log_untranscribed(self.outcome)

    async def _after(self, event: StatusEvent | None) -> None:
        """Do what follows the end of the current session."""
        self.reason = _UNSEEN if event is None else _reason(event)
        if event is not None and event.account is not None:
            self.accounts.append(event.account)
        event = self._bounded(event)
        step = self._succession.after(event, self.publisher.backlog.end_position)
        if isinstance(step, Successor):
            if step.wait_s:
                await self._wait(step.wait_s)
            if self._idled(event):
                await self.publisher.sounding.wait()
            await self._open(step.position, unread=event is None)
            return
        self.outcome = step
        if self.publisher.finished.is_set():
            return
        if isinstance(step, Stopped):
            log.error(
                "the session was ended by a request: nothing more of it is published",
                extra=fields(session=str(self.spec.key), reason=self.reason),
            )
            self.publisher.abandon()
        elif isinstance(step, Untranscribed):
            self._log_untranscribed(step)
            self.publisher.remove_rate_limit()  # no worker reads it

    def _bounded(self, event: StatusEvent | None) -> StatusEvent | None:
        """Return `event` with a position up to which there is audio."""
        offered = self.publisher.offered_position
        if (
            offered is None
            or event is None
            or event.audio_position is None
            or event.audio_position <= offered
        ):
            return event
        log.warning(
            "session %s is said to be transcribed up to %s, but only %s are captured: its audio "
            "continues there",
            event.session_id,
            self.clock(event.audio_position),
            self.clock(offered),
            extra=self._fields(),
        )
        return event.model_copy(update={"audio_position": offered})

    def _idled(self, event: StatusEvent | None) -> bool:
        """Whether the session has ended because no audio came: another one has nothing to do while
        the edge is muted."""
        return event is not None and (event.reason or "").startswith("idle")

    async def _wait(self, seconds: float) -> None:
        """Wait for `seconds`, or until the audio ends."""
        self.pause = (
            f"{self._succession.fruitless} sessions in a row have made no progress "
            f"({self.reason}); the next one opens in {seconds:.0f} s"
        )
        log.warning("%s", self.pause, extra=self._fields())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.publisher.ended.wait()
        self.pause = None

    async def _open(self, position: int, *, unread: bool) -> None:
        """Open the successor, which transcribes the audio from `position` on.

        `unread`: it is not known where the last session ended. The worker starts there.
        """
        self.publisher.opening = True
        if self.confirm is not None:
            await self.confirm()
        ended = self.spec
        if unread:
            newest = self.publisher.offered_position or 0
            position = max(position, newest - round(_EARLIEST_S * ended.sample_rate))
            self._unread.append(f"session {ended.session_id} from {self.clock(position)} on")
        self.spec = ended.model_copy(
            update={
                "session_id": ended.successor or str(uuid4()),
                "continues": ended.session_id,
                "audio_of": ended.audio_session_id,
                "start_position": position,
                "successor": str(uuid4()),
                "opened_at": datetime.now(UTC),
            }
        )
        self.session_ids.append(self.spec.session_id)
        await self.publisher.backlog.succeed(self.spec)
        self.status.follow(self.spec)
        self.publisher.open(self.spec)
        announce(self.spec)
        log.warning(
            "session %s ended (%s); its audio continues in session %s from %s%s",
            ended.session_id,
            self.reason,
            self.spec.session_id,
            self.clock(position),
            " or where its transcript ends, if that is later" if unread else "",
            extra=self._fields(),
        )

    def _log_untranscribed(self, step: Untranscribed) -> None:
        """Log that the rest of the audio is not transcribed, although capture continues."""
        if step.position is not None:
            log.error(
                "session %s ended (%s) before its audio: from %s on it is not transcribed",
                self.spec.session_id,
                self.reason,
                self.clock(step.position),
                extra=self._fields(),
            )
            return
        log.error(
            "session %s ended (%s) before its audio, without a position where another one could "
            "continue (a worker of the previous release?): the rest is not transcribed",
            self.spec.session_id,
            self.reason,
            extra=self._fields(),
        )

    def loss(self) -> str | None:
        """Describe the audio that is known to be untranscribed at the end of a run, or of which it
        is unknown, because its session's end cannot be read. Return None if there is none."""
        known = self._known_loss()
        if not self._unread:
            return known
        unread = f"it is not known what was transcribed by {', '.join(self._unread)}: {_UNSEEN}"
        return unread if known is None else f"{known}; {unread}"

    def _known_loss(self) -> str | None:
        end, since = self.publisher.backlog.end_position, self.untranscribed_since
        if since is not None and end is not None:
            seconds = (end - since) / self.spec.sample_rate
            still = "" if self.outcome else f"; session {self.spec.session_id} continues there"
            return (
                f"{seconds:.1f} seconds from {self.clock(since)} are not transcribed: "
                f"{self.reason}{still}"
            )
        if isinstance(self.outcome, Untranscribed):
            return (
                f"session {self.spec.session_id} ended ({self.reason}) before its audio, without a "
                "position up to which it is transcribed"
            )
        if isinstance(self.outcome, Transcribed) and self.status.state == "failed":
            return f"session {self.spec.session_id} failed after its audio: {self.reason}"
        gaps = {c: s for c, s in self._gap_seconds().items() if c in _CAPTURED_GAPS and s > 0}
        if gaps:
            causes = ", ".join(f"{seconds:.1f} {cause}" for cause, seconds in gaps.items())
            return f"{sum(gaps.values()):.1f} seconds in gaps are not transcribed: {causes}"
        return None

    def progress(self) -> str:
        """Describe how far the audio is transcribed at the end of a run, if no loss is known."""
        if self.transcribed:
            return "all of it is transcribed"
        if self.status.state == WAITING:
            return f"no worker has taken session {self.spec.session_id} yet"
        if self.status.closing:
            return f"session {self.spec.session_id} has ended ({self.status.reason})"
        return f"session {self.spec.session_id} was last {self.status.state}"

    def totals(self) -> dict[str, object]:
        """Sums of the accounts of all sessions; nothing while one goes on."""
        if not self.over.is_set() or not self.accounts:
            return {}
        return {
            "sessions": len(self.accounts),
            "transcribed_seconds": round(sum(a.transcribed_seconds for a in self.accounts), 2),
            "untranscribed_seconds": {c: round(s, 2) for c, s in self._gap_seconds().items()},
        }

    def _gap_seconds(self) -> dict[str, float]:
        """The duration of the gaps of all sessions that have ended during this run, by cause."""
        total: dict[str, float] = {}
        for account in self.accounts:
            for cause, seconds in account.gap_seconds.items():
                total[cause] = total.get(cause, 0.0) + seconds
        return total

    def clock(self, position: int) -> str:
        """Format a position of the audio."""
        return clock_text(position / self.spec.sample_rate)

    def _fields(self) -> dict[str, dict[str, Any]]:
        return fields(session=str(self.spec.key))


def _reason(event: StatusEvent) -> str:
    reason = event.reason or event.state
    return f"{reason}: {event.detail}" if event.detail else reason


def announce(spec: SessionSpec) -> None:
    """Print a session's key and ID, for people and for scripts."""
    with contextlib.suppress(OSError):  # standard output is closed
        print(spec.key, spec.session_id, flush=True)
