"""Addresses that webhooks are sent to, and those that they are not sent to."""

from __future__ import annotations

import pytest

from natterjack.webhook.addresses import AddressKind, address_kind, is_literal, refusal

ADDRESSES: dict[AddressKind, str] = {
    "public": "1.1.1.1 8.8.8.8 192.88.99.1 2606:4700::1111 2a00:1450:4001::1 ::ffff:8.8.8.8 "
    "64:ff9b::808:808 2002:808:808::1 ::8.8.8.8 2001:0:808:808::f7f7:f7f7",
    "private": "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 127.0.0.1 127.8.8.8 100.64.0.1 "
    "192.0.2.1 198.18.0.1 198.51.100.7 203.0.113.9 "
    "::1 fc00::1 fd00:ec2::254 fec0::1 2001:db8::1 100::1 "
    "::ffff:10.0.0.1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::a00:1 64:ff9b:1::a00:1 "
    "2002:a00:1::1 2002:7f00:1:: 2001:0:808:808::f5ff:fffe",
    "unusable": "169.254.169.254 0.0.0.0 0.1.2.3 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 "
    ":: fe80::1 fe80::1%eth0 ff02::1 ::ffff:169.254.169.254 ::ffff:0.0.0.0 64:ff9b::a9fe:a9fe "
    "2002:a9fe:a9fe::1 ::169.254.169.254",
}


@pytest.mark.parametrize(
    ("kind", "address"), [(kind, a) for kind, text in ADDRESSES.items() for a in text.split()]
)
def test_kind(kind: AddressKind, address: str) -> None:
    assert address_kind(address) == kind


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize("tls", [False, True])
def test_who_may_receive(allow_private: bool, tls: bool) -> None:
    def refused(address: str) -> bool:
        return refusal(address, allow_private=allow_private, tls=tls) is not None

    assert refused("8.8.8.8") == (not tls), "unencrypted webhooks do not leave the network"
    assert refused("10.0.0.1") == (not allow_private)
    assert refused("169.254.169.254"), "the metadata of a cloud is nobody's receiver"


@pytest.mark.parametrize(
    ("host", "literal"),
    [
        ("127.0.0.1", True), ("2130706433", True), ("127.1", True), ("::1", True),
        ("127.0.0.1.", True), ("fe80::1%eth0", True), ("example.org", False), ("0x7f000001", False),
        ("0x7f.1", False), ("localhost", False),
    ],
)  # fmt: skip
def test_what_is_not_looked_up(host: str, literal: bool) -> None:
    assert is_literal(host) == literal
