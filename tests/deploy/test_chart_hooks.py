"""The chart's hooks: the job that applies the streams, and `helm test`."""

from __future__ import annotations

import re

import pytest

from .chart import (
    CHART,
    container,
    find,
    given,
    render,
    rendered,
    settings_of,
)
from .libyaml import parse_yaml

pytestmark = pytest.mark.process


def test_streams_are_applied_before_workers_start() -> None:
    documents = rendered("production")
    job = find(documents, "Job", "streams")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    each = container(job["spec"]["template"])
    assert each["command"] == ["natterjack", "streams", "apply"]
    assert "args" not in each
    assert given(documents, "streams")["NATS_INBOX_PREFIX"] == "_INBOX_operator"
    assert settings_of(documents, "worker")["NATTERJACK_CREATE_STREAMS"] == "false"
    # The job runs before the release exists, so it may use only earlier hooks of the release.
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


def test_objects_that_create_the_secrets_of_the_job_run_before_it() -> None:
    """Check the example in README.md."""
    text = (CHART / "README.md").read_text()
    (example,) = re.findall(r"^    extraObjects:\n(?:      .*\n)+", text, flags=re.M)
    values = parse_yaml(example)
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


def test_the_job_has_a_service_account_of_its_own_without_rights() -> None:
    documents = rendered("production")
    spec = find(documents, "Job", "streams")["spec"]["template"]["spec"]
    account = find(documents, "ServiceAccount", "streams")
    assert spec["serviceAccountName"] == account["metadata"]["name"]
    assert (
        spec["serviceAccountName"]
        != find(documents, "ServiceAccount", "worker")["metadata"]["name"]
    )
    hook = account["metadata"]["annotations"]
    assert hook["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert int(hook["helm.sh/hook-weight"]) < 0, "it exists before the job"
    assert account["automountServiceAccountToken"] is False
    assert spec["automountServiceAccountToken"] is False
    assert not {d["kind"] for d in documents} & {"Role", "RoleBinding", "ClusterRole"}
    given_one = render({"serviceAccount": {"create": False, "name": "ours"}})
    assert find(given_one, "Job")["spec"]["template"]["spec"]["serviceAccountName"] == "ours"
    assert not [d for d in given_one if d["kind"] == "ServiceAccount"]


def test_loss_must_be_allowed_explicitly() -> None:
    job = find(render({"streams": {"allowLoss": True}}), "Job", "streams")
    assert container(job["spec"]["template"])["args"] == ["--allow-loss"]


def test_helm_test_runs_the_tested_script() -> None:
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


def test_the_log_of_helm_test_remains_available() -> None:
    """Helm 3 deletes hooks that succeeded before `helm test --logs` reads their log."""
    pod = find(rendered("default"), "Pod", "test")
    policy = pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert policy == "before-hook-creation"


def test_helm_test_respects_its_scheduling_values() -> None:
    tests = {"nodeSelector": {"pool": "speech"}, "tolerations": [{"operator": "Exists"}]}
    spec = find(render({"tests": tests}), "Pod", "test")["spec"]
    assert {name: spec[name] for name in tests} == tests


def test_a_hanging_job_fails_before_helm_times_out() -> None:
    """`helm install` times out after 5 minutes by default, without a reason."""
    assert find(rendered("default"), "Job", "streams")["spec"]["activeDeadlineSeconds"] < 300
