"""Captions: what they write to a terminal and to a pipe. Nothing is started."""

from __future__ import annotations

import io
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as some
from rich.cells import cell_len

from natterjack.consume.captions import Captions, clock
from natterjack.decoding import AnyEvent, UnknownEvent
from natterjack.events import (
    Event,
    FinalEvent,
    InterimEvent,
    NoticeEvent,
    StatusEvent,
    StatusState,
    TurnEvent,
)
from natterjack.process.terminal import plain
from natterjack.values import Account, Gap
from natterjack.voice.events import UtteranceEvent, VoiceEvent, VoiceStatusEvent
from tests.searching import examples

from .screen import Screen


def common(session: str = "c.anna", tenant: str = "t") -> dict[str, Any]:
    conversation, _, speaker = session.partition(".")
    return {
        "session_id": f"{tenant}.{session}", "tenant": tenant, "conversation": conversation,
        "speaker": speaker, "epoch": 1, "published_at": datetime.now(UTC),
    }  # fmt: skip


def interim(text: str, session: str = "c.anna", tenant: str = "t", start: float = 0) -> Event:
    return InterimEvent(**common(session, tenant), segment=0, text=text, start=start, end=start + 1)


def final(text: str, session: str = "c.anna", tenant: str = "t", start: float = 0) -> Event:
    return FinalEvent(
        **common(session, tenant), sequence=1, segment=0, text=text, start=start, end=start + 1
    )


def status(
    state: StatusState,
    session: str = "c.anna",
    reason: str | None = None,
    gaps: tuple[Gap, ...] = (),
) -> Event:
    account = Account(gaps=list(gaps)) if state in ("closed", "failed") else None
    return StatusEvent(
        **common(session), sequence=2, state=state, reason=reason, worker="w", account=account
    )


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def utterance(event: Any, session: str = "c.bot", **fields: Any) -> VoiceEvent:
    return UtteranceEvent(**common(session), sequence=1, utterance=0, event=event, **fields)


def written(out: io.StringIO, *events: AnyEvent | VoiceEvent, **options: Any) -> str:
    captions = Captions(out, **options)
    for event in events:
        captions.show(event)
    return out.getvalue()


def test_notices_are_lines_in_brackets() -> None:
    def notice(code: str, state: Any, at: float) -> Event:
        return NoticeEvent(
            **common(), sequence=3, notice=0, code=code, state=state, at=at, audio_position=0
        )

    events = [notice("input_dead", "begins", 75), notice("a_later_code", "ends", 80)]
    assert written(io.StringIO(), *events) == (
        " 1:15.0  c.anna: [the input has zeros only]\n 1:20.0  c.anna: [a later code ended]\n"
    )
    assert written(io.StringIO(), *events, states=False) == ""


def screen(*events: Event | VoiceEvent, columns: int = 80) -> list[str]:
    """The lines of a terminal after these events."""
    shown = Screen(columns)
    written(shown, *events)
    *lines, last = shown.text
    assert last == ""  # so that whatever else is written, such as a prompt, stays by itself
    return lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00.0"), (0.04, "0:00.0"), (59.96, "1:00.0"), (61.5, "1:01.5"), (3600, "60:00.0")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


# ---- a file or a pipe ----------------------------------------------------------------------------


def test_a_pipe_gets_one_line_for_each_final() -> None:
    assert written(
        io.StringIO(),
        interim("half a"),
        final("half a thought", start=61.5),
        final("\x1b[2Jyes\nno\r\x07", "d.ben", start=3),
        status("closed", reason="end of audio"),
    ) == (
        " 1:01.5  c.anna: half a thought\n"
        " 0:03.0  d.ben: [2Jyes no\n"
        "         c.anna: [closed (end of audio)]\n"
    )


def test_the_tenant_is_shown_once_there_are_several() -> None:
    events = [final("one"), final("two", tenant="u"), final("three")]
    heads = [line.split()[1] for line in written(io.StringIO(), *events).splitlines()]
    assert heads == ["c.anna:", "u.c.anna:", "t.c.anna:"]


def test_gaps_are_shown_where_they_begin() -> None:
    gaps = tuple(Gap(start=n, end=n + 1.5, cause="edge") for n in range(12))
    lines = written(io.StringIO(), status("closed", gaps=gaps)).splitlines()
    assert lines[1] == " 0:01.0  c.anna: [gap of 1.5 s (edge)]"
    assert lines[-2:] == ["         c.anna: [more gaps]", "         c.anna: [closed]"]
    assert len(lines) == 12


def test_recoveries_are_shown() -> None:
    shown = written(io.StringIO(), status("recovering", reason="mute"), status("streaming"))
    assert shown == "         c.anna: [recovering (mute)]\n         c.anna: [streaming]\n"


