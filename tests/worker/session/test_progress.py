"""How far a session has come, without an open feed or stream and over what a predecessor left."""

from __future__ import annotations

import json

import pytest

from natterjack.events import FinalEvent
from natterjack.plugin.errors import PluginFault, ProviderError, RemoteProtocolError
from natterjack.plugin.provider import Final
from natterjack.spec import SessionSpec
from natterjack.values import Account
from tests.worker.session.in_memory import Published, progress
from worker.session.output.timeline import Timeline
from worker.session.progress import record_prefix

RATE = 16_000
SPEC = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=RATE)


def test_a_new_session_has_come_nowhere() -> None:
    made = progress(SPEC)
    assert (made.final, made.sent, made.sent_until, made.frontier, made.captured) == (0,) * 5
    assert made.lag_seconds == 0.0
    assert made.account().captured_seconds == 0


def test_what_a_predecessor_sent_and_did_not_finalize_is_the_frontier() -> None:
    made = progress(SPEC)
    made.writer.position = 2 * RATE
    made.ledger.adopt({}, 5 * RATE, 6.0)
    made.account_builder.adopt(Account(captured_seconds=6.0), 0.0)
    assert (made.final, made.sent) == (2 * RATE, 2 * RATE), "audio is sent again from the final on"
    assert made.sent_until == made.frontier == 5 * RATE
    assert made.captured == 6 * RATE


def test_a_session_that_continues_another_counts_from_its_first_frame() -> None:
    made = progress(SPEC)
    made.begin(2 * RATE, 6 * RATE)
    assert (made.start, made.final, made.sent, made.sent_until) == (2 * RATE,) * 4
    assert made.captured == 6 * RATE
    made.writer.position = 5 * RATE
    record = json.loads(f"{{{made.record_json()}}}")
    assert (record["captured_seconds"], record["final_seconds"]) == (4.0, 3.0)
    assert record["sent_until"] == 2 * RATE, "a position"
    account = made.account()
    assert (account.captured_seconds, account.transcribed_seconds) == (4.0, 3.0)
    assert made.ledger._tally.unwritten() == {}, "the other session has counted it"


@pytest.mark.parametrize(
    ("reason", "ended", "captured", "named"),
    [
        ("budget", False, 3, "session-2"),
        ("no provider for 600 s: ...", False, 3, "session-2"),
        ("end of audio", True, 3, None),
        ("no provider for 600 s: ...", True, 3, None),
        # The last chunk was read, and audio before it is not transcribed.
        ("no provider for 600 s: ...", True, 4, "session-2"),
        ("stopped: by request", False, 3, None),
        ("stopped: by request", True, 4, None),
    ],
)
def test_a_closing_event_says_where_and_by_which_session_it_can_be_continued(
    reason: str, ended: bool, captured: int, named: str | None
) -> None:
    made = progress(SPEC)
    made.begin(0, captured * RATE)
    made.writer.position, made.audio_ended = 3 * RATE, ended
    spec = SPEC.model_copy(update={"successor": "session-2"})
    where = made.closing_fields(spec, reason)
    assert (where["position"], where["continued_by"]) == (3 * RATE, named)
    assert where["request"]["successor"] == "session-2"


def test_a_roster_record_names_the_sessions_before_it() -> None:
    links = {"repeats": "session-0", "continues": "session-1"}
    spec = SPEC.model_copy(update=links)
    record = json.loads(record_prefix(spec, 3, "h") + "}")
    assert {name: record[name] for name in links} == links
    assert (record["key"], record["epoch"]) == ("t.c.s", 3)
    assert not links.keys() & json.loads(record_prefix(SPEC, 3, "h") + "}").keys()


def test_finals_beyond_what_was_sent_move_the_frontier() -> None:
    made = progress(SPEC)
    made.writer.position = 7 * RATE
    assert made.frontier == 7 * RATE


def test_the_record_and_the_account_agree() -> None:
    made = progress(SPEC)
    made.writer.position = 3 * RATE
    made.account_builder.adopt(Account(captured_seconds=4.5), 0.0)
    record = json.loads(f"{{{made.record_json()}}}")
    account = made.account()
    assert record["captured_seconds"] == account.captured_seconds == 4.5
    assert record["final_seconds"] == account.transcribed_seconds == 3.0
    assert json.loads(made.account_json(exact=True))["captured_seconds"] == pytest.approx(4.5)


@pytest.mark.parametrize(
    ("fault", "span", "gap"),
    [
        (PluginFault("p", "KeyError"), None, (2.0, 9.0)),
        (RemoteProtocolError("p", "?"), None, (2.0, 9.0)),
        # Its times are known: what follows is sent again.
        (RemoteProtocolError("p", "?", readable=Final("toad", 1.0, 3.0)), (2.0, 5.0), None),
        # The audio before it may have been another final.
        (RemoteProtocolError("p", "?", readable=Final("toad", 2.0, 3.0)), (4.0, 5.0), (2.0, 4.0)),
        # It may be anywhere in the audio.
        (
            RemoteProtocolError("p", "?", readable=Final("toad", 1, 3, times_estimated=True)),
            (2.0, 2.0),
            (2.0, 9.0),
        ),
    ],
    ids=["plugin", "nothing readable", "placed", "hole", "unplaced"],
)
async def test_what_can_be_read_is_published_and_the_rest_is_a_gap(
    fault: ProviderError, span: tuple[float, float] | None, gap: tuple[float, float] | None
) -> None:
    outlet = Published()
    made = progress(SPEC, outlet)
    made.writer.position = 2 * RATE
    made.timeline = Timeline(RATE, 2 * RATE)
    made.timeline.advance(10 * RATE, 0.0, 0)
    assert made.reached == 12 * RATE
    done = await made.leave_out(fault, 9 * RATE)
    assert done == (
        "its text is published" if gap is None else f"left out {gap[0]:.2f} to {gap[1]:.2f} s"
    )
    finals = [event for event in outlet.events if isinstance(event, FinalEvent)]
    assert [(final.start, final.end) for final in finals] == ([] if span is None else [span])
    gaps = made.account().gaps
    expected = [] if gap is None else [(*gap, "unreadable")]
    assert [(one.start, one.end, one.cause) for one in gaps] == expected
    placed = span is not None and span[1] > 2.0
    assert made.final == (5 if placed else 9) * RATE
