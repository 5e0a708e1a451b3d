"""Server of the emulator of Speechmatics' realtime API: admission of connections, temporary keys.

Follows the vendor's documentation ("Authentication").
"""

from __future__ import annotations

import secrets
from typing import Any, ClassVar, cast

from aiohttp import web

from ..faults import Faults
from ..server import Emulator
from ..session import Refusal, Session
from .faults import SessionFaults, SpeechmaticsFaults
from .realtime import RecognitionSession


class SpeechmaticsEmulator(Emulator):
    """Server at `ws://127.0.0.1:<port>/v2`, with temporary keys at `/v1/api_keys` over HTTP."""

    name: ClassVar[str] = "speechmatics"
    # With or without a trailing slash, and the older form with the language.
    path: ClassVar[str] = "/v2{rest:(/[^/]*)?}"
    faults_model: ClassVar[type[Faults]] = SpeechmaticsFaults
    session_type: ClassVar[type[RecognitionSession]] = RecognitionSession

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sessions: list[RecognitionSession] = []
        """Sessions of all admitted connections, oldest first."""
        self.temporary_keys: list[str] = []
        """Valid temporary keys; tests remove keys to invalidate them."""
        self.requests: list[dict[str, str]] = []
        """Headers (in lower case) and query of each admitted handshake."""

    def route(self, router: web.UrlDispatcher) -> None:
        super().route(router)
        router.add_post("/v1/api_keys", self._give_key)

    def admit(self, request: web.Request) -> Session:
        key = request.query.get("jwt") or _bearer(request)
        known = self._known(key, temporary_only="jwt" in request.query)
        faults = cast(SessionFaults, self.faults)
        if not known and not faults.auth_in_band:
            raise Refusal(401, "Unauthorized")
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append({**headers, **request.query})
        usage = self.open_connections + 1
        session = self.session_type(self.faults, usage, "" if known else "not_authorised")
        self.sessions.append(session)
        return session

    def _known(self, key: str, *, temporary_only: bool) -> bool:
        if key in self.temporary_keys:
            return True
        return bool(key) and not temporary_only and self.api_key in (None, key)

    async def _give_key(self, request: web.Request) -> web.Response:
        """Answer with 201 and a temporary key, or with a JSON error ("Authentication")."""
        status = cast(SessionFaults, self.faults).management_status
        if status is None and not self._known(_bearer(request), temporary_only=False):
            status = 403
        if status is not None:
            error = {"code": status, "error": "Error", "detail": "No temporary key"}
            return web.json_response(error, status=status)
        ttl = (await request.json()).get("ttl")
        if request.query.get("type") != "rt" or not isinstance(ttl, int) or not 60 <= ttl <= 86_400:
            error = {"code": 400, "error": "Bad Request", "detail": "type or ttl"}
            return web.json_response(error, status=400)
        self.temporary_keys.append(f"eyJ{secrets.token_urlsafe(24)}")
        created = {"apikey_id": None, "key_value": self.temporary_keys[-1]}
        return web.json_response(created, status=201)


def _bearer(request: web.Request) -> str:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key if scheme == "Bearer" else ""
