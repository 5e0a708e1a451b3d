"""Finals that partition the audio, and turns, from messages of the protocol."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import (
    Final,
    Interim,
    Notice,
    ProviderEvent,
    ProviderWord,
    Turn,
    Usage,
)
from tests.searching import tried
from worker.providers.deepgram.protocol import (
    Message,
    Results,
    SpeechStarted,
    Summary,
    UtteranceEnd,
)
from worker.providers.deepgram.silences import Silences
from worker.providers.deepgram.transcript import Transcript
from worker.providers.guard import Guard


def results(
    start: float, end: float, *words: tuple[str, float, float], channel: int = 0, **flags: bool
) -> Results:
    return Results(
        channel=channel,
        start=start,
        end=end,
        is_final=flags.get("final", False) or flags.get("speech_final", False),
        speech_final=flags.get("speech_final", False),
        text=" ".join(word[0] for word in words),
        words=tuple(ProviderWord(*word) for word in words),
        confidence=0.9 if words else None,
        language=None,
    )


def run(transcript: Transcript, *messages: Message) -> list[ProviderEvent]:
    return [event for message in messages for event in transcript.receive(message)]


def short(events: list[ProviderEvent]) -> list[Any]:
    """A short form of events for comparison."""
    shown: list[Any] = []
    for event in events:
        match event:
            case Interim() | Final():
                kind = "final" if isinstance(event, Final) else "interim"
                shown.append((kind, event.text, event.start, event.end))
            case Turn():
                shown.append((event.event, event.at))
            case _:
                shown.append(event)
    return shown


YEAH, SO = ("yeah", 0.2, 0.5), ("so", 0.6, 0.9)
MY, CARD = ("my", 1.2, 1.4), ("card", 1.5, 1.9)


def test_the_example_in_the_documentation() -> None:
    events = run(
        Transcript(interims=True),
        results(0, 1.1, YEAH, SO),
        results(0, 2.2, YEAH, SO, MY, CARD),
        results(0, 1.0, YEAH, SO, final=True),
        results(1.0, 2.1, MY),
        results(1.0, 2.5, MY, CARD, speech_final=True),
    )
    assert short(events) == [
        ("started", 0.2),
        ("interim", "yeah so", 0, 1.1),
        ("interim", "yeah so my card", 0, 2.2),
        ("final", "yeah so", 0, 1.0),
        ("interim", "my", 1.0, 2.1),
        ("final", "my card", 1.0, 2.5),
        ("ended", 1.9),
    ]


def test_finals_of_silence_advance_the_frontier() -> None:
    transcript = Transcript(interims=True)
    events = run(transcript, results(0, 4.3), results(0, 4.3, final=True), results(4.3, 5.0))
    assert short(events) == [
        ("interim", "", 0, 4.3),
        ("final", "", 0, 4.3),
        ("interim", "", 4.3, 5.0),
    ]
    assert transcript.frontier == 4.3


def test_rounding_leaves_no_hole_and_no_overlap() -> None:
    events = run(
        Transcript(interims=True),
        results(0, 3.26, final=True),
        results(3.2600001, 5.5, final=True),
        results(5.4999, 6.0, final=True),
    )
    finals = [event for event in events if isinstance(event, Final)]
    assert [(f.start, f.end) for f in finals] == [(0, 3.26), (3.26, 5.5), (5.5, 6.0)]


@pytest.mark.parametrize("channels", [1, 2])
def test_a_hole_between_finals_is_a_lost_final(channels: int) -> None:
    transcript = Transcript(interims=True, channels=channels)
    run(transcript, results(0, 2, YEAH, final=True))
    later = results(2.31, 4, ("card", 3.0, 3.4), final=True)
    with pytest.raises(RemoteProtocolError, match=r"no final from 2.00 s to 2.31 s") as error:
        transcript.receive(later)
    if channels == 1:
        assert error.value.readable == Final("card", 2.31, 4, later.words)
    run(transcript, results(2.29, 4, ("card", 3.0, 3.4), final=True))


def test_a_server_that_sends_no_finals_for_silence() -> None:
    """The second stream shows it; what is heard in a hole still is a lost final."""
    silences = Silences()
    late = results(4, 6, ("card", 4.2, 4.6), final=True)
    first = Transcript(interims=True, silences=silences)
    run(first, results(0, 2, YEAH, final=True))
    with pytest.raises(RemoteProtocolError):
        first.receive(late)
    again = Transcript(interims=True, silences=silences)
    run(again, results(2, 3, ("card", 2.2, 2.6)))
    run(again, results(2.1, 4, ("card", 2.2, 2.6), final=True))
    run(again, results(9, 10, ("yes", 9.2, 9.6), final=True))
    run(again, results(10, 11, ("so", 10.2, 10.4)))
    with pytest.raises(RemoteProtocolError):
        again.receive(results(12, 13, ("my", 12.2, 12.4), final=True))
    other = Transcript(interims=True, silences=Silences())
    with pytest.raises(RemoteProtocolError):
        other.receive(late)


def test_a_start_after_its_words_is_no_hole() -> None:
    transcript = Transcript(interims=True)
    run(transcript, results(0, 2, YEAH, final=True))
    words = ("my", 1.9, 2.4), ("card", 3.0, 3.4)
    (final,) = run(transcript, results(3.9, 4, *words, final=True))
    assert short([final]) == [("final", "my card", 2, 4)]


def guarded(*messages: Message) -> list[str]:
    """The texts of finals that a session publishes."""
    guard = Guard("deepgram")
    checked = [guard.check(event, 60.0) for event in run(Transcript(interims=True), *messages)]
    return [event.text for event in checked if isinstance(event, Final) and event.text]


@pytest.mark.parametrize("end", [2.0, 1.0, 0.2])
def test_a_final_that_covers_no_new_audio_keeps_its_text(end: float) -> None:
    """Its duration may be wrong. Nothing is said twice."""
    first = results(0, 2, YEAH, SO, final=True)
    assert guarded(first, first, results(0, end, SO, final=True)) == ["yeah so"]
    new = results(2.0, 2.0, final=True)._replace(text="my card")
    assert guarded(first, new, new) == ["yeah so", "my card"]
    bare = results(1.5, 1.5 + end / 4, final=True)._replace(text="my card")
    assert guarded(first, bare) == ["yeah so", "my card"]


def test_a_clock_that_begins_again_is_a_fault() -> None:
    long = results(0, 9, YEAH, MY, CARD, final=True)
    with pytest.raises(RemoteProtocolError, match="back in time"):
        guarded(long, results(0, 2, SO, final=True))


def test_late_interims_are_dropped() -> None:
    events = run(
        Transcript(interims=True),
        results(0, 2, YEAH, final=True),
        results(2, 2, final=True),
        results(0, 1.9, YEAH),
        results(0, 2.4, YEAH),
        results(2, 2.5),
    )
    assert short(events) == [
        ("started", 0.2),
        ("final", "yeah", 0, 2),
        ("interim", "", 2, 2.5),
    ]


def test_without_interims_every_result_is_final() -> None:
    events = run(Transcript(interims=False), results(0, 2, YEAH))
    assert short(events) == [("started", 0.2), ("final", "yeah", 0, 2)]


def test_usage_and_notices_are_passed_on() -> None:
    usage, notice = Usage(audio_seconds=3), Notice("unknown")
    assert run(Transcript(interims=True), Summary(usage), notice) == [usage, notice]


# ---- turns ----------------------------------------------------------------------------------


def test_voice_starts_a_turn_once() -> None:
    events = run(
        Transcript(interims=True),
        SpeechStarted(0, 0.1),
        SpeechStarted(0, 0.1),
        results(0, 1, YEAH),
        SpeechStarted(0, 0.6),
        results(0, 1, YEAH, SO, speech_final=True),
        UtteranceEnd(0, 0.9),
        SpeechStarted(0, 1.1),
        results(1, 2, MY, speech_final=True),
    )
    assert [e for e in short(events) if e[0] in ("started", "ended")] == [
        ("started", 0.1),
        ("ended", 0.9),
        ("started", 1.1),
        ("ended", 1.4),
    ]


def test_the_gap_between_words_ends_a_turn_if_no_endpoint_does() -> None:
    events = run(
        Transcript(interims=True),
        results(0, 2, YEAH, SO, final=True),
        UtteranceEnd(0, 0.9),
        results(2, 4, speech_final=True),
    )
    assert short(events) == [
        ("started", 0.2),
        ("final", "yeah so", 0, 2),
        ("ended", 0.9),
        ("final", "", 2, 4),
    ]


def test_the_end_of_a_turn_waits_for_its_finals() -> None:
    events = run(
        Transcript(interims=True),
        results(0, 2, YEAH, SO),
        UtteranceEnd(0, 0.9),
        results(0, 2.5, YEAH, SO, final=True),
    )
    assert short(events) == [
        ("started", 0.2),
        ("interim", "yeah so", 0, 2),
        ("final", "yeah so", 0, 2.5),
        ("ended", 0.9),
    ]


def test_a_new_turn_waits_for_the_end_of_the_previous_one() -> None:
    later = ("my", 2.2, 2.4)
    events = run(
        Transcript(interims=True),
        results(0, 2, YEAH),
        UtteranceEnd(0, 0.5),
        SpeechStarted(0, 2.1),
        results(0, 2.0, YEAH, final=True),
        results(2.0, 3.0, later, speech_final=True),
    )
    assert [e for e in short(events) if e[0] != "interim"] == [
        ("started", 0.2),
        ("final", "yeah", 0, 2.0),
        ("ended", 0.5),
        ("started", 2.1),
        ("final", "my", 2.0, 3.0),
        ("ended", 2.4),
    ]


def test_an_utterance_end_of_the_previous_turn_does_not_end_this_one() -> None:
    transcript = Transcript(interims=True)
    run(transcript, results(0, 1, YEAH, speech_final=True), SpeechStarted(0, 2.0))
    assert run(transcript, UtteranceEnd(0, 0.5), UtteranceEnd(0, None)) == []
    assert short(transcript.end()) == [("ended", 2.0)]


def test_a_noise_ends_where_the_endpoint_is() -> None:
    events = run(
        Transcript(interims=True), SpeechStarted(0, 0.5), results(0, 1.2, speech_final=True)
    )
    assert short(events) == [("started", 0.5), ("final", "", 0, 1.2), ("ended", 1.2)]


def test_an_endpoint_may_come_without_words_of_its_own() -> None:
    events = run(
        Transcript(interims=True),
        results(0, 1, YEAH, SO, final=True),
        results(1, 1.3, speech_final=True),
    )
    assert short(events)[-1] == ("ended", 0.9)


def test_the_end_of_audio_ends_the_turn() -> None:
    transcript = Transcript(interims=True)
    run(transcript, results(0, 1, YEAH, final=True))
    assert short(transcript.end()) == [("ended", 1)]
    assert transcript.end() == []


# ---- several channels -----------------------------------------------------------------------


def test_finals_of_channels_are_merged_between_words() -> None:
    transcript = Transcript(interims=True, channels=2)
    events = run(
        transcript,
        results(0, 1.0, YEAH, SO, channel=0, final=True),
        results(0, 1.3, ("hm", 0.8, 1.1), channel=1, final=True),
    )
    # Channel 0 is final up to 1.0, which is inside "hm"; its start is inside "so".
    assert [e for e in short(events) if e[0] == "final"] == [("final", "yeah", 0, 0.6)]
    events = run(transcript, results(1.0, 2.0, MY, channel=0, final=True))
    (final,) = [event for event in events if isinstance(event, Final)]
    assert (final.text, final.start, final.end) == ("so hm", 0.6, 1.2)
    assert [(word.text, word.speaker) for word in final.words] == [("so", "0"), ("hm", "1")]
    events = run(transcript, results(1.3, 2.0, channel=1, final=True))
    assert [e for e in short(events) if e[0] == "final"] == [("final", "my", 1.2, 2.0)]


def test_interims_of_channels_are_merged() -> None:
    events = run(
        Transcript(interims=True, channels=2),
        results(0, 1.0, YEAH, channel=0),
        results(0, 1.0, ("hm", 0.3, 0.4), channel=1),
        results(0, 1.0, channel=0, final=True),
        results(0, 1.2, ("hm", 0.3, 0.4), ("ah", 1.0, 1.1), channel=1),
    )
    texts = [event.text for event in events if isinstance(event, Interim)]
    assert texts == ["yeah", "yeah hm", "hm ah"]


def test_a_turn_is_open_while_any_channel_speaks() -> None:
    events = run(
        Transcript(interims=True, channels=2),
        SpeechStarted(0, 0.1),
        SpeechStarted(1, 0.2),
        results(0, 1.0, YEAH, channel=0, speech_final=True),
        results(0, 1.5, ("hm", 0.3, 0.4), channel=1, speech_final=True),
        results(1.0, 1.5, channel=0, final=True),
    )
    assert [e for e in short(events) if e[0] in ("started", "ended")] == [
        ("started", 0.1),
        ("ended", 0.4),
    ]


def test_an_unknown_channel_is_malformed() -> None:
    (notice,) = run(Transcript(interims=True), results(0, 1, channel=1))
    assert isinstance(notice, Notice)
    assert notice.code == "malformed"


@pytest.mark.parametrize("interims", [True, False])
def test_a_final_of_an_unknown_channel_is_not_skipped(interims: bool) -> None:
    with pytest.raises(RemoteProtocolError, match="channel 1"):
        run(Transcript(interims=interims), results(0, 1, YEAH, channel=1, speech_final=interims))


def test_waiting_for_a_channel_is_bounded() -> None:
    transcript = Transcript(interims=True, channels=2, channel_wait_seconds=5)
    texts, ends = [], []
    for second in range(0, 20, 2):
        word = (f"w{second}", second + 0.5, second + 1.0)
        for event in run(transcript, results(second, second + 2, word, final=True)):
            if isinstance(event, Final):
                texts.append(event.text)
                ends.append(event.end)
                assert not event.times_estimated
    assert " ".join(texts) == "w0 w2 w4 w6 w8 w10 w12 w14"
    assert ends == [1, 3, 5, 7, 9, 11, 13, 15]
    # The words of the channel that was not waited for come late, and none of them is lost.
    late = results(0, 20, ("a", 1, 1.4), ("b", 17, 17.5), channel=1, final=True)
    (final,) = [event for event in run(transcript, late) if isinstance(event, Final)]
    assert (final.text, final.start, final.end) == ("a w16 b w18", 15, 20)
    assert final.words[0] == ProviderWord("a", 15, 15, speaker="1")
    assert final.times_estimated


def test_a_channel_with_interims_is_waited_for_longer() -> None:
    transcript = Transcript(interims=True, channels=2, channel_wait_seconds=5)
    run(transcript, results(0, 12, ("hm", 1, 11), channel=1))
    assert not [e for e in run(transcript, results(0, 14, YEAH, final=True)) if _is_final(e)]
    (final,) = [e for e in run(transcript, results(14, 16, final=True)) if _is_final(e)]
    assert short([final]) == [("final", "yeah", 0, 1)]


def test_a_restated_final_is_not_late() -> None:
    """It has no new words, though the channel's finals wait for the other channel."""
    transcript = Transcript(interims=True, channels=2, channel_wait_seconds=5)
    run(transcript, results(0, 2, YEAH, final=True), results(0, 2, channel=1, final=True))
    run(transcript, results(0, 2, YEAH, final=True))
    (final,) = [e for e in run(transcript, results(2, 9, final=True)) if isinstance(e, Final)]
    assert final.words == ()


