from __future__ import annotations

import asyncio
import contextlib
import http.server
import itertools
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from edge_capture.config.models import CommandTable, StreamTable
from edge_capture.errors import SourceError, SourceLost
from edge_capture.sources import Block, process
from edge_capture.sources.process import ProcessSource
from edge_capture.supervisor.opening import open_source, program_source
from tests.edge_capture.media import make, sine
from tests.edge_capture.program import loudest_hertz
from tests.waiting import soon, until

pytestmark = pytest.mark.process

_SERVER = """
import os, sys, time, struct
child = os.fork()
if child == 0:
    time.sleep(600)
open(sys.argv[1], "a").write(f"{os.getpid()} {child}\\n")
block = struct.pack("<320h", *range(320))
for n in range(int(sys.argv[2])):
    sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()
    time.sleep(0.005)
print("line 1", "x" * 100_000, "rtsp://user:secret@camera/1 refused", file=sys.stderr)
sys.exit(3)
"""


def command(*arguments: object, **keys: object) -> CommandTable:
    return CommandTable(
        name="s", kind="command", command=(sys.executable, "-c", *map(str, arguments)), **keys
    )


@contextlib.asynccontextmanager
async def opened(table: CommandTable | StreamTable) -> AsyncIterator[ProcessSource]:
    source = await soon(open_source(table), 30)
    assert isinstance(source, ProcessSource)
    try:
        yield source
    finally:
        source.close()


async def read(source: ProcessSource, frames: int) -> list[Block]:
    """Read blocks until they have so many frames."""
    blocks: list[Block] = []
    async with contextlib.aclosing(source.blocks()) as reading:
        async for block in reading:
            blocks.append(block)
            if sum(len(each.samples) for each in blocks) >= frames:
                break
    return blocks


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


async def test_a_program_that_ends_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The time without it is a gap. All that it has started ends with it."""
    pids = tmp_path / "pids"
    async with opened(command(_SERVER, pids, 50)) as source:
        blocks = await soon(read(source, 120 * 320), 30)
    gaps = [block for block in blocks if block.lost_frames]
    assert len(gaps) >= 2
    assert {block.cause for block in gaps} == {"device_lost"}
    for before, after in itertools.pairwise(blocks):
        end_ns = before.time_ns + (len(before.samples) + after.lost_frames) * 62_500
        assert abs(after.time_ns - end_ns) < 1e6
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) >= 4
    await until(lambda: all(map(gone, started)), "all processes have ended")
    assert "exit status 3" in caplog.text
    assert "refused" in caplog.text
    assert "secret" not in caplog.text
    assert len(caplog.text) < 4000, "its messages are cut"


async def test_a_program_that_stays_away_ends_the_session(tmp_path: Path) -> None:
    once = f"{_SERVER.replace('sys.exit(3)', '')}\nos.unlink({str(tmp_path / 'mark')!r})"
    (tmp_path / "mark").touch()
    guard = f"import os, sys\nif not os.path.exists({str(tmp_path / 'mark')!r}): sys.exit(4)\n"
    async with opened(command(guard + once, tmp_path / "pids", 5, wait_seconds=0.1)) as source:
        may_finish = False
        source.can_finish = lambda: may_finish
        reading = asyncio.create_task(read(source, 10**9))
        await until(lambda: source.waiting_for, "the program has ended")
        assert not reading.done()
        may_finish = True
        with pytest.raises(SourceLost, match="exit status 4"):
            await soon(reading, 30)


async def test_a_program_that_cannot_be_killed_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_group: int, _signal: int) -> None:
        raise PermissionError  # as for a command with sudo

    wait = "import os, sys, time\nopen(sys.argv[1], 'w').write(str(os.getpid()))\n"
    wait += "os.write(1, bytes(640))\ntime.sleep(60)"
    async with opened(command(wait, tmp_path / "pid")):
        pid = int((tmp_path / "pid").read_text())
        monkeypatch.setattr(os, "killpg", denied)
    assert not gone(pid)
    monkeypatch.undo()
    os.killpg(pid, signal.SIGKILL)
    assert process._left.pop().wait(30) == -signal.SIGKILL


async def test_a_program_that_is_missing_is_named() -> None:
    table = StreamTable(name="s", kind="stream", url="http://127.0.0.1:1/", ffmpeg="no-ffmpeg")
    with pytest.raises(SourceError, match="no-ffmpeg is not installed: apt-get install ffmpeg"):
        await open_source(table)
    with pytest.raises(SourceError, match="it has ended"):
        await open_source(command("pass"))


@pytest.fixture
def radio(tmp_path: Path) -> Iterator[str]:
    """The address of an HTTP server with a tone of 440 Hz, 44.1 kHz."""
    make(tmp_path / "tone.mp3", *sine(440, 3))
    data = (tmp_path / "tone.mp3").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if "token=long-secret" in self.path else 403)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/live"
        server.shutdown()
        thread.join()


async def test_ffmpeg_reads_a_stream(radio: str, tmp_path: Path) -> None:
    """Its address is read from a file, and its secrets are in no message."""
    address = tmp_path / "url"
    address.write_text(f"{radio}?token=long-secret\n")
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    table = StreamTable(name="s", kind="stream", url_file=address, ffmpeg=ffmpeg)
    async with opened(table) as source:
        assert source.name == f"{radio}?***"
        samples = np.concatenate([block.samples for block in await soon(read(source, 32_000), 30)])
    assert abs(loudest_hertz(samples[:, 0], 16_000) - 440) < 2
    address.write_text(f"{radio}?token=wrong-secret")
    with pytest.raises(SourceError, match="403") as error:
        await open_source(table)
    assert "wrong-secret" not in str(error.value)
    os.unlink(address)
    with pytest.raises(SourceError, match="No such file"):
        program_source(table)


async def test_ffmpeg_reads_an_address_that_its_command_line_does_not_have(
    radio: str, tmp_path: Path
) -> None:
    listed = tmp_path / "radio.ffconcat"
    listed.write_text(f"ffconcat version 1.0\nfile '{radio}?token=long-secret'\n")
    options = ("-f", "concat", "-safe", "0", "-protocol_whitelist", "file,http,https,tcp,tls")
    table = StreamTable(
        name="s", kind="stream", url=str(listed), input_options=options,
        ffmpeg=imageio_ffmpeg.get_ffmpeg_exe(),
    )  # fmt: skip
    async with opened(table) as source:
        samples = np.concatenate([block.samples for block in await soon(read(source, 32_000), 30)])
    assert abs(loudest_hertz(samples[:, 0], 16_000) - 440) < 2
    listed.write_text(f"ffconcat version 1.0\nfile '{radio}?token=wrong-secret'\n")
    with pytest.raises(SourceError, match="403") as error:
        await open_source(table)
    assert "wrong-secret" not in str(error.value)
