"""How soon speech is audible, and silent after a cut: `python -m bench.playback`.

Runs `natterjack-edge play` on a real nats-server and a PulseAudio server without hardware, and
records what the loudspeaker plays. All figures include the delay of the recorder.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from natterjack.broker.connection import connected
from natterjack.broker.streams import ensure
from natterjack.emulators import tones
from natterjack.process.table import table
from natterjack.settings import KINDS, BrokerSettings, StreamSettings
from tests.edge_capture.playback.speaker import KEY, Voice, speaking
from tests.waiting import until

from .loudspeaker import Recorder, playing
from .processes import broker

_QUIET_S = 0.6
"""How long nothing is audible before an utterance counts as over; longer than between words."""


async def _round(voice: Voice, recorder: Recorder) -> tuple[float, float]:
    """Speak and interrupt. Returns the two delays in seconds."""
    recorder.reset()
    published = time.monotonic()
    await voice.publish(tones.encode(tones.sequence(20), voice.rate, gap_seconds=0.02))
    await until(lambda: recorder.first, "it is audible")
    await asyncio.sleep(0.7)
    cut = time.monotonic()
    await voice.cut()
    await until(lambda: time.monotonic() - recorder.last > _QUIET_S, "it is silent")
    return recorder.first - published, max(0.0, recorder.last - cut)


async def measure(rounds: int) -> list[tuple[float, float]]:
    """Return the delays of `rounds` utterances, in seconds: from publishing the first chunk to the
    first audible sample, and from publishing the cut to the last."""
    async with (
        broker() as server,
        connected(BrokerSettings(url=server.url), name="bench") as connection,
    ):
        await ensure(connection, StreamSettings(kinds=KINDS))
        voice = Voice(connection)
        async with (
            playing(server.url, KEY.tenant, KEY.conversation) as recorder,
            speaking(connection, voice),
        ):
            return [await _round(voice, recorder) for _ in range(rounds)]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=20, help="utterances [default 20]")
    rounds = parser.parse_args().rounds
    found = asyncio.run(measure(rounds))
    rows = [["milliseconds", "least", "median", "most"]]
    for column, name in enumerate(("to the first sample", "to silence")):
        ms = sorted(1000 * delays[column] for delays in found)
        rows.append([name, *(f"{each:.0f}" for each in (ms[0], statistics.median(ms), ms[-1]))])
    print(*table(rows, right=(1, 2, 3)), sep="\n")


if __name__ == "__main__":
    main()
