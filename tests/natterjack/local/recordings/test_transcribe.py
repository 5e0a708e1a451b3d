"""`natterjack transcribe` with the embedded engine, interrupted in every way."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
import soundfile

from natterjack.broker.connection import connected
from natterjack.fleet.edge_reader import EdgesReader
from natterjack.local.demo import bundled_recording, bundled_text
from natterjack.local.embedded import EmbeddedServer
from natterjack.local.wer import word_error_rate
from natterjack.settings import BrokerSettings
from tests.edge_capture.media import make
from tests.natterjack.local.endings import Run
from tests.waiting import soon, until

pytestmark = [pytest.mark.process, pytest.mark.engine, pytest.mark.slow]

Start = Callable[..., Run]
SLOWLY = {"SHERPA_CATCH_UP_RATE": "3"}
"""20 s take 7 s, so that they can be interrupted."""
SECONDS = 20.9
"""The first half of the bundled recording, which costs half as much."""
TEXT = bundled_text().partition(", we")[0]
"""The text of that half."""


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start the command on a terminal, in a folder of its own."""
    runs: list[Run] = []

    def start(
        *arguments: object, environment: Mapping[str, str] | None = None, columns: int = 120
    ) -> Run:
        run = Run(
            tmp_path / f"run{len(runs)}", "natterjack", "transcribe", *map(str, arguments),
            cwd=tmp_path, columns=columns,
            environment={"XDG_STATE_HOME": str(tmp_path / "state"), **(environment or {})},
        )  # fmt: skip
        runs.append(run)
        return run

    yield start
    for run in runs:
        await run.clean_up()


@pytest.fixture
def cities(tmp_path: Path) -> Path:
    path = tmp_path / "cities.wav"
    with soundfile.SoundFile(bundled_recording()) as file:
        rate = file.samplerate
        soundfile.write(path, file.read(round(SECONDS * rate), dtype="int16"), rate)
    return path


def unfinished(tmp_path: Path) -> list[Path]:
    """The directories of what is unfinished."""
    state = tmp_path / "state" / "natterjack" / "transcribe"
    return list(state.iterdir()) if state.exists() else []


def check_text(text: str) -> None:
    """Assert that all that is read in the recording is there, once."""
    assert word_error_rate(TEXT, re.sub(r"^\[.*?\] ", "", text, flags=re.M)) < 0.15


async def test_several_files_become_several_documents(
    start: Start, cities: Path, tmp_path: Path
) -> None:
    make(tmp_path / "talk.m4a", "-i", cities, "-t", "8")
    run = start(
        "cities.wav", "talk.m4a", "-o", "out", "--format", "txt,srt,vtt,md,json", columns=300
    )
    assert await run.ended() == 0, run.text
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    forms = ("json", "md", "srt", "txt", "vtt")
    assert made == [f"{name}.{form}" for name in ("cities", "talk") for form in forms]
    check_text((tmp_path / "out" / "cities.txt").read_text())
    assert "00:00:0" in (tmp_path / "out" / "talk.srt").read_text()
    whole = json.loads((tmp_path / "out" / "cities.json").read_text())
    assert not whole["open"]
    assert re.search(r"cities\.wav +(\[#*\.*\] +)?\d+% +\d:\d\d of 0:20, ", run.text)
    assert "cities.wav: 0:20 in " in run.text
    assert not unfinished(tmp_path)
    assert not run.files()
    await run.alone()

    again = start("cities.wav", "talk.m4a", "-o", "out", columns=300)
    assert await again.ended() == 0
    assert "cities.wav: skipped, since out/cities.txt is there (--overwrite)" in again.text
    assert "transcribing" not in again.text


async def interrupt(run: Run) -> int:
    run.press("c")
    return await run.ended()


async def in_the_middle(run: Run) -> None:
    """Wait until 5 s of the 20 are transcribed."""
    await until(lambda: re.search(r"0:(0[5-9]|1\d) of 0:20", run.text), "5 s are transcribed", 60)


async def terminate(run: Run) -> int:
    run.process.send_signal(signal.SIGTERM)
    return await run.ended()


async def close(run: Run) -> int:
    run.close()
    return await run.ended()


async def kill(run: Run) -> int:
    run.process.kill()
    return await run.ended()


