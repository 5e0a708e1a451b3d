from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_capture.playback.convert import Block
from edge_capture.playback.queue import Heard, PlayQueue
from tests.searching import examples

from .chunks import frames, positions

RATE = 1000  # a frame is a millisecond
ROUNDING = 1e-6


def block(start: int, count: int, utterance: int = 0, *, last: bool = False) -> Block:
    return Block(frames(start, count), start, start + count, utterance, last)


def queue(buffer_ms: int = 0, max_late_s: float = 30) -> PlayQueue:
    return PlayQueue(RATE, buffer_ms / 1000, max_late_s)


def heard(play: PlayQueue, at: float) -> Heard | None:
    return play.heard(at + ROUNDING)


def test_it_begins_when_the_buffer_is_full() -> None:
    play = queue(100)
    assert heard(play, 0) is None
    play.put(block(0, 60), 0)
    assert play.pull(20, 0) == b""
    assert heard(play, 0) == Heard(0, 0, "starved")
    play.put(block(60, 60), 0)
    assert positions(play.pull(100, 0)) == list(range(100))
    assert heard(play, 0.05) == Heard(50, 0, "playing")


def test_the_end_of_an_utterance_need_not_fill_the_buffer() -> None:
    play = queue(100)
    play.put(block(0, 20, last=True), 0)
    assert len(positions(play.pull(100, 0))) == 20
    assert heard(play, 0.019) == Heard(19, 0, "playing")
    assert heard(play, 0.02) == Heard(20, 0, "idle")
    assert play.underruns == 0


def test_what_the_device_still_has_was_not_played() -> None:
    play = queue()
    play.put(block(0, 200), 0)
    play.pull(100, 1.0)  # a second of latency
    assert heard(play, 0.9) == Heard(0, 0, "starved")
    assert heard(play, 1.0) == Heard(0, 0, "playing")
    assert heard(play, 1.03) == Heard(30, 0, "playing")
    assert heard(play, 1.2) == Heard(100, 0, "playing")  # the next block is late


def test_an_underrun_is_counted_and_not_played() -> None:
    play = queue(50)
    play.put(block(0, 60), 0)
    assert len(positions(play.pull(100, 0))) == 60
    assert play.underruns == 1
    assert heard(play, 0.03) == Heard(30, 0, "playing")
    assert heard(play, 5) == Heard(60, 0, "starved")
    assert play.pull(100, 5) == b""
    play.put(block(60, 40), 5)
    assert play.pull(100, 5) == b""  # the buffer fills again
    play.put(block(100, 40, last=True), 5)
    assert positions(play.pull(100, 5)) == list(range(60, 140))
    assert heard(play, 6) == Heard(140, 0, "idle")
    assert play.underruns == 1


def test_an_underrun_between_two_pulls() -> None:
    play = queue()
    play.put(block(0, 100), 0)
    play.pull(100, 0)
    assert play.underruns == 0
    assert heard(play, 0.2) == Heard(100, 0, "playing")
    assert play.pull(100, 0.2) == b""
    assert play.underruns == 1
    assert heard(play, 0.2) == Heard(100, 0, "starved")


def test_utterances_follow_each_other() -> None:
    play = queue()
    play.put(block(0, 50, last=True), 0)
    play.put(block(50, 50, 1, last=True), 0)
    assert len(positions(play.pull(200, 0))) == 100
    assert heard(play, 0.06) == Heard(60, 1, "playing")
    assert heard(play, 0.1) == Heard(100, 1, "idle")


def test_a_cut_drops_what_is_not_audible() -> None:
    play = queue()
    play.put(block(0, 300), 0)
    play.pull(200, 0.1)
    play.cut(0.15 + ROUNDING, 0, 300)
    assert heard(play, 0.15) == Heard(50, 0, "interrupted")
    assert play.pull(100, 0.2) == b""
    assert heard(play, 9) == Heard(50, 0, "interrupted")
    assert play.seconds == 0
    play.put(block(300, 10, 1, last=True), 10)
    assert positions(play.pull(100, 10)) == list(range(300, 310))
    assert heard(play, 10.1) == Heard(310, 1, "idle")


def test_a_cut_before_anything_was_played() -> None:
    play = queue()
    play.cut(0, 3, 500)
    assert heard(play, 1) == Heard(500, 3, "interrupted")


def test_a_device_that_is_lost_gives_back_what_it_has_not_played() -> None:
    play = queue()
    play.put(block(0, 100), 0)
    play.put(block(100, 100, last=True), 0)
    play.pull(150, 0)
    play.take_back(0.04 + ROUNDING)
    assert heard(play, 3) == Heard(40, 0, "starved")
    assert positions(play.pull(1000, 3)) == list(range(40, 200))
    assert heard(play, 3.16) == Heard(200, 0, "idle")


def test_what_is_late_is_dropped() -> None:
    play = queue(max_late_s=5)
    play.put(block(0, 1000), 0)
    play.put(block(1000, 1000), 0)
    play.put(block(2000, 1000, last=True), 0)
    assert positions(play.pull(500, 0)) == list(range(500))
    # The device is away. At 7 s, what was due between 0.5 and 2 s has waited too long.
    assert positions(play.pull(2000, 7.0)) == list(range(2000, 3000))
    assert play.late_seconds == 1.5
    assert heard(play, 7.5) == Heard(2500, 0, "playing")


def test_what_waits_for_speech_before_it_is_not_late() -> None:
    play = queue(max_late_s=1)
    for start in range(0, 5000, 1000):
        play.put(block(start, 1000), 0)
    found = [play.pull(1000, at) for at in range(5)]
    assert positions(b"".join(found)) == list(range(5000))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 300)),
        st.tuples(st.just("end"), st.integers(0, 300)),
        st.tuples(st.just("pull"), st.integers(1, 300)),
        st.tuples(st.just("pass"), st.integers(0, 500)),
        st.tuples(st.just("lost"), st.integers(0, 0)),
    ),
    max_size=60,
)


@examples(100)
@given(STEPS, st.integers(0, 150), st.integers(0, 100))
def test_every_frame_is_audible_once_and_the_position_says_which(
    steps: list[tuple[str, int]], buffer_ms: int, latency_ms: int
) -> None:
    """A device that plays what it was given, one stretch after the other."""
    play, now, head, ends_at = queue(buffer_ms, 1e9), 0.0, 0, 0.0
    device: list[tuple[float, int]] = []  # when each frame is audible
    utterance = 0
    for what, number in steps:
        if what in ("put", "end"):
            play.put(block(head, number, utterance, last=what == "end"), now)
            head += number
            utterance += what == "end"
        elif what == "pull":
            ends_at = max(ends_at, now + latency_ms / RATE)
            pulled = positions(play.pull(number, ends_at))
            assert len(pulled) <= number
            device += [(ends_at + n / RATE, one) for n, one in enumerate(pulled)]
            ends_at += len(pulled) / RATE
        elif what == "lost":
            play.take_back(now)
            device = [(at, one) for at, one in device if at < now - 1e-9]
            ends_at = now
        else:
            now += number / RATE
        audible = [one for at, one in device if at < now - 1e-9]
        assert audible == list(range(len(audible)))
        heard = play.heard(now)
        if heard is not None:
            assert abs(heard.position - len(audible)) <= 1
