"""The Flux emulator: accepted queries, turns, and injected faults."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natterjack.emulators import tones
from natterjack.emulators.deepgram.flux import FluxFaults, FluxSession
from natterjack.emulators.deepgram.flux_query import parse
from natterjack.emulators.session import Close, Elapsed, Refusal

BASE = {"model": "flux-general-en", "encoding": "linear16", "sample_rate": "16000"}
WORDS = tones.sequence(9)
AUDIO = tones.encode(WORDS, phrase_words=3, lead_seconds=0.4, tail_seconds=1)


def session(faults: dict[str, Any] | None = None, /, **query: str | list[str]) -> FluxSession:
    given = {name: value for name, value in {**BASE, **query}.items() if value != ""}
    listed = {name: [value] if isinstance(value, str) else value for name, value in given.items()}
    return FluxSession(parse(listed), FluxFaults(**(faults or {})))


def feed(stream: FluxSession, audio: bytes, chunk: int = 2560) -> list[Any]:
    return [m for at in range(0, len(audio), chunk) for m in stream.audio(audio[at : at + chunk])]


def ask(stream: FluxSession, kind: str, **fields: Any) -> list[Any]:
    return stream.text(json.dumps({"type": kind, **fields}))


def infos(messages: list[Any]) -> list[dict[str, Any]]:
    return [m for m in messages if isinstance(m, dict) and m["type"] == "TurnInfo"]


def events(messages: list[Any]) -> list[str]:
    return [info["event"] for info in infos(messages) if info["event"] != "Update"]


def ends(messages: list[Any]) -> list[dict[str, Any]]:
    return [info for info in infos(messages) if info["event"] == "EndOfTurn"]


# ---- the query ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        {"model": ""},
        {"model": "nova-3"},
        {"encoding": "mp3"},
        {"sample_rate": ""},
        {"sample_rate": "22050"},
        {"sample_rate": "fast"},
        {"eot_threshold": "0.4"},
        {"eot_threshold": "high"},
        {"eager_eot_threshold": "0.8"},
        {"eager_eot_threshold": "0.2"},
        {"eot_timeout_ms": "100"},
        {"keyterm": "a,b"},
        {"keyterm": ["a"] * 101},
        {"keyterm": "toad " * 501},
        {"language_hint": "de"},
        {"language_hint": ["", ""]},
        {"model": "flux-general-multi", "language_hint": "xx"},
        {"numerals": "True"},
        {"redact": "pci"},
    ],
)
def test_bad_queries_are_refused(query: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        session(**query)
    assert refused.value.status == 400
    assert refused.value.headers["dg-error"] == refused.value.body["err_msg"]


def test_unknown_parameters_are_ignored() -> None:
    session(channels="2", whatever="1")


# ---- turns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [2, 640, 2560, 10**6])
@pytest.mark.parametrize("eager", ["", "0.4"])
def test_the_guarantees_of_the_state_machine(chunk: int, eager: str) -> None:
    stream = session(eager_eot_threshold=eager, eot_threshold="0.8")
    audio = AUDIO if chunk > 2 else AUDIO[: 32000 * 3]
    messages = [*stream.greeting(), *feed(stream, audio, chunk)]
    assert [m["sequence_id"] for m in messages] == list(range(len(messages)))
    turns = infos(messages)
    # 1: one message per 0.25 s of transcribed audio, also before any speech.
    assert [m["audio_window_end"] for m in turns] == [n / 4 for n in range(1, len(turns) + 1)]
    assert turns[0]["transcript"] == ""
    index, state, before = 0, "READY", None
    for turn in turns:
        event = turn["event"]
        assert turn["turn_index"] == index
        # 2: these events have text.
        if event in ("StartOfTurn", "EagerEndOfTurn", "EndOfTurn"):
            assert turn["transcript"]
        expected = {
            "StartOfTurn": ("READY",),
            "EagerEndOfTurn": ("SPEAKING",),
            "TurnResumed": ("PENDING",),  # 3
            "EndOfTurn": ("PENDING",) if eager else ("SPEAKING",),
            "Update": ("READY", "SPEAKING", "PENDING"),
        }
        assert state in expected[event], (turn, state)
        if event == "EndOfTurn" and eager:
            assert before is not None
            assert turn["transcript"] == before["transcript"]  # 4
        state = {
            "StartOfTurn": "SPEAKING",
            "TurnResumed": "SPEAKING",
            "EagerEndOfTurn": "PENDING",
            "EndOfTurn": "READY",
        }.get(event, state)
        index += event == "EndOfTurn"  # 5
        assert ("trigger" in turn) == (event == "EndOfTurn")
        before = turn if event != "Update" else before
    # 6: these events exist only in eager mode.
    assert {"EagerEndOfTurn", "TurnResumed"} & {t["event"] for t in turns} <= (
        {"EagerEndOfTurn", "TurnResumed"} if eager else set()
    )
    if chunk > 2:
        assert [tones.words_of(end["transcript"]) for end in ends(messages)] == [
            WORDS[at : at + 3] for at in (0, 3, 6)
        ]
        assert ends(messages)[0]["words"][0] == {
            "word": "Able",
            "confidence": 0.99,
            "start": pytest.approx(0.4, abs=0.01),
            "end": pytest.approx(0.64, abs=0.01),
        }


def test_a_resumed_turn() -> None:
    audio = tones.encode(WORDS[:6], phrase_words=3, pause_seconds=0.5, tail_seconds=1.5)
    messages = feed(session(eager_eot_threshold="0.4", eot_threshold="0.9"), audio)
    assert events(messages) == [
        *("StartOfTurn", "EagerEndOfTurn", "TurnResumed", "EagerEndOfTurn", "EndOfTurn")
    ]
    texts = {m["event"]: m["transcript"] for m in infos(messages)}
    assert texts["EndOfTurn"].endswith("across actor.")


def test_the_timeout_runs_on_audio() -> None:
    stream = session(eot_threshold="1.0", eot_timeout_ms="2000")
    messages = feed(stream, tones.encode(WORDS[:3], tail_seconds=1.9))
    assert events(messages) == ["StartOfTurn"]
    (end,) = ends(feed(stream, tones.silence(0.5)))
    assert end["trigger"] == "timeout"


def test_languages_of_the_multilingual_model() -> None:
    stream = session(model="flux-general-multi", language_hint=["en", "de"])
    messages = infos(feed(stream, AUDIO))
    assert all(m["languages_hinted"] == ["en", "de"] for m in messages)
    assert all(("languages" in m) == bool(m["words"]) for m in messages)


# ---- client messages ------------------------------------------------------------------------


def test_force_end_turn() -> None:
    """The table in the vendor's documentation."""
    stream = session()
    (warning,) = ask(stream, "ForceEndTurn")
    assert (warning["type"], warning["code"]) == ("Warning", "FORCE_END_TURN_NO_ACTIVE_TURN")
    feed(stream, tones.encode(WORDS[:3], tail_seconds=0.2))
    (end,) = ask(stream, "ForceEndTurn")
    assert (end["event"], end["trigger"], end["turn_index"]) == ("EndOfTurn", "manual", 0)
    assert tones.words_of(end["transcript"]) == WORDS[:3]
    (warning,) = ask(stream, "ForceEndTurn")
    assert warning["type"] == "Warning"
    assert infos(feed(stream, tones.silence(0.3)))[0]["turn_index"] == 1
    ask(stream, "CloseStream")
    assert ask(stream, "ForceEndTurn") == []


