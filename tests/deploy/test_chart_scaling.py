"""Autoscaling of workers, by KEDA and by a HorizontalPodAutoscaler."""

from __future__ import annotations

import pytest

from docs.generate.metrics import metrics
from natterjack.broker import streams
from natterjack.settings import StreamSettings

from .chart import (
    CHART,
    find,
    refused,
    render,
    rendered,
)
from .libyaml import read_yaml

pytestmark = pytest.mark.process


def test_keda_counts_the_sessions_in_the_queue() -> None:
    auto = {"enabled": True, "minReplicas": 3, "maxReplicas": 40}
    documents = render({"autoscaling": auto, "worker": {"maxSessions": 250}})
    spec = find(documents, "ScaledObject")["spec"]
    target = find(documents, "Deployment", "worker")
    assert spec["scaleTargetRef"]["name"] == target["metadata"]["name"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (3, 40)
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["fallback"]["replicas"] == 3
    metadata = spec["triggers"][0]["metadata"]
    assert metadata["stream"] == streams.SESSIONS
    assert metadata["consumer"] == streams.CONSUMER
    assert metadata["lagThreshold"] == "175", "70 % of 250"
    assert all(isinstance(value, str) for value in metadata.values())
    # The consumer must not limit the sessions below the number of slots.
    assert streams.consumer_config(StreamSettings()).max_ack_pending == -1


def test_keda_may_scale_to_zero() -> None:
    auto = {"enabled": True, "minReplicas": 0}
    documents = render({"autoscaling": auto, "metrics": {"prometheusRule": {"enabled": True}}})
    spec = find(documents, "ScaledObject")["spec"]
    assert spec["minReplicaCount"] == 0
    assert spec["triggers"][0]["metadata"]["activationLagThreshold"] == "0", (
        "one session starts one"
    )
    assert spec["fallback"]["replicas"] == 1, "a broker that does not answer KEDA may have sessions"
    alerts = {
        rule.get("alert"): rule["expr"]
        for group in find(documents, "PrometheusRule")["spec"]["groups"]
        for rule in group["rules"]
    }
    assert alerts["NatterjackNoWorkerReady"] == (
        "max by (namespace, job) (natterjack_worker_ready) == 0\n"
    ), "a release without workers is no fault"
    assert "(natterjack_worker_ready) < 0 # threshold" in alerts["NatterjackWorkersNotReady"]
    assert "NatterjackQueueUnserved" in alerts


def test_an_hpa_may_not_scale_to_zero() -> None:
    auto = {"enabled": True, "type": "hpa", "minReplicas": 0}
    assert "minReplicas: 0 needs autoscaling.type keda" in refused({"autoscaling": auto})


def test_with_an_autoscaler_the_chart_sets_no_replicas() -> None:
    assert find(render(), "Deployment", "worker")["spec"]["replicas"] == 2
    for kind in ("keda", "hpa"):
        deployment = find(
            render({"autoscaling": {"enabled": True, "type": kind}}), "Deployment", "worker"
        )
        assert "replicas" not in deployment["spec"]


def test_the_hpa_uses_a_metric_that_workers_have() -> None:
    spec = find(rendered("hpa"), "HorizontalPodAutoscaler")["spec"]
    pods_metric = spec["metrics"][0]["pods"]
    assert pods_metric["metric"]["name"] in {metric.name for metric in metrics()}
    assert pods_metric["target"] == {"type": "AverageValue", "averageValue": "50"}


def test_the_example_broker_matches_the_defaults_of_the_chart() -> None:
    """The official NATS chart, for `values-nats.yaml`, names its headless Service NAME-headless."""
    example = read_yaml(CHART / "values-nats.yaml")
    broker = example["config"]
    assert not example["promExporter"]["podMonitor"]["enabled"], "not every cluster has its CRD"
    values = read_yaml(CHART / "values.yaml")
    host, _, port = values["autoscaling"]["keda"]["monitoringEndpoint"].partition(":")
    assert host.startswith("nats-headless.nats.")
    assert int(port) == broker["monitor"]["port"]
    assert broker["cluster"]["replicas"] >= values["streams"]["replicas"]
    assert broker["jetstream"]["fileStore"]["pvc"]["enabled"]
    assert "memoryStore" not in broker["jetstream"]
    assert values["streams"]["audioStorage"] == "file", "the example has no memory store"
