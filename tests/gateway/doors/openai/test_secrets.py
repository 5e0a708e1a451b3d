"""`POST /v1/realtime/client_secrets` with OpenAI's SDK, and what its token opens."""

from __future__ import annotations

import time
from pathlib import Path

import aiohttp
import openai
import pytest

from ..house import House

pytestmark = pytest.mark.process


async def test_a_token_opens_the_realtime_door_for_a_browser(house: House, tmp_path: Path) -> None:
    secret = tmp_path / "token-secret"
    secret.write_text("s" * 44)
    key = house.key(doors=("openai", "deepgram"))
    await house.start_gateway(GATEWAY_TOKEN_SECRET_FILE=str(secret))
    client = openai.AsyncOpenAI(api_key=key, base_url=f"{house.gateway.http}/v1", max_retries=0)
    made = await client.realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 60},
        session={"type": "transcription", "audio": {"input": {"turn_detection": None}}},
    )
    assert made.expires_at == pytest.approx(time.time() + 60, abs=30)
    assert made.session.type == "transcription"
    url = house.gateway.ws
    async with aiohttp.ClientSession() as http:
        offered = ("realtime", f"openai-insecure-api-key.{made.value}")
        async with http.ws_connect(f"{url}/v1/realtime", protocols=offered) as socket:
            assert socket.protocol == "realtime"
            assert (await socket.receive_json())["type"] == "session.created"
        headers = {"Authorization": f"Token {made.value}"}
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{url}/v1/listen?encoding=linear16", headers=headers)
        assert refused.value.status == 403
    with pytest.raises(openai.BadRequestError, match="seconds"):
        await client.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 10**8}
        )
    token = openai.AsyncOpenAI(api_key=made.value, base_url=client.base_url, max_retries=0)
    with pytest.raises(openai.PermissionDeniedError, match="a token cannot make tokens"):
        await token.realtime.client_secrets.create()
    await token.close()
    await client.close()
