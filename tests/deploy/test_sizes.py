"""Sizes of the broker's stores, compared with the capacity model for all slots."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest

from bench.capacity_model import Inputs, kept_bytes, stored_bytes_per_s
from natterjack.settings import StreamSettings

from .chart import CHART, values_of
from .libyaml import read_yaml
from .names import ROOT, rules

MODEL = Inputs()
_UNITS = {"Gi": 2**30, "GB": 2**30, "MB": 2**20}
"""Units of Kubernetes and of nats-server, whose GB is also 2**30."""


def size(text: str) -> int:
    found = re.fullmatch(r"(\d+)(\w+)", text)
    assert found is not None, text
    return int(found[1]) * _UNITS[found[2]]


class Installation(NamedTuple):
    """A store and the workers that fill it."""

    name: str
    sessions: int
    """Slots of the maximum number of workers."""
    store: int
    """Bytes that JetStream may store on a node."""
    disk: int | None
    """Bytes of its volume, if known."""
    settings: StreamSettings

    @property
    def inputs(self) -> Inputs:
        return Inputs(
            kept_s=self.settings.audio_max_age_seconds,
            events_kept_s=self.settings.transcripts_max_age_seconds,
        )

    @property
    def audio(self) -> float:
        return self.sessions * stored_bytes_per_s(self.inputs) * self.inputs.kept_s

    @property
    def kept(self) -> float:
        """Bytes on the disk of a node."""
        return self.sessions * kept_bytes(self.inputs)


def _of_the_chart(name: str, values: dict[str, Any], *, scaled: bool) -> Installation:
    default = read_yaml(CHART / "values.yaml")
    broker = read_yaml(CHART / "values-nats.yaml")
    store = broker["config"]["jetstream"]["fileStore"]
    worker = default["worker"] | values.get("worker", {})
    most = (default["autoscaling"] | values.get("autoscaling", {}))["maxReplicas"]
    streams = default["streams"] | values.get("streams", {})
    return Installation(
        name,
        worker["maxSessions"] * (most if scaled else worker["replicaCount"]),
        size(store["maxSize"]),
        size(store["pvc"]["size"]),
        StreamSettings(
            audio_max_age_seconds=streams["audioMaxAgeSeconds"],
            audio_max_bytes=streams["audioMaxBytes"],
            transcripts_max_age_seconds=streams["transcriptsMaxAgeSeconds"],
        ),
    )


def _of_compose() -> Installation:
    worker = read_yaml(ROOT / "deploy" / "compose.yaml")["services"]["worker"]
    slots = re.search(r":-(\d+)}", worker["environment"]["WORKER_MAX_SESSIONS"])
    conf = re.search(r"max_file_store: (\w+)", (ROOT / "deploy/nats/nats.conf").read_text())
    assert slots is not None
    assert conf is not None
    sessions = int(slots[1]) * worker["deploy"]["replicas"]
    return Installation("compose", sessions, size(conf[1]), None, StreamSettings())


INSTALLATIONS = (
    _of_compose(),
    _of_the_chart("chart", {}, scaled=False),
    _of_the_chart("production", read_yaml(values_of("production")), scaled=True),
)


@pytest.mark.parametrize("one", INSTALLATIONS, ids=lambda one: one.name)
def test_the_store_has_room_for_all_slots(one: Installation) -> None:
    """NatterjackBrokerStorageHigh does not fire when all slots are in use."""
    high = next(rule for rule in rules("alert") if rule["alert"] == "NatterjackBrokerStorageHigh")
    share = re.search(r"max_storage > ([\d.]+)", high["expr"])
    assert share is not None
    assert one.kept / MODEL.disk_per_byte < float(share[1]) * one.store


@pytest.mark.parametrize("one", INSTALLATIONS, ids=lambda one: one.name)
def test_the_disk_has_room_for_the_store(one: Installation) -> None:
    if one.disk is not None:
        assert one.store * MODEL.disk_per_byte < one.disk
        assert one.kept < MODEL.disk_use * one.disk


@pytest.mark.parametrize("one", INSTALLATIONS, ids=lambda one: one.name)
def test_a_limit_of_the_audio_fits_and_leaves_room_for_events(one: Installation) -> None:
    bound = one.settings.audio_max_bytes
    if bound > 0:
        events = one.kept / MODEL.disk_per_byte - one.audio
        assert one.audio < bound < one.store - events


@pytest.mark.parametrize("one", INSTALLATIONS, ids=lambda one: one.name)
def test_one_stream_carries_all_slots(one: Installation) -> None:
    assert one.sessions * 1000 / MODEL.chunk_ms <= MODEL.stream_messages_per_s


def test_the_production_release_names_secrets_that_the_guide_creates() -> None:
    guide = (ROOT / "docs" / "how-to" / "install-on-kubernetes.md").read_text()
    nats = read_yaml(values_of("production"))["nats"]
    for name in (nats["auth"]["existingSecret"], nats["tls"]["caSecret"]):
        assert f"create secret generic {name} " in guide
    assert "certSecret" not in nats["tls"]
