"""Outputs on which speech is played: a loudspeaker, a WAV file, standard output."""

from __future__ import annotations

from typing import Protocol

from ..playout import Playout


class Output(Protocol):
    """An open output."""

    @property
    def name(self) -> str:
        """Name for people."""

    @property
    def rate(self) -> int:
        """The sample rate at which it plays, in hertz."""

    @property
    def waiting_for(self) -> str | None:
        """The thing that it waits for, such as a device that has gone; None while it plays."""

    async def play(self, playout: Playout) -> None:
        """Play what `playout` hands out, until nobody reads it. To be called once. Cancel-safe.

        Raises: OutputLost.
        """

    async def drop(self) -> None:
        """Drop at once what it was given and has not played. Cancel-safe."""

    def close(self) -> None:
        """Release the file or the device. Idempotent."""
