"""Events from texts, and their positions in the audio. No loop, no socket.

`Proxy` sends the texts of a proxy without times, some seconds late.
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import soundfile
import soxr
from pydantic import SecretStr

from natterjack.emulators import pcm, tones
from natterjack.emulators.managed import ManagedFaults, ManagedSession
from natterjack.local.demo import bundled_recording
from natterjack.plugin.provider import Final, Interim, Notice, ProviderEvent, Usage
from worker.providers.managed import protocol
from worker.providers.managed.pauses import Pace
from worker.providers.managed.protocol import (
    CreditsLow,
    Error,
    Ready,
    SessionEnd,
    Transcript,
    Unknown,
)
from worker.providers.managed.transcript import Texts

FRAME = 2048


def texts(hold: float = 10, quiet: float = 30) -> Texts:
    return Texts(hold_seconds=hold, quiet_seconds=quiet)


def final(text: str) -> Transcript:
    return Transcript(text, True)


def finals(events: list[ProviderEvent]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


def final_words(events: list[ProviderEvent]) -> list[str]:
    return [word for event in finals(events) for word in tones.words_of(event.text)]


class Proxy:
    """Sends audio through an emulated session, whose texts arrive `late` seconds later."""

    def __init__(self, listener: Texts, late: float, **switches: object) -> None:
        self._texts = listener
        self._late = late
        self._session = ManagedSession(ManagedFaults.model_validate(switches), None)
        auth = protocol.Auth(SecretStr("t"))
        self._session.text(protocol.encode_client(auth))
        self._due: list[tuple[float, protocol.ServerMessage]] = []
        self.events: list[ProviderEvent] = []

    def play(self, audio: bytes) -> None:
        for at in range(0, len(audio), FRAME):
            frame = audio[at : at + FRAME]
            self._texts.add_audio(frame)
            for message in self._session.audio(frame):
                assert isinstance(message, dict)
                decoded = protocol.decode_server(json.dumps(message))
                self._due.append((self._session.seconds + self._late, decoded))
            while self._due and self._due[0][0] <= self._session.seconds:
                self.events += self._texts.receive(self._due.pop(0)[1])
            self.events += self._texts.due()

    def finish(self) -> list[ProviderEvent]:
        self._texts.finish()
        while self._due:
            self.events += self._texts.receive(self._due.pop(0)[1])
        self.events += self._texts.due()
        self.events += self._texts.end()
        return self.events


def audit(events: list[ProviderEvent], words: list[str], places: list[tones.TimedWord]) -> int:
    """Check that every word appears once, and return how many finals end inside a word: a worker
    that resumes there would lose or repeat one."""
    assert final_words(events) == words
    assert all(b.start >= a.end for a, b in itertools.pairwise(finals(events)))
    wrong = count = 0
    for event in finals(events):
        count += len(tones.words_of(event.text))
        before = places[count - 1].end if count else 0.0
        after = places[count].start if count < len(places) else 1e9
        wrong += bool(event.text) and not before - 0.02 <= event.end <= after + 0.02
    return wrong


# ---- without times --------------------------------------------------------------------------


@pytest.mark.parametrize("late", [0.0, 0.5, 1.5, 3.0])
@pytest.mark.parametrize(
    ("phrase", "pause"), [(n, pause) for n in (3, 8, 11) for pause in (0.5, 0.8, 2.0)] + [(1, 2.0)]
)
def test_phrases_end_in_their_pauses(phrase: int, pause: float, late: float) -> None:
    """The pause is found from the length and the latency of the text, however late it is. (Single
    words with short pauses between them cannot be distinguished.)"""
    words = tones.sequence(phrase * 6)
    how: dict[str, float] = {"pause_seconds": pause, "lead_seconds": 0.5}
    audio = tones.encode(words, phrase_words=phrase, tail_seconds=2, **how)  # type: ignore[arg-type]
    proxy = Proxy(texts(), late)
    proxy.play(audio)
    places = tones.places(words, phrase_words=phrase, **how)
    assert audit(proxy.finish(), words, places) == 0


@pytest.mark.parametrize("late", [0.0, 1.0])
def test_long_phrases_arrive_in_parts(late: float) -> None:
    """The upstream sends finals within a phrase; they stay interims until its end."""
    words = tones.sequence(83)
    first = tones.encode(words[:8], tail_seconds=1.6)
    audio = first + tones.encode(words[8:], phrase_words=25, tail_seconds=2)
    proxy = Proxy(texts(), late)
    proxy.play(audio)
    events = proxy.finish()
    places = tones.places(words[:8])
    places += tones.places(words[8:], phrase_words=25, lead_seconds=len(first) / 32000)
    assert audit(events, words, places) == 0
    spoken = [event for event in finals(events) if event.text]
    assert [len(tones.words_of(event.text)) for event in spoken] == [8, 25, 25, 25]
    shown = [event for event in events if isinstance(event, Interim)]
    assert max(len(event.text.split()) for event in shown) >= 20
    assert all(event.times_estimated for event in shown)
    assert all(event.times_estimated for event in spoken)


def test_speech_without_pauses_becomes_final() -> None:
    words = tones.sequence(120)
    audio = tones.encode(words, tail_seconds=1)
    proxy = Proxy(texts(hold=6), 0.3)
    proxy.play(audio)
    held = len([event for event in finals(proxy.events) if event.text])
    assert held >= 3
    assert all(b.end - a.end < 12 for a, b in itertools.pairwise(finals(proxy.events)))
    # The position is then an estimate between words, too early rather than too late.
    proxy.finish()
    assert final_words(proxy.events) == words
    count = 0
    for event in finals(proxy.events)[:held]:
        count += len(tones.words_of(event.text))
        spoken = sum(place.end < event.end for place in tones.places(words))
        assert -6 <= spoken - count <= 0, (spoken, count)
    ends = [event.end for event in finals(proxy.events)[:-1]]
    inside = [p for p in tones.places(words) for end in ends if p.start + 0.02 < end < p.end - 0.02]
    assert not inside


def test_words_have_estimated_times() -> None:
    words = tones.sequence(8)
    proxy = Proxy(texts(), 0.2)
    proxy.play(tones.encode(words, lead_seconds=1, tail_seconds=1))
    (event,) = [event for event in finals(proxy.finish()) if event.text]
    for word, place in zip(event.words, tones.places(words, lead_seconds=1), strict=True):
        assert word.start == pytest.approx(place.start, abs=0.5)
        assert word.confidence is None
    assert event.confidence is None


def test_silence_becomes_final_once_no_text_can_arrive() -> None:
    proxy = Proxy(texts(), 0.2)
    proxy.play(tones.silence(30))
    moved = finals(proxy.events)
    assert moved[-1].end == pytest.approx(25, abs=2.1)
    assert not [event for event in moved if event.text]
    assert finals(proxy.finish())[-1].end == 30


def noise(seconds: float) -> bytes:
    return pcm.to_linear16(np.random.default_rng(5).normal(0, 0.1, round(16000 * seconds)))


def test_speech_without_a_text_is_not_skipped() -> None:
    """It may be speech whose text is late; only the stream knows whether its audio was sent
    twice."""
    listener = texts(quiet=20)
    proxy = Proxy(listener, 0.2)
    proxy.play(tones.silence(10) + noise(90))
    assert finals(proxy.events)[-1].end <= 10
    assert listener.waiting_seconds == pytest.approx(90, abs=0.3)
    (event,) = finals(listener.skip(60))
    assert (event.text, event.end) == ("", 60)
    assert listener.waiting_seconds == pytest.approx(40, abs=0.3)


def test_speech_after_the_last_text_needs_a_text() -> None:
    """The upstream is gone: texts arrive later, or are lost if the proxy dies."""
    words = tones.sequence(8)
    listener = texts()
    listener.add_audio(tones.encode(words, tail_seconds=1))
    (event,) = finals(listener.receive(final(" ".join(words))))
    listener.add_audio(tones.silence(60))
    assert listener.waiting_seconds == 0
    frontier = finals(listener.due())[-1].end
    assert frontier > event.end
    listener.add_audio(tones.encode(tones.sequence(120), phrase_words=6))
    assert finals(listener.due())[-1].end <= listener.sent
    start = listener.frontier
    for _ in range(10):
        listener.add_audio(tones.silence(10))
        assert listener.due() == []
    assert listener.frontier == start
    assert listener.waiting_seconds > 100


def test_a_click_is_not_speech() -> None:
    listener = texts(quiet=10)
    listener.add_audio(tones.silence(3) + noise(0.03) + tones.silence(30))
    assert listener.waiting_seconds == 0
    assert finals(listener.due())[-1].end > 20


def test_speech_after_a_pending_text_is_unanswered() -> None:
    words = tones.sequence(16)
    listener = texts()
    listener.add_audio(tones.encode(words, phrase_words=8, pause_seconds=1, tail_seconds=0.5))
    listener.finish()
    listener.receive(final(" ".join(words[:8])))
    assert not listener.settled
    listener.receive(final(" ".join(words[8:])))
    assert listener.settled


def test_the_first_part_of_a_long_text_leaves_the_rest_unanswered() -> None:
    words = tones.sequence(16)
    listener = texts()
    listener.add_audio(tones.encode(words, phrase_words=8, pause_seconds=1, tail_seconds=0.5))
    listener.finish()
    listener.receive(Transcript(" ".join(words[:8])))
    assert not listener.answered
    listener.receive(Transcript(" ".join(words)))
    assert listener.answered
    assert not listener.settled, "it may still change"


def test_an_interim_that_never_becomes_final() -> None:
    listener = texts(quiet=10)
    listener.add_audio(tones.silence(3))
    listener.receive(Transcript("what was that"))
    listener.add_audio(tones.silence(8))
    assert listener.due() == []
    listener.add_audio(tones.silence(8))
    (event,) = listener.due()
    assert isinstance(event, Final)
    assert event.text == ""


def test_blank_texts() -> None:
    listener = texts()
    listener.add_audio(tones.silence(10))
    assert listener.receive(Transcript(" ")) == []
    assert listener.receive(Transcript("uh")) == [Interim("uh", 0.0, 10.0, times_estimated=True)]
    # A blank final withdraws the interim.
    assert finals(listener.receive(final("")))[0].text == ""


def test_pending_texts_become_final_at_the_end() -> None:
    listener = texts()
    listener.add_audio(tones.encode(tones.sequence(4), tail_seconds=0))
    assert finals(listener.receive(final("able about above"))) == []
    listener.receive(Transcript("acorn"))
    (event,) = listener.end()
    assert isinstance(event, Final)
    assert event.text == "able about above acorn"
    assert event.end == pytest.approx(1.2, abs=0.1)
    assert listener.end() == []


def test_a_final_shorter_than_its_interim_is_continued() -> None:
    words = tones.sequence(4)
    audio = tones.encode(words, gap_seconds=0.1, tail_seconds=0.5)
    listener = texts()
    listener.add_audio(audio)
    listener.receive(Transcript(" ".join(words)))
    assert finals(listener.receive(final(words[0]))) == []
    (event,) = finals(listener.receive(final(" ".join(words[1:]))))
    assert tones.words_of(event.text) == words


READ = (
    (8.51, 109), (10.62, 27), (13.12, 32), (17.02, 54), (20.80, 56),
    (24.32, 54), (26.37, 33), (28.61, 39), (32.61, 56), (41.98, 135),
)  # fmt: skip
"""The bundled recording: ends of utterances according to a recognizer (in the middle of the pause),
and the lengths of their texts in characters."""


@pytest.mark.parametrize("late", [0.0, 0.3, 1.0, 2.0, 3.0])
def test_a_person_reading(late: float) -> None:
    """A real voice, with a varying pace and pauses within sentences."""
    samples, rate = soundfile.read(bundled_recording(), dtype="float32")
    audio = pcm.to_linear16(soxr.resample(samples, rate, 16000))
    due, start = [], 0.7
    for end, length in READ:
        text = ("abcde " * length)[: length - 1] + "."
        due.append((end + late, final(text)))
        for second in range(int(start + 1.2), int(end)):
            said_by = round(length * (second - start) / (end - start))
            due.append((second + late, Transcript(text[:said_by])))
        start = end
    due.sort(key=lambda item: item[0])
    listener, events = texts(), list[ProviderEvent]()
    for at in range(0, len(audio), FRAME):
        listener.add_audio(audio[at : at + FRAME])
        while due and due[0][0] <= (at + FRAME) / 32000:
            events += listener.receive(due.pop(0)[1])
        events += listener.due()
    listener.finish()
    for _, message in due:
        events += listener.receive(message)
    events += listener.due() + listener.end()
    ends = [event.end for event in finals(events) if event.text]
    assert ends == pytest.approx([end for end, _ in READ], abs=0.3)


# ---- with times -----------------------------------------------------------------------------


@pytest.mark.parametrize("late", [0.0, 2.0])
@pytest.mark.parametrize("phrase", [0, 1, 8])
def test_times_of_the_proxy_are_used(phrase: int, late: float) -> None:
    words = tones.sequence(48)
    audio = tones.encode(words, phrase_words=phrase, tail_seconds=1)
    proxy = Proxy(texts(), late, extended=True)
    proxy.play(audio)
    assert audit(proxy.finish(), words, tones.places(words, phrase_words=phrase)) == 0


def test_times_are_limited_to_sent_audio_that_is_not_final() -> None:
    listener = texts()
    listener.add_audio(tones.silence(4))
    (first,) = listener.receive(Transcript("a", True, 0.5, 2.0))
    (second,) = listener.receive(Transcript("b", True, 1.0, 9.0))
    assert isinstance(first, Final)
    assert isinstance(second, Final)
    assert (first.start, first.end, second.start, second.end) == (0.5, 2.0, 2.0, 4.0)


def test_a_text_with_times_after_one_without() -> None:
    listener = texts()
    listener.add_audio(tones.silence(4))
    listener.receive(final("first"))
    first, second = finals(listener.receive(Transcript("second", True, 2.0, 3.0)))
    assert (first.text, first.end, second.text, second.end) == ("first", 2.0, "second", 3.0)


# ---- other messages -------------------------------------------------------------------------


def test_other_messages() -> None:
    listener = texts()
    assert listener.receive(CreditsLow(120)) == [Usage(credits_remaining_seconds=120, low=True)]
    assert listener.receive(SessionEnd(754)) == [Usage(audio_seconds=754)]
    assert listener.receive(Error("m", "c")) == [Notice("provider_error", "[c] m")]
    assert listener.receive(Unknown("weather"))[0] == Notice("unknown", "message of type 'weather'")
    assert listener.receive(Ready()) == []


def test_pace() -> None:
    pace = Pace()
    assert not pace.known
    assert pace.seconds("x" * 18) == 1.0
    pace.learn("x" * 30, 1.0)
    assert pace.known
    assert pace.seconds("x" * 54) == pytest.approx(2.0, rel=0.05)
    for _ in range(20):
        pace.learn("x" * 10, 1.0)
    assert pace.seconds("x" * 10) == pytest.approx(1.0, rel=0.05)
