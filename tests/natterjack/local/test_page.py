"""The gateway of a local stack: its port, its page, the browser, and what is shown meanwhile."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from natterjack.errors import UsageError
from natterjack.local import page
from natterjack.local.page import ANY_PORT, address, check_page, gateway_variables
from natterjack.local.progress import step
from tests.natterjack.cli.commands import Command
from tests.ports import free_port
from tests.waiting import until

pytestmark = pytest.mark.process


def test_the_port_of_the_gateway() -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert gateway_variables({"GATEWAY_HTTP_PORT": str(port)}) == {"GATEWAY_HTTP_PORT": "0"}
        with pytest.raises(UsageError, match=f"port {port} .* is taken by another program"):
            gateway_variables({}, port)
    assert gateway_variables({"GATEWAY_HTTP_PORT": str(free)}) == {"GATEWAY_HTTP_PORT": str(free)}
    assert gateway_variables({}, free) == {"GATEWAY_HTTP_PORT": str(free)}
    assert gateway_variables({}, ANY_PORT) == {"GATEWAY_HTTP_PORT": "0"}
    # The gateway itself refuses a value that is no port.
    assert gateway_variables({"GATEWAY_HTTP_PORT": "x"}) == {"GATEWAY_HTTP_PORT": "x"}


def test_without_its_packages_there_is_no_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "av" else name)
    assert gateway_variables({}) is None
    check_page(None, wanted=False)
    with pytest.raises(UsageError, match=r"av is missing: pip install 'natterjack\[gateway\]'"):
        check_page(None, wanted=True)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="--no-gateway was given"):
        check_page(None, wanted=True)


def test_the_address_is_one_for_this_machine() -> None:
    assert address("http://127.0.0.1:8080") == "http://127.0.0.1:8080/"
    assert address("http://0.0.0.0:8080") == "http://127.0.0.1:8080/"
    assert address("http://[::]:8080") == "http://[::1]:8080/"


async def test_a_step_says_how_long_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    async with step("the engine"):
        await asyncio.sleep(0.2)  # the time that is said
    async with step("the rest", shown=False):
        pass
    with pytest.raises(ZeroDivisionError):
        async with step("what fails"):
            raise ZeroDivisionError
    out = capsys.readouterr().out
    assert re.fullmatch(r"the engine is ready after 0\.[2-9] s\n", out)


UP = ("up", "--port", "-1", "--provider", "deepgram")
BROWSER = '#!/bin/sh\necho "$1" > {}\n'


def url_of(out: str) -> str:
    found = re.search(r"^page +(\S+)", out, flags=re.M)
    assert found, out
    return found[1]


async def test_up_opens_its_page(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(BROWSER.format(seen))
    browser.chmod(0o755)
    port = free_port()
    async with Command(
        *UP, "--gateway-port", str(port), "--open",
        DEEPGRAM_API_KEY="any", BROWSER=str(browser), DISPLAY=":0",
    ) as command:  # fmt: skip
        await until(seen.exists, "the browser is opened", 60)
        url = url_of(command.out)
        assert url == f"http://127.0.0.1:{port}/"
        await until(lambda: seen.read_text() == f"{url}\n", "it is told the page", 10)

        def text() -> str:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode())

        assert "<!doctype html>" in await asyncio.to_thread(text)
        command.signal(signal.SIGTERM)
        assert await command.status() == 0
    assert "the gateway is ready after" in command.out
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_up_without_a_browser_says_so() -> None:
    async with Command(
        *UP, "--gateway-port", "-1", "--open", DEEPGRAM_API_KEY="any", BROWSER="/bin/false"
    ) as command:
        await until(lambda: "no browser can be opened" in command.out, "it says so", 60)
        command.signal(signal.SIGTERM)
        assert await command.status() == 0
    assert url_of(command.out) in command.out.partition("no browser can")[2]


async def test_up_without_a_gateway() -> None:
    async with Command(*UP, "--no-gateway", DEEPGRAM_API_KEY="any") as command:
        await until(lambda: "Ctrl-C stops" in command.out, "it is ready", 60)
        command.signal(signal.SIGTERM)
        assert await command.status() == 0
    assert url_of(command.out) == "none:"
    assert "gateway is ready" not in command.out


async def test_progress_is_shown_on_a_terminal() -> None:
    async with Command(*UP, "--gateway-port", "-1", terminal=True, DEEPGRAM_API_KEY="any") as up:
        await until(lambda: "Ctrl-C stops" in up.out, "it is ready", 60)
        up.signal(signal.SIGTERM)
        assert await up.status() == 0
    assert re.search(r"\r\x1b\[Kworker 1.* \.\.\. \d+ s", up.out)
    shown = re.sub(r"[^\n]*\r\x1b\[K", "", up.out.replace("\r\n", "\n"))
    assert re.search(r"^worker 1 is ready after \d+\.\d s$", shown, flags=re.M)
    assert "\x1b" not in shown


async def test_a_gateway_that_ends_ends_the_stack(tmp_path: Path) -> None:
    """Started with a setting that it refuses, it says which."""
    begin = time.monotonic()
    async with Command(
        *UP, "--gateway-port", "-1", DEEPGRAM_API_KEY="any", GATEWAY_EXPOSE="nobody"
    ) as command:
        assert await command.status() == 2
    assert "GATEWAY_EXPOSE" in command.errors
    assert "Traceback" not in command.errors
    assert time.monotonic() - begin < 120
