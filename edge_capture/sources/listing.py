"""The list of microphones and loudspeakers, for `natterjack-edge devices`."""

from __future__ import annotations

from .devices import LOUDSPEAKER, MICROPHONE, list_devices


def list_all() -> int:
    """Print all devices. Returns the exit status. Raises: SourceError or OutputError if there are
    none."""
    found, missing = {}, []
    for kind in (MICROPHONE, LOUDSPEAKER):
        try:
            found[kind] = list_devices(kind)
        except kind.error as error:
            missing.append(error)
    if not found:
        raise missing[0]
    for kind, devices in found.items():
        print(f"{kind.name}s:")
        for device in devices:
            mark = "*" if device.default else " "
            print(
                f"{mark} {device.index:>3}  {device.name}  ({device.host}, "
                f"{device.channels} channels, {device.sample_rate} Hz)"
            )
    return 0
