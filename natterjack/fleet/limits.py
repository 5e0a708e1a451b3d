"""Limits of provider accounts, stored by operators in the bucket `stt_budgets`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from natterjack.errors import UsageError, first_problem

ACCOUNT_KEYS = "account"
"""First token of a limit's key; the second is the account."""


class AccountLimit(BaseModel):
    """Limits on the connections of all workers to one provider account. None means unlimited."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    connections: int | None = Field(None, ge=1, description="connections open at a time")
    dials_per_second: int | None = Field(None, ge=1, description="new connections per second")


def limit_key(account: str) -> str:
    """The bucket's key for an account."""
    return f"{ACCOUNT_KEYS}.{account}"


def parse_account_limit(text: bytes | str) -> AccountLimit:
    """Parse an entry of the bucket (JSON). Raises UsageError, which shows the correct form."""
    try:
        return AccountLimit.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(
            f"not an account limit: {first_problem(error)}; a limit looks like "
            '{"connections": 50, "dials_per_second": 5}, whole numbers from 1, each optional'
        ) from None
