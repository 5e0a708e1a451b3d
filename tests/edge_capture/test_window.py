from __future__ import annotations

from edge_capture.delivery.window import Window

from .samples import chunk


def filled(count: int, max_chunks: int = 8) -> Window:
    """A window whose chunk n was sent at time n."""
    window = Window(max_chunks)
    for seq in range(count):
        window.add(seq, chunk(seq), float(seq))
    return window


def resent(window: Window, now: float = 100) -> list[int]:
    found = []
    while (item := window.next_to_resend(now)) is not None:
        seq, content = item
        assert content == chunk(seq)
        found.append(seq)
    return found


def test_it_is_full_at_its_limit() -> None:
    assert not filled(7).full
    assert filled(8).full


def test_everything_before_the_oldest_unacknowledged_chunk_is_stored() -> None:
    window = filled(4)
    assert window.acknowledge(1) == (True, None)
    assert window.acknowledge(0) == (True, 2)
    assert window.acknowledge(3) == (True, None)
    assert window.acknowledge(2) == (True, 4)
    assert len(window) == 0


def test_a_second_acknowledgement_changes_nothing() -> None:
    window = filled(2)
    window.acknowledge(0)
    assert window.acknowledge(0) == (False, None)
    assert len(window) == 1
    window.acknowledge(1)
    assert window.acknowledge(1) == (False, None)


def test_all_are_sent_again_in_order_except_those_acknowledged_meanwhile() -> None:
    window = filled(5)
    window.resend_all()
    assert window.resending
    window.acknowledge(1)
    assert resent(window) == [0, 2, 3, 4]
    assert not window.resending
    assert resent(window) == []


def test_numbers_may_start_anywhere() -> None:
    window = Window(4)
    window.add(70, chunk(70), 0)
    assert window.acknowledge(70) == (True, 71)


def test_only_the_oldest_chunk_is_overdue_and_only_after_the_timeout() -> None:
    window = filled(3)
    assert not window.overdue(5, 5)
    assert window.overdue(5.1, 5)
    window.acknowledge(0)
    assert not window.overdue(5.1, 5)
    assert window.overdue(6.1, 5)
    assert not Window(8).overdue(1000, 5)


def test_nothing_is_overdue_that_waits_to_be_sent_again() -> None:
    window = filled(3)
    window.resend_all()
    assert not window.overdue(50, 5)
    assert resent(window, now=50) == [0, 1, 2]
    assert not window.overdue(55, 5)
    assert window.overdue(55.1, 5)


def test_retrying_the_oldest_chunk_starts_its_timeout_anew() -> None:
    window = filled(3)
    assert window.oldest(10) == (0, chunk(0))
    assert not window.overdue(15, 5)
    assert Window(8).oldest(10) is None


def test_a_cleared_window_is_empty() -> None:
    window = filled(3)
    window.resend_all()
    window.clear()
    assert (len(window), window.resending, 0 in window) == (0, False, False)