@pytest.mark.parametrize("later", [-0.02, 0.0, 0.02, 0.1])
def test_finals_that_are_restated_on_a_channel_are_not_doubled(later: float) -> None:
    """The other channel is behind, so that nothing of them is final on the stream."""
    transcript = Transcript(interims=True, channels=2)
    again = [(text, start + later, end + later) for text, start, end in (YEAH, SO, MY)]
    run(
        transcript,
        results(0, 1.0, YEAH, SO, final=True),
        results(1.0, 1.4, MY, final=True),
        results(0, 1.6, *again, final=True),
        results(0, 2.0, *again, CARD, speech_final=True),
        results(2.0, 2.6, final=True)._replace(text="yes sir"),
        results(2.0, 2.6, final=True)._replace(text="yes sir"),
    )
    (final,) = [
        event
        for event in run(transcript, results(0, 3, channel=1, final=True))
        if isinstance(event, Final)
    ]
    assert final.text == "yeah so my card yes sir"


def test_text_of_several_channels_is_kept_in_errors() -> None:
    transcript = Transcript(interims=True, channels=2)
    run(transcript, results(0, 9, YEAH, final=True))
    errors = []
    for odd in (
        results(12, 14, ("so", 12.2, 12.5), final=True),
        results(0, 2, SO, final=True),
        results(9, 10, SO, final=True)._replace(channel=7),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            transcript.receive(odd)
        errors.append(caught.value)
    for error in errors:
        assert error.readable is not None
        assert error.readable.text == "yeah so"
        assert error.readable.times_estimated


def test_text_without_words_is_text_with_several_channels() -> None:
    transcript = Transcript(interims=True, channels=2)
    bare = results(0, 2, YEAH, SO, channel=0, final=True)._replace(words=())
    events = run(transcript, bare, results(0, 2, channel=1, final=True))
    (final,) = [event for event in events if isinstance(event, Final)]
    assert final.text == "yeah so"
    assert [(word.start, word.end, word.speaker) for word in final.words] == [
        (0, 1, "0"),
        (1, 2, "0"),
    ]
    assert final.times_estimated


def _is_final(event: ProviderEvent) -> bool:
    return isinstance(event, Final)


@pytest.mark.parametrize(
    "messages",
    [
        # 0.7 + 0.1 is less than 0.8 in binary.
        [
            results(0, 0.7, YEAH, channel=0, final=True),
            results(0, 0.7, channel=1, final=True),
            results(0.7, 0.7 + 0.1, ("bye", 0.7, 0.8), channel=0, final=True),
            results(0.7, 0.7 + 0.1, channel=1, final=True),
        ],
        # A word whose end is rounded up.
        [
            results(0, 3.26, YEAH, ("bye", 2.9, 3.261), channel=0, final=True),
            results(0, 3.26, channel=1, final=True),
        ],
    ],
)
def test_rounding_holds_no_word_back(messages: list[Message]) -> None:
    transcript = Transcript(interims=True, channels=2)
    events = run(transcript, *messages)
    texts = [event.text for event in events if isinstance(event, Final)]
    assert " ".join(texts) == "yeah bye"
    assert [event for event in transcript.end() if isinstance(event, Final)] == []


def test_pending_words_become_final_before_the_turn_ends() -> None:
    """The last final of the other channel is slightly shorter."""
    transcript = Transcript(interims=True, channels=2)
    events = run(
        transcript,
        results(0, 3.24, ("hm", 1.0, 1.3), channel=1, final=True),
        results(0, 3.26, ("bye", 2.9, 3.25), ("now", 3.25, 3.262), channel=0, final=True),
    )
    assert short(events)[-1] == ("final", "hm", 0, 2.9)
    end = transcript.end()
    assert short(end) == [("final", "bye now", 2.9, 3.262), ("ended", 3.262)]
    (final, _) = end
    assert isinstance(final, Final)
    assert [word.speaker for word in final.words] == ["0", "0"]
    assert transcript.end() == []


@pytest.mark.parametrize("seed", range(tried(5)))
def test_no_word_is_lost_however_channels_are_cut(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        transcript = Transcript(interims=True, channels=2)
        messages: list[tuple[float, Results]] = []
        expected: list[tuple[str, str]] = []
        for channel in range(2):
            cuts = sorted({chance.randrange(100, 9000) for _ in range(5)})
            for start, end in itertools.pairwise([0, *cuts, 9000 + chance.randrange(30)]):
                words = []
                if end - start > 90:
                    name = f"{channel}-{start}"
                    words = [(name, (end - 80) / 1000, (end + chance.randrange(2)) / 1000)]
                    expected.append((name, str(channel)))
                span = start / 1000, start / 1000 + (end - start) / 1000
                messages.append((end, results(*span, *words, channel=channel, final=True)))
        messages.sort(key=lambda one: one[0])
        events = run(transcript, *(message for _, message in messages)) + transcript.end()
        finals = [event for event in events if isinstance(event, Final)]
        found = [(word.text, word.speaker) for final in finals for word in final.words]
        assert sorted(found) == sorted(expected)
        assert all(a.end == b.start and a.end < b.end for a, b in itertools.pairwise(finals))


# ---- the end --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "until"),
    [
        ([], None),
        ([results(0, 2, YEAH)], 2),
        ([results(0, 2, YEAH, final=True), results(2, 3, ("bye", 2.1, 2.9))], 3),
        ([results(0, 2, YEAH, final=True), results(2, 3)], None),
        ([results(0, 2, YEAH), results(0, 2)], None),
        # The final ends before the last interim; no message repeats the rest.
        ([results(0, 2, YEAH, MY), results(0, 1.0, YEAH, final=True)], 2),
        ([results(0, 2, YEAH, MY), results(0, 1.5, YEAH, MY, final=True)], None),
        # The times are slightly different.
        ([results(0, 2, MY), results(0, 1.35, MY, final=True)], None),
        # It arrives too late.
        ([results(0, 2, YEAH, final=True), results(0, 1.9, YEAH)], None),
        ([results(0, 2, YEAH, final=True), results(0, 2.4, ("bye", 2.1, 2.3))], None),
    ],
)
def test_interims_that_never_became_final(messages: list[Message], until: float | None) -> None:
    transcript = Transcript(interims=True)
    run(transcript, *messages)
    left = transcript.unfinalized
    assert (None if left is None else left.end) == until


def test_interims_of_one_channel_that_never_became_final() -> None:
    transcript = Transcript(interims=True, channels=2)
    run(
        transcript,
        results(0, 2, YEAH, channel=0, final=True),
        results(0, 2, MY, channel=1),
    )
    left = transcript.unfinalized
    assert left is not None
    assert (left.text, left.start, left.end) == (f"{YEAH[0]} {MY[0]}", 0, 2)
    run(transcript, results(0, 2, MY, channel=1, final=True))
    assert transcript.unfinalized is None


@pytest.mark.parametrize("speaker", [None, "3"])
def test_a_diarizers_label_follows_the_channel(speaker: str | None) -> None:
    word = ProviderWord("a", 0.1, 0.2, speaker=speaker)
    transcript = Transcript(interims=True, channels=2)
    (_, interim) = transcript.receive(
        Results(1, 0, 1, False, False, "a", (word,), confidence=None, language=None)
    )
    assert isinstance(interim, Interim)
    assert interim.words[0].speaker == ("1" if speaker is None else "1.3")
