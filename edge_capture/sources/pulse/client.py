"""A connection to the sound server, run by the event loop or on its own."""

from __future__ import annotations

import asyncio
import ctypes
import math
import select
import time
from collections.abc import Callable
from typing import Any

from .library import (
    CONTEXT_FAILED,
    CONTEXT_READY,
    NO_AUTOSPAWN,
    PollFunction,
    library,
)

_CLIENT = b"natterjack-edge"


class PulseError(Exception):
    """The sound server cannot be reached, or the connection has ended."""


class Client:
    """A connection to the sound server that the user's environment and client.conf name.

    It belongs to one thread. Nothing of it blocks: `run_ready` does what there is to do, and tells
    for which descriptors, and until when, to wait.
    """

    def __init__(self) -> None:
        """Begin to connect. Raises: PulseError."""
        pulse = library()
        if pulse is None:
            raise PulseError("libpulse is not installed")
        self.pulse: Any = pulse
        self.waits_for: dict[int, int] = {}
        """Descriptors to wait for, with the events of poll(2)."""
        self.wait_s: float | None = None
        """How long to wait at most; None: without limit."""
        self._blocked = False
        self._libc = ctypes.CDLL(None)
        self._poll = PollFunction(self._poll_at_once)
        self._mainloop: int | None = pulse.pa_mainloop_new()
        pulse.pa_mainloop_set_poll_func(self._mainloop, self._poll, None)
        self.context: int | None = pulse.pa_context_new(
            pulse.pa_mainloop_get_api(self._mainloop), _CLIENT
        )
        # Without autospawn: starting a server is the desktop's or systemd's business.
        if pulse.pa_context_connect(self.context, None, NO_AUTOSPAWN, None) < 0:
            error = self.error()
            self.close()
            raise error

    def error(self) -> PulseError:
        """Return the last error of the connection."""
        number = self.pulse.pa_context_errno(self.context)
        return PulseError((self.pulse.pa_strerror(number) or b"unknown error").decode())

    @property
    def ready(self) -> bool:
        """Whether the server has accepted the connection. Raises: PulseError if it has ended."""
        if self.context is None:
            raise PulseError("closed")
        state = self.pulse.pa_context_get_state(self.context)
        if state >= CONTEXT_FAILED:
            raise self.error()
        return bool(state == CONTEXT_READY)

    def run_ready(self) -> None:
        """Do everything that can be done without waiting. Raises: PulseError."""
        pulse, mainloop = self.pulse, self._mainloop
        self._blocked = False
        while not self._blocked:
            if (
                pulse.pa_mainloop_prepare(mainloop, -1) < 0
                or pulse.pa_mainloop_poll(mainloop) < 0
                or pulse.pa_mainloop_dispatch(mainloop) < 0
            ):
                raise PulseError("the client library has stopped")

    def _poll_at_once(self, ufds: Any, count: int, timeout_ms: int, _: Any) -> int:
        """Stand in for the library's poll(2): it does not wait, but notes what to wait for."""
        found: int = self._libc.poll(ufds, count, 0)
        if found == 0 and timeout_ms != 0:
            self._blocked = True
            self.waits_for = {ufds[i].fd: ufds[i].events for i in range(count)}
            self.wait_s = None if timeout_ms < 0 else timeout_ms / 1000
        return max(found, 0)

    def run_until(self, done: Callable[[], bool], deadline: float) -> None:
        """Run the connection in this thread until `done`, or until time.monotonic() is `deadline`.

        Raises: PulseError, also at the deadline.
        """
        while True:
            self.run_ready()
            if done():
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise PulseError("the sound server does not answer")
            poll = select.poll()
            for descriptor, events in self.waits_for.items():
                poll.register(descriptor, events)
            poll.poll(math.ceil(1000 * min(left, math.inf if self.wait_s is None else self.wait_s)))

    def close(self) -> None:
        """End the connection. Never waits for the server. Idempotent."""
        context, self.context = self.context, None
        mainloop, self._mainloop = self._mainloop, None
        if context is not None:
            self.pulse.pa_context_disconnect(context)
            self.pulse.pa_context_unref(context)
        if mainloop is not None:
            self.pulse.pa_mainloop_free(mainloop)


class InLoop:
    """Runs a client's connection in the event loop of this thread, until `stop`."""

    def __init__(self, client: Client, after: Callable[[], None]) -> None:
        """`after` is called after each time that something was done. It must not raise; it may
        call `stop`."""
        self._client = client
        self._after = after
        self._loop = asyncio.get_running_loop()
        self._watched: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.running = True
        self.settled = False
        """Whether the library opens and closes no more descriptors. Until then, the same number may
        be another one after each run."""

    def run(self) -> None:
        """Do what can be done, and arrange to be called again when there is more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            self._client.run_ready()
        except PulseError:
            self.running = False
        self._after()
        if not self.running:
            self.stop()
            return
        if not self.settled:
            self._watch({})
        self._watch(self._client.waits_for)
        if self._client.wait_s is not None:
            self._timer = self._loop.call_later(self._client.wait_s, self.run)

    def _watch(self, wanted: dict[int, int]) -> None:
        if wanted == self._watched:
            return
        for descriptor in self._watched.keys() | wanted.keys():
            before, now = self._watched.get(descriptor, 0), wanted.get(descriptor, 0)
            if now & select.POLLIN and not before & select.POLLIN:
                self._loop.add_reader(descriptor, self.run)
            elif before & select.POLLIN and not now & select.POLLIN:
                self._loop.remove_reader(descriptor)
            if now & select.POLLOUT and not before & select.POLLOUT:
                self._loop.add_writer(descriptor, self.run)
            elif before & select.POLLOUT and not now & select.POLLOUT:
                self._loop.remove_writer(descriptor)
        self._watched = wanted

    def stop(self) -> None:
        """Call nothing any more. Idempotent."""
        self.running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watch({})
