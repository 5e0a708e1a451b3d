"""nats-py without aiohttp, in interpreters that have imported neither."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.process, pytest.mark.interpreter]

_FORGOTTEN = """
import sys
from natterjack.process import without_aiohttp
import nats.aio.transport
print("aiohttp" in sys.modules, nats.aio.transport.aiohttp)
import aiohttp
print(aiohttp.ClientSession.__name__)
"""
_KEPT = """
import aiohttp
from natterjack.process import without_aiohttp
import natterjack.api, nats.aio.transport
print(nats.aio.transport.aiohttp is aiohttp)
"""
_APPLICATION = """
import natterjack
print(natterjack.listen.__name__)
import aiohttp, nats.aio.transport
print(nats.aio.transport.aiohttp is aiohttp)
"""
_COMMAND = """
import sys
import natterjack.cli.main
print("aiohttp" in sys.modules)
import natterjack.webhook.sender
print("aiohttp" in sys.modules)
"""


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        (_FORGOTTEN, ["False None", "ClientSession"]),
        (_KEPT, ["True"]),
        (_APPLICATION, ["listen", "True"]),
        (_COMMAND, ["False", "True"]),
    ],
    ids=[
        "a program",
        "aiohttp is there already",
        "an application that imports natterjack",
        "the command",
    ],
)
def test_only_programs_go_without_aiohttp(code: str, printed: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == printed
