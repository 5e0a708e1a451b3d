"""Encoding of recordings and decoding of responses; no loop, no socket."""

from __future__ import annotations

import io
import json
import wave
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from natterjack.audio import AudioFormat
from natterjack.plugin.errors import RemoteProtocolError, RequestRefused, Unavailable
from natterjack.plugin.provider import Final, ProviderEvent, ProviderWord, Turn
from worker.providers.deepgram_rest import protocol
from worker.providers.deepgram_rest.options import Plan
from worker.providers.deepgram_rest.protocol import Result
from worker.providers.deepgram_rest.transcript import Transcript

RECORDED = {
    "metadata": {
        "transaction_key": "deprecated",
        "request_id": "a847f427-4ad5-4d67-9b95-db801e58251c",
        "sha256": "154e291ecfa8be6ab8343560bcc109008fa7853eb5372533e8efdefc9b504c33",
        "created": "2024-05-12T18:57:13.426Z",
        "duration": 25.933313,
        "channels": 1,
        "models": ["30089e05-99d1-4376-b32e-c263170674af"],
        "model_info": {},
    },
    "results": {
        "channels": [
            {
                "detected_language": "en",
                "search": [{"query": "yep", "hits": []}],
                "alternatives": [
                    {
                        "transcript": "Yep. I",
                        "confidence": 0.99902344,
                        "words": [
                            {
                                "word": "yep",
                                "start": 0.08,
                                "end": 0.32,
                                "confidence": 0.9975,
                                "punctuated_word": "Yep.",
                                "speaker": 0,
                                "speaker_confidence": 0.83,
                            },
                            {"word": "i", "start": 0.64, "end": 0.72, "confidence": 0.998},
                        ],
                    }
                ],
            }
        ],
        "summary": {"result": "success", "short": "A short summary."},
    },
}
"""From the vendor's documentation."""


def decoded(content: Any) -> Result:
    return protocol.decode(json.dumps(content).encode())


def test_the_request() -> None:
    plan = Plan(query=(("model", "nova-3"), ("keyterm", "natter jack"), ("tag", "a&b")), channels=1)
    post = protocol.post("https://api.deepgram.com", SecretStr("s3cret"), plan)
    url = urlsplit(post.url)
    assert (url.scheme, url.netloc, url.path) == ("https", "api.deepgram.com", "/v1/listen")
    assert parse_qs(url.query) == {
        "model": ["nova-3"],
        "keyterm": ["natter jack"],
        "tag": ["a&b"],
    }
    assert post.headers == {"Authorization": "Token s3cret", "Content-Type": "audio/wav"}
    assert "s3cret" not in repr(post)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (48000, 20)])
def test_the_header_of_a_recording(rate: int, channels: int) -> None:
    audio = bytes(range(240)) * channels
    wav = protocol.encode_wav(audio, AudioFormat("linear16", rate, channels))
    with wave.open(io.BytesIO(wav)) as reader:
        assert reader.getframerate() == rate
        assert reader.getnchannels() == channels
        assert reader.getsampwidth() == 2
        assert reader.readframes(10**6) == audio


def test_an_answer() -> None:
    assert decoded(RECORDED) == Result(
        text="Yep. I",
        words=(
            ProviderWord("Yep.", 0.08, 0.32, 0.9975, "0"),
            ProviderWord("i", 0.64, 0.72, 0.998),
        ),
        confidence=0.99902344,
        language="en",
        request_id="a847f427-4ad5-4d67-9b95-db801e58251c",
    )


def test_a_response_for_silence() -> None:
    for alternatives in ([], [{"transcript": "", "confidence": 0.0, "words": []}]):
        result = decoded({"results": {"channels": [{"alternatives": alternatives}]}})
        assert result == Result("", (), None, None, None)


def test_channels_are_distinguished() -> None:
    def channel(word: str, start: float, **more: Any) -> dict[str, Any]:
        words = [{"word": word, "start": start, "end": start + 0.1, **more}]
        return {"alternatives": [{"transcript": word, "confidence": 0.9, "words": words}]}

    channels = [channel("late", 1), channel("early", 0.5, speaker=3)]
    result = decoded({"results": {"channels": channels}})
    assert result.text == "early late"
    assert [(word.text, word.speaker) for word in result.words] == [("early", "1.3"), ("late", "0")]
    assert result.confidence is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"<html>",
        b"\xff\xfe\x00",
        b'{"request_id": "of a callback"}',
        b'{"results": {"channels": []}}',
        b'{"results": {"channels": [7]}}',
        b'{"results": {"channels": [{"alternatives": [{"words": []}]}]}}',
        b"[" * 100_000,
    ],
)
def test_nonsense(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        protocol.decode(body)
    assert caught.value.provider == "deepgram-rest"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("null", ()),
        ("[{}]", (ProviderWord("a"),)),
        ('[{"word": "a", "start": NaN, "end": 1}]', (ProviderWord("a", None, 1),)),
    ],
)
def test_text_is_kept(words: str, found: tuple[ProviderWord, ...]) -> None:
    alternative = f'{{"transcript": "a", "confidence": "1", "words": {words}}}'
    body = f'{{"results": {{"channels": [{{"alternatives": [{alternative}]}}]}}}}'
    result = protocol.decode(body.encode())
    assert (result.text, result.words, result.confidence) == ("a", found, None)