def test_events_of_later_releases_are_shown() -> None:
    event = UnknownEvent(**common(), kind="mo\nod", problem="type: not known")
    assert written(io.StringIO(), event) == (
        "         c.anna: [mo od event that this release does not know]\n"
    )
    assert written(io.StringIO(), event, states=False) == ""


def test_speakers_and_states_can_be_hidden() -> None:
    events = [final("half a thought", start=61.5), status("closed")]
    shown = written(io.StringIO(), *events, names=None, states=False)
    assert shown == " 1:01.5  half a thought\n"


def test_speech_is_shown_with_what_was_not_heard_of_it() -> None:
    events = [
        utterance("started"),
        utterance("finished", text_spoken="Good\nmorning.", start=1),
        utterance("finished", text_spoken=""),
        utterance(
            "interrupted",
            text_spoken="I can ",
            text_remaining="help\x1b[2J.",
            reason="turn",
            start=3,
        ),
        utterance("interrupted", text_remaining="Bye.", reason="no_player", start=4),
        VoiceStatusEvent(
            **common("c.bot"), sequence=2, state="failed", reason="no voice", worker="w"
        ),
    ]
    assert written(io.StringIO(), *events) == (
        " 0:01.0  c.bot says: Good morning.\n"
        " 0:03.0  c.bot says: I can [interrupted (turn); not heard: help [2J.]\n"
        " 0:04.0  c.bot says: [interrupted (no_player); not heard: Bye.]\n"
        "         c.bot: [failed (no voice)]\n"
    )
    shown = written(io.StringIO(), *events[:2], names="speaker", clocks=False, states=False)
    assert shown == "bot says: Good morning.\n"


def test_a_row_says_whether_a_voice_speaks() -> None:
    assert screen(utterance("started")) == ["         c.bot: [speaking]"]
    lines = screen(utterance("started"), utterance("finished", text_spoken="Bye."))
    assert lines == [" 0:00.0  c.bot says: Bye.", "         c.bot: [silent]"]


def test_turns_are_not_shown() -> None:
    turn = TurnEvent(**common(), sequence=0, turn=0, event="started")
    assert written(io.StringIO(), turn) == ""


def test_a_dumb_terminal_gets_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert written(Screen(80), interim("half")) == ""
    assert screen(interim("half"), final("half a thought")) == [" 0:00.0  c.anna: half a thought"]


# ---- a terminal ----------------------------------------------------------------------------------


def test_each_open_session_has_a_row_below_the_finals() -> None:
    events = [
        status("assigned"),
        interim("half a", start=61.5),
        interim("and so", "d.ben", start=2),
        status("streaming", "e.cleo"),
    ]
    below = [
        " 1:01.5  c.anna: half a",
        " 0:02.0  d.ben: and so",
        "         e.cleo: [streaming]",
    ]
    assert screen(*events) == [
        "         c.anna: [assigned]",
        "         e.cleo: [streaming]",
        *below,
    ]
    events += [final("half a thought", start=61.5), interim("and so on", "d.ben", start=2)]
    assert screen(*events)[-4:] == [
        " 1:01.5  c.anna: half a thought",
        "         c.anna: [assigned]",
        " 0:02.0  d.ben: and so on",
        below[2],
    ]
    assert screen(*events, status("closed", "d.ben"))[-3:] == [
        "         d.ben: [closed]",
        "         c.anna: [assigned]",
        below[2],
    ]


def test_only_the_row_that_changed_is_written_again() -> None:
    out = Screen(80)
    captions = Captions(out)
    for event in (interim("one"), interim("two", "d.ben")):
        captions.show(event)
    with mock.patch.object(out, "write", wraps=out.write) as write:
        captions.show(interim("one more"))
        captions.show(interim("one more"))
    (call,) = write.call_args_list
    assert "two" not in call.args[0]
    assert out.text == [" 0:00.0  c.anna: one more", " 0:00.0  d.ben: two", ""]


def test_an_interim_after_the_closing_event_opens_no_row() -> None:
    assert screen(status("closed"), interim("late")) == ["         c.anna: [closed]"]


def test_the_rows_are_removed_at_the_end() -> None:
    out = Screen(80)
    with Captions(out) as captions:
        captions.show(final("words"))
        captions.show(interim("half", "d.ben"))
    assert out.text == [" 0:00.0  c.anna: words", ""]


def test_interims_are_dim_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with mock.patch.object(Screen, "write", io.StringIO.write):
        assert "\x1b[2mhalf\x1b[0m" in written(Screen(80), interim("half"))
        monkeypatch.setenv("NO_COLOR", "1")
        shown = written(Screen(80), interim("half"))
    assert "half" in shown
    assert "\x1b[2m" not in shown


