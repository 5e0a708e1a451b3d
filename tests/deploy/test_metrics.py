"""The labels of metrics, and Prometheus' own check of a worker's output."""

from __future__ import annotations

from docs.generate.metrics import LABELS
from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings

from ..worker.programs import Speaker, StartWorker, closed
from .names import labels_of_samples
from .prometheus import promtool


def test_every_label_is_on_the_page() -> None:
    ours = {n: labels for n, labels in labels_of_samples().items() if n.startswith("natterjack_")}
    labels = {label for some in ours.values() for label in some}
    assert labels - {"le", "job", "instance", "version"} == set(LABELS)


async def test_promtool_accepts_the_metrics(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    worker = await start_worker(WORKER_PRICES="deepgram=3.6")
    await emulator.set(drop_after_seconds=2.0, connections=1)
    speaker = Speaker(broker_settings, 8)
    await speaker.speak()
    await closed(broker, speaker.spec)
    _, text = await worker.get("/metrics")
    assert 'natterjack_recoveries_total{cause="dropped"} 1.0' in text
    assert promtool("check", "metrics", text=text) == ""
