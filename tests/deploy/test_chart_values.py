"""The chart's values: closed, documented, and refused with a clear message when wrong."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import AliasChoices

from natterjack.plugin.entry_points import available
from worker.providers.loading import load_class

from .chart import (
    CHART,
    OLDEST,
    Document,
    container,
    find,
    given,
    helm,
    pods,
    refused,
    render,
    settings_of,
)
from .libyaml import parse_manifests, parse_yamls, read_yaml
from .manifests import (
    EVERYTHING,
    NEWEST,
    check,
    defaults,
    leaves,
    put,
    resolved,
    schema,
)
from .names import ROOT

pytestmark = pytest.mark.process


def free_strings(text: str) -> Document:
    """Return values with everything enabled and every free string set to `text` where allowed."""
    values = copy.deepcopy(EVERYTHING)
    # Lists have further strings, in objects of Kubernetes.
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


def paths(values: Document, above: str = "") -> Iterator[str]:
    """Yield the path of every value and of every map of values."""
    for name, value in values.items():
        path = f"{above}.{name}".lstrip(".")
        if "." not in name and "/" not in name:  # a label's name
            yield path
            if isinstance(value, dict):
                yield from paths(value, path)


def nothings(part: Any, path: str = "") -> Iterator[str]:
    """Yield the paths at which a manifest has zero, root, or nothing."""
    if isinstance(part, dict):
        for name, value in part.items():
            yield from nothings(value, f"{path}.{name}")
    elif isinstance(part, list):
        for value in part:
            yield from nothings(value, path)
    elif str(part) in ("None", "0", "", "null") or "<nil>" in str(part):
        yield path


def test_null_is_refused_where_the_rules_need_a_value() -> None:
    needed = [path for path in paths(defaults()) if path.startswith("metrics.prometheusRule.a")]
    for path in ("docsUrl", *needed):
        values: Document = {"metrics": {"prometheusRule": {"enabled": True}}}
        put(values, path, None)
        done = helm("template", "r", CHART, "-f", "-", stdin=json.dumps(values))
        assert f"{path.rpartition('.')[2]} is required" in done.stderr, path


def with_null(base: Document, paths: Iterable[str]) -> tuple[list[Document], str]:
    """Return what helm makes of `base` without the values at `paths`, and its error."""
    values = copy.deepcopy(base)
    for path in paths:
        put(values, path, None)
    done = helm("template", "r", CHART, "-n", "speech", "-f", "-", stdin=json.dumps(values))
    return ([], done.stderr) if done.returncode else (parse_manifests(done.stdout), "")


def required(base: Document, paths: Iterable[str]) -> set[str]:
    """Return those of the paths whose values the schema requires, as helm's own error names them.

    It names all of one run, so this takes a run for each depth: a map without any value is not the
    same as no map.
    """
    named = set()
    for _, level in groupby(sorted(paths, key=depth), key=depth):
        _, error = with_null(base, level)
        found = re.findall(r"^- (\S+): (\S+) is required$", error, flags=re.M)
        named |= {f"{above}.{name}".removeprefix("(root).") for above, name in found}
    return named & set(paths)


def depth(path: str) -> int:
    return path.count(".")


def together(paths: Iterable[str]) -> Iterator[list[str]]:
    """Yield the paths in groups that can be tried in one run: one of each program.

    A value of one program neither adds, removes nor changes a manifest of another one.
    """
    programs = ("edge", "gateway", "registrar", "streams", "tests", "webhook", "worker")
    of = {name: [p for p in paths if p.startswith(f"{name}.")] for name in programs}
    yield from (list(filter(None, group)) for group in zip_longest(*of.values()))
    shared = [path for path in paths if path.partition(".")[0] not in programs]
    yield from ([path] for path in shared)


@pytest.mark.slow
@pytest.mark.parametrize("scaled", ["keda", "hpa", "not"])
def test_null_leaves_a_value_out_or_is_refused(scaled: str) -> None:
    """`null` removes a default: the rest is valid, or an error says that the value is required."""
    base = copy.deepcopy(EVERYTHING)
    base["metrics"] = {
        "podMonitor": {"enabled": True}
    }  # other manifests are long and have no values of ours
    base["autoscaling"] = {"enabled": scaled != "not", "type": scaled}
    if scaled == "not":
        del base["autoscaling"]["type"]
    valid = render(base)
    before = {where for document in valid for where in nothings(document)}
    tried = list(paths(defaults()))
    if scaled != "keda":
        tried = [p for p in tried if p.startswith(("autoscaling", "worker.replica", "worker.max"))]
    refused = required(base, tried)
    assert refused
    waiting = list(together([path for path in tried if path not in refused]))
    while waiting:
        group = waiting.pop()
        documents, error = with_null(base, group)
        if error and len(group) > 1:
            waiting += [[path] for path in group]  # which of them it was
            continue
        if error:
            (path,) = group
            name = path.rpartition(".")[2]
            assert f"{name} is required" in error or "execution error" in error, f"{path}: {error}"
            continue
        new = [document for document in documents if document not in valid]
        check(new, OLDEST)
        valid += new
        after = {where for document in documents for where in nothings(document)}
        assert after <= before, f"{group}: {after - before}"


def test_ids_can_be_left_to_the_cluster() -> None:
    ids = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))
    for _, pod in pods(render({**EVERYTHING, "podSecurityContext": ids})):
        assert not set(ids) & set(pod["spec"]["securityContext"])
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


def test_unknown_values_are_refused() -> None:
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
    assert "mispelt" in refused({"worker": {"mispelt": 1}}), "helm validates values with the schema"


def test_schema_and_defaults_have_the_same_values() -> None:
    jsonschema.Draft7Validator(schema()).validate(defaults())
    for path, _ in leaves(schema()):
        value = defaults()
        if path in ("global", "enabled") or path.endswith("resources.claims"):
            continue
        for name in path.split("."):
            assert name in value, path
            value = value[name]


def test_global_values_are_ignored() -> None:
    assert render({"global": {"imageRegistry": "for another chart"}}) == render()


def test_the_chart_works_as_a_conditional_dependency(tmp_path: Path) -> None:
    """`condition: natterjack.enabled` adds that value to those of the chart."""
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
    ("values", "expected"),
    [
        ({"worker": {"extraEnv": [{"name": "NATS_URL", "value": "x"}]}},
         "worker.extraEnv: NATS_URL is already set"),
        ({"worker": {"extraEnv": [{"name": "WORKER_NAME", "value": "x"}]}},
         "worker.extraEnv: WORKER_NAME is already set"),
        ({"worker": {"extraEnv": [{"name": "A", "value": "x"}, {"name": "A", "value": "y"}]}},
         "worker.extraEnv: A is already set"),
        ({"worker": {"extraEnv": [{"name": "B", "value": "x"}], "settings": {"B": "y"}}},
         "worker.extraEnv: B is already set"),
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
         "edge.extraEnv: EDGE_SPOOL is already set"),
        ({"worker": {"settings": {"SPEECHMATICS_API_KEY": "x"}}},
         "worker.settings: SPEECHMATICS_API_KEY is a secret"),
        ({"worker": {"extraEnv": [{"name": "MANAGED_TOKEN", "value": "x"}]}},
         "worker.extraEnv: MANAGED_TOKEN is a secret"),
        ({"edge": {"enabled": True, "args": ["mic"], "settings": {"NATS_PASSWORD": "x"}}},
         "edge.settings: NATS_PASSWORD is a secret"),
        ({"nats": {"url": "nats://user:password@nats:4222"}},
         "nats.url contains a user or a password"),
        ({"nats": {"url": "nats://a:4222,token@b:4222"}}, "nats.url contains a user or a password"),
        ({"worker": {"settings": {"MANAGED_URL": "wss://me:secret@speech.example.org/x"}}},
         "worker.settings: the URL in MANAGED_URL contains a user or a password"),
        ({"worker": {"extraEnv": [{"name": "ALL_PROXY", "value": "http://me:secret@proxy"}]}},
         "worker.extraEnv: the URL in ALL_PROXY contains a user or a password"),
        ({"nats": {"auth": {"existingSecret": "s", "key": "seed"}}},
         "nats.auth.key is seed, from which no inbox prefix can be derived"),
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
        ({"autoscaling": {"enabled": True, "minReplicas": -1}}, "minReplicas"),
        ({"autoscaling": {"enabled": True, "targetSessionsPerWorker": 101}},
         "autoscaling.targetSessionsPerWorker is 101, which exceeds worker.maxSessions (100)"),
        ({"autoscaling": {"enabled": True, "type": "hpa", "targetSessionsPerWorker": 91}},
         "autoscaling.targetSessionsPerWorker is 91 and worker.maxSessions is 100"),
        ({"worker": {"maxSessions": 0}}, "maxSessions"),
        ({"worker": {"settings": {"WORKER_IDLE_SECONDS": 600}}}, "WORKER_IDLE_SECONDS"),
        ({"streams": {"replicas": 2}}, "replicas"),
        ({"proxy": {"url": "http://user:password@proxy:3128"}}, "proxy.url"),
        ({"image": {"digest": "latest"}}, "digest"),
    ],
)  # fmt: skip
def test_mistakes_are_named(values: Document, expected: str) -> None:
    assert expected in refused(values)


def test_paths_and_plain_addresses_are_not_secrets() -> None:
    """Files from elsewhere, such as the Secrets Store CSI driver, are allowed."""
    settings = {"NATS_NKEY": "/vault/worker.nk", "NATS_KEY": "/vault/tls.key",
                "MANAGED_URL": "wss://speech.example.org/who@example.org"}  # fmt: skip
    env = [{"name": "DEEPGRAM_ADMIN_KEY", "value": "/vault/admin"}]
    documents = render({"worker": {"settings": settings, "extraEnv": env}})
    assert settings.items() <= settings_of(documents, "worker").items()


@pytest.mark.parametrize("name", sorted(available()))
def test_a_provider_without_its_key_is_refused(name: str) -> None:
    """Each built-in provider is refused without its key, and accepted with it."""
    worker: Document = {"provider": f"sherpa, {name}"}
    off: Document = {"deepgram": {"enabled": False}}
    settings = load_class(name).Settings
    fields = {"api_key", "token", "temporary_key"} & set(settings.model_fields)
    if not fields:
        render({"worker": worker, "providers": off})
        return
    message = refused({"worker": worker, "providers": off})
    assert f"lists {name}, but workers have no key for it" in message
    (wanted,) = re.findall(r"set providers\.(\w+)\.enabled", message)
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


def test_every_value_has_a_comment_and_a_row_on_its_page() -> None:
    values = (CHART / "values.yaml").read_text()
    page = (ROOT / "docs" / "reference" / "chart-values.md").read_text()
    commented = re.findall(r"^ *## @param (\S+) (?:\[[^]]*\] )?(.+)$", values, flags=re.M)
    rows = re.findall(r"^\| `([\w.]+)` +\| (.+?) +\| ", page, flags=re.M)
    assert rows == commented
    for path, _ in leaves(schema()):
        if path not in ("global", "enabled"):
            assert any(
                f"{path}.".startswith(f"{name}.") or name.startswith(f"{path}.")
                for name, _ in commented
            ), path


def test_the_documented_install_reaches_the_documented_broker() -> None:
    page = ROOT / "docs" / "how-to" / "install-on-kubernetes.md"
    text = page.read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ *helm install natterjack helm/natterjack (.+)$", text, flags=re.M)
    done = helm("template", "natterjack", CHART, *shlex.split(line))
    assert done.returncode == 0, done.stderr
    documents = parse_yamls(done.stdout)
    broker = read_yaml(CHART / "values-nats.yaml")["config"]
    for component in ("worker", "streams", "test"):
        settings = given(documents, component)
        assert settings["NATS_URL"].startswith("tls://") == broker["nats"]["tls"]["enabled"]
        assert {"NATS_NKEY", "NATS_CA"} <= set(settings)
    made = set(re.findall(r"kubectl -n speech create secret generic (\S+)", text))
    keys = set(re.findall(r"--from-file=(?:users/)?([^=\s]+)", text))
    for name, pod in pods(documents):
        assert container(pod)["image"].startswith("registry.example.org/"), (
            "no other registry has the images"
        )
        for volume in pod["spec"]["volumes"]:
            for source in [volume, *volume.get("projected", {}).get("sources", [])]:
                if secret := source.get("secret"):
                    assert secret.get("secretName", secret.get("name")) in made, name
                    assert {item["key"] for item in secret["items"]} <= keys, name
