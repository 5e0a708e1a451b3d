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
    os.close(reader)


async def test_an_error_is_received() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    os.close(reader)
    received: list[bytes | OSError] = []
    PipeThread(reader, received.append).read(4)
    await until(lambda: received, "it fails")
    assert isinstance(received[0], OSError)
