"""The engine speaks what it is told, says when, and takes any text."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.searching import examples
from worker.voices.hibari import model
from worker.voices.hibari.engine import SAMPLE_RATE, Engine, Spoken
from worker.voices.hibari.text import pieces

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def voice_engine(engine: None) -> Engine:
    return Engine(model.find())


def speak(engine: Engine, phrase: str, speed: float = 1.0) -> list[Spoken]:
    return [engine.speak(piece, speed) for piece in pieces(phrase)]


def seconds(spoken: Spoken) -> float:
    return len(spoken.audio) / 2 / SAMPLE_RATE


def test_the_same_text_is_the_same_audio(voice_engine: Engine) -> None:
    first, again = (speak(voice_engine, "It was the best of times.") for _ in range(2))
    assert first == again
    assert 1 < seconds(first[0]) < 4
    assert np.abs(np.frombuffer(first[0].audio, "<i2")).max() > 3000


@pytest.mark.process
def test_nothing_about_its_use_is_collected(engine: None, tmp_path: Path) -> None:
    """onnxruntime would leave the number of a session there, for the events that it sends."""
    code = (
        "from worker.voices.hibari import model; from worker.voices.hibari.engine import Engine; "
        "from worker.voices.hibari.text import pieces; engine = Engine(model.find()); "
        "[engine.speak(piece, 1) for piece in pieces('Good morning.')]"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)
    assert list(tmp_path.rglob("*")) == []


def test_a_faster_pace_is_shorter(voice_engine: Engine) -> None:
    [plain] = speak(voice_engine, "It was the best of times.")
    [fast] = speak(voice_engine, "It was the best of times.", speed=1.5)
    assert 0.55 < seconds(fast) / seconds(plain) < 0.8


def test_words_have_times(voice_engine: Engine) -> None:
    phrase = "One two, three \u2014 four (five) six."
    [spoken] = speak(voice_engine, phrase)
    assert [phrase[word.character :][:3] for word in spoken.words] == [
        "One", "two", "thr", "fou", "(fi", "six",
    ]  # fmt: skip
    times = [word.seconds for word in spoken.words]
    assert times == sorted(set(times))
    assert 0 <= times[0] < 0.5
    assert times[-1] < seconds(spoken)


@pytest.mark.parametrize("phrase", ["Oh, so.", "We sing.", "The sea."])
def test_a_word_begins_where_its_sound_does(voice_engine: Engine, phrase: str) -> None:
    """The hiss of the `s` is what is loudest in high frequencies."""
    [spoken] = speak(voice_engine, phrase)
    samples = np.frombuffer(spoken.audio, "<i2").astype(np.float64)
    high = np.abs(np.diff(samples, 2))
    window = SAMPLE_RATE // 50
    levels = high[: len(high) // window * window].reshape(-1, window).mean(axis=1)
    hiss = np.flatnonzero(levels > levels.max() / 2)[0] / 50
    assert abs(spoken.words[1].seconds - hiss) < 0.1


def test_numbers_and_dates_are_read_as_words(voice_engine: Engine) -> None:
    phrase = "Call 555-0199 before 9:30am on 10/12/2026, and pay $3.50 then."
    [spoken] = speak(voice_engine, phrase)
    marked = {phrase[word.character :].split()[0] for word in spoken.words}
    assert {"Call", "before", "9:30am", "on", "and", "pay", "then."} <= marked
    assert [w.seconds for w in spoken.words] == sorted(w.seconds for w in spoken.words)


@pytest.mark.parametrize("phrase", ["", " \n", "\U0001f600", "\ud800", "...", "\u4f60\u597d"])
def test_nothing_to_speak_is_no_audio(voice_engine: Engine, phrase: str) -> None:
    assert not any(spoken.audio for spoken in speak(voice_engine, phrase))


@examples(60)
@given(
    st.one_of(
        st.text(st.characters(codec=None), max_size=80),
        st.text(
            "abAB19.,:;/-'\"$%&@#()[]<>=+*^~|\\_{}\u00b0\u20ac\u00a3\u00bd\u00b2 ", max_size=80
        ),
    )
)
@example("(" * 40 + " " + "." * 40 + " " + "'" * 40)
@example("9" * 40 + " " + "1," * 20 + " 1/0 0/0 99:99 2026-99-99 $9e9 \u00b2\u00b3 \u0663")
@example("<speak><break time='1s'/>hi</speak> &amp; {{x}} %s %n \\x00 ${PATH}")
def test_any_text_is_spoken(voice_engine: Engine, phrase: str) -> None:
    for spoken in speak(voice_engine, phrase):
        assert len(spoken.audio) % 2 == 0
        assert all(0 <= word.seconds <= seconds(spoken) for word in spoken.words)


@pytest.mark.parametrize("character", ["x", "(", ".", "'", "1", "-", "\u00df", "A"])
def test_a_long_word_takes_no_longer_than_a_piece(voice_engine: Engine, character: str) -> None:
    used = time.thread_time()
    first = next(pieces(character * 2000))
    voice_engine.speak(first, 1.0)
    assert time.thread_time() - used < 10
