"""The tone-word codec decodes every complete word and nothing else."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest
import soxr

from natterjack.audio import Encoding
from natterjack.emulators import pcm, tones
from natterjack.emulators.tones import Counts, Decoder, TimedWord, compare, encode, places, sequence
from natterjack.emulators.vocabulary import VOCABULARY
from tests.searching import tried

ENCODINGS: tuple[Encoding, ...] = ("linear16", "mulaw", "alaw")


def decode(
    audio: bytes, rate: int = 16000, encoding: Encoding = "linear16", chunk: int | None = None
) -> list[TimedWord]:
    decoder = Decoder(rate, encoding)
    size = chunk or max(len(audio), 1)
    decoded: list[TimedWord] = []
    for at in range(0, len(audio), size):
        decoded += decoder.feed(audio[at : at + size])
    return decoded + decoder.flush()


def words(decoded: list[TimedWord]) -> list[str]:
    return [one.word for one in decoded]


def assert_places(decoded: list[TimedWord], expected: list[TimedWord], tolerance: float) -> None:
    assert words(decoded) == words(expected)
    for one, other in zip(decoded, expected, strict=True):
        assert one.start == pytest.approx(other.start, abs=tolerance)
        assert one.end == pytest.approx(other.end, abs=tolerance)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 24000, 44100, 48000])
def test_all_words_in_every_format(rate: int, encoding: Encoding) -> None:
    audio = encode(VOCABULARY, rate, encoding=encoding, lead_seconds=0.1237)
    expected = places(VOCABULARY, lead_seconds=0.1237)
    assert_places(decode(audio, rate, encoding), expected, 0.003)


@pytest.mark.parametrize("chunk", [1, 2, 77, 2560, 64000])
def test_chunks_of_any_size(chunk: int) -> None:
    sent = sequence(12)
    audio = encode(sent, 8000, lead_seconds=0.05)
    assert_places(decode(audio, 8000, chunk=chunk), places(sent, lead_seconds=0.05), 0.003)


@pytest.mark.parametrize(("source", "target"), [(48000, 16000), (16000, 8000), (8000, 48000)])
def test_survives_resampling_in_pieces(source: int, target: int) -> None:
    sent = sequence(40)
    samples = np.frombuffer(encode(sent, source), "<i2")
    resampler = soxr.ResampleStream(source, target, 1, dtype="int16")
    piece = source // 12
    parts = [
        resampler.resample_chunk(samples[at : at + piece], last=at + piece >= len(samples))
        for at in range(0, len(samples), piece)
    ]
    audio = np.concatenate(parts).tobytes()
    assert_places(decode(audio, target), places(sent), 0.005)


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.06])
def test_survives_noise(noise: float) -> None:
    """Down to 12 dB of signal over noise."""
    sent = sequence(100)
    clean = pcm.to_samples(encode(sent), "linear16")
    rng = np.random.default_rng(7)
    audio = pcm.to_linear16(clean + rng.normal(0, noise, len(clean)))
    assert_places(decode(audio), places(sent), 0.005)


@pytest.mark.parametrize("gain", [0.05, 0.1, 0.5, 1.9])
def test_survives_levels(gain: float) -> None:
    sent = sequence(30)
    audio = pcm.to_linear16(pcm.to_samples(encode(sent), "linear16") * gain)
    assert_places(decode(audio), places(sent), 0.003)


def test_noise_alone_has_no_words() -> None:
    rng = np.random.default_rng(3)
    for noise in (0.001, 0.05, 0.3):
        assert decode(pcm.to_linear16(rng.normal(0, noise, 16000 * 20))) == []


@pytest.mark.parametrize("rate", [8000, 16000])
def test_an_incomplete_word_is_not_decoded(rate: int) -> None:
    word = encode(["castle"], rate, tail_seconds=0)
    step = 2 * rate // 1000
    for cut_ms in range(10, 235, 3):
        cut = cut_ms * step
        for tail in (b"", tones.silence(0.2, rate)):
            assert decode(word[cut:] + tail, rate) == [], f"head cut by {cut_ms} ms"
            assert decode(word[: len(word) - cut] + tail, rate) == [], f"tail cut by {cut_ms} ms"


def test_damage_never_creates_other_words() -> None:
    """A span is removed, repeated or silenced. Distant words are decoded, damaged ones are not, and
    no word appears that was not sent."""
    chance = random.Random(11)
    sent = sequence(30)
    audio, at = encode(sent, 8000), places(sent)
    for _ in range(tried(50)):
        first = chance.randrange(0, len(audio) // 2 - 8000)
        last = first + chance.randrange(160, 8000)
        start, end = first / 8000, last / 8000
        touched = {w.word for w in at if w.start < end and w.end > start}
        # A word needs silence around it, so a word joined to a fragment is not decoded.
        near = {w.word for w in at if w.start < end + 0.09 and w.end > start - 0.09}
        before, middle, after = audio[: 2 * first], audio[2 * first : 2 * last], audio[2 * last :]
        for damaged in (before + after, before + bytes(len(middle)) + after):
            decoded = words(decode(damaged, 8000))
            assert set(sent) - near <= set(decoded)
            # A cut with both ends at the edge of a word may leave the word complete.
            assert compare(sent, decoded).invented == 0
            assert len(touched & set(decoded)) <= 1
            assert compare(sent, decoded).doubled == 0
        twice = words(decode(before + middle + middle + after, 8000))
        assert compare(sent, twice).invented == 0


def test_the_head_of_a_word_and_the_tail_of_another_are_not_a_word() -> None:
    chance = random.Random(5)
    for _ in range(300):
        one, other = chance.sample(VOCABULARY, 2)
        at = 2 * chance.randrange(130, 350)
        head, tail = (encode([w], 8000, tail_seconds=0) for w in (one, other))
        decoded = words(decode(head[: 8 * at // 2] + tail[8 * at // 2 :], 8000))
        # If both share the symbol at the seam, one complete word is present.
        assert set(decoded) <= {one, other}


def test_silence_and_speech_are_distinguished() -> None:
    decoder = Decoder(16000)
    decoder.feed(tones.silence(0.5))
    assert not decoder.speaking
    assert decoder.onset is None
    word = encode(["river"], tail_seconds=0)
    decoder.feed(word[: len(word) // 2])
    assert decoder.speaking
    assert decoder.onset == pytest.approx(0.5, abs=0.006)
    assert words(decoder.feed(word[len(word) // 2 :] + tones.silence(0.1))) == ["river"]
    assert not decoder.speaking
    assert decoder.quiet_since == pytest.approx(0.74, abs=0.006)
    assert decoder.seconds == pytest.approx(0.84)


def test_cut_loses_only_the_word_in_progress() -> None:
    sent = sequence(3)
    audio = encode(sent)
    decoder = Decoder(16000)
    middle_of_second = 2 * round(16000 * (0.32 + 0.12))
    decoded = decoder.feed(audio[:middle_of_second]) + decoder.cut()
    decoded += decoder.feed(audio[middle_of_second:]) + decoder.flush()
    assert words(decoded) == [sent[0], sent[2]]


def test_is_fast() -> None:
    """One stream needs less than one percent of a core."""
    audio = encode(sequence(300))
    began = time.process_time()
    decode(audio, chunk=2560)
    assert time.process_time() - began < 0.01 * len(audio) / 32000


# ---- counting -------------------------------------------------------------------------------


def test_every_pair_of_a_sequence_is_unique() -> None:
    sent = sequence(3000)
    assert len(set(sent[:283])) == 283
    assert len(set(itertools.pairwise(sent))) == len(sent) - 1
    with pytest.raises(ValueError, match="at most"):
        sequence(1_000_000)


def test_compare_counts_each_kind() -> None:
    sent = sequence(600)
    assert compare(sent, sent) == Counts()
    assert compare(sent, sent[:100] + sent[101:]) == Counts(lost=1)
    assert compare(sent, sent[:100] + sent[99:]) == Counts(doubled=1)
    assert compare(sent, sent[:300] + sent[290:]) == Counts(doubled=10)
    assert compare(sent, sent[:100] + sent[150:]) == Counts(lost=50)
    swapped = [*sent[:100], sent[101], sent[100], *sent[102:]]
    assert compare(sent, swapped) == Counts(out_of_order=1)
    assert compare(sent, [*sent, "xylophone"]) == Counts(invented=1)
    assert compare(sent, []) == Counts(lost=600)
    shown = [word.capitalize() + "." for word in sent]
    assert compare(sent, shown) == Counts()


def test_compare_is_clean_only_for_equal_sequences() -> None:
    chance = random.Random(13)
    sent = sequence(400)
    for _ in range(100):
        decoded = list(sent)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(decoded))
            match chance.randrange(3):
                case 0:
                    del decoded[at]
                case 1:
                    decoded.insert(chance.randrange(len(decoded)), decoded[at])
                case _:
                    other = chance.randrange(len(decoded))
                    decoded[at], decoded[other] = decoded[other], decoded[at]
        assert (compare(sent, decoded) == Counts()) == (decoded == sent)


# ---- formats --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_g711_is_its_own_inverse(encoding: Encoding) -> None:
    codes = bytes(range(256))
    linear = pcm.to_linear16(pcm.to_samples(codes, encoding) * 32768 / 32767)
    again = pcm.from_linear16(linear, encoding)
    values = pcm.to_samples(codes, encoding).tolist()
    assert pcm.to_samples(again, encoding).tolist() == values
    # ITU-T G.711, full scale and the smallest step of each law.
    peak = {"mulaw": 32124, "alaw": 32256}[encoding]
    assert round(max(values) * 32768) == peak
    assert round(min(v for v in values if v > 0) * 32768) == 8


def test_channels_interleave_split_and_mix() -> None:
    left, right = encode(["apple"]), encode(["river", "castle"])
    both = pcm.interleave(left, right)
    assert words(decode(pcm.split(both, 2)[0])) == ["apple"]
    assert words(decode(pcm.split(both, 2)[1])) == ["river", "castle"]
    only_left = pcm.interleave(left, bytes(len(left)))
    assert words(decode(pcm.mix(only_left, 2))) == ["apple"]
    narrow = pcm.interleave(
        *(pcm.from_linear16(x, "mulaw") for x in (left, right)), encoding="mulaw"
    )
    assert words(decode(pcm.split(narrow, 2, "mulaw")[1], encoding="mulaw")) == [
        "river",
        "castle",
    ]
