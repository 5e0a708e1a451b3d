"""The check of keys, against emulated accounts: right and wrong keys, no credit, no answer."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import pytest

from natterjack.doctor.finding import Finding, examined
from natterjack.doctor.providers import checks, chosen
from natterjack.emulators.catalog import EMULATORS, load, settings
from natterjack.emulators.deepgram import DeepgramEmulator
from natterjack.emulators.server import Emulator
from tests.natterjack.cli.commands import run_async
from tests.ports import free_port
from tests.waiting import bound

KEY = "k3y-that-nobody-may-see"


async def examine(name: str, environment: dict[str, str], timeout: float = 10) -> Finding:
    """The finding for one provider, as if it were the only one."""
    [check] = [check for check in checks(environment) if check[0].endswith(f" {name}")]
    [finding] = await examined(check, bound(timeout))
    return finding


@pytest.fixture(params=sorted(set(EMULATORS) - {"vosk"}))
async def emulator(request: pytest.FixtureRequest) -> AsyncIterator[Emulator]:
    async with load(request.param)(api_key=KEY) as emulator:
        yield emulator


def variables(emulator: Emulator, key: str) -> dict[str, str]:
    """The settings of a worker that uses the emulator with that key."""
    found = settings(emulator.name, emulator.url)
    return {name: key if value == "any" else value for name, value in found.items()}


async def test_right_and_wrong_keys(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, state in ((KEY, "ok"), ("wrong-" + KEY, "failed")):
        environment = variables(emulator, key)
        name = environment.get("WORKER_PROVIDER") or environment["WORKER_VOICE"]
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        finding = await examine(name, environment)
        assert finding.state == state, finding
        assert KEY not in str(finding)
        if state == "failed":
            assert finding.cure == "set another key"
    assert not any(entry.audio_frames for entry in emulator.log if "listen" not in entry.path)
    assert sum(entry.audio_seconds for entry in emulator.log) == 0  # it costs nothing


@pytest.mark.parametrize(
    ("faults", "found", "cure"),
    [
        ({"handshake_status": 402}, "402", "add credit"),
        ({"handshake_status": 503}, "503", "check the network"),
        ({"refuse": True}, "", "check the network"),
    ],
)
async def test_an_account_or_a_service_in_trouble(
    faults: dict[str, object], found: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with DeepgramEmulator(**faults) as emulator:
        environment = variables(emulator, KEY)
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        finding = await examine("deepgram", environment)
    assert finding.state == "failed"
    assert found in finding.found
    assert cure in finding.cure


async def test_a_provider_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with DeepgramEmulator(handshake_delay_seconds=1000) as emulator:
        environment = variables(emulator, KEY)
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        finding = await examine("deepgram", environment, 0.3)
    assert finding.state == "failed"
    assert re.search(r"no (answer|connection) within", finding.found)


async def test_what_nobody_has_chosen_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DEEPGRAM_API_KEY", "WORKER_PROVIDER", "WORKER_VOICE"):
        monkeypatch.delenv(variable, raising=False)
    assert chosen({}) == {"natterjack.providers": {"sherpa"}, "natterjack.voices": set()}
    skipped = await examine("deepgram", {})
    assert (skipped.state, "DEEPGRAM_API_KEY" in skipped.found) == ("skipped", True)
    wanted = await examine("deepgram", {"WORKER_PROVIDER": "sherpa,deepgram"})
    assert (wanted.state, "DEEPGRAM_API_KEY" in wanted.found) == ("failed", True)
    assert (await examine("hibari", {})).state == "skipped"
    nobody = await examine("nobody", {"WORKER_PROVIDER": "nobody"})
    assert (nobody.state, nobody.found) == ("failed", "is not installed")


async def test_a_setting_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPGRAM_API_KEY", KEY)
    monkeypatch.setenv("DEEPGRAM_URL", "ftp://somewhere")
    finding = await examine("deepgram", {})
    assert finding.state == "failed"
    assert "DEEPGRAM_URL" in finding.found


@pytest.mark.process
async def test_the_command_prints_a_table_or_json_and_no_key() -> None:
    async with DeepgramEmulator(api_key=KEY) as emulator:
        nats = f"nats://user:{KEY}@127.0.0.1:{free_port()}"
        environment = {**variables(emulator, KEY), "NATS_URL": nats}
        table = await run_async("doctor", "--timeout", "20", **environment)
        as_json = await run_async("doctor", "--json", "--timeout", "20", **environment)
    assert table.status == as_json.status == 1  # there is no broker
    assert KEY not in table.out + table.errors + as_json.out + as_json.errors
    findings = {finding["check"]: finding for finding in json.loads(as_json.out)}
    assert findings["provider deepgram"]["state"] == "ok"
    assert findings["broker"]["state"] == "failed"
    assert set(findings["broker"]) == {"check", "state", "found", "cure"}
    assert "FAILED   broker" in table.out
    assert "of" in table.out.splitlines()[-1]
    assert "Traceback" not in table.out + table.errors
    wrong = await run_async("doctor", "--timeout", "never")
    assert wrong.status == 2
