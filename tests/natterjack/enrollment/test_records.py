"""Tokens, and what invitations allow, without a broker."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natterjack.broker.login.jwt import ACCOUNT, make_jwt, make_key
from natterjack.enrollment.records import Invitation, other_name
from natterjack.enrollment.token import Token, parse_token
from natterjack.errors import UsageError
from natterjack.subjects import check_token
from tests.searching import examples

NOW = datetime(2026, 12, 1, tzinfo=UTC)
FIRST, SECOND = make_key().public, make_key().public
KEY = make_key()
TOKEN = Token(
    "tls://nats.example.org:4222",
    make_jwt(make_key(ACCOUNT), KEY.public, {"type": "user"}, name="x", expires=2e9),
    KEY.seed.decode(),
    "-----BEGIN CERTIFICATE-----\n",
)
TEXT = TOKEN.encode()


def test_a_token_is_one_word_that_shows_nothing() -> None:
    assert parse_token(f"  {TEXT[:40]}\n{TEXT[40:]}\n") == TOKEN
    assert len(TEXT.split()) == 1
    assert KEY.seed.decode() not in repr(TOKEN)
    assert (TOKEN.public_key, TOKEN.expires) == (KEY.public, 2_000_000_000)


@examples(100)
@given(st.integers(5, len(TEXT) - 1), st.characters(codec="latin-1"))
def test_a_damaged_token_is_refused(at: int, other: str) -> None:
    for text in (TEXT[:at], TEXT[:at] + other + TEXT[at + 1 :], other + TEXT):
        with contextlib.suppress(UsageError):
            assert parse_token(text) == TOKEN


def test_a_refusal_does_not_show_the_token() -> None:
    with pytest.raises(UsageError) as refused:
        parse_token(TEXT[:-9])
    assert TEXT[5:25] not in str(refused.value)
    with pytest.raises(UsageError, match="begins with nje1_"):
        parse_token("secret")


def invitation(**changes: object) -> Invitation:
    fields = {
        "tenant": "acme",
        "account": make_key(ACCOUNT).public,
        "uses": 1,
        "created_at": NOW,
        "expires_at": NOW + timedelta(hours=1),
    }
    return Invitation.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("changes", "key", "after", "expected"),
    [
        ({}, FIRST, 0, None),
        ({"keys": (FIRST,)}, FIRST, 0, None),
        ({"keys": (FIRST,)}, SECOND, 0, "used_up"),
        ({"keys": (FIRST,), "uses": 2}, SECOND, 0, None),
        ({}, FIRST, 3600, "expired"),
        ({"keys": (FIRST,)}, FIRST, 3600, "expired"),
        ({"withdrawn_at": NOW}, FIRST, 0, "withdrawn"),
        ({"withdrawn_at": NOW, "keys": (FIRST,)}, FIRST, 0, "withdrawn"),
    ],
    ids=[
        "new", "again", "used up", "room", "expired", "expired again", "withdrawn",
        "withdrawn after a use",
    ],
)  # fmt: skip
def test_what_an_invitation_allows(
    changes: dict[str, object], key: str, after: float, expected: str | None
) -> None:
    problem = invitation(**changes).problem(key, NOW + timedelta(seconds=after))
    assert (problem and problem[0]) == expected


def test_the_other_name_of_a_machine_is_valid_and_its_own() -> None:
    names = {other_name("h" * 64, key) for key in (FIRST, SECOND)}
    assert len(names) == 2
    assert all(check_token("agent", name) for name in names)
    assert other_name("hall", FIRST) == other_name("hall", FIRST)
