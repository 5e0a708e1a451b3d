"""Modules of the edge import no more than a capture needs, and nothing that Windows lacks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]

_IMPORT = """
import asyncio, concurrent.futures, logging.handlers, os, shutil, signal, socket, subprocess, sys
import tempfile, types
from importlib import import_module

for name in ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty", "uvloop"):
    sys.modules[name] = None
sys.modules["msvcrt"] = types.ModuleType("msvcrt")
for name in ("fork", "getuid", "geteuid", "mkfifo", "sched_getaffinity", "set_blocking",
             "fdatasync", "killpg"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGSTOP", "SIGCONT", "SIGCHLD", "SIGPIPE", "SIGALRM"):
    delattr(signal, name)
del socket.AF_UNIX
failed = []
for module in sys.argv[1:]:
    try:
        import_module(module)
    except Exception as error:
        failed.append(f"{module}: {type(error).__name__}: {error}")
print("\\n".join(failed))
"""


def test_no_module_needs_what_windows_lacks() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "edge_capture").rglob("*.py"))
        if path.stem not in ("__main__", "__init__")
    ]
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, *modules],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
    assert len(modules) > 50


_UNNEEDED = (
    "aiohttp",
    "av",
    "multiprocessing",
    "opentelemetry",
    "rich",
    "sounddevice",
    "soundfile",
)
"""Packages of which an edge without a terminal, traces and recordings makes no use: 10 MB of memory
for aiohttp, 16 for av, 1 for rich."""
_CAPTURE = f"""
import sys
from edge_capture.__main__ import main
import edge_capture.sources.microphone, edge_capture.supervisor.command

code = main(["stdin", "--once"])
print(code, *sorted({{name.partition(".")[0] for name in sys.modules}} & {{*{_UNNEEDED}}}))
"""


@pytest.mark.interpreter
async def test_a_capture_imports_no_more_than_it_needs(
    ready_broker: Broker, nats_server: EmbeddedServer
) -> None:
    """See the memory of an edge in docs/explanation/performance.md."""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _CAPTURE],
        input=bytes(32000), env={**os.environ, "NATS_URL": nats_server.url},
        capture_output=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == b"0", done.stderr
