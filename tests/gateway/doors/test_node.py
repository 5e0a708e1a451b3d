"""The doors with the vendors' JavaScript clients in Node: @deepgram/sdk 5 for Flux, and
@speechmatics/real-time-client."""

from __future__ import annotations

import asyncio
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import pytest

from natterjack.emulators import tones
from tests.waiting import until
from tests.worker.programs import holder

from ..node import NodeClient
from .house import House, Speech

pytestmark = pytest.mark.process

SCRIPTS = {"flux.mjs": "deepgram-flux", "speechmatics.mjs": "speechmatics"}
SPEED = "3"


async def client(
    house: House, folder: Path, script: str, speech: Speech, key: str = "none"
) -> NodeClient:
    file = folder / "speech.raw"
    file.write_bytes(speech.audio)
    node = NodeClient(script, house.gateway.http, key, str(file), SPEED)
    await node.start()
    return node


def words(node: NodeClient) -> list[str]:
    """The words of finals, or of the last message of each turn."""
    last: dict[int, str] = {}
    text = ""
    for line in node.lines:
        if line.get("type") == "TurnInfo":
            last[line["turn_index"]] = line["transcript"]
        elif line.get("message") == "AddTranscript":
            text += line["metadata"]["transcript"]
    return tones.words_of(" ".join([*last.values(), text]))


def of(node: NodeClient, name: str) -> list[Any]:
    return [line[name] for line in node.lines if name in line]


@pytest.mark.parametrize("script", SCRIPTS)
async def test_it_gets_every_word(house: House, tmp_path: Path, script: str) -> None:
    key = house.key()
    await house.start(SCRIPTS[script])
    speech = Speech(16)
    node = await client(house, tmp_path, script, speech, key)
    assert await node.ended() == 0, node.errors
    speech.check(words(node))
    assert not of(node, "failed")
    if script == "flux.mjs":
        assert of(node, "closed") == [1005], "a client that connects again would close twice"


@pytest.mark.parametrize("script", SCRIPTS)
async def test_it_is_told_that_its_key_is_wrong(house: House, tmp_path: Path, script: str) -> None:
    house.key()
    await house.start_gateway()
    node = await client(house, tmp_path, script, Speech(1), "wrong")
    status = await node.ended()
    failed = of(node, "failed")
    assert failed, node.lines
    if script == "speechmatics.mjs":
        assert status == 1
        kinds = [line.get("type") for line in node.lines if line.get("message") == "Error"]
        assert kinds == ["not_authorised"], node.lines


@pytest.mark.parametrize("script", SCRIPTS)
async def test_it_notices_nothing_of_a_killed_worker(
    house: House, tmp_path: Path, script: str
) -> None:
    provider = SCRIPTS[script]
    await asyncio.gather(
        house.start_worker(provider), house.start_worker(provider), house.start_gateway()
    )
    speech = Speech(40)
    node = await client(house, tmp_path, script, speech)
    await until(lambda: len(words(node)) > 8, "the second phrase", 60)
    (await holder(house.workers)).signal(SIGKILL)
    assert await node.ended(90) == 0, node.errors
    speech.check(words(node))
    assert not of(node, "failed")
    started = [line for line in node.lines if "Connected" in line.values()]
    started += [line for line in node.lines if "RecognitionStarted" in line.values()]
    assert len(started) == 1, "it has connected again"


async def test_a_gateway_that_ends_first_says_what_was_said(house: House, tmp_path: Path) -> None:
    """The words of the audio that was received are final before the connection is closed. The
    client repeats an ID and connects again: to it, that is no error."""
    await house.start("deepgram-flux")
    speech = Speech(40)
    node = await client(house, tmp_path, "flux.mjs", speech)
    await until(lambda: len(words(node)) > 8, "the second phrase", 60)
    house.gateway.signal(SIGTERM)
    assert await house.gateway.wait(60) == 0
    heard = words(node)
    assert heard == speech.words[: len(heard)]
    assert len(heard) % 8 == 0, "a phrase was cut"
    errors = [line["description"] for line in node.lines if line.get("type") == "Error"]
    assert errors == []
    node.kill()
