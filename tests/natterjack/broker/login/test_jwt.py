"""NKeys and JWTs, without a server; tests/edge_capture/enrollment shows them to one."""

from __future__ import annotations

import json
import time

import nkeys
import pytest

from natterjack.broker.login.credentials import read_creds
from natterjack.broker.login.jwt import (
    ACCOUNT,
    USER,
    credentials,
    is_public_key,
    make_jwt,
    make_key,
    read_claims,
    read_key,
    same_claims,
)
from natterjack.broker.login.reissue import Renewable, _checked, pause, renewable

ISSUER, SUBJECT = make_key(ACCOUNT), make_key()


def jwt(seconds: float | None = 60, **nats: object) -> str:
    tags = {"tags": ["renew", "tenant:acme"]} | nats
    expires = None if seconds is None else time.time() + seconds
    return make_jwt(ISSUER, SUBJECT.public, {"type": "user", **tags}, name="hall", expires=expires)


def test_a_key_is_read_back_and_does_not_show_its_seed() -> None:
    key = make_key()
    assert read_key(key.seed + b"\n") == key
    assert key.seed.decode() not in repr(key)
    assert is_public_key(key.public, USER)
    assert not is_public_key(key.public, ACCOUNT)
    other = "A" if key.public[20] != "A" else "B"
    assert not is_public_key(key.public[:20] + other + key.public[21:])
    for text in ("", "U" * 56, key.seed.decode(), key.public.lower()):
        assert not is_public_key(text)
    with pytest.raises(ValueError, match="no NKey seed"):
        read_key(b"SUAB")


def test_a_jwt_is_signed_by_its_issuer() -> None:
    made = jwt()
    signed, _, signature = made.rpartition(".")
    padded = signature + "=" * (-len(signature) % 4)
    pair = nkeys.from_seed(bytearray(ISSUER.seed))
    assert pair.verify(signed.encode(), nkeys.base64.urlsafe_b64decode(padded))
    claims = read_claims(made)
    assert (claims["iss"], claims["sub"]) == (ISSUER.public, SUBJECT.public)
    assert claims["nats"]["version"] == 2
    assert read_creds(credentials(made, SUBJECT.seed).encode())[:2] == (made, SUBJECT.seed)


def test_same_claims_do_not_look_at_the_time_of_issue() -> None:
    assert same_claims(jwt(None), jwt(None))
    assert not same_claims(jwt(None), jwt(None, type="other"))
    assert not same_claims("", jwt())


def test_what_is_renewed_and_when() -> None:
    current = renewable(jwt(90))
    assert current is not None
    assert (current.tenant, current.agent) == ("acme", "hall")
    assert current.due == pytest.approx(current.issued + 30, abs=1)
    for other in (
        jwt(None),
        jwt(tags=["renew"]),
        jwt(tags=["tenant:acme"]),
        jwt(tags=[7]),
        "",
        "a.b",
    ):
        assert renewable(other) is None
    assert pause(current, current.expires - 1e6) == 600
    assert pause(current, current.expires - 20) == pytest.approx(2)
    assert pause(current, current.expires + 9) == 0.5


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"\xff", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"detail": "this key was revoked"}', "was revoked"),
        (json.dumps({"jwt": "x"}).encode(), "another agent"),
        (json.dumps({"jwt": jwt(10)}).encode(), "no later expiry"),
    ],
)
def test_answers_that_replace_nothing(reply: bytes, problem: str) -> None:
    now = int(time.time())
    current = Renewable(SUBJECT.public, "acme", "hall", now, now + 100)
    with pytest.raises(ValueError, match=problem):
        _checked(reply, current)
    newer = jwt(200)
    assert _checked(json.dumps({"jwt": newer}).encode(), current) == newer
