"""The demo shows why no provider serves its session."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from natterjack.events import StatusEvent
from natterjack.local.demo import Received


def status(state: Any, reason: str | None = None) -> StatusEvent:
    return StatusEvent(
        session_id="session-1", tenant="t", conversation="c", speaker="s", epoch=1, sequence=1,
        state=state, reason=reason, worker="w", published_at=datetime.now(UTC),
    )  # fmt: skip


def test_the_reason_why_no_provider_serves_the_session_is_shown_until_one_does() -> None:
    received = Received()
    received.add(status("recovering", "queued: auth: deepgram: wrong key (401)"))
    assert received.problem == "queued: auth: deepgram: wrong key (401)"
    assert received.closing is None
    received.add(status("streaming"))
    assert received.problem is None
    received.add(status("closed", "end of audio"))
    assert received.closing is not None
