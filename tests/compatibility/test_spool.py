"""Today's edge sends the audio that an edge of another release left on the disk."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.settings import BrokerSettings
from natterjack.spec import SessionSpec

from ..faults.audit import audit
from ..waiting import soon
from ..worker.programs import StartWorker, closed
from .messages import FIXTURES, RELEASE, spool_files

pytestmark = pytest.mark.process


async def test_a_spool_of_a_recorded_release_is_sent_completely(
    tmp_path: Path, start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    recording = json.loads((FIXTURES / RELEASE / "spool.json").read_text())
    for name, content in spool_files(RELEASE).items():
        path = tmp_path / "spool" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (about,) = (tmp_path / "spool").glob("*/session.json")
    spec = SessionSpec.model_validate(json.loads(about.read_text())["spec"])
    await start_worker()
    edge = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edge_capture", "send", "--spool", str(tmp_path / "spool"), "--once",
        env={**os.environ, "NATS_URL": broker_settings.url}, stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    _, stderr = await soon(edge.communicate(), 30)
    assert edge.returncode == 0, stderr.decode()
    transcript = await closed(broker, spec)
    found = audit(
        transcript.events,
        recording["words"],
        tones.places(recording["words"], **recording["phrase"]),
    )
    assert found.clean, f"{found}\n{transcript.describe()}"
    assert not about.exists(), "the spool is removed after sending"
