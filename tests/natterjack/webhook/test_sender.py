"""One attempt to send a webhook: a real server answers, hangs, drops, redirects or is away."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from natterjack.errors import UsageError
from natterjack.settings import load
from natterjack.webhook.judgment import Answer
from natterjack.webhook.sender import Sender
from natterjack.webhook.settings import WebhookSettings, public_url
from tests.identities import Authority
from tests.ports import free_port
from tests.waiting import bound, soon

from .receiver import SECRET, Received, Receiver, always

BODY = b'{"type":"final","text":"hello"}'
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


def settings(url: str, **more: Any) -> WebhookSettings:
    return WebhookSettings(**{"url": url, "secret": SECRET, "allow_private": True, **more})


async def attempt(url: str, **more: Any) -> Answer:
    async with Sender(settings(url, **more)) as sender:
        return await soon(sender.send("s:1", BODY), 60)


async def talking(talk: Talk) -> tuple[asyncio.Server, str]:
    """A server that does what HTTP servers do not."""

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(end, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


# ---- what is sent --------------------------------------------------------------------------------


async def test_a_webhook_is_what_the_specification_says(receiver: Receiver) -> None:
    assert await attempt(receiver.url) == Answer("delivered")
    (one,) = receiver.received
    assert one.id == "s:1"
    assert one.event == {"type": "final", "text": "hello"}
    assert abs(int(one.headers["webhook-timestamp"]) - time.time()) < 200
    assert one.headers["content-type"] == "application/json"
    assert one.headers["user-agent"].startswith("natterjack/")
    assert "cookie" not in one.headers


async def test_two_secrets_sign_while_they_are_rotated_and_the_file_is_read_again(
    receiver: Receiver, tmp_path: Path
) -> None:
    file, new = tmp_path / "secret", base64.b64encode(b"n" * 32).decode()
    file.write_text(f"{SECRET}\n")
    async with Sender(settings(receiver.url, secret=None, secret_file=file)) as sender:
        await sender.send("s:0", BODY)
        file.write_text(f"{SECRET}\nwhsec_{new}\n")
        receiver.secrets = [SECRET, new]
        assert (await sender.send("s:1", BODY)).outcome == "delivered"
        file.write_text(f"{new}\n")
        receiver.secrets = [new]
        assert (await sender.send("s:2", BODY)).outcome == "delivered"
        file.write_text("")  # is being replaced
        assert (await sender.send("s:3", BODY)).outcome == "delivered"
    assert receiver.ids == ["s:0", "s:1", "s:2", "s:3"]


async def test_a_connection_is_used_again(receiver: Receiver) -> None:
    async def answer(_: Received) -> web.StreamResponse:
        return web.Response(body=b"thank you")

    receiver.answer = answer
    async with Sender(settings(receiver.url)) as sender:
        for number in range(3):
            await sender.send(f"s:{number}", BODY)
    assert len({one.peer for one in receiver.received}) == 1


# ---- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, Answer("failed", "status", "HTTP 500 Internal Server Error")),
        (404, Answer("failed", "status", "HTTP 404 Not Found")),
        (503, Answer("throttled", "status", "HTTP 503 Service Unavailable")),
        (410, Answer("gone", "disabled", "HTTP 410 Gone: the receiver wants no more webhooks")),
    ],
)
async def test_statuses(receiver: Receiver, status: int, answer: Answer) -> None:
    receiver.answer = always(status)
    assert await attempt(receiver.url) == answer


async def test_retry_after_is_read(receiver: Receiver) -> None:
    receiver.answer = always(429, Retry_After="90")
    assert (await attempt(receiver.url)).retry_after == 90


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(receiver: Receiver, status: int) -> None:
    async with Receiver() as other:
        receiver.answer = always(status, Location=other.url)
        answer = await attempt(receiver.url)
        assert answer.cause == "redirect"
        assert not other.received
        receiver.answer = always(status, Location="/elsewhere")
        assert (await attempt(receiver.url)).cause == "redirect"
    assert len(receiver.received) == 2


async def test_a_receiver_that_hangs() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server, url = await talking(hang)
    async with server:
        answer = await attempt(url, timeout_seconds=0.3)
    assert answer == Answer("failed", "timeout", "no answer within 0.3 s")


async def test_a_receiver_whose_header_drips() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 200 OK\r\nx: "[:1])
            await writer.drain()
            await asyncio.sleep(0.05)  # the interval of the drops

    server, url = await talking(drip)
    async with server:
        answer = await attempt(url, timeout_seconds=0.5)
    assert answer.outcome == "failed"


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc OK\r\n\r\n"]
)
async def test_a_receiver_that_drops_the_connection(said: bytes) -> None:
    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(said)

    server, url = await talking(drop)
    async with server:
        answer = await attempt(url)
    assert (answer.outcome, answer.cause) == ("failed", "connection")


async def test_a_receiver_that_is_away() -> None:
    answer = await attempt(f"http://127.0.0.1:{free_port()}/")
    assert answer.cause == "connection"
    assert "refused" in answer.reason


async def test_a_host_that_does_not_exist() -> None:
    answer = await attempt("https://receiver.invalid/")
    assert answer == Answer("failed", "connection", "the host receiver.invalid is not found")


async def test_a_slow_answer_within_the_time_limit_is_success(receiver: Receiver) -> None:
    async def slow(_: Received) -> web.StreamResponse:
        await asyncio.sleep(0.3)  # how slow it is
        return web.Response()

    receiver.answer = slow
    assert (await attempt(receiver.url, timeout_seconds=bound(20))).outcome == "delivered"


@pytest.mark.parametrize("first", [b"", b"x" * 100_000])
async def test_a_success_whose_body_never_ends_is_a_success(first: bytes) -> None:
    ended = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n" + first)
        try:
            while await reader.read(1000):
                pass
        except ConnectionError:
            pass
        ended.set()

    server, url = await talking(endless)
    async with server, Sender(settings(url, timeout_seconds=bound(20))) as sender:
        assert (await soon(sender.send("s:1", BODY), 60)).outcome == "delivered"
        await soon(ended.wait(), 30)  # the sender has ended the connection


# ---- addresses -----------------------------------------------------------------------------------

SPELLINGS = [
    "127.0.0.1", "localhost", "LOCALHOST", "localhost.", "[::1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:0001]", "127.1", "2130706433", "0x7f000001",
    "0x7f.0.0.1", "017700000001", "0177.0.0.1", "0", "0.0.0.0", "[::]", "127.0.0.1.",
    "1\u24f27.0.0.1", "127\u30020\u30020\u30021",
    "127%2e0%2e0%2e1", "%31%32%37.0.0.1", "[::1%25lo]", "x@127.0.0.1", "example.org\\@127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", SPELLINGS)
async def test_a_private_address_is_refused_however_it_is_written(host: str, scheme: str) -> None:
    connections = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer.get_extra_info("sockname"))

    server = await asyncio.start_server(note, None, 0)
    ports = {one.getsockname()[1] for one in server.sockets}
    async with server:
        for port in ports:
            try:
                url = f"{scheme}://{host}:{port}/"
                answer = await attempt(url, allow_private=False, timeout_seconds=bound(5))
            except (UsageError, ValueError):
                continue
            assert answer.cause in ("address", "connection"), answer
    assert not connections


async def test_a_name_is_checked_when_it_is_looked_up(receiver: Receiver) -> None:
    url = receiver.url.replace("127.0.0.1", "localhost")
    answer = await attempt(url, allow_private=False)
    assert answer.cause == "address"
    assert "localhost: " in answer.reason
    assert "WEBHOOK_ALLOW_PRIVATE" in answer.reason
    assert (await attempt(url)).outcome == "delivered"


async def test_of_a_name_with_several_addresses_only_allowed_ones_are_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And each attempt looks the name up once: a second answer could differ."""
    connections, looked_up = [], []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer.get_extra_info("peername"))

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        looked_up.append(host)
        stream = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        # The second one is public, and nothing is there (RFC 7526).
        return [(*stream, (address, port)) for address in ("127.0.0.1", "192.88.99.1")]

    server, url = await talking(note)
    url = url.replace("http://127.0.0.1", "https://rebinding.example")
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with server:
        answer = await attempt(url, allow_private=False, timeout_seconds=0.5)
        assert answer.cause in ("timeout", "connection")
        assert (looked_up, connections) == (["rebinding.example"], [])
        await attempt(url, timeout_seconds=bound(20))
    assert connections, "it is connected to if that is allowed"


