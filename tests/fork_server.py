"""The process from which tests fork our programs; see forking.py.

`python -m tests.fork_server <socket>` imports the programs, prints "listening", and forks a process
for each connection until its standard input ends. A connection carries a request with three file
descriptors, and replies of the process's pid and, when it has ended, its exit status.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import termios
from typing import Any

from natterjack.plugin.entry_points import GROUP, VOICES_GROUP, available

IMPORTED = (
    "worker.__main__", "edge_capture.__main__", "gateway.__main__", "natterjack.cli.main", "uvloop"
)  # fmt: skip


def serve(address: str) -> tuple[str, list[str]]:
    """Fork for each request. Return in the forked process, with the module and its arguments."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    waking, woken = os.pipe()
    os.set_blocking(waking, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    ready = selectors.DefaultSelector()
    for source in (listener, waking, sys.stdin):
        ready.register(source, selectors.EVENT_READ)
    children: dict[int, socket.socket] = {}
    print("listening", flush=True)
    while True:
        for key, _ in ready.select():
            if key.fileobj is sys.stdin:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                sys.exit()
            elif key.fileobj == waking:
                os.read(waking, 4096)
                reap(children)
            else:
                connection, _ = listener.accept()
                data, descriptors, *_ = socket.recv_fds(connection, 2**20, 3)
                request = json.loads(data)
                pid = os.fork()
                if not pid:
                    signal.set_wakeup_fd(-1)
                    ready.close()
                    for other in (listener, connection, *children.values()):
                        other.close()
                    for descriptor in (waking, woken):
                        os.close(descriptor)
                    become(request, descriptors)
                    return request["module"], request["arguments"]
                for descriptor in descriptors:
                    os.close(descriptor)
                children[pid] = connection
                connection.send(b"%d" % pid)


def reap(children: dict[int, socket.socket]) -> None:
    """Report the processes that have ended."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with children.pop(pid) as connection, contextlib.suppress(OSError):  # nobody listens
            connection.send(b"%d" % os.waitstatus_to_exitcode(status))


def become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Give the forked process the streams, environment, folder and signal handlers of a new one."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    if request["session"]:
        os.setsid()
        if os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None  # of this TMPDIR
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    unbuffered = bool(request["env"].get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - lives as long as the process
    for name, number, errors in (("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
        raw = open(number, "wb", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115
        lines = number == 2 or os.isatty(number)
        stream = io.TextIOWrapper(
            raw, errors=errors, line_buffering=lines, write_through=unbuffered
        )
        setattr(sys, name, stream)


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for group in (GROUP, VOICES_GROUP):
        for name, plugin in available(group).items():
            if (
                plugin.module.startswith("worker.") and name != "sherpa"
            ):  # whose threads cannot fork
                importlib.import_module(plugin.module)
    gc.collect()
    gc.freeze()
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not fork"
    module, arguments = serve(sys.argv[1])
    sys.argv[1:] = arguments
    sys.modules.pop(f"{module}.__main__", None)  # runpy runs it anew, as `python -m` does
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
