"""`natterjack stop`, `finalize` and `configure`, with a worker that holds a session and without."""

from __future__ import annotations

import json

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from natterjack.subjects import session_subject
from tests.natterjack.cli.commands import Result, run, run_async
from tests.waiting import until

from .programs import Speaker, StartWorker, closed, stored, streaming


async def ask(server: EmbeddedServer, *arguments: str) -> Result:
    return await run_async(*arguments, NATS_URL=server.url)


async def test_a_session_is_finalized_configured_and_stopped(
    emulator: DeepgramEmulator,
    nats_server: EmbeddedServer,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(DEEPGRAM_ENDPOINTING_MS="3000", WORKER_PARK_SECONDS="20")
    speaker = Speaker(broker_settings, 4)
    key = str(speaker.spec.key)
    await speaker.speak(end=False)
    await streaming(broker, speaker.spec)
    await until(
        lambda: emulator.log and emulator.log[0].audio_seconds > speaker.seconds - 0.01,
        "the provider has all audio",
    )
    done = await ask(nats_server, "finalize", key)
    assert done == (0, f"{key}: final up to here at {speaker.seconds:.1f} s (deepgram)\n", "")

    async def final() -> bool:
        return (await stored(broker, speaker.spec)).words == speaker.words

    await until(final, "a final without an end of audio")
    done = await ask(nats_server, "configure", key, 'keyterms=["zebra"]', "--json")
    assert done.status == 0, done
    assert json.loads(done.out)["provider"] == "deepgram"
    done = await ask(nats_server, "configure", key, "colour=red")
    assert done.status == 1
    assert "colour" in done.errors
    assert done.errors.startswith("natterjack configure: ")

    done = await ask(nats_server, "stop", key, "--reason", "enough")
    assert done.status == 0, done
    assert done.out.startswith(f"{key}: ends at ")
    closing = (await closed(broker, speaker.spec)).closing[0]
    assert closing.reason == "stopped: enough"

    async def ended() -> bool:
        done = await ask(nats_server, "stop", key)
        assert done.status == 1
        return done.errors.endswith(": closed (stopped: enough)\n")

    await until(ended, "the command says that the session has ended", 30)


async def test_what_nobody_holds_is_told_apart(
    nats_server: EmbeddedServer, ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    done = await ask(nats_server, "stop", "acme.call.ann")
    assert done == (
        1,
        "",
        "natterjack stop: there is no session acme.call.ann (natterjack sessions lists those that "
        "are open)\n",
    )
    done = await ask(nats_server, "interrupt", "acme.call.ann")
    assert done.status == 1
    assert "there is no voice session acme.call.ann" in done.errors
    spec = Speaker(broker_settings, 1).spec
    await ready_broker.client.jetstream().publish(
        session_subject(spec.key), spec.model_dump_json().encode(),
        headers={"Nats-Msg-Id": spec.session_id},
    )  # fmt: skip
    done = await ask(nats_server, "finalize", str(spec.key))
    assert done.status == 1
    assert done.errors == (
        f"natterjack finalize: session {spec.key} waits for a worker: is one running?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stop", "acme.call"], "acme.call"),
        (["stop", "acme.call.*"], "is not valid"),
        (["stop", "a.b.c", "--reason", "x" * 201], "--reason may have 200 characters"),
    ],
)
async def test_mistakes(
    nats_server: EmbeddedServer, ready_broker: Broker, arguments: list[str], words: str
) -> None:
    done = await ask(nats_server, *arguments)
    assert done.status == 2
    assert words in done.errors
    assert done.errors.count("\n") == 1


@pytest.mark.parametrize("arguments", [["configure", "a.b.c"], ["configure", "a.b.c", "x"]])
def test_settings_are_needed(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert "usage: natterjack configure" in done.errors


def test_without_a_broker() -> None:
    done = run("stop", "a.b.c", NATS_URL="nats://127.0.0.1:1")
    assert done.status == 2
    assert "nats://127.0.0.1:1" in done.errors
