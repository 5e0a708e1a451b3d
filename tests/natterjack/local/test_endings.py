"""Each command, however it is ended, leaves a word behind, and no process and no file.

With the variable ENDINGS_TABLE, the rows are also written as a table to the file of that name.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.local.embedded import EmbeddedServer
from natterjack.process.table import table
from natterjack.subjects import transcript_subject
from tests.edge_capture.conftest import SoundServer
from tests.edge_capture.program import only_recording, tone
from tests.edge_capture.test_full_disk import Disk, disk
from tests.freezing import freeze, stands_still
from tests.natterjack.cli.test_say import next_claim, voice_broker
from tests.natterjack.consume.events import final
from tests.natterjack.speaking.by_hand import text_stored
from tests.ports import free_port
from tests.waiting import until

from .endings import Run

__all__ = ["disk", "voice_broker"]  # fixtures

pytestmark = [pytest.mark.process, pytest.mark.slow]

INT, TERM, HUP, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL
STARTING, READY, PLAYING = "starting a broker", "Ctrl-C stops everything", "ready at"
Act = Callable[[Run], Awaitable[object]]


class Row(NamedTuple):
    """A line of the table."""

    command: str
    ended_by: str
    status: str
    processes: str
    files: str
    said: str


_rows: list[Row] = []


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    yield
    if path := os.environ.get("ENDINGS_TABLE"):
        heads = Row("command", "ended by", "exit", "left running", "left in TMPDIR", "last line")
        Path(path).write_text("\n".join(table([heads, *_rows])) + "\n")


@pytest.fixture
def minute(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "minute.wav", tone(440, 60, 8000), 8000)
    return tmp_path / "minute.wav"


@pytest.fixture
async def runs(tmp_path: Path) -> AsyncIterator[list[Run]]:
    """Runs that are killed at the end, if anything of them is left."""
    runs: list[Run] = []
    yield runs
    for run in runs:
        await run.clean_up()


class Way(NamedTuple):
    """A way to end a command, and what is expected then."""

    ended_by: str
    act: Act
    status: int
    said: str = ""
    """A regular expression that the output matches."""
    kept: bool = False
    """Whether its temporary directory is kept."""
    when: str = READY
    """Output that is awaited before the command is ended."""
    arguments: tuple[str, ...] = ()
    workers: int = 1
    """Workers of `up`: two where one part is to end because of another of its kind."""

    def __str__(self) -> str:
        return self.ended_by


async def check(run: Run, command: str, way: Way) -> None:
    """End a run as `way` says, and look at what is left."""
    if way.when:
        await run.says(way.when)
    await way.act(run)
    status = await run.ended()
    seconds = await run.alone()
    said = run.text
    files = ["a store" if re.fullmatch(r"natterjack-\w+-\w+", f) else f for f in run.files()]
    last = (said.replace("^C", "").strip().splitlines() or [""])[-1].replace(
        str(run.folder), "$TMPDIR"
    )[:90]
    left = "nothing" if seconds < 0.5 else f"nothing after {seconds:.1f} s"
    _rows.append(Row(command, way.ended_by, str(status), left, ", ".join(files) or "nothing", last))
    late = way.when == STARTING and re.search(f"{READY}|{PLAYING}", said)
    if not late:  # a slow test may end a command that it found starting after its start
        assert status == way.status, said
        assert re.search(way.said, said), said
    assert files == (["a store"] if way.kept else []), said
    assert "Traceback" not in said
    if way.kept and status > 0:
        assert str(run.folder / run.files()[0]) in said, "it does not say where its files are"


# ---- the ways ------------------------------------------------------------------------------------


def signals(*numbers: signal.Signals, group: bool = False) -> Act:
    async def act(run: Run) -> None:
        for number in numbers:
            (os.killpg if group else os.kill)(run.process.pid, number)

    return act


def kills(*names: str) -> Act:
    async def act(run: Run) -> None:
        await run.has(*names)
        if "command" in names:  # it must not see the end of the others
            freeze(run.process.pid)
        for name in names:
            run.kill(name)

    return act


async def ctrl_c(run: Run) -> None:
    run.press("c")


async def ctrl_c_twice(run: Run) -> None:
    freeze(run.processes()["broker"][0])  # the others cannot end before the second one
    run.press("c")
    await run.says("Ctrl-C again")
    run.press("c")


async def sigterm_twice(run: Run) -> None:
    freeze(run.processes()["broker"][0])
    os.kill(run.process.pid, TERM)
    await run.says("Ctrl-C again")
    os.kill(run.process.pid, TERM)


async def nothing(run: Run) -> None:
    pass


async def closes_the_terminal(run: Run) -> None:
    run.close()


async def stops_and_closes_the_terminal(run: Run) -> None:
    os.kill(run.process.pid, signal.SIGSTOP)
    run.close()
    os.kill(run.process.pid, signal.SIGCONT)


# ---- up ------------------------------------------------------------------------------------------

KEPT = r"Logs and the broker's data are kept in "
UP = [
    Way("Ctrl-C while it starts", ctrl_c, 130, when=STARTING),
    Way("SIGTERM while it starts", signals(TERM), 143, when=STARTING),
    Way("SIGKILL while it starts", signals(KILL), -9, when=STARTING),
    Way("terminal closed while it starts", closes_the_terminal, 129, when=STARTING),
    Way("Ctrl-C", ctrl_c, 0, "stopping"),
    Way("Ctrl-C twice", ctrl_c_twice, 130, "stopping"),
    Way("SIGTERM", signals(TERM), 0, "stopping", workers=2),
    Way("SIGTERM twice", sigterm_twice, 143, "stopping"),
    Way("SIGHUP twice", signals(HUP, HUP), 0, "stopping"),
    Way("terminal closed", closes_the_terminal, 0),
    Way("terminal closed while stopped", stops_and_closes_the_terminal, 0),
    Way("SIGKILL", signals(KILL), -9),
    Way("SIGKILL of its process group", signals(KILL, group=True), -9),
    Way("SIGKILL while stopped", signals(signal.SIGSTOP, KILL), -9),
    Way(
        "SIGKILL of the broker", kills("broker"), 1, f"broker .* killed by SIGKILL.*\n{KEPT}", True
    ),
    Way(
        "SIGKILL of a worker",
        kills("worker"),
        1,
        f"worker 1 .* by SIGKILL.*\n{KEPT}",
        True,
        workers=2,
    ),
    Way("SIGKILL of the gateway", kills("gateway"), 1, f"gateway .* by SIGKILL.*\n{KEPT}", True),
    Way("SIGKILL of the keeper", kills("keeper"), 1, f"runs the parts.*\n{KEPT}", True, workers=2),
    Way("SIGKILL of the keeper and itself", kills("keeper", "command"), -9, kept=True),
    Way("worker that does not start", nothing, 2, "no_such", when="", arguments=("no_such",)),
]


@pytest.mark.parametrize("way", UP, ids=[way.ended_by for way in UP])
async def test_up(way: Way, tmp_path: Path, runs: list[Run]) -> None:
    provider = way.arguments or ("deepgram",)
    arguments = ("up", "--port", "-1", "--workers", str(way.workers), "--provider", *provider)
    runs.append(Run(tmp_path, "natterjack", *arguments))
    await check(runs[0], "up", way)


async def test_up_whose_output_nobody_reads(tmp_path: Path, runs: list[Run]) -> None:
    """It goes on, since others use it, until it is ended. And it says what its worker warns of."""
    arguments = ("up", "--port", "-1", "--provider", "deepgram")
    misspelled = {"WORKER_PROVIDR": "x"}
    runs.append(Run(tmp_path, "natterjack", *arguments, terminal=False, environment=misspelled))
    await runs[0].says(READY)
    assert "warning: WORKER_PROVIDR is not a setting" in runs[0].text
    runs[0].close()
    await check(runs[0], "up", Way("SIGTERM; nobody reads its output", signals(TERM), 0, when=""))


async def test_up_without_standard_input(tmp_path: Path, runs: list[Run]) -> None:
    arguments = ("up", "--port", "-1", "--provider", "deepgram")
    runs.append(Run(tmp_path, "natterjack", *arguments, shell="<&-"))
    await check(runs[0], "up", Way("SIGTERM; standard input is closed", signals(TERM), 0))


async def test_a_second_stack_is_refused(tmp_path: Path, runs: list[Run]) -> None:
    """It takes neither the port nor the directory of the first one."""
    arguments = ("up", "--workers", "0", "--store", str(tmp_path / "store"))
    # Not one that the system chooses: while no stack has it, a connection could take it.
    first = Run(tmp_path / "1", "natterjack", *arguments, "--port", str(free_port()))
    runs.append(first)
    await first.says(READY)
    url = re.search(r"export NATS_URL=(nats://127.0.0.1:(\d+))", first.text)
    assert url is not None
    assert "(without that line, the commands below go to nats://127.0.0.1:4222)" in first.text

    second = Run(tmp_path / "2", "natterjack", "up", "--port", url[2])
    runs.append(second)
    says = f"port {url[2]} of 127.0.0.1 is taken by `natterjack up`, process {first.process.pid}"
    await check(second, "up", Way("port taken", nothing, 2, says, when=""))

    third = Run(tmp_path / "3", "natterjack", *arguments, "--port", "-1")
    runs.append(third)
    says = f"store is in use by another stack, process {first.process.pid}"
    await check(third, "up", Way("--store in use", nothing, 2, says, when=""))

    await check(first, "up --store", Way("Ctrl-C", ctrl_c, 0))
    store = {path.name for path in (tmp_path / "store").iterdir()}
    assert store == {"lock", "keeper.log", "gateway.log", "nats"}
    again = Run(tmp_path / "4", "natterjack", *arguments, "--port", url[2])
    runs.append(again)
    await check(again, "up --store, again", Way("Ctrl-C", ctrl_c, 0))


async def test_a_store_that_cannot_be_written(tmp_path: Path, runs: list[Run]) -> None:
    (tmp_path / "file").touch()
    arguments = ("up", "--port", "-1", "--store", str(tmp_path / "file" / "store"))
    runs.append(Run(tmp_path, "natterjack", *arguments))
    says = "natterjack up: .*Not a directory; choose another directory with --store"
    await check(runs[0], "up", Way("--store not writable", nothing, 2, says, when=""))


@pytest.mark.parametrize("name", ["lock", "keeper.log", "nats/nats-server.log", "worker-1.log"])
async def test_a_file_of_a_store_that_cannot_be_written(
    name: str, tmp_path: Path, runs: list[Run]
) -> None:
    (tmp_path / "store" / name).mkdir(parents=True)
    arguments = ("up", "--port", "-1", "--provider", "deepgram", "--store", str(tmp_path / "store"))
    runs.append(Run(tmp_path, "natterjack", *arguments))
    says = f"natterjack up: .*{name}: Is a directory; choose another directory with --store"
    await check(runs[0], "up", Way(f"{name} not writable", nothing, 2, says, when=""))


@pytest.mark.parametrize("content", [b"mine\n", b"\xff"], ids=["text", "binary"])
async def test_a_file_of_a_user_is_not_taken_for_a_lock(
    content: bytes, tmp_path: Path, runs: list[Run]
) -> None:
    (tmp_path / "lock").write_bytes(content)
    runs.append(Run(tmp_path, "natterjack", "up", "--port", "-1", "--store", "."))
    says = "natterjack up: lock is not the lock of a stack; choose another directory with --store"
    await check(runs[0], "up", Way("--store with another lock", nothing, 2, says, when=""))
    assert (tmp_path / "lock").read_bytes() == content


async def test_a_disk_that_is_full(disk: Disk, tmp_path: Path, runs: list[Run]) -> None:
    disk.fill()
    arguments = (
        "up",
        "--port",
        "-1",
        "--provider",
        "deepgram",
        "--store",
        str(disk.path / "store"),
    )
    runs.append(Run(tmp_path, "natterjack", *arguments))
    says = "natterjack up: .*No space left on device; choose another directory with --store"
    await check(runs[0], "up", Way("full disk", nothing, 2, says, when=""))


# ---- demo ----------------------------------------------------------------------------------------

DEMO = [
    Way("Ctrl-C while it starts", ctrl_c, 130, when=STARTING),
    Way("SIGKILL while it starts", signals(KILL), -9, when=STARTING),
    Way("Ctrl-C", ctrl_c, 0, r"ending the session.*(\n.*)*session +closed", when=PLAYING),
    Way("Ctrl-C twice", ctrl_c_twice, 130, "ending the session", when=PLAYING),
    Way("SIGTERM", signals(TERM), 143, when=PLAYING),
    Way("terminal closed", closes_the_terminal, 129, when=PLAYING),
    Way("terminal closed while stopped", stops_and_closes_the_terminal, 129, when=PLAYING),
    Way("SIGKILL", signals(KILL), -9, when=PLAYING),
    Way("SIGKILL of its process group", signals(KILL, group=True), -9, when=PLAYING),
    Way("SIGKILL while stopped", signals(signal.SIGSTOP, KILL), -9, when=PLAYING),
    Way(
        "SIGKILL of the broker",
        kills("broker"),
        1,
        f"broker .*by SIGKILL.*\n{KEPT}",
        kept=True,
        when=PLAYING,
    ),
    Way(
        "SIGKILL of the worker",
        kills("worker"),
        1,
        f"worker 1 .*by SIGKILL.*\n{KEPT}",
        kept=True,
        when=PLAYING,
    ),
    Way(
        "SIGKILL of the edge",
        kills("edge"),
        1,
        f"edge .*by SIGKILL.*\n{KEPT}",
        kept=True,
        when=PLAYING,
    ),
    Way(
        "SIGKILL of the keeper",
        kills("keeper"),
        1,
        f"runs the parts.*\n{KEPT}",
        kept=True,
        when=PLAYING,
    ),
    Way(
        "SIGKILL of the keeper and itself", kills("keeper", "command"), -9, kept=True, when=PLAYING
    ),
    Way("file that is no recording", nothing, 2, "no.wav", when="", arguments=("no.wav",)),
]


@pytest.mark.parametrize("way", DEMO, ids=[way.ended_by for way in DEMO])
async def test_demo(
    way: Way, tmp_path: Path, minute: Path, emulator: DeepgramEmulator, runs: list[Run]
) -> None:
    arguments = ("demo", *(way.arguments or (str(minute),)), "--provider", "deepgram")
    runs.append(Run(tmp_path, "natterjack", *arguments, environment={"DEEPGRAM_URL": emulator.url}))
    if way.when == PLAYING:
        await runs[0].has("edge")
        await runs[0].says("[streaming")
    await check(runs[0], "demo", way)


async def test_demo_of_a_file_whose_name_begins_with_a_dash(
    tmp_path: Path, minute: Path, emulator: DeepgramEmulator, runs: list[Run]
) -> None:
    minute.rename(tmp_path / "-x.wav")
    arguments = ("demo", "--provider", "deepgram", "--", "-x.wav")
    runs.append(Run(tmp_path, "natterjack", *arguments, environment={"DEEPGRAM_URL": emulator.url}))
    await runs[0].says("[streaming")
    await check(runs[0], "demo -- -x.wav", Way("Ctrl-C", ctrl_c, 0, "session +closed", when=""))


async def test_demo_whose_output_nobody_reads(
    tmp_path: Path, minute: Path, emulator: DeepgramEmulator, runs: list[Run]
) -> None:
    arguments = ("demo", str(minute), "--provider", "deepgram")
    runs.append(
        Run(
            tmp_path,
            "natterjack",
            *arguments,
            terminal=False,
            environment={"DEEPGRAM_URL": emulator.url},
        )
    )
    await runs[0].says("ready at")
    await check(runs[0], "demo", Way("nobody reads its output", closes_the_terminal, 0, when=""))


MICROPHONE = [
    Way("SIGKILL", signals(KILL), -9),
    Way("SIGKILL of its process group", signals(KILL, group=True), -9),
    Way("terminal closed", closes_the_terminal, 129),
    Way("SIGKILL of the keeper and itself", kills("keeper", "command"), -9, kept=True),
]


@pytest.mark.sound
@pytest.mark.parametrize("way", MICROPHONE, ids=[way.ended_by for way in MICROPHONE])
async def test_demo_with_a_microphone(
    way: Way,
    tmp_path: Path,
    sound_server: SoundServer,
    emulator: DeepgramEmulator,
    runs: list[Run],
) -> None:
    arguments = ("demo", "--mic", "--provider", "deepgram")
    environment = {**sound_server.environment, "DEEPGRAM_URL": emulator.url}
    runs.append(Run(tmp_path, "natterjack", *arguments, environment=environment))
    await until(lambda: _recording(sound_server), "it records", 60)
    await way.act(runs[0])
    since = time.monotonic()
    await until(lambda: not _recording(sound_server), "it has stopped recording", 10)
    released = f"{way.ended_by}; microphone released after {time.monotonic() - since:.1f} s"
    await check(runs[0], "demo --mic", way._replace(ended_by=released, act=nothing, when=""))


@pytest.mark.sound
async def test_demo_that_is_stopped_while_it_waits_for_a_microphone(
    tmp_path: Path, sound_server: SoundServer, emulator: DeepgramEmulator, runs: list[Run]
) -> None:
    arguments = ("demo", "--mic", "--device", "none of this name", "--provider", "deepgram")
    environment = {**sound_server.environment, "DEEPGRAM_URL": emulator.url}
    runs.append(Run(tmp_path, "natterjack", *arguments, environment=environment))

    def waits() -> bool:
        logs = runs[0].folder.glob("*/edge.log")
        return any("waiting for a microphone" in path.read_text() for path in logs)

    await until(waits, "it waits", 60)
    way = Way("Ctrl-C before any audio", ctrl_c, 0, "stopped before any audio arrived", when="")
    await check(runs[0], "demo --mic", way)
    assert "the session did not close" not in runs[0].text


@pytest.mark.sound
async def test_ctrl_z_stops_recording_too(
    tmp_path: Path, sound_server: SoundServer, emulator: DeepgramEmulator, runs: list[Run]
) -> None:
    arguments = ("demo", "--mic", "--provider", "deepgram")
    environment = {**sound_server.environment, "DEEPGRAM_URL": emulator.url}
    run = Run(tmp_path, "natterjack", *arguments, environment=environment)
    runs.append(run)
    await until(lambda: _recording(sound_server), "it records", 60)
    await until(lambda: emulator.open_connections, "audio has arrived", 60)
    (edge,) = run.processes()["edge"]
    run.press("z")
    await until(lambda: stands_still(run.process.pid) and stands_still(edge), "both have stopped")
    os.kill(run.process.pid, signal.SIGCONT)
    await until(lambda: not stands_still(edge), "it records again")
    await check(run, "demo --mic", Way("Ctrl-C after Ctrl-Z and fg", ctrl_c, 0, when=""))


VOICE = [
    Way("Ctrl-C while it starts", ctrl_c, 130, when=STARTING),
    Way("Ctrl-C", ctrl_c, 130),
    Way("SIGTERM", signals(TERM), 143),
    Way("terminal closed", closes_the_terminal, 129),
    Way("SIGKILL", signals(KILL), -9),
    Way("SIGKILL of the worker", kills("worker"), 1, f"worker 1 .*SIGKILL.*\n{KEPT}", kept=True),
    Way("SIGKILL of an edge", kills("edge"), 1, f"p.* was killed by SIGKILL.*\n{KEPT}", kept=True),
]


@pytest.mark.engine
@pytest.mark.parametrize("way", VOICE, ids=[way.ended_by for way in VOICE])
async def test_demo_with_a_voice(way: Way, tmp_path: Path, runs: list[Run]) -> None:
    runs.append(Run(tmp_path, "natterjack", "demo", "--voice"))
    if way.when != STARTING:
        way = way._replace(when="a person reads")
    await check(runs[0], "demo --voice", way)


def _recording(server: SoundServer) -> bool:
    """Whether any program records from the sound server."""
    listed = subprocess.run(
        ["pactl", "list", "short", "source-outputs"],
        env=os.environ | server.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    # One of them is the null sink's own.
    return "protocol-native" in listed.stdout


# ---- programs that run without a stack -----------------------------------------------------------

EDGE = [
    Way("Ctrl-C", ctrl_c, 0, "everything is published and acknowledged"),
    Way("SIGTERM", signals(TERM), 0, "everything is published and acknowledged"),
    Way("SIGHUP twice", signals(HUP, HUP), 0, "everything is published and acknowledged"),
    Way("terminal closed", closes_the_terminal, 0),
    Way("SIGKILL", signals(KILL), -9),
]


@pytest.mark.parametrize("way", EDGE, ids=[way.ended_by for way in EDGE])
async def test_edge(
    way: Way, tmp_path: Path, minute: Path, ready_broker: Broker, nats_server: EmbeddedServer,
    runs: list[Run],
) -> None:  # fmt: skip
    runs.append(
        Run(
            tmp_path, "edge_capture", "file", str(minute), environment={"NATS_URL": nats_server.url}
        )
    )
    await check(runs[0], "natterjack-edge", way._replace(when="waiting for a worker"))
    if way.status == 0:
        assert (await only_recording(ready_broker)).headers[-1].end


async def test_an_edge_that_is_aborted(
    tmp_path: Path, minute: Path, nats_server: EmbeddedServer, runs: list[Run]
) -> None:
    nats_server.kill()
    runs.append(
        Run(
            tmp_path, "edge_capture", "file", str(minute), environment={"NATS_URL": nats_server.url}
        )
    )
    await check(runs[0], "natterjack-edge", Way("Ctrl-C twice", aborts, 130, when="no NATS yet"))


PLAYER = [
    Way("Ctrl-C", ctrl_c, 0, "stopped playing"),
    Way("SIGTERM", signals(TERM), 0, "stopped playing"),
    Way("SIGHUP twice", signals(HUP, HUP), 0, "stopped playing"),
    Way("terminal closed", closes_the_terminal, 0),
    Way("SIGKILL", signals(KILL), -9),
]


@pytest.mark.parametrize("way", PLAYER, ids=[way.ended_by for way in PLAYER])
async def test_a_player(
    way: Way, tmp_path: Path, ready_broker: Broker, nats_server: EmbeddedServer, runs: list[Run]
) -> None:
    path = tmp_path / "played.wav"
    arguments = ("play", "--conversation", "c", "--file", str(path))
    environment = {"NATS_URL": nats_server.url}
    runs.append(Run(tmp_path, "edge_capture", *arguments, environment=environment))
    await check(runs[0], "natterjack-edge play", way._replace(when="ready to play"))
    if way.ended_by == "SIGKILL":
        assert soundfile.info(path).frames == 0
    else:
        assert not path.exists(), "a file without speech does not stay"


async def test_a_player_without_a_broker(
    tmp_path: Path, nats_server: EmbeddedServer, runs: list[Run]
) -> None:
    nats_server.kill()
    arguments = ("play", "--conversation", "c", "--file", str(tmp_path / "played.wav"))
    environment = {"NATS_URL": nats_server.url}
    runs.append(Run(tmp_path, "edge_capture", *arguments, environment=environment))
    way = Way("Ctrl-C; no broker", ctrl_c, 0, "stopped playing", when="no NATS")
    await check(runs[0], "natterjack-edge play", way)


async def aborts(run: Run) -> None:
    run.press("c")
    await run.says("signal again to abort")
    run.press("c")


WORKER = [
    Way("Ctrl-C", ctrl_c, 0, "draining(.*\n)*.*worker ended"),
    Way("SIGTERM", signals(TERM), 0, "draining(.*\n)*.*worker ended"),
    Way("terminal closed", closes_the_terminal, 0),
    Way("SIGKILL", signals(KILL), -9),
]


@pytest.mark.parametrize("way", WORKER, ids=[way.ended_by for way in WORKER])
async def test_worker(
    way: Way, tmp_path: Path, nats_server: EmbeddedServer, runs: list[Run]
) -> None:
    arguments = ("--http-port", "0", "--provider", "deepgram")
    runs.append(Run(tmp_path, "worker", *arguments, environment={"NATS_URL": nats_server.url}))
    await check(runs[0], "natterjack-worker", way._replace(when="worker ready"))


TAIL = [
    Way("Ctrl-C", ctrl_c, 130),
    Way("SIGTERM", signals(TERM), -TERM),
    Way("terminal closed", closes_the_terminal, -HUP),
    Way("SIGKILL", signals(KILL), -9),
]


@pytest.mark.parametrize("way", TAIL, ids=[way.ended_by for way in TAIL])
async def test_tail(
    way: Way, tmp_path: Path, ready_broker: Broker, nats_server: EmbeddedServer, runs: list[Run]
) -> None:
    event = final(0)
    await ready_broker.client.jetstream().publish(
        transcript_subject(event.key, "final"), event.encode()
    )
    runs.append(
        Run(
            tmp_path,
            "natterjack",
            "tail",
            "--from-start",
            environment={"NATS_URL": nats_server.url},
        )
    )
    await check(runs[0], "tail", way._replace(when=event.text))


async def test_tail_whose_output_nobody_reads(
    tmp_path: Path, ready_broker: Broker, nats_server: EmbeddedServer, runs: list[Run]
) -> None:
    first, second = final(0), final(1)
    js = ready_broker.client.jetstream()
    await js.publish(transcript_subject(first.key, "final"), first.encode())
    environment = {"NATS_URL": nats_server.url}
    arguments = ("tail", "--from-start")
    run = Run(tmp_path, "natterjack", *arguments, terminal=False, environment=environment)
    runs.append(run)
    await run.says(first.text)
    run.close()
    await js.publish(transcript_subject(second.key, "final"), second.encode())
    await check(run, "tail", Way("nobody reads its output", nothing, 0, when=""))


SAY = [
    Way("Ctrl-C", ctrl_c, 130, "stopping the speech"),
    Way("SIGTERM", signals(TERM), 143, "stopping the speech"),
    Way("SIGHUP twice", signals(HUP, HUP), 129, "stopping the speech"),
    Way("terminal closed", closes_the_terminal, 129),
    Way("SIGKILL", signals(KILL), -9),
]


@pytest.mark.parametrize("way", SAY, ids=[way.ended_by for way in SAY])
async def test_say(
    way: Way, tmp_path: Path, voice_broker: Broker, nats_server: EmbeddedServer, runs: list[Run]
) -> None:
    environment = {"NATS_URL": nats_server.url}
    runs.append(Run(tmp_path, "natterjack", "say", "A long story.", environment=environment))
    hand = await next_claim(voice_broker)
    await text_stored(voice_broker, "A long story.")
    await hand.utterance(0, "started")
    await check(runs[0], "say", way._replace(when=""))
    assert [request.command for request in hand.requests] == (
        [] if way.status == -KILL else ["interrupt"]
    ), "what was not heard is dropped"


async def test_say_while_the_broker_is_away(
    tmp_path: Path, voice_broker: Broker, nats_server: EmbeddedServer, runs: list[Run]
) -> None:
    """It waits for the broker, and can be stopped meanwhile."""
    environment = {"NATS_URL": nats_server.url}
    runs.append(Run(tmp_path, "natterjack", "say", "A long story.", environment=environment))
    await next_claim(voice_broker)
    await text_stored(voice_broker, "A long story.")
    nats_server.kill()
    await check(runs[0], "say", Way("Ctrl-C; no broker", ctrl_c, 130, when="NATS"))


async def test_say_that_is_stopped_twice(
    tmp_path: Path, voice_broker: Broker, nats_server: EmbeddedServer, runs: list[Run]
) -> None:
    environment = {"NATS_URL": nats_server.url}
    runs.append(Run(tmp_path, "natterjack", "say", "A long story.", environment=environment))
    await next_claim(voice_broker)
    await text_stored(voice_broker, "A long story.")
    freeze(nats_server.pid)  # the first one cannot end it
    runs[0].press("c")
    await runs[0].says("Ctrl-C again")
    await check(runs[0], "say", Way("Ctrl-C twice", ctrl_c, 130, when=""))


async def test_say_without_a_worker(
    tmp_path: Path, voice_broker: Broker, nats_server: EmbeddedServer, runs: list[Run]
) -> None:
    environment = {"NATS_URL": nats_server.url}
    arguments = ("say", "--wait", "5", "A long story.")
    runs.append(Run(tmp_path, "natterjack", *arguments, environment=environment))
    await runs[0].says("no worker has taken the session yet")
    assert "`speak` in WORKER_KINDS" in runs[0].text
    says = "no worker has taken the voice session default.say.assistant within 5 s"
    await check(runs[0], "say", Way("no worker", nothing, 1, says, when=""))
