"""Access over HTTP: what a request brings, addresses, origins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.access import Access, AccessSettings, Refused, credentials_of
from natterjack.fleet.keys import add_key, make_key


@pytest.fixture
def key(tmp_path: Path) -> str:
    record, secret = make_key(tenant="acme", doors=("deepgram",))
    add_key(tmp_path / "keys", record)
    return secret


@asynccontextmanager
async def serving(settings: AccessSettings) -> AsyncIterator[Callable[..., str]]:
    """A server that says who it lets in. Yields a function that makes URLs of paths."""
    access = Access(settings)

    async def door(request: web.Request) -> web.StreamResponse:
        try:
            grant = access.admit(request, request.match_info["door"])
        except Refused as refused:
            return web.Response(status=refused.status, text=refused.reason.value)
        if request.headers.get("Upgrade"):
            subprotocol = credentials_of(request, request.match_info["door"]).subprotocol
            ws = web.WebSocketResponse(protocols=(subprotocol,) if subprotocol else ())
            await ws.prepare(request)
            await ws.close()
            return ws
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(f"{grant.tenant} {access.address_of(request)}".encode())
        return response

    app = web.Application()
    app.router.add_route("*", "/{door}", door)
    access.origins.add_to(app)
    server = TestServer(app)
    await server.start_server()
    try:
        yield lambda path: str(server.make_url(path))
    finally:
        await server.close()


async def test_a_request_is_admitted_by_its_key(key: str, tmp_path: Path) -> None:
    settings = AccessSettings(keys_file=tmp_path / "keys", trusted_proxies=2)
    async with serving(settings) as url, aiohttp.ClientSession() as http:
        for headers, path, expected in (
            ({"Authorization": f"Token {key}"}, "/deepgram", (200, "acme 127.0.0.1")),
            ({"Authorization": f"tOKEN {key}"}, "/api", (403, "door")),
            ({}, "/deepgram", (401, "missing")),
            ({"Authorization": "Token x"}, "/deepgram", (401, "wrong")),
            # The outermost proxy of ours saw 10.0.0.2: what a client writes itself does not count.
            ({"Authorization": f"Token {key}", "X-Forwarded-For": "1.1.1.1, 10.0.0.2, 10.0.0.3"},
             "/deepgram", (200, "acme 10.0.0.2")),
        ):  # fmt: skip
            async with http.get(url(path), headers=headers) as answer:
                assert (answer.status, await answer.text()) == expected, headers


async def test_a_subprotocol_is_answered_with_one_and_never_the_key(
    key: str, tmp_path: Path
) -> None:
    settings = AccessSettings(keys_file=tmp_path / "keys")
    async with serving(settings) as url, aiohttp.ClientSession() as http:
        offered = ("token", key, "x-deepgram-session-id", "0f9c")
        async with http.ws_connect(url("/deepgram"), protocols=offered) as ws:
            assert ws.protocol == "token"


async def test_refusals_beyond_a_limit_are_answered_with_429(key: str, tmp_path: Path) -> None:
    settings = AccessSettings(keys_file=tmp_path / "keys")
    async with serving(settings) as url, aiohttp.ClientSession() as http:
        statuses = []
        for _ in range(12):
            async with http.get(url("/deepgram"), headers={"Authorization": "Token x"}) as answer:
                statuses.append(answer.status)
        assert statuses == [401] * 10 + [429] * 2
        async with http.get(url("/deepgram"), headers={"Authorization": f"Token {key}"}) as answer:
            assert answer.status == 200, "a right key is let in from any address"


async def test_only_pages_of_the_list_read_answers(key: str, tmp_path: Path) -> None:
    settings = AccessSettings(keys_file=tmp_path / "keys", origins=("https://a.example",))
    async with serving(settings) as url, aiohttp.ClientSession() as http:
        for origin, listed in (("https://a.example", True), ("https://b.example", False)):
            headers = {"Origin": origin, "Authorization": f"Token {key}"}
            async with http.get(url("/deepgram"), headers=headers) as answer:
                allowed = answer.headers.get("Access-Control-Allow-Origin")
                assert (allowed == origin) is listed
                assert answer.headers.getall("Vary", []) == (["Origin"] if listed else [])
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            async with http.options(url("/deepgram"), headers=headers) as answer:
                assert answer.status == (204 if listed else 403)
                assert ("Access-Control-Allow-Headers" in answer.headers) is listed


async def test_without_keys_only_pages_of_this_machine_are_let_in() -> None:
    async with serving(AccessSettings()) as url, aiohttp.ClientSession() as http:
        own = url("/").rstrip("/")
        for headers, status in (
            ({}, 200),
            ({"Origin": own}, 200),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            # DNS rebinding: a page whose name leads to this machine.
            ({"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}, 403),
            ({"Host": "evil.example:8080"}, 403),
            ({"Host": "localhost:8080"}, 200),
            ({"Host": "gateway:8080"}, 200),
            ({"Host": "[::1]:8080"}, 200),
        ):
            async with http.get(url("/api"), headers=headers) as answer:
                assert answer.status == status, headers


async def test_without_keys_pages_of_the_list_are_let_in() -> None:
    settings = AccessSettings(origins=("http://captions.example:8080",))
    async with serving(settings) as url, aiohttp.ClientSession() as http:
        headers = {"Host": "captions.example:8080", "Origin": "http://captions.example:8080"}
        async with http.get(url("/api"), headers=headers) as answer:
            assert answer.status == 200
