"""A session reports how much of its audio is waiting."""

from __future__ import annotations

import pytest

from natterjack.notices import DEVICE_LOST, Note
from tests.edge_capture.test_mute import block, made, taken


def test_only_audio_that_is_not_stored_is_waiting() -> None:
    """Neither a gap nor audio that was published waits for anything."""
    session = made()
    session.feed(block())
    session.feed(block())
    assert session.waiting_seconds == pytest.approx(0.2)
    taken(session.publisher.backlog)
    assert session.waiting_seconds == 0
    session.feed(block(frames=0, notes=(Note(DEVICE_LOST),)))
    session.feed(block(lost=1600 * 92))
    session.mute()
    session.feed(block())
    session.unmute()
    session.feed(block())
    assert session.seconds > 9
    assert 0.2 <= session.waiting_seconds <= 0.6
    taken(session.publisher.backlog)
    assert session.waiting_seconds == 0
