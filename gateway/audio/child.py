"""The process that decodes one stream or file with PyAV.

A decoder parses bytes of strangers with a library in C, so it has a process of its own: one that
crashes, fills its memory or computes without end harms only its own stream. The process is a fork
of `gateway.audio.server`, and exchanges the messages of `gateway.audio.link` with the gateway.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from edge_capture.input.media import FILL_S

from .boxes import MAX_BOX_BYTES, Boxes
from .convert import Converter, Output
from .errors import UndecodableAudio
from .link import Gone, Link

CODECS = ("opus", "libopus", "vorbis", "aac", "mp3", "mp3float", "mp2", "mp2float", "mp1",
          "mp1float", "flac", "alac", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s32le",
          "pcm_f32le", "pcm_mulaw", "pcm_alaw")  # fmt: skip
"""The codecs that may be used, by FFmpeg's names. FFmpeg has hundreds; few are kept with care."""

_MEMORY_BYTES = 256 << 20
"""Memory that a decoder may take beyond what the process begins with."""
_BARREN_BYTES = 16 << 20
"""Bytes without audio, such as pictures, after which a stream is refused."""
_BUFFER_BYTES = 1024
"""The bytes that FFmpeg reads at a time. Audio waits until so many have arrived."""
_FILE_BUFFER_BYTES = 64 << 10
_MAX_FILL_S = 600.0
"""Timestamps may also jump because a clock was set or a byte was damaged: that is not a hole."""
_BACK_S = 1.0
"""Timestamps that go back by more than this begin a new count."""


class Incoming:
    """The client's bytes, as the file that FFmpeg reads. It cannot seek."""

    def __init__(self, link: Link, boxes: Boxes | None = None) -> None:
        self._link = link
        self._boxes = boxes
        self._pieces: deque[memoryview] = deque()
        self._waiting = False
        """Whether the gateway waits for `W`."""
        self._ended = False
        self._failed = False
        self.barren = 0
        """Bytes since the last audio."""

    def read(self, size: int) -> bytes:
        """Return between 1 and `size` bytes, or none at the end. Raises: UndecodableAudio, Gone."""
        if self._failed:
            return b""  # FFmpeg asks again after an error, which PyAV raises when FFmpeg returns
        self._failed = True
        part = self._read(size)
        self._failed = False
        return part

    def _read(self, size: int) -> bytes:
        while not self._pieces and not self._ended:
            data = self.packet()
            pieces = [data] if self._boxes is None else self._boxes.feed(data)
            if self._ended and self._boxes is not None:
                pieces.append(self._boxes.rest())
            self._pieces.extend(memoryview(piece) for piece in pieces if piece)
        if not self._pieces:
            return b""
        piece = self._pieces[0]
        if len(piece) > size:
            self._pieces[0] = piece[size:]
        else:
            self._pieces.popleft()
        self.barren += min(len(piece), size)
        if self.barren > _BARREN_BYTES:
            raise UndecodableAudio(f"there is no audio within {_BARREN_BYTES} bytes")
        return bytes(piece[:size])

    def packet(self) -> bytes:
        """Return the next message of the client; nothing at the end."""
        if self._waiting:
            self._link.send(b"W")
        kind, data = self._link.receive()
        self._waiting = kind == b"A"
        self._ended = kind == b"E"
        return data


class Sound:
    """Decoded frames, on their way to the gateway."""

    def __init__(self, link: Link, output: Output, name: str) -> None:
        self._link = link
        self._output = output
        self._name = name
        self._converter: Converter | None = None
        self._format: tuple[str, int] | None = None
        self._packed: Any = None
        self._start: float | None = None
        self._frames = 0
        """Frames since `_start`, at the rate of the source."""

    def add(self, frame: Any) -> None:
        """Convert a frame and send it, after silence if it comes late."""
        if (frame.layout.name, frame.sample_rate) != self._format:
            self._begin(frame)
        assert self._converter is not None
        self._fill(frame)
        self._frames += frame.samples
        for part in self._packed.resample(frame):
            channels = len(part.layout.channels)
            self._link.audio(self._converter.convert(part.to_ndarray().reshape(-1, channels)))

    def finish(self) -> bool:
        """Send the rest. Returns whether there was any audio."""
        if self._converter is None:
            return False
        self._link.audio(self._converter.finish())
        return True

    def _begin(self, frame: Any) -> None:
        """Prepare for the format of a frame, which may change in a stream."""
        rate, channels = frame.sample_rate, len(frame.layout.channels)
        converter = Converter(rate, channels, self._output)
        if self._converter is None:
            found = f"{self._name}, {rate} Hz, {channels} ch"
            self._output = self._output._replace(channels=converter.channels)
            text = json.dumps({"text": found, "channels": converter.channels})
            self._link.send(b"F", text.encode())
        else:
            self._link.audio(self._converter.finish())
        self._converter = converter
        self._packed = av.AudioResampler("flt", frame.layout, rate)
        self._format = (frame.layout.name, rate)
        self._start = None

    def _fill(self, frame: Any) -> None:
        assert self._converter is not None
        if frame.time is None:
            return
        rate = frame.sample_rate
        late = None
        if self._start is not None:
            late = frame.time - self._start - self._frames / rate
        if late is None or not -_BACK_S < late < _MAX_FILL_S:
            self._start, self._frames = frame.time, 0
        elif late >= FILL_S:
            left = round(late * rate)
            self._frames += left
            silence = np.zeros((min(left, rate), len(frame.layout.channels)), np.float32)
            while left:
                left -= len(part := silence[:left])
                self._link.audio(self._converter.convert(part))


