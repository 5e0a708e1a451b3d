"""The gateway checks its settings before it listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app import serve
from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from natterjack.errors import UsageError


async def test_a_file_of_twilio_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "auth-token"
    settings = GatewaySettings(http_port=0, twilio_auth_token_file=missing)
    with pytest.raises(UsageError, match=f"GATEWAY_TWILIO_AUTH_TOKEN_FILE: .*{missing}"):
        await serve(Gateway(settings))
