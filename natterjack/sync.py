"""`listen`, `durable`, `transcript` and `follow` without asyncio, for programs and notebooks::

    from natterjack import sync

    for event in sync.listen(tenant="acme", since="start"):
        ...

    with sync.durable("index", tenant="acme") as deliveries:
        for delivery in deliveries:
            store(delivery.event)
            delivery.ack()

They take the parameters of the functions of `natterjack` that have the same names, except `broker`,
and raise the same errors. Each call has a thread, an event loop and a connection of its own, which
end with the loop over the events, or the block, by Ctrl-C too: use `contextlib.closing` for a loop
that is left before its end. They may be used in several threads, and where an event loop runs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from .consume import conversation, listener
from .consume import durable as consumer
from .decoding import AnyEvent
from .errors import UsageError

__all__ = ["Deliveries", "Delivery", "durable", "follow", "listen", "transcript"]

P = ParamSpec("P")
T = TypeVar("T")

_AHEAD = 256
"""Stored events that are read ahead of the program."""
_LOOK_S = 0.5
"""How often a waiting thread looks for Ctrl-C where the system does not interrupt it."""


class _LoopThread:
    """An event loop in a thread of its own, for the block."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        # A daemon: a loop over events that was left and forgotten does not keep the program alive.
        self._thread = threading.Thread(target=self._main, name="natterjack", daemon=True)
        self._thread.start()
        return self

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and wait for its result."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while not future.done():
                concurrent.futures.wait((future,), _LOOK_S)
        except BaseException:  # Ctrl-C
            future.cancel()
            raise
        return future.result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if sys.is_finalizing():  # the program ends, and other threads stand still
            return
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


async def _cancel_others() -> None:
    """Cancel what still runs in this loop, after Ctrl-C for example."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class _ReadAhead:
    """Takes what a source yields before it is asked for, up to _AHEAD."""

    def __init__(self, source: AsyncGenerator[T, None]) -> None:
        self._source = source
        self._items: deque[Any] = deque()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def _pump(self) -> None:
        async for item in self._source:
            self._items.append(item)
            self._changed.set()
            while len(self._items) >= _AHEAD:
                self._changed.clear()
                await self._changed.wait()

    async def take(self) -> list[Any]:
        """All that was read; nothing at the end of the source."""
        if self._task is None:
            self._task = asyncio.create_task(self._pump())
            self._task.add_done_callback(lambda _: self._changed.set())
        while not self._items:
            if self._task.done():
                self._task.result()  # raises
                return []
            self._changed.clear()
            await self._changed.wait()
        items = list(self._items)
        self._items.clear()
        self._changed.set()
        return items


def _iterated(source: AsyncGenerator[T, None], ahead: bool) -> Generator[T, None, None]:
    async def one() -> list[T]:
        try:
            return [await anext(source)]
        except StopAsyncIteration:
            return []

    with _LoopThread() as thread:
        take = _ReadAhead(source).take if ahead else one
        try:
            while items := thread.run(take()):
                yield from items
        finally:
            if not sys.is_finalizing():
                thread.run(_closed(source))


async def _closed(source: AsyncGenerator[Any, None]) -> None:
    await _cancel_others()
    await source.aclose()


def _blocking_iterator(
    function: Callable[P, AsyncGenerator[T, None]],
) -> Callable[P, Generator[T, None, None]]:
    @functools.wraps(function)
    def blocking(*args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        _check(kwargs)
        # Interims must not wait: the newest one is wanted when the program asks.
        ahead = kwargs.get("interims", "latest") is None or kwargs.get("until") == "stored"
        return _iterated(function(*args, **kwargs), ahead)

    return blocking


def _blocking(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    @functools.wraps(function)
    def blocking(*args: P.args, **kwargs: P.kwargs) -> T:
        _check(kwargs)
        with _LoopThread() as thread:
            return thread.run(function(*args, **kwargs))

    return blocking


class Delivery:
    """An event of a durable consumer, and what becomes of it: as `natterjack.Delivery`."""

    __slots__ = ("_of", "_thread")

    def __init__(self, thread: _LoopThread, delivery: consumer.Delivery) -> None:
        self._thread, self._of = thread, delivery

    @property
    def event(self) -> AnyEvent:
        return self._of.event

    @property
    def attempt(self) -> int:
        """1 for the first delivery."""
        return self._of.attempt

    @property
    def position(self) -> str:
        """Where the event is in the stream, as text to store."""
        return self._of.position

    def ack(self) -> None:
        """The event is done. This is stored within 50 ms, and not waited for."""
        self._thread.run(self._of.ack())

    def retry(self, seconds: float = 0) -> None:
        """Deliver the event again in `seconds`, to any process."""
        self._thread.run(self._of.retry(seconds))

    def reject(self, reason: str) -> None:
        """Store the event and `reason` as a dead letter. Raises: StreamMissing."""
        self._thread.run(self._of.reject(reason))


class Deliveries:
    """The events of a durable consumer: iterate over them, one by one or in batches."""

    def __init__(self, thread: _LoopThread, deliveries: consumer.Deliveries) -> None:
        self._thread, self._of = thread, deliveries

    def __iter__(self) -> Deliveries:
        return self

    def __next__(self) -> Delivery:
        return Delivery(self._thread, self._thread.run(self._of.__anext__()))

    def batches(self, size: int, seconds: float) -> Iterator[list[Delivery]]:
        """Iterate over lists of events: as `natterjack.Deliveries.batches`."""
        source = self._of.batches(size, seconds)

        async def batch() -> list[consumer.Delivery]:
            return await anext(source)

        while True:
            yield [Delivery(self._thread, each) for each in self._thread.run(batch())]


def _blocking_context(
    function: Callable[P, AbstractAsyncContextManager[consumer.Deliveries]],
) -> Callable[P, AbstractContextManager[Deliveries]]:
    @contextlib.contextmanager
    @functools.wraps(function)
    def blocking(*args: P.args, **kwargs: P.kwargs) -> Iterator[Deliveries]:
        _check(kwargs)
        context = function(*args, **kwargs)
        with _LoopThread() as thread:
            deliveries = thread.run(context.__aenter__())
            try:
                yield Deliveries(thread, deliveries)
            finally:
                if not sys.is_finalizing():
                    thread.run(context.__aexit__(None, None, None))

    return blocking


def _check(arguments: dict[str, Any]) -> None:
    if arguments.get("broker") is not None:
        raise UsageError("broker: a connection belongs to another event loop; give `settings`")


durable = _blocking_context(consumer.durable)
listen = _blocking_iterator(listener.listen)
follow = _blocking_iterator(conversation.follow)
transcript = _blocking(conversation.transcript)
