from __future__ import annotations

import numpy as np
import pytest

from edge_capture.errors import SourceUnusable
from edge_capture.sources import Block
from edge_capture.sources.choice import Device
from edge_capture.sources.recording.layout import (
    Converter,
    Layout,
    choose_layout,
    rates_to_try,
)
from natterjack.audio import AudioFormat
from natterjack.notices import DEVICE_LOST

DEVICE = Device(None, "mixer", "PulseAudio", 4, 44_100, default=False)
MONO = AudioFormat("linear16", 48_000, 1)


def layout(
    split: int | None = None,
    selected: tuple[int, ...] = (),
    *,
    mono: bool = True,
    fallback: bool = False,
) -> Layout:
    return choose_layout(DEVICE, split=split, selected=selected, mono=mono, fallback=fallback)


def test_what_is_recorded_of_a_device() -> None:
    assert layout() == Layout(1, None)
    assert layout(mono=False) == Layout(4, None)
    assert layout(split=2) == Layout(2, None)
    assert layout(selected=(3, 1)) == Layout(3, (2, 0))
    assert layout(split=2, selected=(3, 1), mono=False) == Layout(4, (2, 0))
    assert layout(selected=(5,), fallback=True) == Layout(1, None)


@pytest.mark.parametrize(
    ("split", "selected", "fallback", "words"),
    [
        (5, (), False, "names 5 speakers, microphone 'mixer' has 4 channels"),
        (2, (1,), False, "names 2 speakers, `device_channels` has 1 channels"),
        (None, (1, 5), True, "microphone 'mixer' has 4 channels, `device_channels` names number 5"),
    ],
)
def test_channels_that_a_device_does_not_have(
    split: int | None, selected: tuple[int, ...], fallback: bool, words: str
) -> None:
    with pytest.raises(SourceUnusable, match=words):
        layout(split, selected, fallback=fallback)


def test_the_order_of_rates() -> None:
    assert rates_to_try(DEVICE, 8000, 16_000) == (8000,)
    assert rates_to_try(DEVICE, None, None)[:3] == (44_100, 48_000, 32_000)
    assert rates_to_try(DEVICE, None, 16_000)[:3] == (16_000, 44_100, 48_000)


def block(samples: object, lost: int = 0) -> Block:
    return Block(np.array(samples, np.int16), 0, lost, DEVICE_LOST)


def test_channels_are_taken_in_order() -> None:
    recorded = MONO._replace(channels=3)
    both = Converter(Layout(3, (2, 0)), recorded, MONO._replace(channels=2))
    assert both.convert(block([[1, 2, 3], [4, 5, 6]])).samples.tolist() == [[3, 1], [6, 4]]
    mean = Converter(Layout(3, None), recorded, MONO)
    assert mean.convert(block([[1, 2, 3], [4, 5, 6]])).samples.tolist() == [[2], [5]]


def test_another_device_is_brought_to_the_rate_of_the_source() -> None:
    converter = Converter(Layout(1, None), MONO._replace(sample_rate=16_000), MONO)
    found = [converter.convert(block(np.ones((1600, 1)), 160 * (n == 0))) for n in range(20)]
    assert [each.lost_frames for each in found] == [480] + [0] * 19
    assert sum(len(each.samples) for each in found) == pytest.approx(96_000, abs=4800)
    assert found[0].cause == DEVICE_LOST
