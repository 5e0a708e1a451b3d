"""Real servers that join, or fail to join, the cluster of the chart's `values-nats.yaml`."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.nats_server import NatsServer

from ..ports import free_port
from ..waiting import bound, until
from .chart import CHART
from .libyaml import read_yaml
from .names import ROOT

SECRET = {"tls.crt": "server.pem", "tls.key": "server-key.pem", "ca.crt": "ca.pem"}
"""Keys of the example's Secret, and the corresponding files of `deploy/tls.sh`."""


def example() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(CHART / "values-nats.yaml")
    return found


def cluster_block(secret: Path) -> dict[str, Any]:
    """Return the `cluster` block that the official NATS chart renders from the example.

    It follows files/config/cluster.yaml and tls.yaml of version 2.14, except for addresses and the
    mount path of the Secret.
    """
    values = example()["config"]["cluster"]
    block: dict[str, Any] = {"name": "nats", **values.get("merge", {})}
    tls = values.get("tls", {})
    if tls.get("enabled"):
        mounted = "/etc/nats-certs/cluster"
        made = {"cert_file": f"{mounted}/tls.crt", "key_file": f"{mounted}/tls.key"}
        made |= tls.get("merge", {})
        block["tls"] = {
            name: value.replace(mounted, str(secret)) if isinstance(value, str) else value
            for name, value in made.items()
        }
    return block


class Node(NatsServer):
    """A server of a cluster; `port` is that of its routes."""

    def __init__(self, home: Path, block: dict[str, Any], port: int, routes: list[int]) -> None:
        home.mkdir()
        scheme = "tls" if "tls" in block else "nats"
        routed = {"host": "127.0.0.1", "port": port,
                  "routes": [f"{scheme}://localhost:{route}" for route in routes]}  # fmt: skip
        text = json.dumps({"server_name": home.name, "cluster": {**block, **routed}})
        (home / "nats.conf").write_text(text)
        super().__init__(home / "data", extra_arguments=("-c", str(home / "nats.conf"), "-m", "-1"))

    def store_arguments(self) -> tuple[str | Path, ...]:
        return ()  # the file has all options

    @property
    def peers(self) -> set[str]:
        """Names of the other servers in the cluster."""
        (ports,) = (json.loads(path.read_text()) for path in self.store.glob("*.ports"))
        port = ports["monitoring"][0].rpartition(":")[2]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/routez", timeout=bound(5)) as answer:
            return {route["remote_name"] for route in json.load(answer)["routes"]}


