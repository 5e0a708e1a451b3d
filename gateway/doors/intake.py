"""The audio of a client on its way into its session."""

from __future__ import annotations

from typing import NamedTuple

from natterjack.audio import Encoding

from ..session import ClientSession

_AS_IT_IS: dict[str, Encoding] = {
    "linear16": "linear16", "pcm_s16le": "linear16", "mulaw": "mulaw", "alaw": "alaw",
}  # fmt: skip
_DECODED_RATE = 16_000


class Wire(NamedTuple):
    """What a client sends, and what its session is to get."""

    name: str | None
    """Encoding in the words of the client; None for a container."""
    encoding: Encoding
    sample_rate: int

    @classmethod
    def of(cls, name: str | None, sample_rate: int | None) -> Wire:
        """The session's encoding and rate for what a client announces."""
        if name in _AS_IT_IS and sample_rate is not None:
            return cls(name, _AS_IT_IS[name], sample_rate)
        return cls(name, "linear16", _DECODED_RATE)


class Intake:
    """Passes audio on to a session."""

    def __init__(self, session: ClientSession, wire: Wire) -> None:
        self._session = session

    async def take(self, data: bytes) -> None:
        """Take what the client has sent; wait while the session has no room. Raises
        SessionEnded."""
        await self._session.send(data)

    async def finish(self) -> None:
        """Take what is left, at the end of the audio."""
