"""The states of a session: which transitions there are."""

from __future__ import annotations

import pytest

from worker.session.states import END_STATES, TRANSITIONS, State, may_follow


def test_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(State)


def test_every_open_state_can_be_reached_and_can_end() -> None:
    reached, new = set(), {State.TAKING_OVER}
    while new:
        reached |= new
        new = {following for state in new for following in TRANSITIONS[state]} - reached
    assert reached == set(State) - END_STATES
    assert all(may_follow(state, end) for state in reached for end in END_STATES)


@pytest.mark.parametrize("end", sorted(END_STATES, key=str))
def test_nothing_follows_an_end_state(end: State) -> None:
    assert not any(may_follow(end, state) for state in State)


def test_a_stream_is_opened_only_after_audio_came() -> None:
    before = {state for state in State if may_follow(state, State.CONNECTING)}
    assert before == {State.WAITING, State.QUEUED}
    assert {state for state in State if may_follow(state, State.STREAMING)} == {State.CONNECTING}


def test_a_provider_may_fail_again_before_it_is_tried() -> None:
    assert may_follow(State.RECOVERING, State.RECOVERING)
    assert not may_follow(State.STREAMING, State.STREAMING)


def test_the_stored_names_stay() -> None:
    """Checkpoints and roster records of other releases hold them."""
    assert {state.value for state in State} == {
        "taking over", "waiting", "queued", "connecting", "streaming", "finishing", "recovering",
        "closed", "failed", "handed over", "lost",
    }  # fmt: skip
