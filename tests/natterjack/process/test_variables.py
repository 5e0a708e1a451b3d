"""Environment variables that look like settings, and what each program says about them."""

from __future__ import annotations

import difflib
import os
import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

import natterjack.settings
from docs.generate import ROOT
from docs.generate.settings import models
from edge_capture.parser import make_parser
from edge_capture.settings import MODELS as EDGE_MODELS
from edge_capture.settings import check_variables
from natterjack.errors import UsageError
from natterjack.process.variables import DEPLOYMENT, unknown_variables
from natterjack.settings import MODELS, variables
from tests.searching import tried
from tests.waiting import bound
from worker.providers.loading import Providers
from worker.settings import WorkerSettings

KNOWN = sorted(set().union(*map(variables, models())))
KEY = {"EDGE_TENANT", "EDGE_CONVERSATION", "EDGE_SPEAKER", "EDGE_SPLIT_CHANNELS"}


def reported(*given: str, value: str = "x") -> dict[str, str | None]:
    return {
        each.name: each.meant for each in unknown_variables(dict.fromkeys(given, value), models())
    }


def test_every_setting_is_known() -> None:
    assert reported(*KNOWN) == {}
    assert reported(*map(str.lower, KNOWN)) == {}


def test_the_settings_of_all_programs_are_listed() -> None:
    defined = {
        value
        for value in vars(natterjack.settings).values()
        if isinstance(value, type) and issubclass(value, BaseSettings) and value is not BaseSettings
    }
    assert set(MODELS) == defined


@pytest.mark.parametrize("name", KNOWN)
def test_a_misspelled_setting_is_recognized(name: str) -> None:
    """One letter more, fewer or other than it should be."""
    families = ("EDGE_", "WORKER_", "NATTERJACK_", "NATS_", "TRANSCRIBE_EDGE_", "")
    family = next(prefix for prefix in families if name.startswith(prefix))
    start = len(family) or name.index("_") + 1
    chance = random.Random(name)
    misspelled = []
    for _ in range(tried(20)):
        at = chance.randrange(start, len(name))
        wrong = chance.choice(
            [
                name[:at] + name[at] * 2 + name[at + 1 :],
                name[:at] + chance.choice("AEIOUST") + name[at + 1 :],
                *([name[:at] + name[at + 1 :]] if len(name) - start > 4 else []),
            ]
        )
        if wrong not in KNOWN and len(wrong) - start > 2:
            misspelled.append(wrong)
    found = reported(*misspelled)
    assert [wrong for wrong in misspelled if found[wrong] is None] == []


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("EDGE_TENNANT", "EDGE_TENANT"),
        ("edge_tennant", "EDGE_TENANT"),
        ("EDGE_STDIN_RATE", "EDGE_STDIN_SAMPLE_RATE"),
        ("EDGE_STIDN_CHANNELS", "EDGE_STDIN_CHANNELS"),
        ("EDGE_LOG_LEVEL", "NATTERJACK_LOG_LEVEL"),
        ("WORKER_PROVIDERS", "WORKER_PROVIDER"),
        ("WORKER_SESSIONS", "WORKER_MAX_SESSIONS"),
        ("NATS_CRED", "NATS_CREDS"),
        ("DEEPGRAM_API_KYE", "DEEPGRAM_API_KEY"),
        ("DEEPGRAM_FLUX_MODELL", "DEEPGRAM_FLUX_MODEL"),
        ("EDGE_FAVORITE_COLOR", None),
    ],
)
def test_the_setting_that_was_meant_is_named(given: str, meant: str | None) -> None:
    ((name, found),) = reported(given).items()
    assert (name, found) == (given, meant)


def test_variables_of_other_programs_are_not_reported() -> None:
    assert (
        reported("PATH", "EDGEWARE", "MANAGED_IDENTITY", "NATS_CONTEXT", "NATS_SERVER_NAME") == {}
    )
    assert reported(*DEPLOYMENT) == {}


