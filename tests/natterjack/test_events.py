from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from natterjack.errors import BadEvent
from natterjack.events import FinalEvent, InterimEvent, StatusEvent, parse_event
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey
from natterjack.values import Gap, Word

COMMON = {
    "session_id": "session-1", "tenant": "t", "conversation": "c", "speaker": "s",
    "epoch": 2, "published_at": datetime(2026, 11, 20, tzinfo=UTC),
}  # fmt: skip


def test_events_round_trip_without_absent_values() -> None:
    event = FinalEvent(
        **COMMON, sequence=4, segment=1, text="hi", start=0.5, end=1.25, words=[Word(text="hi")]
    )
    assert parse_event(event.encode()) == event
    assert event.key == SessionKey("t", "c", "s")
    assert b"confidence" not in event.encode()
    assert b'"type":"final"' in event.encode()


def test_unknown_fields_are_ignored() -> None:
    wire = InterimEvent(**COMMON, segment=0, text="x", start=0, end=1).encode()
    newer = wire[:-1] + b',"mood":"cheerful"}'
    assert isinstance(parse_event(newer), InterimEvent)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{]", b"[]", b"7", b"{}", b'{"type":"song"}', b'{"type":"final","text":"x"}', b"\xff"],
)
def test_invalid_payloads_raise_one_error(payload: bytes) -> None:
    with pytest.raises(BadEvent, match="not an event") as caught:
        parse_event(payload)
    assert "\n" not in str(caught.value)


def test_which_status_ends_a_session() -> None:
    def status(state: str) -> StatusEvent:
        return StatusEvent.model_validate({**COMMON, "sequence": 0, "state": state, "worker": "w"})

    assert [s for s in ("assigned", "closed", "handed_over", "failed") if status(s).closing] == [
        "closed",
        "failed",
    ]


def test_spec_defaults_and_bounds() -> None:
    spec = SessionSpec(tenant="t", conversation="c", speaker="s")
    assert spec.audio_format == ("linear16", 16_000, 1)
    assert spec.providers == []
    assert len(spec.session_id) == 36
    chain = spec.model_copy(update={"provider": ["a", "b"]})
    assert chain.providers == ["a", "b"]
    wrongs: tuple[dict[str, object], ...] = (
        {"tenant": "a.b"}, {"encoding": "mp3"}, {"sample_rate": 0}, {"channels": 0},
        {"provider": []}, {"provider": ""}, {"session_id": "../x"}, {"max_seconds": 0},
        {"start_position": -1}, {"start_position": 2**53}, {"audio_of": "x"}, {"successor": "../x"},
        {"continues": spec.session_id}, {"successor": spec.session_id},
    )  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(ValidationError):
            SessionSpec.model_validate({**spec.model_dump(), **wrong})


def test_whose_audio_a_session_transcribes() -> None:
    first = SessionSpec(tenant="t", conversation="c", speaker="s", successor="second-session")
    second = first.model_copy(
        update={"session_id": "second-session", "continues": first.session_id}
    )
    assert first.audio_session_id == first.session_id
    assert second.audio_session_id == "second-session", "an edge may begin new audio"
    second = second.model_copy(update={"audio_of": first.session_id})
    assert second.audio_session_id == first.session_id
    again = second.model_copy(update={"session_id": "again", "repeats": "second-session"})
    assert again.audio_session_id == first.session_id


@pytest.mark.parametrize("model", [Word, Gap])
def test_nothing_ends_before_it_starts(model: type[Word | Gap]) -> None:
    given = {"text": "toad", "cause": "edge", "start": 2.0}
    assert model.model_validate(given | {"end": 2.0}).end == 2.0
    with pytest.raises(ValidationError, match=r"ends at 1.5 s, before it starts at 2.0 s"):
        model.model_validate(given | {"end": 1.5})


def test_a_stored_event_is_read_as_it_is() -> None:
    words = [{"text": "toad", "start": 2.0, "end": 1.5}]
    times = {"start": 3.0, "end": 2.0}
    fields = {"type": "final", "sequence": 0, "segment": 0, "text": "toad", "words": words, **times}
    common = COMMON | {"published_at": "2026-11-20T00:00:00Z"}
    event = parse_event(json.dumps(common | fields))
    assert isinstance(event, FinalEvent)
    assert (event.words[0].start, event.words[0].end, event.end) == (2.0, 1.5, 2.0)
    with pytest.raises(ValidationError, match="before it starts"):
        FinalEvent.model_validate(common | fields | {"words": []})
