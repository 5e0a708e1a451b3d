from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from edge_capture.session_status import WAITING, SessionStatus
from natterjack.events import StatusEvent
from natterjack.spec import SessionSpec

SPEC = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=16000)


def event(sequence: int, state: str, **changes: Any) -> bytes:
    fields = {
        "session_id": SPEC.session_id, "tenant": "t", "conversation": "c", "speaker": "s",
        "epoch": 1, "published_at": datetime.now(UTC), "sequence": sequence, "state": state,
        "worker": "worker-1",
    } | changes  # fmt: skip
    return StatusEvent(**fields).encode()


def test_before_the_first_event() -> None:
    status = SessionStatus(SPEC)
    assert (status.state, status.worker, status.reason) == (WAITING, None, None)
    assert not status.closing


@pytest.mark.parametrize("state", ["closed", "failed"])
def test_the_last_event_is_the_state(state: str) -> None:
    status = SessionStatus(SPEC)
    status.received(event(0, "streaming"))
    assert (status.state, status.worker) == ("streaming", "worker-1")
    assert not status.closing
    status.received(event(1, state, reason="no credit"))
    assert (status.state, status.reason) == (state, "no credit")
    assert status.closing


def test_an_older_event_changes_nothing() -> None:
    status = SessionStatus(SPEC)
    status.received(event(5, "streaming"))
    status.received(event(5, "closed"))
    status.received(event(4, "closed"))
    assert status.state == "streaming"
    assert not status.closing


def test_a_worker_that_has_lost_the_session_is_ignored() -> None:
    status = SessionStatus(SPEC)
    status.received(event(5, "streaming", epoch=2, worker="new"))
    assert status.worker == "new"
    status.received(event(6, "closed"))
    assert status.state == "streaming"
    status.received(event(6, "recovering", epoch=2, worker="new"))
    assert status.state == "recovering"
    assert not status.closing


def test_events_of_other_sessions_and_bad_ones_are_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    status = SessionStatus(SPEC)
    status.received(event(0, "closed", session_id="another-session"))
    assert not caplog.records
    status.received(b"not an event")
    assert status.state == WAITING
    assert len(caplog.records) == 1


@pytest.mark.parametrize("state", ["assigned", "recovering", "handed_over"])
def test_a_session_has_streamed_if_a_later_event_has_its_provider(state: str) -> None:
    """The event "streaming" itself may be missed."""
    status = SessionStatus(SPEC)
    status.received(event(1, state))
    assert not status.streamed
    status.received(event(2, state, provider="deepgram"))
    assert status.streamed


def test_a_session_that_has_ended_is_not_one_that_transcribes() -> None:
    status = SessionStatus(SPEC)
    status.received(event(1, "failed", provider="deepgram"))
    assert not status.streamed
