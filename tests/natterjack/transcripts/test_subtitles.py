"""Subtitles, read back by the parsers of others."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import pytest
import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from natterjack.events import FinalEvent
from natterjack.process.terminal import width
from natterjack.transcripts.cutting import LINE_CELLS, MAX_SECONDS, Token, strength
from natterjack.transcripts.subtitles import Cue, cues
from natterjack.transcripts.transcript import Transcript
from tests.natterjack.transcripts.events import Session, words
from tests.natterjack.transcripts.test_builder import built
from tests.searching import examples

SPEED = 17.0
_COMMA = "\uff0c"


def of(*finals: FinalEvent) -> Transcript:
    return built(finals)


def timed(text: str, start: float, end: float) -> FinalEvent:
    """A final with words of equal duration."""
    spoken = text.split()
    step = (end - start) / len(spoken)
    return Session("session-a").final(
        text, start, end,
        words=words(*((w, start + n * step, start + (n + 1) * step) for n, w in enumerate(spoken))),
    )  # fmt: skip


def shown(transcript: Transcript) -> list[str]:
    return [subtitle.content for subtitle in srt.parse(transcript.to_srt())]


def captions_of(text: str) -> list[webvtt.Caption]:
    """The captions of a WebVTT file."""
    return webvtt.from_string(text).captions


def test_a_subtitle_has_two_lines_that_are_split_at_a_clause() -> None:
    text = "When the rain had stopped, we went out to look for the frogs."
    assert shown(of(timed(text, 0, 4))) == [
        "When the rain had stopped,\nwe went out to look for the frogs."
    ]


def test_long_text_is_divided_at_sentences_and_clauses() -> None:
    text = (
        "The pond is half an hour from here. If it does not freeze again, the toads will be there "
        "on Monday night, and we shall count them, as we do each year, with lamps and pails."
    )
    assert shown(of(timed(text, 0, 14))) == [
        "The pond is half an hour from here.",
        "If it does not freeze again,\nthe toads will be there on Monday night,",
        "and we shall count them,\nas we do each year, with lamps and pails.",
    ]


def test_after_a_short_word_is_the_worst_place_to_split() -> None:
    def after(before: str, pause: float = 0) -> float:
        return strength(Token(before, 0, 1, True), Token("frogs", 1 + pause, 2, True))

    kinds = ["the", "green", "well", "is,", "so."]
    values = [after(word, pause=0.5 if word == "well" else 0) for word in kinds]
    assert values == sorted(set(values))
    assert after("(so.)") == after("so.")


def test_a_pause_ends_a_subtitle() -> None:
    spoken = words(("Well", 0, 0.5), ("no", 2.2, 2.5))
    assert shown(of(Session("session-a").final("Well no", 0, 2.5, words=spoken))) == ["Well", "no"]


def test_a_subtitle_is_shown_for_long_enough_to_read_it_but_not_into_the_next() -> None:
    agent = Session("session-a")
    long = "A sentence of thirty-four letters."
    transcript = of(
        agent.final("Yes.", 0, 0.2), agent.final(long, 5, 5.5), agent.final("No.", 9, 9.2)
    )
    times = [
        (s.start.total_seconds(), s.end.total_seconds()) for s in srt.parse(transcript.to_srt())
    ]
    assert times == [(0, 1), (5, 7), (9, 10)]
    slow = [s.end.total_seconds() for s in srt.parse(transcript.to_srt(characters_per_second=10))]
    assert slow == [1, 8.4, 10]


def test_wide_characters_count_as_two_and_punctuation_stays_with_what_it_follows() -> None:
    text = f"我们会尽快为您处理这个问题{_COMMA}请您稍等一下。" * 3
    lines = [row for content in shown(of(Session("session-a").final(text, 0, 20)))
             for row in content.split("\n")]  # fmt: skip
    assert "".join(lines) == text
    assert all(width(line) <= LINE_CELLS for line in lines)
    assert not any(line[0] in f"{_COMMA}。" for line in lines)


def test_a_word_is_cut_only_if_it_is_longer_than_a_line_and_only_between_letters() -> None:
    letter = "e\u0301"
    final = Session("session-a").final(f"oh {letter * 50}", 0, 4)
    assert shown(of(final)) == [f"oh\n{letter * 42}", letter * 8]


def test_right_to_left_text_keeps_its_letters_and_its_direction_behind_a_label() -> None:
    text = "مرحبا بكم"
    agent = Session("session-a").final(text, 0, 2)
    assert shown(of(agent)) == [text]
    caller = Session("session-c", "caller").final("Hello.", 3, 4)
    assert shown(of(agent, caller)) == [f"\u200fagent: {text}", "caller: Hello."]


def test_the_speaker_is_named_where_it_changes_if_there_are_several() -> None:
    agent, caller = Session("session-a"), Session("session-c", "caller")
    transcript = of(
        agent.final("One.", 0, 1), agent.final("Two.", 4, 5), caller.final("Three.", 6, 7)
    )
    assert shown(transcript) == ["agent: One.", "Two.", "caller: Three."]
    plain = [s.content for s in srt.parse(transcript.to_srt(speakers=False))]
    assert plain == ["One.", "Two.", "Three."]


def test_those_who_speak_at_the_same_time_share_a_subtitle() -> None:
    agent, caller = Session("session-a"), Session("session-c", "caller")
    transcript = of(agent.final("Ready?", 0, 0.5), caller.final("Yes.", 0.4, 0.8))
    assert shown(transcript) == ["agent: Ready?\ncaller: Yes."]
    (caption,) = captions_of(transcript.to_vtt(speakers=False))
    assert caption.raw_text == "<v agent>- Ready?</v>\n<v caller>- Yes.</v>"


def test_markup_in_the_text_is_text() -> None:
    text = "x <b>bold</b> & {i} --> 1"
    transcript = of(Session("session-a").final(text, 0, 2))
    (caption,) = captions_of(transcript.to_vtt())
    assert caption.voice == "agent"
    assert html.unescape(caption.text) == text
    assert shown(transcript) == [text.replace("-->", "→")]


@pytest.mark.parametrize("text", ["a\n\nb", "a\r\n\r\n2\r\nb", "a\u2028\u2029b", "a\x0b\x85\x00b"])
def test_lines_inside_of_text_become_spaces(text: str) -> None:
    (content,) = shown(of(Session("session-a").final(text, 0, 2)))
    assert re.fullmatch("a( 2)? b", content)


def test_nothing_said_makes_files_without_subtitles() -> None:
    silent = of(Session("session-a").final(" \n", 0, 2))
    assert silent.to_srt() == ""
    assert len(webvtt.from_string(silent.to_vtt())) == 0


# ---- any text ------------------------------------------------------------------------------------

_WORDS = st.one_of(
    st.sampled_from(
        ["yes", "no,", "Monday.", "and", "the", "“Why?”", "3.5", "-->", "<i>", "&amp;"]
    ),
    st.text("abcdefghij", min_size=1, max_size=12),
    st.sampled_from(
        [
            "مرحبا",
            "שלום",
            f"我们会尽快为您处理这个问题{_COMMA}",
            "ありがとう。",
            "สวัสดีครับ",
            "한국어",
            "👩‍👩‍👧‍👦",
        ]
    ),
    st.text(min_size=1, max_size=8),
    st.text("xyzé\u0301", min_size=40, max_size=100),
)
_DURATIONS = st.sampled_from([0.0, 0.05, 0.2, 0.3, 0.5, 1.0, 3.0, 20.0])
_PAUSES = st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.5, 1.6, 5.0])


@st.composite
def _talks(draw: st.DrawFn) -> Transcript:
    sessions = [
        Session(f"session-{n}", name, begin=draw(st.integers(0, 3)))
        for n, name in enumerate(draw(st.lists(
            st.sampled_from(["agent", "caller", "a" * 64]), min_size=1, max_size=3, unique=True)))
    ]  # fmt: skip
    finals = []
    for session in sessions:
        clock = 0.0
        for _ in range(draw(st.integers(1, 4))):
            start, spoken = clock, []
            for word in draw(st.lists(_WORDS, min_size=1, max_size=20)):
                begin = clock + draw(_PAUSES)
                clock = begin + draw(_DURATIONS)
                spoken.append((word, begin, clock))
            kept = words(*spoken) if draw(st.booleans()) else []
            finals.append(
                session.final(" ".join(w for w, _, _ in spoken), start, clock, words=kept)
            )
    return built(finals)


def _check_layout(made: Sequence[Cue]) -> None:
    for cue in made:
        assert 1 <= len(cue.rows) <= 2
        for _, row in cue.rows:
            assert row.strip()
            assert width(row) <= LINE_CELLS


def _check_times(made: Sequence[Cue]) -> None:
    for cue, following in zip(made, [*made[1:], None], strict=True):
        assert 1000 <= cue.end_ms - cue.start_ms <= MAX_SECONDS * 1000
        if following is None:
            continue
        assert cue.end_ms <= following.start_ms
        reading = sum(width(row) for _, row in cue.rows) / SPEED * 1000
        if cue.end_ms - cue.start_ms < min(round(reading), MAX_SECONDS * 1000):
            assert cue.end_ms == following.start_ms  # too short only because of the next one


@given(_talks(), st.booleans())
@examples(300)
def test_any_subtitles_follow_the_rules_and_are_read_back(
    transcript: Transcript, named: bool
) -> None:
    made = cues(transcript.lines, named, SPEED)
    _check_layout(made)
    _check_times(made)

    subrip = list(srt.parse(transcript.to_srt(speakers=named)))
    assert [s.index for s in subrip] == list(range(1, len(made) + 1))
    for subtitle, cue in zip(subrip, made, strict=True):
        assert subtitle.content == "\n".join(row.replace("-->", "→") for _, row in cue.rows).strip()
        assert round(subtitle.start.total_seconds() * 1000) == cue.start_ms
        assert round(subtitle.end.total_seconds() * 1000) == cue.end_ms

    captions = captions_of(transcript.to_vtt(speakers=named))
    for caption, cue in zip(captions, made, strict=True):
        assert html.unescape(re.sub("</?v[^>]*>", "", caption.raw_text)) == "\n".join(
            row for _, row in cue.rows
        )
        assert caption.voice == cue.rows[0][0]

    _check_text(made, transcript, named)


def _check_text(made: Sequence[Cue], transcript: Transcript, named: bool) -> None:
    """All words of each speaker are there, once and in order."""
    for speaker in transcript.speakers:
        text = "".join(row for cue in made for name, row in cue.rows if name == speaker)
        expected = "".join(line.text for line in transcript.lines if line.name == speaker)
        label = speaker if len(speaker) <= 18 else f"{speaker[:17]}…"
        if named:
            text = text.replace(f"{label}: ", "").replace(f"{label}:", "")
            expected = expected.replace(f"{label}: ", "").replace(f"{label}:", "")
        assert _letters(text) == _letters(expected)


def _letters(text: str) -> str:
    return re.sub(r"[\s\u200f-]", "", text)


def test_no_subtitle_is_shown_before_it_is_spoken_and_crosstalk_delays_it_little() -> None:
    agent, caller = Session("session-a"), Session("session-c", "caller")
    spoken = {f"word{n}": n * 0.4 for n in range(300)}
    finals = [
        (agent, caller)[n // 5 % 2].final(word, start, start + 0.4)
        for n, (word, start) in enumerate(spoken.items())
    ]
    for cue in cues(of(*finals).lines, True, SPEED):
        first = re.search(r"word\d+", cue.rows[0][1])
        assert first is not None
        assert -1 <= cue.start_ms - spoken[first[0]] * 1000 <= 2000
