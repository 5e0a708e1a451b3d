"""A clone is distinguished from the machine that it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_capture.enrollment.enroll import default_name
from edge_capture.enrollment.machine import Machine, read_machine

PI = {"serial-number": "a"}


def machine(installation: str | None, serials: dict[str, str], *interfaces: str) -> Machine:
    return Machine(installation=installation, serials=serials, interfaces=interfaces)


@pytest.mark.parametrize(
    ("known", "now", "other"),
    [
        # A serial number decides: a clone of the disk, and a system that was installed again.
        (machine("i", PI, "m"), machine("i", {"serial-number": "b"}, "m"), True),
        (machine("i", PI, "m"), machine("j", PI, "n"), False),
        # One that only root may read is not known to the service.
        (machine("i", {"product_uuid": "u"}, "m"), machine("i", {}, "m"), False),
        (machine("i", {"product_uuid": "u"}, "m"), machine("j", {}, "m"), True),
        # A network card is replaced, or all are.
        (machine("i", {}, "m", "n"), machine("i", {}, "n", "o"), False),
        (machine("i", {}, "m"), machine("i", {}, "n"), True),
        # Nothing is known.
        (machine("i", {}, "m"), machine(None, {}), False),
        (machine(None, {}), machine(None, {}), False),
    ],
)
def test_which_machine_is_another_one(known: Machine, now: Machine, other: bool) -> None:
    assert known.is_other(now) is other
    assert now.is_other(known) is other


def test_facts_are_read_and_hashed(tmp_path: Path) -> None:
    assert read_machine(tmp_path) == Machine()
    files = {
        "etc/machine-id": "0123456789abcdef\n",
        "sys/firmware/devicetree/base/serial-number": "10000000abcdef\0",
        "sys/class/dmi/id/board_serial": "To be filled by O.E.M.\n",
        "sys/class/net/eth0/address": "dc:a6:32:00:00:01\n",
        "sys/class/net/eth0/addr_assign_type": "0\n",
        "sys/class/net/eth0/device/vendor": "x",
        "sys/class/net/wlan0/address": "02:00:00:00:00:01\n",
        "sys/class/net/wlan0/addr_assign_type": "3\n",
        "sys/class/net/wlan0/device/vendor": "x",
        "sys/class/net/veth1/address": "02:00:00:00:00:02\n",
        "sys/class/net/veth1/addr_assign_type": "0\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found = read_machine(tmp_path)
    assert list(found.serials) == ["serial-number"]
    assert len(found.interfaces) == 1
    shown = found.model_dump_json()
    assert not any(fact in shown for fact in ("0123456789abcdef", "10000000abcdef", "dc:a6"))
    assert Machine.model_validate_json(shown) == found


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("pi-7.example.org", "pi-7"),
        ("Saal 3 (Süd)", "Saal-3-S-d"),
        ("", "edge"),
        ("x" * 99, "x" * 64),
    ],
)
def test_the_name_of_a_machine_becomes_that_of_its_agent(host: str, name: str) -> None:
    assert default_name(host) == name
