"""The center's records of invitations and agents, and the messages between edges and registrar.
Nothing here is secret: all keys are public ones."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from natterjack.subjects import TOKEN_PATTERN

MAX_USES = 5000
"""An invitation's record has the key of each machine that has used it: 300 KB at most."""
MAX_REQUEST_BYTES = 4096
_SUFFIX_LENGTH = 5
CAPTIONS_TAG = "captions"
"""The tag of a JWT that grants captions, followed by a colon and a kind of event."""

Token = Annotated[str, Field(pattern=f"^{TOKEN_PATTERN}$")]
PublicKey = Annotated[str, Field(pattern="^[A-Z2-7]{56}$")]


class Invitation(BaseModel):
    """An invitation, under `invitation.<public key>`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    tenant: Token
    account: PublicKey
    """The account of the tenant's edges."""
    uses: int = Field(ge=1, le=MAX_USES)
    created_at: AwareDatetime
    expires_at: AwareDatetime
    captions: bool = False
    """Whether its edges may receive the text of the tenant's sessions while they speak."""
    withdrawn_at: AwareDatetime | None = None
    keys: tuple[PublicKey, ...] = ()
    """The keys that were enrolled with it. Each counts as one use."""

    def problem(self, key: str, now: datetime) -> tuple[Refusal, str] | None:
        """Why `key` may not be enrolled with it, or None."""
        if self.withdrawn_at is not None:
            return "withdrawn", "this invitation was withdrawn"
        if now >= self.expires_at:
            return "expired", f"this invitation expired at {self.expires_at:%Y-%m-%d %H:%M} UTC"
        if key not in self.keys and len(self.keys) >= self.uses:
            return "used_up", f"this invitation was for {self.uses} machines, and all have used it"
        return None


class AgentRecord(BaseModel):
    """An enrolled agent, under `agent.<tenant>.<name>`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    public_key: PublicKey
    account: PublicKey
    invitation: PublicKey
    host: str = Field("", max_length=255)
    captions: bool = False
    enrolled_at: AwareDatetime
    expires_at: AwareDatetime
    """When the last of its credentials expire, unless it renews them."""
    revoked_at: AwareDatetime | None = None


Refusal = Literal[
    "invalid", "unknown", "withdrawn", "expired", "used_up", "taken", "revoked", "unavailable"
]
"""Why a registrar refuses: `unavailable` alone may be tried again."""


class EnrollRequest(BaseModel):
    """A machine asks for credentials of the key that it has made, on `stt.enroll.<token's key>`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    public_key: PublicKey
    agent: Token
    chosen: bool = False
    """True if somebody chose the name, so that no other will do."""
    host: str = Field("", max_length=255)


class RenewRequest(BaseModel):
    """An agent asks for credentials that last longer, on `stt.renew.<its key>`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    tenant: Token
    agent: Token


class Reply(BaseModel):
    """The registrar's answer: a JWT, or why there is none."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    jwt: str | None = Field(None, max_length=16 * 1024)
    tenant: Token | None = None
    agent: Token | None = None
    refusal: str | None = Field(None, max_length=64)
    detail: str = Field("", max_length=500)


def other_name(name: str, public_key: str) -> str:
    """Return the name that a machine gets whose own is another agent's: always the same one for
    one key, so that a request can be repeated."""
    digest = hashlib.sha256(public_key.encode()).hexdigest()[:_SUFFIX_LENGTH]
    return f"{name[: 64 - _SUFFIX_LENGTH - 1]}-{digest}"
