"""WebSocket frames and handshakes, without a socket."""

from __future__ import annotations

import base64
import hashlib
import re
from urllib.parse import urlparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natterjack.broker.websocket.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    Frames,
    Handshake,
    WebSocketError,
    encode_frame,
)
from tests.searching import examples

FINAL, CONTINUATION = 0x80, 0


def server_frame(first: int, payload: bytes) -> bytes:
    """A frame as servers send it, without a mask (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size < 1 << 16:
        return bytes([first, 126]) + size.to_bytes(2, "big") + payload
    return bytes([first, 127]) + size.to_bytes(8, "big") + payload


def unmask(frame: bytes) -> tuple[int, bytes]:
    """The opcode and payload of a client's frame, decoded byte by byte."""
    first, second = frame[:2]
    assert first & 0xF0 == FINAL
    assert second & 0x80, "it is masked"
    size, at = second & 0x7F, 2
    if size > 125:
        at += 2 if size == 126 else 8
        size = int.from_bytes(frame[2:at], "big")
    mask, payload = frame[at : at + 4], frame[at + 4 :]
    assert len(payload) == size
    return first & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 125, 126, 127, 2560, 65_535, 65_536, 200_003])
def test_a_client_frame(size: int) -> None:
    payload = bytes(number % 251 for number in range(size))
    assert unmask(encode_frame(BINARY, payload)) == (BINARY, payload)


def test_masks_differ() -> None:
    assert len({encode_frame(PONG, b"the same")[2:6] for _ in range(20)}) == 20


part = st.one_of(
    st.tuples(st.just("data"), st.lists(st.binary(max_size=300), min_size=1, max_size=3)),
    st.tuples(st.just("long"), st.lists(st.integers(0, 70_000), min_size=1, max_size=1)),
    st.tuples(st.sampled_from([PING, PONG, CLOSE]), st.binary(max_size=125)),
)


@examples(300)
@given(st.lists(part, max_size=8), st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_frames_arrive_in_pieces_of_any_size(parts: list, sizes: list[int]) -> None:  # type: ignore[type-arg]
    """Control frames may come between the fragments of a message."""
    wire, expected, control = b"", b"", []
    for kind, value in parts:
        if kind == "long":
            value = [b"x" * size for size in value]
        if kind in ("data", "long"):
            for number, piece in enumerate(value):
                last = number == len(value) - 1
                wire += server_frame(
                    (BINARY if number == 0 else CONTINUATION) | (FINAL if last else 0), piece
                )
                expected += piece
                if not last:
                    wire += server_frame(PING | FINAL, b"between")
                    control.append((PING, b"between"))
        else:
            wire += server_frame(kind | FINAL, value)
            control.append((kind, value))
            if kind == CLOSE:
                wire += b"what follows is discarded"
                break
    frames, got, got_control, at, number = Frames(), b"", [], 0, 0
    while at < len(wire):
        size = sizes[number % len(sizes)] * (100 if len(wire) > 20_000 else 1)
        payload, found = frames.decode(wire[at : at + size])
        got += payload
        got_control += found
        at, number = at + size, number + 1
    assert got == expected
    assert got_control == control


@examples(300)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_nonsense_is_refused_or_data(pieces: list[bytes]) -> None:
    frames = Frames()
    for piece in pieces:
        try:
            payload, control = frames.decode(piece)
        except WebSocketError:
            return
        assert len(payload) + sum(len(content) for _, content in control) <= sum(map(len, pieces))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (encode_frame(BINARY, b"x"), "masked"),
        (server_frame(0xC2, b"x"), "reserved bits"),
        (server_frame(0x81, b"text"), "starts with 0x81"),
        (server_frame(0x80, b"no message to continue"), "starts with 0x80"),
        (server_frame(0x02, b"a") + server_frame(0x82, b"another"), "starts with 0x82"),
        (server_frame(0x09, b"fragmented ping"), "starts with 0x9"),
        (server_frame(0x8B, b""), "starts with 0x8b"),
        (server_frame(0x89, bytes(126)), "more than 125 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # masks are random
)
def test_frames_that_a_server_must_not_send(frame: bytes, message: str) -> None:
    with pytest.raises(WebSocketError, match=message):
        Frames().decode(frame)


def answer(handshake: Handshake) -> bytes:
    found = re.search(rb"Sec-WebSocket-Key: (\S+)\r\n", handshake.request)
    assert found
    digest = hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: Upgrade\r\n"
        b"sec-websocket-ACCEPT: " + base64.b64encode(digest) + b"\r\n\r\n"
    )


def test_a_handshake_asks_for_what_the_url_names() -> None:
    request = Handshake(urlparse("wss://user:secret@nats.example.org:8443/nats?x=1")).request
    assert request.startswith(b"GET /nats?x=1 HTTP/1.1\r\nHost: nats.example.org:8443\r\n")
    assert b"secret" not in request
    assert Handshake(urlparse("ws://[::1]:80")).request.startswith(
        b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n"
    )


def test_an_answer_may_arrive_byte_by_byte() -> None:
    handshake = Handshake(urlparse("ws://a"))
    whole = answer(handshake)
    for number in range(len(whole) - 1):
        assert handshake.receive(whole[number : number + 1]) is None
    assert handshake.receive(whole[-1:] + b"first frame") == b"first frame"


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (b'INFO {"server_id":', "its port is not for WebSocket; use nats:// or tls://"),
        (b"SSH-2.0-OpenSSH", "its answer is not HTTP"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "it refuses a WebSocket with HTTP 404 Not Found$"),
        (
            b"HTTP/1.1 301 Moved\r\nLocation: https://b/\r\n\r\n",
            "with HTTP 301 Moved, https://b/$",
        ),
        (b"HTTP/1.1 101 X\r\nSec-WebSocket-Accept: x\r\n\r\n", "handshake is wrong"),
        (b"HTTP/1.1 200 " + b"x" * 20_000, "its answer does not end"),
    ],
)
def test_other_answers(response: bytes, message: str) -> None:
    with pytest.raises(WebSocketError, match=message):
        Handshake(urlparse("ws://a")).receive(response)
