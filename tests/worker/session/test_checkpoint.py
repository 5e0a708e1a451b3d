"""Checkpoints as they are stored: complete, from an older release, and damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from natterjack.values import Account, Gap
from worker.audio.marks import Mark
from worker.session.checkpoint import Checkpoint

OPENED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ACCOUNT = Account(captured_seconds=12.5, received_seconds=12.0, gap_seconds={"edge": 0.5})


def checkpoint() -> Checkpoint:
    return Checkpoint(
        session_id="session-1",
        epoch=3,
        worker="w",
        holder="h",
        instance="w-1",
        state="streaming",
        provider="deepgram",
        position=32_000,
        mark_position=16_000,
        mark_seq=12,
        mark_stream_sequence=170,
        crashes=2,
        request_sequence=4,
        closed_before=["session-0"],
        gaps_until=1.5,
        slot="account.0.claim",
        limit=64_000,
        limit_reason="budget",
        limit_detail="max_seconds: 4 s of audio",
        configured={"keyterms": ["toad"]},
        sent_until=40_000,
        opened_at=OPENED,
        updated_at=OPENED,
    )


def test_everything_comes_back() -> None:
    stored = checkpoint()
    read = Checkpoint.decode(stored.encode(ACCOUNT.model_dump_json()))
    assert read.account == ACCOUNT
    assert replace(read, account=None) == stored
    assert read.mark == Mark(16_000, 12, 170)


def test_a_checkpoint_that_is_too_large_keeps_what_a_successor_needs() -> None:
    gaps = [Gap(start=n, end=n + 1, cause="edge") for n in range(5)]
    account = ACCOUNT.model_copy(update={"gaps": gaps})
    full = replace(checkpoint(), closed_before=[f"session-{n}" for n in range(5)])
    steps: list[tuple[Checkpoint, str]] = []
    smaller: tuple[Checkpoint, str] | None = (full, account.model_dump_json())
    while smaller is not None:
        steps.append(smaller)
        one, used = smaller
        smaller = one.shortened(used)
    sizes = [len(one.encode(account)) for one, account in steps]
    assert sizes == sorted(sizes, reverse=True)
    last = Checkpoint.decode(steps[-1][0].encode(steps[-1][1]))
    assert last.account == ACCOUNT
    assert last.closed_before == ["session-4"]
    assert replace(last, account=None) == replace(
        full, configured={}, closed_before=last.closed_before
    )


def test_absent_values_are_not_stored() -> None:
    bare = Checkpoint(
        session_id="session-1", epoch=1, worker="w", state="waiting", opened_at=OPENED
    )
    stored = json.loads(bare.encode("{}"))
    assert not {"slot", "limit", "provider", "updated_at"} & stored.keys()
    assert Checkpoint.decode(bare.encode("{}")).slot is None


def test_an_older_release_left_out_what_it_did_not_know() -> None:
    oldest = b'{"session_id":"s","epoch":2,"worker":"w","state":"streaming","opened_at":"%s"}'
    read = Checkpoint.decode(oldest % OPENED.isoformat().encode())
    assert (read.holder, read.instance, read.request_sequence) == ("", "", 0)
    assert read.mark == Mark(0, 0, 1)
    assert read.account is None


def test_a_newer_release_may_store_more() -> None:
    stored = json.loads(checkpoint().encode("{}"))
    assert Checkpoint.decode(json.dumps({**stored, "new": [1]}).encode()).epoch == 3


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", b"null", b"[]", b"{}", checkpoint().encode("{}")[:-5], b'{"session_id":1}'],
)
def test_a_damaged_checkpoint_is_an_error(damaged: bytes) -> None:
    with pytest.raises(ValidationError):
        Checkpoint.decode(damaged)


def test_a_field_of_the_wrong_type_is_an_error() -> None:
    stored = json.loads(checkpoint().encode("{}"))
    with pytest.raises(ValidationError):
        Checkpoint.decode(json.dumps({**stored, "position": "far"}).encode())
