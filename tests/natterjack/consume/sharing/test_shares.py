"""Dividing keys among shares, and shares among processes."""

from __future__ import annotations

import pytest

from natterjack.consume.sharing.shares import SHARES, digest, key_of, quota, share_of


def test_all_events_of_a_key_are_in_one_share() -> None:
    keys = {key_of(f"stt.transcript.acme.call.anna.{kind}".encode()) for kind in ("final", "turn")}
    assert keys == {b"acme.call.anna"}
    assert digest(b"acme.call.anna") != digest(b"acme.call.bob")
    assert b"acme" not in digest(b"acme.call.anna").encode()


def test_keys_spread_over_the_shares() -> None:
    counts = [0] * SHARES
    for number in range(1600):
        counts[share_of(digest(f"acme.call-{number}.anna".encode()))] += 1
    assert min(counts) > 50


@pytest.mark.parametrize("processes", range(1, 20))
def test_quotas_add_up_and_differ_by_one_at_most(processes: int) -> None:
    held = {f"p{number}": range(number) for number in range(processes)}
    quotas = [quota(member, held) for member in held]
    assert sum(quotas) == SHARES
    assert max(quotas) - min(quotas) <= 1


def test_who_holds_more_keeps_more() -> None:
    held = {"a": range(5), "b": range(6), "c": range(5)}
    assert quota("b", held) == 6
