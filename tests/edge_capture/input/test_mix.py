from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_capture.input.mix import Mixer
from edge_capture.input.samples import Floats
from tests.edge_capture.program import tone
from tests.searching import examples

RATE = 16_000


def speech(seed: int, seconds: float, level: float = 0.1) -> npt.NDArray[np.float64]:
    """Return noise with the loudness of speech: syllables and pauses."""
    rng = np.random.default_rng(seed)
    frames = round(seconds * RATE)
    noise = np.convolve(rng.normal(0, 1, frames), np.ones(8) / 8, "same")
    syllables = np.repeat(rng.choice([0.02, 0.3, 1.0, 1.0], -(-frames // 3200)), 3200)[:frames]
    return level * noise * np.convolve(syllables, np.ones(400) / 400, "same")


def stack(*channels: npt.NDArray[np.float64]) -> Floats:
    return np.stack(channels, axis=1).astype(np.float32)


def mixed(samples: Floats, sizes: int | list[int] = 1280) -> Floats:
    """Return the mix of samples that come in blocks of these sizes, over and over."""
    mixer = Mixer(samples.shape[1], RATE)
    return np.concatenate([mixer.mix(block) for block in blocks(samples, sizes)])


def blocks(samples: Floats, sizes: int | list[int]) -> Iterator[Floats]:
    at, turn = 0, 0
    sizes = [sizes] if isinstance(sizes, int) else sizes
    while at < len(samples):
        yield samples[at : at + sizes[turn % len(sizes)]]
        at += sizes[turn % len(sizes)]
        turn += 1


def loss_db(mix: Floats, wanted: npt.NDArray[np.float64]) -> float:
    """Return by how much the mix differs from what is wanted, relative to that."""
    return float(10 * np.log10(np.mean((mix - wanted) ** 2) / np.mean(wanted**2) + 1e-12))


sizes = st.lists(st.integers(1, 3000), max_size=6).map(lambda some: [1280, *some])


@examples(40)
@given(count=st.integers(2, 8), sizes=sizes, seed=st.integers(0, 1000))
def test_independent_channels_are_averaged(count: int, sizes: list[int], seed: int) -> None:
    samples = stack(*(speech(seed * 10 + n, 2) for n in range(count)))
    assert np.abs(mixed(samples, sizes) - samples.mean(axis=1)).max() < 1e-6


@examples(40)
@given(count=st.integers(1, 8), live=st.integers(0, 7), sizes=sizes, noise=st.booleans())
def test_dead_channels_cost_nothing(count: int, live: int, sizes: list[int], noise: bool) -> None:
    wanted = speech(live, 2)
    rng = np.random.default_rng(1)
    samples: Floats = np.zeros((len(wanted), count), np.float32)
    if noise:  # of a converter without an input
        samples += rng.integers(-2, 3, samples.shape) / np.float32(32768)
    samples[:, live % count] = wanted
    assert loss_db(mixed(samples, sizes), wanted) < -40


@examples(40)
@given(
    gains=st.tuples(st.floats(-1, -0.05), st.just(1.0)).flatmap(st.permutations),
    sizes=sizes,
    seed=st.integers(0, 1000),
)
def test_of_two_opposite_channels_the_louder_is_used(
    gains: list[float], sizes: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    audio = speech(seed, 4)
    audio[: RATE // 2] = 0.1 * np.sin(np.arange(RATE // 2) / 5)  # not a quiet start
    samples = stack(*(gain * audio + rng.normal(0, 1e-4, len(audio)) for gain in gains))
    mix = mixed(samples, sizes)[RATE // 4 :]
    assert min(loss_db(mix, gain * audio[RATE // 4 :]) for gain in gains if abs(gain) > 0.5) < -20


def test_opposite_pairs_among_many_channels() -> None:
    a, b = speech(1, 3), speech(2, 3)
    mix = mixed(stack(a, -a, b, -b, np.zeros(len(a))))
    kept = [loss_db(mix, (x * a + y * b) / 2) for x in (1, -1) for y in (1, -1)]
    assert min(kept) < -20


def test_a_pause_ends_no_opposition() -> None:
    """Channels are opposite for as long as there is no evidence of the contrary."""
    rng = np.random.default_rng(1)
    audio = np.concatenate([speech(1, 3), np.zeros(20 * RATE), speech(2, 3)])
    samples = stack(*(sign * audio + rng.normal(0, 1e-4, len(audio)) for sign in (1, -1)))
    mix = mixed(samples)
    last = slice(23 * RATE, None)
    assert min(loss_db(mix[last], sign * audio[last]) for sign in (1, -1)) < -20


def test_a_corrected_phase_is_noticed() -> None:
    audio = speech(1, 12)
    sign = np.where(np.arange(len(audio)) < 4 * RATE, -1, 1)
    other = np.random.default_rng(1).normal(0, 3e-4, len(audio))
    mixer = Mixer(2, RATE)
    samples = stack(audio + other, sign * (audio - other))
    mix = np.concatenate([mixer.mix(block) for block in blocks(samples, 1280)])
    assert np.allclose(mix[10 * RATE :], samples[10 * RATE :].mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("opposite", [False, True])
def test_a_channel_that_is_cut_off_does_not_take_the_other_with_it(opposite: bool) -> None:
    """At most half a second is lost, and 10 s later the level is as before."""
    audio = speech(1, 20)
    cut = np.where(np.arange(len(audio)) < 4 * RATE, 1.5, 0) * audio
    mix = mixed(stack(cut, -audio if opposite else audio))
    soon, later = slice(round(4.5 * RATE), None), slice(15 * RATE, None)
    assert np.mean(mix[soon] ** 2) > 0.2 * np.mean(audio[soon] ** 2)
    assert np.mean(mix[later] ** 2) == pytest.approx(np.mean(audio[later] ** 2), rel=0.01)


@examples(30)
@given(
    parts=st.lists(st.sampled_from(["both", "opposite", "left", "right"]), max_size=4),
    sizes=st.integers(300, 4000),
)
def test_nothing_clicks(parts: list[str], sizes: int) -> None:
    """The mix of a tone never jumps by more than the tone itself, whatever happens."""
    gains = {"both": (1, 1), "opposite": (1, -1), "left": (1, 0), "right": (0, 1)}
    part = tone(200, 11, RATE, 0.5)
    audio = np.concatenate(
        [stack(*(gain * part for gain in gains[name])) for name in parts or ["both"]]
    )
    mix = mixed(audio, sizes)
    jumps = np.abs(np.diff(audio, axis=0)).max()
    assert np.abs(np.diff(mix)).max() < 1.4 * jumps


def test_weights_rarely_change_in_a_call_with_gated_channels() -> None:
    """Each side is digital silence while the other speaks, as after a noise gate."""
    mixer, changes = Mixer(2, RATE), 0
    before = None
    for turn in range(60):
        audio = speech(turn, 3)
        samples = stack(*((audio, 0 * audio) if turn % 2 else (0 * audio, audio)))
        for block in blocks(samples, 1280):
            mixer.mix(block)
            target = mixer._target.tolist()
            changes += target != before
            before = target
    assert changes <= 2


def test_a_mix_without_frames_is_empty() -> None:
    mixer = Mixer(2, RATE)
    assert len(mixer.mix(np.zeros((0, 2), np.float32))) == 0
    assert mixer.mix(np.ones((1, 2), np.float32)).tolist() == [1]