async def kill_worker(run: Run) -> int:
    run.kill("worker")
    return await run.ended()


@pytest.mark.parametrize(
    ("end", "status"),
    [(interrupt, 130), (terminate, 143), (close, 129), (kill, -9), (kill_worker, 1)],
)
async def test_what_is_interrupted_is_continued(
    start: Start, cities: Path, tmp_path: Path, end: Callable[[Run], Awaitable[int]], status: int
) -> None:
    done = tmp_path / "short.wav"
    soundfile.write(done, soundfile.read(cities)[0][: 48_000 * 4], 48_000)
    first = start("short.wav", "cities.wav", "--jobs", "1", environment=SLOWLY)
    await first.says("short.wav: 0:04 in ")
    await in_the_middle(first)  # of cities.wav
    assert await end(first) == status
    await first.alone()
    assert (tmp_path / "short.txt").exists()
    assert not (tmp_path / "cities.txt").exists()
    assert len(unfinished(tmp_path)) == 1
    if status in (130, 143):
        assert "interrupted; run the same command again to continue" in first.text

    second = start("short.wav", "cities.wav", "--format", "txt,json", columns=300)
    assert await second.ended() == 0, second.text
    assert "cities.wav: continuing" in second.text
    assert "begun again" not in second.text
    check_text((tmp_path / "cities.txt").read_text())
    sessions = json.loads((tmp_path / "cities.json").read_text())["sessions"]
    assert len(sessions) == 1
    assert not unfinished(tmp_path)


async def test_what_the_edge_has_sent_is_continued_without_it(
    start: Start, cities: Path, tmp_path: Path
) -> None:
    """All of the audio is stored within moments; the recording is not read again."""
    first = start("cities.wav", environment=SLOWLY)
    await in_the_middle(first)
    await kill(first)
    await first.alone()
    (store,) = unfinished(tmp_path)
    assert not list((store / "spool").glob("*/*/*.seg"))
    second = start("cities.wav")
    assert await second.ended() == 0, second.text
    check_text((tmp_path / "cities.txt").read_text())


async def test_an_edge_that_is_killed_is_started_again(
    start: Start, cities: Path, tmp_path: Path
) -> None:
    run = start("cities.wav", environment=SLOWLY, columns=300)
    await run.says("0:00 of 0:20")  # before, an edge has examined the file
    await run.has("edge")
    run.kill("edge")
    assert await run.ended() == 0, run.text
    assert "was killed by SIGKILL; continuing" in run.text
    check_text((tmp_path / "cities.txt").read_text())


async def test_what_cannot_be_continued_is_begun_again(
    start: Start, cities: Path, tmp_path: Path
) -> None:
    first = start("cities.wav", environment=SLOWLY)
    await in_the_middle(first)
    await kill(first)
    await first.alone()
    (store,) = unfinished(tmp_path)
    messages = next((store / "nats" / "jetstream").rglob("STT_AUDIO/msgs"))
    for block in messages.glob("*.blk"):
        block.unlink()
    second = start("cities.wav", columns=300)
    assert await second.ended() == 0, second.text
    assert "cities.wav: cannot be continued, so it is begun again: " in second.text
    check_text((tmp_path / "cities.txt").read_text())


async def test_a_recording_that_has_changed_is_another(
    start: Start, cities: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.wav"
    copy.write_bytes(cities.read_bytes())
    first = start("copy.wav", environment=SLOWLY)
    await in_the_middle(first)
    await kill(first)
    await first.alone()
    soundfile.write(copy, soundfile.read(cities)[0][: 48_000 * 4], 48_000)
    second = start("copy.wav")
    assert await second.ended() == 0, second.text
    assert "continuing" not in second.text
    assert len((tmp_path / "copy.txt").read_text()) < 200


async def piped(tmp_path: Path, data: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command with `data` on standard input."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "EDGE_"))}

    def run() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "natterjack", "transcribe", *arguments],
            input=data, capture_output=True, cwd=tmp_path, check=False,
            env=clean | {"XDG_STATE_HOME": str(tmp_path / "state"), "TMPDIR": str(tmp_path)},
        )  # fmt: skip

    return await soon(asyncio.to_thread(run), 120)


