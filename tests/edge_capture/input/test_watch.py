from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_capture.input.measure import SILENCE_DBFS
from edge_capture.input.samples import Samples
from edge_capture.input.watch import (
    CHANNEL,
    CLIPPING,
    DEAD,
    ENCODING,
    INVALID,
    LOW,
    OFFSET,
    PHASE,
    Finding,
    Watch,
)
from natterjack.audio import AudioFormat, Encoding
from natterjack.emulators import tones
from tests.edge_capture.program import tone
from tests.searching import examples

from .encodings import encoded
from .test_mix import blocks, speech

RATE = 16_000
Audio = npt.NDArray[np.floating]


def watched(
    samples: Samples,
    sizes: int | list[int] = 1280,
    *,
    rate: int = RATE,
    encoding: Encoding = "linear16",
    finish: bool = False,
) -> list[Finding]:
    """Return the findings about samples of shape (frames, channels)."""
    watch = Watch(AudioFormat(encoding, rate, samples.shape[1]))
    found = [finding for block in blocks(samples, sizes) for finding in watch.feed(block)]
    return found + (watch.finish() if finish else [])


def pcm(*channels: Audio) -> npt.NDArray[np.int16]:
    samples: Audio = np.stack(channels, axis=1).clip(-1, 1)
    return np.rint(samples * 32767).astype(np.int16)


def summary(findings: list[Finding]) -> list[tuple[str, bool, float]]:
    return [(each.code, each.began, round(each.frame / RATE, 1)) for each in findings]


