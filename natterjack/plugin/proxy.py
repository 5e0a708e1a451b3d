"""The proxy on the way to a provider, where HTTPS_PROXY names one.

aiohttp's own `trust_env` knows no WebSockets (it looks for WSS_PROXY), and reads ~/.netrc besides.
"""

from __future__ import annotations

from base64 import b64encode
from ipaddress import ip_address
from typing import TypedDict
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import (  # type: ignore[attr-defined]  # typeshed lacks the second
    getproxies_environment,
    proxy_bypass_environment,
)

_HTTP = {"wss": "https", "ws": "http"}


class Through(TypedDict, total=False):
    """Arguments of aiohttp's requests; none of them without a proxy."""

    proxy: str
    proxy_headers: dict[str, str]


def _here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def through(url: str) -> Through:
    """How to reach `url`: as HTTPS_PROXY, HTTP_PROXY and NO_PROXY say (or their small letters,
    which win). A WebSocket goes the way of HTTP. NO_PROXY takes names and their endings, no
    networks; this machine itself is never reached through a proxy."""
    target = urlsplit(url)
    proxy = getproxies_environment().get(_HTTP.get(target.scheme, target.scheme))
    if not proxy or _here(target.hostname or "") or proxy_bypass_environment(target.netloc):
        return {}
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    credentials, _, host = parts.netloc.rpartition("@")
    way: Through = {"proxy": urlunsplit(parts._replace(netloc=host))}
    if credentials:
        # Not in the address, which aiohttp's errors show.
        coded = b64encode(unquote(credentials).encode()).decode()
        way["proxy_headers"] = {"Proxy-Authorization": f"Basic {coded}"}
    return way
