"""The messages of a Flux stream for events of any backend: the vendor's schemas and states."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from gateway.doors.deepgram_flux.protocol import MAX_TURN_WORDS, FluxStream, decode
from gateway.doors.deepgram_flux.query import Unparsable, parse
from natterjack.events import Event
from tests.emulators.test_deepgram_flux_sdk import MODELS, schemas
from tests.emulators.test_deepgram_sdk import required

from ..samples import final, interim, status, turn

EN, MULTI = "flux-general-en", "flux-general-multi"


def stream(**parameters: str) -> FluxStream:
    query = {name: [value] for name, value in {"model": EN, **parameters}.items()}
    return FluxStream(parse(query), "request-1")


def told(flux: FluxStream, *events: Event) -> list[dict[str, Any]]:
    """The messages for the events."""
    return [json.loads(message) for event in events for message in flux.receive(event)]


def short(messages: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    return [(one["event"], one["turn_index"], one["transcript"]) for one in messages]


def test_the_first_message_is_connected() -> None:
    assert json.loads(stream().connected()) == {
        "type": "Connected", "request_id": "request-1", "sequence_id": 0,
    }  # fmt: skip


def test_a_turn_is_cumulative_over_finals_and_interims() -> None:
    messages = told(
        stream(), turn("started", 0.9), interim("Hi I", 1.0, 1.4), interim("Hi, I need", 1.0, 1.8),
        final("Hi, I need", 1.0, 1.8), interim("to go", 1.8, 2.2, 1),
        final("to go.", 1.8, 2.2, 1), turn("ended", 2.3, confidence=0.8),
    )  # fmt: skip
    assert short(messages) == [
        ("StartOfTurn", 0, "Hi I"),
        ("Update", 0, "Hi, I need"),
        ("Update", 0, "Hi, I need"),
        ("Update", 0, "Hi, I need to go"),
        ("Update", 0, "Hi, I need to go."),
        ("EndOfTurn", 0, "Hi, I need to go."),
    ]
    last = messages[-1]
    assert (last["trigger"], last["end_of_turn_confidence"]) == ("model", 0.8)
    assert [word["word"] for word in last["words"]] == ["Hi,", "I", "need", "to", "go."]
    assert last["words"][0] == {"word": "Hi,", "confidence": 0.9, "start": 1.0, "end": 1.267}
    assert last["audio_window_end"] == 2.2
    assert all(("trigger" in one) == (one["event"] == "EndOfTurn") for one in messages)


def test_the_next_turn_starts_where_the_last_one_ended() -> None:
    messages = told(stream(), final("one", 0, 1), interim("two", 2, 3, 1), final("two", 2, 3, 1))
    assert short(messages) == [
        ("StartOfTurn", 0, "one"),
        ("EndOfTurn", 0, "one"),
        ("StartOfTurn", 1, "two"),
        ("Update", 1, "two"),
        ("EndOfTurn", 1, "two"),
    ]
    assert messages[2]["audio_window_start"] == 1.0


def test_eager_ends_only_for_clients_that_ask_for_them() -> None:
    events = (
        turn("started", 0.0), interim("one", 0, 1), turn("eager_end", 1.0, confidence=0.5),
        turn("resumed", 1.5), interim("one two", 0, 2), turn("eager_end", 2.0),
        final("one two", 0, 2), turn("ended", 2.0),
    )  # fmt: skip
    assert [one["event"] for one in told(stream(), *events)] == [
        "StartOfTurn", "Update", "Update", "EndOfTurn",
    ]  # fmt: skip
    messages = told(stream(eager_eot_threshold="0.4"), *events)
    assert short(messages) == [
        ("StartOfTurn", 0, "one"),
        ("EagerEndOfTurn", 0, "one"),
        ("TurnResumed", 0, "one"),
        ("Update", 0, "one two"),
        ("EagerEndOfTurn", 0, "one two"),
        ("Update", 0, "one two"),
        ("EndOfTurn", 0, "one two"),
    ]
    assert [one["end_of_turn_confidence"] for one in messages if "Eager" in one["event"]] == [
        0.5, 0.4,
    ]  # fmt: skip


def test_an_eager_end_waits_for_its_text() -> None:
    """Interims are not stored, and may arrive after events of turns, which are."""
    messages = told(
        stream(eager_eot_threshold="0.4"), turn("started", 0.0), interim("one", 0, 1),
        turn("eager_end", 2.0, text="one two"), interim("one two", 0, 2), final("one two", 0, 2),
        turn("ended", 2.0),
    )  # fmt: skip
    assert [one["event"] for one in messages] == [
        "StartOfTurn", "EagerEndOfTurn", "Update", "EndOfTurn",
    ]  # fmt: skip


def test_the_end_repeats_the_eager_end_or_the_turn_resumes_first() -> None:
    messages = told(
        stream(eager_eot_threshold="0.4"), turn("started", 0.0), interim("one", 0, 1),
        turn("eager_end", 1.0), final("One.", 0, 1), turn("ended", 1.0),
    )  # fmt: skip
    assert short(messages) == [
        ("StartOfTurn", 0, "one"),
        ("EagerEndOfTurn", 0, "one"),
        ("TurnResumed", 0, "One."),
        ("EndOfTurn", 0, "One."),
    ]


def test_an_interim_that_is_withdrawn_is_not_in_the_turn() -> None:
    messages = told(
        stream(), turn("started", 0.0), final("one", 0, 1), interim("uh", 1, 2, 1), turn("ended", 2)
    )
    assert short(messages)[-1] == ("EndOfTurn", 0, "one")


def test_updates_come_each_quarter_of_a_second_of_audio() -> None:
    flux = stream()
    flux.connected()
    times = [n / 100 for n in range(1, 101)]
    messages = [json.loads(one) for at in times for one in flux.audio(at)]
    assert short(messages) == [("Update", 0, "")] * 4
    # Nothing is transcribed yet, and the window does not claim it.
    assert {one["audio_window_end"] for one in messages} == {0.0}


def test_an_open_turn_ends_after_the_timeout_of_the_client() -> None:
    flux = stream(eot_timeout_ms="500")
    told(flux, status("streaming"), turn("started", 0.0), final("one", 0, 1))
    assert not [one for one in flux.audio(1.4) if "EndOfTurn" in one]
    (end,) = [json.loads(one) for one in flux.audio(1.6)]
    assert (end["event"], end["trigger"], end["transcript"]) == ("EndOfTurn", "timeout", "one")
    # The backend's own end of this turn ends no other.
    assert told(flux, turn("ended", 1.0)) == []


def test_a_turn_waits_while_its_backend_is_away_or_its_words_are_not_final() -> None:
    flux = stream(eot_timeout_ms="500")
    told(flux, status("streaming"), turn("started", 0.0), final("one", 0, 1))
    told(flux, status("recovering"))
    assert not [one for one in flux.audio(9.0) if "EndOfTurn" in one]
    told(flux, status("streaming"), interim("two", 1, 2, 1))
    assert not [one for one in flux.audio(20.0) if "EndOfTurn" in one]


def test_forced_ends() -> None:
    flux = stream()
    flux.force()
    (warning,) = flux.forced(True)
    assert json.loads(warning)["code"] == "FORCE_END_TURN_NO_ACTIVE_TURN"
    told(flux, turn("started", 0.0), interim("one", 0, 1))
    flux.force()
    told(flux, final("one", 0, 1))
    (end,) = flux.forced(True)
    assert (json.loads(end)["event"], json.loads(end)["trigger"]) == ("EndOfTurn", "manual")
    flux.force()
    messages = told(flux, final("two", 1, 2, 1), turn("ended", 2.0))
    assert (messages[-1]["event"], messages[-1]["trigger"]) == ("EndOfTurn", "manual")
    assert flux.forced(True) == []  # it has its answer


def test_the_end_of_the_audio_is_an_update() -> None:
    flux = stream()
    told(flux, turn("started", 0.0), final("one", 0, 1))
    (last,) = [json.loads(one) for one in flux.end(3.0)]
    assert (last["event"], last["transcript"], last["audio_window_end"]) == ("Update", "one", 3.0)


def test_a_turn_has_a_limit() -> None:
    flux = stream()
    text = " ".join(["word"] * 100)
    told(flux, turn("started", 0.0))
    messages = told(flux, *(final(text, n, n + 1, n) for n in range(12)))
    ends = [one for one in messages if one["event"] == "EndOfTurn"]
    assert [len(one["words"]) for one in ends] == [MAX_TURN_WORDS + 100]
    assert messages[-1]["turn_index"] == 1


def test_configure_is_always_answered() -> None:
    flux = stream()
    (done,) = flux.configure({"type": "Configure", "thresholds": {"eot_timeout_ms": 900}})
    assert json.loads(done)["type"] == "ConfigureSuccess"
    assert json.loads(done)["thresholds"]["eot_timeout_ms"] == flux.config.eot_timeout_ms == 900
    (failed,) = flux.configure({"type": "Configure", "thresholds": {"eot_timeout_ms": 1}})
    assert json.loads(failed)["code"] == "INVALID_TIMEOUT"
    assert flux.config.eot_timeout_ms == 900


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"type": "Finalize"}', "[" * 100_000])
def test_other_messages_are_unparsable(text: str) -> None:
    with pytest.raises(Unparsable):
        decode(text)


@pytest.mark.parametrize("kind", ["CloseStream", "ForceEndTurn", "Configure", "KeepAlive"])
def test_messages_of_clients(kind: str) -> None:
    assert decode(f'{{"type":"{kind}"}}').kind == kind


@pytest.mark.parametrize("model", [EN, MULTI])
def test_every_message_fits_the_specification(model: str) -> None:
    flux = stream(model=model, eager_eot_threshold="0.4", eot_timeout_ms="500")
    if model == MULTI:
        flux.configure({"type": "Configure", "language_hints": ["de", "en"]})
    raw = [
        flux.connected(),
        *flux.configure({"keyterms": ["a"]}),
        *flux.configure({"keyterms": [""]}),
    ]
    for event in (
        status("streaming"), turn("started", 0.0), interim("eins", 0, 1, language="de-DE"),
        turn("eager_end", 1.0), turn("resumed", 1.1), interim("eins two", 0, 2, language="de"),
        final("eins two", 0, 2, words=[], language="en"), turn("ended", 2.0),
    ):  # fmt: skip
        raw += flux.receive(event)
    flux.force()
    raw += [
        *flux.audio(2.5),
        *flux.forced(True),
        *flux.end(3.0),
        flux.error("INTERNAL_SERVER_ERROR", "x"),
    ]
    messages = [json.loads(one) for one in raw]
    assert {one["type"] for one in messages} == set(MODELS)
    first = messages[0]["sequence_id"]
    assert [one["sequence_id"] for one in messages] == list(
        itertools.islice(itertools.count(first), len(messages))
    )
    validators = schemas("publish")
    for message in messages:
        if message["type"] in validators:
            validators[message["type"]].validate(message)
        sdk_model = MODELS[message["type"]]
        assert required(sdk_model) <= set(message) <= set(sdk_model.model_fields), message
        # LiveKit leaves out a text without words, and uses the first language.
        assert bool(message.get("transcript")) == bool(message.get("words"))
        assert message.get("languages") != []
    spoken = [one["languages"] for one in messages if "languages" in one]
    assert bool(spoken) == (model == MULTI)
    if model == MULTI:
        assert spoken[-1] == ["de", "en"]
