"""The emulator of speak v2: accepted queries, turns, the session's clock, limits and faults."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natterjack.emulators import tones
from natterjack.emulators.deepgram.flux_speak import FluxSpeakSession
from natterjack.emulators.deepgram.flux_speak_faults import FluxSpeakFaults
from natterjack.emulators.deepgram.flux_speak_query import parse
from natterjack.emulators.session import Close, Elapsed, Refusal
from natterjack.emulators.spoken import SECONDS_PER_WORD, tone_words

BASE = {"model": "flux-haley-en", "encoding": "linear16", "sample_rate": "24000"}
TEXT = "Able about above. Acorn across actor."


def session(faults: dict[str, Any] | None = None, /, **query: str | list[str]) -> FluxSpeakSession:
    given = {name: value for name, value in {**BASE, **query}.items() if value != ""}
    listed = {name: [value] if isinstance(value, str) else value for name, value in given.items()}
    return FluxSpeakSession(parse(listed), FluxSpeakFaults(**(faults or {})))


class Client:
    """One who talks to a session, on a clock of its own."""

    def __init__(self, faults: dict[str, Any] | None = None, /, **query: str | list[str]) -> None:
        self.session = session(faults, **query)
        self.now = 0.0
        self.received: list[Any] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.received += self.session.text(json.dumps({"type": kind, **fields}))

    def interrupt(self, value: int | None = None) -> None:
        offset = {} if value is None else {"playback_offset": {"type": "time_ms", "value": value}}
        self.send("Interrupt", **offset)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.01)):
            self.now += 0.01
            self.received += self.session.tick(Elapsed(self.now, self.now, 0))

    def take(self) -> list[Any]:
        """Return and forget the messages so far."""
        found, self.received = self.received, []
        return found


def kinds(messages: list[Any]) -> list[str]:
    """The types of messages, once for audio in several frames."""
    found: list[str] = []
    for message in messages:
        kind = (
            "audio"
            if isinstance(message, bytes)
            else "close"
            if isinstance(message, Close)
            else message["type"]
        )
        if kind != "audio" or found[-1:] != ["audio"]:
            found.append(kind)
    return found


def heard(messages: list[Any]) -> list[str]:
    audio = b"".join(message for message in messages if isinstance(message, bytes))
    decoder = tones.Decoder(24_000)
    return [word.word for word in [*decoder.feed(audio), *decoder.flush()]]


def of(kind: str, messages: list[Any]) -> list[dict[str, Any]]:
    return [m for m in messages if isinstance(m, dict) and m["type"] == kind]


def codes(messages: list[Any]) -> list[str]:
    return [warning["code"] for warning in of("Warning", messages)]


# ---- the query ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"model": ""}, "INVALID_QUERY_PARAMETER"),
        ({"model": "aura-2-thalia-en"}, "Bad Request"),
        ({"model": "flux-nobody-en"}, "Bad Request"),
        ({"encoding": "mp3"}, "INVALID_QUERY_PARAMETER"),
        ({"sample_rate": "22050"}, "Bad Request"),
        ({"encoding": "mulaw"}, "Bad Request"),
        ({"speed": "0.45"}, "SPEED_OUT_OF_RANGE"),
        ({"speed": "1.01"}, "SPEED_INCREMENT_INVALID"),
        ({"speed": "fast"}, "INVALID_QUERY_PARAMETER"),
        ({"expressivity": "3"}, "EXPRESSIVITY_OUT_OF_RANGE"),
        ({"expressivity": "0.5"}, "EXPRESSIVITY_INCREMENT_INVALID"),
        ({"mip_opt_out": "True"}, "INVALID_QUERY_PARAMETER"),
        ({"container": "none"}, "INVALID_QUERY_PARAMETER"),
        ({"callback": "https://example.com"}, "INVALID_QUERY_PARAMETER"),
    ],
)
def test_bad_queries_are_refused(query: dict[str, Any], code: str) -> None:
    with pytest.raises(Refusal) as refused:
        session(**query)
    assert (refused.value.status, refused.value.body["err_code"]) == (400, code)
    assert refused.value.headers["dg-error"] == refused.value.body["err_msg"]


def test_good_queries() -> None:
    assert session(encoding="", sample_rate="").query.sample_rate == 24_000
    assert session(encoding="alaw", sample_rate="").query.sample_rate == 8000
    query = session(speed="1.15", expressivity="-2", tag=["a", "b"], mip_opt_out="true").query
    assert (query.speed, query.expressivity, query.tags) == (1.15, -2, ("a", "b"))


# ---- strict messages ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        "hello",
        "[]",
        '{"type": 7}',
        '{"type": "Clear"}',
        '{"type": "KeepAlive"}',
        '{"type": "Speak"}',
        '{"type": "Speak", "text": 7}',
        '{"type": "Speak", "text": "a", "speech_id": "b"}',
        '{"type": "Flush", "x": 1}',
        '{"type": "Interrupt", "speech_id": "b"}',
        '{"type": "Interrupt", "playback_offset": null}',
        '{"type": "Interrupt", "playback_offset": {"type": "time_ms", "value": 1.5}}',
        '{"type": "Interrupt", "playback_offset": {"type": "bytes", "value": 1}}',
        '{"type": "Interrupt", "playback_offset": {"value": 1}}',
        '{"type": "Configure", "expressivity": 1}',
        '{"type": "Configure", "speed": "1"}',
    ],
)
def test_anything_unknown_is_fatal(message: str) -> None:
    stream = session()
    error, close = stream.text(message)
    assert isinstance(error, dict)
    assert (error["type"], error["code"], close) == ("Error", "MESSAGE-0000", Close(1008))
    assert stream.text('{"type": "Flush"}') == []


def test_binary_and_large_messages_are_fatal() -> None:
    assert kinds(session().audio(b"\0\0")) == ["Error", "close"]
    error, close = session().text(json.dumps({"type": "Speak", "text": "a" * 2_000_000}))
    assert isinstance(error, dict)
    assert (error["code"], close) == ("BIG-0000", Close(1009))


# ---- turns ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "order"),
    [
        ("before", ["SpeechStarted", "audio", "Flushed", "audio", "SpeechMetadata"]),
        ("in", ["SpeechStarted", "audio", "Flushed", "audio", "SpeechMetadata"]),
        ("after", ["SpeechStarted", "audio", "SpeechMetadata", "Flushed"]),
    ],
)
def test_a_turn(place: str, order: list[str]) -> None:
    client = Client({"flushed": place})
    client.send("Speak", text=TEXT[:20])
    client.send("Speak", text=TEXT[20:])
    client.wait(1)
    assert kinds(client.received) == ["SpeechStarted", "audio"], "a sentence needs no Flush"
    client.send("Flush")
    client.wait(1)
    messages = client.take()
    assert kinds(messages) == order
    assert heard(messages) == tone_words(TEXT)
    (metadata,) = of("SpeechMetadata", messages)
    assert metadata["audio_duration_ms"] == pytest.approx(6000 * SECONDS_PER_WORD, abs=1)
    assert metadata["input_character_count"] == metadata["billable_character_count"] == len(TEXT)
    ids = [m["speech_id"] for m in messages if isinstance(m, dict)]
    assert len(ids) == 3
    assert len(set(ids)) == 1


def test_audio_has_a_pace() -> None:
    client = Client({"speech_pace": 2})
    client.send("Speak", text="able " * 10)
    client.send("Flush")
    client.wait(1)
    sent = sum(len(one) for one in client.received if isinstance(one, bytes)) / 48_000
    assert sent == pytest.approx(2, abs=0.15)


def test_pending_turns_wait_and_each_has_its_own_audio() -> None:
    client = Client()
    for text in ("Able.", "About.", "Above."):
        client.send("Speak", text=text)
        client.send("Flush")
    client.send("Flush")
    assert codes(client.received) == ["NO_ACTIVE_SPEECH"]
    client.wait(2)
    messages = client.take()
    assert kinds([m for m in messages if m not in of("Flushed", messages)]) == [
        "SpeechStarted", "Warning", *["audio", "SpeechMetadata", "SpeechStarted"] * 2,
        "audio", "SpeechMetadata",
    ]  # fmt: skip
    assert heard(messages) == ["able", "about", "above"]
    # A text without an active turn opens one at once.
    client.send("Speak", text="Acorn")
    assert kinds(client.take()) == ["SpeechStarted"]


@pytest.mark.parametrize("text", ["", "  ", "... —"])
def test_a_turn_of_nothing(text: str) -> None:
    client = Client()
    client.send("Speak", text=text)
    client.send("Flush")
    client.wait(0.1)
    messages = client.take()
    assert codes(messages) == ["NO_SYNTHESIZABLE_TEXT"]
    assert of("SpeechMetadata", messages)[0]["audio_duration_ms"] == 0
    assert not heard(messages)


def test_markup_and_controls() -> None:
    client = Client()
    client.send("Speak", text='<speak>Able [laughs]</speak> \\{"word":"about","pronounce":"ə"\\} x')
    client.send("Flush")
    client.wait(1)
    messages = client.take()
    assert codes(messages) == ["INPUT_MARKUP_STRIPPED"]
    assert heard(messages)[:2] == ["able", "about"]
    (metadata,) = of("SpeechMetadata", messages)
    assert metadata["billable_character_count"] == len("Able  about x")
    assert metadata["controls_applied"]["pronunciations_applied"] == 1
    client.send("Speak", text="Able \\{pause:500\\} about.")
    (error,) = of("Error", client.take())
    assert error["code"] == "DATA-0002"
    client = Client(speed="1.1")
    client.send("Speak", text='\\{"word":"a","pronounce":"ə"\\}')
    assert of("Error", client.take())[0]["code"] == "DATA-0002"


# ---- interrupts -----------------------------------------------------------------------------


def test_an_interrupt_splits_the_text_and_rebases_the_clock() -> None:
    client = Client()
    client.send("Speak", text=TEXT)
    client.send("Flush")
    client.wait(0.4)
    client.take()
    played = round(1000 * (2 * SECONDS_PER_WORD + 0.1))
    client.interrupt(played)
    (answer,) = client.take()
    assert answer["type"] == "SpeechInterrupted"
    assert answer["audio_played_ms"] == answer["metadata"]["audio_duration_ms"] == played
    assert (answer["text_spoken"], answer["text_remaining"]) == (TEXT[:10], TEXT[10:])
    assert "speech_id" not in answer
    client.wait(1)
    assert client.take() == [], "no SpeechMetadata"
    # The next turn begins at the offset, although more audio was sent.
    client.send("Speak", text="Album alive alone.")
    client.send("Flush")
    client.wait(0.2)
    client.take()
    client.interrupt(played + round(1000 * SECONDS_PER_WORD))
    (answer,) = client.take()
    assert answer["text_spoken"] == "Album"
    client.send("Close")
    (totals, close) = client.take()
    assert totals["total_audio_duration_ms"] == played + round(1000 * SECONDS_PER_WORD)
    assert totals["total_input_character_count"] == len(TEXT) + len("Album alive alone.")
    assert close == Close(1000)


def test_an_interrupt_without_an_offset_has_no_text() -> None:
    client = Client()
    client.send("Speak", text=TEXT)
    client.wait(0.2)
    sent = sum(len(one) for one in client.take() if isinstance(one, bytes)) / 48
    client.interrupt()
    (answer,) = [m for m in client.take() if isinstance(m, dict)]
    assert answer["audio_played_ms"] == round(sent)
    assert set(answer) == {"type", "audio_played_ms", "metadata"}


def test_interrupts_that_are_ignored() -> None:
    client = Client({"interrupt_seconds": 0.1})
    client.send("Speak", text=TEXT)
    client.interrupt(0)
    assert codes(client.take()) == ["NO_AUDIO_GENERATED"]
    client.send("Flush")
    client.wait(0.1)
    client.interrupt(100)
    client.interrupt(200)
    assert codes(client.take()) == ["INTERRUPT_IN_PROGRESS"]
    client.send("Flush")
    assert codes(client.take()) == ["NO_ACTIVE_SPEECH"], "no turn is active by then"
    client.wait(0.2)
    client.interrupt(200)
    assert codes(client.take()) == ["NO_ACTIVE_SPEECH"]
    client.send("Speak", text=TEXT)
    client.wait(0.1)
    client.interrupt(100)
    assert codes(client.take()) == ["INVALID_INTERRUPT_OFFSET"]
    client.interrupt(101)
    client.wait(0.2)
    assert kinds(client.take())[-1] == "SpeechInterrupted"


def test_a_pending_turn_survives_an_interrupt() -> None:
    client = Client({"interrupt_seconds": 0.05})
    client.send("Speak", text=TEXT)
    client.send("Flush")
    client.send("Speak", text="Album.")
    client.send("Flush")
    client.wait(0.2)
    client.take()
    client.interrupt(100)
    client.wait(1)
    messages = client.take()
    assert kinds(messages)[:2] == ["SpeechInterrupted", "SpeechStarted"]
    assert heard(messages) == ["album"]


# ---- configure, close, limits ---------------------------------------------------------------


def test_configure() -> None:
    client = Client()
    client.send("Configure")
    client.send("Configure", speed=1.15)
    client.send("Configure")
    client.send("Configure", speed=3)
    client.send("Configure", speed=1.01)
    first, second, third, failed, off = client.take()
    assert (first["applied"], second["applied"]) == ({}, {"speed": 1.15})
    assert third["applied"] == {"speed": 1.15}
    assert (failed["code"], failed["field"], failed["value"]) == ("SPEED_OUT_OF_RANGE", "speed", 3)
    assert off["code"] == "SPEED_INCREMENT_INVALID"
    client.send("Configure", speed=1.0)
    client.send("Speak", text="Able about above acorn across. ")
    client.wait(1)
    slow = sum(len(one) for one in client.take() if isinstance(one, bytes))
    client.send("Configure", speed=1.15)
    client.send("Speak", text="Able about above acorn across. ")
    client.wait(1)
    fast = sum(len(one) for one in client.take() if isinstance(one, bytes))
    assert fast == pytest.approx(slow / 1.15, rel=0.01), "from the next segment on"


def test_configure_with_a_pronunciation_in_a_pending_turn() -> None:
    client = Client()
    client.send("Speak", text="Able.")
    client.send("Flush")
    client.send("Speak", text='\\{"word":"about","pronounce":"ə"\\}')
    client.take()
    client.send("Configure", speed=1.2)
    assert client.take()[0]["code"] == "CONTROL_COMBINATION_INVALID"


def test_close_drains_all_turns() -> None:
    client = Client()
    for text in ("Able.", "About.", "Above"):
        client.send("Speak", text=text)
        if text != "Above":
            client.send("Flush")
    client.send("Close")
    client.send("Speak", text="Ignored.")
    client.wait(2)
    messages = client.take()
    assert heard(messages) == ["able", "about", "above"]
    assert kinds(messages)[-3:] == ["SpeechMetadata", "SessionMetadata", "close"]


def test_limits_of_time() -> None:
    idle = session({"inactive_seconds": 1})
    idle.text('{"type": "Speak", "text": "Able."}')
    assert not of("Error", idle.tick(Elapsed(5, 5, 0.1))), "a ping"
    assert not of("Error", idle.tick(Elapsed(5.5, 5.5, 5.5))), "a message"
    (error,) = of("Error", idle.tick(Elapsed(6.1, 6.1, 6.1)))
    assert error["code"] == "NET-0004"
    old = session({"session_seconds": 10})
    assert of("Error", old.tick(Elapsed(10, 0, 0)))[0]["code"] == "NET-0003"


# ---- faults ---------------------------------------------------------------------------------


def test_audio_after_an_interrupt() -> None:
    client = Client({"audio_after_interrupt": 30, "interrupt_seconds": 0.1})
    client.send("Speak", text=TEXT)
    client.wait(0.2)
    client.take()
    client.interrupt(100)
    assert heard(client.received) == ["able", "about"]
    client.wait(0.2)
    assert kinds(client.take()) == ["audio", "SpeechInterrupted"]


def test_answers_to_interrupts_on_demand() -> None:
    client = Client({"interrupt_answers": ("INTERRUPT_IN_PROGRESS", "none", "normal")})
    client.send("Speak", text=TEXT)
    client.wait(0.1)
    client.take()
    client.interrupt(1)
    client.wait(0.1)
    assert kinds(client.take()) == ["Warning", "audio"], "the speech goes on"
    client.interrupt(2)
    client.wait(0.1)
    assert client.take() == []
    client.send("Speak", text=TEXT)
    client.wait(0.1)
    client.interrupt(3)
    assert kinds(client.take())[-1] == "SpeechInterrupted"


def test_synthesis_is_retried_and_fails() -> None:
    client = Client({"synthesis_retries": 2})
    client.send("Speak", text=TEXT)
    client.wait(0.1)
    assert kinds(client.take()) == ["SpeechStarted", "Warning", "Warning", "audio"]
    client = Client({"synthesis_retries": 2, "synthesis_fails": True})
    client.send("Speak", text=TEXT)
    assert kinds(client.received) == ["SpeechStarted", "Warning", "Warning", "Error", "close"]
    assert of("Error", client.take())[0]["code"] == "NET-0000"


def test_errors_and_frames_on_demand() -> None:
    client = Client({"error_code": "NET-0001", "error_after_seconds": 0.5, "odd_frames": True})
    client.send("Speak", text=TEXT)
    client.wait(1)
    messages = client.take()
    assert any(len(one) % 2 for one in messages if isinstance(one, bytes))
    assert kinds(messages)[-2:] == ["Error", "close"]
    assert messages[-1] == Close(1011)
