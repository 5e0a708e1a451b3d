"""The start of a program: Ctrl-C during its imports, modules that are missing, closed streams.

This module imports nothing that takes long, so it is in charge before the imports that do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from importlib import import_module

_INTERRUPTED = 128 + signal.SIGINT
_OURS = ("natterjack", "worker", "edge_capture", "gateway")


def run_program(program: str, module: str, extra: str | None = None) -> int:
    """Import `module`, call its `main`, and return the exit status.

    Ctrl-C never prints a traceback: the exit status is 130 before `main` handles it, and while the
    interpreter ends. `extra` is the extra of the distribution that `module` needs.
    """
    _open_closed_streams()
    # A program that a shell starts in the background ignores Ctrl-C, and goes on ignoring it.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if interruptible:
            signal.signal(signal.SIGINT, _end)
        with requires_extra(program, extra):
            main = import_module(module).main
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return main() or 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        flush_streams()
        if interruptible:
            signal.signal(signal.SIGINT, _end)


def _end(*_: object) -> None:
    os._exit(_INTERRUPTED)


def _open_closed_streams() -> None:
    """Open /dev/null in place of standard streams that are closed.

    Otherwise the next file or socket would become standard output. `sys.stdin` stays None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is `number`
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def flush_streams() -> None:
    """Flush the standard streams. If nobody reads one, what is left of it is dropped silently."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def requires_extra(program: str, extra: str | None) -> Iterator[None]:
    """Exit with status 2 and a message with the cure if an import in the block fails.

    Only other projects' modules count: one that is missing, or that a file of the user's own
    shadows. Errors about modules of this project are raised as usual.
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if name in ("", *_OURS):
            raise
        file = _users_own(name)
        if file is not None:
            print(
                f"{program}: {file} is imported in place of the package {name}: rename it, or "
                "remove its folder from PYTHONPATH",
                file=sys.stderr,
            )
        elif isinstance(error, ModuleNotFoundError):
            package = f"natterjack[{extra}]" if extra else "natterjack"
            print(
                f"{program}: the module {name} is missing: pip install '{package}'",
                file=sys.stderr,
            )
        else:
            raise
        sys.exit(2)


def _users_own(name: str) -> str | None:
    """The file of the module `name` if it is in the current folder or one of PYTHONPATH."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return None
    folders = {os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    own = os.path.dirname(os.path.abspath(file)) in map(os.path.abspath, folders)
    return os.path.abspath(file) if own else None
