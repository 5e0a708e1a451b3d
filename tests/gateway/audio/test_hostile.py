"""Streams that are damaged or made to harm: they end with a reason, and others go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from gateway.audio.convert import Output
from gateway.audio.decoder import Decoder, Decoders
from gateway.audio.errors import DecoderUnavailable, UndecodableAudio
from tests.edge_capture.media import make
from tests.gateway.audio.files import (
    FORMATS,
    WORDS,
    cut,
    decode,
    decode_whole,
    encoded,
    words,
)  # fmt: skip
from tests.waiting import until, within

pytestmark = pytest.mark.process
CONTAINERS = [name for name in FORMATS if name != "a.wav"]


@pytest.fixture
async def decoders() -> AsyncIterator[Decoders]:
    decoders = Decoders()
    try:
        yield decoders
    finally:
        await decoders.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("files")
    return {name: encoded(folder, name, FORMATS[name]) for name in CONTAINERS}


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == process and fields[0] != "Z":
            found.append(int(path.parent.name))
    return sorted(found)


async def decoder_process(decoders: Decoders) -> int:
    """The process of the only decoder that runs."""
    server = decoders.server_process
    assert server is not None
    await until(lambda: len(children(server)) == 1, "a decoder")
    return children(server)[0]


@pytest.mark.parametrize("name", CONTAINERS)
async def test_a_header_that_is_cut(decoders: Decoders, made: dict[str, bytes], name: str) -> None:
    with pytest.raises(UndecodableAudio):
        await decode_whole(decoders, [made[name][:60]])


@pytest.mark.parametrize("name", CONTAINERS)
async def test_random_bytes_after_the_header(
    decoders: Decoders, made: dict[str, bytes], name: str
) -> None:
    """They are refused, or found to contain next to nothing."""
    noise = np.random.default_rng(5).bytes(400_000)
    try:
        async with within(60):
            audio = await decode_whole(decoders, cut(made[name][:12] + noise, 8000))
    except UndecodableAudio:
        return
    assert not words(audio)


@pytest.mark.parametrize("name", CONTAINERS)
async def test_damage(decoders: Decoders, made: dict[str, bytes], name: str) -> None:
    """Bytes are changed, left out and repeated, anywhere."""
    random = np.random.default_rng(11)
    for _ in range(3):
        data = bytearray(made[name])
        for at in random.integers(0, len(data), 30):
            data[at] ^= int(random.integers(1, 256))
        at = int(random.integers(0, len(data) - 2000))
        del data[at : at + 1000]
        data[at:at] = data[at // 2 : at // 2 + 500]
        with contextlib.suppress(UndecodableAudio):
            async with within(60):
                await decode_whole(decoders, cut(bytes(data), 9000))


async def test_random_bytes(decoders: Decoders) -> None:
    with pytest.raises(UndecodableAudio, match="does not begin like"):
        await decode_whole(decoders, [b"\x00" + np.random.default_rng(1).bytes(5000)])
    assert decoders.server_process is None  # nothing was started for it


async def test_an_empty_stream(decoders: Decoders) -> None:
    assert await decode_whole(decoders, []) == b""
    with pytest.raises(UndecodableAudio, match="does not begin like"):
        await decode_whole(decoders, [b"Og"])


async def test_a_track_of_pictures_alone(decoders: Decoders, tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.webm", "-f", "lavfi", "-i", "testsrc=duration=1:size=64x48:rate=5",
        "-c:v", "libvpx",
    )  # fmt: skip
    with pytest.raises(UndecodableAudio, match="no audio track in the WebM"):
        await decode_whole(decoders, [path.read_bytes()])


async def test_a_codec_that_is_not_on_the_list(decoders: Decoders, tmp_path: Path) -> None:
    encoded(tmp_path, "a.wav", [])
    path = make(tmp_path / "a.mkv", "-i", tmp_path / "a.wav", "-c:a", "ac3")
    with pytest.raises(UndecodableAudio, match=r"ac3|unknown"):
        await decode_whole(decoders, [path.read_bytes()])


async def test_hours_of_silence_in_few_bytes(decoders: Decoders, tmp_path: Path) -> None:
    """The audio is made as it is taken; nobody's memory holds it."""
    path = make(
        tmp_path / "a.flac", "-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono:d=4000",
        "-frame_size", "65535",
    )  # fmt: skip
    data = path.read_bytes()
    assert len(data) < 1 << 18
    decoder = decoders.open(Output())
    taken = 0
    async with aclosing(decoder.decode(data)) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            assert len(piece) <= 1 << 20
            taken += len(piece)
            if taken > 16_000_000:
                break
    process = await decoder_process(decoders)
    status = Path(f"/proc/{process}/status").read_text()
    peak_kb = int(status.partition("VmRSS:")[2].split()[0])
    assert peak_kb < 150_000
    await decoder.close()
    await until(lambda: not Path(f"/proc/{process}").exists(), "the end of the decoder")


