"""The NATS protocol, decoded and encoded from recorded and hand-written bytes."""

from __future__ import annotations

import ast
import random
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

from natterjack.broker.client import wire
from natterjack.broker.client.wire import (
    decode_messages,
    encode_publish,
    parse_headers,
    parse_status,
)

from .record_wire import PUBLISHED, RECORDED

CLIENT, SERVER = (RECORDED / "client").read_bytes(), (RECORDED / "server").read_bytes()

Decoded = tuple[int, bytes, bytes, bytes | None, bytes]


def decode(pieces: Iterable[bytes], subscriptions: Collection[int]) -> list[Decoded]:
    """Decode what arrives in pieces; skip lines that are no messages, as nats-py's parser would."""
    wanted = {b"%d" % number: number for number in subscriptions}
    buffer, decoded = b"", []
    for piece in pieces:
        buffer += piece
        while buffer:
            messages, size, incomplete = decode_messages(buffer, wanted)
            decoded += messages
            buffer = buffer[size:]
            if incomplete or b"\r\n" not in buffer:
                break
            buffer = buffer.partition(b"\r\n")[2]
    return decoded


RECORDED_MESSAGES = decode([SERVER], (1, 2, 3))


def test_recorded_messages_are_what_was_published() -> None:
    decoded = [message for message in RECORDED_MESSAGES if message[0] < 3]
    assert len(decoded) == len(PUBLISHED)
    for (number, subject, reply, headers, payload), sent in zip(decoded, PUBLISHED, strict=True):
        assert number == (2 if sent.subject == "other" else 1)
        assert (subject.decode(), reply.decode(), payload) == (
            sent.subject, sent.reply, sent.payload
        )  # fmt: skip
        assert (None if headers is None else parse_headers(headers)) == sent.headers


def test_recorded_answers_of_the_server() -> None:
    unanswered, _, stored, direct = (message for message in RECORDED_MESSAGES if message[0] == 3)
    assert unanswered[3] is not None
    assert parse_status(unanswered[3]) == ("503", "")
    assert parse_headers(unanswered[3]) == {"Nats-Subject": "nobody"}
    assert (stored[3], stored[4]) == (None, b'{"stream":"WIRE","seq":1}')
    assert direct[3] is not None
    headers = parse_headers(direct[3])
    assert headers["Own"] == "header"
    assert (headers["Nats-Subject"], headers["Nats-Sequence"]) == ("stored", "1")
    assert direct[4] == b"a stored message"


def test_recorded_bytes_split_at_every_byte() -> None:
    for at in range(len(SERVER) + 1):
        assert decode([SERVER[:at], SERVER[at:]], (1, 2, 3)) == RECORDED_MESSAGES


def test_recorded_bytes_one_at_a_time() -> None:
    pieces = [SERVER[at : at + 1] for at in range(len(SERVER))]
    assert decode(pieces, (1, 2, 3)) == RECORDED_MESSAGES


def test_publications_are_encoded_as_nats_py_encodes_them() -> None:
    at = CLIENT.index(b"PUB wire.a")
    for subject, payload, headers, reply in PUBLISHED:
        encoded = encode_publish(subject, payload, headers, reply)
        assert CLIENT[at : at + len(encoded)] == encoded
        at += len(encoded)
    assert CLIENT[at:].startswith(b"SUB _INBOX.")


ONE = b"MSG a 1 3\r\nabc\r\n"
HEADERS = b"NATS/1.0\r\nA: b\r\n\r\n"
TWO = b"HMSG a.b 1 r.s %d %d\r\n%bxy\r\n" % (len(HEADERS), len(HEADERS) + 2, HEADERS)


def test_messages_at_the_front_are_decoded_and_the_rest_is_left() -> None:
    for rest in (b"PING\r\n", b"MSG b 2 1\r\nx\r\n", b"MSGS a 1 3\r\n", b"P", b"\r\n"):
        messages, size, incomplete = decode_messages(ONE + TWO + rest, {b"1": "entry"})
        assert messages == [
            ("entry", b"a", b"", None, b"abc"),
            ("entry", b"a.b", b"r.s", HEADERS, b"xy"),
        ]
        assert (size, incomplete) == (len(ONE + TWO), False)


@pytest.mark.parametrize("message", [ONE, TWO])
def test_the_beginning_of_a_message_waits_for_more(message: bytes) -> None:
    named = message.index(b" ") + 1
    for at in range(1, len(message)):
        assert decode_messages(ONE + message[:at], {b"1": 1})[1:] == (len(ONE), at >= named)


