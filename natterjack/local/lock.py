"""The lock of a stack's directory, which only one stack may use at a time."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from natterjack.errors import UsageError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[Sequence[int]]:
    """Lock the directory of a stack. Provides the descriptors that hold the lock.

    The keeper inherits them, so that the lock lasts until the last part has ended. Raises:
    UsageError if another stack uses the directory, or it has another file named `lock`; OSError.
    """
    try:
        import fcntl
    except ImportError:  # on Windows
        directory.mkdir(parents=True, exist_ok=True)
        yield ()
        return
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("a+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UsageError(
                f"{directory} is in use by another stack, process {file.read().strip()}: stop it, "
                "or choose another directory with --store"
            ) from None
        except OSError:
            log.warning("%s: this file system has no locks; use it for one stack only", directory)
        file.seek(0)
        if (content := file.read(100).strip()) and not content.isdecimal():
            raise UsageError(
                f"{file.name} is not the lock of a stack; choose another directory with --store"
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield (file.fileno(),)
