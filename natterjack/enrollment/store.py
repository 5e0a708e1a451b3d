"""The bucket of invitations and agents, read from its leader and written by compare-and-set."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError
from pydantic import BaseModel, ValidationError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.errors import BrokerUnreachable, StreamMissing

_STREAM = f"KV_{streams.ENROLLMENTS_BUCKET}"
_NO_STREAM, _WRONG_SEQUENCE = 10059, 10071
_TIMEOUT_S = 3.0
ModelT = TypeVar("ModelT", bound=BaseModel)


def invitation_key(public_key: str) -> str:
    """The bucket's key for an invitation."""
    return f"invitation.{public_key}"


def agent_key(tenant: str, agent: str) -> str:
    """The bucket's key for an agent."""
    return f"agent.{tenant}.{agent}"


def revoked_key(public_key: str) -> str:
    """The bucket's key for an agent's key that is never accepted again."""
    return f"revoked.{public_key}"


class Found(NamedTuple):
    """An entry, and its revision. The revision of one that does not exist is 0."""

    value: bytes
    revision: int

    def parse(self, model: type[ModelT]) -> ModelT | None:
        """Return the entry, or None if there is none, or it is not one of ours."""
        try:
            return model.model_validate_json(self.value) if self.value else None
        except ValidationError:
            return None


class Store:
    """The bucket. All methods raise BrokerUnreachable if it does not answer."""

    def __init__(self, broker: Broker) -> None:
        self._js = broker.client.jetstream(timeout=_TIMEOUT_S)

    async def get(self, key: str) -> Found:
        """Read an entry. A deleted one has no value."""
        subject = streams.bucket_subject(streams.ENROLLMENTS_BUCKET, key)
        try:
            found = await self._js.get_last_msg(_STREAM, subject)
        except NotFoundError as error:
            if error.err_code == _NO_STREAM:
                raise _missing() from None
            return Found(b"", 0)
        except (NatsError, TimeoutError, OSError) as error:
            raise _unreachable(error) from None
        deleted = "KV-Operation" in (found.headers or {})
        return Found(b"" if deleted else found.data or b"", found.seq or 0)

    async def put(self, key: str, value: BaseModel, revision: int) -> bool:
        """Write an entry if its revision is still `revision`. Returns whether it was."""
        subject = streams.bucket_subject(streams.ENROLLMENTS_BUCKET, key)
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        data = value.model_dump_json(exclude_none=True).encode()
        try:
            await self._js.publish(subject, data, timeout=_TIMEOUT_S, headers=headers)
        except APIError as error:
            if error.err_code == _WRONG_SEQUENCE:
                return False
            raise _unreachable(error) from None
        except NoStreamResponseError:
            raise _missing() from None
        except (NatsError, TimeoutError, OSError) as error:
            raise _unreachable(error) from None
        return True


def _missing() -> StreamMissing:
    return StreamMissing(
        f"the bucket {streams.ENROLLMENTS_BUCKET} is missing: run `natterjack streams apply`"
    )


def _unreachable(error: Exception) -> BrokerUnreachable:
    reason = " ".join(str(error).split()) or type(error).__name__
    return BrokerUnreachable(f"the bucket {streams.ENROLLMENTS_BUCKET} does not answer ({reason})")
