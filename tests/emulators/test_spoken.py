"""The speech of emulated voices has the words of its text, at any rate and in any frames."""

from __future__ import annotations

import pytest

from natterjack.audio import Encoding
from natterjack.emulators import tones
from natterjack.emulators.session import Outgoing
from natterjack.emulators.spoken import (
    SECONDS_PER_WORD,
    Playout,
    places,
    sentences,
    synthesize,
    tone_word,
    tone_words,
)
from natterjack.emulators.vocabulary import VOCABULARY

TEXT = "“Animal” answers apple: Natterjack's toad — above, about … and able."


def heard(audio: bytes, rate: int = 24_000, encoding: Encoding = "linear16") -> list[str]:
    decoder = tones.Decoder(rate, encoding)
    return [word.word for word in [*decoder.feed(audio), *decoder.flush()]]


def test_a_word_of_the_vocabulary_is_itself_and_others_are_always_the_same() -> None:
    assert tone_word("“Animal,”") == "animal"
    assert tone_word("Natterjack") == tone_word("natterjack.") == "crowd"
    assert {tone_word(f"word{n}") for n in range(100)} <= set(VOCABULARY)
    assert tone_words(" — … !") == []
    assert len(tone_words(TEXT)) == 9
    assert tone_words(TEXT)[-1] == "able"


@pytest.mark.parametrize(
    ("encoding", "rate"),
    [("linear16", 8000), ("linear16", 24_000), ("linear16", 44_100), ("linear16", 48_000),
     ("mulaw", 8000), ("alaw", 16_000)],
)  # fmt: skip
def test_every_word_is_heard(encoding: Encoding, rate: int) -> None:
    audio = synthesize(TEXT, rate, encoding)
    assert heard(audio, rate, encoding) == tone_words(TEXT)
    assert heard(audio + audio, rate, encoding) == tone_words(TEXT) * 2


def test_places_are_those_of_the_text_and_of_the_audio() -> None:
    found = places(TEXT)
    assert [TEXT[place.character :].split()[0] for place in found[:3]] == [
        "“Animal”", "answers", "apple:",
    ]  # fmt: skip
    decoded = tones.Decoder(24_000).feed(synthesize(TEXT))
    for place, word in zip(found, decoded, strict=True):
        assert word.word == place.word
        assert word.start == pytest.approx(place.start, abs=0.01)
        assert word.end == pytest.approx(place.end, abs=0.01)


def test_speech_is_faster_with_shorter_gaps() -> None:
    audio = synthesize(TEXT, gap_seconds=0.03)
    assert heard(audio) == tone_words(TEXT)
    assert len(audio) / 48_000 == pytest.approx(9 * 0.27)
    assert places(TEXT, 0.03)[8].start == pytest.approx(8 * 0.27)
    playout = Playout(24_000, "linear16", pace=1)
    playout.speak("able about", 0.03)
    sent: list[bytes | Outgoing] = []
    while not playout.idle:
        sent += playout.due(playout.seconds + 0.1)
    assert b"".join(frames(sent)) == synthesize("able about", gap_seconds=0.03)
    assert playout.words[-1].start == pytest.approx(0.27)


def test_sentences() -> None:
    assert sentences("One. Two") == ("One. ", "Two")
    assert sentences("One.") == ("", "One.")
    assert sentences('“One!” she said. "Two?" ') == ('“One!” she said. "Two?" ', "")


def frames(sent: list[bytes | Outgoing]) -> list[bytes]:
    return [one for one in sent if isinstance(one, bytes)]


@pytest.mark.parametrize("odd", [False, True])
def test_a_playout_keeps_its_pace_and_its_order(odd: bool) -> None:
    playout = Playout(24_000, "linear16", pace=4, odd=odd)
    assert playout.due(0) == []
    playout.speak("able about above")
    playout.add({"type": "Flushed"})
    playout.speak("acorn")
    assert not playout.idle
    sent: list[bytes | Outgoing] = []
    for tick in range(40):
        sent += playout.due(10 + tick / 100)
        ahead = playout.seconds - 4 * tick / 100
        assert ahead <= 0.1 or playout.idle, "no more than a frame ahead of the pace"
        assert ahead >= 0 or playout.idle, "no less than the pace"
    assert playout.idle
    assert b"".join(frames(sent)) == synthesize("able about above acorn")
    assert any(len(frame) % 2 for frame in frames(sent)) == odd
    at = sent.index({"type": "Flushed"})
    assert heard(b"".join(frames(sent[:at]))) == ["able", "about", "above"]
    assert [word.word for word in playout.words] == ["able", "about", "above", "acorn"]
    assert playout.words[-1].start == pytest.approx(3 * SECONDS_PER_WORD)


def test_a_cleared_playout_begins_anew() -> None:
    playout = Playout(24_000, "linear16", pace=1)
    playout.speak("able about above")
    playout.add({"type": "Flushed"})
    sent, now = 0, 0.0
    while not playout.mid_word or not playout.words:
        now += 0.01
        sent += len(b"".join(frames(playout.due(now))))
    assert [word.word for word in playout.words] == ["able"]
    playout.clear()
    assert playout.idle
    assert not playout.mid_word
    playout.speak("acorn")
    rest = playout.due(now + 60)
    while not playout.idle:
        rest += playout.due(now + 120)
    assert heard(b"".join(frames(rest))) == ["acorn"]
    assert playout.words[-1].start == pytest.approx(sent / 48_000)


def test_a_text_without_words_has_no_audio() -> None:
    playout = Playout(24_000, "linear16", pace=1)
    playout.speak(" ... ")
    assert playout.idle
    assert synthesize(" ... ") == b""