async def test_a_decoder_that_dies_harms_nobody_else(
    decoders: Decoders, made: dict[str, bytes]
) -> None:
    victim = decoders.open(Output())
    data = made["a.webm"]
    await decode(victim, [data[:10_000]], finish=False)
    process = await decoder_process(decoders)
    neighbor = decoders.open(Output())
    audio = await decode(neighbor, [data[:20_000]], finish=False)
    os.kill(process, signal.SIGSEGV)
    with pytest.raises(UndecodableAudio, match="the decoder crashed on it"):
        await decode(victim, cut(data[10_000:], 1000))
    await victim.close()
    audio += await decode(neighbor, [data[20_000:]])
    await neighbor.close()
    assert words(audio) == WORDS


async def test_the_server_of_decoders_is_started_again(
    decoders: Decoders, made: dict[str, bytes]
) -> None:
    going_on = decoders.open(Output())
    audio = await decode(going_on, [made["a.webm"][:10_000]], finish=False)
    before = decoders.server_process
    assert before is not None
    os.kill(before, signal.SIGKILL)
    await until(lambda: Path(f"/proc/{before}/stat").read_text().split()[2] == "Z", "its end")
    assert words(await decode_whole(decoders, [made["a.ogg"]])) == WORDS
    assert decoders.server_process != before
    audio += await decode(going_on, [made["a.webm"][10_000:]])
    assert words(audio) == WORDS
    await going_on.close()


async def test_a_stream_may_be_given_up_at_any_time(
    decoders: Decoders, made: dict[str, bytes]
) -> None:
    opened: list[Decoder] = []
    for name in CONTAINERS:
        decoder = decoders.open(Output())
        opened.append(decoder)
        task = asyncio.create_task(decode(decoder, cut(made[name], 500)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await decoder.close()
        await decoder.close()
    server = decoders.server_process
    if server is not None:
        await until(lambda: not children(server), "the end of the decoders")


async def test_a_decoder_computes_for_a_bounded_time(decoders: Decoders) -> None:
    """The timer of a process that waits for nothing runs out."""
    code = (
        "import socket, struct\n"
        "import gateway.audio.link as link\n"
        "link._CPU_S = 0.2\n"
        "ours, theirs = socket.socketpair()\n"
        "ours.sendall(struct.pack('>cI', b'A', 0))\n"
        "link.Link(theirs).receive()\n"
        "while True: pass\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    async with within(30):
        assert await process.wait() == -signal.SIGPROF


async def test_decoders_end_with_the_gateway(tmp_path: Path, made: dict[str, bytes]) -> None:
    path = tmp_path / "a.webm"
    path.write_bytes(made["a.webm"][:10_000])
    code = (
        "import asyncio, pathlib, sys\n"
        "from gateway.audio.convert import Output\n"
        "from gateway.audio.decoder import Decoders\n"
        "async def main():\n"
        "    decoders = Decoders()\n"
        "    decoder = decoders.open(Output())\n"
        f"    data = pathlib.Path({str(path)!r}).read_bytes()\n"
        "    async for _ in decoder.decode(data): pass\n"
        "    print(decoders.server_process, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with within(60):
        server = int(await process.stdout.readline())
    [decoder] = children(server)
    process.kill()
    await process.wait()
    ended = [Path(f"/proc/{number}") for number in (server, decoder)]
    await until(lambda: not any(path.exists() for path in ended), "the end of both")


async def test_without_pyav(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DecoderUnavailable, match="pip install"):
        await decode_whole(decoders, [b"OggS" + bytes(20)])


@pytest.mark.parametrize("size", [0, 4, 2_000_000])
async def test_boxes_of_impossible_sizes(decoders: Decoders, size: int) -> None:
    data = struct.pack(">I4s", 24, b"ftyp") + b"isom" + bytes(12)
    data += struct.pack(">I4s", size, b"moov") + bytes(3_000_000)
    with pytest.raises(UndecodableAudio, match="a box of"):
        await decode_whole(decoders, [data])
