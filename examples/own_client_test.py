"""Tests of a client of Deepgram that need no key: pytest examples/own_client_test.py

They need: pip install 'natterjack[worker]' deepgram-sdk pytest
"""

import asyncio

from deepgram import AsyncDeepgramClient
from deepgram.environment import DeepgramClientEnvironment
from websockets.exceptions import WebSocketException

from natterjack.emulators import tones
from natterjack.emulators.deepgram import DeepgramEmulator


async def transcribe(url, audio):
    """The client under test: transcribes 16 kHz linear16, and goes on if a stream breaks."""
    address = DeepgramClientEnvironment(base=url, production=url, agent=url, agent_rest=url)
    client = AsyncDeepgramClient(api_key="any", environment=address)
    words, done = [], 0.0  # done: seconds that finals cover
    for _ in range(5):
        begin = done
        try:
            async with client.listen.v1.connect(
                model="nova-3", encoding="linear16", sample_rate=16000
            ) as stream:
                for at in range(round(begin * 16000) * 2, len(audio), 3200):
                    await stream.send_media(audio[at : at + 3200])
                await stream.send_close_stream()
                async for message in stream:
                    if message.type == "Results" and message.is_final:
                        words += message.channel.alternatives[0].transcript.split()
                        done = begin + message.start + message.duration
                return words
        except (OSError, WebSocketException) as error:
            print(f"the stream broke: {error!r}")
    raise ConnectionError("gave up after 5 streams")


def test_every_word_arrives():
    words = tones.sequence(30)

    async def run():
        async with DeepgramEmulator() as emulator:
            return await transcribe(emulator.url, tones.encode(words, phrase_words=6))

    assert tones.compare(words, asyncio.run(run())) == tones.Counts()


def test_no_word_is_lost_or_doubled_when_the_connection_drops():
    words = tones.sequence(30)

    async def run():
        # The first connection is aborted in the middle of the 12th word; later ones work.
        async with DeepgramEmulator(drop_mid_word=11, connections=1) as emulator:
            received = await transcribe(emulator.url, tones.encode(words, phrase_words=6))
            assert emulator.log[0].closed == "dropped"
            return received

    assert tones.compare(words, asyncio.run(run())) == tones.Counts()
