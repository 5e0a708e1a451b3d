"""Signatures: what the library of Standard Webhooks verifies, and secrets that are refused."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from natterjack.errors import UsageError
from natterjack.webhook.signature import parse_secrets, read_secrets, signed_headers, usable_id

OLD, NEW = base64.b64encode(bytes(range(32))).decode(), base64.b64encode(b"n" * 24).decode()
BODY = '{"type":"final","text":"naïve — 你好"}'.encode()


def headers(secrets: str, webhook_id: str = "s:1", at: float | None = None) -> dict[str, str]:
    timestamp = int(time.time() if at is None else at)
    return signed_headers(parse_secrets(secrets, "here"), webhook_id, timestamp, BODY)


def test_a_known_signature() -> None:
    # printf 's:1.1700000000.{}' | openssl dgst -sha256 -hmac "$(printf 'k%.0s' {1..24})" -binary |
    # base64
    made = signed_headers([b"k" * 24], "s:1", 1_700_000_000, b"{}")
    assert made == {
        "webhook-id": "s:1",
        "webhook-timestamp": "1700000000",
        "webhook-signature": "v1,P9b+HUrx11TLM4IujCHPlBCtni7C2uAaWa50BQcXKrc=",
    }


@pytest.mark.parametrize("secret", [OLD, f"whsec_{OLD}", OLD.rstrip("=")])
def test_the_library_verifies_it(secret: str) -> None:
    assert Webhook(OLD).verify(BODY, headers(secret))["type"] == "final"


def test_two_secrets_make_two_signatures_that_each_verify() -> None:
    made = headers(f"{OLD}\n{NEW}\n")
    for secret in (OLD, NEW):
        Webhook(secret).verify(BODY, made)


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "body", "secret"])
def test_the_signature_covers(changed: str) -> None:
    made, body, secret = headers(OLD), BODY, OLD
    if changed == "body":
        body += b" "
    elif changed == "secret":
        secret = NEW
    else:
        made[changed] = {"webhook-id": "s:2", "webhook-timestamp": str(int(time.time()) + 1)}[
            changed
        ]
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, made)


def test_a_recorded_webhook_is_too_old_later() -> None:
    with pytest.raises(WebhookVerificationError, match="old"):
        Webhook(OLD).verify(BODY, headers(OLD, at=time.time() - 600))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no secret"),
        (" \n", "no secret"),
        (base64.b64encode(b"s" * 23).decode(), "23 bytes"),
        (base64.b64encode(b"s" * 65).decode(), "65 bytes"),
        ("p@ssw0rd-p@ssw0rd-p@ssw0rd-p@ssw0rd", "not base64"),
        (f"{OLD} short", "secret 2 of"),
    ],
)
def test_unusable_secrets_are_refused_and_not_shown(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        parse_secrets(text, "the file")
    assert "the file" in str(caught.value)
    assert not any(word in str(caught.value) for word in text.split() if len(word) > 5)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"WEBHOOK_SECRET_FILE: cannot read .*No such file"):
        read_secrets(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="it is not text"):
        read_secrets(tmp_path / "binary")


@pytest.mark.parametrize("unusable", ["", "a.b", "a b", "a\r\nwebhook-signature: v1,x", "é:1"])
def test_ids_that_would_make_a_signature_ambiguous(unusable: str) -> None:
    assert not usable_id(unusable)
    assert usable_id("5f0c1d2e-0b5e-4a53-9d6e-4e9f1f2a3b4c:17")
