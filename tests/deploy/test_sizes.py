"""Sizes of the broker's stores, compared with the capacity model for all slots."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest

from bench.capacity_model import (
    Inputs,
    kept_bytes,
    kept_voice_bytes,
    stored_bytes_per_s,
    stored_speech_bytes_per_s,
    stored_text_bytes_per_s,
)
from natterjack.broker.streams import stream_configs
from natterjack.settings import KINDS, StreamSettings

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
            speech_kept_s=self.settings.tts_audio_max_age_seconds,
            text_kept_s=self.settings.tts_text_max_age_seconds,
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
            tts_audio_max_bytes=streams["speechMaxBytes"],
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
def test_voice_sessions_in_any_slots_need_no_more_room(one: Installation) -> None:
    """Both kinds of session share the slots, and a voice session needs less. What the limits of
    all streams reserve leaves room for the events."""
    assert kept_voice_bytes(one.inputs) < kept_bytes(one.inputs)
    both = one.settings.model_copy(update={"kinds": KINDS})
    reserved = sum(max(0, config.max_bytes or 0) for config in stream_configs(both))
    assert reserved < one.store - (one.kept / MODEL.disk_per_byte - one.audio)


def test_the_limits_of_speech_and_text_have_room_for_as_many_sessions_as_the_pages_say() -> None:
    settings = StreamSettings()
    speech = stored_speech_bytes_per_s(MODEL) * settings.tts_audio_max_age_seconds
    text = stored_text_bytes_per_s(MODEL) * settings.tts_text_max_age_seconds
    values = (CHART / "values.yaml").read_text()
    told = re.search(
        r"stores ([\d.]+) MB of speech in 2 minutes, so 512 MiB have room for (\d+)", values
    )
    assert told is not None
    assert float(told[1]) == pytest.approx(speech / 1e6, abs=0.05)
    sessions = int(told[2])
    assert sessions * speech < settings.tts_audio_max_bytes < 1.1 * sessions * speech
    assert read_yaml(CHART / "values.yaml")["streams"]["speechMaxBytes"] == (
        settings.tts_audio_max_bytes
    )
    help_text = StreamSettings.model_fields["tts_audio_max_bytes"].description or ""
    assert f"room for {sessions} sessions" in help_text
    page = (ROOT / "docs" / "how-to" / "size-an-installation.md").read_text()
    assert f"for {sessions} voice sessions" in page
    help_text = StreamSettings.model_fields["tts_text_max_bytes"].description or ""
    of_text = re.search(r"has room for (\d+) sessions", help_text)
    assert of_text is not None
    assert int(of_text[1]) * text < settings.tts_text_max_bytes < 1.1 * int(of_text[1]) * text
    assert f"the text of {of_text[1]}" in page
    assert f"{kept_voice_bytes(MODEL) / 1e6:.0f} MB of disk" in page


@pytest.mark.parametrize("one", INSTALLATIONS, ids=lambda one: one.name)
def test_one_stream_carries_all_slots(one: Installation) -> None:
    assert one.sessions * 1000 / MODEL.chunk_ms <= MODEL.stream_messages_per_s


def test_the_production_release_names_secrets_that_the_guide_creates() -> None:
    guide = (ROOT / "docs" / "how-to" / "install-on-kubernetes.md").read_text()
    nats = read_yaml(values_of("production"))["nats"]
    for name in (nats["auth"]["existingSecret"], nats["tls"]["caSecret"]):
        assert f"create secret generic {name} " in guide
    assert "certSecret" not in nats["tls"]
