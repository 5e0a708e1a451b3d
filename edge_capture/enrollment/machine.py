"""Facts that distinguish this machine from one that runs a copy of its disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

_SALT = b"natterjack-edge: "
"""Facts are stored as hashes: systemd asks programs not to show /etc/machine-id to others."""
_SERIALS = (
    "sys/firmware/devicetree/base/serial-number",
    "sys/class/dmi/id/product_uuid",
    "sys/class/dmi/id/board_serial",
)
_NO_SERIAL = re.compile(
    r"|none|default string|to be filled by o\.?e\.?m\.?|not specified|system serial number"
    r"|0+|[0f-]+|03000200-0400-0500-0006-000700080009",
    re.I,
)
"""Placeholders that boards report if their maker gave them no serial number."""
_PERMANENT = "0"


class Machine(BaseModel):
    """Hashed facts of a machine; a fact that cannot be read is absent."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    installation: str | None = None
    """/etc/machine-id, which a copy of the disk has too, unless it was made to be copied."""
    serials: Mapping[str, str] = {}
    """Serial numbers of the hardware, some of which only root may read."""
    interfaces: tuple[str, ...] = ()
    """Addresses of the network interfaces, as their makers set them."""

    def is_other(self, now: Machine) -> bool:
        """Whether `now` is another machine than this one.

        A serial number that both know decides. Without one, another installation is another
        machine, and so is hardware that has none of the network interfaces.
        """
        known = self.serials.keys() & now.serials.keys()
        if known:
            return any(self.serials[name] != now.serials[name] for name in known)
        if self.installation != now.installation and None not in (
            self.installation,
            now.installation,
        ):
            return True
        mine, theirs = set(self.interfaces), set(now.interfaces)
        return bool(mine and theirs) and mine.isdisjoint(theirs)


def read_machine(root: Path = Path("/")) -> Machine:
    """Read the facts of the machine whose files are below `root`."""
    installation = _read(root / "etc/machine-id")
    serials = {}
    for name in _SERIALS:
        value = _read(root / name)
        if value and not _NO_SERIAL.fullmatch(value):
            serials[name.rpartition("/")[2]] = _hashed(value)
    addresses = set()
    for interface in _entries(root / "sys/class/net"):
        address = _read(interface / "address")
        # One without a device is virtual, and one that is not permanent is drawn anew.
        permanent = _read(interface / "addr_assign_type") == _PERMANENT
        if address and permanent and (interface / "device").exists():
            addresses.add(_hashed(address))
    return Machine(
        installation=_hashed(installation) if installation else None,
        serials=serials,
        interfaces=tuple(sorted(addresses)),
    )


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_bytes()[:256].decode("ascii", "replace").strip("\0 \t\r\n")
    except OSError:
        return ""


def _hashed(value: str) -> str:
    return hashlib.sha256(_SALT + value.lower().encode()).hexdigest()[:32]
