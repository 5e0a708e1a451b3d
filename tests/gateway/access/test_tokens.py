"""Tokens that others made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from gateway.access import Reason, Refused, Tokens
from gateway.access.tokens import parse_secrets, read_secrets
from natterjack.errors import UsageError

SECRET = b"s" * 32
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
CLAIMS = {
    "iss": "natterjack-gateway", "sub": "0123abcd", "iat": NOW, "exp": NOW + timedelta(minutes=1),
    "doors": ["api"], "kinds": ["final"], "conversation": None,
}  # fmt: skip


def signed(without: str = "", **values: Any) -> str:
    claims = {name: value for name, value in {**CLAIMS, **values}.items() if name != without}
    return jwt.encode(claims, SECRET, algorithm="HS256")


def test_the_claims_are_read() -> None:
    claims = Tokens((SECRET,)).check(signed(), NOW)
    assert claims.key_id == "0123abcd"
    assert claims.doors == {"api"}
    assert claims.kinds == {"final"}


@pytest.mark.parametrize(
    "token",
    [
        "", "a.b.c", "..", "é.b.c", "x" * 5000, signed() + "x",
        jwt.encode(CLAIMS, None, algorithm="none"),
        jwt.encode(CLAIMS, b"x" * 32, algorithm="HS256"),
        jwt.encode(CLAIMS, SECRET * 2, algorithm="HS512"),
        *(signed(without=name) for name in CLAIMS),
        signed(iss="someone"), signed(doors=5), signed(kinds=None), signed(doors=[[]]),
        signed(exp=10**18), signed(iat=NOW - timedelta(days=2)), signed(iat=NOW + timedelta(1)),
    ],
)  # fmt: skip
def test_a_token_that_was_not_made_here_is_wrong(token: str) -> None:
    with pytest.raises(Refused) as caught:
        Tokens((SECRET,)).check(token, NOW)
    assert caught.value.reason is Reason.WRONG


def test_secrets_are_lines_and_long_enough(tmp_path: Path) -> None:
    assert parse_secrets(f"{'a' * 32}\n\n {'b' * 40} \n", "it") == (b"a" * 32, b"b" * 40)
    for text in ("", "\n", "short", f"{'a' * 32}\nshort"):
        with pytest.raises(UsageError, match="openssl rand"):
            parse_secrets(text, "it")
    with pytest.raises(UsageError, match="cannot be read"):
        read_secrets(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff" * 40)
    with pytest.raises(UsageError, match="is not text"):
        read_secrets(tmp_path / "binary")