async def test_public_addresses_need_https() -> None:
    with pytest.raises(UsageError, match="needs https"):
        Sender(settings("http://1.1.1.1/"))


# ---- TLS -----------------------------------------------------------------------------------------


@pytest.mark.process
async def test_the_certificate_is_verified(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    contexts = []
    for number, authority in enumerate((ours, other)):
        certificate, key = authority.issue("receiver")
        (tmp_path / f"{number}.pem").write_bytes(certificate + key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / f"{number}.pem")
        contexts.append(context)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(ours.certificate)
    async with Receiver(tls=contexts[0]) as good, Receiver(tls=contexts[1]) as bad:
        assert (await attempt(good.url, ca=ca)).outcome == "delivered"
        unknown = await attempt(good.url)
        assert unknown.cause == "tls"
        assert "certificate" in unknown.reason
        assert (await attempt(bad.url, ca=ca)).cause == "tls"
        wrong_name = good.url.replace("127.0.0.1", "127.0.0.2")
        assert (await attempt(wrong_name, ca=ca)).cause in ("tls", "connection")
        assert not bad.received
        plain = await attempt(good.url.replace("https:", "http:"))
        assert plain.outcome == "failed"
    async with Receiver() as without:
        assert (await attempt(without.url.replace("http:", "https:"))).cause == "tls"
    with pytest.raises(UsageError, match=r"WEBHOOK_CA: cannot use .*absent"):
        Sender(settings(good.url, ca=tmp_path / "absent"))


# ---- secrets and settings ------------------------------------------------------------------------


async def test_neither_the_secret_nor_the_query_is_logged(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "secret"
    file.write_text(SECRET)
    async with Sender(settings(receiver.url, secret=None, secret_file=file)) as sender:
        await sender.send("s:0", BODY)
        file.write_text(SECRET[:9])
        await sender.send("s:1", BODY)
        await receiver.stop()
        await sender.send("s:2", BODY)
    assert "signing with the secrets that were read before" in caplog.text
    assert SECRET[:9] not in caplog.text
    assert SECRET not in repr(settings(receiver.url))
    assert public_url(receiver.url) == f"http://127.0.0.1:{receiver.port}/hook"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"url": None}, "WEBHOOK_URL is not set"),
        ({"url": "example.org/hook"}, "not an https:// URL"),
        ({"url": "ftp://example.org"}, "not an https:// URL"),
        ({"url": "https://"}, "not an https:// URL"),
        ({"url": "https://[::1"}, "not an https:// URL"),
        ({"url": "https://user:word@example.org/"}, "a user or a password"),
        ({"url": "https://10.0.0.1/"}, "10.0.0.1 is a private address"),
        ({"url": "https://169.254.169.254/", "allow_private": True}, "not the address of a"),
        ({"kinds": "final,interim"}, "WEBHOOK_KINDS"),
        ({"kinds": ""}, "WEBHOOK_KINDS"),
        ({"name": "a b"}, "WEBHOOK_NAME"),
        ({"parallel": 0}, "WEBHOOK_PARALLEL"),
        ({"secret": None}, "openssl rand -base64 32"),
    ],
)
def test_mistakes_have_one_clear_line(
    given: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"url": "https://example.org/", "secret": SECRET, **given}
    for name, value in values.items():
        if value is not None:
            monkeypatch.setenv(f"WEBHOOK_{name.upper()}", str(value))
    with pytest.raises(UsageError, match=problem) as caught:
        Sender(load(WebhookSettings))
    assert "\n" not in str(caught.value)
    assert "word" not in str(caught.value).replace("password", "")
