"""The emulated account, tested with the provider's own client and specification."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import jsonschema
import pytest

from natterjack.emulators import pcm, tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.emulators.specification import load_specification

from .process import emulator_process

with warnings.catch_warnings():
    # The SDK still looks for names that its own WebSocket library calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import deepgram.listen.v1.client
    import deepgram.manage.v1.projects.billing.balances.client  # noqa: F401 - imported later
    from deepgram import AsyncDeepgramClient
    from deepgram.core.api_error import ApiError
    from deepgram.environment import DeepgramClientEnvironment

SPECIFICATION = Path(__file__).parent / "specs" / "deepgram-openapi.yml"
KEY, ADMIN = "a-key", "an-admin-key"
UNKNOWN = "9c1d0000-0000-4000-8000-000000000003"
AUDIO = tones.encode(tones.sequence(4))
SECONDS = len(AUDIO) / 32000


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramEmulator]:
    async with DeepgramEmulator(api_key=KEY, roles={ADMIN: "admin"}) as emulator:
        yield emulator


@contextlib.asynccontextmanager
async def sdk(
    emulator: DeepgramEmulator, api_key: str = ADMIN
) -> AsyncIterator[AsyncDeepgramClient]:
    environment = DeepgramClientEnvironment(
        base=emulator.account_url,
        production=emulator.url,
        agent=emulator.url,
        agent_rest=emulator.account_url,
    )
    async with httpx.AsyncClient() as http:
        yield AsyncDeepgramClient(
            api_key=api_key,
            environment=environment,
            httpx_client=http,
            max_retries=0,
        )


async def get(
    emulator: DeepgramEmulator, path: str, authorization: str | None = f"Token {ADMIN}"
) -> tuple[int, Any]:
    """Return the status and the body, JSON or text according to its content type."""
    headers = {} if authorization is None else {"Authorization": authorization}
    async with (
        aiohttp.ClientSession() as session,
        session.get(emulator.account_url + path, headers=headers) as response,
    ):
        is_json = response.content_type == "application/json"
        return response.status, await (response.json() if is_json else response.text())


async def stream(emulator: DeepgramEmulator, audio: bytes, query: str = "") -> None:
    """Run one listen stream to its end."""
    url = f"{emulator.url}/v1/listen?model=nova-3&encoding=linear16&sample_rate=16000{query}"
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Token {KEY}"}) as session,
        session.ws_connect(url) as socket,
    ):
        for at in range(0, len(audio), 6400):
            await socket.send_bytes(audio[at : at + 6400])
        await socket.send_json({"type": "CloseStream"})
        async for _ in socket:
            pass


# ---- the official SDK -----------------------------------------------------------------------


async def test_the_sdk_finds_the_project(emulator: DeepgramEmulator) -> None:
    async with sdk(emulator) as client:
        found = await client.manage.v1.projects.list()
        assert found.projects is not None
        (project,) = found.projects
        assert project.project_id == emulator.project_ids[0]
        same = await client.manage.v1.projects.get(project.project_id)
        assert (same.project_id, same.name) == (project.project_id, project.name)
        assert same.mip_opt_out is False


async def test_the_sdk_reads_balances(emulator: DeepgramEmulator) -> None:
    await emulator.set(
        balances=[
            {"amount": 150.25},
            {"amount": 3, "units": "USD"},
            {"amount": 7, "units": "hour"},
        ],
        price_per_hour=3600,
    )
    await stream(emulator, AUDIO)
    project_id = emulator.project_ids[0]
    async with sdk(emulator) as client:
        balances = client.manage.v1.projects.billing.balances
        listed = (await balances.list(project_id)).balances
        assert listed is not None
        assert [balance.units for balance in listed] == ["usd", "USD", "hour"]
        assert listed[0].amount == pytest.approx(150.25 - SECONDS, abs=1e-5)
        assert [balance.amount for balance in listed[1:]] == [3, 7]
        assert listed[0].balance_id is not None
        one = await balances.get(project_id, listed[0].balance_id)
        assert one.model_dump() == listed[0].model_dump()


async def test_the_sdk_receives_errors(emulator: DeepgramEmulator) -> None:
    project_id = emulator.project_ids[0]
    async with sdk(emulator, KEY) as client:  # the key of a member
        balances = client.manage.v1.projects.billing.balances
        with pytest.raises(ApiError) as refused:
            await balances.list(project_id)
        assert refused.value.status_code == 401
        assert refused.value.body["err_code"] == "INSUFFICIENT_PERMISSIONS"
        with pytest.raises(ApiError) as refused:
            await client.manage.v1.projects.get(UNKNOWN)
        assert refused.value.status_code == 404
        assert refused.value.body == {
            "err_code": "PROJECT_NOT_FOUND",
            "err_msg": "Project not found.",
        }
        with pytest.raises(ApiError) as refused:
            await client.manage.v1.projects.get("mine")
        assert refused.value.status_code == 404
        assert str(refused.value.body).startswith("UUID parsing failed")
    async with sdk(emulator, "wrong") as client:
        with pytest.raises(ApiError) as refused:
            await client.manage.v1.projects.list()
        assert refused.value.status_code == 401
        assert refused.value.body["err_code"] == "INVALID_AUTH"


async def test_the_sdk_cannot_stream_without_credit(emulator: DeepgramEmulator) -> None:
    await emulator.set(payment_required=True, balances=[{"amount": 0}])
    async with sdk(emulator, KEY) as client:
        with pytest.raises(ApiError) as refused:
            async with client.listen.v1.connect(model="nova-3"):
                pass
    assert refused.value.status_code == 402


# ---- the specification ----------------------------------------------------------------------


def specification() -> dict[str, Any]:
    return load_specification(SPECIFICATION)


def check(path: str, content: Any, status: str = "200") -> None:
    """Assert that an answer matches the specification and has exactly its fields.

    The specification itself requires no field and allows others.
    """
    answers = specification()["paths"][path]["get"]["responses"]
    schema = answers[status]["content"]["application/json"]["schema"]
    components = specification()["components"]
    jsonschema.Draft202012Validator({**schema, "components": components}).validate(content)
    complete(schema, content)


def complete(schema: dict[str, Any], content: Any) -> None:
    if "$ref" in schema:
        schema = specification()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if schema["type"] == "object":
        assert set(content) == set(schema["properties"])
        for name, value in content.items():
            complete(schema["properties"][name], value)
    elif schema["type"] == "array":
        for item in content:
            complete(schema["items"], item)


@pytest.mark.parametrize("part", ["", "/{project_id}", "/{project_id}/balances"])
async def test_answers_fit_the_specification(emulator: DeepgramEmulator, part: str) -> None:
    path = f"/v1/projects{part}"
    status, content = await get(emulator, path.format(project_id=emulator.project_ids[0]))
    assert status == 200
    check(path, content)


async def test_a_balance_fits_the_specification(emulator: DeepgramEmulator) -> None:
    balances = f"/v1/projects/{emulator.project_ids[0]}/balances"
    _, content = await get(emulator, balances)
    (balance,) = content["balances"]
    status, content = await get(emulator, f"{balances}/{balance['balance_id']}")
    assert status == 200
    assert content == balance
    check("/v1/projects/{project_id}/balances/{balance_id}", content)


def test_the_check_detects_errors() -> None:
    path = "/v1/projects/{project_id}/balances/{balance_id}"
    valid = {"balance_id": "b", "amount": 1.5, "units": "usd", "purchase_order_id": "p"}
    check(path, valid)
    with pytest.raises(jsonschema.ValidationError):
        check(path, {**valid, "amount": "1.5"})
    for bad in ({**valid, "more": 1}, {"balance_id": "b"}):
        with pytest.raises(AssertionError):
            check(path, bad)


async def test_errors_fit_the_specification(emulator: DeepgramEmulator) -> None:
    schemas = specification()["components"]["schemas"]
    shapes = schemas["ErrorResponseTextError"], schemas["ErrorResponseLegacyError"]
    for path, authorization in [
        ("/v1/projects", "Token wrong"),
        ("/v1/projects/mine", f"Token {ADMIN}"),
        (f"/v1/projects/{UNKNOWN}", f"Token {ADMIN}"),
        (f"/v1/projects/{emulator.project_ids[0]}/balances", f"Token {KEY}"),
        (f"/v1/projects/{emulator.project_ids[0]}/balances/{UNKNOWN}", f"Token {ADMIN}"),
        (f"/v1/projects/{emulator.project_ids[0]}/balances/none", f"Token {ADMIN}"),
    ]:
        status, content = await get(emulator, path, authorization)
        assert status in (401, 404), path
        text, legacy = shapes
        if isinstance(content, str):
            jsonschema.validate(content, text)
            assert content.startswith("UUID parsing failed")
        else:
            jsonschema.validate(content, legacy)
            assert {"err_code", "err_msg"} <= set(content) <= set(legacy["properties"])


# ---- keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    [None, "Token", "Token wrong", f"Bearer {ADMIN}", "Bearer a.b.c", "Token a.b.c", ADMIN],
)
async def test_only_api_keys_open_the_account(
    emulator: DeepgramEmulator, authorization: str | None
) -> None:
    status, content = await get(emulator, "/v1/projects", authorization)
    assert (status, content["err_code"]) == (401, "INVALID_AUTH")


async def test_only_some_roles_may_read_balances(emulator: DeepgramEmulator) -> None:
    balances = f"/v1/projects/{emulator.project_ids[0]}/balances"
    for role, expected in [("owner", 200), ("admin", 200), ("member", 401)]:
        await emulator.set(roles={ADMIN: role})
        assert (await get(emulator, balances))[0] == expected
        assert (await get(emulator, "/v1/projects"))[0] == 200
    answered = [
        (entry.role, entry.status)
        for entry in emulator.account_requests
        if "balances" in entry.path
    ]
    assert answered == [("owner", 200), ("admin", 200), ("member", 401)]


# ---- credit ---------------------------------------------------------------------------------


def remaining(emulator: DeepgramEmulator) -> float:
    return emulator.remaining()[0].amount


async def test_received_audio_is_deducted(emulator: DeepgramEmulator) -> None:
    await emulator.set(balances=[{"amount": 1}], price_per_hour=0.288)
    await stream(emulator, AUDIO)
    assert remaining(emulator) == pytest.approx(1 - SECONDS * 0.288 / 3600, abs=1e-8)
    await stream(emulator, AUDIO)
    assert remaining(emulator) == pytest.approx(1 - 2 * SECONDS * 0.288 / 3600, abs=1e-8)
    await emulator.set(balances=[{"amount": 1, "units": "hour"}])
    assert remaining(emulator) == pytest.approx(1 - 2 * SECONDS / 3600, abs=1e-8)


@pytest.mark.parametrize(("multichannel", "times"), [("true", 2), ("false", 1)])
async def test_separately_transcribed_channels_cost_extra(
    emulator: DeepgramEmulator, multichannel: str, times: int
) -> None:
    await emulator.set(balances=[{"amount": 10, "units": "usd"}], price_per_hour=3600)
    stereo = pcm.interleave(AUDIO, AUDIO)
    await stream(emulator, stereo, f"&channels=2&multichannel={multichannel}")
    assert remaining(emulator) == pytest.approx(10 - times * SECONDS, abs=1e-5)


async def test_a_handshake_without_credit_is_refused(emulator: DeepgramEmulator) -> None:
    await emulator.set(balances=[{"amount": SECONDS / 2}], price_per_hour=3600)
    await stream(emulator, AUDIO)  # a running stream continues
    assert emulator.log[0].closed == "server 1000"
    assert remaining(emulator) < 0
    await stream(emulator, AUDIO)  # the switch is off
    await emulator.set(payment_required=True)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await stream(emulator, AUDIO)
    assert refused.value.status == 402
    assert emulator.log[-1].closed == "refused 402"
    await emulator.set(balances=[{"amount": 100}])
    await stream(emulator, AUDIO)
    await emulator.set(balances=[])
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await stream(emulator, AUDIO)


async def test_another_project_has_no_balances(emulator: DeepgramEmulator) -> None:
    await emulator.set(projects=2)
    _, content = await get(emulator, "/v1/projects")
    other = content["projects"][1]["project_id"]
    assert await get(emulator, f"/v1/projects/{other}/balances") == (200, {"balances": []})


async def test_streams_are_not_logged_as_account_requests(emulator: DeepgramEmulator) -> None:
    await get(emulator, "/v1/projects")
    assert emulator.log == []
    await stream(emulator, AUDIO)
    assert [entry.path for entry in emulator.account_requests] == ["/v1/projects"]


@pytest.mark.process
async def test_the_emulator_as_a_process() -> None:
    faults = '{"roles": {"root": "owner"}, "balances": [{"amount": 12.5}]}'
    async with (
        emulator_process("deepgram", "--faults", faults) as emulator,
        aiohttp.ClientSession(headers={"Authorization": "Token root"}) as session,
    ):
        base = emulator.url.replace("ws://", "http://") + "/v1/projects"
        async with session.get(base) as response:
            project_id = (await response.json())["projects"][0]["project_id"]
        for amount in (12.5, 0.5):
            await emulator.set(balances=[{"amount": amount}])
            async with session.get(f"{base}/{project_id}/balances") as response:
                assert [b["amount"] for b in (await response.json())["balances"]] == [amount]
