"""Keys from a file, and what becomes of a file that changes."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.access import Keyring, Reason, Refused, Tokens
from natterjack.errors import UsageError
from natterjack.fleet.keys import add_key, make_key, remove_keys

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
SECRETS = (b"s" * 32,)


class Times:
    """The times that a keyring is given."""

    def __init__(self) -> None:
        self.now, self.clock = NOW, 0.0

    def keyring(self, path: Path | None, tokens: Tokens | None = None) -> Keyring:
        return Keyring(path, tokens, now=lambda: self.now, clock=lambda: self.clock)


def key(path: Path, **values: Any) -> tuple[str, str]:
    """Add a key; return its ID and its secret."""
    record, secret = make_key(**{"tenant": "acme", "doors": ("deepgram", "api"), **values})
    add_key(path, record)
    return record.id, secret


def reason(keyring: Keyring, secret: str | None) -> Reason:
    with pytest.raises(Refused) as caught:
        keyring.check(secret)
    assert keyring.grant(secret) is None
    return caught.value.reason


def test_a_key_is_worth_what_its_line_says(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    identity, secret = key(
        path, kinds=("final",), conversations=("call-*",), provider=("sherpa", "deepgram"),
        model="nova-3", language="de", keyterms=("Quux",), options={"punctuate": True},
        labels={"team": "a"}, max_connections=3, max_session_seconds=60.0,
    )  # fmt: skip
    grant = Times().keyring(path).check(secret)
    assert (grant.key_id, grant.tenant, grant.token) == (identity, "acme", False)
    assert grant.doors == {"deepgram", "api"}
    assert grant.kinds == {"final"}
    assert (grant.provider, grant.model, grant.language) == (
        ("sherpa", "deepgram"), "nova-3", "de",
    )  # fmt: skip
    assert (grant.keyterms, grant.options, grant.labels) == (
        ("Quux",), {"punctuate": True}, {"team": "a"},
    )  # fmt: skip
    assert (grant.max_connections, grant.max_session_seconds) == (3, 60)


def test_wrong_secrets_are_refused_with_their_reason(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    identity, secret = key(path)
    _, short_lived = key(path, expires_at=NOW + timedelta(hours=1))
    times = Times()
    keyring = times.keyring(path)
    assert reason(keyring, None) is Reason.MISSING
    assert reason(keyring, "") is Reason.MISSING
    for wrong in (
        "x", identity, secret[:-1], secret + "A", secret.upper(), "nj_00000000_" + "A" * 43,
        f"nj_{identity}_" + "A" * 43, "\udcff", "<script>", "a.b.c", "x" * 100_000,
    ):  # fmt: skip
        assert reason(keyring, wrong) is Reason.WRONG, wrong
    assert keyring.check(short_lived)
    times.now += timedelta(hours=1)
    assert reason(keyring, short_lived) is Reason.EXPIRED
    assert keyring.check(secret)


def test_a_grant_names_the_door_that_it_does_not_open(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    _, secret = key(path)
    grant = Times().keyring(path).check(secret)
    grant.check_door("deepgram")
    with pytest.raises(Refused, match=r"natterjack keys add --doors twilio") as caught:
        grant.check_door("twilio")
    assert (caught.value.reason, caught.value.status) == (Reason.DOOR, 403)


def test_a_changed_file_applies_a_second_later(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    identity, first = key(path)
    times = Times()
    keyring = times.keyring(path)
    _, second = key(path)
    assert keyring.grant(second) is None
    times.clock += 1
    assert keyring.grant(second) is not None
    remove_keys(path, [identity])
    times.clock += 1
    assert reason(keyring, first) is Reason.WRONG
    assert keyring.grant(second) is not None


def test_an_invalid_file_leaves_the_keys_as_they_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    _, secret = key(path)
    times = Times()
    keyring = times.keyring(path)
    good = path.read_text()
    with caplog.at_level(logging.ERROR):
        for bad in ("{", None):
            path.write_text(good + bad) if bad else os.remove(path)
            times.clock += 1
            assert keyring.grant(secret) is not None
    assert "line 2" in caplog.messages[0]
    assert "does not exist" in caplog.messages[1]
    assert len(caplog.messages) == 2
    times.clock += 1
    assert keyring.grant(secret) is not None
    assert len(caplog.messages) == 2, "each problem is logged once"
    path.write_text("")
    times.clock += 1
    assert keyring.grant(secret) is None


def test_a_missing_file_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"natterjack keys add --file"):
        Keyring(tmp_path / "keys")


def test_without_a_file_all_are_let_in() -> None:
    keyring = Keyring(None, open_tenant="home")
    assert keyring.open
    for secret in (None, "", "any", "a.b.c"):
        grant = keyring.check(secret)
        assert (grant.tenant, "api" in grant.doors) == ("home", True)


# ---- tokens -------------------------------------------------------------------------------------


def make(keyring: Keyring, secret: str, **values: Any) -> str:
    asked = {
        "seconds": 60.0, "doors": frozenset({"api"}), "kinds": frozenset({"final"}),
        "conversation": "standup", **values,
    }  # fmt: skip
    token, _ = keyring.make_token(keyring.check(secret), **asked)
    return token


def test_a_token_is_a_part_of_its_key_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    identity, secret = key(path, provider=("sherpa",))
    times = Times()
    keyring = times.keyring(path, Tokens(SECRETS))
    token = make(keyring, secret)
    assert not set(token) & set(", ;"), "it can be a subprotocol"
    grant = keyring.check(token)
    assert (grant.key_id, grant.tenant, grant.provider) == (identity, "acme", ("sherpa",))
    assert grant.doors == {"api"}
    assert grant.kinds == {"final"}
    assert grant.conversation == "standup"
    assert grant.token
    assert grant.may_use("standup")
    assert not grant.may_use("other")
    other = times.keyring(path, Tokens(SECRETS))
    assert other.check(token) == grant, "any gateway with the secret accepts it"
    assert reason(times.keyring(path, Tokens((b"t" * 32,))), token) is Reason.WRONG
    assert reason(times.keyring(path), token) is Reason.WRONG
    rotated = times.keyring(path, Tokens((b"t" * 32, *SECRETS)))
    assert rotated.check(token) == grant, "an old secret is accepted beside the new one"
    remove_keys(path, [identity])
    times.clock += 1
    assert reason(keyring, token) is Reason.WRONG


def test_a_token_expires_and_clocks_may_differ_a_little(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    _, secret = key(path)
    times = Times()
    keyring = times.keyring(path, Tokens(SECRETS, skew_seconds=10))
    token = make(keyring, secret, seconds=60)
    for offset, valid in ((-10, True), (69.9, True), (70, False), (-10.1, False)):
        times.now = NOW + timedelta(seconds=offset)
        assert (keyring.grant(token) is not None) is valid, offset
    times.now = NOW + timedelta(seconds=70)
    assert reason(keyring, token) is Reason.EXPIRED


def test_a_token_ends_no_later_than_its_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    _, secret = key(path, expires_at=NOW + timedelta(seconds=30))
    keyring = Times().keyring(path, Tokens(SECRETS))
    grant = keyring.check(make(keyring, secret, seconds=60))
    assert grant.expires_at == NOW + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"doors": frozenset({"twilio"})}, "does not open twilio"),
        ({"kinds": frozenset({"usage"})}, "reads no usage"),
        ({"conversation": "call-1"}, "may not use the conversation call-1"),
        ({"conversation": "<b>"}, "is not valid"),
    ],
)
def test_a_key_cannot_give_what_it_has_not(
    tmp_path: Path, values: dict[str, Any], expected: str
) -> None:
    path = tmp_path / "keys"
    _, secret = key(path, kinds=("final", "interim"), conversations=("stand*",))
    keyring = Times().keyring(path, Tokens(SECRETS))
    with pytest.raises(Refused, match=expected):
        make(keyring, secret, **values)


def test_tokens_make_no_tokens_and_have_a_bounded_life(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    _, secret = key(path)
    keyring = Times().keyring(path, Tokens(SECRETS, max_seconds=600))
    with pytest.raises(Refused, match="use a key"):
        make(keyring, make(keyring, secret))
    for seconds in (0, -1, 601, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="1 to 600 seconds"):
            make(keyring, secret, seconds=seconds)
    with pytest.raises(UsageError, match="GATEWAY_TOKEN_SECRET_FILE"):
        make(Times().keyring(path), secret)
    # A gateway with a lower bound does not accept a longer life, either.
    long_lived = make(Times().keyring(path, Tokens(SECRETS)), secret, seconds=3600)
    assert reason(keyring, long_lived) is Reason.WRONG
