"""Raw audio, and WAV, which is raw audio behind a header. They are decoded without a process."""

from __future__ import annotations

from edge_capture.input.wav import BadWav, is_metadata, parse_wav

from .convert import ENCODINGS, Converter, Output, RawFormat
from .errors import UndecodableAudio

_MAX_HEADER_BYTES = 1 << 20
"""A header may have pictures and texts in it."""
_BEHIND_BYTES = 16


class RawDecoder:
    """Decodes raw audio."""

    def __init__(self, source: RawFormat, output: Output) -> None:
        """Raises: UndecodableAudio."""
        self._source = source
        self._converter = Converter(source.sample_rate, source.channels, output)
        self._identity = self._converter.identity and source.coding == ENCODINGS["linear16"]
        self._rest = b""

    @property
    def channels(self) -> int:
        return self._converter.channels

    @property
    def text(self) -> str:
        source = self._source
        return f"{source.coding}, {source.sample_rate} Hz, {source.channels} ch"

    def decode(self, data: bytes) -> bytes:
        """Return the audio that is ready after `data`, which may begin and end within a sample."""
        if self._rest:
            data = self._rest + data
        whole = len(data) - len(data) % self._source.frame_bytes
        self._rest = data[whole:]
        if self._rest:
            data = data[:whole]
        if self._identity or not data:
            return data
        samples = self._source.coding.decode(data).reshape(-1, self._source.channels)
        return self._converter.convert(samples)

    def finish(self) -> bytes:
        """Return the rest. A sample that was cut is left out."""
        return b"" if self._identity else self._converter.finish()


class WavDecoder:
    """Decodes a WAV file that arrives in pieces. Its size need not be known."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._head = b""
        self._raw: RawDecoder | None = None
        self._left: int | None = None
        """Bytes of audio that the header announces and that are to come; None if it does not."""
        self._behind: bytes | None = None
        """The bytes after them, until it is known whether they are audio."""
        self._ended = False

    @property
    def channels(self) -> int | None:
        return self._raw.channels if self._raw is not None else None

    @property
    def text(self) -> str:
        return f"WAV: {self._raw.text}" if self._raw is not None else "WAV"

    def decode(self, data: bytes) -> bytes:
        """Return the audio that is ready after `data`. Raises: UndecodableAudio."""
        if self._raw is None:
            self._head += data
            data = self._begin()
        if self._raw is None or self._ended:
            return b""
        audio = data
        if self._left is not None:
            audio, data = data[: self._left], data[self._left :]
            self._left -= len(audio)
            if not self._left and data:
                audio += self._after(data)
        return self._raw.decode(audio)

    def finish(self) -> bytes:
        """Return the rest. Raises: UndecodableAudio if the header is cut."""
        if self._raw is None:
            raise UndecodableAudio("the header of the WAV file is cut")
        return self._raw.finish()

    def _begin(self) -> bytes:
        """Read the header, and return the first audio if the header is there."""
        try:
            header = parse_wav(self._head)
        except BadWav as error:
            raise UndecodableAudio(f"the WAV file cannot be decoded: {error}") from None
        if header is None:
            if len(self._head) > _MAX_HEADER_BYTES:
                raise UndecodableAudio(
                    f"the WAV file has no audio within its first {_MAX_HEADER_BYTES} bytes"
                )
            return b""
        source = RawFormat(header.coding, header.sample_rate, header.channels)
        self._raw = RawDecoder(source, self._output)
        self._left = header.data_bytes or None  # 0 is what a recorder writes that has not finished
        first, self._head = self._head[header.data_offset :], b""
        return first

    def _after(self, data: bytes) -> bytes:
        """Return the audio behind that which the header announces: a recorder that did not finish
        leaves a wrong size, but others append metadata."""
        self._behind = (self._behind or b"") + data
        if len(self._behind) < _BEHIND_BYTES:
            return b""
        behind, self._behind = self._behind, None
        if is_metadata(behind, None):
            self._ended = True
            return b""
        self._left = None
        return behind
