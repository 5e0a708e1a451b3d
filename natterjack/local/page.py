"""The gateway of a local stack, with its page for the browser."""

from __future__ import annotations

import asyncio
import webbrowser
from collections.abc import Mapping
from importlib.util import find_spec

from natterjack.errors import UsageError

from .ports import HOST, port_owner

DEFAULT_PORT = 8080
ANY_PORT = -1
_NEEDED = ("aiohttp", "av", "jwt", "numpy", "prometheus_client", "soxr")
_PORT = "GATEWAY_HTTP_PORT"
INSTALL = "pip install 'natterjack[gateway]'"


def missing() -> list[str]:
    """The modules that the gateway needs and that are not installed."""
    return [name for name in _NEEDED if find_spec(name) is None]


def gateway_variables(
    environment: Mapping[str, str], port: int | None = None
) -> dict[str, str] | None:
    """The variables of a stack's gateway, or None if it is not installed.

    `port`: the one it must have, ANY_PORT for any free one; None for that of the environment or the
    default, or any free one if that is taken. Raises: UsageError if a port that was asked for is
    taken.
    """
    if missing():
        return None
    if port is not None:
        if port > 0 and (owner := port_owner(port)) is not None:
            raise UsageError(
                f"port {port} of {HOST} is taken by {owner}. Stop it, or choose another port with "
                "--gateway-port (-1: any free one)"
            )
        return {_PORT: str(max(port, 0))}
    text = environment.get(_PORT, str(DEFAULT_PORT))
    usual = text.isdecimal() and 0 < int(text) < 65_536
    taken = usual and port_owner(int(text)) is not None
    return {_PORT: "0" if taken else text}


def address(http: str) -> str:
    """The page's address, from the one at which the gateway listens."""
    return f"{http.replace('//0.0.0.0:', f'//{HOST}:').replace('//[::]:', '//[::1]:')}/"


def check_page(variables: Mapping[str, str] | None, *, wanted: bool) -> None:
    """Raise UsageError if a page is wanted and there is no gateway to serve it."""
    if wanted and variables is None:
        lacking = missing()
        why = f"{', '.join(lacking)} is missing: {INSTALL}" if lacking else "--no-gateway was given"
        raise UsageError(f"there is no gateway, which serves the page: {why}")


async def show(url: str | None) -> None:
    """Open an address in the user's browser, or say that there is none."""
    try:
        opened = url is not None and await asyncio.to_thread(webbrowser.open, url)
    except webbrowser.Error:
        opened = False
    if not opened:
        print(f"no browser can be opened here: open {url} yourself", flush=True)
