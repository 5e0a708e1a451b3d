"""Providers behind a proxy: which way a URL goes, and a worker that goes it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.plugin.proxy import proxy_for
from natterjack.settings import BrokerSettings
from tests.waiting import until
from tests.worker.programs import Speaker, StartWorker, closed

HOST = "speech.example.test"
USER, PASSWORD = "a user", "a p@ss:word"
CREDENTIALS = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        for each in (name, name.lower()):
            monkeypatch.delenv(each, raising=False)


# ---- which way ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_what_is_encrypted_goes_through_the_proxy_for_https(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert proxy_for(f"{scheme}://api.example.org/v1/listen?a=b") == {"proxy": "http://proxy:3128"}
    assert proxy_for(f"{scheme.removesuffix('s')}://api.example.org") == {}


def test_without_a_proxy_there_is_none() -> None:
    assert proxy_for("wss://api.example.org") == {}


@pytest.mark.parametrize(
    ("url", "goes"),
    [
        ("wss://api.example.org", True),
        ("wss://speech.internal:8443/v2", False),
        ("wss://sub.speech.internal", False),
        ("wss://api.svc", False),
        ("wss://localhost:1234", False),
        ("ws://127.0.0.1:1234", False),
        ("wss://[::1]:1234", False),
        ("wss://203.0.113.9", True),
    ],
)
def test_exceptions(url: str, goes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "speech.internal,.svc")
    assert bool(proxy_for(url)) == goes


def test_credentials_are_no_part_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://a%20user:a%20p%40ss:word@proxy:3128")
    assert proxy_for("wss://api.example.org") == {
        "proxy": "http://proxy:3128",
        "proxy_headers": {"Proxy-Authorization": CREDENTIALS},
    }


def test_a_proxy_may_be_named_without_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "proxy:3128")
    assert proxy_for("wss://api.example.org") == {"proxy": "http://proxy:3128"}


# ---- a worker -------------------------------------------------------------------------------


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


async def join(one: Streams, other: Streams) -> None:
    await asyncio.gather(pipe(one[0], other[1]), pipe(other[0], one[1]))


@contextlib.asynccontextmanager
async def served(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """A server on loopback; its port. Its connections end with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the server's own end
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await until(lambda: not tasks, "connections end")


class Network(NamedTuple):
    """A provider that only a proxy reaches."""

    proxy: int
    """Port of the proxy, which asks for credentials."""
    ca: Path
    asked: list[str]
    """First lines of what the proxy was asked for."""


@pytest.fixture
async def network(emulator: DeepgramEmulator, tmp_path: Path) -> AsyncIterator[Network]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here: apt-get install openssl brings it")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    asked: list[str] = []

    async def provider(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await join((reader, writer), await asyncio.open_connection("127.0.0.1", emulator.port))

    async with served(provider, context) as provider_port:

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            asked.append(head.partition("\r\n")[0])
            if f"Proxy-Authorization: {CREDENTIALS}" not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            there = await asyncio.open_connection("127.0.0.1", provider_port)
            await join((reader, writer), there)

        async with served(proxy) as proxy_port:
            yield Network(proxy_port, certificate, asked)


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramEmulator]:
    async with DeepgramEmulator() as emulator:
        yield emulator


async def test_a_worker_reaches_its_provider_through_a_proxy_it_trusts(
    network: Network, start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    worker = await start_worker(
        DEEPGRAM_URL=f"wss://{HOST}",
        HTTPS_PROXY=f"http://a%20user:a%20p%40ss:word@127.0.0.1:{network.proxy}",
        SSL_CERT_FILE=str(network.ca),
    )
    speaker = Speaker(broker_settings, 12, speed=8)
    await speaker.speak()
    (await closed(broker, speaker.spec)).audit(speaker)
    assert set(network.asked) == {f"CONNECT {HOST}:443 HTTP/1.1"}
    assert "p@ss" not in str(worker.log)


async def test_a_proxy_that_refuses_is_said_without_the_password(
    network: Network, start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    worker = await start_worker(
        DEEPGRAM_URL=f"wss://{HOST}",
        HTTPS_PROXY=f"http://user:wrong-one@127.0.0.1:{network.proxy}",
        WORKER_RECOVERY_SECONDS="2",
        WORKER_BACKOFF_SECONDS="0.1",
    )
    speaker = Speaker(broker_settings, 4, speed=8)
    await speaker.speak()
    closing = (await closed(broker, speaker.spec)).closing[0]
    assert closing.state == "failed"
    await until(lambda: "407" in str(worker.log), "the refusal is in the log")
    assert "wrong-one" not in str(worker.log)
