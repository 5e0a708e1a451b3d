from __future__ import annotations

from datetime import UTC, datetime

from natterjack.events import TurnEvent, TurnKind
from worker.session.turns import Turns


def _event(kind: TurnKind, turn: int) -> TurnEvent:
    return TurnEvent(
        session_id="s", tenant="t", conversation="c", speaker="p", epoch=1, sequence=0,
        turn=turn, event=kind, published_at=datetime.now(UTC),
    )  # fmt: skip


def test_turns_are_numbered_and_neither_started_nor_ended_twice() -> None:
    turns = Turns()
    assert turns.admit("ended") is None
    assert turns.admit("started") == 0
    assert turns.admit("started") is None
    assert turns.admit("eager_end") == 0
    assert turns.admit("resumed") == 0
    assert turns.admit("ended") == 0
    assert turns.admit("resumed") is None
    assert turns.admit("started") == 1


def test_an_open_turn_stays_open_over_a_handover() -> None:
    turns = Turns(_event("eager_end", 4))
    assert turns.admit("started") is None
    assert turns.admit("ended") == 4
    assert Turns(_event("ended", 4)).admit("started") == 5
