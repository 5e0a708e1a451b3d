"""The states of a session, and the transitions between them.

TAKING_OVER → WAITING → (QUEUED →) CONNECTING → STREAMING → FINISHING → CLOSED
                 ↑                                 │  │  ↘
                 └─ (QUEUED ←) RECOVERING ←────────┘  │    FAILED
                                                      └→ HANDED_OVER, or LOST
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """The state of a session in the worker that holds its lease. The values are stored."""

    TAKING_OVER = "taking over"  # reading the checkpoint and the last events, setting the fence
    WAITING = "waiting"  # for the first audio, or for more audio after a long pause
    QUEUED = "queued"  # for a provider: its account refuses or is at its limit, or it is down
    CONNECTING = "connecting"  # opening a provider stream
    STREAMING = "streaming"  # sending audio, receiving transcripts
    FINISHING = "finishing"  # all audio is sent, the last finals are still due
    RECOVERING = "recovering"  # the provider failed; the session will try again
    CLOSED = "closed"  # ended normally
    FAILED = "failed"  # ended because no provider can serve it
    HANDED_OVER = "handed over"  # given back to the queue
    LOST = "lost"  # another worker holds the lease


END_STATES = frozenset({State.CLOSED, State.FAILED, State.HANDED_OVER, State.LOST})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.TAKING_OVER: frozenset({State.WAITING}),
    State.WAITING: frozenset({State.QUEUED, State.CONNECTING, State.RECOVERING}),
    State.QUEUED: frozenset({State.QUEUED, State.CONNECTING, State.RECOVERING, State.WAITING}),
    State.CONNECTING: frozenset({State.STREAMING, State.RECOVERING}),
    State.STREAMING: frozenset({State.FINISHING, State.RECOVERING, State.WAITING}),
    State.FINISHING: frozenset({State.RECOVERING, State.WAITING}),
    State.RECOVERING: frozenset({State.WAITING, State.QUEUED, State.RECOVERING}),
    **{end: frozenset() for end in END_STATES},
}
"""The states that may follow each state, besides the end states."""


def may_follow(state: State, following: State) -> bool:
    """Whether a session may go from `state` to `following`. Every open session may end."""
    return state not in END_STATES and (following in END_STATES or following in TRANSITIONS[state])
