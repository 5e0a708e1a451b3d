"""The settings, credentials and probes that the chart gives to the programs."""

from __future__ import annotations

import tomllib
from pathlib import Path

import aiohttp
import pytest
from pydantic_settings import BaseSettings

from edge_capture.settings import DeliverySettings, EdgeSettings, SpoolSettings
from gateway.access import AccessSettings
from gateway.settings import GatewaySettings
from natterjack.broker.login.attempts import Attempts
from natterjack.enrollment.settings import RegistrarSettings
from natterjack.plugin.entry_points import available
from natterjack.settings import BrokerSettings, LogSettings, StreamSettings, load, variable
from natterjack.webhook.settings import WebhookSettings
from worker import __main__ as worker_program
from worker.health import Health
from worker.metrics import Metrics
from worker.providers.loading import load_class
from worker.settings import WorkerSettings
from worker.stream_watch import StreamWatch

from .chart import (
    CHART,
    OLDEST,
    Document,
    container,
    find,
    given,
    pods,
    refused,
    render,
    rendered,
    settings_of,
)
from .libyaml import read_yaml
from .manifests import (
    EVERYTHING,
    check,
)
from .names import ROOT

pytestmark = pytest.mark.process

COMMON: list[type[BaseSettings]] = [BrokerSettings, LogSettings]
MODELS: dict[str, list[type[BaseSettings]]] = {
    "worker": [*COMMON, WorkerSettings, StreamSettings],
    "streams": [*COMMON, StreamSettings],
    "edge": [*COMMON, EdgeSettings, DeliverySettings, SpoolSettings],
    "webhook": [*COMMON, WebhookSettings],
    "registrar": [*COMMON, RegistrarSettings],
    "gateway": [*COMMON, GatewaySettings, AccessSettings],
    "test": [*COMMON, EdgeSettings],
}
BESIDE = {"SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY",
          "TEST_SECONDS", "TEST_AUDIO"}  # fmt: skip
"""Variables without a settings model: of Python, of a library, and of the test."""


def variables(model: type[BaseSettings]) -> dict[str, str]:
    """Return the fields of a model by their environment variables."""
    return {variable(model, name): name for name in model.model_fields}


