"""The chart's manifests: valid on every supported Kubernetes version, restricted, and labeled."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from .chart import (
    CHART,
    OLDEST,
    SCENARIOS,
    component_of,
    container,
    find,
    helm,
    notes,
    pods,
    refused,
    render,
    rendered,
    values_of,
)
from .libyaml import parse_yaml, parse_yamls, read_yaml
from .manifests import (
    EVERYTHING,
    NEWEST,
    check,
    custom_schemas,
    leaves,
    put,
    schema,
)
from .names import ROOT

pytestmark = pytest.mark.process


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_helm_lint_finds_no_problem(scenario: str) -> None:
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


def test_scenarios_cover_every_kind_and_custom_schema() -> None:
    kinds = {(d["apiVersion"], d["kind"]) for s in SCENARIOS for d in rendered(s)}
    assert set(custom_schemas()) <= kinds
    templates = "".join(path.read_text() for path in CHART.glob("templates/**/*.yaml"))
    assert set(re.findall(r"^kind: (\w+)$", templates, flags=re.M)) <= {kind for _, kind in kinds}
    assert {"DaemonSet", "Deployment"} <= {kind for _, kind in kinds}


def test_the_oldest_supported_kubernetes_is_tested() -> None:
    asked = read_yaml(CHART / "Chart.yaml")["kubeVersion"]
    assert asked == f">={OLDEST}.0-0"
    assert "kubeVersion" in refused({}, "--kube-version", "1.27.9")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_variable_is_set_twice(scenario: str) -> None:
    for name, pod in pods(rendered(scenario)):
        for each in pod["spec"]["containers"]:
            variables = [entry["name"] for entry in each.get("env", [])]
            assert len(variables) == len(set(variables)), name


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_pods_are_restricted(scenario: str) -> None:
    """Pods satisfy the Pod Security level "restricted" and further restrictions."""
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
            assert "cpu" not in each["resources"]["limits"], "throttling delays all transcripts"
            mounts = {mount["mountPath"]: mount["name"] for mount in each["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in spec["volumes"]}
            assert volumes[mounts["/tmp"]]["emptyDir"]["sizeLimit"]
            assert set(mounts.values()) <= set(volumes)
            assert not any("exec" in each.get(f"{probe}Probe", {}) for probe in
                           ("startup", "liveness", "readiness"))  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_manifests_contain_no_secrets(scenario: str) -> None:
    """Secrets are mounted as files; the chart creates none and sets none as a variable."""
    documents = rendered(scenario)
    assert "Secret" not in {document["kind"] for document in documents}
    for _, pod in pods(documents):
        for each in pod["spec"]["containers"]:
            assert "secretKeyRef" not in json.dumps(each.get("env", []))
            assert "secretRef" not in json.dumps(each.get("envFrom", []))


def test_no_value_is_a_secret() -> None:
    asked = [path for path, _ in leaves(schema()) if re.search("(?i)password|token$|seed", path)]
    assert asked == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_selectors_match_only_their_own_pods(scenario: str) -> None:
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
def test_resources_have_the_recommended_labels(scenario: str) -> None:
    for document in rendered(scenario):
        if document["metadata"]["name"] in ("r-natterjack-more", "audio"):
            continue  # the user's own
        labels = document["metadata"]["labels"]
        assert labels["helm.sh/chart"].startswith("natterjack-")
        for kind in ("name", "instance", "version", "component", "part-of", "managed-by"):
            assert labels[f"app.kubernetes.io/{kind}"]


def test_user_labels_and_annotations_never_replace_those_of_the_chart() -> None:
    name = "app.kubernetes.io/name"
    values = copy.deepcopy(EVERYTHING)
    values |= {"commonLabels": {"team": "all", name: "x"}, "commonAnnotations": {"a": "b"}}
    mine = {"podLabels": {"team": "mine", name: "y"},
            "podAnnotations": {"checksum/config": "z", "helm.sh/hook": "z", "a": "b"}}  # fmt: skip
    for part in ("worker", "edge", "webhook", "registrar", "gateway", "tests"):
        values[part] = {**values.get(part, {}), **mine}
    put(values, "streams.job.podLabels", mine["podLabels"])
    put(values, "metrics.podMonitor.labels", mine["podLabels"])
    documents = render(values)
    for _, pod in pods(documents):
        labels = pod["metadata"]["labels"]
        assert (labels["team"], labels[name]) == ("mine", "natterjack")
    for component in ("worker", "edge", "webhook", "registrar", "gateway"):
        workload = find(documents, "Deployment", component)["spec"]["template"]
        assert len(workload["metadata"]["annotations"]["checksum/config"]) == 64
        assert workload["metadata"]["annotations"]["a"] == "b"
    for component in ("worker", "webhook", "registrar", "gateway"):
        assert find(documents, "PodMonitor", component)["metadata"]["labels"]["team"] == "mine"
    for component in ("worker", "gateway"):
        budget = find(documents, "PodDisruptionBudget", component)
        assert budget["metadata"]["labels"]["team"] == "all"
    assert find(documents, "Pod", "test")["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert find(documents, "Deployment", "edge")["metadata"]["annotations"]["a"] == "b"


def test_extra_objects_are_rendered() -> None:
    found = next(d for d in rendered("proxy") if d["metadata"]["name"] == "r-natterjack-more")
    assert found["data"] == {"OTEL_SERVICE_NAME": "natterjack-worker"}


def test_long_names_stay_short_enough() -> None:
    done = helm("template", "a" * 53, CHART)
    assert done.returncode == 0, done.stderr
    names = [d["metadata"]["name"] for d in parse_yamls(done.stdout)]
    assert names
    assert all(len(name) <= 52 for name in names), "a Deployment's pods add 17 characters"


def test_long_names_of_two_releases_differ() -> None:
    def name(release: str) -> str:
        done = helm("template", release, CHART, "-s", "templates/worker/deployment.yaml")
        found: str = parse_yaml(done.stdout)["metadata"]["name"]
        return found

    long = "speech-of-the-department-for-many-things"
    assert name(f"{long}-a") != name(f"{long}-b")
    assert name(f"{long}-a").startswith("speech-of-the-department")
    assert name("short") == "short-natterjack-worker"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_notes_list_the_next_steps(scenario: str) -> None:
    text, documents = notes({}, scenario), rendered(scenario)
    values = read_yaml(values_of(scenario))
    assert "kubectl -n speech rollout status deployment/r-natterjack-worker" in text
    assert ("helm -n speech test r " in text) == values.get("tests", {}).get("enabled", True)
    providers = find(documents, "ConfigMap", "worker")["data"].get("WORKER_SECRETS_DIR")
    assert ("create secret generic" in text) == bool(providers)
    assert ("without credentials" in text) != ("auth" in values.get("nats", {}))


def test_notes_list_a_shared_secret_once() -> None:
    text = notes({"providers": {"deepgram": {"existingSecret": "keys", "key": "deepgram"},
        "speechmatics": {"enabled": True, "existingSecret": "keys", "key": "other"}}})  # fmt: skip
    assert text.count("create secret generic keys") == 1
    assert "keys --from-file=deepgram=KEYFILE --from-file=other=KEYFILE\n" in text


def test_versions_and_images_match_the_project() -> None:
    about = read_yaml(CHART / "Chart.yaml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert about["appVersion"] == project["version"]
    assert f"## {about['version']}\n" in (CHART / "CHANGELOG.md").read_text()
    images = parse_yaml(about["annotations"]["artifacthub.io/images"])
    used = {container(pod)["image"] for _, pod in pods(render(EVERYTHING))}
    assert used == {image["image"] for image in images}
    assert about["annotations"]["artifacthub.io/license"] == project["license"]


def test_digests_and_specific_registries_take_precedence() -> None:
    digest = f"sha256:{'a' * 64}"
    image = {"registry": "images.example.org", "tag": "9", "digest": digest}
    documents = render({"image": image, "edge": {"image": {"registry": "edges.example.org"}}})
    worker = find(documents, "Deployment", "worker")["spec"]["template"]
    assert container(worker)["image"] == f"images.example.org/natterjack-worker@{digest}"
    test = container(find(documents, "Pod", "test"))["image"]
    assert test == "edges.example.org/natterjack-edge:9"
    documents = render({"image": image, "edge": {"image": {"tag": "8"}}})
    assert container(find(documents, "Pod", "test"))["image"].endswith(":8")


def test_the_package_contains_all_files(tmp_path: Path) -> None:
    done = helm("package", CHART, "-d", tmp_path)
    assert done.returncode == 0, done.stderr
    package = next(tmp_path.glob("*.tgz"))
    listed = subprocess.run(["tar", "tf", package], capture_output=True, text=True, check=True)
    names = set(listed.stdout.split())
    for wanted in ("files/alerts.yml", "values.schema.json", "README.md", "CHANGELOG.md"):
        assert f"natterjack/{wanted}" in names
    assert helm("template", "r", package).stdout == helm("template", "r", CHART).stdout
