"""Receiving signals in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType


def stop_signals() -> tuple[int, ...]:
    """The signals that ask a program to stop: SIGINT, SIGTERM and SIGHUP, on Windows SIGBREAK.

    A terminal that is closed sends SIGHUP. Under `nohup` it is ignored, so it is left out. Windows
    sends SIGBREAK for Ctrl-Break, and to a process whose console is closed.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGBREAK"):
        numbers.append(signal.SIGBREAK)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return tuple(numbers)


@contextlib.contextmanager
def receiving(numbers: Iterable[int], received: Callable[[int], object]) -> Iterator[None]:
    """Within the block, call `received` in the running loop with the number of each signal.

    The main thread must enter it. Afterwards, the signals do what they do by default. But SIGHUP is
    ignored if it came: the shell and the kernel may both send it when a terminal is closed, and the
    second would kill a program that is about to end with its own status.
    """
    loop = asyncio.get_running_loop()
    came = set[int]()

    def receive(number: int) -> None:
        came.add(number)
        received(number)

    def forward(number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(receive, number)

    def ignore_hangup() -> None:
        if hasattr(signal, "SIGHUP") and signal.SIGHUP in came:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with contextlib.ExitStack() as stack:
        stack.callback(ignore_hangup)
        for number in numbers:
            try:
                loop.add_signal_handler(number, receive, number)
            except NotImplementedError:  # on Windows, no event loop has handlers
                before = signal.signal(number, forward)
                stack.callback(signal.signal, number, before or signal.SIG_DFL)
            else:
                stack.callback(loop.remove_signal_handler, number)
        yield
