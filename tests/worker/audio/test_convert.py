from __future__ import annotations

import numpy as np
import pytest

from natterjack.audio import AudioFormat
from natterjack.plugin.provider import Capabilities
from worker.audio.convert import Converter, wire_format


def _sine(rate: int, seconds: float, hertz: float = 440.0) -> bytes:
    t = np.arange(round(rate * seconds)) / rate
    return (np.sin(2 * np.pi * hertz * t) * 12_000).astype("<i2").tobytes()


def _run(converter: Converter, data: bytes, piece: int) -> list[bytes]:
    out: list[bytes] = []
    for start in range(0, len(data), piece):
        out.extend(converter.convert(data[start : start + piece]))
    out.extend(converter.flush())
    return out


def test_audio_that_fits_is_passed_through_untouched() -> None:
    same = AudioFormat("linear16", 16_000, 1)
    data = _sine(16_000, 0.08)
    assert next(Converter(same, same).convert(data)) is data
    assert next(Converter(same, same, 80).convert(data)) is data


def test_frames_have_the_length_asked_for_and_nothing_is_lost() -> None:
    same = AudioFormat("linear16", 16_000, 1)
    data = _sine(16_000, 1.0)
    frames = _run(Converter(same, same, 80), data, 1024)
    assert {len(frame) for frame in frames[:-1]} == {2560}
    assert b"".join(frames) == data


def test_resampling_keeps_duration_and_pitch_over_chunks() -> None:
    converter = Converter(AudioFormat("linear16", 48_000, 1), AudioFormat("linear16", 16_000, 1))
    out = np.frombuffer(b"".join(_run(converter, _sine(48_000, 2.0), 7680)), "<i2")
    assert abs(len(out) - 32_000) <= 2
    spectrum = np.abs(np.fft.rfft(out[:16_000]))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    assert abs(int(np.abs(out[1000:-1000]).max()) - 12_000) < 200


def test_channels_are_mixed_down_without_overflow() -> None:
    stereo = np.column_stack([np.full(100, 32_767), np.full(100, 32_767)]).astype("<i2").tobytes()
    converter = Converter(AudioFormat("linear16", 8000, 2), AudioFormat("linear16", 8000, 1))
    out = np.frombuffer(b"".join(_run(converter, stereo, 40)), "<i2")
    assert len(out) == 100
    assert set(out.tolist()) == {32_767}


# Values from the tables of ITU-T G.711: code, linear value at 16 bits.
@pytest.mark.parametrize(
    ("encoding", "code", "value"),
    [
        ("mulaw", 0xFF, 0),
        ("mulaw", 0x80, 32_124),
        ("mulaw", 0x00, -32_124),
        ("mulaw", 0xFE, 8),
        ("alaw", 0xD5, 8),
        ("alaw", 0x55, -8),
        ("alaw", 0xAA, 32_256),
        ("alaw", 0x2A, -32_256),
    ],
)
def test_g711_codes(encoding: str, code: int, value: int) -> None:
    source = AudioFormat(encoding, 8000, 1)  # type: ignore[arg-type]
    converter = Converter(source, AudioFormat("linear16", 8000, 1))
    out = b"".join(converter.convert(bytes([code])))
    assert np.frombuffer(out, "<i2").tolist() == [value]


def test_silence_is_silent_in_every_encoding() -> None:
    for encoding in ("linear16", "mulaw", "alaw"):
        source = AudioFormat(encoding, 8000, 2)
        data = source.silence(10)
        assert len(data) == 10 * source.frame_bytes
        out = b"".join(_run(Converter(source, AudioFormat("linear16", 8000, 1)), data, 4))
        assert np.abs(np.frombuffer(out, "<i2")).max() <= 8


def test_wire_format_leaves_alone_what_the_provider_takes() -> None:
    takes = Capabilities(encodings=("linear16", "mulaw"), sample_rates=(8000, 16_000))
    mulaw = AudioFormat("mulaw", 8000, 1)
    assert wire_format(mulaw, takes) == mulaw
    assert wire_format(AudioFormat("linear16", 44_100, 2), takes) == ("linear16", 16_000, 1)
    assert wire_format(AudioFormat("linear16", 11_025, 1), takes) == ("linear16", 16_000, 1)
    assert wire_format(AudioFormat("alaw", 8000, 1), takes) == ("linear16", 8000, 1)
    assert wire_format(AudioFormat("mulaw", 8000, 2), takes) == ("linear16", 8000, 1)
