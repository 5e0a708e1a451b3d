"""Which addresses a webhook may be sent to.

A URL comes from whoever operates the receiver. It must not lead to services that only this network
can reach, such as databases and the metadata service of a cloud.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal

AddressKind = Literal["public", "private", "unusable"]

_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
"""The addresses that DNS64 gives to IPv4 hosts in networks that have IPv6 only (RFC 6052)."""
_COMPATIBLE = IPv6Network("::/96")


def address_kind(text: str) -> AddressKind:
    """Whether an address is public, private, or never that of a receiver: link-local, which the
    metadata services of clouds use, multicast, and unspecified. Raises ValueError if it is none."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv4Address):
        return _kind_of_ipv4(address)
    if (embedded := _embedded(address)) is not None:
        return _kind_of_ipv4(embedded)
    if address.is_loopback:
        return "private"
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return "unusable"
    return "public" if address in _GLOBAL_UNICAST and address.is_global else "private"


def _kind_of_ipv4(address: IPv4Address) -> AddressKind:
    if (
        address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address in _THIS_NETWORK
    ):
        return "unusable"
    return "public" if address.is_global else "private"


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to an IPv6 address may be sent to in the end."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def refusal(address: str, *, allow_private: bool, tls: bool) -> str | None:
    """Why a webhook is not sent to an address; None if it may be sent.

    Without TLS, it is sent to private addresses only.
    """
    kind = address_kind(address)
    if kind == "unusable":
        return f"{address} is not the address of a receiver"
    if kind == "private" and not allow_private:
        return f"{address} is a private address, and WEBHOOK_ALLOW_PRIVATE is not set"
    if kind == "public" and not tls:
        return f"{address} is a public address, which needs https"
    return None


def is_literal(host: str) -> bool:
    """Whether a URL's host is, or claims to be, an address: it is not looked up in the DNS."""
    return ":" in host or host.replace(".", "").isdigit()
