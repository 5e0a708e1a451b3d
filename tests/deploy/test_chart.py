"""The chart: valid on every Kubernetes it is for, closed to mistakes, and true to the programs."""

from __future__ import annotations

import base64
import copy
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
import yaml
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from edge_capture.settings import DeliverySettings, EdgeSettings, SpoolSettings
from natterjack.broker import streams
from natterjack.plugin.entry_points import available
from natterjack.settings import BrokerSettings, LogSettings, StreamSettings, load
from worker import __main__ as worker_program
from worker.health import Health
from worker.providers.loading import load_class
from worker.settings import WorkerSettings

from .chart import (
    CHART,
    OLDEST,
    SCENARIOS,
    Document,
    component_of,
    container,
    find,
    given,
    helm,
    pods,
    refused,
    render,
    rendered,
    settings_of,
    values_of,
)
from .names import ROOT, metrics, rules

kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="no kubernetes-validate here: pip install -e '.[dev]' brings it"
)

NEWEST = ".".join(kubernetes_validate.latest_version().split(".")[:2])
README_GENERATOR = "@bitnami/readme-generator-for-helm@2.7.2"
EVERYTHING: Document = {
    "edge": {"enabled": True, "args": ["devices"]},
    "autoscaling": {"enabled": True},
    "networkPolicy": {"cilium": {"enabled": True}},
    "metrics": {part: {"enabled": True} for part in ("podMonitor", "prometheusRule", "dashboard")},
    "providers": {"speechmatics": {"enabled": True}, "managed": {"enabled": True}},
    "nats": {"tls": {"caSecret": "ca", "certSecret": "cert"}, "auth": {"existingSecret": "users"}},
    "caBundle": {"existingConfigMap": "company"},
    "proxy": {"url": "http://proxy:3128", "noProxy": ".svc"},
    "tests": {"audio": {"existingConfigMap": "recording"}},
}
"""All that can be switched on at once."""


@cache
def custom_schemas() -> dict[tuple[str, str], Document]:
    """Of custom resources, by apiVersion and kind."""
    found = {}
    for path in (Path(__file__).parent / "schemas").glob("*.json"):
        schema = json.loads(path.read_text())
        kinds = [schema["properties"][name] for name in ("apiVersion", "kind")]
        version, kind = (each.get("const") or each["enum"][0] for each in kinds)
        found[version, kind] = schema
    return found


def check(documents: list[Document], kubernetes: str) -> None:
    """Every document is what a strict API server takes. Fails on a kind that nobody knows."""
    for document in documents:
        schema = custom_schemas().get((document["apiVersion"], document["kind"]))
        if schema is not None:
            jsonschema.Draft7Validator(schema).validate(document)
        else:
            kubernetes_validate.validate(document, kubernetes, strict=True)


# ---- every scenario -------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_helm_finds_nothing_wrong(scenario: str) -> None:
    done = helm("lint", "--strict", CHART, "-f", values_of(scenario))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_manifests_are_valid(scenario: str, kubernetes: str) -> None:
    documents = rendered(scenario, kubernetes)
    assert len(documents) >= 2
    check(documents, kubernetes)
    names = [(d["apiVersion"], d["kind"], d["metadata"]["name"]) for d in documents]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, _, name in names)


def test_scenarios_have_every_kind_and_every_custom_schema_is_used() -> None:
    kinds = {(d["apiVersion"], d["kind"]) for s in SCENARIOS for d in rendered(s)}
    assert set(custom_schemas()) <= kinds
    templates = "".join(path.read_text() for path in CHART.glob("templates/**/*.yaml"))
    assert set(re.findall(r"^kind: (\w+)$", templates, flags=re.M)) <= {kind for _, kind in kinds}
    assert {"DaemonSet", "Deployment"} <= {kind for _, kind in kinds}


