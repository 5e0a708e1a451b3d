"""Finds the microphone to record: among the sources of a sound server, else those of PortAudio."""

from __future__ import annotations

import logging
from collections.abc import Collection

from ...errors import SourceError
from ..choice import (
    MICROPHONE,
    Ambiguous,
    Choice,
    Device,
    Key,
    choose_preferred,
    listed,
)
from ..devices import STREAMS, list_devices, portaudio
from ..pulse.listing import default_source, list_sources

log = logging.getLogger(__name__)

_ONLY_MONITORS = (
    "no microphone found: the sound server has only monitors of loudspeakers. Plug one in, or "
    "name a monitor as `device` (--device, or in the configuration file); "
    "`natterjack-edge devices` lists them"
)


class Finder:
    """Finds the first of the preferred microphones that is there. To be used by one thread at a
    time, which may wait in it for a dead device."""

    def __init__(self, preferences: tuple[str, ...]) -> None:
        self.preferences = preferences
        self._known: dict[int, Key] = {}
        self._server_seen = False
        """Whether a sound server has answered this process. Then no device is opened past it: a
        server that is restarted could not have the device."""

    def recorded(self, choice: Choice) -> None:
        """Remember that this device works."""
        self._known[choice.rank] = choice.device.key

    def find(self, avoided: Collection[Key] = (), *, again: bool = False) -> Choice:
        """Return the device to record. Those that are `avoided` are taken only if there is no
        other. `again`: have PortAudio look for devices that are new.

        Raises: SourceError if there is none; SourceUnusable if waiting does not help.
        """
        sources = list_sources()
        if sources is None and self._server_seen:
            raise SourceError("the sound server does not answer")
        if sources is not None:
            self._server_seen = True
            if (choice := self._among_sources(sources, avoided)) is not None:
                return choice
        with STREAMS.library:
            return self._among_devices(sources or [], avoided, again=again)

    def find_better(self) -> Choice | None:
        """Return the best microphone that can be found without disturbing a recording, if there is
        one."""
        sources = list_sources()
        try:
            return None if sources is None else self._among_sources(sources, ())
        except SourceError:
            return None

    def _among_sources(self, sources: list[Device], avoided: Collection[Key]) -> Choice | None:
        """Return the source to record, or None if none is preferred.

        Raises: Ambiguous; SourceError if there are only monitors.
        """
        default = default_source(sources)
        if not self.preferences and default is None:
            raise SourceError(_ONLY_MONITORS)
        found = [*([default] if default is not None else []), *sources]
        try:
            return choose_preferred(found, self.preferences, self._known, avoided)
        except Ambiguous:
            raise
        except SourceError:
            return None

    def _among_devices(
        self, sources: list[Device], avoided: Collection[Key], *, again: bool
    ) -> Choice:
        devices = []
        try:
            library = portaudio()
            if again:
                STREAMS.restart_for(MICROPHONE)
            devices = list_devices()
        except SourceError:
            if not sources:
                raise
        except library.PortAudioError as error:
            raise SourceError(f"PortAudio does not list devices: {error}") from None
        try:
            return choose_preferred(devices, self.preferences, self._known, avoided)
        except Ambiguous:
            raise
        except SourceError:
            names = " or ".join(map(repr, self.preferences))
            raise SourceError(
                f"no microphone is named {names}; available: {listed([*sources, *devices])}"
            ) from None
