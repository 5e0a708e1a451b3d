"""Which web pages may use the gateway from a browser."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from .refused import Reason, Refused

_MAX_AGE_S = 600
_METHODS = "GET, POST, OPTIONS"
_HEADERS = "Authorization, Content-Type, Last-Event-ID"


class Origins:
    """The origins whose pages may read answers of the gateway: its own, and those of a list."""

    def __init__(self, listed: Sequence[str] = ()) -> None:
        """`listed` has origins such as `https://example.org`, or `*` for all."""
        self._listed = frozenset(origin.rstrip("/").lower() for origin in listed)

    def listed(self, origin: str) -> bool:
        """Whether the list has `origin`: its pages may read answers (CORS)."""
        return "*" in self._listed or origin.lower() in self._listed

    def check_open(self, origin: str | None, host: str) -> None:
        """Check a request to a gateway without keys, of which any page in a browser on this machine
        could make use. `host` is the header `Host`.

        Raises: Refused if the page is of another origin, or the host is a name on the Internet,
        which its owner could lead to this machine (DNS rebinding).
        """
        if origin is not None and not self.listed(origin) and urlsplit(origin).netloc != host:
            raise Refused(
                Reason.ORIGIN, f"pages of {origin} may not use this gateway: list it in "
                "GATEWAY_ORIGINS",
            )  # fmt: skip
        name = urlsplit(f"//{host}").hostname or ""
        if not (_is_local(name) or self.listed(f"http://{host}") or self.listed(f"https://{host}")):
            raise Refused(
                Reason.ORIGIN, f"this gateway has no keys and is not to be called {host}: list "
                f"http://{host} in GATEWAY_ORIGINS, or give it keys",
            )  # fmt: skip

    def add_to(self, app: web.Application) -> None:
        """Let pages of the list read the answers of `app`, streams included (CORS)."""
        app.middlewares.append(self._preflight)
        app.on_response_prepare.append(self._allow)

    async def _allow(self, request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and self.listed(origin):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)

    @property
    def _preflight(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        @web.middleware
        async def preflight(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            asked = hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
            if request.method != hdrs.METH_OPTIONS or not asked:
                return await handler(request)
            if not self.listed(request.headers.get(hdrs.ORIGIN, "")):
                return web.Response(status=403, text="this origin is not in GATEWAY_ORIGINS\n")
            headers = {
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _HEADERS,
                hdrs.ACCESS_CONTROL_MAX_AGE: str(_MAX_AGE_S),
            }
            return web.Response(status=204, headers=headers)

        return preflight


def _is_local(name: str) -> bool:
    """Whether a host cannot be a name of someone else's: an address, or a name without a dot."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name.rstrip(".") or name.rstrip(".").endswith(".localhost")
    return True
