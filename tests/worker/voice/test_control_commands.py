"""`natterjack interrupt` and `stop --voice`."""

from __future__ import annotations

import pytest

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from tests.natterjack.cli.commands import run_async
from tests.waiting import until

from .conftest import Start
from .player import RATE, Application, playing
from .test_session import WORDS, sentences

pytestmark = pytest.mark.process


async def test_speech_is_interrupted_and_its_session_ended(
    broker: Broker, nats_server: EmbeddedServer, start: Start
) -> None:
    await start()
    application = Application(broker)
    await application.open()
    key, url = str(application.spec.key), nats_server.url
    async with playing(broker, application.spec, speed=1) as player:
        await application.say(sentences(WORDS[:40], 40))
        await until(lambda: player.position > RATE, "some of it is played", 60)
        done = await run_async("stop", key, NATS_URL=url)
        assert done.status == 1
        assert done.errors == (
            f"natterjack stop: there is no session {key}, but a voice session: --voice, or "
            "natterjack interrupt\n"
        )
        done = await run_async("interrupt", key, "--reason", "enough", NATS_URL=url)
        assert done.status == 0, done
        assert done.out.startswith(f"{key}: interrupted at ")
        done = await run_async("interrupt", key, NATS_URL=url)
        assert done == (0, f"{key}: nothing was being said\n", "")
        await application.say(sentences(WORDS[50:52]))
        done = await run_async("stop", key, "--voice", NATS_URL=url)
        assert done.status == 0, done
        assert (await application.closed()).state == "closed"
    assert (0, "interrupted") in await application.utterances()