def test_another_subscriptions_message_is_left_at_once() -> None:
    """Even if its payload is still to come: nats-py's parser takes it in parts."""
    assert decode_messages(b"MSG b 2 10\r\nx", {b"1": 1}) == ([], 0, False)


def test_a_control_line_without_an_end_is_not_waited_for() -> None:
    line = b"MSG " + b"a" * wire.MAX_CONTROL_LINE_BYTES
    assert decode_messages(line, {b"1": 1}) == ([], 0, False)
    assert decode_messages(line[: wire.MAX_CONTROL_LINE_BYTES], {b"1": 1}) == ([], 0, True)


@pytest.mark.parametrize(
    "line",
    [
        b"MSG", b"MSG a", b"MSG a 1", b"MSG a 1 x", b"MSG a 1 -5", b"MSG a x 5", b"HMSG a 1",
        b"HMSG a 1 5", b"HMSG a 1 5 x", b"HMSG a 1 9 5", b"HMSG a 1 -1 5", b"\x00\xff", b"", b" ",
        b"MSG a 1 " + b"9" * 5000, b"msg a 1 3",
    ],
)  # fmt: skip
def test_malformed_lines_are_left_to_nats_py(line: bytes) -> None:
    data = line + b"\r\nabcde\r\n"
    assert decode_messages(data, {b"1": 1}) == ([], 0, False)
    assert decode_messages(ONE + data, {b"1": 1})[1:] == (len(ONE), False)


def test_garbage_is_neither_fatal_nor_endless() -> None:
    """And what is decoded never reaches beyond what is there."""
    rng = random.Random(12)
    words = [
        b"MSG",
        b"HMSG",
        b" ",
        b" ",
        b" ",
        b"\r\n",
        b"\r\n",
        b"1",
        b"0",
        b"5",
        b"-7",
        b"a",
        b"\xff",
    ]
    for _ in range(20_000):
        data = b"".join(rng.choices(words, k=rng.randrange(30)))
        messages, size, incomplete = decode_messages(data, {b"1": 1})
        assert 0 <= size <= len(data)
        assert size < len(data) or not incomplete
        assert sum(len(m[1]) + len(m[3] or b"") + len(m[4]) + 11 for m in messages) <= size


def test_damaged_recordings_are_neither_fatal_nor_endless() -> None:
    rng = random.Random(13)
    for _ in range(2000):
        damaged = bytearray(SERVER)
        for _ in range(rng.randrange(1, 20)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        assert len(decode([bytes(damaged)], (1, 2, 3))) < 1000


def test_a_publication_comes_back_as_it_was() -> None:
    """PUB and MSG lines differ only in the operation and the subscription ID."""
    for subject, payload, headers, reply in PUBLISHED:
        sent = encode_publish(subject, payload, headers, reply)
        line, _, rest = sent.partition(b"\r\n")
        operation, subject_bytes, *words = line.split()
        delivered = operation.replace(b"PUB", b"MSG ") + subject_bytes + b" 1 " + b" ".join(words)
        [message], size, _ = decode_messages(delivered + b"\r\n" + rest, {b"1": 1})
        assert size == len(delivered) + 2 + len(rest)
        assert message[1:3] == (subject.encode(), reply.encode())
        assert message[4] == payload
        assert (None if message[3] is None else parse_headers(message[3])) == headers


def test_headers() -> None:
    raw = b"NATS/1.0 100 Idle Heartbeat\r\nA:1\r\nB:  two words \r\nno colon\r\nC: x:y\r\n"
    raw += b"D: \xff\r\n\r\n"
    assert parse_headers(raw) == {
        "A": "1",
        "B": "two words",
        "C": "x:y",
        "D": "\N{REPLACEMENT CHARACTER}",
    }
    assert parse_status(raw) == ("100", "Idle Heartbeat")
    assert parse_status(b"NATS/1.0\r\n\r\n") == ("", "")
    assert parse_status(b"") == ("", "")
    assert parse_headers(b"") == {}


def test_wire_is_pure() -> None:
    """It imports neither asyncio nor nats-py, nor a module that does."""
    tree = ast.parse(Path(wire.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(isinstance(node, ast.Import) for node in ast.walk(tree))
    assert imported <= {"__future__", "collections.abc", "typing"}
