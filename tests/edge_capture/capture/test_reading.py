"""Reading a source into takes: what is not there is named by the take in which it is missing."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import numpy as np

from edge_capture.capture.reading import Reading
from edge_capture.capture.take import Take
from edge_capture.sources import Block, always
from natterjack.audio import AudioFormat
from natterjack.notices import DEVICE_LOST, Note
from tests.edge_capture.test_mute import made, taken

RATE = 16_000


class Owing:
    """Live audio that owes 0.15 s once."""

    name, can_wait, waiting_for = "microphone", False, None
    format = AudioFormat("linear16", RATE, 1)

    def __init__(self) -> None:
        self.wanted_frames, self.can_finish = 1, always
        self.owed_s = 0.15

    def settle(self) -> float:
        owed_s, self.owed_s = self.owed_s, 0.0
        return owed_s

    def block(self) -> Block:
        return Block(np.zeros((RATE, 1), np.int16), 10**18, settle=self.settle)

    async def blocks(self) -> AsyncGenerator[Block, None]:
        yield self.block()

    def remaining(self) -> list[Block]:
        return []

    def close(self) -> None:
        pass


def test_what_is_owed_is_a_gap_at_the_end_of_the_take_that_is_rotated() -> None:
    source, sessions = Owing(), [made(), made()]
    first, second = map(Take, ([sessions[0]], [sessions[1]]))
    reading = Reading(source, first, lambda block, take: second if reading.frames > RATE else first)
    for _ in range(2):
        reading.feed(source.block())
    reading.finish()
    second.finish()
    assert [taken(each.publisher.backlog)[-1].end for each in sessions] == [True, True]
    assert [each.gap_seconds for each in sessions] == [{"busy": 0.15}, {}]
    assert [each.seconds for each in sessions] == [1.15, 1.0]


def test_what_is_owed_is_a_gap_at_the_end_of_the_source() -> None:
    source, session = Owing(), made()
    reading = Reading(source, Take([session]))
    reading.feed(source.block())
    reading.finish()
    assert session.seconds == 1.15
    assert session.gap_seconds == {"busy": 0.15}


def test_what_is_owed_is_a_gap_at_the_end_of_a_microphone_that_is_away() -> None:
    source, session = Owing(), made()
    reading = Reading(source, Take([session]))
    reading.feed(source.block())
    away = source.block()._replace(settle=None, notes=(Note(DEVICE_LOST),))
    reading.feed(away._replace(samples=away.samples[:0]))
    reading.finish()
    assert source.owed_s == 0.0
    assert session.seconds == 1.15