def test_force_end_turn_while_an_eager_end_is_pending() -> None:
    stream = session(eager_eot_threshold="0.4", eot_threshold="0.9")
    messages = feed(stream, tones.encode(WORDS[:3], tail_seconds=0.5))
    assert events(messages) == ["StartOfTurn", "EagerEndOfTurn"]
    (end,) = ask(stream, "ForceEndTurn")
    assert end["transcript"] == infos(messages)[-1]["transcript"]


def test_force_end_turn_leaves_undecoded_audio_to_the_next_turn() -> None:
    stream = session({"decode_lag_seconds": 0.6})
    feed(stream, tones.encode(WORDS[:4]))
    (end,) = ask(stream, "ForceEndTurn")
    assert tones.words_of(end["transcript"]) == WORDS[:2]
    (later,) = ends(feed(stream, tones.silence(2)))
    assert tones.words_of(later["transcript"]) == WORDS[2:4]
    assert later["turn_index"] == 1


def test_close_stream_ends_no_turn() -> None:
    stream = session({"decode_lag_seconds": 0.6})
    feed(stream, tones.encode(WORDS[:4], tail_seconds=0))
    *messages, close = ask(stream, "CloseStream")
    assert close == Close(None)
    assert {m["event"] for m in messages} == {"Update"}
    assert tones.words_of(messages[-1]["transcript"]) == WORDS[:4]
    assert messages[-1]["audio_window_end"] == pytest.approx(4 * 0.32 - 0.08)
    assert feed(stream, AUDIO) == []
    assert ask(stream, "CloseStream") == []


