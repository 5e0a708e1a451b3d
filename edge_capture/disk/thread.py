"""A thread for the disk operations of one directory, which says when the disk does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from natterjack.telemetry.log import fields

from .apart import answered

log = logging.getLogger(__name__)

HUNG_S = 10.0
"""A disk that takes longer for one operation is said not to answer. A slow one takes seconds."""
_LOOK = 1.1
"""When to look whether an operation takes too long, in parts of that time."""
_END_S = 5.0
"""How long the end of the thread is waited for."""
_WATCH_S = 5.0
"""How often to look whether the event loop waits for the disk."""


class DiskThread:
    """Does what takes long on a disk, in order.

    The thread does not keep the process from ending, because a disk that hangs may never answer.
    Another one watches what the event loop does on the disk itself, also while the first one waits.
    """

    def __init__(self, setting: str, directory: Path, effect: str) -> None:
        """`setting` names the directory in messages, `effect` says what is done while the disk does
        not answer."""
        self.hung = False
        """Whether an operation has not been answered in time. Then no other may be tried."""
        self.on_hung: Callable[[], None] = _nothing
        """Called in the event loop when the disk does not answer an operation of the thread."""
        self._setting, self._directory, self._effect = setting, directory, effect
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        """Ends the thread that watches."""
        self._busy: float | None = None
        """Since when the thread does its present work, on the monotonic clock."""
        self._called: float | None = None
        """Since when the event loop waits for the disk, on the monotonic clock."""
        self._told = False
        """Whether it was said that the event loop waits."""
        self._hangs = asyncio.Event()
        self._lock = threading.Lock()
        """For `_busy` and `hung`."""

    async def run(self, work: Callable[[], object]) -> None:
        """Do blocking `work`. Raises: OSError, and whatever else it raises.

        If this is cancelled, the work is done nevertheless.
        """
        loop = asyncio.get_running_loop()
        task, done = answered(work)
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            self.check()
            timer = loop.call_later(_LOOK * HUNG_S, look)

        timer = loop.call_later(_LOOK * HUNG_S, look)
        self._start()
        self._work.put(task)
        try:
            await done
        finally:
            timer.cancel()

    def later(self, work: Callable[[], None]) -> None:
        """Do `work`, which raises nothing, after all that was asked for before.

        Nobody is woken when it is done. Who asks for such work says with `check` that it takes too
        long.
        """
        self._start()
        self._work.put(work)

    def check(self) -> None:
        """Say it if the thread's work takes too long. To be called in the event loop."""
        with self._lock:
            busy = self._busy
            if self.hung or busy is None or time.monotonic() - busy < HUNG_S:
                return
            self.hung = True
            self._hangs.set()
        self._say(self._effect)
        self.on_hung()

    @property
    def hung_seconds(self) -> float:
        """How long the operation has taken that the disk does not answer, or 0."""
        busy = self._busy
        return time.monotonic() - busy if self.hung and busy is not None else 0.0

    def catch_up(self) -> None:
        """Wait for the thread, unless the disk does not answer."""
        done = threading.Event()
        self.later(done.set)
        while not (self.hung or done.wait(HUNG_S)):
            self.check()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Have it said if the block, in the event loop, waits for the disk."""
        self._start()
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Say that the event loop begins to use the disk, which is to take no time."""
        self._called = time.monotonic()

    def leave(self) -> None:
        """Say that it has done so."""
        began, self._called = self._called, None
        if self._told and began is not None:
            self._told = False
            self._say_again(began)

    async def or_hung(self, work: asyncio.Task[None]) -> bool:
        """Wait until `work` is done or the disk hangs. Returns whether it is done."""
        hangs = asyncio.ensure_future(self._hangs.wait())
        await asyncio.wait((work, hangs), return_when=asyncio.FIRST_COMPLETED)
        hangs.cancel()
        return work.done()

    def close(self) -> None:
        """End the thread after its work, without waiting if the disk does not answer."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ended.set()
            self._work.put(None)
            if not self.hung:
                thread.join(_END_S)

    def _start(self) -> None:
        if self._thread is None:
            name = self._setting.lower()
            self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
            self._thread.start()
            self._ended = threading.Event()
            threading.Thread(
                target=self._watch, args=(self._ended,), name=f"{name}-watch", daemon=True
            ).start()

    def _loop(self) -> None:
        while True:
            work = self._work.get()
            if work is None:
                return
            self._busy = began = time.monotonic()
            try:
                work()
            except Exception:  # else nothing would be done on the disk any more
                log.exception("%s: an operation on the disk failed", self._setting)
            with self._lock:
                hung, self.hung, self._busy = self.hung, False, None
                self._hangs.clear()
            if hung:
                self._say_again(began)

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(_WATCH_S):
            called = self._called
            if called is not None and not self._told and time.monotonic() - called > HUNG_S:
                self._told = True
                self._say("nothing is captured until it does")

    def _say(self, effect: str) -> None:
        log.error(
            "%s: the disk does not answer: %s; see whether its mount or its device is well, or "
            "choose another directory",
            self._setting,
            effect,
            extra=fields(directory=str(self._directory)),
        )

    def _say_again(self, began: float) -> None:
        log.warning(
            "%s: the disk answers again after %.1f s",
            self._setting,
            time.monotonic() - began,
            extra=fields(directory=str(self._directory)),
        )


def _nothing() -> None:
    pass