def test_the_oldest_kubernetes_is_what_the_chart_asks_for() -> None:
    asked = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert asked == f">={OLDEST}.0-0"
    assert "kubeVersion" in refused({}, "--kube-version", "1.27.9")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_variable_is_there_twice(scenario: str) -> None:
    for name, pod in pods(rendered(scenario)):
        for each in pod["spec"]["containers"]:
            variables = [entry["name"] for entry in each.get("env", [])]
            assert len(variables) == len(set(variables)), name


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_pods_are_restricted(scenario: str) -> None:
    """As Pod Security calls it, and a little more."""
    for name, pod in pods(rendered(scenario)):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] >= 1
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in spec["containers"]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in each["resources"]["limits"]
            assert "cpu" not in each["resources"]["limits"], "throttling makes everything late"
            mounts = {mount["mountPath"]: mount["name"] for mount in each["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in spec["volumes"]}
            assert volumes[mounts["/tmp"]]["emptyDir"]["sizeLimit"]
            assert set(mounts.values()) <= set(volumes)
            assert not any("exec" in each.get(f"{probe}Probe", {}) for probe in
                           ("startup", "liveness", "readiness"))  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_secret_is_in_a_manifest(scenario: str) -> None:
    """Secrets are files, named by the user: none is made, none becomes a variable."""
    documents = rendered(scenario)
    assert "Secret" not in {document["kind"] for document in documents}
    for _, pod in pods(documents):
        for each in pod["spec"]["containers"]:
            assert "secretKeyRef" not in json.dumps(each.get("env", []))
            assert "secretRef" not in json.dumps(each.get("envFrom", []))


def test_no_value_asks_for_a_secret() -> None:
    asked = [path for path, _ in leaves(schema()) if re.search("(?i)password|token$|seed", path)]
    assert asked == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_selectors_select_their_own_pods_and_no_others(scenario: str) -> None:
    documents = rendered(scenario)
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(documents)}
    for document in documents:
        spec = document.get("spec", {})
        selector = spec.get("podSelector") or spec.get("endpointSelector") or spec.get("selector")
        if document["kind"] in ("Job", "Service") or not selector:
            continue
        wanted = selector["matchLabels"]
        kinds = ("name", "instance", "component")
        assert set(wanted) == {f"app.kubernetes.io/{kind}" for kind in kinds}
        chosen = {name for name, has in labels.items() if wanted.items() <= has.items()}
        assert chosen == {f"r-natterjack-{component_of(document)}"}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_labels_are_the_usual_ones(scenario: str) -> None:
    for document in rendered(scenario):
        if document["metadata"]["name"] in ("r-natterjack-more", "sound"):
            continue  # the user's own
        labels = document["metadata"]["labels"]
        assert labels["helm.sh/chart"].startswith("natterjack-")
        for kind in ("name", "instance", "version", "component", "part-of", "managed-by"):
            assert labels[f"app.kubernetes.io/{kind}"]


def test_labels_and_annotations_of_the_user_never_replace_those_of_the_chart() -> None:
    name = "app.kubernetes.io/name"
    values = copy.deepcopy(EVERYTHING)
    values |= {"commonLabels": {"team": "all", name: "x"}, "commonAnnotations": {"a": "b"}}
    mine = {"podLabels": {"team": "mine", name: "y"},
            "podAnnotations": {"checksum/config": "z", "helm.sh/hook": "z", "a": "b"}}  # fmt: skip
    for part in ("worker", "edge", "tests"):
        values[part] = {**values.get(part, {}), **mine}
    put(values, "streams.job.podLabels", mine["podLabels"])
    put(values, "metrics.podMonitor.labels", mine["podLabels"])
    documents = render(values)
    for _, pod in pods(documents):
        labels = pod["metadata"]["labels"]
        assert (labels["team"], labels[name]) == ("mine", "natterjack")
    for component in ("worker", "edge"):
        workload = find(documents, "Deployment", component)["spec"]["template"]
        assert len(workload["metadata"]["annotations"]["checksum/config"]) == 64
        assert workload["metadata"]["annotations"]["a"] == "b"
    assert find(documents, "PodMonitor")["metadata"]["labels"]["team"] == "mine"
    assert find(documents, "PodDisruptionBudget")["metadata"]["labels"]["team"] == "all"
    assert find(documents, "Pod", "test")["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert find(documents, "Deployment", "edge")["metadata"]["annotations"]["a"] == "b"


def test_own_manifests_are_rendered() -> None:
    found = next(d for d in rendered("proxy") if d["metadata"]["name"] == "r-natterjack-more")
    assert found["data"] == {"OTEL_SERVICE_NAME": "natterjack-worker"}


def test_long_names_stay_short_enough() -> None:
    done = helm("template", "a" * 53, CHART)
    assert done.returncode == 0, done.stderr
    names = [d["metadata"]["name"] for d in yaml.safe_load_all(done.stdout) if d]
    assert names
    assert all(len(name) <= 52 for name in names), "a Deployment's pods add 17 characters"


def test_long_names_of_two_releases_are_two_names() -> None:
    def name(release: str) -> str:
        done = helm("template", release, CHART, "-s", "templates/worker/deployment.yaml")
        found: str = yaml.safe_load(done.stdout)["metadata"]["name"]
        return found

    long = "speech-of-the-department-for-many-things"
    assert name(f"{long}-a") != name(f"{long}-b")
    assert name(f"{long}-a").startswith("speech-of-the-department")
    assert name("short") == "short-natterjack-worker"


# ---- values ---------------------------------------------------------------------------------


@cache
def schema() -> Document:
    found: Document = json.loads((CHART / "values.schema.json").read_text())
    return found


def resolved(part: Document) -> Document:
    if "$ref" in part:
        found: Document = schema()["definitions"][part["$ref"].rpartition("/")[2]]
        return found
    return part


def leaves(part: Document, path: str = "") -> Iterator[tuple[str, Document]]:
    """Every value that has no values below it, with its schema."""
    part = resolved(part)
    if "properties" in part:
        for name, below in part["properties"].items():
            yield from leaves(below, f"{path}.{name}".lstrip("."))
    else:
        yield path, part


def put(values: Document, path: str, value: Any) -> None:
    *above, name = path.split(".")
    for each in above:
        values = values.setdefault(each, {})
    values[name] = value


def free_strings(text: str) -> Document:
    """Everything switched on, and every free string `text`, wherever it is allowed to be."""
    values = copy.deepcopy(EVERYTHING)
    # More are in lists, whose items have shapes of Kubernetes' own.
    values["worker"] = {"extraEnv": [{"name": "MORE", "value": text}]}
    values["edge"]["extraEnv"] = [{"name": "MORE", "value": text}]
    values["imagePullSecrets"] = [{"name": text}]
    for path, part in leaves(schema()):
        if part.get("type") == "string" and "enum" not in part:
            if re.search(part.get("pattern", ""), text) and len(text) <= part.get("maxLength", 99):
                put(values, path, text)
        elif part.get("additionalProperties") == {"type": "string"}:
            names = ["FREE"] if "propertyNames" in part else ["free", text]
            put(values, path, dict.fromkeys(names, text))
        elif part.get("items") == {"type": "string"}:
            put(values, path, [text])
    for provider in ("deepgram", "speechmatics", "managed"):
        put(values, f"providers.{provider}", {"enabled": True, "existingSecret": text,
            "key": text, "variable": provider.upper()})  # fmt: skip
    return values


@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
@pytest.mark.parametrize("text", ["1234", "true", "1e3", "0x1f", "null", "no"])
def test_strings_stay_strings_whatever_they_look_like(text: str, kubernetes: str) -> None:
    values = free_strings(text)
    documents = render(values, kubernetes=kubernetes)
    check(documents, kubernetes)
    worker = find(documents, "Deployment", "worker")["spec"]["template"]
    assert worker["spec"]["nodeSelector"] == {"free": text, text: text}
    assert container(worker)["args"] == [text]
    assert settings_of(documents, "worker")["FREE"] == text
    assert find(documents, "ScaledObject")["spec"]["triggers"][0]["metadata"]["account"] == text


def defaults() -> Document:
    found: Document = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


def paths(values: Document, above: str = "") -> Iterator[str]:
    """Of every value, and of every map of values."""
    for name, value in values.items():
        path = f"{above}.{name}".lstrip(".")
        if "." not in name and "/" not in name:  # a label's name
            yield path
            if isinstance(value, dict):
                yield from paths(value, path)


def nothings(part: Any, path: str = "") -> Iterator[str]:
    """Where a manifest says zero, root, or nothing."""
    if isinstance(part, dict):
        for name, value in part.items():
            yield from nothings(value, f"{path}.{name}")
    elif isinstance(part, list):
        for value in part:
            yield from nothings(value, path)
    elif str(part) in ("None", "0", "", "null") or "<nil>" in str(part):
        yield path


@pytest.mark.parametrize("scaled", ["keda", "hpa", "not"])
def test_null_is_nothing_or_is_refused(scaled: str) -> None:
    """`null` takes a default away. What is left must be valid; or it is said that it is needed."""
    base = copy.deepcopy(EVERYTHING)
    base["metrics"] = {"podMonitor": {"enabled": True}}  # the rest is long, and none of it is ours
    base["autoscaling"] = {"enabled": scaled != "not", "type": scaled}
    if scaled == "not":
        del base["autoscaling"]["type"]
    valid = render(base)
    before = {where for document in valid for where in nothings(document)}
    for path in paths(defaults()):
        if scaled != "keda" and not path.startswith(
            ("autoscaling", "worker.replica", "worker.max")
        ):
            continue
        values = copy.deepcopy(base)
        put(values, path, None)
        done = helm("template", "r", CHART, "-n", "speech", "-f", "-", stdin=json.dumps(values))
        if done.returncode:
            name = path.rpartition(".")[2]
            assert f"{name} is required" in done.stderr or "execution error" in done.stderr, (
                f"{path}: {done.stderr}"
            )
            continue
        documents = [d for d in yaml.load_all(done.stdout, yaml.CSafeLoader) if d]
        new = [document for document in documents if document not in valid]
        check(new, OLDEST)
        valid += new
        after = {where for document in documents for where in nothings(document)}
        assert after <= before, f"{path}: {after - before}"


def test_ids_may_be_left_to_the_cluster() -> None:
    ids = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))
    for _, pod in pods(render({**EVERYTHING, "podSecurityContext": ids})):
        assert not set(ids) & set(pod["spec"]["securityContext"])
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


