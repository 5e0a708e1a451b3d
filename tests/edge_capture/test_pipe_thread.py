from __future__ import annotations

import os

from edge_capture.sources.pipe_thread import PipeThread
from tests.waiting import until


async def test_a_pipe_is_read_once_for_each_time_that_it_is_asked_for() -> None:
    reader, writer = os.pipe()
    received: list[bytes | OSError] = []
    thread = PipeThread(reader, received.append)
    thread.read(4)
    thread.read(4)
    os.write(writer, b"abcdefgh")
    await until(lambda: received, "it is read")
    os.set_blocking(reader, False)
    assert os.read(reader, 8) == b"efgh", "the writer waits for who does not ask"
    os.set_blocking(reader, True)
    thread.read(4)
    os.close(writer)
    await until(lambda: len(received) == 2, "the end is read")
    assert received == [b"abcd", b""]
    thread.end(lambda: os.close(reader))
    await until(lambda: not os.path.exists(f"/proc/self/fd/{reader}"), "it is closed")


async def test_it_is_closed_only_when_nothing_reads_it() -> None:
    reader, writer = os.pipe()
    closed: list[int] = []
    thread = PipeThread(reader, lambda _: None)
    thread.read(4)
    thread.end(lambda: closed.append(reader))
    os.write(writer, b"a")
    await until(lambda: closed, "it ends after the read")
    os.close(writer)
    os.close(reader)


async def test_an_error_is_received() -> None:
    reader, writer = os.pipe()
    received: list[bytes | OSError] = []
    PipeThread(writer, received.append).read(4)  # which can only be written
    await until(lambda: received, "it fails")
    assert isinstance(received[0], OSError)
    os.close(writer)
    os.close(reader)
