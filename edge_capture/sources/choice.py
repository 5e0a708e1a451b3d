"""The choice of one device among those that were found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import NamedTuple

from ..errors import EdgeError, OutputError, SourceError, SourceUnusable

PULSE = "PulseAudio"
"""Host of the sources of a sound server, be it PulseAudio or PipeWire."""
Key = tuple[str, str]
"""A device's host and name, by which it is recognized when it comes back."""
DEFAULT = "default"
"""The name that selects the default device. A sound server may change it while it is recorded."""


class Kind(NamedTuple):
    """A kind of device."""

    direction: str
    """PortAudio's word, `input` or `output`."""
    name: str
    """Its name for people."""
    error: type[EdgeError]
    """The error that is raised if there is no device of this kind."""


MICROPHONE = Kind("input", "microphone", SourceError)
LOUDSPEAKER = Kind("output", "loudspeaker", OutputError)


@dataclass(frozen=True)
class Device:
    """A microphone or a loudspeaker."""

    index: int | None
    """PortAudio's number, which changes; None for a source of a sound server."""
    name: str
    host: str
    """PULSE, or the name of PortAudio's host API, such as ALSA or Core Audio."""
    channels: int
    sample_rate: int
    """Default rate in hertz."""
    default: bool
    description: str = ""
    """Its name for people, if it has another one."""
    monitor: bool = False
    """Whether it records what a loudspeaker plays."""

    @property
    def key(self) -> Key:
        return self.host, self.name


class Ambiguous(SourceUnusable):
    """Several devices match one name."""


def matching(devices: Sequence[Device], wanted: str) -> list[Device]:
    """Return the devices that `wanted` means: those with this index, name or description, else
    those that fit the pattern (with * or ?) or contain the text.

    The case of letters does not matter. A monitor is meant only if nothing else is.
    """
    if wanted.isdecimal():
        return [device for device in devices if device.index == int(wanted)]
    exact = [device for device in devices if wanted in (device.name, device.description)]
    if exact:
        return exact
    if wanted == DEFAULT:
        return [device for device in devices if device.default]
    text = wanted.casefold()
    pattern = text if "*" in text or "?" in text else f"*{text.replace('[', '[[]')}*"
    found = [
        device
        for device in devices
        if any(fnmatchcase(name.casefold(), pattern) for name in (device.name, device.description))
    ]
    return [device for device in found if not device.monitor] or found


def select_device(devices: Sequence[Device], wanted: str | None, kind: Kind = MICROPHONE) -> Device:
    """Return the device that `wanted` means; the default one if None.

    Raises: the kind's error if there is no such device; Ambiguous or the kind's error if there is
    more than one.
    """
    if wanted is None:
        return next((device for device in devices if device.default), devices[0])
    found = matching(devices, wanted)
    if not found:
        raise kind.error(f"no {kind.name} is named {wanted!r}; available: {listed(devices)}")
    if len(found) > 1:
        error = Ambiguous if kind is MICROPHONE else kind.error
        raise error(
            f"several {kind.name}s match {wanted!r}; use a whole name or an index: {listed(found)}"
        )
    return found[0]


def reselect_device(
    devices: Sequence[Device], lost: Device, wanted: str | None, kind: Kind = MICROPHONE
) -> Device:
    """Return the device that replaces `lost`: one of the same name, else the one `wanted`.

    Raises: the kind's error if there is none.
    """
    for device in devices:
        if device.key == lost.key:
            return device
    if wanted is not None and wanted.isdecimal():
        # The index may belong to another device by now.
        raise kind.error(f"{kind.name} {lost.name!r} is gone")
    return select_device(devices, wanted, kind)


class Choice(NamedTuple):
    """A device, and the place of what it was chosen for in the order of preference, from 0."""

    device: Device
    rank: int


def choose_preferred(
    devices: Sequence[Device],
    preferences: Sequence[str],
    known: Mapping[int, Key] = MappingProxyType({}),
    avoided: Collection[Key] = (),
) -> Choice:
    """Return the first of the microphones that are preferred, in order, or the default one if there
    are no preferences.

    `known` has the device that each preference meant before: it is taken among several that match,
    and it alone for an index, which may belong to another device by now. If it was a source of the
    sound server, no other host's device is taken: one with this name would be the server's, too,
    which could connect it to another microphone. Those that are `avoided` are taken only if there
    is no other.

    Raises: SourceError if there is none; Ambiguous if several match a preference.
    """
    first: Choice | None = None
    for rank, wanted in enumerate(preferences or (None,)):
        before = known.get(rank)
        on_server = before is not None and before[0] == PULSE
        some = [each for each in devices if each.host == PULSE] if on_server else devices
        device = next((each for each in some if each.key == before), None)
        if device is None:
            found = [] if wanted is None else matching(some, wanted)
            if wanted is None:
                device = select_device(some, None) if some else None
            elif found and not (wanted.isdecimal() and rank in known):
                device = select_device(some, wanted)
        if device is not None and device.key not in avoided:
            return Choice(device, rank)
        if device is not None:
            first = first or Choice(device, rank)
    if first is None:
        names = " or ".join(map(repr, preferences)) or "the default one"
        raise SourceError(f"no microphone is named {names}; available: {listed(devices)}")
    return first


def listed(devices: Sequence[Device]) -> str:
    """Return the names of devices, with the indexes of those that have one."""
    return ", ".join(
        device.name if device.index is None else f"{device.index} {device.name}"
        for device in devices
    )


def device_text(device: Device) -> str:
    """Return a line about a device for the list of them."""
    mark = "*" if device.default else " "
    index = "" if device.index is None else device.index
    name = f"{device.name}: {device.description}" if device.description else device.name
    channels = "1 channel" if device.channels == 1 else f"{device.channels} channels"
    return f"{mark} {index:>3}  {name}  ({device.host}, {channels}, {device.sample_rate} Hz)"