def test_variables_that_kubernetes_sets_are_not_reported() -> None:
    """For Services named like our programs (the page on Services, "Environment variables")."""
    for service in ("EDGE", "WORKER", "NATS", "NATTERJACK", "NATTERJACK_WORKER", "WORKER_METRICS"):
        ports = [f"{service}_PORT_9464_{p}" for p in ("TCP", "UDP", "SCTP")]
        links = [f"{port}{end}" for port in ports for end in ("", "_ADDR", "_PORT", "_PROTO")]
        links += [f"{service}_SERVICE_{end}" for end in ("HOST", "PORT", "PORT_CLIENT_METRICS")]
        assert reported(*links) == {}
        assert reported(f"{service}_PORT", value="tcp://10.0.0.1:9464") == {}
    assert reported("WORKER_PORT", value="9464") == {"WORKER_PORT": "WORKER_HTTP_PORT"}


def test_compose_and_units_set_only_what_is_known() -> None:
    text = "".join(
        path.read_text() for pattern in ("*.yaml", "systemd/*", "Dockerfile")
        for path in (ROOT / "deploy").glob(pattern) if path.is_file()
    )  # fmt: skip
    names = set(re.findall(r"\b(?:EDGE|WORKER|NATTERJACK|NATS)_[A-Z_]+[A-Z]\b", text))
    assert len(names) > 10
    assert reported(*names) == {}


def edge(*arguments: str, **environment: str) -> list[str]:
    flags = make_parser().parse_args([*(arguments or ("mic",))])
    return [str(each) for each in check_variables(flags, environment)]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("EDGE_TENNANT", "EDGE_TENANT"),
        ("EDGE_TENANT_ID", "EDGE_TENANT"),
        ("NATTERJACK_TENANT", "EDGE_TENANT"),
        ("EDGE_CONVERSTION", "EDGE_CONVERSATION"),
        ("EDGE_SPEAKERS", "EDGE_SPEAKER"),
        ("EDGE_SPLITCHANNELS", "EDGE_SPLIT_CHANNELS"),
    ],
)
def test_an_edge_refuses_a_misspelled_part_of_the_key(given: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"^{given} is not a setting; did you mean {meant}"):
        edge(**{given: "acme"})
    with pytest.raises(UsageError):
        edge("stdin", "--quiet", **{given.lower(): "acme"})
    warning = [f"{given} is not a setting and has no effect; did you mean {meant}?"]
    assert edge(**{given: "acme", meant: "acme"}) == warning
    flag = f"--{meant.removeprefix('EDGE_').lower().replace('_', '-')}"
    assert edge("mic", flag, "acme", **{given: "acme"}) == warning
    assert edge("send", "--spool", "x", **{given: "acme"}) == warning
    assert edge("devices", **{given: "acme"}) == warning


def test_an_edge_only_warns_of_other_variables() -> None:
    """So that one is not stopped by a setting that only another release has."""
    assert edge(EDGE_SPOL="x") == [
        "EDGE_SPOL is not a setting and has no effect; did you mean EDGE_SPOOL?"
    ]
    assert edge(EDGE_URL="x") == [
        "EDGE_URL is not a setting and has no effect; did you mean NATS_URL?"
    ]
    assert edge(EDGE_NEW="x") == ["EDGE_NEW is not a setting and has no effect"]
    assert edge(EDGE_SPEAKERS="x", EDGE_SPLIT_CHANNELS="a,b")
    assert edge(NATTERJACK_AUDIO_MAX_BYTES="1") == []  # of a file that it shares with a worker


def test_no_setting_resembles_a_part_of_the_key() -> None:
    """An older edge would refuse to start with it."""
    for name in set().union(*map(variables, EDGE_MODELS)) - KEY:
        for part in KEY:
            one, other = name.removeprefix("EDGE_"), part.removeprefix("EDGE_")
            assert difflib.SequenceMatcher(None, one, other).ratio() < 0.8, (name, part)