def decode_container(source: Any, options: dict[str, Any], link: Link) -> None:
    """Decode the first audio track of a stream or a file. Raises: UndecodableAudio, Gone."""
    settings = {
        "codec_whitelist": ",".join(CODECS),
        "format_whitelist": options["demuxer"],
        "protocol_whitelist": "",  # it must not name files or addresses
    }
    if options["frames"]:
        # Without this, FFmpeg reads two seconds of audio before it begins. Other containers are
        # opened by their header, and would lose audio.
        settings["probesize"] = "32"
    incoming = isinstance(source, Incoming)
    buffer_bytes = _BUFFER_BYTES
    if not incoming:
        buffer_bytes = _FILE_BUFFER_BYTES
    elif options["demuxer"] == "mp4":
        buffer_bytes = MAX_BOX_BYTES
    try:
        container = av.open(
            source, "r", format=options["demuxer"], options=settings, metadata_errors="ignore",
            buffer_size=buffer_bytes,
        )  # fmt: skip
    except (av.error.FFmpegError, ValueError) as error:
        raise UndecodableAudio(f"the {options['name']} header is malformed or cut") from error
    if not container.streams.audio:
        raise UndecodableAudio(f"there is no audio track in the {options['name']}")
    stream = container.streams.audio[0]
    codec = stream.codec_context
    if codec is None or codec.name not in CODECS:
        name = "unknown" if codec is None else codec.name
        raise UndecodableAudio(f"audio of the codec {name} is not decoded here")
    codec.thread_count = 1  # threads would hold frames back
    sound = Sound(link, Output(*options["output"]), f"{options['name']}/{codec.name}")
    for packet in _packets(container, stream):
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, ValueError):  # a damaged packet
            continue
        for frame in frames:
            if incoming:
                source.barren = 0
            sound.add(frame)
    if not sound.finish():
        problem = f"there is no audio in the {options['name']}"
        if incoming and options["demuxer"] == "mp4":
            problem += ", or its index is at its end; a stream needs fragments, or the index first"
        raise UndecodableAudio(problem)


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a track, up to the end or to damage that cannot be read past."""
    try:
        yield from container.demux(stream)
    except (av.error.FFmpegError, ValueError):
        return


def decode_packets(incoming: Incoming, options: dict[str, Any], link: Link) -> None:
    """Decode a stream whose messages are the packets of a codec. Raises: UndecodableAudio, Gone."""
    codec = av.CodecContext.create(options["demuxer"], "r")
    sound = Sound(link, Output(*options["output"]), options["name"])
    decoded = False
    while data := incoming.packet():
        try:
            frames = codec.decode(av.Packet(data))
        except (av.error.FFmpegError, ValueError):
            if decoded:
                continue  # a damaged packet
            raise UndecodableAudio(f"a message is not a packet of {options['name']}") from None
        for frame in frames:
            decoded = True
            sound.add(frame)
    if not sound.finish():
        raise UndecodableAudio("there is no audio")


def confine() -> None:
    """Bound what this process may take from others."""
    limits = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    with contextlib.suppress(FileNotFoundError):  # not Linux, and no other system enforces it
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + _MEMORY_BYTES
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def run(connection: socket.socket, file: int | None) -> None:
    """Serve one stream, or decode a file that is open."""
    link = Link(connection)
    try:
        link.send(b"H")
        _, data = link.receive()
        options = json.loads(data)
        confine()
        if file is not None:
            with os.fdopen(file, "rb") as source:
                source.seek(0)  # the gateway has read its beginning, and shares the position
                decode_container(source, options, link)
        elif options["packets"]:
            decode_packets(Incoming(link), options, link)
        else:
            boxes = Boxes() if options["demuxer"] == "mp4" else None
            decode_container(Incoming(link, boxes), options, link)
        link.send(b"D")
    except UndecodableAudio as error:
        _report(link, str(error))
    except MemoryError:
        _report(link, "decoding takes too much memory")
    except Gone:
        pass


def _report(link: Link, reason: str) -> None:
    with contextlib.suppress(Gone):
        link.send(b"X", reason.encode())
