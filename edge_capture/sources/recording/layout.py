"""The channels that are recorded of a device, and their conversion to the audio of a source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr

from natterjack.audio import AudioFormat

from ...errors import SourceUnusable
from ...input.samples import Samples
from .. import Block
from ..choice import Device

MAX_CHANNELS = 32
RATES = (48_000, 44_100, 32_000, 96_000, 24_000, 22_050, 16_000, 11_025, 8000)
"""Rates that a device is tried at, after its default rate: from the best for speech down."""


def rates_to_try(device: Device, setting: int | None, source: int | None) -> tuple[int, ...]:
    """Return the rates to try, in order: that of the setting alone; else that of the source, if it
    has one by now, the device's default, and RATES."""
    if setting is not None:
        return (setting,)
    return tuple(dict.fromkeys(each for each in (source, device.sample_rate, *RATES) if each))


@dataclass(frozen=True)
class Layout:
    """The channels of a device."""

    recorded: int
    """How many are recorded, the first ones."""
    taken: tuple[int, ...] | None
    """Which of them are taken, from 0, in order; None: all."""

    @property
    def channels(self) -> int:
        """How many the source has."""
        return self.recorded if self.taken is None else len(self.taken)


def choose_layout(
    device: Device,
    *,
    split: int | None,
    selected: tuple[int, ...],
    mono: bool,
    fallback: bool,
) -> Layout:
    """Return what to record of a device.

    `split` is the number of speakers that each get a channel, `selected` the numbers of channels
    that the settings name, from 1. `mono` says whether the device can record one of its channels
    alone. A fallback without the selected channel is recorded as a whole.

    Raises: SourceUnusable if the device does not have these channels.
    """
    if split is not None and selected and len(selected) != split:
        raise SourceUnusable(
            f"`split_channels` names {split} speakers, `device_channels` has {len(selected)} "
            "channels; name a speaker for each channel"
        )
    if selected and max(selected) <= device.channels:
        recorded = max(selected) if mono else device.channels
        return Layout(recorded, tuple(each - 1 for each in selected))
    if selected and not (fallback and len(selected) == 1):
        raise SourceUnusable(
            f"microphone {device.name!r} has {device.channels} channels, `device_channels` names "
            f"number {max(selected)}"
        )
    if split is not None and split > device.channels:
        raise SourceUnusable(
            f"`split_channels` names {split} speakers, "
            f"microphone {device.name!r} has {device.channels} channels"
        )
    if split is not None:
        return Layout(split, None)
    return Layout(1 if mono else min(device.channels, MAX_CHANNELS), None)


class Converter:
    """Converts what one device records to the format of its source, which does not change."""

    def __init__(self, layout: Layout, recorded: AudioFormat, source: AudioFormat) -> None:
        self._taken = None if layout.taken is None else list(layout.taken)
        self._rates = (recorded.sample_rate, source.sample_rate)
        self._channels = source.channels
        self._resampler: Any = None
        self._trivial = recorded == source and layout.taken is None

    def convert(self, block: Block) -> Block:
        """Return a block in the format of the source."""
        if self._trivial:
            return block
        samples, (rate, wanted) = self._arranged(block.samples), self._rates
        if rate == wanted:
            return block._replace(samples=samples)
        if self._resampler is None or block.lost_frames:
            self._resampler = soxr.ResampleStream(rate, wanted, self._channels, dtype="int16")
        samples = self._resampler.resample_chunk(np.ascontiguousarray(samples))
        return block._replace(
            samples=samples.reshape(-1, self._channels),
            lost_frames=round(block.lost_frames * wanted / rate),
        )

    def _arranged(self, samples: Samples) -> Samples:
        """Return the channels of the source: the same, or the mean in each of them."""
        if self._taken is not None:
            samples = samples[:, self._taken]
        if samples.shape[1] == self._channels:
            return samples
        mean = samples.mean(axis=1).astype(np.int16)
        return np.repeat(mean[:, None], self._channels, axis=1)
