"""Speaking into the browser: from its microphone through the gateway's door to the captions."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator

from ...waiting import until
from ...worker.programs import StartWorker
from ..process import GatewayProcess
from .conftest import OpenPage, holds, texts

pytestmark = pytest.mark.process

RATE = 48_000


@pytest.fixture
def chromium_arguments(tmp_path: Path) -> list[str]:
    """A microphone that hears words, again and again."""
    heard = tmp_path / "heard.wav"
    with wave.open(str(heard), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(tones.encode(tones.sequence(12), RATE, phrase_words=4, pause_seconds=0.8))
    return [f"--use-file-for-fake-audio-capture={heard}"]


async def test_what_is_spoken_into_the_browser_is_shown_though_the_gateway_is_killed(
    gateway: GatewayProcess,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    open_page: OpenPage,
) -> None:
    # The browser takes noise out of what the microphone hears, tones included.
    await emulator.set(words="canned")
    await start_worker()
    page = await open_page(f"{gateway.http}/")
    await page.locator("#speak").click()
    await page.locator("#title", has_text="microphone-").wait_for()

    async def words() -> int:
        said = " ".join(await texts(page, ".part:not(.interim)"))
        return len(said.split())

    async def more_than(count: int) -> None:
        async def spoken() -> bool:
            return await words() > count

        await until(spoken, f"more than {count} words are shown", 60)

    await more_than(3)
    assert set(await texts(page, ".name")) == {"me"}
    assert await page.locator("#speak").get_attribute("aria-pressed") == "true"
    await holds(page, "level.value > 0.05")
    await gateway.stop()
    await gateway.start()
    await more_than(await words() + 3)
    await page.locator("#speak").click()
    await page.locator("#facts", has_text="ended").wait_for()
    assert await page.locator("#speak").get_attribute("aria-pressed") == "false"


async def test_a_browser_that_may_not_listen_says_why(
    gateway: GatewayProcess, open_page: OpenPage
) -> None:
    page = await open_page(f"{gateway.http}/")
    await page.evaluate(
        """() => {
          navigator.mediaDevices.getUserMedia = () =>
            Promise.reject(new DOMException("no", "NotAllowedError"));
        }"""
    )
    await page.locator("#speak").click()
    await page.locator("#toast", has_text="does not allow").wait_for()
    assert await page.locator("#speak").get_attribute("aria-pressed") == "false"


_RECORD = """async ([address, seconds]) => {
  const sound = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const microphone = await navigator.mediaDevices.getUserMedia({ audio: sound });
  const socket = new WebSocket(address, ["token", "none"]);
  const finals = [];
  const closed = new Promise((done) => { socket.onclose = (event) => done(event.code); });
  socket.onmessage = (message) => {
    const result = JSON.parse(message.data);
    if (result.type === "Results" && result.is_final)
      finals.push(result.channel.alternatives[0].transcript);
  };
  await new Promise((done) => { socket.onopen = done; });
  const recorder = new MediaRecorder(microphone);
  const sent = [];
  recorder.ondataavailable = ({ data }) =>
    sent.push(data.arrayBuffer().then((bytes) => socket.send(bytes)));
  recorder.start(250);
  await new Promise((done) => setTimeout(done, seconds * 1000));
  await new Promise((done) => { recorder.onstop = done; recorder.stop(); });
  await Promise.all(sent);
  socket.send(JSON.stringify({ type: "CloseStream" }));
  const code = await closed;
  return { code, finals, protocol: socket.protocol, recorded: recorder.mimeType };
}"""


async def test_what_a_browser_records_is_transcribed_word_for_word(
    gateway: GatewayProcess,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    open_page: OpenPage,
) -> None:
    """As the vendor's examples for browsers do it: MediaRecorder, in parts of 250 ms."""
    await start_worker()
    page = await open_page(f"{gateway.http}/captions/any")
    address = f"{gateway.http.replace('http', 'ws', 1)}/v1/listen"
    found = await page.evaluate(_RECORD, [address, 12])
    assert (found["code"], found["protocol"]) == (1000, "token")
    assert "webm" in found["recorded"]
    words = tones.words_of(" ".join(found["finals"]))
    said = tones.sequence(12)
    first = said.index(words[0])
    # The microphone repeats its file. The first and the last word may be cut.
    expected = [said[(first + number) % 12] for number in range(len(words))]
    assert len(words) >= 12
    assert words[1:-1] == expected[1:-1]
