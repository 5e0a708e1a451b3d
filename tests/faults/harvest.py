"""Processes of a durable consumer, and the broker, are killed while sessions speak.

    python -m tests.faults.harvest --kills 100 --broker-kills 20 --freezes 10 --sessions 50

The events are published as a worker publishes them. At the end, what the processes have handled
must be what was published: every event, each session in order, twins known by their id.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.consume.sharing.members import LIFE_S
from natterjack.errors import BrokerError
from natterjack.settings import BrokerSettings, StreamSettings
from tests.forking import Process, launch
from tests.freezing import freeze
from tests.nats_server import NatsServer
from tests.waiting import until

from .cluster import Cluster
from .speech_writer import Speech, speeches

_MODULE = "tests.faults.consumer_program"


class Server(Protocol):
    """A broker that can be killed and started again."""

    @property
    def url(self) -> str: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...


class OneNode:
    """A cluster, of which any one node is killed at a time."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._node = cluster.nodes[0]
        self.url = cluster.url

    def kill(self) -> None:
        self._node = self._random.choice(self._cluster.nodes)
        self._node.kill()

    def start(self) -> None:
        self._node.start()


@dataclass
class Settings:
    """Parameters of a run."""

    kills: int
    """How many processes are killed."""
    broker_kills: int
    freezes: int
    """How many processes stand still until others have taken over, and then go on."""
    sessions: int
    finals: int = 40
    """The number of finals in each session."""
    pause: float = 0.5
    """Average seconds between two finals of a session."""
    processes: int = 3
    replicas: int = 1
    """The number of replicas of the streams."""
    seed: int = 0


@dataclass
class Outcome:
    """The result of a run."""

    published: int = 0
    handled: int = 0
    """Lines that the processes have written, twins included."""
    twins: int = 0
    kills: int = 0
    broker_kills: int = 0
    freezes: int = 0
    seconds: float = 0.0
    missing: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    """Sessions whose transcript is not what was published."""
    unlike: list[str] = field(default_factory=list)
    """Twins whose content differs."""

    @property
    def clean(self) -> bool:
        return not (self.missing or self.out_of_order or self.different or self.unlike)


class Harvest:
    """One durable consumer, and what it is to survive."""

    def __init__(self, server: Server, directory: Path, settings: Settings) -> None:
        self._server = server
        self._path = directory / "handled.jsonl"
        self._log = directory / "consumers.log"
        self._settings = settings
        self._random = random.Random(settings.seed)
        self._processes: list[Process] = []
        self._seeds = iter(range(settings.seed * 10_000, 10**9))
        self.outcome = Outcome()

    def _launch(self) -> Process:
        arguments = ("-m", _MODULE, "harvest", str(self._path), str(next(self._seeds)))
        env = {**os.environ, "NATS_URL": self._server.url, "NATTERJACK_LOG_FORMAT": "text"}
        with self._log.open("ab") as log:
            return launch(arguments, env=env, stdout=subprocess.DEVNULL, stderr=log)

    def _kill(self) -> None:
        index = self._random.randrange(len(self._processes))
        process = self._processes[index]
        assert process.poll() is None, f"a process has ended:\n{self._log.read_text()[-3000:]}"
        process.kill()
        process.wait()
        self._processes[index] = self._launch()
        self.outcome.kills += 1

    async def _freeze(self) -> None:
        """Stop a process for longer than the others wait for a sign of life."""
        process = self._random.choice(self._processes)
        freeze(process.pid)
        self.outcome.freezes += 1
        try:
            await asyncio.sleep(LIFE_S + 2)
        finally:
            if process.poll() is None:  # it was not killed meanwhile
                os.kill(process.pid, signal.SIGCONT)

    async def _disturb(self, tasks: asyncio.TaskGroup) -> None:
        """Kill and freeze processes, and kill the broker now and then, until the sessions have
        almost ended."""
        settings = self._settings
        duration = 0.9 * settings.finals * settings.pause
        steps = ["process"] * settings.kills + ["broker"] * settings.broker_kills
        steps += ["freeze"] * settings.freezes
        self._random.shuffle(steps)
        for step in steps:
            await asyncio.sleep(self._random.uniform(0, 2) * duration / len(steps))
            if step == "process":
                self._kill()
            elif step == "freeze":
                tasks.create_task(self._freeze())
            else:
                self._server.kill()
                await asyncio.sleep(self._random.choice((0, 0.5, 2)))
                await asyncio.to_thread(self._server.start)
                self.outcome.broker_kills += 1

    async def run(self) -> Outcome:
        """Run, and compare."""
        began, settings = time.monotonic(), self._settings
        async with connected(BrokerSettings(url=self._server.url), name="writer") as broker:
            await until(lambda: self._streams(broker), "the broker has streams", 60)
            spoken = speeches(broker, settings.sessions, settings.seed)
            try:
                self._processes = [self._launch() for _ in range(settings.processes)]
                async with asyncio.TaskGroup() as tasks:
                    for speech in spoken:
                        tasks.create_task(speech.run(settings.finals, settings.pause))
                    tasks.create_task(self._disturb(tasks))
                expected = {event.id for speech in spoken for event in speech.events}
                await until(
                    lambda: expected <= {line["id"] for line in self._lines()},
                    "all events are handled", 120,
                )  # fmt: skip
            finally:
                for process in self._processes:
                    process.kill()
                    process.wait()
            self._compare(spoken)
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    async def _streams(self, broker: Broker) -> bool:
        """Create the streams, once a cluster has a leader."""
        replicas = self._settings.replicas
        with contextlib.suppress(BrokerError):
            await ensure(broker, StreamSettings(kinds=("transcribe",), stream_replicas=replicas))
            return True
        return False

    def _lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        lines = self._path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _compare(self, spoken: list[Speech]) -> None:
        outcome, lines = self.outcome, self._lines()
        first: dict[str, dict[str, Any]] = {}
        for line in lines:
            known = first.setdefault(line["id"], line)
            if (known["text"], known["position"]) != (line["text"], line["position"]):
                outcome.unlike.append(line["id"])
        outcome.handled, outcome.twins = len(lines), len(lines) - len(first)
        order = list(first)
        for speech in spoken:
            wanted = [event.id for event in speech.events]
            outcome.published += len(wanted)
            outcome.missing += [one for one in wanted if one not in first]
            if [one for one in order if first[one]["session"] == speech.session_id] != wanted:
                outcome.out_of_order.append(speech.session_id)
            texts = [getattr(event, "text", None) for event in speech.events]
            if [first[one]["text"] for one in wanted if one in first] != texts:
                outcome.different.append(speech.session_id)

    def attempts(self) -> Counter[int]:
        """How many lines were written at each attempt."""
        return Counter(line["attempt"] for line in self._lines())


def main() -> int:
    """Run once and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--broker-kills", type=int, default=20)
    parser.add_argument("--freezes", type=int, default=10)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--finals", type=int, default=400)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=1, help="3 for a cluster of three nodes")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    settings = Settings(**vars(flags))
    logging.getLogger("natterjack").setLevel(logging.ERROR)
    logging.getLogger("worker").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        broker = NatsServer(path / "nats") if flags.replicas == 1 else Cluster(path / "cluster")
        broker.start()
        try:
            server = OneNode(broker, flags.seed) if isinstance(broker, Cluster) else broker
            harvest = Harvest(server, path, settings)
            outcome = asyncio.run(harvest.run())
        finally:
            broker.stop()
        print(outcome)
        print("attempts:", dict(sorted(harvest.attempts().items())))
    return 0 if outcome.clean else 1


if __name__ == "__main__":
    sys.exit(main())
