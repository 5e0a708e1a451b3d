"""Network policies of every component."""

from __future__ import annotations

import copy
import json

import pytest

from .chart import (
    OLDEST,
    find,
    render,
    rendered,
)
from .manifests import (
    EVERYTHING,
    check,
    put,
)

pytestmark = pytest.mark.process


def test_workers_reach_dns_nats_and_public_addresses() -> None:
    spec = find(rendered("default"), "NetworkPolicy", "worker")["spec"]
    names, nats, providers = spec["egress"]
    assert {(port["port"], port["protocol"]) for port in names["ports"]} == {
        (53, "UDP"),
        (53, "TCP"),
    }
    assert "to" not in names, "a DNS cache on the node is in no namespace"
    assert nats["ports"] == [{"port": 4222, "protocol": "TCP"}]
    assert nats["to"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "nats"}
    assert providers["ports"] == [{"port": 443, "protocol": "TCP"}]
    block = providers["to"][0]["ipBlock"]
    assert block["cidr"] == "0.0.0.0/0"
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(
        block["except"]
    )
    assert [rule["ports"][0]["port"] for rule in spec["ingress"]] == [9464]


def test_cilium_allows_providers_by_name() -> None:
    documents = rendered("cilium")
    plain = find(documents, "NetworkPolicy", "worker")["spec"]
    assert "0.0.0.0/0" not in json.dumps(plain)
    named = find(documents, "CiliumNetworkPolicy")["spec"]["egress"][1]["toFQDNs"]
    assert named == [
        {"matchName": "api.eu.deepgram.com"},
        {"matchPattern": "*.rt.speechmatics.com"},
    ]


@pytest.mark.parametrize("component", ["edge", "streams", "test"])
def test_other_components_reach_only_nats(component: str) -> None:
    spec = find(render(EVERYTHING), "NetworkPolicy", component)["spec"]
    assert spec["ingress"] == []
    assert [rule["ports"][0]["port"] for rule in spec["egress"]] == [53, 4222]


@pytest.mark.parametrize("component", ["edge", "streams", "test"])
def test_other_components_accept_additional_rules(component: str) -> None:
    more = [{"ports": [{"port": 7, "protocol": "TCP"}]}]
    at = {"edge": "edge", "streams": "streams.job", "test": "tests"}[component]
    values = copy.deepcopy(EVERYTHING)
    put(values, f"{at}.extraEgress", more)
    put(values, "edge.extraIngress", more)
    documents = render(values)
    check(documents, OLDEST)
    assert find(documents, "NetworkPolicy", component)["spec"]["egress"][2:] == more
    assert find(documents, "NetworkPolicy", "edge")["spec"]["ingress"] == more


def test_registrars_reach_nats_and_webhooks_public_addresses_or_the_named_ones() -> None:
    spec = find(rendered("registrar"), "NetworkPolicy", "registrar")["spec"]
    assert [rule["ports"][0]["port"] for rule in spec["ingress"]] == [9466]
    _, nats = spec["egress"]
    assert [port["port"] for port in nats["ports"]] == [4222]
    spec = find(rendered("webhook"), "NetworkPolicy", "webhook")["spec"]
    assert [rule["ports"][0]["port"] for rule in spec["ingress"]] == [9465]
    *_, nats, receiver = spec["egress"]
    assert [port["port"] for port in nats["ports"]] == [4222]
    assert [port["port"] for port in receiver["ports"]] == [443]
    four, six = (one["ipBlock"] for one in receiver["to"])
    assert four["cidr"] == "0.0.0.0/0"
    assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(four["except"])
    assert six["except"] == ["fc00::/7", "fe80::/10"]
    inside = [{"podSelector": {"matchLabels": {"app": "crm"}}}]
    values = {"webhook": {"allowPrivate": True, "egress": {"ports": [8080], "to": inside}}}
    rule = find(render(values, scenario="webhook"), "NetworkPolicy", "webhook")["spec"]["egress"][2]
    assert rule == {"ports": [{"port": 8080, "protocol": "TCP"}], "to": inside}


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("tls://nats.example.org:4223", [4223]),
        ("tls://nats.example.org", [4222]),
        ("nats.example.org:4224", [4224]),
        ("nats://a:4222,nats://b:4333/,nats://c:4222", [4222, 4333]),
        ("nats://[2001:db8::1]", [4222]),
        ("nats://[2001:db8::1]:4444", [4444]),
        ("wss://nats.example.org/broker", [443]),
        ("wss://nats.example.org:8443/broker", [8443]),
        ("ws://nats.example.org", [80]),
    ],
)
def test_policies_allow_the_ports_of_the_url(url: str, ports: list[int]) -> None:
    values = {**EVERYTHING, "nats": {"url": url}}
    for component in ("worker", "edge", "webhook", "registrar", "gateway", "streams", "test"):
        rule = find(render(values), "NetworkPolicy", component)["spec"]["egress"][1]
        assert [port["port"] for port in rule["ports"]] == ports
    values["networkPolicy"] = {"nats": {"ports": [4999]}}
    rule = find(render(values), "NetworkPolicy", "worker")["spec"]["egress"][1]
    assert [port["port"] for port in rule["ports"]] == [4999]