@pytest.mark.parametrize(
    ("status", "kind", "cause"),
    [
        (400, RequestRefused, "request"),
        (401, RequestRefused, "auth"),
        (402, RequestRefused, "credit"),
        (403, RequestRefused, "auth"),
        (411, RequestRefused, "request"),
        (413, RequestRefused, "request"),
        (408, Unavailable, "server_error"),
        (429, Unavailable, "rate_limit"),
        (499, Unavailable, "server_error"),
        (500, Unavailable, "server_error"),
        (504, Unavailable, "server_error"),
        (302, RemoteProtocolError, "protocol"),
        (204, RemoteProtocolError, "protocol"),
    ],
)
def test_the_error_table(status: int, kind: type, cause: str) -> None:
    error = protocol.status_error(status, {"dg-request-id": "r-1"}, b"a reason")
    assert type(error) is kind
    assert (error.cause, error.code, error.provider) == (cause, str(status), "deepgram-rest")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"plain text", "plain text"),
        (b'{"err_code": "X", "err_msg": "No credits.", "request_id": "r"}', "No credits."),
        (b'{"category": "X", "message": "Bad.", "details": "why", "request_id": "r"}', "Bad. why"),
        (b"", "the request was refused"),
        (b"x" * 5000, "x" * 200),
    ],
)
def test_all_shapes_of_errors_are_read(body: bytes, shown: str) -> None:
    error = protocol.status_error(400, {"dg-request-id": "r-1"}, body)
    assert str(error) == f"deepgram-rest: {shown}, request r-1 (400)"


# ---- results to events ----------------------------------------------------------------------


def result(*words: tuple[str, float, float]) -> Result:
    timed = tuple(ProviderWord(text, start, end, 0.9) for text, start, end in words)
    return Result(" ".join(word.text for word in timed), timed, 0.9 if timed else None, "en", "r")


def test_times_are_shifted_and_finals_partition_the_audio() -> None:
    transcript = Transcript()
    events: list[ProviderEvent] = [
        *transcript.silence(1.0),
        *transcript.speech(result(("one", 0.2, 0.5)), 2.0, paused=False),
        *transcript.speech(result(("two", 0.1, 0.4)), 3.0, paused=True),
        *transcript.silence(4.5),
    ]
    assert events == [
        Final("", 0.0, 1.0),
        Turn("started", 1.2),
        Final("one", 1.0, 2.0, (ProviderWord("one", 1.2, 1.5, 0.9),), 0.9, "en"),
        Final("two", 2.0, 3.0, (ProviderWord("two", 2.1, 2.4, 0.9),), 0.9, "en"),
        Turn("ended", 2.4),
        Final("", 3.0, 4.5),
    ]


def test_a_turn_needs_words() -> None:
    transcript = Transcript()
    assert transcript.speech(result(), 1.0, paused=True) == [Final("", 0.0, 1.0)]
    events = transcript.speech(result(("a", 0, 0.5)), 2.0, paused=False)
    assert events[0] == Turn("started", 1.0)
    # The rest is noise, so the turn ended with its last word.
    assert transcript.speech(result(), 3.0, paused=True) == [
        Final("", 2.0, 3.0),
        Turn("ended", 1.5),
    ]


def test_a_pause_that_was_cut_off_already() -> None:
    transcript = Transcript()
    transcript.speech(result(("a", 0, 0.5)), 2.0, paused=False)
    assert transcript.silence(2.0, paused=True) == [Turn("ended", 0.5)]


def test_rounded_times_do_not_leave_the_recording() -> None:
    transcript = Transcript()
    transcript.silence(1.0)
    _, final = transcript.speech(result(("a", 0.9, 1.0004)), 2.0, paused=False)
    assert isinstance(final, Final)
    assert final.words[0].end == 2.0