def test_a_long_interim_shows_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    (row,) = screen(interim("so " * 30 + "the end"), columns=40)
    assert row.startswith("c.anna: …")
    assert row.endswith("the end")
    assert len(row) == 39


def test_a_long_label_leaves_room_for_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    (row,) = screen(interim("the end", f"{'call' * 16}.{'agent' * 12}"), columns=20)
    assert row == "call…ent: the end"


def test_sessions_without_a_row_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "8")
    events = [status("streaming", f"c.s{n}") for n in range(8)]
    assert screen(*events)[-4:] == [
        "         c.s1: [streaming]",
        "         c.s2: [streaming]",
        "         c.s3: [streaming]",
        "         and 5 more",
    ]
    # One that speaks takes the row of one that does not.
    rows = screen(*events, interim("aha", "c.s1"), interim("so", "c.s7"), interim("yes", "c.s0"))
    assert [row.split()[1] for row in rows[-4:]] == ["c.s0:", "c.s1:", "c.s7:", "5"]
    # Rows of sessions that speak stay, and are free again when one closes.
    events += [interim("now", f"c.s{n}") for n in (7, 1, 2, 3, 4)]
    assert [row.split()[1] for row in screen(*events)[-4:]] == ["c.s1:", "c.s2:", "c.s7:", "5"]
    events.append(status("closed", "c.s1"))
    assert [row.split()[1] for row in screen(*events)[-4:]] == ["c.s2:", "c.s4:", "c.s7:", "4"]


def test_a_session_that_stopped_in_an_interim_loses_its_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LINES", "4")
    seconds, out = 0.0, Screen(80)
    captions = Captions(out, now=lambda: seconds)
    for event in (interim("hm", "c.s1"), interim("so", "c.s2"), interim("yes", "c.s3")):
        captions.show(event)
    assert out.text[0].endswith("c.s2: so")
    seconds = 11
    captions.show(interim("yes please", "c.s3"))
    assert out.text == [" 0:00.0  c.s3: yes please", "         and 2 more", ""]


def test_log_lines_are_above_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    out, handler = Screen(80), logging.StreamHandler(io.StringIO())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    monkeypatch.setattr(sys, "stderr", Screen(80))
    with Captions(out) as captions:
        captions.show(interim("half"))
        logging.getLogger("natterjack").warning("reconnected\x1b[2J")
        assert out.text == ["reconnected\\x1b[2J", " 0:00.0  c.anna: half", ""]
    assert out.text == ["reconnected\\x1b[2J", ""]
    assert isinstance(handler.stream, io.StringIO)


_NASTY = some.text(
    some.one_of(
        some.characters(exclude_categories=()),
        some.sampled_from(
            "ab \x1b[]\x07\x9b\r\n\u202e\u2066日本한é\u0301\u0302שלםعرب👩🚀\u200d❤\ufe0f"
        ),
    ),
    max_size=120,
)
_SESSIONS = some.sampled_from(
    [f"call-{c}.{s}" for c in (1, 22, 333) for s in ("a", "bé", "c\x1b[A")]
)
_EVENTS = some.one_of(
    some.builds(interim, _NASTY, _SESSIONS, some.sampled_from("tu")),
    some.builds(interim, _NASTY, _SESSIONS),
    some.builds(final, _NASTY, _SESSIONS),
    some.builds(
        status, some.sampled_from(["streaming", "recovering", "closed"]), _SESSIONS, _NASTY
    ),
)


@examples(200)
@given(
    some.lists(some.one_of(_EVENTS, some.integers(20, 200)), min_size=1, max_size=30),
    some.integers(20, 200),
    some.integers(4, 30),
)
def test_rows_never_break(script: list[Event | int], columns: int, lines: int) -> None:
    """The finals are in order, above at most half a terminal of rows that are one line each, and
    nothing else is left: for any events, in a terminal whose width changes."""
    out, above = Screen(columns), io.StringIO()
    environment = {"COLUMNS": str(columns), "LINES": str(lines)}
    with mock.patch.dict(os.environ, environment):
        captions, expected = Captions(out), Captions(above)
        with captions:
            for step in script:
                if isinstance(step, int):
                    out.resize(step)
                    os.environ["COLUMNS"] = str(step)
                    continue
                captions.show(step)
                expected.show(step)
                said = above.getvalue().splitlines()
                shown = out.text
                assert shown[: len(said)] == said
                rows = shown[len(said) : -1]
                assert shown[-1] == ""
                assert len(rows) <= lines // 2
                assert all(cell_len(row) < out.columns for row in rows)
                assert all(": " in row or "more" in row for row in rows)
        assert out.text == [*above.getvalue().splitlines(), ""]
    assert all(line == plain(line) or line[0] == " " for line in above.getvalue().splitlines())
