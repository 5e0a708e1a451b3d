from __future__ import annotations

import pytest

from edge_capture.sources.ffmpeg import redacted, shown_url, stream_command


def test_the_options_of_the_input_are_before_it() -> None:
    command = stream_command("ffmpeg", "rtsp://camera/1", ["-rtsp_transport", "tcp"], 16000, 2)
    at = command.index("-i")
    assert command[at - 2 : at + 2] == ["-rtsp_transport", "tcp", "-i", "rtsp://camera/1"]
    assert command[command.index("-ac") + 1] == "2"
    assert command[-1] == "pipe:1"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:pa%2Fss@camera/1", "rtsp://***@camera/1"),
        ("rtsp://user:p@ss@camera/1/@x", "rtsp://***@camera/1/@x"),
        ("https://radio/live.mp3?token=abcdef#x", "https://radio/live.mp3?***"),
        ("rtp://239.0.0.1:5004", "rtp://239.0.0.1:5004"),
        ("srt://host:9000?passphrase=long-secret", "srt://host:9000?***"),
    ],
)
def test_an_address_is_shown_without_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    "message",
    [
        "[rtsp @ 0x5] method DESCRIBE failed: {url}: 401 Unauthorized",
        "Error opening input file {url}.",
        "password pa/ss is wrong, so is pa%2Fss",
        "see http://other:word@proxy/?key=longword for token abcdefgh",
    ],
)
def test_messages_have_no_secrets(message: str) -> None:
    url = "rtsp://user:pa%2Fss@camera/1?token=abcdefgh"
    cleaned = redacted(message.format(url=url), url)
    for secret in ("pa%2Fss", "pa/ss", "abcdefgh", "word@", "longword"):
        assert secret not in cleaned, cleaned


def test_an_odd_address_hides_nothing_else() -> None:
    assert redacted("exit status 1", "http://[bad") == "exit status 1"