def music(seed: int, seconds: float, level: float) -> Audio:
    """Return chords with an attack and a decay, each of several overtones."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(round(seconds * 2)):
        notes = 110 * 2 ** (rng.integers(0, 36, 4) / 12)
        chord = sum(
            tone(note * k, 0.5, RATE, 1 / k) for note in notes for k in (1, 2, 3) if note * k < 7900
        )
        parts.append(chord * np.exp(-np.arange(8000) / 4000) * rng.choice([0.3, 1]))
    audio: Audio = np.concatenate(parts)
    audio *= level / np.abs(audio).max()
    return audio


def noise(seed: int, seconds: float, level: float) -> Audio:
    return np.random.default_rng(seed).normal(0, level, round(seconds * RATE))


def words(seed: int, seconds: float, level: float) -> Audio:
    audio = np.frombuffer(tones.encode(tones.sequence(200)[seed % 50 :]), "<i2") / 32768
    return level * audio[: round(seconds * RATE)]


def spoken(seed: int, seconds: float, level: float) -> Audio:
    return speech(seed, seconds, level) + noise(seed, seconds, 3e-4)


makers: list[Callable[[int, float, float], Audio]] = [spoken, music, noise, words]


@examples(60)
@given(
    seed=st.integers(0, 1000),
    makers=st.lists(st.sampled_from(makers), min_size=1, max_size=3),
    level=st.sampled_from([0.001, 0.01, 0.1, 0.25]),
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=5).map(lambda some: [1280, *some]),
    floats=st.booleans(),
)
def test_nothing_is_found_in_usual_audio(
    seed: int,
    makers: list[Callable[[int, float, float], Audio]],
    level: float,
    sizes: list[int],
    floats: bool,
) -> None:
    """Speech, music, the noise of a fan and of a quiet room, in any number of channels."""
    samples = pcm(*(maker(seed + n, 25, level) for n, maker in enumerate(makers)))
    assert watched(samples.astype(np.float32) / 32768 if floats else samples, sizes) == []


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found_in_usual_stereo(seed: int) -> None:
    """The same twice, two microphones at a distance, a pan, and music with a wide side."""
    near = spoken(seed, 25, 0.2)
    side = music(seed, 25, 0.1)
    for left, right in (
        (near, near),
        (near, 0.7 * np.roll(near, 12) + noise(1, 25, 0.001)),
        (near, 0.05 * near),
        (near + side, near - side),
        (music(seed, 25, 0.9), music(seed, 25, 0.9)),
    ):
        assert watched(pcm(left, right)) == []


def around(special: Audio, usual: Audio) -> Samples:
    """Return 15 s of usual audio, 20 s that is special, and 15 s of usual audio."""
    return pcm(*np.concatenate([usual, special, usual]).T)


USUAL = np.stack([spoken(1, 15, 0.1), spoken(2, 15, 0.1)], axis=1)
LONG = np.stack([spoken(3, 20, 0.1), spoken(4, 20, 0.1)], axis=1)


@pytest.mark.parametrize("sizes", [320, 1280, 8000, [1, 5000, 17]])
@pytest.mark.parametrize(
    ("code", "special", "words"),
    [
        (DEAD, 0 * LONG, "the input has zeros only: it is muted or disconnected"),
        (DEAD, 0 * LONG + 0.25, "the input has a constant value (8192)"),
        (LOW, 3e-5 * np.sign(LONG), "noise of a converter"),
        (LOW, 3e-5 * np.sign(LONG) + 0.01, "gain is far too low"),
        (CLIPPING, 30 * LONG, "% of the samples are clipped: lower the gain"),
        (PHASE, LONG[:, :1] * [1, -1], "channels 1 and 2 have opposite phase"),
        (PHASE, LONG[:, :1] * [-0.4, 1] + 1e-4, "--split-channels"),
        (CHANNEL, LONG * [0, 1], "only channel 2 of 2 has audio"),
        (CHANNEL, LONG * [1, 1e-4], "only channel 1 of 2 has audio"),
    ],
)
def test_each_finding_begins_and_ends_once(
    code: str, special: Audio, words: str, sizes: int | list[int]
) -> None:
    found = watched(around(special, USUAL), sizes)
    assert [(each.code, each.began) for each in found] == [(code, True), (code, False)]
    began, ended = found
    assert words in began.text
    assert 14 <= began.frame / RATE <= 19
    assert 33 <= ended.frame / RATE <= 46


def test_what_a_source_begins_with_is_found_at_once() -> None:
    found = watched(pcm(*np.concatenate([0 * USUAL, LONG]).T))
    assert summary(found) == [(DEAD, True, 0), (DEAD, False, 15)]
    watch = Watch(AudioFormat("linear16", RATE, 1))
    counts = [len(watch.feed(np.zeros((1600, 1), np.int16))) for _ in range(101)]
    assert counts == [0] * 99 + [1, 0]


def test_one_of_many_channels() -> None:
    channels = np.zeros((20 * RATE, 8))
    channels[:, 4] = LONG[:, 0]
    (found,) = watched(pcm(*channels.T))
    assert (found.code, found.frame) == (CHANNEL, 0)
    assert "only channel 5 of 8 has audio" in found.text


def test_silence_says_nothing_about_the_phase() -> None:
    """A finding about audio is not over because there is none."""
    quiet = np.stack([noise(1, 30, 1e-4), noise(2, 30, 1e-4)], axis=1)
    found = watched(pcm(*np.concatenate([LONG[:, :1] * [1, -1], quiet, LONG[:, :1] * [1, -1]]).T))
    assert summary(found) == [(PHASE, True, 0)]


def test_what_comes_and_goes_is_not_said_each_time() -> None:
    """An hour of pauses of 15 s, after a noise gate, in a telephone call: an end is awaited for
    longer each time, until the audio between two pauses is shorter."""
    watch = Watch(AudioFormat("linear16", 100, 1))
    rng = np.random.default_rng(1)
    found: list[Finding] = []
    for _ in range(60 * 2):
        found += watch.feed(rng.integers(-9000, 9000, (1500, 1)).astype(np.int16))
        found += watch.feed(np.zeros((1500, 1), np.int16))
    assert Counter(each.code for each in found) == {DEAD: 7}
    assert found[0].began


def test_short_audio_is_judged_at_its_end() -> None:
    assert summary(watched(pcm(*(LONG[:24_000, :1] * [1, -1]).T), finish=True)) == [
        (PHASE, True, 0)
    ]
    assert summary(watched(np.zeros((3 * RATE, 1), np.int16), finish=True)) == [(DEAD, True, 0)]
    assert watched(pcm(LONG[: 3 * RATE, 0]), finish=True) == []
    assert watched(np.zeros((1000, 1), np.int16), finish=True) == []
    # A finding that continues is not found again.
    assert len(watched(np.zeros((15 * RATE, 1), np.int16), finish=True)) == 1


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_telephone_audio_is_watched(encoding: Encoding) -> None:
    silence = {"mulaw": 0xFF, "alaw": 0xD5}[encoding]
    audio = np.frombuffer(encoded(spoken(1, 15, 0.1), encoding), np.uint8)[:, None]
    dead = np.full((20 * RATE, 1), silence, np.uint8)
    found = watched(np.concatenate([audio, dead, audio]), encoding=encoding)
    assert summary(found) == [(DEAD, True, 15), (DEAD, False, 35)]
    assert "zeros only" in found[0].text


ENCODINGS = ["s16be", "u8", "s24le", "s24be", "s32le", "f32le", "f32be", "f64le", "mulaw", "alaw"]


@examples(40)
@given(
    # Music is not recognized in encodings of one byte: it makes too little noise.
    case=st.sampled_from(
        [
            (name, maker)
            for name in ENCODINGS
            for maker in (spoken, words, music)
            if maker != music or name not in ("u8", "mulaw", "alaw")
        ]
    ),
    level=st.sampled_from([0.1, 0.3]),
    seed=st.integers(0, 1000),
)
def test_another_encoding_is_recognized(
    case: tuple[str, Callable[[int, float, float], Audio]], level: float, seed: int
) -> None:
    name, maker = case
    data = encoded(maker(seed, 25, level), name)
    samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2")[:, None]
    found = [each for each in watched(samples) if each.code == ENCODING]
    assert [each.began for each in found] == [True]
    assert f"calls it {name}" in found[0].text or f"--encoding {name}" in found[0].text


def test_linear_audio_that_was_declared_as_mulaw() -> None:
    data = encoded(spoken(1, 25, 0.1), "s16le")
    samples = np.frombuffer(data, np.uint8)[:, None]
    (found,) = (each for each in watched(samples, encoding="mulaw") if each.code == ENCODING)
    assert "It is probably 16-bit PCM" in found.text


def test_a_dead_channel_that_was_not_declared() -> None:
    samples = pcm(spoken(1, 25, 0.1), np.zeros(25 * RATE)).reshape(-1, 1)
    (found,) = (each for each in watched(samples) if each.code == ENCODING)
    assert "or two channels of which one is dead" in found.text


def test_a_byte_that_is_missing() -> None:
    data = encoded(spoken(1, 25, 0.1), "s16le")[1:-1]
    found = watched(np.frombuffer(data, "<i2")[:, None])
    assert [each.code for each in found if each.began and each.code == ENCODING] == [ENCODING]
    assert any("16-bit PCM that is shifted by 1 byte" in each.text for each in found)


def test_encoded_audio() -> None:
    data = np.random.default_rng(1).bytes(2 * 20 * RATE)
    (found,) = watched(np.frombuffer(data, "<i2")[:, None])
    assert "It is probably encoded or encrypted audio" in found.text


def test_samples_that_are_no_numbers() -> None:
    watch = Watch(AudioFormat("linear16", RATE, 1))
    found = []
    for number, block in enumerate(blocks(LONG[:, :1].astype(np.float32), 1600)):
        found += watch.feed(block, invalid=3 if number == 33 else 0)
    assert summary(found) == [(INVALID, True, 3), (INVALID, False, 4)]
    assert found[0].text.startswith("3 samples are NaN, infinite or huge")


def test_lost_frames_count() -> None:
    watch = Watch(AudioFormat("linear16", RATE, 1))
    found = []
    for second in range(12):
        found += watch.feed(np.zeros((RATE, 1), np.int16), lost_frames=0 if second else 5 * RATE)
    assert summary(found) == [(DEAD, True, 5)]


def test_a_constant_offset_begins_and_ends() -> None:
    shifted = LONG[:, :1] * 0.5 + 0.1
    found = watched(pcm(*np.concatenate([LONG[:, :1], shifted, LONG[:, :1]]).T))
    assert [(code, began) for code, began, _ in summary(found)] == [(OFFSET, True), (OFFSET, False)]
    assert found[0].text.startswith("the audio has a constant offset of +10% of full scale")
    second = watched(pcm(LONG[:, 0], LONG[:, 1] * 0.5 - 0.1))
    assert "channel 2 has a constant offset of -10%" in next(
        each.text for each in second if each.code == OFFSET
    )


def test_an_offset_must_be_steady_and_beside_a_signal() -> None:
    swaying = np.repeat(np.array([0.2, -0.2] * 10), RATE) + noise(1, 20, 0.01)
    assert OFFSET not in {each.code for each in watched(pcm(swaying))}
    assert {each.code for each in watched(pcm(np.full(20 * RATE, 0.3)))} == {DEAD}


def test_the_level_is_that_of_the_last_ten_seconds() -> None:
    watch = Watch(AudioFormat("linear16", RATE, 2))
    assert watch.level is None
    watch.feed(pcm(np.full(5 * RATE, 1.0), np.zeros(5 * RATE)))
    level = watch.level
    assert level is not None
    assert level.seconds == 5
    assert level.zeros == 0.5
    assert (level.peak_dbfs, level.rms_dbfs) == pytest.approx((0, 0), abs=0.001)
    assert (level.clipped, level.offset) == pytest.approx((1, 1), abs=0.001)
    watch.feed(pcm(tone(440, 10, RATE, 0.5), np.zeros(10 * RATE)))
    level = watch.level
    assert level is not None
    assert level.seconds == 10
    assert (level.peak_dbfs, level.rms_dbfs) == pytest.approx((-6.02, -9.03), abs=0.02)
    assert level.offset == pytest.approx(0, abs=0.001)
    watch.feed(np.zeros((10 * RATE, 2), np.int16))
    assert watch.level is not None
    assert watch.level[:-1] == pytest.approx((SILENCE_DBFS, SILENCE_DBFS, 1, 0, 0, 10))
    assert watch.level.correlation is None


@pytest.mark.parametrize("sign", [1, -1])
def test_the_correlation_of_channels_is_a_figure(sign: int) -> None:
    audio = (speech(1, 3) * 20_000).astype(np.int16)
    watch = Watch(AudioFormat("linear16", RATE, 2))
    watch.feed(np.stack([audio, sign * audio], axis=1))
    assert watch.level is not None
    assert watch.level.correlation == pytest.approx(sign, abs=0.01)


def test_the_findings_in_force_are_those_that_have_begun_and_not_ended() -> None:
    watch = Watch(AudioFormat("linear16", RATE, 1))
    began = watch.feed(np.zeros((12 * RATE, 1), np.int16))
    assert watch.findings == began
    watch.feed(pcm(LONG[:, 0]))
    assert not watch.findings
