"""Files that several commands change at once: locks, and replacement in one step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from natterjack.errors import UsageError


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold an exclusive lock on the directory for the block, so that no update is lost.

    The directory is made if it is missing. Raises UsageError if it cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(ImportError):  # not available on Windows
                import fcntl

                descriptor = os.open(directory, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise UsageError(f"{directory} cannot be used: {error.strerror}") from None
        yield


def replace_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Replace a file in one step, or make it with `mode`. An existing file keeps its own mode.

    Raises UsageError if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, mode)) as file:
            with contextlib.suppress(FileNotFoundError):
                partial.chmod(path.stat().st_mode & 0o777)
            file.write(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
