"""Reading a pipe in a thread, where no event loop watches one: on Windows."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import threading
from collections.abc import Callable


class PipeThread:
    """Reads a descriptor in a thread, once for each time that it is asked to."""

    def __init__(self, descriptor: int, received: Callable[[bytes | OSError], None]) -> None:
        """Call `received` in the running loop with what is read, or with an error."""
        if hasattr(os, "O_BINARY"):  # else Windows changes the ends of lines
            importlib.import_module("msvcrt").setmode(descriptor, os.O_BINARY)
        self._descriptor, self._received = descriptor, received
        self._size = 0
        self._loop = asyncio.get_running_loop()
        self._wanted = threading.Semaphore(0)
        self._reading = False
        self._finished: Callable[[], object] | None = None
        # At the end of the process, a daemon may still wait for a writer.
        threading.Thread(target=self._run, name="standard input", daemon=True).start()

    def read(self, size: int) -> None:
        """Read up to `size` bytes, unless that is being done already."""
        if not self._reading:
            self._reading, self._size = True, size
            self._wanted.release()

    def end(self, finished: Callable[[], object]) -> None:
        """End the thread once it is reading no more, and let it call `finished`, which may close
        the descriptor."""
        self._finished = finished
        self._wanted.release()

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            if self._finished is not None:
                self._finished()
                return
            data: bytes | OSError
            try:
                data = os.read(self._descriptor, self._size)
            except OSError as error:
                data = error
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._deliver, data)

    def _deliver(self, data: bytes | OSError) -> None:
        self._reading = False
        self._received(data)