@pytest.fixture
def secret(tmp_path: Path, processes: None) -> Path:
    """The servers' mounted Secret."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing")
    subprocess.run(
        [ROOT / "deploy" / "tls.sh", "--dir", tmp_path / "tls"], check=True, capture_output=True
    )
    mounted = tmp_path / "secret"
    mounted.mkdir()
    for key, name in SECRET.items():
        shutil.copy(tmp_path / "tls" / name, mounted / key)
    return mounted


@pytest.fixture
def peers(tmp_path: Path, secret: Path) -> Iterator[list[Node]]:
    ports = [free_port(), free_port()]
    block = cluster_block(secret)
    nodes = [Node(tmp_path / f"peer-{n}", block, port, ports) for n, port in enumerate(ports)]
    for node in nodes:
        node.start()
    yield nodes
    for node in nodes:
        node.stop()


def certificate(home: Path, name: str, authority: Path | None) -> dict[str, Any]:
    """Return a `tls` block with a certificate from an authority, or a self-signed one."""
    key, request, made = home / "key", home / "request", home / "certificate"
    common: list[str | Path] = [
        "openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
        "-subj", "/CN=rogue", "-addext", f"subjectAltName=DNS:{name}", "-keyout", key,
    ]  # fmt: skip
    if authority is None:
        subprocess.run([*common, "-x509", "-out", made], check=True, capture_output=True)
    else:
        subprocess.run([*common, "-out", request], check=True, capture_output=True)
        subprocess.run(
            ["openssl", "x509", "-req", "-in", request, "-copy_extensions", "copy", "-days", "1",
             "-CA", authority / "ca.pem", "-CAkey", authority / "ca-key.pem", "-out", made],
            check=True, capture_output=True,
        )  # fmt: skip
    return {"cert_file": str(made), "key_file": str(key), "insecure": True}


async def test_the_servers_of_a_cluster_find_one_another(peers: list[Node]) -> None:
    await until(lambda: peers[0].peers == {"peer-1"}, "they are one cluster")
    await until(lambda: peers[1].peers == {"peer-0"}, "they are one cluster")


@contextlib.asynccontextmanager
async def client_of(node: Node) -> AsyncIterator[Client]:
    client = Client()
    await client.connect(node.url, allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


REFUSALS = ("TLS route handshake error", "authentication error")


@pytest.mark.parametrize("rogue", ["plain", "a certificate of its own", "a client's certificate"])
async def test_nobody_else_joins(peers: list[Node], tmp_path: Path, rogue: str) -> None:
    """A server in the cluster could read all accounts."""
    await until(lambda: peers[0].peers == {"peer-1"}, "they are one cluster")
    block: dict[str, Any] = {"name": "nats"}
    if rogue == "a certificate of its own":
        block["tls"] = certificate(tmp_path, "localhost", None)  # the name of a route
    elif rogue == "a client's certificate":
        block["tls"] = certificate(tmp_path, "some-client", tmp_path / "tls")
    routes = json.loads((tmp_path / "peer-0" / "nats.conf").read_text())["cluster"]["routes"]
    ports = [int(route.rpartition(":")[2]) for route in routes]
    node = Node(tmp_path / "rogue", block, free_port(), ports)
    node.start()
    received: dict[str, list[str]] = {"rogue": [], "peer": []}

    def refusals() -> int:
        logs = [peer.log_path.read_text() for peer in peers]
        return sum(log.count(sign) for log in logs for sign in REFUSALS)

    async def listen(client: Client, name: str) -> None:
        async def take(message: Msg) -> None:
            received[name].append(message.subject)

        await client.subscribe("account.>", cb=take)
        await client.flush()

    try:
        async with (
            client_of(node) as outside,
            client_of(peers[0]) as one,
            client_of(peers[1]) as two,
        ):
            await listen(outside, "rogue")
            await listen(two, "peer")

            async def refused() -> bool:
                """Publishes in both directions on each look, so that no moment is left out."""
                await one.publish("account.of.peer")
                await outside.publish("account.of.rogue")
                assert {name for peer in peers for name in peer.peers} == {"peer-0", "peer-1"}
                return refusals() >= 3  # it dials each peer again and again

            await until(refused, "it was refused")
            for client in (one, outside):
                await client.flush()
            await until(lambda: received["peer"], "the peers are one cluster")
        assert received["rogue"] == ["account.of.rogue"] * len(received["rogue"])
        assert set(received["peer"]) == {"account.of.peer"}
        # It may list a peer that has not refused it yet; that says nothing about messages.
        await until(lambda: node.peers <= {""}, "it is alone")
    finally:
        node.stop()


def test_the_secret_of_the_example_has_the_files_that_servers_read() -> None:
    config = example()["config"]
    assert config["cluster"]["tls"]["secretName"] == config["nats"]["tls"]["secretName"]
    for path in [
        CHART / "values-nats.yaml",
        ROOT / "docs" / "how-to" / "install-on-kubernetes.md",
    ]:
        text = path.read_text().replace("\\\n", " ")
        for key, name in SECRET.items():
            assert f"--from-file={key}=tls/{name}" in text, path.name
        assert "'*.nats-headless'" in text, path.name
        assert "--from-file=users/ " not in f"{text} ".replace("\n", " "), (
            "the Secret would contain all seeds"
        )


def test_the_policy_of_the_example_covers_every_port() -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    (policy,) = example()["extraResources"]
    validate(policy, "1.28", strict=True)
    ports = {rule["ports"][0]["port"]: rule["from"] for rule in policy["spec"]["ingress"]}
    assert set(ports) == {4222, 6222, 8222, 7777}
    assert all(ports.values()), "a port is open to every pod"
    own = {"app.kubernetes.io/name": "nats", "app.kubernetes.io/component": "nats"}
    assert policy["spec"]["podSelector"]["matchLabels"] == own
    assert ports[6222] == [{"podSelector": {"matchLabels": own}}]
