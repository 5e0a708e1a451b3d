"""The gateways of the chart: what serves clients, what scales and what drains."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from gateway import __main__ as gateway_program
from gateway.access import AccessSettings
from gateway.app import application, serve
from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from natterjack.errors import UsageError

from .chart import (
    OLDEST,
    Document,
    component_of,
    container,
    find,
    notes,
    refused,
    render,
    rendered,
    settings_of,
)
from .manifests import check, put

pytestmark = pytest.mark.process


def changed(**values: Any) -> list[Document]:
    """Render the scenario with other values below `gateway`; `__` stands for a dot."""
    all_values: Document = {}
    for path, value in values.items():
        put(all_values, f"gateway.{path.replace('__', '.')}", value)
    return render(all_values, scenario="gateway")


def refused_with(**values: Any) -> str:
    """Return helm's error for values below `gateway`, which is enabled."""
    all_values: Document = {"gateway": {"enabled": True}}
    for path, value in values.items():
        put(all_values, f"gateway.{path.replace('__', '.')}", value)
    return refused(all_values)


def pod(documents: list[Document]) -> Document:
    found: Document = find(documents, "Deployment", "gateway")["spec"]["template"]
    return found


def test_there_is_no_gateway_unless_it_is_enabled() -> None:
    assert all(component_of(document) != "gateway" for document in rendered("production"))


def test_the_settings_open_no_door_without_keys_and_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway starts with the chart's settings, and would not without the file of keys."""
    settings = settings_of(rendered("gateway"), "gateway")
    assert settings["GATEWAY_EXPOSE"] == "tls"
    for name in ("GATEWAY_HTTP_HOST", "GATEWAY_EXPOSE", "GATEWAY_KEYS_FILE"):
        monkeypatch.setenv(name, settings[name])
    host = settings["GATEWAY_HTTP_HOST"]
    AccessSettings().check_exposure(host)
    monkeypatch.delenv("GATEWAY_KEYS_FILE")
    with pytest.raises(UsageError, match="there are no keys"):
        AccessSettings().check_exposure(host)
    assert "gateway.expose must be one of" in refused_with(expose="open")


def test_keys_and_the_secret_of_tokens_are_files_that_can_change() -> None:
    documents = rendered("gateway")
    template = pod(documents)
    volume = next(v for v in template["spec"]["volumes"] if v["name"] == "clients")
    files = [
        (each["secret"]["name"], item["key"], item["path"])
        for each in volume["projected"]["sources"]
        for item in each["secret"]["items"]
    ]
    assert files == [
        ("natterjack-gateway", "keys", "keys"),
        ("natterjack-gateway", "token-secret", "token-secret"),
    ]
    mount = next(m for m in container(template)["volumeMounts"] if m["name"] == "clients")
    assert "subPath" not in mount, "the kubelet does not update files of a subPath"
    settings = settings_of(documents, "gateway")
    for name, file in (("KEYS_FILE", "keys"), ("TOKEN_SECRET_FILE", "token-secret")):
        assert settings[f"GATEWAY_{name}"] == f"{mount['mountPath']}/{file}"
    without = changed(tokens__existingSecret="")
    assert "GATEWAY_TOKEN_SECRET_FILE" not in settings_of(without, "gateway")
    assert "keys.existingSecret is empty" in refused_with(keys__existingSecret="")


@pytest.mark.parametrize(("delay", "finish"), [(5, 10), (0, 0), (30, 600)])
def test_a_pod_lives_longer_than_its_drain(delay: int, finish: int) -> None:
    documents = changed(drain={"delaySeconds": delay, "finishSeconds": finish})
    check(documents, OLDEST)
    template = pod(documents)
    assert settings_of(documents, "gateway")["GATEWAY_DRAIN_SECONDS"] == str(finish)
    grace = template["spec"]["terminationGracePeriodSeconds"]
    # A gateway that hangs exits by itself before the kubelet kills it.
    assert grace > delay + finish + gateway_program._END_SECONDS
    wanted = {"preStop": {"exec": {"command": ["sleep", str(delay)]}}}
    assert container(template).get("lifecycle") == (wanted if delay else None)


async def test_probes_use_paths_that_the_gateway_serves() -> None:
    each = container(pod(rendered("gateway")))
    port = settings_of(rendered("gateway"), "gateway")["GATEWAY_HTTP_PORT"]
    assert each["ports"] == [{"name": "http", "containerPort": int(port), "protocol": "TCP"}]
    probes = {k.removesuffix("Probe"): v["httpGet"] for k, v in each.items() if k.endswith("Probe")}
    assert {probe["port"] for probe in probes.values()} == {"http"}
    gateway = Gateway(GatewaySettings(http_port=0))
    served = await serve(gateway)
    try:
        answers = {}
        async with aiohttp.ClientSession() as http:
            for name, probe in probes.items():
                async with http.get(served.address + probe["path"]) as response:
                    answers[name] = response.status
        # Without NATS the gateway is alive but not ready.
        assert answers == {"startup": 200, "liveness": 200, "readiness": 503}
    finally:
        await served.stop()
        await gateway.decoders.close()


async def test_the_ingress_has_all_routes_of_clients_and_neither_probes_nor_metrics() -> None:
    (rule,) = find(rendered("gateway"), "Ingress", "gateway")["spec"]["rules"]
    paths = [(each["path"], each["pathType"]) for each in rule["http"]["paths"]]

    def reached(route: str) -> bool:
        return any(
            route == path or (kind == "Prefix" and route.startswith(f"{path}/"))
            for path, kind in paths
        )

    gateway = Gateway(GatewaySettings(http_port=0))
    try:
        resources = application(gateway).router.resources()
        routes = {resource.canonical for resource in resources}
    finally:
        await gateway.decoders.close()
    hidden = {"/startupz", "/livez", "/healthz", "/readyz", "/metrics"}
    assert hidden < routes
    assert {route for route in routes if not reached(route)} == hidden


