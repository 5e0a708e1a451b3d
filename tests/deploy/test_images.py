"""The images: their content, and sessions in running containers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile

from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.fleet.keys import add_key, make_key
from natterjack.local.embedded import EmbeddedServer
from natterjack.plugin.entry_points import VOICES_GROUP, available
from natterjack.settings import BrokerSettings

from ..edge_capture.program import announced
from ..waiting import until
from ..worker.programs import RATE, Speaker, StartWorker, closed, holder, queue_empty, spoken
from .containers import (
    CONFINED,
    EDGE_IMAGE,
    GATEWAY_IMAGE,
    IMAGES,
    WORKER_IMAGE,
    GatewayContainer,
    Podman,
    WorkerContainer,
    alone,
    images,
)

pytestmark = [pytest.mark.timeout(900), pytest.mark.process]

USER = 10001
MAX_MEGABYTES = {WORKER_IMAGE: 400, EDGE_IMAGE: 400, GATEWAY_IMAGE: 600}
"""Size limits, 1.5 times the current sizes; the embedded engine alone would exceed them."""


@pytest.fixture(scope="session")
def containers() -> Podman:
    return images()


@pytest.fixture
async def start_worker(
    containers: Podman, nats_server: EmbeddedServer, emulator: DeepgramEmulator
) -> AsyncIterator[StartWorker]:
    """Return a function that starts worker containers, which use `emulator`."""
    workers: list[WorkerContainer] = []

    async def start(**settings: str) -> WorkerContainer:
        worker = WorkerContainer(containers, nats_server.url, emulator.url, **settings)
        workers.append(worker)
        await worker.start()
        return worker

    yield start
    for worker in workers:
        await worker.stop()
    for worker in workers:
        assert not worker.stray_lines, "a stack trace or a warning of the interpreter"


def _image(containers: Podman, name: str) -> dict[str, Any]:
    (found,) = json.loads(containers.run("podman", "image", "inspect", name).stdout)
    assert isinstance(found, dict)
    return found


def _inside(containers: Podman, image: str, *command: str) -> str:
    """Run a command in a container of `image` and return its output."""
    entrypoint, *arguments = command
    return containers.run(
        "podman", "run", "--rm", "--network=none", *CONFINED, f"--entrypoint={entrypoint}", image,
        *arguments,
    ).stdout  # fmt: skip


# ---- content --------------------------------------------------------------------------------


@pytest.mark.parametrize("image", IMAGES.values())
def test_the_metadata_of_an_image(containers: Podman, image: str) -> None:
    about = _image(containers, image)
    program = image.partition(":")[0]
    assert about["Config"]["Entrypoint"] == [program], "no shell between signals and the program"
    assert about["Config"]["User"] == f"{USER}:{USER}", (
        "a number: Kubernetes must see it is not root"
    )
    labels = about["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == program
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    megabytes = about["Size"] / 1e6
    print(f"{program}: {megabytes:.0f} MB")
    assert megabytes < MAX_MEGABYTES[image]


@pytest.mark.parametrize(
    ("image", "has", "lacks"),
    [
        (WORKER_IMAGE, ["worker", "natterjack", "aiohttp", "soundfile", "soxr", "uvloop", "nkeys"],
         ["edge_capture", "gateway", "sounddevice", "rich", "sherpa_onnx"]),
        (EDGE_IMAGE, ["edge_capture", "natterjack", "soundfile", "soxr", "uvloop", "nkeys"],
         ["worker", "gateway", "aiohttp", "prometheus_client", "sherpa_onnx"]),
        (GATEWAY_IMAGE, ["gateway", "natterjack", "aiohttp", "av", "soxr", "uvloop", "jwt"],
         ["soundfile", "sounddevice", "rich", "sherpa_onnx"]),
    ],
)  # fmt: skip
def test_an_image_has_only_the_packages_it_needs(
    containers: Podman, image: str, has: list[str], lacks: list[str]
) -> None:
    asked = [*has, *lacks, "pip", "setuptools"]
    code = (
        "import json, shutil\nfrom importlib.util import find_spec\n"
        f"print(json.dumps([[n for n in {asked} if find_spec(n)],"
        "[n for n in ('pip', 'gcc', 'cc', 'make', 'git') if shutil.which(n)]]))"
    )
    packages, programs = json.loads(_inside(containers, image, "python", "-c", code))
    assert packages == has
    assert programs == []


def test_the_worker_image_has_every_provider(containers: Podman) -> None:
    plugins = json.loads(_inside(containers, WORKER_IMAGE, "natterjack", "plugins", "--json"))
    assert [about["name"] for about in plugins] == [*available(), *available(VOICES_GROUP)]
    assert [about for about in plugins if "error" in about] == []


def test_the_build_context_contains_only_the_sources(containers: Podman, tmp_path: Path) -> None:
    """Other files of a working copy, such as secrets, are not sent to the builder."""
    root = Path(__file__).parents[2]
    recipe = tmp_path / "Dockerfile"
    recipe.write_text("FROM python:3.11-slim-bookworm\nCOPY . /context\n")
    with alone("images"):
        containers.build("-t", "natterjack-test-context", "-f", recipe, root)
    code = "import os, json; print(json.dumps([sorted(os.listdir(d)) for d in ('.', 'deploy')]))"
    found = _inside(
        containers, "natterjack-test-context", "sh", "-c", f"cd /context && python -c {code!r}"
    )
    top, deploy = json.loads(found)
    assert top == [
        "LICENSE", "README.md", "deploy", "edge_capture", "gateway", "natterjack",
        "pyproject.toml", "worker",
    ]  # fmt: skip
    assert deploy == ["healthcheck.py"]


def test_a_gateway_is_not_open_to_the_network_by_mistake(containers: Podman) -> None:
    """The image listens on all addresses of its container, so it asks who is there."""
    done = containers.run(
        "podman", "run", "--rm", "--network=none", *CONFINED, GATEWAY_IMAGE, check=False
    )
    assert done.returncode == 2
    assert "GATEWAY_EXPOSE" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_client_is_served_by_the_gateway_in_its_container(
    containers: Podman,
    nats_server: EmbeddedServer,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    """With keys, as an unprivileged user, audio in a container format included."""
    await start_worker()
    record, secret = make_key(tenant="acme", doors=("deepgram",))
    tmp_path.chmod(0o755)
    add_key(tmp_path / "keys", record)
    (tmp_path / "keys").chmod(0o644)
    gateway = GatewayContainer(
        containers, nats_server.url, tmp_path,
        GATEWAY_EXPOSE="plain", GATEWAY_KEYS_FILE="/clients/keys",
    )  # fmt: skip
    words = tones.sequence(6)
    samples = np.frombuffer(tones.encode(words), "<i2")
    soundfile.write(tmp_path / "a.flac", samples, RATE)
    headers = {"Authorization": f"Token {secret}"}
    try:
        await gateway.start()
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.ws_connect(f"{gateway.http}/v1/listen") as socket,
        ):
            await socket.send_bytes((tmp_path / "a.flac").read_bytes())
            await socket.send_json({"type": "CloseStream"})
            heard: list[str] = []
            async for message in socket:
                result = json.loads(message.data)
                if result["type"] == "Results" and result["is_final"]:
                    heard += tones.words_of(result["channel"]["alternatives"][0]["transcript"])
        assert heard == words
        containers.run("podman", "healthcheck", "run", gateway.name)
        _check_confined(containers, gateway)
        gateway.signal(signal.SIGTERM)
        assert await gateway.wait(60) == 0
    finally:
        await gateway.stop()
    assert not gateway.stray_lines


def test_a_worker_without_the_engine_names_the_extra(containers: Podman) -> None:
    """`sherpa` is the default provider but is not in the image."""
    done = containers.run(
        "podman", "run", "--rm", "--network=none", *CONFINED, WORKER_IMAGE, check=False
    )
    assert done.returncode == 2
    assert "natterjack[local]" in done.stderr


@pytest.mark.parametrize("what", ["seed", "directory"])
def test_an_unreadable_seed_is_reported_at_once(
    containers: Podman, tmp_path: Path, what: str
) -> None:
    """A common mistake with files in containers is that root owns them."""
    directory = tmp_path / "secrets"
    directory.mkdir(mode=0o755 if what == "seed" else 0o700)
    (directory / "worker.nk").touch(mode=0o600)
    done = containers.run(
        "podman", "run", "--rm", "--network=none", *CONFINED, f"--volume={directory}:/secrets:ro",
        "--env=NATS_NKEY=/secrets/worker.nk", "--env=WORKER_PROVIDER=managed",
        "--env=MANAGED_URL=wss://provider.example", "--env=MANAGED_TOKEN=x", WORKER_IMAGE,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "NATS_NKEY: /secrets/worker.nk cannot be read: Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


# ---- sessions -------------------------------------------------------------------------------


async def test_a_session_through_the_container(
    start_worker: StartWorker,
    containers: Podman,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    worker = await start_worker()
    assert isinstance(worker, WorkerContainer)
    speaker = Speaker(broker_settings, 24, language="en-US")
    await speaker.speak()
    (await closed(broker, speaker.spec)).audit(speaker)
    await queue_empty(broker)

    assert (await worker.get("/readyz"))[0] == 200
    containers.run("podman", "healthcheck", "run", worker.name)
    _check_confined(containers, worker)

    worker.signal(signal.SIGTERM)
    assert await worker.wait(60) == 0
    assert worker.find("worker ended")


def _check_confined(containers: Podman, worker: WorkerContainer | GatewayContainer) -> None:
    (about,) = json.loads(containers.run("podman", "inspect", worker.name).stdout)
    status = Path(f"/proc/{about['State']['Pid']}/status").read_text()
    found = dict(re.findall(r"^(\w+):\s*(.*)$", status, flags=re.M))
    assert set(found["Uid"].split()) == set(found["Gid"].split()) == {str(USER)}
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 0
    assert found["NoNewPrivs"] == "1"
    done = containers.run("podman", "exec", worker.name, "touch", "/opt/x", check=False)
    assert "Read-only file system" in done.stderr


async def test_sigterm_hands_a_live_session_to_another_container(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    workers = [await start_worker(WORKER_NAME=name) for name in ("first", "second")]
    speaker = Speaker(broker_settings, 60, speed=2)

    async def stop_its_holder() -> None:
        await spoken(speaker, 6)
        first = await holder(workers)
        first.signal(signal.SIGTERM)
        assert await first.wait(60) == 0

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(speaker.speak())
        tasks.create_task(stop_its_holder())
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert "handed_over" in transcript.states


async def test_a_health_check_that_fails(
    start_worker: StartWorker, containers: Podman, nats_server: EmbeddedServer
) -> None:
    """compose.yaml checks /readyz, which fails for a worker without NATS."""
    worker = await start_worker()
    assert isinstance(worker, WorkerContainer)

    def check(path: str) -> int:
        script = "/opt/natterjack/healthcheck.py"
        done = containers.run(
            "podman", "exec", worker.name, "python", "-IS", script, path, check=False
        )
        return done.returncode

    assert check("/readyz") == 0
    nats_server.stop()
    await until(lambda: check("/readyz") == 1, "not ready without NATS", 30)
    assert check("/healthz") == 0


async def test_the_edge_container_publishes_a_file(
    containers: Podman,
    start_worker: StartWorker,
    broker: Broker,
    nats_server: EmbeddedServer,
    tmp_path: Path,
) -> None:
    await start_worker()
    words = tones.sequence(16)
    audio = np.frombuffer(tones.encode(words, RATE, tail_seconds=0.5), "<i2")
    soundfile.write(tmp_path / "words.flac", audio, RATE)
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool").chmod(0o777)
    done = await asyncio.to_thread(
        containers.run,
        "podman", "run", "--rm", "--network=host", *CONFINED, f"--env=NATS_URL={nats_server.url}",
        f"--volume={tmp_path / 'words.flac'}:/words.flac:ro",
        f"--volume={tmp_path / 'spool'}:/var/lib/natterjack",
        EDGE_IMAGE, "file", "/words.flac", "--speed", "4", "--wait", "--tenant", "t",
        "--conversation", "c", "--speaker", "s", "--spool", "/var/lib/natterjack",
    )  # fmt: skip
    (spec,) = announced(done.stdout)
    assert str(spec.key) == "t.c.s"
    transcript = await closed(broker, spec)
    assert transcript.words == [tones.plain(word) for word in words]
    assert transcript.states[-1] == "closed"


def test_the_edge_image_has_portaudio(containers: Podman) -> None:
    """There is no sound device; without PortAudio the error would be a different one."""
    done = containers.run(
        "podman", "run", "--rm", "--network=none", *CONFINED, EDGE_IMAGE, "devices", check=False
    )
    assert done.returncode == 2
    assert "no microphone found" in done.stderr


async def test_the_worker_image_creates_the_streams(
    containers: Podman, broker: Broker, nats_server: EmbeddedServer
) -> None:
    """Run `streams apply` as a job does before workers start."""
    containers.run(
        "podman", "run", "--rm", "--network=host", *CONFINED, f"--env=NATS_URL={nats_server.url}",
        "--entrypoint=natterjack", WORKER_IMAGE, "streams", "apply",
    )  # fmt: skip
    assert await broker.client.jetstream().stream_info("STT_SESSIONS")
