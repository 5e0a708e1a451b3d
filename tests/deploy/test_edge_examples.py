"""The chart's examples of edge agents, run as in their pods, with a writer on their pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer

from ..edge_capture.program import only_recording, requests
from ..waiting import bound, until
from .chart import SCENARIOS, container, find, given, rendered

EXAMPLES = {"edge-daemonset": "DaemonSet", "edge-deployment": "Deployment"}
SECOND = bytes(2 * 8000)
"""Seconds of silence to write, at the rate of the example or below."""


def opened(pipe: Path) -> int | None:
    """Open the pipe for writing; return None while it has no reader."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def test_all_edge_examples_are_covered() -> None:
    assert set(EXAMPLES) == {name for name in SCENARIOS if name.startswith("edge-")}


@pytest.mark.parametrize("scenario", EXAMPLES)
async def test_an_agent_publishes_the_audio_written_into_its_pipe(
    scenario: str, tmp_path: Path, nats_server: EmbeddedServer, ready_broker: Broker
) -> None:
    documents = rendered(scenario)
    spec = find(documents, EXAMPLES[scenario], "edge")["spec"]["template"]["spec"]
    (tmp_path / "audio").mkdir()
    pipe = tmp_path / "audio" / "pipe"

    def here(words: list[str]) -> list[str]:
        return [word.replace("/audio/", f"{tmp_path}/audio/") for word in words]

    (first,) = spec["initContainers"]
    for _ in range(2):  # all containers of a pod may restart
        subprocess.run(here(first["command"]), check=True, timeout=bound(10))
    agent = container({"spec": spec})
    settings = {k: v for k, v in given(documents, "edge").items() if not k.startswith("NATS_")}
    names = {entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"]
             for entry in agent.get("env", [])}  # fmt: skip
    # As the API server sets them; the name of a node may contain dots.
    filled = {"metadata.name": "r-natterjack-edge-x7k2p", "spec.nodeName": "ip-10-0-0-1.internal"}
    process = subprocess.Popen(
        here([*agent["command"], *agent["args"]]),
        env={**os.environ, **settings, **{name: filled[path] for name, path in names.items()},
             "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
             "NATS_URL": nats_server.url, "EDGE_SPOOL": str(tmp_path / "spool")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        for _ in range(2):  # the writer may restart too, and the session continues
            with os.fdopen(
                await until(lambda: opened(pipe), "the pipe has a reader"), "wb"
            ) as writer:
                writer.write(SECOND)
        await until(lambda: requests(ready_broker), "there is a session")
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=bound(20))
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors.decode()
    session = await only_recording(ready_broker)
    assert output.decode().split()[0] == str(session.spec.key)
    assert session.headers[-1].end
    assert session.seconds > 0


@pytest.mark.process
@pytest.mark.parametrize("scenario", EXAMPLES)
def test_no_example_transcribes_files(scenario: str) -> None:
    spec = find(rendered(scenario), EXAMPLES[scenario], "edge")["spec"]["template"]["spec"]
    agent = container({"spec": spec})
    assert "file" not in " ".join([*agent.get("command", []), *agent["args"]]).split()
