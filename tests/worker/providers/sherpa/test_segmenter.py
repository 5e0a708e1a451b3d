"""Segments and turns from voice activity; no audio, no engine."""

from __future__ import annotations

import random

import pytest

from tests.searching import tried
from worker.providers.sherpa.segmenter import (
    Cut,
    Segmenter,
    Silence,
    Speech,
    TurnEnded,
    TurnStarted,
    windows,
)

PAUSE = windows(0.4)
PRE_ROLL = windows(0.5)


def segmenter() -> Segmenter:
    return Segmenter(silence_seconds=0.4, min_speech_seconds=0.25, max_segment_seconds=4)


def run(pattern: list[tuple[str, int]], *, finish: bool = True) -> list[Cut]:
    """Cuts of runs of voiced (`v`), unvoiced (`.`) or voiced but hushed (`h`) windows."""
    cutter = segmenter()
    cuts: list[Cut] = []
    for kind, count in pattern:
        for _ in range(count):
            cuts += cutter.add(kind != ".", 1.0 if kind == "v" else 0.01)
    return cuts + list(cutter.finish()) if finish else cuts


def spans(cuts: list[Cut]) -> list[Speech | Silence]:
    return [cut for cut in cuts if isinstance(cut, Speech | Silence)]


def test_windows_cover_the_time() -> None:
    assert [windows(s) for s in (0.001, 0.032, 0.033, 0.4, 12)] == [1, 1, 2, 13, 375]


def test_turn_between_pauses() -> None:
    cuts = run([(".", 40), ("v", 30), (".", 40)], finish=False)
    assert cuts == [
        Silence(0, 40 - PRE_ROLL),
        TurnStarted(40),
        # It ends amid the pause: the rest of it belongs to what follows.
        Speech(40 - PRE_ROLL, 70 + (PAUSE + 1) // 2, ((40, 70),)),
        TurnEnded(70),
    ]


def test_turn_starts_as_soon_as_there_is_enough_speech() -> None:
    enough = windows(0.25)
    assert not run([("v", enough - 1)], finish=False)
    assert run([("v", enough)], finish=False) == [TurnStarted(0)]


def test_short_noises_are_silence() -> None:
    cuts = run([(".", 20), ("v", windows(0.25) - 1), (".", 20), ("v", 3), (".", 60)])
    assert all(isinstance(cut, Silence) for cut in cuts)


def test_a_short_pause_does_not_end_a_turn() -> None:
    cuts = run([("v", 20), (".", PAUSE - 1), ("v", 20), (".", PAUSE)], finish=False)
    assert cuts[1:] == [
        Speech(0, 39 + PAUSE + (PAUSE + 1) // 2, ((0, 20), (19 + PAUSE, 39 + PAUSE))),
        TurnEnded(39 + PAUSE),
    ]


def test_silence_advances_the_position_up_to_the_pre_roll() -> None:
    cuts = spans(run([(".", 200)], finish=False))
    assert len(cuts) >= 3
    assert all(isinstance(cut, Silence) for cut in cuts)
    assert 200 - windows(2.1) <= cuts[-1].end <= 200 - PRE_ROLL


def test_silence_never_passes_a_turn_that_may_be_starting() -> None:
    cuts = spans(run([(".", 65), ("v", 3), (".", 3), ("v", 3)], finish=False))
    assert [cut.end for cut in cuts] == [windows(1.5)]
    assert cuts[-1].end <= 65 - PRE_ROLL


def test_long_speech_is_split_at_its_quietest_place_within_a_turn() -> None:
    cuts = run([("v", 90), ("h", 5), ("v", 60), (".", 40)])
    speech = [cut for cut in cuts if isinstance(cut, Speech)]
    assert [type(cut) for cut in cuts if isinstance(cut, TurnStarted | TurnEnded)] == [
        TurnStarted,
        TurnEnded,
    ]
    assert len(speech) == 2
    assert 90 <= speech[0].end <= 95
    assert speech[1].start == speech[0].end


def test_finalize_in_a_turn_makes_all_final_within_the_turn() -> None:
    cutter = segmenter()
    cuts = [cut for _ in range(20) for cut in cutter.add(True, 1.0)]
    assert list(cutter.finalize()) == [Speech(0, 20, ((0, 20),))]
    assert not list(cutter.finalize())
    cuts = [cut for _ in range(20) for cut in cutter.add(True, 1.0)]
    assert not cuts
    assert list(cutter.finish()) == [Speech(20, 40, ((20, 40),)), TurnEnded(40)]


def test_finalize_before_a_turn_spares_the_pre_roll() -> None:
    cutter = segmenter()
    for _ in range(30):
        assert not list(cutter.add(False, 0.0))
    assert list(cutter.finalize()) == [Silence(0, 30 - PRE_ROLL)]
    assert not list(cutter.finalize())


def test_a_pause_after_a_split_is_not_speech() -> None:
    cutter = segmenter()
    for _ in range(20):
        list(cutter.add(True, 1.0))
    list(cutter.finalize())
    cuts = [cut for _ in range(PAUSE) for cut in cutter.add(False, 0.0)]
    assert cuts == [Silence(20, 20 + (PAUSE + 1) // 2), TurnEnded(20)]


@pytest.mark.parametrize("seed", range(tried(20)))
def test_cuts_leave_no_hole_and_are_bounded(seed: int) -> None:
    chance = random.Random(seed)
    cutter = segmenter()
    cuts: list[Cut] = []
    in_turn = False
    for _ in range(100):
        voiced = chance.random() < 0.5
        for _ in range(chance.randrange(1, 60)):
            cuts += cutter.add(voiced, chance.random())
            assert cutter.end - cutter.start <= windows(4) + PRE_ROLL
        if chance.random() < 0.1:
            cuts += cutter.finalize()
    cuts += cutter.finish()
    at = 0
    for cut in cuts:
        if isinstance(cut, Speech | Silence):
            assert cut.start == at < cut.end
            at = cut.end
            if isinstance(cut, Speech):
                assert in_turn
                assert all(cut.start <= a < b <= cut.end for a, b in cut.voiced)
        else:
            assert in_turn == isinstance(cut, TurnEnded)
            in_turn = not in_turn
    assert at == cutter.end
    assert not in_turn