def test_the_ingress_leads_to_the_service_and_the_service_to_the_pods() -> None:
    documents = rendered("gateway")
    ingress, service = (find(documents, kind, "gateway") for kind in ("Ingress", "Service"))
    (rule,) = ingress["spec"]["rules"]
    assert rule["host"] == "speech.example.org"
    assert ingress["spec"]["tls"] == [
        {"secretName": "speech-example-org", "hosts": ["speech.example.org"]}
    ]
    backends = {str(path["backend"]["service"]) for path in rule["http"]["paths"]}
    assert backends == {str({"name": service["metadata"]["name"], "port": {"name": "http"}})}
    labels = pod(documents)["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    timeout = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"]
    assert int(timeout) >= 3600, "a session lasts as long as its connection"


def test_an_ingress_that_cannot_work_is_refused() -> None:
    assert "ingress.hosts is empty" in refused_with(ingress__enabled=True)
    one = {"enabled": True, "hosts": ["a.example.org"]}
    assert "ingress.tlsSecret is empty" in refused_with(ingress=one)
    documents = changed(ingress={"tlsSecret": "", "tlsElsewhere": True})
    assert "tls" not in find(documents, "Ingress", "gateway")["spec"]


def test_a_load_balancer_may_take_the_place_of_the_ingress() -> None:
    documents = changed(
        ingress__enabled=False,
        service={"type": "LoadBalancer", "port": 443, "externalTrafficPolicy": "Local"},
    )
    check(documents, OLDEST)
    spec = find(documents, "Service", "gateway")["spec"]
    assert (spec["type"], spec["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    assert spec["ports"][0]["port"] == 443
    assert not [document for document in documents if document["kind"] == "Ingress"]


def test_the_autoscaler_adds_gateways_before_they_are_full() -> None:
    documents = rendered("gateway")
    spec = find(documents, "HorizontalPodAutoscaler", "gateway")["spec"]
    deployment = find(documents, "Deployment", "gateway")
    assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    cpu, connections = spec["metrics"]
    assert cpu["resource"]["target"]["averageUtilization"] == 70
    assert "cpu" in container(deployment["spec"]["template"])["resources"]["requests"]
    target = int(connections["pods"]["target"]["averageValue"])
    assert target * 1.1 < int(settings_of(documents, "gateway")["GATEWAY_MAX_CONNECTIONS"])
    (only,) = find(changed(autoscaling__targetConnections=0), "HorizontalPodAutoscaler", "gateway")[
        "spec"
    ]["metrics"]
    assert only["type"] == "Resource"


def test_an_autoscaler_that_cannot_work_is_refused() -> None:
    for values, message in (
        ({"targetCPUPercent": 0}, "has no target"),
        ({"targetConnections": 950}, "which full gateways do not reach"),
        ({"minReplicas": 5, "maxReplicas": 4}, "is less than"),
    ):
        assert message in refused_with(autoscaling={"enabled": True, **values})


def test_evictions_leave_gateways_for_clients() -> None:
    spec = find(rendered("gateway"), "PodDisruptionBudget", "gateway")["spec"]
    assert spec["maxUnavailable"] == 1
    assert (
        spec["selector"]["matchLabels"].items()
        <= pod(rendered("gateway"))["metadata"]["labels"].items()
    )
    documents = changed(podDisruptionBudget__enabled=False)
    budgets = [d for d in documents if d["kind"] == "PodDisruptionBudget"]
    assert [component_of(budget) for budget in budgets] == ["worker"]


def test_clients_come_from_the_named_places_only() -> None:
    spec = find(rendered("gateway"), "NetworkPolicy", "gateway")["spec"]
    (rule,) = spec["ingress"]
    assert rule["ports"] == [{"port": 8080, "protocol": "TCP"}]
    names = [peer["namespaceSelector"]["matchLabels"] for peer in rule["from"]]
    assert [name["kubernetes.io/metadata.name"] for name in names] == [
        "ingress-nginx", "monitoring"
    ]  # fmt: skip
    assert [each["ports"][0]["port"] for each in spec["egress"]] == [53, 4222], "not to providers"
    more = [{"ports": [{"port": 4318, "protocol": "TCP"}]}]
    spec = find(changed(clientsFrom=[], extraEgress=more), "NetworkPolicy", "gateway")["spec"]
    assert "from" not in spec["ingress"][0]
    assert spec["egress"][2:] == more


def test_notes_say_how_clients_get_keys() -> None:
    text = notes({}, "gateway")
    assert (
        "create secret generic natterjack-gateway --from-file=keys=keys "
        "--from-file=token-secret=TOKENSECRET\n"
    ) in text
    assert "Clients reach them at" not in text
    apart = {"tokens": {"existingSecret": "tokens"}, "ingress": {"enabled": False}}
    text = notes({"gateway": apart}, "gateway")
    assert "natterjack-gateway --from-file=keys=keys\n" in text
    assert "create secret generic tokens --from-file=token-secret=TOKENSECRET\n" in text
    assert "Clients reach them at r-natterjack-gateway:80, behind something that adds TLS." in text


def test_prometheus_finds_the_gateways() -> None:
    monitor = find(rendered("gateway"), "PodMonitor", "gateway")["spec"]
    labels = pod(rendered("gateway"))["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["podMetricsEndpoints"][0]["port"] == "http"