def test_a_worker_knows_the_settings_of_its_providers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "DEEPGRAM_API_KEYS").write_text("key")
    (tmp_path / "SPEECHMATICS_API_KEYS").write_text("key")
    monkeypatch.setenv("DEEPGRAM_REST_MODEL", "x")
    monkeypatch.setenv("DEEPGRAM_NUMERALS", "true")
    monkeypatch.setenv("DEEPGRAM_MODELS", "x")
    providers = Providers(WorkerSettings(secrets_dir=tmp_path))
    found = providers.unknown_variables(["deepgram-flux"])
    assert [(each.name, each.meant) for each in found] == [
        ("DEEPGRAM_API_KEYS", "DEEPGRAM_API_KEY"),
        ("DEEPGRAM_MODELS", "DEEPGRAM_MODEL"),
    ]


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "loaded"), [("DEEPGRAM_API_KEY", "False"), ("DEEPGRAM_API_KEYS", "True")]
)
def test_other_providers_are_loaded_only_if_a_variable_may_be_theirs(
    name: str, loaded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "key")
    code = """if True:
        import sys
        from worker.providers.loading import Providers
        from worker.settings import WorkerSettings
        Providers(WorkerSettings()).unknown_variables(["deepgram"])
        assert "worker.providers.deepgram" in sys.modules
        print("worker.providers.deepgram_flux" in sys.modules)
    """
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert result.stdout.decode().strip() == loaded


PROGRAMS = {
    "natterjack-edge": (
        ("-m", "edge_capture", "send", "--spool", "spool", "--once"),
        {"EDGE_SPOL": "EDGE_SPOOL", "EDGE_STDIN_RATE": "EDGE_STDIN_SAMPLE_RATE"},
    ),
    "natterjack-worker": (
        ("-m", "worker", "--once", "--provider", "deepgram"),
        {"WORKER_PROVIDERS": "WORKER_PROVIDER", "DEEPGRAM_API_KYE": "DEEPGRAM_API_KEY"},
    ),
    "natterjack-gateway": (
        ("-m", "gateway", "--once", "--http-port", "0"),
        {"GATEWAY_KEYSFILE": "GATEWAY_KEYS_FILE", "GATEWAY_DRAIN": "GATEWAY_DRAIN_SECONDS"},
    ),
    "natterjack": (
        ("-m", "natterjack", "plugins"),
        {"WEBHOOK_SECRETS": "WEBHOOK_SECRET", "TRANSCRIBE_EDGE_CRED": "TRANSCRIBE_EDGE_CREDS"},
    ),
}
"""Every program: how it is started, and misspelled variables of its own with what is meant."""
SHARED = {"NATTERJACK_LOGLEVEL": "NATTERJACK_LOG_LEVEL", "NATS_CRED": "NATS_CREDS"}


def test_every_program_is_tested() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(PROGRAMS) == set(scripts)


@pytest.mark.process
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_reports_them(tmp_path: Path, program: str) -> None:
    ours = ("EDGE_", "WORKER_", "GATEWAY_", "NATS_", "NATTERJACK_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    arguments, own = PROGRAMS[program]
    wrong = {**own, **SHARED}
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, text=True, check=False,
        env={
            **clean, **dict.fromkeys(wrong, "x"), "NATS_URL": "nats://127.0.0.1:9",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True, timeout=bound(60),
    )  # fmt: skip
    for given, meant in wrong.items():
        said = f"{given} is not a setting and has no effect; did you mean {meant}?"
        assert said in ended.stderr, ended.stderr


@pytest.mark.process
def test_an_edge_does_not_publish_under_a_default_tenant_by_mistake(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "edge_capture", "file", "x.wav"], text=True, check=False,
        env={**os.environ, "EDGE_TENNANT": "acme"}, capture_output=True, timeout=bound(60),
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "natterjack-edge: EDGE_TENNANT is not a setting; did you mean EDGE_TENANT? It is part of "
        "the key under which audio is published: correct the name, or remove the variable\n"
    )
