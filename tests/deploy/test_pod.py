"""The chart's worker pods, run by podman with the rendered settings, files, users and confinement.

Podman 4.3 lacks some features, so the pod uses the host's network instead of ports, the test probes
it from outside, and a directory replaces the Secret.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings

from ..ports import free_port
from ..worker.programs import Speaker, WorkerProcess, closed, holder, spoken
from .chart import Document, container, find, render
from .containers import Podman, images, unique_name

pytestmark = pytest.mark.timeout(900)
_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


class WorkerPod(WorkerProcess):
    """A pod of the worker's Deployment. The process is `podman logs`, which exits with the pod."""

    def __init__(self, containers: Podman, release: list[Document], directory: Path) -> None:
        super().__init__("", "")
        self.name = unique_name()
        self._containers = containers
        self._path = directory / f"{self.name}.yaml"
        template = find(release, "Deployment", "worker")["spec"]["template"]
        self.probes = {probe: container(template)[probe]["httpGet"]["path"] for probe in _PROBES}
        self.grace = template["spec"]["terminationGracePeriodSeconds"]
        settings = find(release, "ConfigMap", "worker")
        settings["data"]["WORKER_HTTP_PORT"] = str(free_port())
        keys = directory / "keys"
        keys.mkdir(exist_ok=True)
        (keys / "DEEPGRAM_API_KEY").write_text("a-test-key")
        pod = self._pod(template, keys)
        self._path.write_text(yaml.safe_dump_all([settings, pod]))

    def _pod(self, template: Document, keys: Path) -> Document:
        spec = {**template["spec"], "hostNetwork": True}
        left_out = {*_PROBES, "ports"}
        spec["containers"] = [
            {name: value for name, value in container(template).items() if name not in left_out}
        ]
        # The chart's volumes, by the names of their mounts.
        files = {"keys": {"hostPath": {"path": str(keys), "type": "Directory"}}}
        spec["volumes"] = [
            {"name": volume["name"], **files.get(volume["name"], {"emptyDir": {}})}
            for volume in spec["volumes"]
        ]
        metadata = {"name": self.name, "labels": template["metadata"]["labels"]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    @property
    def container_name(self) -> str:
        return f"{self.name}-worker"

    async def launch(self) -> None:
        await self._run("play", "kube", self._path)
        self._process = subprocess.Popen(
            ["podman", "logs", "--follow", self.container_name],
            env=self._containers.environment, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())

    async def terminate(self) -> int:
        """Stop the pod as the kubelet does (SIGTERM, then SIGKILL) and return its exit status."""
        await self._run("pod", "stop", f"--time={self.grace}", self.name, seconds=self.grace + 60)
        await self.wait()
        return int(await self._run("inspect", "--format={{.State.ExitCode}}", self.container_name))

    async def stop(self) -> None:
        await self._run("pod", "rm", "--force", "--time=0", self.name)
        if self.running:
            await self.wait()

    async def inside(self) -> dict[str, str]:
        """Return the status of the process in /proc."""
        found = await self._run("inspect", "--format={{.State.Pid}}", self.container_name)
        status = Path(f"/proc/{int(found)}/status").read_text()
        return dict(re.findall(r"^(\w+):\s*(.*)$", status, flags=re.M))

    async def _run(self, *command: str | Path, seconds: float = 60) -> str:
        done = await asyncio.to_thread(self._containers.run, "podman", *command, seconds=seconds)
        return done.stdout


@pytest.fixture
def release(nats_server: EmbeddedServer, emulator: DeepgramEmulator) -> list[Document]:
    """Render the chart with the required values, for the broker and provider of the test."""
    return render(
        {
            "image": {"registry": "localhost"},
            "nats": {"url": nats_server.url},
            "worker": {"settings": {"DEEPGRAM_URL": emulator.url}},
        }
    )


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramEmulator]:
    async with DeepgramEmulator() as emulator:
        yield emulator


@pytest.fixture
async def pods(release: list[Document], tmp_path: Path) -> AsyncIterator[list[WorkerPod]]:
    containers = images()
    pods = [WorkerPod(containers, release, tmp_path) for _ in range(2)]
    try:
        yield pods
    finally:
        for pod in pods:
            await pod.stop()


@pytest.mark.slow
async def test_a_rollout_of_the_charts_pods_loses_nothing(
    pods: list[WorkerPod], ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    """Start a new pod, wait until it is ready, and stop the old one during a session."""
    old, new = pods
    await old.start()
    for path in old.probes.values():
        assert (await old.get(path))[0] == 200, path
    status = await old.inside()
    assert set(status["Uid"].split()) == {"10001"}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"

    speaker = Speaker(broker_settings, 60, speed=2)

    async def roll() -> None:
        await spoken(speaker, 6)
        assert await holder([old, new]) is old
        await new.start()
        assert await old.terminate() == 0

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(speaker.speak())
        tasks.create_task(roll())
    transcript = await closed(ready_broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert "handed_over" in transcript.states
    assert transcript.closing[-1].worker == new.name, "a worker has the name of its pod"
    assert not old.stray_lines + new.stray_lines, "a stack trace or a warning of the interpreter"
