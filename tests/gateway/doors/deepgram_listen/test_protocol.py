"""The messages of a listen v1 stream for events of any backend."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.doors.deepgram_listen import protocol
from gateway.doors.deepgram_listen.messages import Unparsable, decode, settings_of
from gateway.doors.deepgram_listen.protocol import ListenStream
from gateway.doors.deepgram_listen.query import parse
from tests.emulators.test_deepgram_sdk import schemas

from ..samples import final, interim, turn, words_of

REQUEST_ID = "52cc0efe-fa77-4aa7-b79c-0dda09de2f14"


def stream(**query: str) -> ListenStream:
    values = {"encoding": "linear16", "sample_rate": "16000", "interim_results": "true", **query}
    return ListenStream(
        parse({name: [value] for name, value in values.items()}), REQUEST_ID, "sherpa", "0.1"
    )


def decoded(messages: list[str]) -> list[dict[str, Any]]:
    return [json.loads(message) for message in messages]


def text_of(message: dict[str, Any]) -> str:
    text: str = message["channel"]["alternatives"][0]["transcript"]
    return text


def test_a_final_waits_for_the_end_of_its_turn() -> None:
    listen = stream()
    assert listen.receive(0, final("one two", 0.4, 1.0)) == []
    assert listen.waits
    [results] = decoded(listen.receive(0, turn("ended", 1.0)))
    assert results["is_final"]
    assert results["speech_final"]
    assert not results["from_finalize"]
    assert not listen.waits


def test_a_final_without_an_end_of_a_turn_is_released() -> None:
    listen = stream()
    listen.receive(0, final("one two", 0.4, 1.0))
    [results] = decoded(listen.release())
    assert (results["is_final"], results["speech_final"]) == (True, False)
    [end] = decoded(listen.receive(0, turn("ended", 1.2)))
    assert (end["is_final"], end["speech_final"], text_of(end)) == (True, True, "")
    assert (end["start"], end["duration"]) == (1.0, 0.2)


def test_without_endpointing_nothing_waits_and_no_utterance_ends() -> None:
    listen = stream(endpointing="false")
    [results] = decoded(listen.receive(0, final("one", 0, 1)))
    assert not results["speech_final"]
    assert listen.receive(0, turn("ended", 1.0)) == []


def test_finals_tile_the_audio() -> None:
    listen = stream(endpointing="false")
    messages = [
        *listen.receive(0, final("one", 0.5, 1.0)),
        *listen.receive(0, final("two", 2.0, 2.5)),
        *listen.finalized(None, 3.0, complete=True),
        *listen.receive(0, final("three", 3.5, 4.0)),
        *listen.ended(5.0, complete=True),
    ]
    at = 0.0
    for results in decoded(messages):
        assert results["start"] == pytest.approx(at)
        at += results["duration"]
    assert at == pytest.approx(5.0)


def test_words_keep_their_times_and_forms() -> None:
    listen = stream(endpointing="false", punctuate="true")
    [results] = decoded(listen.receive(0, final("Well, it's 20% — done.", 1.0, 2.0)))
    alternative = results["channel"]["alternatives"][0]
    assert alternative["transcript"] == "Well, it's 20% — done."
    assert [word["word"] for word in alternative["words"]] == ["well", "it's", "20%", "done"]
    assert alternative["words"][0]["punctuated_word"] == "Well,"
    assert alternative["words"][0]["start"] == 1.0
    assert alternative["confidence"] == pytest.approx(0.9)


def test_without_punctuation_the_text_has_the_plain_words() -> None:
    listen = stream(endpointing="false")
    [results] = decoded(listen.receive(0, final("Well, it's — done.", 1.0, 2.0)))
    alternative = results["channel"]["alternatives"][0]
    assert alternative["transcript"] == "well it's done"
    assert "punctuated_word" not in alternative["words"][0]


def test_a_backend_without_words_has_estimated_ones() -> None:
    listen = stream(endpointing="false")
    [results] = decoded(listen.receive(0, final("one two", 1.0, 2.0, words=[])))
    words = results["channel"]["alternatives"][0]["words"]
    assert [(w["word"], w["start"], w["end"]) for w in words] == [
        ("one", 1.0, 1.5), ("two", 1.5, 2.0)
    ]  # fmt: skip
    assert [w["confidence"] for w in words] == [1.0, 1.0]


def test_interims_only_if_asked_for() -> None:
    listen = stream()
    [results] = decoded(listen.receive(0, interim("one", 0.2, 1.0)))
    assert (results["is_final"], results["speech_final"], results["start"]) == (False, False, 0.0)
    quiet = stream(interim_results="false")
    assert quiet.receive(0, interim("one", 0.2, 1.0)) == []


def test_an_interim_does_not_overtake_a_final_that_waits() -> None:
    listen = stream()
    listen.receive(0, final("one", 0.0, 1.0))
    first, second = decoded(listen.receive(0, interim("two", 1.0, 1.5, segment=1)))
    assert (text_of(first), text_of(second)) == ("one", "two")
    assert second["start"] == 1.0


def test_finalize_is_answered_by_the_final_or_by_silence() -> None:
    listen = stream()
    listen.receive(0, final("one", 0.0, 1.0), keep=True)
    [results] = decoded(listen.finalized(None, 1.4, complete=True))
    assert results["from_finalize"]
    assert (text_of(results), results["duration"]) == ("one", 1.4)
    [empty] = decoded(listen.finalized(None, 1.4, complete=True))
    assert empty["from_finalize"]
    assert (empty["is_final"], text_of(empty), empty["start"]) == (True, "", 1.4)
    assert empty["channel"]["alternatives"][0]["words"] == []


def test_a_finalize_that_is_not_complete_claims_no_audio() -> None:
    listen = stream()
    [empty] = decoded(listen.finalized(None, 5.0, complete=False))
    assert (empty["start"], empty["duration"], empty["from_finalize"]) == (0.0, 0.0, True)


def test_vad_events_and_utterance_ends_only_if_asked_for() -> None:
    listen = stream()
    assert listen.receive(0, turn("started", 0.5)) == []
    listen = stream(vad_events="true", utterance_end_ms="1000")
    [started] = decoded(listen.receive(0, turn("started", 0.5)))
    assert started == {"type": "SpeechStarted", "channel": [0, 1], "timestamp": 0.5}
    listen.receive(0, final("one", 0.5, 1.0))
    assert listen.progress(1.5) == []
    listen.receive(0, turn("ended", 1.0))
    assert listen.progress(1.9) == []
    [end] = decoded(listen.progress(2.0))
    assert end == {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 1.0}
    assert listen.progress(9.0) == [], "once for each gap"


def test_no_utterance_ends_while_words_go_on() -> None:
    listen = stream(utterance_end_ms="1000")
    listen.receive(0, final("one", 0.5, 1.0))
    listen.receive(0, interim("two", 1.0, 1.8, segment=1))
    assert listen.progress(3.0) == []


def test_channels_are_apart() -> None:
    listen = stream(channels="2", multichannel="true", endpointing="false")
    [first] = decoded(listen.receive(0, final("one", 0, 1)))
    [second] = decoded(listen.receive(1, final("two", 0, 2)))
    assert (first["channel_index"], second["channel_index"]) == ([0, 2], [1, 2])
    assert second["start"] == 0
    [only] = decoded(listen.finalized(1, 3.0, complete=True))
    assert only["channel_index"] == [1, 2]
    assert len(listen.ended(3.0, complete=True)) == 1


def test_languages_are_plain_or_absent() -> None:
    [results] = decoded(stream(endpointing="false").receive(0, final("x", 0, 1, language="en")))
    assert "languages" not in results["channel"]["alternatives"][0]
    multi = stream(endpointing="false", language="multi")
    [results] = decoded(multi.receive(0, final("x", 0, 1, language="es")))
    assert results["channel"]["alternatives"][0]["languages"] == ["es"]
    [results] = decoded(multi.receive(0, final("x", 1, 2)))
    assert "languages" not in results["channel"]["alternatives"][0], "an empty list is fatal"


def test_speakers_are_numbers() -> None:
    listen = stream(endpointing="false", diarize="true")
    words = [*words_of("a", 0, 1, "S7"), *words_of("b", 1, 2, "S2"), *words_of("c", 2, 3, "S7")]
    [results] = decoded(listen.receive(0, final("a b c", 0, 3, words=words)))
    found = [word["speaker"] for word in results["channel"]["alternatives"][0]["words"]]
    assert found == [0, 1, 0]


def test_markup_is_only_text() -> None:
    listen = stream(endpointing="false", punctuate="true")
    [results] = decoded(listen.receive(0, final('<b onload="x">', 0, 1, words=[])))
    assert text_of(results) == '<b onload="x">'


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"type": "Nope"}', "{}", "[" * 100_000])
def test_other_messages_are_unparsable(text: str) -> None:
    with pytest.raises(Unparsable):
        decode(text)
    error = json.loads(protocol.schema_error(text, "why"))
    assert (error["type"], error["variant"]) == ("Error", "SchemaError")


def test_messages_of_clients() -> None:
    for kind in ("KeepAlive", "Finalize", "CloseStream", "Configure"):
        assert decode(f'{{"type":"{kind}"}}').kind == kind
    assert decode('{"type": "Finalize", "channel": 1}').channel == 1
    assert decode('{"type": "Finalize"}').channel is None
    message = decode('{"type":"Configure","keyterms":["a"],"features":{"numerals":true}}')
    assert settings_of(message) == {"keyterms": ["a"], "numerals": True}
    assert settings_of(decode('{"type":"Configure","keyterms":null}')) == {}
    for wrong in ('"keyterms":"a"', '"keyterms":[1]', '"features":{"numerals":1}'):
        with pytest.raises(Unparsable):
            settings_of(decode(f'{{"type":"Configure",{wrong}}}'))


def test_every_message_fits_the_specification() -> None:
    listen = stream(
        vad_events="true", utterance_end_ms="1000", punctuate="true", diarize="true", extra="a:b"
    )
    raw = [
        *listen.receive(0, turn("started", 0.1)),
        *listen.receive(0, interim("one", 0.1, 0.9)),
        *listen.receive(0, final("One two.", 0.1, 1.0)),
        *listen.receive(0, turn("ended", 1.0)),
        *listen.progress(2.5),
        *listen.finalized(None, 3.0, complete=True),
        *listen.ended(4.0, complete=True),
        listen.metadata(4.0, "0" * 64, datetime(2026, 12, 1, tzinfo=UTC)),
    ]
    validators = schemas()
    messages = decoded(raw)
    assert {message["type"] for message in messages} == set(validators)
    for message in messages:
        validators[message["type"]].validate(message)
    metadata = json.loads(raw[-1])
    assert metadata["duration"] == 4.0
    assert metadata["created"] == "2026-12-01T00:00:00.000Z"


def test_a_stream_without_audio_has_no_channels() -> None:
    metadata = json.loads(stream().metadata(0.0, "0" * 64, datetime(2026, 12, 1, tzinfo=UTC)))
    assert (metadata["duration"], metadata["channels"]) == (0.0, 0)
