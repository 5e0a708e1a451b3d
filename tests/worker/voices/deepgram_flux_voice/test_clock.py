"""The offset of an Interrupt, over several interrupts of a stream."""

from __future__ import annotations

from worker.voices.deepgram_flux_voice.clock import SessionClock


def clock(*, rebases: bool = True) -> SessionClock:
    return SessionClock(24_000, 2, rebases=rebases)


def second(count: float) -> int:
    """The size of so many seconds of audio."""
    return int(48_000 * count)


def test_the_offset_is_what_was_played_in_the_session() -> None:
    session = clock()
    session.received(second(3))
    session.received(second(2))
    assert session.offset(3.4567) == 3456, "over both turns, in whole milliseconds"


def test_the_clock_is_rebased_on_what_was_played() -> None:
    """The vendor counts audio that was generated and not played no more."""
    session = clock()
    session.received(second(5))
    assert session.offset(2) == 2000
    session.received(second(1))  # of the cancelled turn
    session.interrupted(2, 2000)
    session.received(second(4))
    assert session.offset(3.5) == 3500


def test_the_clock_may_also_go_on() -> None:
    """If the setting says that the vendor counts all audio."""
    session = clock(rebases=False)
    session.received(second(5))
    session.offset(2)
    session.received(second(1))
    session.interrupted(2, 2000)
    session.received(second(4))
    assert session.offset(3.5) == 6000 + 1500


def test_audio_that_was_dropped_here_alone_counts() -> None:
    """Between two turns there is nothing that the provider could interrupt."""
    session = clock()
    session.received(second(5))
    session.dropped(2)
    session.received(second(4))
    assert session.offset(3.5) == 5000 + 1500


def test_an_interrupt_without_an_offset_sets_the_clock_to_what_was_generated() -> None:
    session = clock()
    session.received(second(5))
    session.interrupted(2, 5080)
    session.received(second(4))
    assert session.offset(2) == 5081, "further than the position of the last interrupt"
    assert session.offset(2.5) == 5580


def test_the_offset_advances_and_stays_within_what_was_received() -> None:
    session = clock()
    assert session.offset(0) == 1
    assert session.offset(0) == 2, "else the interrupt would be ignored"
    session.received(second(1))
    assert session.offset(7) == 1000
    assert session.offset(7) == 1001
    session.interrupted(7, None)  # the answer does not say: the offset that was sent
    session.received(second(1))
    assert session.offset(6) == 1002, "never back"
    assert session.offset(7.5) == 1501


def test_what_is_not_known_is_not_guessed() -> None:
    session = clock()
    session.received(second(1))
    assert session.offset(None) is None
    session.interrupted(None, 1000)
    assert session.offset(0.5) is None, "the offset would be relative to an unknown position"