@pytest.mark.parametrize("component", MODELS)
def test_programs_accept_every_setting(
    component: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = given(render(EVERYTHING), component)
    if "WORKER_SECRETS_DIR" in settings:
        settings["WORKER_SECRETS_DIR"] = str(tmp_path)  # a directory that exists
    known = {name for model in MODELS[component] for name in variables(model)}
    assert set(settings) - known - BESIDE == set()
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for model in MODELS[component]:
        loaded = load(model)
        for name, field in variables(model).items():
            if name in settings:
                value = getattr(loaded, field)
                value = ",".join(value) if isinstance(value, tuple) else value
                expected = settings[name]
                assert str(value).lower() == expected.lower() or float(value) == float(expected)


def test_values_become_settings_of_the_worker() -> None:
    values = {
        "worker": {"maxSessions": 7, "provider": "a,b", "createStreams": True},
        "streams": {"audioMaxBytes": 107374182400, "kinds": ["transcribe", "speak"]},
    }
    settings = settings_of(render(values), "worker")
    assert settings["WORKER_KINDS"] == "transcribe,speak"
    assert settings["NATTERJACK_TTS_AUDIO_MAX_BYTES"] == "536870912"
    assert settings["WORKER_MAX_SESSIONS"] == "7"
    assert settings["WORKER_PROVIDER"] == "a,b"
    assert settings["NATTERJACK_CREATE_STREAMS"] == "true"
    assert settings["NATTERJACK_AUDIO_MAX_BYTES"] == "107374182400"
    assert settings["WORKER_HTTP_HOST"] == "0.0.0.0"


def test_the_inbox_prefix_follows_from_the_key() -> None:
    for auth, prefix in (
        ({"existingSecret": "s"}, "_INBOX_worker"),
        ({"existingSecret": "s", "inboxPrefix": "other"}, "other"),
        ({"existingSecret": "s", "key": "w.creds", "kind": "creds"}, None),
        ({}, None),
    ):
        settings = settings_of(render({"nats": {"auth": auth}}), "worker")
        assert settings.get("NATS_INBOX_PREFIX") == prefix


def test_only_a_changed_setting_replaces_the_pods() -> None:
    def checksum(values: Document) -> str:
        template = find(render(values), "Deployment", "worker")["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    before = checksum({})
    assert checksum({"worker": {"settings": {"WORKER_IDLE_SECONDS": "60"}}}) != before
    assert (
        checksum({"worker": {"replicaCount": 9}, "metrics": {"podMonitor": {"enabled": True}}})
        == before
    )


@pytest.mark.parametrize(("finish", "handover"), [(10, 20), (0, 0), (7200, 60)])
def test_a_pod_lives_longer_than_its_drain(finish: int, handover: int) -> None:
    drain = {"finishSeconds": finish, "handoverSeconds": handover}
    documents = render({"worker": {"drain": drain}})
    grace = find(documents, "Deployment", "worker")["spec"]["template"]["spec"][
        "terminationGracePeriodSeconds"
    ]
    assert grace == finish + handover + 30
    settings = settings_of(documents, "worker")
    assert settings["WORKER_DRAIN_SECONDS"] == str(finish)
    assert settings["WORKER_HANDOVER_SECONDS"] == str(handover)
    # A worker that hangs exits by itself before the kubelet kills it.
    assert grace > finish + handover + worker_program._END_SECONDS


async def test_probes_use_paths_that_the_worker_serves() -> None:
    each = container(find(rendered("default"), "Deployment", "worker")["spec"]["template"])
    assert each["ports"] == [{"name": "http", "containerPort": 9464, "protocol": "TCP"}]
    probes = {k.removesuffix("Probe"): v["httpGet"] for k, v in each.items() if k.endswith("Probe")}
    assert {probe["port"] for probe in probes.values()} == {"http"}
    metrics = Metrics(1)
    watch = StreamWatch(StreamSettings(), metrics)
    health = Health(WorkerSettings(http_port=0), metrics, watch, Attempts())
    await health.start()
    try:
        answers = {}
        async with aiohttp.ClientSession() as http:
            for name, probe in probes.items():
                async with http.get(health.address + probe["path"]) as response:
                    answers[name] = response.status
        # Without NATS the worker is alive but not ready.
        assert answers == {"startup": 200, "liveness": 200, "readiness": 503}
    finally:
        await health.stop()


def test_keys_are_files_that_can_change() -> None:
    worker = find(render(EVERYTHING), "Deployment", "worker")["spec"]["template"]
    volume = next(v for v in worker["spec"]["volumes"] if v["name"] == "keys")
    files = {
        source["secret"]["items"][0]["path"]: source["secret"]["name"]
        for source in volume["projected"]["sources"]
    }
    assert files == {
        "DEEPGRAM_API_KEY": "natterjack-deepgram",
        "SPEECHMATICS_API_KEY": "natterjack-speechmatics",
        "MANAGED_TOKEN": "natterjack-managed",
    }
    mount = next(m for m in container(worker)["volumeMounts"] if m["name"] == "keys")
    assert "subPath" not in mount, "the kubelet does not update files of a subPath"
    assert mount["mountPath"] == settings_of(render(EVERYTHING), "worker")["WORKER_SECRETS_DIR"]


def test_every_provider_with_a_key_can_be_enabled() -> None:
    values = read_yaml(CHART / "values.yaml")["providers"]
    known = {provider["variable"] for provider in values.values()}
    for name in available():
        settings = load_class(name).Settings
        secret = {f for f in settings.model_fields if f in ("api_key", "token")}
        wanted = {f"{settings.model_config.get('env_prefix')}{f}".upper() for f in secret}
        # deepgram-flux and deepgram-rest use the key of deepgram
        assert not wanted or wanted & known or name.startswith("deepgram-"), name


@pytest.mark.parametrize("kind", ["nkey", "creds"])
def test_each_role_gets_only_its_own_credentials(kind: str) -> None:
    values = {**EVERYTHING, "nats": {"auth": {"existingSecret": "users", "kind": kind}}}
    documents = render(values)
    keys = {}
    for name, pod in pods(documents):
        volume = next(v["secret"] for v in pod["spec"]["volumes"] if v["name"] == "nats-user")
        component = name.removeprefix("r-natterjack-")
        keys[component] = [volume["secretName"], *(item["key"] for item in volume["items"])]
        mount = next(m for m in container(pod)["volumeMounts"] if m["name"] == "nats-user")
        path = f"{mount['mountPath']}/{volume['items'][0]['path']}"
        expected = "creds" if component == "registrar" else kind  # its broker has JWTs
        assert given(documents, component)[f"NATS_{expected.upper()}"] == path
    assert keys == {
        "worker": ["users", "worker.nk"],
        "streams": ["users", "operator.nk"],
        "edge": ["users", "edge_default_cluster.nk"],
        "webhook": ["users", "subscriber_webhook.nk"],
        "registrar": ["users", "registrar.creds"],
        "gateway": ["users", "gateway.nk"],
        "test": ["users", "edge_helm-test_test.nk"],
    }


def test_only_a_rolling_update_has_limits() -> None:
    def strategy(values: Document) -> Document:
        documents = render({"worker": {"updateStrategy": values}})
        check(documents, OLDEST)
        found: Document = find(documents, "Deployment", "worker")["spec"]["strategy"]
        return found

    # The API server refuses rollingUpdate with Recreate, which the schema cannot express.
    assert strategy({"type": "Recreate"}) == {"type": "Recreate"}
    bounds = {"maxSurge": 1, "maxUnavailable": "10%"}
    assert strategy({"rollingUpdate": bounds}) == {"type": "RollingUpdate", "rollingUpdate": bounds}


def test_only_a_registrar_has_the_signing_key() -> None:
    documents = render(EVERYTHING)
    holders = [
        name
        for name, pod in pods(documents)
        if any(v.get("secret", {}).get("secretName") == "natterjack-registrar"
               for v in pod["spec"]["volumes"])
    ]  # fmt: skip
    assert holders == ["r-natterjack-registrar"]
    assert settings_of(rendered("registrar"), "registrar")["NATS_INBOX_PREFIX"] == (
        "_INBOX_registrar"
    )
    assert "registrar.creds" in refused({"registrar": {"enabled": True}})


@pytest.mark.parametrize("program", ["webhook", "registrar"])
def test_the_image_of_workers_can_run_the_other_programs(program: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(extras[program]) <= set(extras["worker"])
