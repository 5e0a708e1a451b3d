"""Files of many kinds, made by ffmpeg, and the two decoders that read them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest

DECODERS = ["ffmpeg", "PyAV"]


def use_decoder(name: str | None, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process, and those that it starts, find only this decoder, or none. PyAV is still
    found by those."""
    directory.mkdir()
    if name == "ffmpeg":
        (directory / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    monkeypatch.setenv("PATH", str(directory))
    if name is None:
        monkeypatch.setitem(sys.modules, "av", None)


def make(path: Path, *arguments: object) -> Path:
    """Run ffmpeg with `arguments`, which write `path`."""
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *map(str, arguments),
         str(path)],
        check=True, env=os.environ | {"AV_LOG_FORCE_NOCOLOR": "1"},
    )  # fmt: skip
    return path


def sine(hertz: int, seconds: float, rate: int = 44_100) -> list[str]:
    """The arguments of an input with a tone of amplitude 1/8."""
    return ["-f", "lavfi", "-i", f"sine=frequency={hertz}:duration={seconds}:sample_rate={rate}"]


def video(seconds: float) -> list[str]:
    """The arguments of an input with a moving picture."""
    return ["-f", "lavfi", "-i", f"testsrc=duration={seconds}:size=64x48:rate=5"]


def long(path: Path, seconds: int, *encoding: str) -> Path:
    """A file with a tone of `seconds`, a multiple of 10. Only 10 of them are encoded."""
    part = make(path.with_name(f"part-{path.name}"), *sine(440, 10), *encoding)
    make(path, "-stream_loop", seconds // 10 - 1, "-i", part, "-c", "copy")
    part.unlink()
    return path
