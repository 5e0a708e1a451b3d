"""Captions: what they write to a terminal and to a pipe."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest

from natterjack.consume.captions import Captions, clock
from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent, TurnEvent

COMMON: dict[str, Any] = {
    "session_id": "session-1", "tenant": "t", "conversation": "c", "speaker": "anna", "epoch": 1,
    "published_at": datetime.now(UTC),
}  # fmt: skip
INTERIM = InterimEvent(**COMMON, segment=0, text="half a", start=61.5, end=62)
FINAL = FinalEvent(**COMMON, sequence=1, segment=0, text="half a thought", start=61.5, end=63)
CLOSED = StatusEvent(**COMMON, sequence=2, state="closed", reason="end of audio", worker="w")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(out: io.StringIO, *events: Event, **options: bool) -> str:
    captions = Captions(out, **options)
    for event in events:
        captions.show(event)
    return out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00.0"), (0.04, "0:00.0"), (59.96, "1:00.0"), (61.5, "1:01.5"), (3600, "60:00.0")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_pipe_gets_lines_without_interims() -> None:
    assert written(io.StringIO(), INTERIM, FINAL, CLOSED) == (
        " 1:01.5  anna: half a thought\n         anna: [closed (end of audio)]\n"
    )


def test_a_final_replaces_the_interim_on_a_terminal() -> None:
    assert written(Terminal(), INTERIM, FINAL) == (
        "\r\x1b[K 1:01.5  anna: \x1b[2mhalf a\x1b[0m\r\x1b[K 1:01.5  anna: half a thought\n"
    )


def test_a_long_interim_shows_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = written(Terminal(), INTERIM.model_copy(update={"text": "so " * 30 + "the end"}))
    text = shown.partition("\x1b[2m")[2].partition("\x1b[0m")[0]
    assert text.startswith("…")
    assert text.endswith("the end")
    assert len(" 1:01.5  anna: " + text) < 40


def test_speakers_and_states_can_be_hidden() -> None:
    shown = written(io.StringIO(), FINAL, CLOSED, speakers=False, states=False)
    assert shown == " 1:01.5  half a thought\n"


def test_turns_are_not_shown() -> None:
    turn = TurnEvent(**COMMON, sequence=0, turn=0, event="started")
    assert written(io.StringIO(), turn) == ""
