"""`natterjack edges` on a cluster, with an edge in the account of its tenant on each server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import connected
from natterjack.broker.roles import Role, User
from natterjack.cli.users_config import server_config
from natterjack.errors import BrokerUnreachable
from natterjack.settings import BrokerSettings, StreamSettings
from tests.edge_capture.fleet.rooms import Room, reporting
from tests.faults.cluster import Cluster
from tests.identities import make_key
from tests.natterjack.cli.commands import run_async
from tests.waiting import until

pytestmark = pytest.mark.process

USERS: dict[str, tuple[Role, str, str | None]] = {
    "operator": ("operator", "", None),
    "edge_acme_room-12": ("edge", "room-12", "acme"),
}


@pytest.fixture
def cluster(tmp_path: Path, processes: None) -> Iterator[Cluster]:
    """A cluster with users, whose seeds are in `tmp_path`."""
    users = []
    for name, (role, of, tenant) in USERS.items():
        key = make_key()
        (tmp_path / f"{name}.nk").write_bytes(key.seed)
        users.append(User(role, of, tenant, public_key=key.public))
    (tmp_path / "users.conf").write_text(server_config(users))
    cluster = Cluster(tmp_path / "cluster", extra=("-c", str(tmp_path / "users.conf")))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.mark.slow
async def test_edges_of_a_tenants_account_are_seen_and_steered_across_a_cluster(
    cluster: Cluster, tmp_path: Path
) -> None:
    def settings(name: str, node: int) -> BrokerSettings:
        return BrokerSettings(
            url=cluster.nodes[node].url, nkey=tmp_path / f"{name}.nk", inbox_prefix=f"_INBOX_{name}"
        )

    operator = settings("operator", 0)
    environment = {
        "NATS_URL": operator.url, "NATS_NKEY": str(operator.nkey),
        "NATS_INBOX_PREFIX": operator.inbox_prefix,
    }  # fmt: skip

    async def ensured() -> bool:
        try:
            await streams.ensure(broker, StreamSettings(stream_replicas=3))
        except BrokerUnreachable:
            return False
        return True

    async def measured() -> bool:
        """Whether the edge is shown with its clock, which it can compare on replicas, too."""
        shown = await run_async("edges", "--json", **environment)
        return any(
            edge["state"] == "running" and edge["clock_offset_seconds"] is not None
            for edge in json.loads(shown.out or "[]")
        )

    async with connected(operator, name="test") as broker:
        await until(ensured, "the cluster has a leader")
    for node in range(3):
        async with reporting(settings("edge_acme_room-12", node), Room(), seconds=1):
            await until(measured, f"an edge of the server {node} is seen", 90)  # measures each 60 s
            done = await run_async("edges", "mute", "room-12", "mic", **environment)
            assert "acme.room-12: muted mic\n" in done.out, done
