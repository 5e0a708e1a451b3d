"""The audio of a client on its way into its session."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from natterjack.audio import Encoding

from ..audio.convert import ENCODINGS, Output, RawFormat
from ..audio.decoder import OPUS, Decoder, Decoders, Source

_AS_IT_IS: dict[str, Encoding] = {
    "linear16": "linear16", "pcm_s16le": "linear16", "mulaw": "mulaw", "alaw": "alaw",
}  # fmt: skip
"""Encodings that sessions have, too, by the names of clients."""
_RAW = {"linear32": "linear32", "pcm_f32le": "float32"}
_DECODED_RATE = 16_000


class Wire(NamedTuple):
    """The audio that a client sends, and the format in which its session gets it."""

    encoding: Encoding
    """The session's encoding."""
    sample_rate: int
    decoded: bool = False
    """Whether the client's audio is decoded to that."""
    source: Source | None = None
    """The format that is decoded; None for a container."""
    channels: int = 1
    """Interleaved channels after decoding."""

    @classmethod
    def of(
        cls, name: str | None, sample_rate: int | None, channels: int = 1, *, apart: bool = False
    ) -> Wire:
        """Return the wire for an encoding, whose `name` is None or unknown for a container. The
        `channels` of raw audio stay `apart` or are mixed."""
        if name in _AS_IT_IS and sample_rate is not None:
            return cls(_AS_IT_IS[name], sample_rate, channels=channels)
        if name in _RAW and sample_rate is not None:
            source = RawFormat(ENCODINGS[_RAW[name]], sample_rate, channels)
            return cls("linear16", sample_rate, True, source, channels if apart else 1)
        return cls("linear16", _DECODED_RATE, True, OPUS if name == "opus" else None)

    def decoder(self, decoders: Decoders) -> Decoder | None:
        """The decoder; None if the session takes the audio as it is. Raises: UndecodableAudio."""
        if not self.decoded:
            return None
        return decoders.open(Output(self.sample_rate, self.channels), self.source)


class Takes(Protocol):
    """A session, or those of several channels."""

    async def send(self, audio: bytes) -> None: ...


PLAIN = Wire("linear16", 16_000)
"""The audio of a session for which the client names no format."""


class Intake:
    """Passes audio on to a session, decoded if it must be."""

    def __init__(self, session: Takes, wire: Wire, decoders: Decoders) -> None:
        """Raises: UndecodableAudio."""
        self._session = session
        self._decoder = wire.decoder(decoders)

    async def take(self, data: bytes) -> None:
        """Take what the client has sent; wait while the session has no room. Raises: SessionEnded,
        UndecodableAudio, DecoderUnavailable."""
        if self._decoder is None:
            await self._session.send(data)
            return
        async for audio in self._decoder.decode(data):
            await self._session.send(audio)

    async def finish(self) -> None:
        """Take what is left in the decoder, at the end of the audio. Raises as `take` does."""
        if self._decoder is not None:
            async for audio in self._decoder.finish():
                await self._session.send(audio)

    async def close(self) -> None:
        """Release the decoder. Idempotent."""
        if self._decoder is not None:
            await self._decoder.close()
