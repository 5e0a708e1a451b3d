"""The list of devices for people."""

from __future__ import annotations

from dataclasses import replace

from ..errors import EdgeError
from .choice import LOUDSPEAKER, MICROPHONE, Device, Kind, device_text
from .devices import list_devices
from .pulse.listing import list_sources


def list_all() -> int:
    """Print the microphones and loudspeakers that can be chosen. Returns the exit status.

    Raises: SourceError if there are none.
    """
    found: dict[Kind, list[Device]] = {}
    missing: list[EdgeError] = []
    sources = list_sources() or []
    for kind in (MICROPHONE, LOUDSPEAKER):
        try:
            found[kind] = list_devices(kind)
        except EdgeError as error:
            missing.append(error)
    if sources:
        # The default of PortAudio is the same sound server once more.
        others = [replace(device, default=False) for device in found.get(MICROPHONE, [])]
        found[MICROPHONE] = [*sources, *others]
    if not found:
        raise missing[0]
    for kind in (MICROPHONE, LOUDSPEAKER):
        if kind in found:
            print(f"{kind.name}s:")
            for device in found[kind]:
                print(device_text(device))
    return 0