def test_close_stream_of_older_servers() -> None:
    stream = session({"legacy_close": True})
    feed(stream, tones.encode(WORDS[:4], tail_seconds=0))
    assert events(ask(stream, "CloseStream")) == ["EndOfTurn"]


@pytest.mark.parametrize(
    "message",
    [
        '{"type": "KeepAlive"}',
        '{"type": "Finalize"}',
        '{"type": "Terminate"}',
        "} no JSON",
        "[]",
        '{"type": "Configure", "keyterm": ["a"]}',
        '{"type": "Configure", "thresholds": {"eot": 1}}',
        '{"type": "Configure", "thresholds": {"eot_threshold": "high"}}',
        '{"type": "Configure", "keyterms": [1]}',
        '{"type": "Configure", "numerals": "true"}',
    ],
)
def test_unparsable_messages_are_fatal(message: str) -> None:
    stream = session()
    error, close = stream.text(message)
    assert isinstance(error, dict)
    assert (error["type"], error["code"]) == ("Error", "UNPARSABLE_CLIENT_MESSAGE")
    assert error["description"].startswith("Text message received from client did not match any")
    assert isinstance(close, Close)
    assert feed(stream, AUDIO) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"thresholds": {"eager_eot_threshold": 0.8}}, "less than or equal"),
        ({"thresholds": {"eot_threshold": 1.2}}, "between 0.5 and 1.0"),
        ({"thresholds": {"eot_timeout_ms": 99}}, "between 500 and 60000"),
        ({"keyterms": ["a"] * 101}, "limit"),
        ({"language_hints": ["de"]}, "flux-general-multi"),
    ],
)
def test_a_configure_that_fails_changes_nothing(changes: dict[str, Any], text: str) -> None:
    stream = session()
    before = stream.config
    (answer,) = ask(stream, "Configure", numerals=True, **changes)
    assert answer["type"] == "ConfigureFailure"
    assert text in answer["description"]
    assert stream.config == before
    assert len(ends(feed(stream, AUDIO))) == 3


def test_configure_keeps_absent_fields_and_clears_empty_ones() -> None:
    stream = session(model="flux-general-multi", keyterm=["a"], language_hint=["de"])
    (answer,) = ask(stream, "Configure", thresholds={"eot_threshold": "0.9"}, language_hints=None)
    assert answer["thresholds"] == {"eot_threshold": 0.9, "eot_timeout_ms": 5000}
    assert (answer["keyterms"], answer["language_hints"]) == (["a"], ["de"])
    (answer,) = ask(stream, "Configure", keyterms=[], language_hints=[])
    assert (answer["keyterms"], answer["language_hints"]) == ([], [])
    assert answer["thresholds"]["eot_threshold"] == 0.9


