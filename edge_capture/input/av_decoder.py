"""Decodes a file with PyAV. It runs alone: `python -P av_decoder.py FORMATS ...`.

    FORMATS probe PATH              print the audio tracks and the length, as JSON
    FORMATS decode TRACK FILL PATH  write an audio track to standard output, as a WAV file of 16-bit
                                    samples; silence for holes of FILL seconds or more

FORMATS are the demuxers that may be used, with commas. The exit status is 1 if the file cannot be
read, and standard error says why, or which parts of it are damaged.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import Any, BinaryIO

import av

_UNKNOWN = 0xFFFF_FFFF
_MAX_FILL_S = 3600.0
"""Timestamps may also jump because the recorder's clock was set: that is not a hole."""
_SILENCE = bytes(1 << 16)


def open_file(path: str, formats: str) -> Any:
    """Open a file. It must not name other files, or addresses."""
    options = {"protocol_whitelist": "file", "format_whitelist": formats}
    return av.open(f"file:{path}", options=options, metadata_errors="replace")


def probe(container: Any) -> dict[str, Any]:
    """Return the codec and language of each audio track, and the length in seconds."""
    return {
        "tracks": [
            (stream.codec_context.name, None if stream.language == "und" else stream.language)
            for stream in container.streams.audio
        ],
        "seconds": container.duration / av.time_base if container.duration else None,
    }


class Writer:
    """Writes frames as a WAV file of unknown length."""

    def __init__(self, out: BinaryIO, fill_s: float, start_s: float) -> None:
        self._out = out
        self._fill_s = fill_s
        self._start_s = start_s
        self._frames = 0
        self._rate = self._frame_bytes = 0

    def write(self, frame: Any) -> None:
        """Write a frame of packed 16-bit samples, after silence if it comes late."""
        channels = len(frame.layout.channels)
        if not self._rate:
            self._rate, self._frame_bytes = frame.sample_rate, 2 * channels
            form = struct.pack(
                "<HHIIHH", 1, channels, self._rate, self._rate * 2 * channels, 2 * channels, 16
            )
            self._out.write(b"RIFF" + struct.pack("<I", _UNKNOWN) + b"WAVE")
            self._out.write(b"fmt " + struct.pack("<I", len(form)) + form)
            self._out.write(b"data" + struct.pack("<I", _UNKNOWN))
        first = 0
        if frame.time is not None:
            late = round((frame.time - self._start_s) * self._rate) - self._frames
            if self._fill_s <= late / self._rate <= _MAX_FILL_S:
                self._fill(late)
            elif not self._frames:
                first = min(max(0, -late), frame.samples)  # before the start, as encoders begin
        data = bytes(frame.planes[0])[: frame.samples * self._frame_bytes]
        self._out.write(data[first * self._frame_bytes :])
        self._frames += frame.samples - first

    def _fill(self, frames: int) -> None:
        self._frames += frames
        left = frames * self._frame_bytes
        while left:
            left -= self._out.write(_SILENCE[:left])


def decode(container: Any, track: int, fill_s: float, out: BinaryIO) -> None:
    """Write an audio track, in the format of its first frame; leave out what is damaged."""
    stream = container.streams.audio[track - 1]
    writer = Writer(out, fill_s, (container.start_time or 0) / av.time_base)
    resampler = None
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            print(error, file=sys.stderr)
            continue
        for frame in frames:
            if resampler is None:
                layout, rate = frame.layout.name, frame.sample_rate
                resampler = av.AudioResampler("s16", layout, rate)
            try:
                parts = resampler.resample(frame)
            except ValueError:  # the format of the file changes
                parts = resampler.resample(None)
                resampler = av.AudioResampler("s16", layout, rate)
                parts += resampler.resample(frame)
            for part in parts:
                writer.write(part)
    for part in resampler.resample(None) if resampler is not None else ():
        writer.write(part)


def main(formats: str, command: str, *arguments: str) -> int:
    """Run a command. Returns the exit status."""
    av.logging.set_level(av.logging.ERROR)
    av.logging.restore_default_callback()  # to standard error
    try:
        with open_file(arguments[-1], formats) as container:
            if command == "probe":
                print(json.dumps(probe(container)))
            else:
                decode(container, int(arguments[0]), float(arguments[1]), sys.stdout.buffer)
                sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads: Python must not complain at its end
        return 1
    except (av.error.FFmpegError, OSError) as error:
        print(getattr(error, "strerror", None) or error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
