"""Every module of the edge is imported where Python lacks what it lacks on Windows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.process
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
