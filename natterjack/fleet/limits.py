"""Limits of provider accounts, as operators keep them in the bucket `stt_budgets`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from natterjack.errors import UsageError, first_problem

ACCOUNT_KEYS = "account"
"""First token of their keys; the second is the account."""


class AccountLimit(BaseModel):
    """What all workers together may do on one account. None: as much as they like."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    connections: int | None = Field(None, ge=1, description="open at a time")
    dials_per_second: int | None = Field(None, ge=1, description="new connections in any second")


def limit_key(account: str) -> str:
    """The bucket's key for an account."""
    return f"{ACCOUNT_KEYS}.{account}"


def parse_account_limit(text: bytes | str) -> AccountLimit:
    """The limit in an entry (JSON). Raises UsageError that says what is wrong and what is right."""
    try:
        return AccountLimit.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(
            f"no account limit: {first_problem(error)}; it looks like "
            '{"connections": 50, "dials_per_second": 5}, each a whole number from 1, or left out'
        ) from None