def test_values_are_closed() -> None:
    def objects(part: Document, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        part = resolved(part)
        if "properties" in part:
            assert part["additionalProperties"] is False, path
            yield path
            for name, below in part["properties"].items():
                yield from objects(below, (*path, name))

    found = list(objects(schema()))
    assert len(found) > 20
    validator = jsonschema.Draft7Validator(schema())
    for path in found:
        values = defaults()
        put(values, ".".join((*path, "mispelt")), "x")
        assert "mispelt" in " ".join(e.message for e in validator.iter_errors(values)), path
    assert "mispelt" in refused({"worker": {"mispelt": 1}}), "helm asks the schema"


def test_every_default_is_in_the_schema_and_every_value_has_a_default() -> None:
    jsonschema.Draft7Validator(schema()).validate(defaults())
    for path, _ in leaves(schema()):
        value = defaults()
        if path in ("global", "enabled") or path.endswith("resources.claims"):
            continue
        for name in path.split("."):
            assert name in value, path
            value = value[name]


def test_other_charts_may_have_global_values() -> None:
    assert render({"global": {"imageRegistry": "of somebody else's chart"}}) == render()


def test_another_chart_may_have_this_one_on_a_condition(tmp_path: Path) -> None:
    """`condition: natterjack.enabled` puts that value among ours."""
    umbrella = tmp_path / "umbrella"
    shutil.copytree(CHART, umbrella / "charts" / "natterjack")
    about = {"apiVersion": "v2", "name": "umbrella", "version": "1.0.0", "dependencies": [
        {"name": "natterjack", "version": "*", "condition": "natterjack.enabled"}]}  # fmt: skip
    (umbrella / "Chart.yaml").write_text(json.dumps(about))
    for enabled in (True, False):
        (umbrella / "values.yaml").write_text(json.dumps({"natterjack": {"enabled": enabled}}))
        done = helm("template", "r", umbrella)
        assert done.returncode == 0, done.stderr
        assert ("kind: Deployment" in done.stdout) == enabled


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"worker": {"extraEnv": [{"name": "NATS_URL", "value": "x"}]}},
         "worker.extraEnv: NATS_URL is set already"),
        ({"worker": {"extraEnv": [{"name": "WORKER_NAME", "value": "x"}]}},
         "worker.extraEnv: WORKER_NAME is set already"),
        ({"worker": {"extraEnv": [{"name": "A", "value": "x"}, {"name": "A", "value": "y"}]}},
         "worker.extraEnv: A is set already"),
        ({"worker": {"extraEnv": [{"name": "B", "value": "x"}], "settings": {"B": "y"}}},
         "worker.extraEnv: B is set already"),
        ({"worker": {"settings": {"WORKER_DRAIN_SECONDS": "900"}}},
         "worker.settings.WORKER_DRAIN_SECONDS: the chart sets WORKER_DRAIN_SECONDS itself"),
        ({"worker": {"settings": {"WORKER_NAME": "x"}}},
         "worker.settings.WORKER_NAME: the chart sets WORKER_NAME itself"),
        ({"worker": {"extraEnv": [{"name": "A", "value": "x",
                                   "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}]}},
         "worker.extraEnv: A has both value and valueFrom"),
        ({"worker": {"updateStrategy": {"type": "OnDelete"}}}, "updateStrategy.type"),
        ({"metrics": {"prometheusRule": {"enabled": True, "runbookUrl": "a: b"}}}, "runbookUrl"),
        ({"edge": {"enabled": True, "args": ["mic"], "settings": {"NATS_URL": "x"}}},
         "edge.settings.NATS_URL: the chart sets NATS_URL itself"),
        ({"edge": {"enabled": True, "args": ["mic"],
                   "extraEnv": [{"name": "EDGE_SPOOL", "value": "x"}]}},
         "edge.extraEnv: EDGE_SPOOL is set already"),
        ({"worker": {"settings": {"SPEECHMATICS_API_KEY": "x"}}},
         "worker.settings: SPEECHMATICS_API_KEY is a secret"),
        ({"worker": {"extraEnv": [{"name": "MANAGED_TOKEN", "value": "x"}]}},
         "worker.extraEnv: MANAGED_TOKEN is a secret"),
        ({"edge": {"enabled": True, "args": ["mic"], "settings": {"NATS_PASSWORD": "x"}}},
         "edge.settings: NATS_PASSWORD is a secret"),
        ({"nats": {"url": "nats://user:password@nats:4222"}}, "nats.url has a user or a password"),
        ({"nats": {"url": "nats://a:4222,token@b:4222"}}, "nats.url has a user or a password"),
        ({"worker": {"settings": {"MANAGED_URL": "wss://me:secret@speech.example.org/x"}}},
         "worker.settings: the URL in MANAGED_URL has a user or a password"),
        ({"worker": {"extraEnv": [{"name": "ALL_PROXY", "value": "http://me:secret@proxy"}]}},
         "worker.extraEnv: the URL in ALL_PROXY has a user or a password"),
        ({"nats": {"auth": {"existingSecret": "s", "key": "seed"}}},
         "nats.auth.key is seed, which does not say which inboxes are the user's"),
        ({"nats": {"auth": {"existingSecret": "s"}}, "tests": {"auth": {"key": "seed"}}},
         "or set tests.auth.inboxPrefix"),
        ({"edge": {"enabled": True}}, "edge.args is empty"),
        ({"providers": {"deepgram": {"existingSecret": ""}}},
         "providers.deepgram.existingSecret is empty"),
        ({"providers": {"mine": {"enabled": True, "existingSecret": "s", "key": "k",
                                 "variable": "DEEPGRAM_API_KEY"}}},
         "providers.deepgram.variable and providers.mine.variable are both DEEPGRAM_API_KEY"),
        ({"autoscaling": {"enabled": True, "keda": {"monitoringEndpoint": ""}}},
         "autoscaling.keda.monitoringEndpoint is empty"),
        ({"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 3}},
         "autoscaling.maxReplicas is less than autoscaling.minReplicas"),
        ({"autoscaling": {"enabled": True, "type": "hpa", "minReplicas": 9, "maxReplicas": 3}},
         "autoscaling.maxReplicas is less than autoscaling.minReplicas"),
        ({"autoscaling": {"enabled": True, "minReplicas": 0}}, "minReplicas"),
        ({"autoscaling": {"enabled": True, "targetSessionsPerWorker": 101}},
         "autoscaling.targetSessionsPerWorker is 101, more than the 100 of worker.maxSessions"),
        ({"autoscaling": {"enabled": True, "type": "hpa", "targetSessionsPerWorker": 91}},
         "autoscaling.targetSessionsPerWorker is 91, and worker.maxSessions 100"),
        ({"worker": {"maxSessions": 0}}, "maxSessions"),
        ({"worker": {"settings": {"WORKER_IDLE_SECONDS": 600}}}, "WORKER_IDLE_SECONDS"),
        ({"streams": {"replicas": 2}}, "replicas"),
        ({"proxy": {"url": "http://user:password@proxy:3128"}}, "proxy.url"),
        ({"image": {"digest": "latest"}}, "digest"),
    ],
)  # fmt: skip
def test_mistakes_are_named(values: Document, said: str) -> None:
    assert said in refused(values)


def test_paths_and_plain_addresses_are_no_secrets() -> None:
    """Files of another's making, as of the Secrets Store CSI driver."""
    settings = {"NATS_NKEY": "/vault/worker.nk", "NATS_KEY": "/vault/tls.key",
                "MANAGED_URL": "wss://speech.example.org/who@example.org"}  # fmt: skip
    env = [{"name": "DEEPGRAM_ADMIN_KEY", "value": "/vault/admin"}]
    documents = render({"worker": {"settings": settings, "extraEnv": env}})
    assert settings.items() <= settings_of(documents, "worker").items()


@pytest.mark.parametrize("name", sorted(available()))
def test_a_provider_without_its_key_is_refused(name: str) -> None:
    """Each of natterjack's own that would end the worker; and none that has its key in some way."""
    worker: Document = {"provider": f"sherpa, {name}"}
    off: Document = {"deepgram": {"enabled": False}}
    settings = load_class(name).Settings
    fields = {"api_key", "token", "temporary_key"} & set(settings.model_fields)
    if not fields:
        render({"worker": worker, "providers": off})
        return
    said = refused({"worker": worker, "providers": off})
    assert f"worker.provider names {name}, whose key no worker would have" in said
    (wanted,) = re.findall(r"set providers\.(\w+)\.enabled", said)
    render({"worker": worker, "providers": {**off, wanted: {"enabled": True}}})
    given: list[Document] = [
        {"extraEnvFrom": [{"secretRef": {"name": "keys"}}]},
        {"settings": {"WORKER_SECRETS_DIR": "/vault"}},
    ]
    for field in fields:
        alias = settings.model_fields[field].validation_alias
        names = [f"{settings.model_config.get('env_prefix')}{field}".upper()]
        if isinstance(alias, AliasChoices):
            names = [str(choice) for choice in alias.choices[1:]]
        source = {"valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}
        given += [{"extraEnv": [{"name": name, **source}]} for name in names]
    for way in given:
        render({"worker": {**worker, **way}, "providers": off})


def test_the_table_of_values_is_that_of_the_values(tmp_path: Path) -> None:
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("no npx here: apt-get install npm brings it")
    readme = shutil.copy(CHART / "README.md", tmp_path)
    done = subprocess.run(
        [npx, "--yes", README_GENERATOR, "--values", CHART / "values.yaml", "--readme", readme],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (CHART / "README.md").read_text() == Path(readme).read_text(), (
        f"run: npx --yes {README_GENERATOR} --values helm/natterjack/values.yaml "
        "--readme helm/natterjack/README.md"
    )


@pytest.mark.parametrize("page", [CHART / "README.md", ROOT / "docs" / "handbook.md"])
def test_the_install_of_the_pages_reaches_the_broker_of_the_pages(page: Path) -> None:
    text = page.read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ +helm install natterjack helm/natterjack (.+)$", text, flags=re.M)
    done = helm("template", "natterjack", CHART, *shlex.split(line))
    assert done.returncode == 0, done.stderr
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    broker = yaml.safe_load((CHART / "values-nats.yaml").read_text())["config"]
    for component in ("worker", "streams", "test"):
        settings = given(documents, component)
        assert settings["NATS_URL"].startswith("tls://") == broker["nats"]["tls"]["enabled"]
        assert {"NATS_NKEY", "NATS_CA"} <= set(settings)
    made = set(re.findall(r"kubectl -n speech create secret generic (\S+)", text))
    keys = set(re.findall(r"--from-file=(?:users/)?([^=\s]+)", text))
    for name, pod in pods(documents):
        assert container(pod)["image"].startswith("registry.example.org/"), "nobody else has them"
        for volume in pod["spec"]["volumes"]:
            for source in [volume, *volume.get("projected", {}).get("sources", [])]:
                if secret := source.get("secret"):
                    assert secret.get("secretName", secret.get("name")) in made, name
                    assert {item["key"] for item in secret["items"]} <= keys, name


# ---- what the programs need -----------------------------------------------------------------

COMMON: list[type[BaseSettings]] = [BrokerSettings, LogSettings]
MODELS: dict[str, list[type[BaseSettings]]] = {
    "worker": [*COMMON, WorkerSettings, StreamSettings],
    "streams": [*COMMON, StreamSettings],
    "edge": [*COMMON, EdgeSettings, DeliverySettings, SpoolSettings],
    "test": [*COMMON, EdgeSettings],
}
BESIDE = {"SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY",
          "TEST_SECONDS", "TEST_AUDIO"}  # fmt: skip
"""Variables of no settings model: Python's, a library's, and the test's own."""


def variables(model: type[BaseSettings]) -> dict[str, str]:
    """Field by variable."""
    prefix = str(model.model_config.get("env_prefix", ""))
    return {f"{prefix}{name}".upper(): name for name in model.model_fields}


@pytest.mark.parametrize("component", MODELS)
def test_programs_know_every_setting(
    component: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = given(render(EVERYTHING), component)
    if "WORKER_SECRETS_DIR" in settings:
        settings["WORKER_SECRETS_DIR"] = str(tmp_path)  # a directory that is there
    known = {name for model in MODELS[component] for name in variables(model)}
    assert set(settings) - known - BESIDE == set()
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for model in MODELS[component]:
        loaded = load(model)
        for variable, field in variables(model).items():
            if variable in settings:
                value = getattr(loaded, field)
                said = settings[variable]
                assert str(value).lower() == said.lower() or float(value) == float(said)


def test_a_worker_gets_what_the_values_say() -> None:
    values = {"worker": {"maxSessions": 7, "provider": "a,b", "createStreams": True},
              "streams": {"audioMaxBytes": 107374182400}}  # fmt: skip
    settings = settings_of(render(values), "worker")
    assert settings["WORKER_MAX_SESSIONS"] == "7"
    assert settings["WORKER_PROVIDER"] == "a,b"
    assert settings["NATTERJACK_CREATE_STREAMS"] == "true"
    assert settings["NATTERJACK_AUDIO_MAX_BYTES"] == "107374182400"
    assert settings["WORKER_HTTP_HOST"] == "0.0.0.0"


def test_inboxes_are_those_of_the_user_whose_key_it_is() -> None:
    for auth, prefix in (
        ({"existingSecret": "s"}, "_INBOX_worker"),
        ({"existingSecret": "s", "inboxPrefix": "other"}, "other"),
        ({"existingSecret": "s", "key": "w.creds", "kind": "creds"}, None),
        ({}, None),
    ):
        settings = settings_of(render({"nats": {"auth": auth}}), "worker")
        assert settings.get("NATS_INBOX_PREFIX") == prefix


def test_a_changed_setting_replaces_the_pods_and_nothing_else_does() -> None:
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
    # After so long the worker ends itself, whatever hangs: before the kubelet does.
    assert grace > finish + handover + worker_program._END_SECONDS


async def test_probes_ask_what_the_worker_answers() -> None:
    each = container(find(rendered("default"), "Deployment", "worker")["spec"]["template"])
    assert each["ports"] == [{"name": "http", "containerPort": 9464, "protocol": "TCP"}]
    probes = {k.removesuffix("Probe"): v["httpGet"] for k, v in each.items() if k.endswith("Probe")}
    assert {probe["port"] for probe in probes.values()} == {"http"}
    health = Health(WorkerSettings(http_port=0))
    await health.start()
    try:
        answers = {}
        async with aiohttp.ClientSession() as http:
            for name, probe in probes.items():
                async with http.get(health.address + probe["path"]) as response:
                    answers[name] = response.status
        # Without NATS: alive, and not ready.
        assert answers == {"startup": 200, "liveness": 200, "readiness": 503}
    finally:
        await health.stop()


def test_keys_are_files_that_change() -> None:
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
    assert "subPath" not in mount, "the kubelet does not change files of a subPath"
    assert mount["mountPath"] == settings_of(render(EVERYTHING), "worker")["WORKER_SECRETS_DIR"]


def test_every_provider_with_a_key_of_its_own_can_be_switched_on() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["providers"]
    known = {provider["variable"] for provider in values.values()}
    for name in available():
        settings = load_class(name).Settings
        secret = {f for f in settings.model_fields if f in ("api_key", "token")}
        wanted = {f"{settings.model_config.get('env_prefix')}{f}".upper() for f in secret}
        # deepgram-flux and deepgram-rest take that of deepgram too
        assert not wanted or wanted & known or name.startswith("deepgram-"), name


@pytest.mark.parametrize("kind", ["nkey", "creds"])
def test_each_role_gets_its_own_credentials_alone(kind: str) -> None:
    values = {**EVERYTHING, "nats": {"auth": {"existingSecret": "users", "kind": kind}}}
    documents = render(values)
    keys = {}
    for name, pod in pods(documents):
        volume = next(v["secret"] for v in pod["spec"]["volumes"] if v["name"] == "nats-user")
        component = name.removeprefix("r-natterjack-")
        keys[component] = [volume["secretName"], *(item["key"] for item in volume["items"])]
        mount = next(m for m in container(pod)["volumeMounts"] if m["name"] == "nats-user")
        path = f"{mount['mountPath']}/{volume['items'][0]['path']}"
        assert given(documents, component)[f"NATS_{kind.upper()}"] == path
    assert keys == {
        "worker": ["users", "worker.nk"],
        "streams": ["users", "operator.nk"],
        "edge": ["users", "edge_default_cluster.nk"],
        "test": ["users", "edge_helm-test_test.nk"],
    }


def test_only_a_rolling_update_has_bounds() -> None:
    def strategy(values: Document) -> Document:
        documents = render({"worker": {"updateStrategy": values}})
        check(documents, OLDEST)
        found: Document = find(documents, "Deployment", "worker")["spec"]["strategy"]
        return found

    # The API server refuses bounds beside Recreate, which no schema says.
    assert strategy({"type": "Recreate"}) == {"type": "Recreate"}
    bounds = {"maxSurge": 1, "maxUnavailable": "10%"}
    assert strategy({"rollingUpdate": bounds}) == {"type": "RollingUpdate", "rollingUpdate": bounds}


# ---- scaling --------------------------------------------------------------------------------


def test_keda_counts_the_sessions_of_the_queue() -> None:
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
    # Nothing may cap the sessions below what the workers can hold.
    assert streams.consumer_config(StreamSettings()).max_ack_pending == -1


def test_an_autoscaler_has_the_number_of_workers_to_itself() -> None:
    assert find(render(), "Deployment", "worker")["spec"]["replicas"] == 2
    for kind in ("keda", "hpa"):
        deployment = find(
            render({"autoscaling": {"enabled": True, "type": kind}}), "Deployment", "worker"
        )
        assert "replicas" not in deployment["spec"]


def test_the_plain_autoscaler_reads_a_metric_that_workers_have() -> None:
    spec = find(rendered("hpa"), "HorizontalPodAutoscaler")["spec"]
    pods_metric = spec["metrics"][0]["pods"]
    assert pods_metric["metric"]["name"] in {metric.name for metric in metrics()}
    assert pods_metric["target"] == {"type": "AverageValue", "averageValue": "50"}


def test_the_broker_of_the_example_is_what_the_chart_expects() -> None:
    """`values-nats.yaml`, for NATS' own chart, which calls a headless Service NAME-headless."""
    example = yaml.safe_load((CHART / "values-nats.yaml").read_text())
    broker = example["config"]
    assert not example["promExporter"]["podMonitor"]["enabled"], "its CRD is not in every cluster"
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    host, _, port = values["autoscaling"]["keda"]["monitoringEndpoint"].partition(":")
    assert host.startswith("nats-headless.nats.")
    assert int(port) == broker["monitor"]["port"]
    assert broker["cluster"]["replicas"] >= values["streams"]["replicas"]
    assert broker["jetstream"]["fileStore"]["pvc"]["enabled"]
    assert "memoryStore" not in broker["jetstream"]
    assert values["streams"]["audioStorage"] == "file", "there is no other store"


# ---- notes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_notes_say_what_comes_next(scenario: str) -> None:
    text, documents = notes({}, scenario), rendered(scenario)
    values = yaml.safe_load(values_of(scenario).read_text())
    assert "kubectl -n speech rollout status deployment/r-natterjack-worker" in text
    assert ("helm -n speech test r " in text) == values.get("tests", {}).get("enabled", True)
    providers = find(documents, "ConfigMap", "worker")["data"].get("WORKER_SECRETS_DIR")
    assert ("create secret generic" in text) == bool(providers)
    assert ("without credentials" in text) != ("auth" in values.get("nats", {}))


def notes(values: Document, scenario: str | None = None) -> str:
    """Shown by a manifest of the user's, since helm itself shows them only to a cluster."""
    include = '{{ include (print $.Template.BasePath "/NOTES.txt") $ | b64enc }}'
    shown = {"kind": "Notes", "apiVersion": "v1", "metadata": {"name": "notes"}, "text": include}
    documents = render({**values, "extraObjects": [shown]}, scenario=scenario)
    text: str = find(documents, "Notes")["text"]
    return base64.b64decode(text).decode()


def test_a_secret_of_two_providers_is_to_be_made_once() -> None:
    text = notes({"providers": {"deepgram": {"existingSecret": "keys", "key": "deepgram"},
        "speechmatics": {"enabled": True, "existingSecret": "keys", "key": "other"}}})  # fmt: skip
    assert text.count("create secret generic keys") == 1
    assert "keys --from-file=deepgram=KEYFILE --from-file=other=KEYFILE\n" in text


# ---- hooks ----------------------------------------------------------------------------------


def test_streams_are_applied_before_workers_start() -> None:
    documents = rendered("production")
    job = find(documents, "Job", "streams")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    each = container(job["spec"]["template"])
    assert each["command"] == ["natterjack", "streams", "apply"]
    assert "args" not in each
    assert given(documents, "streams")["NATS_INBOX_PREFIX"] == "_INBOX_operator"
    assert settings_of(documents, "worker")["NATTERJACK_CREATE_STREAMS"] == "false"
    # What the job needs is there before the release is: nothing of it but other, earlier hooks.
    made = {
        (d["kind"], d["metadata"]["name"])
        for d in documents
        if "helm.sh/hook" not in d["metadata"].get("annotations", {})
    }
    spec = job["spec"]["template"]["spec"]
    assert ("ServiceAccount", spec["serviceAccountName"]) not in made
    assert not [volume for volume in spec["volumes"] if "configMap" in volume]
    assert "envFrom" not in each
    policy = find(documents, "NetworkPolicy", "streams")["metadata"]["annotations"]
    assert int(policy["helm.sh/hook-weight"]) < int(
        job["metadata"]["annotations"]["helm.sh/hook-weight"]
    )


def test_what_makes_the_secrets_of_the_job_can_be_there_before_it() -> None:
    """The README's example."""
    text = (CHART / "README.md").read_text()
    (example,) = re.findall(r"^    extraObjects:\n(?:      .*\n)+", text, flags=re.M)
    values = yaml.safe_load(example)
    name = values["extraObjects"][0]["metadata"]["name"]
    documents = render({**values, "nats": {"auth": {"existingSecret": name}}})
    made = find(documents, "ExternalSecret")["metadata"]["annotations"]
    job = find(documents, "Job", "streams")
    hook = job["metadata"]["annotations"]
    assert made["helm.sh/hook"] == hook["helm.sh/hook"]
    assert int(made["helm.sh/hook-weight"]) < int(hook["helm.sh/hook-weight"])
    mounted = [v["secret"]["secretName"] for v in job["spec"]["template"]["spec"]["volumes"]
               if "secret" in v]  # fmt: skip
    assert mounted == [name]


def test_losing_something_has_to_be_asked_for() -> None:
    job = find(render({"streams": {"allowLoss": True}}), "Job", "streams")
    assert container(job["spec"]["template"])["args"] == ["--allow-loss"]


def test_the_test_runs_the_script_that_is_tested() -> None:
    documents = rendered("default")
    pod = find(documents, "Pod", "test")
    script = find(
        [d for d in documents if d["metadata"].get("annotations", {}).get("helm.sh/hook")],
        "ConfigMap",
    )
    assert script["data"]["session_test.py"].strip() == (
        (CHART / "files" / "session_test.py").read_text().strip()
    )
    assert container(pod)["command"][-1] == "/etc/natterjack/test/session_test.py"


def test_the_log_of_the_test_outlives_it() -> None:
    """Helm 3 deletes what succeeded before `helm test --logs` asks for its log."""
    pod = find(rendered("default"), "Pod", "test")
    policy = pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert policy == "before-hook-creation"


def test_the_test_runs_where_it_is_told_to() -> None:
    tests = {"nodeSelector": {"pool": "speech"}, "tolerations": [{"operator": "Exists"}]}
    spec = find(render({"tests": tests}), "Pod", "test")["spec"]
    assert {name: spec[name] for name in tests} == tests


def test_a_job_that_hangs_has_failed_before_helm_gives_up() -> None:
    """`helm install` waits for 5 minutes unless told otherwise, and would not say why."""
    assert find(rendered("default"), "Job", "streams")["spec"]["activeDeadlineSeconds"] < 300


# ---- monitoring -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("copied", "original"),
    [
        ("recording.yml", "deploy/prometheus/recording.yml"),
        ("alerts.yml", "deploy/prometheus/alerts.yml"),
        ("natterjack.json", "deploy/grafana/natterjack.json"),
    ],
)
def test_files_of_the_chart_are_copies(copied: str, original: str) -> None:
    assert (CHART / "files" / copied).read_bytes() == (ROOT / original).read_bytes(), (
        f"run: cp {original} helm/natterjack/files/"
    )


def test_rules_are_installed_as_they_are() -> None:
    def without_runbooks(found: list[Document]) -> list[Document]:
        found = copy.deepcopy(found)
        for rule in found:
            rule.get("annotations", {}).pop("runbook_url", None)
        return found

    groups = find(rendered("production"), "PrometheusRule")["spec"]["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert without_runbooks(found) == without_runbooks(rules("record", "alert"))
    for rule in found:
        if "alert" in rule:
            page = "https://wiki.example.org/natterjack-alerts"
            assert rule["annotations"]["runbook_url"] == f"{page}#{rule['alert'].lower()}"


def test_the_dashboard_is_installed_as_it_is() -> None:
    found = next(d for d in rendered("production") if d["metadata"]["name"].endswith("dashboard"))
    original = json.loads((ROOT / "deploy" / "grafana" / "natterjack.json").read_text())
    assert json.loads(found["data"]["natterjack.json"]) == original
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_workers_are_scraped_where_they_tell() -> None:
    documents = rendered("production")
    endpoint = find(documents, "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    ports = container(find(documents, "Deployment", "worker")["spec"]["template"])["ports"]
    assert endpoint["port"] in {port["name"] for port in ports}
    assert endpoint["path"] == "/metrics"


# ---- network --------------------------------------------------------------------------------


def test_workers_reach_names_nats_and_public_addresses() -> None:
    spec = find(rendered("default"), "NetworkPolicy", "worker")["spec"]
    names, nats, providers = spec["egress"]
    assert {(port["port"], port["protocol"]) for port in names["ports"]} == {
        (53, "UDP"),
        (53, "TCP"),
    }
    assert "to" not in names, "a cache on the node is in no namespace"
    assert nats["ports"] == [{"port": 4222, "protocol": "TCP"}]
    assert nats["to"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "nats"}
    assert providers["ports"] == [{"port": 443, "protocol": "TCP"}]
    block = providers["to"][0]["ipBlock"]
    assert block["cidr"] == "0.0.0.0/0"
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(
        block["except"]
    )
    assert [rule["ports"][0]["port"] for rule in spec["ingress"]] == [9464]


def test_names_of_providers_take_the_place_of_addresses() -> None:
    documents = rendered("cilium")
    plain = find(documents, "NetworkPolicy", "worker")["spec"]
    assert "0.0.0.0/0" not in json.dumps(plain)
    named = find(documents, "CiliumNetworkPolicy")["spec"]["egress"][1]["toFQDNs"]
    assert named == [
        {"matchName": "api.eu.deepgram.com"},
        {"matchPattern": "*.rt.speechmatics.com"},
    ]


@pytest.mark.parametrize("component", ["edge", "streams", "test"])
def test_the_others_reach_nats_alone(component: str) -> None:
    spec = find(render(EVERYTHING), "NetworkPolicy", component)["spec"]
    assert spec["ingress"] == []
    assert [rule["ports"][0]["port"] for rule in spec["egress"]] == [53, 4222]


@pytest.mark.parametrize("component", ["edge", "streams", "test"])
def test_the_others_may_be_let_out_further(component: str) -> None:
    more = [{"ports": [{"port": 7, "protocol": "TCP"}]}]
    at = {"edge": "edge", "streams": "streams.job", "test": "tests"}[component]
    values = copy.deepcopy(EVERYTHING)
    put(values, f"{at}.extraEgress", more)
    put(values, "edge.extraIngress", more)
    documents = render(values)
    check(documents, OLDEST)
    assert find(documents, "NetworkPolicy", component)["spec"]["egress"][2:] == more
    assert find(documents, "NetworkPolicy", "edge")["spec"]["ingress"] == more


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
def test_policies_let_out_to_the_ports_of_the_url(url: str, ports: list[int]) -> None:
    values = {**EVERYTHING, "nats": {"url": url}}
    for component in ("worker", "edge", "streams", "test"):
        rule = find(render(values), "NetworkPolicy", component)["spec"]["egress"][1]
        assert [port["port"] for port in rule["ports"]] == ports
    values["networkPolicy"] = {"nats": {"ports": [4999]}}
    rule = find(render(values), "NetworkPolicy", "worker")["spec"]["egress"][1]
    assert [port["port"] for port in rule["ports"]] == [4999]


# ---- the package ----------------------------------------------------------------------------


def test_versions_and_images_are_those_of_the_project() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert about["appVersion"] == project["version"]
    assert f"## {about['version']}\n" in (CHART / "CHANGELOG.md").read_text()
    images = yaml.safe_load(about["annotations"]["artifacthub.io/images"])
    used = {container(pod)["image"] for _, pod in pods(render(EVERYTHING))}
    assert used == {image["image"] for image in images}
    assert about["annotations"]["artifacthub.io/license"] == project["license"]


def test_a_digest_wins_over_the_tag_and_an_own_registry_over_the_common_one() -> None:
    digest = f"sha256:{'a' * 64}"
    image = {"registry": "images.example.org", "tag": "9", "digest": digest}
    documents = render({"image": image, "edge": {"image": {"registry": "edges.example.org"}}})
    worker = find(documents, "Deployment", "worker")["spec"]["template"]
    assert container(worker)["image"] == f"images.example.org/natterjack-worker@{digest}"
    test = container(find(documents, "Pod", "test"))["image"]
    assert test == "edges.example.org/natterjack-edge:9"
    documents = render({"image": image, "edge": {"image": {"tag": "8"}}})
    assert container(find(documents, "Pod", "test"))["image"].endswith(":8")


def test_the_packaged_chart_has_its_files(tmp_path: Path) -> None:
    done = helm("package", CHART, "-d", tmp_path)
    assert done.returncode == 0, done.stderr
    package = next(tmp_path.glob("*.tgz"))
    listed = subprocess.run(["tar", "tf", package], capture_output=True, text=True, check=True)
    names = set(listed.stdout.split())
    for wanted in ("files/alerts.yml", "values.schema.json", "README.md", "CHANGELOG.md"):
        assert f"natterjack/{wanted}" in names
    assert helm("template", "r", package).stdout == helm("template", "r", CHART).stdout
