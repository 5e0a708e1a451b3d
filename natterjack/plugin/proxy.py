"""The HTTP proxy on the way to a provider.

aiohttp's own `trust_env` looks for WSS_PROXY where a WebSocket is opened, and also reads ~/.netrc.
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

_HTTP_SCHEMES = {"wss": "https", "ws": "http"}


class ProxyArguments(TypedDict, total=False):
    """Arguments for a request of aiohttp; empty if no proxy is used."""

    proxy: str
    proxy_headers: dict[str, str]


def proxy_for(url: str) -> ProxyArguments:
    """Return the arguments with which aiohttp reaches `url`, for `session.get(url, **arguments)`.

    The environment decides: HTTPS_PROXY for https and wss, HTTP_PROXY for http and ws, and NO_PROXY
    for exceptions, where lower-case names win. NO_PROXY lists host names and domains, not networks.
    Loopback addresses are never reached through a proxy.
    """
    target = urlsplit(url)
    proxy = getproxies_environment().get(_HTTP_SCHEMES.get(target.scheme, target.scheme))
    bypassed = _is_loopback(target.hostname or "") or proxy_bypass_environment(target.netloc)
    if not proxy or bypassed:
        return {}
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    credentials, _, host = parts.netloc.rpartition("@")
    arguments: ProxyArguments = {"proxy": urlunsplit(parts._replace(netloc=host))}
    if credentials:
        # Credentials go into a header, since aiohttp's errors show the proxy's address.
        encoded = b64encode(unquote(credentials).encode()).decode()
        arguments["proxy_headers"] = {"Proxy-Authorization": f"Basic {encoded}"}
    return arguments


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
