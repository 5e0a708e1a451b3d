from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from edge_capture.input.floats import FloatCleaner
from edge_capture.input.samples import Floats
from edge_capture.sources.file import FileSource
from tests.edge_capture.program import captured, tone
from tests.searching import examples

from .test_mix import speech

WRONG = [np.nan, np.inf, -np.inf, 1e30, -1e30, 3.4e38, 9.0]
SCALES = [2**15, 2**23, 2**31]


def cleaned(samples: npt.NDArray[np.floating], block: int = 1280) -> tuple[Floats, int]:
    """Return samples as they come out in blocks of this size, and how many were invalid."""
    cleaner = FloatCleaner(samples.shape[1], "test")
    floats = samples.astype(np.float32)
    parts = [cleaner.clean(floats[at : at + block]) for at in range(0, len(floats), block)]
    return np.concatenate(parts), cleaner.take_invalid()


def stereo(seed: int, level: float) -> npt.NDArray[np.float64]:
    return np.stack([speech(seed, 1, level), speech(seed + 1, 1, level)], axis=1)


@examples(60)
@given(
    seed=st.integers(0, 1000),
    level=st.sampled_from([0.0, 1e-4, 0.1, 0.5, 2.0]),
    wrong=st.lists(
        st.tuples(st.integers(0, 15_999), st.integers(0, 1), st.sampled_from(WRONG)), max_size=10
    ),
    block=st.integers(300, 8000),
)
def test_wrong_samples_are_replaced_and_no_others(
    seed: int, level: float, wrong: list[tuple[int, int, float]], block: int
) -> None:
    right = stereo(seed, level).clip(-4, 4)  # a mix may be too loud: that is not wrong
    broken = right.astype(np.float32)
    places = {(frame, channel): value for frame, channel, value in wrong}
    for (frame, channel), value in places.items():
        broken[frame, channel] = value
    found, invalid = cleaned(broken, block)
    assert invalid == len(places)
    assert np.isfinite(found).all()
    untouched = np.ones_like(right, bool)
    for frame, channel in places:
        untouched[frame, channel] = False
    assert (found == right.astype(np.float32))[untouched].all()
    # The replacements are near the right samples.
    assert np.abs(found - right)[~untouched].max(initial=0) < max(level, 1e-9) * 2


@examples(60)
@given(
    seed=st.integers(0, 1000),
    level=st.sampled_from([0.01, 0.1, 0.3]),
    scale=st.sampled_from(SCALES),
    whole=st.booleans(),
    wrong=st.integers(0, 3),
)
def test_another_scale_is_corrected(
    seed: int, level: float, scale: int, whole: bool, wrong: int
) -> None:
    right = stereo(seed, level).clip(-1, 1)
    scaled = right * scale
    if whole:
        scaled = np.rint(scaled)
    scaled[100 : 100 + wrong, 0] = np.nan
    found, invalid = cleaned(scaled)
    # A start that is quiet may be taken for a smaller scale, or for right.
    assert wrong <= invalid < wrong + 0.04 * found.size
    start = next(
        at for at in range(0, 16_000, 1280) if np.abs(right[at : at + 1280]).max() > 2.5 / 256
    )
    late = slice(start + 1280, None)
    assert np.abs(found - right)[late].max() < 1 / 2**14


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("peak", [1.0, 2.0, 4.0])
def test_audio_that_is_too_loud_keeps_its_scale(seed: int, peak: float) -> None:
    rng = np.random.default_rng(seed)
    for audio in (
        speech(seed, 1),
        rng.normal(0, 1, 16_000),
        tone(300, 1, 16_000),
        np.sign(tone(300, 1, 16_000)),
        rng.integers(-1, 2, 16_000).astype(float),
    ):
        loud = (audio / np.abs(audio).max() * peak)[:, None].astype(np.float32)
        if peak > 1 and len(np.unique(np.abs(loud))) < 4:
            continue  # whole numbers above 1 are those of another scale
        found, invalid = cleaned(loud)
        assert (found == loud).all()
        assert not invalid


def test_many_wrong_samples_become_silence() -> None:
    samples = np.full((4000, 1), 0.5)
    samples[1000:3000] = np.nan
    found, invalid = cleaned(samples, 4000)
    assert invalid == 2000
    assert (found[1000:3000] == 0).all()
    assert (found[:1000] == 0.5).all()


def test_any_32_bits_become_a_sample() -> None:
    """Also the signaling kind of NaN, about which numpy warns."""
    bits = np.random.default_rng(1).integers(0, 2**32, (64, 64), np.uint32)
    bits[0, 0] = 0x7F80_0001
    bits[1:, 1:] = np.float32(20_000).view(np.uint32)
    found, _ = cleaned(bits.view(np.float32))
    assert (np.abs(found) <= 8).all()


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
async def test_one_wrong_sample_in_a_file_costs_one_sample(
    tmp_path: Path, value: float, subtype: str
) -> None:
    """Also after resampling, where it would otherwise be heard for 30 ms, or for ever."""
    right = tone(440, 1, 48_000, 0.3)
    recordings = []
    for number, audio in enumerate((right, right.copy())):
        if number:
            audio[24_000] = value
        soundfile.write(tmp_path / f"{number}.wav", audio, 48_000, subtype)
        source = FileSource(tmp_path / f"{number}.wav", None, 80)
        recordings += [each.samples.astype(int) for each in (await captured(source)).values()]
    differences = np.abs(recordings[0] - recordings[1])
    assert differences.max() < 600
    assert np.count_nonzero(differences > 30) < 20
