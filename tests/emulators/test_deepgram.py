"""The Deepgram emulator: accepted queries, results, and injected faults."""

from __future__ import annotations

from typing import Any

import pytest

from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramFaults, ListenSession
from natterjack.emulators.deepgram.query import parse
from natterjack.emulators.session import Close, Refusal

BASE = {"model": "nova-3", "encoding": "linear16", "sample_rate": "16000"}


def session(faults: DeepgramFaults | None = None, /, **query: str) -> ListenSession:
    listed = {name: [value] for name, value in {**BASE, **query}.items()}
    return ListenSession(parse(listed), faults or DeepgramFaults())


def feed(stream: ListenSession, audio: bytes, chunk: int = 3200) -> list[Any]:
    return [m for at in range(0, len(audio), chunk) for m in stream.audio(audio[at : at + chunk])]


def results(messages: list[Any], *, final: bool | None = None) -> list[dict[str, Any]]:
    return [
        m
        for m in messages
        if isinstance(m, dict) and m["type"] == "Results" and final in (None, m["is_final"])
    ]


def text(message: dict[str, Any]) -> str:
    return str(message["channel"]["alternatives"][0]["transcript"])


def end(message: dict[str, Any]) -> float:
    return float(message["start"] + message["duration"])


# ---- the query ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"interim_results": "True"}, 400, "INVALID_QUERY_PARAMETER"),
        ({"sample_rate": "fast"}, 400, "INVALID_QUERY_PARAMETER"),
        ({"endpointing": "true"}, 400, "INVALID_QUERY_PARAMETER"),
        ({"encoding": "mp3"}, 400, "INVALID_QUERY_PARAMETER"),
        ({"redact": "names"}, 400, "INVALID_QUERY_PARAMETER"),
        ({"utterance_end_ms": "500", "interim_results": "true"}, 400, "INVALID_QUERY_PARAMETER"),
        ({"utterance_end_ms": "1000"}, 400, "Bad Request"),
        ({"multichannel": "true", "channels": "21"}, 400, "Bad Request"),
        ({"keywords": "natterjack:2"}, 400, "Bad Request"),
        ({"keyterm": "toad", "model": "nova-2"}, 400, "Bad Request"),
        ({"keyterm": "toad " * 501}, 400, "Bad Request"),
        ({"diarize_model": "v2"}, 400, "Bad Request"),
        ({"diarize_model": "v1", "diarize": "true"}, 400, "Bad Request"),
        ({"summarize": "true"}, 400, "Bad Request"),
        ({"model": "flux-general-en"}, 400, "Bad Request"),
        ({"model": "nova", "language": "multi"}, 400, "Bad Request"),
        ({"model": "nova-33"}, 403, "INSUFFICIENT_PERMISSIONS"),
        ({"topics": "true"}, 403, "UNAUTHORIZED_FEATURES_REQUESTED"),
    ],
)
def test_bad_queries_are_refused(query: dict[str, str], status: int, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        session(**query)
    assert refused.value.status == status
    assert refused.value.body["err_code"] == code
    assert refused.value.headers["dg-error"] == refused.value.body["err_msg"]
    assert refused.value.headers["dg-request-id"]


def test_raw_audio_needs_its_rate() -> None:
    with pytest.raises(Refusal, match="sample_rate"):
        parse({"encoding": ["linear16"]})


def test_unknown_parameters_are_ignored() -> None:
    session(sentiment="true", whatever="1")


# ---- results --------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [2, 640, 3200, 10**6])
def test_finals_partition_the_audio_at_word_boundaries(chunk: int) -> None:
    words = tones.sequence(80)
    audio = tones.encode(words, phrase_words=35, lead_seconds=6, tail_seconds=5)
    places = tones.places(words, phrase_words=35, lead_seconds=6)
    if chunk == 2:
        audio = audio[: 32000 * 12]
    stream = session(endpointing="300")
    messages = feed(stream, audio, chunk) + stream.text('{"type": "CloseStream"}')
    finals = results(messages, final=True)
    assert results(messages) == finals  # no interims were requested
    frontier = 0.0
    for final in finals:
        assert final["start"] == pytest.approx(frontier, abs=1e-6)
        assert 0 < final["duration"] < 5.1
        frontier = end(final)
        inside = [p for p in places if p.start + 0.01 < frontier < p.end - 0.01]
        assert not inside or final is finals[-1]
        for word in final["channel"]["alternatives"][0]["words"]:
            assert final["start"] <= word["start"] < word["end"] <= frontier + 1e-4
    assert frontier == pytest.approx(len(audio) / 32000, abs=1e-5)
    received = tones.words_of(" ".join(text(final) for final in finals))
    assert received == words[: len(received)]
    assert len(received) >= 18
    assert not text(finals[0]), "the silence before the first word has a separate final"


def test_interims_come_every_second_and_repeat_pending_words() -> None:
    stream = session(interim_results="true", endpointing="false")
    messages = feed(stream, tones.encode(tones.sequence(40)))
    frontier, so_far = 0.0, ""
    ends = []
    for message in results(messages):
        assert message["start"] == pytest.approx(frontier, abs=1e-6)
        if message["is_final"]:
            frontier, so_far = end(message), ""
            assert not message["speech_final"]
        else:
            ends.append(end(message))
            assert text(message).startswith(so_far)
            so_far = text(message)
    assert ends == pytest.approx([float(n) for n in range(1, 13)], abs=0.021)
    # A final may end before the preceding interim, whose tail then appears again.
    assert any(
        one["start"] == two["start"] and end(two) < end(one)
        for one, two in zip(results(messages), results(messages)[1:], strict=False)
        if two["is_final"] and not one["is_final"]
    )


def test_the_endpoint_comes_after_the_configured_silence() -> None:
    audio = tones.encode(tones.sequence(8), phrase_words=4, pause_seconds=0.5, tail_seconds=0.5)
    for milliseconds, count in ((10, 8), (300, 2), (600, 0)):
        stream = session(endpointing=str(milliseconds))
        ends = [m for m in results(feed(stream, audio)) if m["speech_final"]]
        assert len(ends) == count
        for message in ends:
            last = message["channel"]["alternatives"][0]["words"][-1]["end"]
            assert end(message) - last == pytest.approx(milliseconds / 1000, abs=0.045)


def test_speech_events() -> None:
    stream = session(vad_events="true", utterance_end_ms="1000", interim_results="true")
    audio = tones.encode(
        tones.sequence(4), phrase_words=2, pause_seconds=1.5, lead_seconds=1, tail_seconds=2
    )
    events = [m for m in feed(stream, audio) if m["type"] in ("SpeechStarted", "UtteranceEnd")]
    assert [event["type"] for event in events] == ["SpeechStarted", "UtteranceEnd"] * 2
    starts = [event["timestamp"] for event in events[::2]]
    assert starts == pytest.approx([1.0, 3.06], abs=0.02)
    last_words = [event["last_word_end"] for event in events[1::2]]
    assert last_words == pytest.approx([1.56, 3.62], abs=0.01)


def test_punctuation_is_optional() -> None:
    audio = tones.encode(["able", "about"], tail_seconds=1)
    (final,) = results(feed(session(punctuate="true", endpointing="300"), audio))
    assert text(final) == "Able about."
    words = final["channel"]["alternatives"][0]["words"]
    assert [w["word"] for w in words] == ["able", "about"]
    assert [w["punctuated_word"] for w in words] == ["Able", "about."]
    (final,) = results(feed(session(endpointing="300"), audio))
    assert text(final) == "able about"


def test_finalize_returns_a_final_and_cuts_the_word_in_progress() -> None:
    words = tones.sequence(5)
    audio = tones.encode(words)
    stream = session(endpointing="false")
    middle = 2 * round(16000 * (2 * 0.32 + 0.12))
    feed(stream, audio[:middle])
    (answer,) = stream.text('{"type": "Finalize"}')
    assert isinstance(answer, dict)
    assert answer["from_finalize"]
    assert end(answer) == pytest.approx(middle / 32000)
    assert tones.words_of(text(answer)) == words[:2]
    feed(stream, audio[middle:])
    (answer,) = stream.text('{"type": "Finalize"}')
    assert isinstance(answer, dict)
    assert tones.words_of(text(answer)) == words[3:]
    (answer,) = stream.text('{"type": "Finalize"}')
    assert isinstance(answer, dict)
    assert (answer["duration"], text(answer)) == (0, "")


def test_finalize_may_go_unanswered_or_unmarked() -> None:
    stream = session(DeepgramFaults(finalize_answer="none"))
    assert stream.text('{"type": "Finalize"}') == []
    feed(stream, tones.encode(tones.sequence(1), tail_seconds=0))
    assert len(stream.text('{"type": "Finalize"}')) == 1
    stream = session(DeepgramFaults(finalize_answer="unmarked"))
    feed(stream, tones.encode(tones.sequence(1)))
    (answer,) = stream.text('{"type": "Finalize"}')
    assert isinstance(answer, dict)
    assert not answer["from_finalize"]


def test_an_empty_frame_closes_and_nothing_follows() -> None:
    stream = session()
    feed(stream, tones.silence(0.5))
    *_, summary, close = stream.audio(b"")
    assert isinstance(summary, dict)
    assert (summary["type"], summary["duration"], summary["channels"]) == ("Metadata", 0.5, 1)
    assert close == Close(1000)
    assert stream.audio(tones.silence(1)) == []
    assert stream.text('{"type": "CloseStream"}') == []


def test_no_audio_at_all() -> None:
    summary, _ = session().text('{"type": "CloseStream"}')
    assert isinstance(summary, dict)
    assert (summary["duration"], summary["channels"]) == (0, 0)
    # The digest of empty input, as in the vendor's example.
    assert summary["sha256"].startswith("e3b0c44298fc1c14")


@pytest.mark.parametrize("message", ["}{", "[]", "7", '{"type": "ForceEndTurn"}', "{}"])
def test_bad_text_gets_an_error_message(message: str) -> None:
    stream = session()
    (answer,) = stream.text(message)
    assert isinstance(answer, dict)
    assert (answer["type"], answer["variant"]) == ("Error", "SchemaError")
    assert answer["message"] == message
    assert not stream.resets_timer(message)


def test_an_unsupported_codec_cannot_be_decoded() -> None:
    stream = session(encoding="opus")
    (close,) = stream.audio(b"OggS")
    assert isinstance(close, Close)
    assert close.code == 1008
    assert "DATA-0000" in close.reason


def test_an_odd_byte_waits_for_the_next_frame() -> None:
    words = tones.sequence(6)
    stream = session()
    messages = feed(stream, tones.encode(words), 777)
    messages += stream.text('{"type": "CloseStream"}')
    assert tones.words_of(" ".join(text(m) for m in results(messages, final=True))) == words


def test_injected_distortions() -> None:
    audio = tones.encode(tones.sequence(20), lead_seconds=1, tail_seconds=2)
    query = {"interim_results": "true", "utterance_end_ms": "1000", "vad_events": "true"}
    faults = DeepgramFaults(
        last_word_end_unknown=True,
        duplicate_speech_started=True,
        contradicting_interims=True,
        empty_alternatives=True,
        extra_fields=True,
    )
    messages = feed(session(faults, endpointing="300", **query), audio)
    honest = feed(session(endpointing="300", **query), audio)
    assert [m["last_word_end"] for m in messages if m["type"] == "UtteranceEnd"] == [-1]
    assert sum(m["type"] == "SpeechStarted" for m in messages) == 2
    assert all("x_extra" in m for m in messages)
    silent = [m for m in results(messages) if not m["channel"]["alternatives"]]
    assert len(silent) == sum(not text(m) for m in results(honest)) > 0
    texts = [
        [text(m) for m in results(all_, final=True) if m["channel"]["alternatives"]]
        for all_ in (messages, honest)
    ]
    assert [t for t in texts[0] if t] == [t for t in texts[1] if t]


def test_language_hints_come_back() -> None:
    audio = tones.encode(tones.sequence(1), tail_seconds=1)
    for query, hinted in (
        ({"language": "multi", "language_hint": "en"}, ["en"]),
        ({"language": "multi"}, []),
        ({"language": "de", "language_hint": "en"}, None),
    ):
        (final,) = results(feed(session(**query), audio), final=True)[:1]
        assert final["channel"]["alternatives"][0].get("languages_hinted") == hinted
    with pytest.raises(Refusal) as caught:
        session(language="multi", language_hint="?")
    assert caught.value.status == 400