async def test_a_pipe_is_transcribed_to_a_pipe(cities: Path, tmp_path: Path) -> None:
    make(tmp_path / "a.mp4", "-i", cities)
    done = await piped(tmp_path, (tmp_path / "a.mp4").read_bytes(), "-", "--format", "srt")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"1\n00:00:0")
    assert b"\x1b" not in done.stderr
    assert not unfinished(tmp_path)
    assert not list(tmp_path.glob("natterjack-*"))


async def test_an_empty_pipe_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    done = await piped(tmp_path, b"", "-")
    assert done.returncode == 2
    assert done.stderr == b"not transcribed: standard input is empty\n"
    assert not (tmp_path / "state").exists()


async def test_a_folder_with_a_damaged_file(start: Start, cities: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    (calls / "jan").mkdir(parents=True)
    make(calls / "jan" / "whole.m4a", "-i", cities, "-t", "8")
    cut = make(calls / "cut.m4a", "-i", cities, "-movflags", "faststart")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 3])
    (calls / "notes.doc").write_text("notes")
    run = start("calls", "-o", "out", columns=300)
    assert await run.ended() == 1, run.text
    assert "skipped, not a recording: calls/notes.doc" in run.text
    assert re.search(r"cut\.m4a: incomplete: .*can be read up to \d+\.\d s of 20\.9 s", run.text)
    assert "best of times" in (tmp_path / "out" / "cut.txt").read_text()
    assert "best of times" in (tmp_path / "out" / "jan" / "whole.txt").read_text()


async def test_channels_become_speakers(start: Start, cities: Path, tmp_path: Path) -> None:
    make(
        tmp_path / "call.m4a", "-i", cities, "-filter_complex",
        "[0:a]atrim=0:8[a];[0:a]atrim=10:18,asetpts=PTS-STARTPTS[b];[a][b]amerge=inputs=2",
    )  # fmt: skip
    run = start("call.m4a", "--split-channels", "agent,caller", "--format", "json")
    assert await run.ended() == 0, run.text
    lines = json.loads((tmp_path / "call.json").read_text())["lines"]
    assert {line["speaker"] for line in lines} == {"agent", "caller"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.wav"], "not transcribed: none.wav: No such file or directory"),
        (["--format", "doc", "a.wav"], "'doc' is not one of txt, srt, vtt, md, json"),
        (["-", "--format", "txt,srt"], "standard output has room for one format"),
        (["-", "a.wav"], "with standard input among several recordings, name a folder"),
        (["a.wav", "--speaker", "a b"], "speaker 'a b' is not valid"),
        (["a.wav", "--local", "--nats-url", "nats://x"], "--local and --nats-url exclude each"),
        (["a.wav", "--jobs", "0"], "'0' is not a number from 1 to 999"),
    ],
)
async def test_mistakes_start_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    soundfile.write(tmp_path / "a.wav", [0.0] * 8000, 8000)
    done = await piped(tmp_path, b"", *arguments)
    assert done.returncode == 2
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()


async def test_an_installation_that_is_not_there(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", [0.0] * 8000, 8000)
    done = await piped(tmp_path, b"", "a.wav", "--nats-url", "nats://127.0.0.1:1")
    assert done.returncode == 2
    assert b"nats://127.0.0.1:1" in done.stderr
    assert not (tmp_path / "state").exists()


async def test_an_installation_is_used(
    start: Start, cities: Path, tmp_path: Path, nats_server: EmbeddedServer
) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "worker"],
        env=os.environ | {"NATS_URL": nats_server.url, "WORKER_HTTP_PORT": "0"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        run = start(
            "cities.wav",
            "--tenant",
            "acme",
            environment={"NATS_URL": nats_server.url},
            columns=300,
        )
        await run.has("edge")
        assert "worker" not in run.processes()
        assert await run.ended() == 0, run.text
    finally:
        worker.terminate()
        worker.wait()
    assert f"transcribing cities.wav with {nats_server.url}" in run.text
    check_text((tmp_path / "cities.txt").read_text())
    assert not unfinished(tmp_path)
    async with connected(BrokerSettings(url=nats_server.url), name="reader", once=True) as broker:
        reader = EdgesReader(broker)
        await reader.start()
        assert not (await reader.read()).rows  # its edges are gone, and nobody misses them
