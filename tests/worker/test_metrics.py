"""Metrics whose series come and go."""

from __future__ import annotations

from worker.metrics import Metrics


def test_credentials_that_no_longer_expire_have_no_series() -> None:
    metrics = Metrics(1)

    def expiry(credential: str) -> float | None:
        return metrics.registry.get_sample_value(
            "natterjack_nats_credentials_expiry_timestamp_seconds", {"credential": credential}
        )

    metrics.credentials_expire([("creds", 5.0), ("ca", 9.0)])
    assert (expiry("creds"), expiry("cert"), expiry("ca")) == (5.0, None, 9.0)
    metrics.credentials_expire([("ca", 9.0)])
    assert (expiry("creds"), expiry("cert"), expiry("ca")) == (None, None, 9.0)
