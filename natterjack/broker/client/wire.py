"""The NATS client protocol as bytes: messages in, publications out, headers.

Pure: nothing here knows asyncio, a socket or nats-py. This is the hot path of every chunk, so it
uses plain tuples and makes one call for everything that one read brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

MAX_CONTROL_LINE_BYTES = 4096
"""The server's default limit of a protocol line; a longer one is not waited for."""

T = TypeVar("T")


def decode_messages(
    data: bytes, subscriptions: Mapping[bytes, T]
) -> tuple[list[tuple[T, bytes, bytes, bytes | None, bytes]], int, bool]:
    """Decode the messages at the front of `data` that belong to `subscriptions`.

    `subscriptions` is keyed by subscription ID as it is on the wire. Decoding stops at the first
    thing that is no such message: another subscription's message, another operation, nonsense.

    Returns: the messages, each as its entry in `subscriptions`, subject, reply subject (empty if
    absent), headers as they are on the wire (None if absent) and payload; the number of bytes
    decoded; and True if what follows is the beginning of a message that more bytes may complete.
    """
    messages: list[tuple[T, bytes, bytes, bytes | None, bytes]] = []
    at, size = 0, len(data)
    while at < size:
        # NATS protocol: HMSG <subject> <sid> [reply] <header bytes> <total bytes>, or
        # MSG <subject> <sid> [reply] <bytes>.
        end = data.find(b"\r\n", at)
        if end < 0:
            started = data.startswith((b"HMSG ", b"MSG "), at)
            return messages, at, started and size - at <= MAX_CONTROL_LINE_BYTES
        words = data[at:end].split()
        reply, head = b"", 0
        try:
            if words[0] == b"HMSG":
                if len(words) == 5:
                    _, subject, number, head_size, total_size = words
                else:
                    _, subject, number, reply, head_size, total_size = words
                head = int(head_size)
            elif words[0] == b"MSG":
                if len(words) == 4:
                    _, subject, number, total_size = words
                else:
                    _, subject, number, reply, total_size = words
            else:
                break
            subscription, total = subscriptions.get(number), int(total_size)
        except (ValueError, IndexError):
            break
        if subscription is None or not 0 <= head <= total:
            break
        begin = end + 2
        stop = begin + total
        if stop + 2 > size:
            return messages, at, True
        head += begin
        messages.append((subscription, subject, reply, data[begin:head] or None, data[head:stop]))
        at = stop + 2
    return messages, at, False


def encode_publish(
    subject: str, payload: bytes, headers: Mapping[str, str] | None = None, reply: str = ""
) -> bytes:
    """Encode a PUB, or an HPUB if there are headers. Nothing is checked."""
    if not headers:
        return b"%b%b\r\n" % (f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload)
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    head = f"NATS/1.0\r\n{lines}\r\n".encode()
    total = len(head) + len(payload)
    return b"%b%b%b\r\n" % (
        f"HPUB {subject} {reply} {len(head)} {total}\r\n".encode(),
        head,
        payload,
    )


def message_size(command: bytes) -> int:
    """Return the size of the message that an encoded command publishes, as the server counts it:
    headers and payload together. 0 for a command that publishes nothing."""
    # PUB <subject> [reply] <bytes>, or HPUB <subject> [reply] <header bytes> <total bytes>.
    if not command.startswith((b"PUB ", b"HPUB ")):
        return 0
    return int(command[: command.index(b"\r\n")].rpartition(b" ")[2])


def headers_size(headers: Mapping[str, str]) -> int:
    """Return the size of headers on the wire."""
    lines = sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())
    return len(b"NATS/1.0\r\n") + lines + len(b"\r\n")


def parse_headers(raw: bytes) -> dict[str, str]:
    """Return a message's headers by name, from their form on the wire (NATS ADR-4)."""
    headers = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.strip().decode("ascii", "replace")] = value.strip().decode(
                "utf-8", "replace"
            )
    return headers


def parse_status(raw: bytes) -> tuple[str, str]:
    """Return the status and description of a server's message, from its headers on the wire
    (NATS ADR-4)."""
    _, _, line = raw.partition(b"\r\n")[0].partition(b" ")
    status, _, description = line.decode("ascii", "replace").strip().partition(" ")
    return status, description.strip()
