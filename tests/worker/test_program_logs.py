"""A worker's log: the states of a session, no secrets, and no words unless configured."""

from __future__ import annotations

import json

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings

from ..waiting import until
from .programs import Speaker, StartWorker, closed

pytestmark = pytest.mark.process

SECRET = "a-key-nobody-may-see"


@pytest.mark.parametrize("transcripts", [False, True], ids=["plain", "with-transcripts"])
async def test_the_log_of_a_session(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
    transcripts: bool,
) -> None:
    emulator.api_key = SECRET
    await emulator.set(drop_mid_word=6, connections=1)
    worker = await start_worker(
        NATTERJACK_LOG_LEVEL="debug",
        DEEPGRAM_API_KEY=SECRET,
        WORKER_LOG_TRANSCRIPTS=str(transcripts).lower(),
    )
    speaker = Speaker(broker_settings, 24)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    transcript.audit(speaker)
    await until(lambda: worker.find("session closed"), "the last line")

    assert not worker.stray_lines
    assert all({"time", "level", "message"} <= entry.keys() for entry in worker.log)
    states = [e for e in worker.log if e["message"].startswith("session ")]
    assert [e["message"].removeprefix("session ") for e in states] == [
        "waiting", "connecting", "streaming", "recovering", "waiting", "connecting", "streaming",
        "finishing", "closed",
    ]  # fmt: skip
    assert all(e["session"] == str(speaker.spec.key) for e in states)
    assert states[3]["cause"] == "dropped"
    everything = "\n".join(json.dumps(entry) for entry in worker.log)
    assert SECRET not in everything
    texts = [final.text for final in transcript.finals]
    logged = [entry["text"] for entry in worker.log if entry["message"] == "final"]
    if transcripts:
        assert logged == texts
    else:
        assert not logged
        assert not any(text in everything for text in texts)
