"""Events of this release, of later ones, and what is no event."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from natterjack.decoding import UnknownEvent, decode_event
from natterjack.errors import BadEvent
from natterjack.events import FinalEvent, InterimEvent, StatusEvent
from natterjack.position import Position
from natterjack.subjects import SessionKey
from natterjack.values import Word

COMMON: dict[str, Any] = {
    "session_id": "session-1", "tenant": "t", "conversation": "c", "speaker": "s",
    "epoch": 2, "published_at": "2026-11-20T00:00:00Z", "sequence": 4,
}  # fmt: skip
FINAL = {**COMMON, "type": "final", "segment": 1, "text": "hi", "start": 0, "end": 1}
POSITION = Position(17, 1_796_083_025_799_242_993)


def decoded(**fields: Any) -> Any:
    return decode_event(json.dumps({**COMMON, **fields}).encode(), POSITION)


def test_a_stored_event_has_an_id_and_a_position() -> None:
    event = decoded(**FINAL)
    assert isinstance(event, FinalEvent)
    assert event.id == "session-1:4"
    assert event.position == str(POSITION)


def test_an_interim_has_neither() -> None:
    event = decode_event(json.dumps({**FINAL, "type": "interim"}).encode())
    assert isinstance(event, InterimEvent)
    assert (event.id, event.position) == (None, None)


def test_where_an_event_was_read_is_no_part_of_it() -> None:
    event = decoded(**FINAL)
    made = FinalEvent(
        session_id="session-1", tenant="t", conversation="c", speaker="s", epoch=2, sequence=4,
        published_at=datetime(2026, 11, 20, tzinfo=UTC), segment=1, text="hi", start=0, end=1,
    )  # fmt: skip
    assert event == made
    assert made == event
    assert (made.position, made.raw["text"]) == (None, "hi")
    assert event.encode() == made.encode()
    assert "_source" not in repr(event)
    assert event.model_dump() == made.model_dump()


def test_fields_of_a_later_release_are_in_raw() -> None:
    event = decoded(**FINAL, mood="cheerful", words=[{"text": "hi", "pitch": 3}])
    assert event.words == [Word(text="hi")]
    assert event.raw["mood"] == "cheerful"
    assert event.raw["words"][0]["pitch"] == 3


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"type": "mood", "mood": "cheerful"}, "mood"),
        ({"type": "turn", "turn": 0, "event": "paused"}, "turn"),
        ({"type": "status", "state": "rested", "worker": "w"}, "status"),
        ({**FINAL, "text": 7}, "final"),
        ({**FINAL, "kind": "song", "problem": "none", "raw": 1}, "final"),
    ],
    ids=["type", "turn", "state", "field", "names"],
)
def test_what_a_later_release_publishes_is_unknown(fields: dict[str, Any], kind: str) -> None:
    if "problem" in fields:
        del fields["text"]
    event = decoded(**fields)
    assert isinstance(event, UnknownEvent)
    assert (event.type, event.kind, event.id) == ("unknown", kind, "session-1:4")
    assert event.position == str(POSITION)
    assert event.key == SessionKey("t", "c", "s")
    assert event.raw == {**COMMON, **fields}
    assert event.problem
    assert "not an event" not in event.problem
    assert json.loads(event.encode()) == event.raw
    assert not event.closing


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("end", ["1e999", "1e308", "1e12", "NaN"]),
        ("started_at", ['"2026-11-20T00:00:00"', '"0001-01-01T00:00:00Z"', "1e300"]),
        ("latency", ["1e999", "-1e300", "NaN"]),
        ("words", ['[{"text": "hi", "start": 0, "end": 1e999}]']),
    ],
)
def test_a_value_with_which_nobody_can_calculate_is_unexpected(
    field: str, values: list[str]
) -> None:
    for value in values:
        rest = json.dumps({name: each for name, each in FINAL.items() if name != field})
        event = decode_event(f'{rest[:-1]}, "{field}": {value}}}'.encode())
        assert isinstance(event, UnknownEvent), value
        assert event.problem.startswith(f"final.{field}")


def test_an_event_belongs_on_the_subject_of_its_session() -> None:
    payload = json.dumps(FINAL).encode()
    assert decode_event(payload, POSITION, b"stt.transcript.t.c.s.final").id == "session-1:4"
    for subject in (b"stt.transcript.other.c.s.final", b"stt.transcript.t.c.s2.final", b"x"):
        with pytest.raises(BadEvent, match="is on another subject"):
            decode_event(payload, POSITION, subject)


def test_an_unknown_state_with_an_account_closes_the_session() -> None:
    assert decoded(type="status", state="archived", worker="w", account={}).closing
    assert not decoded(type="mood", account={}).closing


@pytest.mark.parametrize(
    "payload",
    [b"", b"{]", b"[]", b"7", b"null", b"{}", b"\xff", b'{"type":"song"}', b'{"type":7}',
     json.dumps({**COMMON, "type": "mood", "session_id": None}).encode(),
     json.dumps({**COMMON, "type": "mood", "sequence": -1}).encode(),
     json.dumps({**COMMON, "type": ["final"]}).encode(),
     json.dumps(COMMON).encode()],
)  # fmt: skip
def test_what_is_no_event_is_refused(payload: bytes) -> None:
    with pytest.raises(BadEvent, match="not an event"):
        decode_event(payload)


def test_the_position_of_the_audio_keeps_its_name_on_the_wire() -> None:
    event = decoded(type="status", state="closed", worker="w", position=48_000, labels={"a": "b"})
    assert isinstance(event, StatusEvent)
    assert (event.audio_position, event.position) == (48_000, str(POSITION))
    assert json.loads(event.encode())["position"] == 48_000
    assert event.labels == {"a": "b"}
