"""JetStream's refusals as errors of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import StreamConfig
from nats.js.errors import APIError, ServiceUnavailableError

from natterjack.errors import BrokerError, BrokerUnreachable, StoreTooSmall, StreamMismatch

from . import store_limits


@contextlib.contextmanager
def translated(config: StreamConfig | str = "") -> Iterator[None]:
    """Translate nats-py's errors in the block, which is about the stream or the name, into ours."""
    stream = config if isinstance(config, StreamConfig) else StreamConfig(name=config)
    where = f"{stream.name}: " if stream.name else ""
    try:
        yield
    except (NoRespondersError, ServiceUnavailableError) as error:
        if isinstance(error, APIError) and store_limits.too_small(error.err_code, None):
            raise StoreTooSmall(f"{where}JetStream refused: {_reason(stream, error)}") from None
        raise BrokerUnreachable(
            "JetStream is not available: nats-server needs -js, a cluster needs its quorum"
        ) from None
    except APIError as error:
        refusal: type[BrokerError] = StreamMismatch
        if store_limits.transient(error.err_code, error.description):
            refusal = BrokerUnreachable
        elif store_limits.too_small(error.err_code, error.description):
            refusal = StoreTooSmall
        raise refusal(f"{where}JetStream refused: {_reason(stream, error)}") from None
    except (NatsError, TimeoutError) as error:
        raise BrokerUnreachable(f"{where}JetStream does not answer: {error!r}") from None


def _reason(stream: StreamConfig, error: APIError) -> str:
    return store_limits.explain_refused_stream(stream, error.err_code, error.description)
