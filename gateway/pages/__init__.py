"""The console and the captions overlay: static files without a framework and without a build step.

They load nothing from another host, so they work offline from an installed wheel. The policy below
forbids scripts in the markup and everything that parses markup from text, so that what a speaker
says stays text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from aiohttp import hdrs, web

from gateway.gateway import Gateway

_TYPES = {
    "html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml",
}  # fmt: skip

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "worker-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'; frame-ancestors "
)
"""https://www.w3.org/TR/CSP3/ and https://www.w3.org/TR/trusted-types/"""
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=(), display-capture=()",
    hdrs.CACHE_CONTROL: "no-cache",
}


class _File(NamedTuple):
    content: bytes
    content_type: str
    tag: str


def _load() -> dict[str, _File]:
    """All files, by name. They are small, and stay in memory."""
    found = {}
    for file in (files(__name__) / "static").iterdir():
        content_type = _TYPES.get(file.name.rpartition(".")[2])
        if content_type is not None and file.is_file():
            content = file.read_bytes()
            tag = hashlib.sha256(content).hexdigest()[:16]
            found[file.name] = _File(content, content_type, tag)
    return found


class Pages:
    """The handlers of the pages."""

    def __init__(self, embedders: Sequence[str] = ()) -> None:
        """`embedders`: origins whose pages may show the overlay in a frame."""
        self._files = _load()
        self._embedders = " ".join(["'self'", *embedders])

    def add_routes(self, app: web.Application) -> None:
        app.add_routes(
            [
                web.get("/", self.console),
                web.get("/captions/{conversation:[A-Za-z0-9_-]{1,64}}", self.captions),
                web.get("/pages/{name}", self.file),
            ]
        )

    async def console(self, request: web.Request) -> web.Response:
        return self._answer(request, "console.html", f"{_POLICY}'none'")

    async def captions(self, request: web.Request) -> web.Response:
        return self._answer(request, "captions.html", f"{_POLICY}{self._embedders}")

    async def file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._files or name.endswith(".html"):
            raise web.HTTPNotFound
        return self._answer(request, name, "default-src 'none'; frame-ancestors 'none'")

    def _answer(self, request: web.Request, name: str, policy: str) -> web.Response:
        file = self._files[name]
        headers = {**_HEADERS, "Content-Security-Policy": policy, hdrs.ETAG: f'"{file.tag}"'}
        known = request.if_none_match or ()
        if any(tag.value in (file.tag, "*") for tag in known):
            return web.Response(status=304, headers=headers)
        return web.Response(
            body=file.content, content_type=file.content_type, charset="utf-8", headers=headers
        )


def add_routes(app: web.Application, gateway: Gateway) -> None:
    """Add the routes of the pages."""
    Pages(gateway.access.settings.origins).add_routes(app)
