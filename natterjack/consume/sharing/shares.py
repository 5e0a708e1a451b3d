"""Shares: the keys of a durable consumer, divided among its processes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b

SHARES = 16
"""How many processes can share the work. It cannot change: progress is stored for each share."""


def key_of(subject: bytes) -> bytes:
    """`<tenant>.<conversation>.<speaker>` in the subject of an event."""
    return subject.split(b".", 2)[2].rpartition(b".")[0]


def digest(key: bytes) -> str:
    """Stands for a key in stored progress, which must not keep names of what was erased."""
    return blake2b(key, digest_size=8).hexdigest()


def share_of(key_digest: str) -> int:
    """The number of the share that a key belongs to."""
    return int(key_digest, 16) % SHARES


def quota(member: str, held: Mapping[str, Collection[int]]) -> int:
    """How many shares `member` should hold; `held` has those of all processes, itself included.

    Processes that see the same agree on it, and none has to give up more shares than needed.
    """
    ranked = sorted(held, key=lambda each: (-len(held[each]), each))
    fewest, rest = divmod(SHARES, len(held))
    return fewest + (ranked.index(member) < rest)