# ---- faults ---------------------------------------------------------------------------------


def test_inactivity() -> None:
    stream = session({"inactive_seconds": 10})
    assert stream.tick(Elapsed(20, 20, 9)) == []
    ask(stream, "Configure")
    assert stream.tick(Elapsed(21, 21, 11)) == [], "a text message resets the timer"
    assert stream.tick(Elapsed(30, 30, 20)) == []
    error, close = stream.tick(Elapsed(31.5, 31.5, 22))
    assert isinstance(error, dict)
    assert error["code"] == "INACTIVE_CLIENT"
    assert isinstance(close, Close)
    assert stream.tick(Elapsed(99, 99, 99)) == []


def test_message_faults() -> None:
    gap = feed(session({"sequence_gap_after": 4}), AUDIO)
    assert [m["sequence_id"] for m in gap][:6] == [0, 1, 2, 3, 5, 6]
    assert not ends(feed(session({"lost_end_of_turn": True}), AUDIO))
    assert "StartOfTurn" not in events(feed(session({"missing_start": True}), AUDIO))
    assert "Musing" in events(feed(session({"unknown_events": True}), AUDIO))
    trigger = ends(feed(session({"unknown_trigger": True}), AUDIO))
    assert {end["trigger"] for end in trigger} == {"moon"}
    no_times = infos(feed(session({"words_without_times": "end_of_turn"}), AUDIO))
    for info in no_times:
        assert all(("start" in word) == (info["event"] != "EndOfTurn") for word in info["words"])
    assert not [m for m in infos(feed(session({"no_words": True}), AUDIO)) if m["words"]]


def test_contradicting_words() -> None:
    stream = session({"contradict_after_seconds": 1.0}, eot_threshold="1.0")
    last = infos(feed(stream, tones.encode(WORDS, tail_seconds=0.5)))[-1]
    assert last["transcript"].startswith("elbA tuoba ")
    assert last["transcript"].endswith(" after again agree")


def test_mute_within_a_turn() -> None:
    stream = session({"mute_in_turn_words": 2})
    messages = infos(feed(stream, AUDIO))
    assert messages[-1]["turn_index"] == 0
    assert len(messages[-1]["words"]) <= 2
    stream.faults = FluxFaults()
    assert not feed(stream, AUDIO), "a mute connection stays mute"


def test_injected_turn_resumed() -> None:
    stream = session({"resume_after_eager": True}, eager_eot_threshold="0.4")
    audio = tones.encode(WORDS, phrase_words=3, pause_seconds=1.5)
    assert events(feed(stream, audio))[:5] == [
        *("StartOfTurn", "EagerEndOfTurn", "TurnResumed", "EagerEndOfTurn", "EndOfTurn")
    ]


def test_configure_faults() -> None:
    assert ask(session({"configure_answer": "none"}), "Configure") == []
    (bare,) = ask(session({"configure_answer": "bare"}), "Configure")
    assert not {"request_id", "sequence_id"} & set(bare)
    (failure,) = ask(session({"configure_answer": "failure"}), "Configure")
    assert failure["type"] == "ConfigureFailure"
    stream = session({"configure_delay_seconds": 1})
    assert ask(stream, "Configure", numerals=True) == []
    (second,) = ask(stream, "Configure")
    assert second["code"] == "CONFIGURE_ALREADY_PENDING"
    answers = [m for m in feed(stream, tones.silence(1.5)) if m["type"] != "TurnInfo"]
    assert [answer["type"] for answer in answers] == ["ConfigureSuccess"]


def test_injected_errors() -> None:
    stream = session({"error_after_seconds": 1.0, "error_code": "MOON"})
    *_, error, close = feed(stream, AUDIO)
    assert error["code"] == "MOON"
    assert isinstance(close, Close)


def test_undecodable_audio() -> None:
    stream = session(encoding="opus", sample_rate="")
    (close,) = stream.audio(b"OggS")
    assert isinstance(close, Close)
    assert close.code == 1008
